//! `cargo xtask setup`: what the tests need and cargo cannot bring. It says aloud what it installs, does nothing twice, and fetches only from
//! Debian, PyPI and npm (the Go server has no dependencies).

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::Args;
use stayput_testkit::assets;

/// Options of `cargo xtask setup`.
#[derive(Args, Default)]
pub(crate) struct Arguments {
    /// Also install the supervisors that the restart bench measures beside stayput
    #[arg(long)]
    pub(crate) bench: bool,
}

/// A program that the real servers need.
struct Tool {
    program: &'static str,
    package: &'static str,
    without: &'static str,
}

const TOOLS: &[Tool] = &[
    Tool { program: "python3", package: "python3-venv", without: "every Python server" },
    Tool { program: "node", package: "nodejs", without: "Node http" },
    Tool { program: "go", package: "golang-go", without: "the static Go server" },
    Tool { program: "strace", package: "strace", without: "faults injected into system calls" },
    Tool { program: "nginx", package: "nginx-light", without: "nginx" },
    Tool { program: "npm", package: "npm", without: "npm run" },
    Tool { program: "chromium", package: "chromium", without: "the dashboard's page" },
    Tool { program: "curl", package: "curl", without: "the dashboard over Socket.IO" },
    // The program and its modules, without a service that would be started.
    Tool { program: "apache2", package: "apache2-bin", without: "Apache" },
    Tool { program: "redis-server", package: "redis-server", without: "Redis" },
    Tool { program: "haproxy", package: "haproxy", without: "HAProxy" },
    Tool { program: "php", package: "php-cli", without: "PHP's own server" },
    Tool { program: "escript", package: "erlang-base", without: "Erlang" },
    Tool { program: "memcached", package: "memcached", without: "memcached" },
    // As the first process of namespaces of its own; what starts this machine is left as it is.
    Tool { program: "systemctl", package: "systemd", without: "systemd" },
    Tool { program: "valgrind", package: "valgrind", without: "counted instructions" },
    Tool { program: "puma", package: "puma", without: "the page about Rails" },
    // `java File.java` wants a compiler, which the runtime alone has not.
    Tool { program: "javac", package: "default-jdk-headless", without: "Java NIO" },
];

/// The root of the workspace.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, String> {
    packages()?;
    let dir = assets::dir();
    std::fs::create_dir_all(&dir).map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
    copy_servers(&dir)?;
    python(&dir, "venv", "requirements.txt")?;
    if arguments.bench {
        python(&dir, "venv-bench", "requirements-bench.txt")?;
    }
    go_server(&dir)?;
    node_modules(&dir)?;
    println!("setup: the real servers are ready in {}", dir.display());
    Ok(ExitCode::SUCCESS)
}

fn is_missing(tool: &Tool) -> bool {
    match tool.program {
        // Debian splits the module that makes environments from the interpreter.
        "python3" => assets::python().is_none(),
        program => assets::find_program(program).is_none(),
    }
}

fn packages() -> Result<(), String> {
    let missing: Vec<&Tool> = TOOLS.iter().filter(|tool| is_missing(tool)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    let without: Vec<&str> = missing.iter().map(|tool| tool.without).collect();
    let by_hand = format!(
        "install {} (on Debian: apt-get install {}); until then the tests with {} fail",
        names.join(", "),
        names.join(" "),
        without.join(", ")
    );
    if !rustix::process::geteuid().is_root() {
        return Err(format!("missing programs, and I am not root: {by_hand}"));
    }
    if assets::find_program("apt-get").is_none() {
        return Err(format!("missing programs, and no apt-get here: {by_hand}"));
    }
    println!("setup: installing Debian packages: {}", names.join(" "));
    apt(&["update", "-qq"])?;
    // Debian starts a server that it installs; ours must not open port 80 on somebody's machine. policy-rc.d is how one says so.
    let _policy = NoServiceStarts::new();
    let mut all = vec!["install", "-y", "-qq", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0"];
    all.extend(&names);
    apt(&all)?;
    match missing.iter().find(|tool| is_missing(tool)) {
        None => Ok(()),
        Some(tool) => Err(format!("{} is still missing after apt-get: {by_hand}", tool.program)),
    }
}

fn apt(arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    checked(command)
}

/// While it lives, packages do not start their services (invoke-rc.d(8)).
struct NoServiceStarts(Option<&'static Path>);

impl NoServiceStarts {
    fn new() -> Self {
        let path = Path::new("/usr/sbin/policy-rc.d");
        let made = !path.exists()
            && std::fs::write(path, "#!/bin/sh\nexit 101\n").is_ok()
            && std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).is_ok();
        Self(made.then_some(path))
    }
}

impl Drop for NoServiceStarts {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn servers_source() -> PathBuf {
    workspace().join("crates/testkit/servers")
}

/// The programs stand beside the environments, because an ordinary user may not be allowed to read the source tree.
fn copy_servers(dir: &Path) -> Result<(), String> {
    let (from, to) = (servers_source(), dir.join("servers"));
    let failed = |error: std::io::Error| format!("cannot copy {} to {}: {error}", from.display(), to.display());
    std::fs::create_dir_all(&to).map_err(failed)?;
    for entry in std::fs::read_dir(&from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_file() {
            let (bytes, target) = (std::fs::read(entry.path()).map_err(failed)?, to.join(entry.file_name()));
            if std::fs::read(&target).ok().as_ref() != Some(&bytes) {
                std::fs::write(&target, &bytes).map_err(failed)?;
            }
        }
    }
    Ok(())
}

/// Runs `make` unless the stamp says that it was done for exactly this `input`.
pub(crate) fn once(stamp: &Path, input: &str, make: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    if std::fs::read_to_string(stamp).is_ok_and(|done| done == input) {
        return Ok(());
    }
    let _ = std::fs::remove_file(stamp);
    make()?;
    std::fs::write(stamp, input).map_err(|error| format!("cannot write {}: {error}", stamp.display()))
}

fn python(dir: &Path, name: &str, requirements: &str) -> Result<(), String> {
    let list = servers_source().join(requirements);
    let pinned = std::fs::read_to_string(&list).map_err(|error| format!("cannot read {}: {error}", list.display()))?;
    let interpreter = assets::python().ok_or("no python3 that can make environments")?;
    let venv = dir.join(name);
    let input = format!("{}\n{pinned}", interpreter.display());
    once(&dir.join(format!("{name}.stamp")), &input, || {
        println!("setup: a Python environment with {requirements} in {}", venv.display());
        let mut make = Command::new(&interpreter);
        make.args(["-m", "venv", "--clear"]).arg(&venv);
        checked(make)?;
        let mut install = Command::new(venv.join("bin/python"));
        install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r"]).arg(&list);
        checked(install)
    })
}

fn go_server(dir: &Path) -> Result<(), String> {
    let (source, target) = (servers_source().join("go-server"), dir.join("go-server"));
    let read = |name: &str| {
        let path = source.join(name);
        std::fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    let input = read("main.go")? + &read("go.mod")?;
    once(&dir.join("go-server.stamp"), &input, || {
        println!("setup: building the static Go server");
        let mut build = Command::new("go");
        build
            .args(["build", "-o"])
            .arg(&target)
            .arg(".")
            .current_dir(&source)
            .env("CGO_ENABLED", "0")
            // Nothing is downloaded: the server has no modules, and the toolchain is the installed one.
            .env("GOFLAGS", "-mod=mod")
            .env("GOTOOLCHAIN", "local")
            .env("GOPROXY", "off")
            .env("GOCACHE", dir.join("go-cache"));
        checked(build)
    })
}

/// Beside the copied programs, where Node looks for them.
fn node_modules(dir: &Path) -> Result<(), String> {
    let lock = servers_source().join("package-lock.json");
    let input = std::fs::read_to_string(&lock).map_err(|error| format!("cannot read {}: {error}", lock.display()))?;
    let servers = dir.join("servers");
    once(&dir.join("node_modules.stamp"), &input, || {
        println!("setup: the Node packages of package-lock.json in {}", servers.display());
        let mut install = Command::new("npm");
        install.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--update-notifier=false"]).current_dir(&servers);
        checked(install)
    })
}

fn checked(mut command: Command) -> Result<(), String> {
    let shown = format!("{command:?}");
    let _ = std::io::stdout().flush();
    let status = command.stdin(Stdio::null()).status().map_err(|error| format!("cannot start {shown}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{shown} ended with {status}")) }
}

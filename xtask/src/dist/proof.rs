//! The proof that a binary needs nothing but itself: it runs in an empty root. `--version` with nothing else there at all; `why` and `run`
//! as in a container made from nothing, where the runtime brings /proc and /dev/null, `run` with another static binary as the server.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::setup::workspace;

const DEADLINE: Duration = Duration::from_secs(30);

/// Namespaces of its own, so that the mounts are gone with it; /proc and /dev/null, then the root is changed.
const AS_A_CONTAINER: &str = r#"
mount -t proc proc "$1/proc" && mount --bind /dev/null "$1/dev/null" && root=$1 && shift && exec chroot "$root" "$@"
"#;

/// Runs it in each way, and checks what it says.
pub(super) fn runs_in_an_empty_root(binary: &Path, triple: &str) -> Result<(), String> {
    let root = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
    let copied = root.path().join("stayput");
    std::fs::copy(binary, &copied).map_err(|error| format!("cannot copy to {}: {error}", copied.display()))?;

    let version = succeeded(&chrooted(root.path(), &["/stayput", "--version"]), "--version", &[0])?;
    let expected = format!("stayput {} (commit ", env!("CARGO_PKG_VERSION"));
    if !version.starts_with(&expected) || !version.contains(triple) || !version.contains("static") {
        return Err(format!("--version says {version:?}; wanted its version, commit, {triple} and that it is static"));
    }
    print!("dist: in an empty root: {version}");
    furnish(root.path()).map_err(|error| format!("the proof in {}: {error}", root.path().display()))?;
    let why = contained(root.path(), &["/stayput", "why", "1"]).output().map_err(|error| error.to_string());
    // Port 1 is free (0) or not (1): both are answers.
    let why = succeeded(&why, "why 1", &[0, 1])?;
    println!("dist: in an empty root: why 1: {}", why.lines().next().unwrap_or_default());
    serves(root.path())
}

/// What a container runtime brings to a container made from nothing, and /run, where root's instances have their directory.
fn furnish(root: &Path) -> std::io::Result<()> {
    for dir in ["proc", "dev", "run"] {
        std::fs::create_dir(root.join(dir))?;
    }
    std::fs::write(root.join("dev/null"), "")
}

/// Process 1 of a process namespace of its own, in the root that [`furnish`] made.
fn contained(root: &Path, arguments: &[&str]) -> Command {
    let mut command = unshared(&["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", AS_A_CONTAINER, "sh"]);
    command.arg(root).args(arguments);
    command
}

/// `unshare` as root of a user namespace where we are not root.
fn unshared(options: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(options).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).stdin(Stdio::null());
    command
}

fn chrooted(root: &Path, arguments: &[&str]) -> Result<Output, String> {
    let mut command = unshared(&["--mount", "--wd=/"]);
    command.arg(format!("--root={}", root.display())).args(arguments);
    command.output().map_err(|error| format!("cannot start unshare (Debian: util-linux): {error}"))
}

fn succeeded(output: &Result<Output, String>, what: &str, codes: &[i32]) -> Result<String, String> {
    let output = output.as_ref().map_err(Clone::clone)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.code().is_some_and(|code| codes.contains(&code)) {
        return Ok(text);
    }
    Err(format!("{what} in an empty root: {}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

/// `stayput run` keeps a static server on its port, and a request through it is answered.
fn serves(root: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("the proof in {}: {error}", root.display());
    let source = workspace().join("xtask/programs/server.rs");
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition=2024", "-C", "target-feature=+crt-static", "-o"]).arg(root.join("server")).arg(source);
    super::checked(&mut rustc)?;
    // Free a moment ago; nobody else is asked to leave it so.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr()).map_err(failed)?.port().to_string();
    let mut command = contained(root, &["/stayput", "run", "--restart", "never", "--", "/server", &port]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(failed)?;
    let answer = ask(&port, &mut child);
    if answer.is_err() {
        let _ = child.kill();
    }
    let output = child.wait_with_output().map_err(failed)?;
    let shown = || format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let answer = answer.map_err(|why| format!("run in an empty root: {why}\n{}", shown()))?;
    if !output.status.success() {
        return Err(format!("run in an empty root ended with {}\n{}", output.status, shown()));
    }
    print!("dist: in an empty root: run -- /server: {answer}");
    Ok(())
}

/// One request. The server listens when it listens, so this asks until then.
fn ask(port: &str, child: &mut std::process::Child) -> Result<String, String> {
    let begun = Instant::now();
    let address = format!("127.0.0.1:{port}");
    while begun.elapsed() < DEADLINE {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            return Err(format!("it ended before it served: {status}"));
        }
        match TcpStream::connect(&address) {
            Ok(mut peer) => {
                let mut answer = String::new();
                peer.set_read_timeout(Some(DEADLINE)).map_err(|error| error.to_string())?;
                peer.write_all(b"x").and_then(|()| peer.read_to_string(&mut answer)).map_err(|error| format!("the request: {error}"))?;
                return Ok(answer);
            }
            // Nobody listens yet, and the kernel has no event for that.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => std::thread::sleep(Duration::from_millis(10)),
            Err(error) => return Err(error.to_string()),
        }
    }
    Err(format!("nobody listened on {address} within {} s", DEADLINE.as_secs()))
}

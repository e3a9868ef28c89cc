//! `TestEnv`: a private place in which `stayput` runs, as root or as an ordinary user, and from which nothing escapes. It owns the directory, the ports
//! and the processes; when it is dropped, whatever still carries its mark is killed, and if every run was over by then, that is a failure.

mod host;
mod running;
mod upped;

pub use host::{Host, STATUS, Said};
pub use running::{Restart, Running, ready_generation};
pub use upped::Upped;

use std::ffi::OsStr;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::port::Port;
use crate::process::{self, Marked};
use crate::server::Server;
use crate::{assets, wait};

/// "nobody" everywhere: no files of its own, no rights.
const ORDINARY: u32 = 65534;

/// As whom `stayput` and its services run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// As root; only possible when the tests run as root.
    Root,
    /// As an ordinary user: nobody when the tests run as root, else whoever runs them.
    Ordinary,
}

impl User {
    /// Whether the tests can be this user here.
    pub fn is_possible(self) -> bool {
        self == Self::Ordinary || rustix::process::geteuid().is_root()
    }
}

/// A private place for one test.
#[derive(Debug)]
pub struct TestEnv {
    dir: tempfile::TempDir,
    stayput: PathBuf,
    misbehave: PathBuf,
    user: User,
    mark: String,
    ports: Mutex<Vec<Port>>,
    running: AtomicU32,
}

impl TestEnv {
    /// `stayput` is the binary under test: `env!("CARGO_BIN_EXE_stayput")` in a test of that package.
    ///
    /// # Panics
    /// When the user is not possible here, the directory cannot be made, or `misbehave` was not built.
    #[must_use]
    pub fn new(stayput: impl AsRef<Path>, user: User) -> Self {
        assert!(user.is_possible(), "only root can run a test as {user:?}");
        // Short: a Unix socket's path has room for 107 bytes.
        let dir = tempfile::Builder::new().prefix("stayput-").tempdir().expect("a temporary directory");
        set_mode(dir.path(), 0o755);
        // In the environment, the arguments and the working directory of everything that is started here.
        let mark = dir.path().display().to_string();
        let misbehave = stayput.as_ref().with_file_name("misbehave");
        assert!(
            misbehave.exists(),
            "{} is missing: run `cargo build -p stayput-testkit --bins` (`cargo xtask test` does)",
            misbehave.display()
        );
        let env = Self {
            stayput: reachable(stayput.as_ref(), dir.path(), user),
            misbehave: reachable(&misbehave, dir.path(), user),
            dir,
            user,
            mark,
            ports: Mutex::new(Vec::new()),
            running: AtomicU32::new(0),
        };
        for (name, mode) in [("run", 0o700), ("home", 0o755), ("scratch", 0o755)] {
            let path = env.path(name);
            std::fs::create_dir(&path).expect("a directory in the temporary directory");
            set_mode(&path, mode);
            env.give(&path);
        }
        env
    }

    /// As whom everything runs here.
    pub fn user(&self) -> User {
        self.user
    }

    /// A path in the private directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file that the services may read and write, with this content.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path("scratch").join(name);
        std::fs::write(&path, content).expect("a file in the scratch directory");
        self.give(&path);
        path
    }

    /// The file whose existence makes every real server here fail at its start.
    pub fn fault(&self) -> PathBuf {
        self.path("scratch").join("fault")
    }

    fn give(&self, path: &Path) {
        if self.user == User::Ordinary && rustix::process::geteuid().is_root() {
            chown(path, Some(ORDINARY), Some(ORDINARY)).expect("root may give files away");
        }
    }

    /// A port that stays this test's own until the environment is dropped.
    ///
    /// # Panics
    /// When none is free.
    pub fn port(&self) -> u16 {
        let port = Port::free();
        let number = port.number();
        self.ports.lock().expect("no panic while it is held").push(port);
        number
    }

    /// The command line of a real server on 127.0.0.1:`port`.
    pub fn server(&self, server: Server, port: u16) -> Vec<String> {
        server.command(port, &self.path("scratch"))
    }

    /// The command line of `misbehave MODE --port N`; `mode` may carry options. It is tagged, so that even a process without its environment is found.
    pub fn misbehave(&self, mode: &str, port: u16) -> Vec<String> {
        let mut words = vec![self.misbehave.display().to_string()];
        words.extend(mode.split_whitespace().map(str::to_owned));
        words.extend(["--port".to_owned(), port.to_string(), "--tag".to_owned(), self.mark.clone()]);
        words
    }

    /// The command line of a `misbehave` whose mode is read from a file at each start, and that file: rewriting it makes the next version.
    pub fn versioned(&self, mode: &str, port: u16) -> (Vec<String>, PathBuf) {
        let file = self.file(&format!("mode-{port}"), mode);
        (self.misbehave(&format!("from-file --file {}", file.display()), port), file)
    }

    /// `stayput` with these arguments, hermetic: no variable of ours but those listed here.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        self.as_user(&self.stayput, arguments)
    }

    /// Any program as this environment's user, marked.
    pub fn as_user<S: AsRef<OsStr>>(&self, program: &Path, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()))
            .env("HOME", self.path("home"))
            .env("LANG", "C.UTF-8")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("XDG_STATE_HOME", self.path("home"))
            .env("TESTKIT_MARK", &self.mark)
            .env("TESTKIT_FAULT", self.fault())
            .current_dir(self.path("scratch"))
            .stdin(Stdio::null());
        // Variables for the instrument, not for the program: where coverage goes, what is logged.
        for name in ["LLVM_PROFILE_FILE", "RUST_BACKTRACE"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if self.user == User::Ordinary && rustix::process::geteuid().is_root() {
            // As root the standard library also drops the supplementary groups.
            command.uid(ORDINARY).gid(ORDINARY);
        }
        command
    }

    /// Runs `stayput` to its end, at most `deadline`.
    ///
    /// # Panics
    /// When it cannot be started, or does not end in time.
    pub fn cli<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>, deadline: Duration) -> Output {
        let mut command = self.command(arguments);
        let shown = format!("{:?}", command.get_args().collect::<Vec<_>>());
        let (out, err) = (self.temporary_output(), self.temporary_output());
        let mut child = command
            .stdout(out.reopen().expect("a second descriptor of the output"))
            .stderr(err.reopen().expect("a second descriptor of the output"))
            .spawn()
            .expect("the stayput binary can be started");
        let ended = wait::until(&format!("the end of stayput {shown}"), deadline, || {
            child.try_wait().map_err(|error| error.to_string())?.ok_or_else(|| "runs".to_owned())
        });
        let read = |file: &tempfile::NamedTempFile| std::fs::read(file.path()).unwrap_or_default();
        let (stdout, stderr) = (read(&out), read(&err));
        match ended {
            Ok(status) => Output { status, stdout, stderr },
            Err(why) => {
                let _ = child.kill();
                let _ = child.wait();
                panic!("{why}\nstdout: {}\nstderr: {}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
            }
        }
    }

    fn temporary_output(&self) -> tempfile::NamedTempFile {
        tempfile::NamedTempFile::new_in(self.dir.path()).expect("a file in the temporary directory")
    }

    /// `stayput status --json`.
    ///
    /// # Errors
    /// It failed, or printed no JSON: what it said.
    pub fn status(&self) -> Result<Value, String> {
        let output = self.cli(["status", "--json"], Duration::from_secs(10));
        serde_json::from_slice(&output.stdout).map_err(|error| {
            format!(
                "status --json: {error}; {}; stdout: {}; stderr: {}",
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            )
        })
    }

    /// Starts `stayput run OPTIONS -- COMMAND`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run(&self, name: &str, options: &[&str], command: &[String]) -> Running<'_> {
        Running::start(self, name, options, command)
    }

    /// `stayput up -d` with this `stayput.toml`.
    ///
    /// # Panics
    /// When it does not say that all is started.
    pub fn up(&self, config: &str) -> Upped<'_> {
        Upped::start(self, config)
    }

    /// An instance that the test has started by itself, with this `stayput.toml` and in the foreground.
    pub fn upped(&self) -> Upped<'_> {
        Upped::started(self)
    }

    /// Starts `stayput up -d` with this `stayput.toml`, whose name is `host` and which has no dashboard; every service has to start.
    ///
    /// # Panics
    /// When one does not: with all that it said.
    pub fn host(&self, config: &str) -> Host<'_> {
        let (host, said) = self.host_somehow(config, &[]);
        assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
        host
    }

    /// As [`TestEnv::host`] with further options, and what it said, whether every service was started or not.
    pub fn host_somehow(&self, config: &str, options: &[&str]) -> (Host<'_>, Said) {
        self.host_file(config);
        Host::start(self, "host", options)
    }

    /// Starts `stayput up -d -f FILE`, whose instance is named after its directory, the scratch directory; every service has to start.
    ///
    /// # Panics
    /// When one does not: with all that it said.
    pub fn host_of_file(&self, file: &Path) -> Host<'_> {
        let (host, said) = Host::start(self, "scratch", &["-f", &file.display().to_string()]);
        assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
        host
    }

    /// An instance of this name that was started in another way.
    pub fn attached(&self, name: &str) -> Host<'_> {
        Host::attached(self, name)
    }

    /// Writes the `stayput.toml` of [`TestEnv::host`] anew.
    pub fn host_file(&self, config: &str) {
        self.file("stayput.toml", &format!("name = 'host'\ndashboard = {{ listen = false }}\n{config}"));
    }

    /// Live processes that carry this environment's mark.
    pub fn left(&self) -> Vec<Marked> {
        process::marked(&self.mark)
    }

    /// Waits until no process with this environment's mark is left.
    ///
    /// # Panics
    /// When some still live at the deadline: which.
    pub fn assert_nothing_left(&self, deadline: Duration) {
        wait::until("the end of every process of the test", deadline, || match self.left() {
            left if left.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        })
        .unwrap_or_else(|why| panic!("{why}"));
    }

    /// Kills every process with this environment's mark.
    pub fn kill_left(&self) {
        // Twice and more: what is forked while we look is seen the next time.
        for _ in 0..50 {
            let left = self.left();
            if left.is_empty() {
                return;
            }
            for each in left {
                process::signal(each.pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for TestEnv {
    fn drop(&mut self) {
        let all_ended = self.running.load(Ordering::SeqCst) == 0;
        let mut left = self.left();
        if all_ended && !std::thread::panicking() && !left.is_empty() {
            let _ = wait::until_true("the last processes", Duration::from_secs(2), || self.left().is_empty());
            left = self.left();
        }
        self.kill_left();
        assert!(!all_ended || std::thread::panicking() || left.is_empty(), "every run had ended, and these were left behind: {left:?}");
    }
}

/// The program itself, or a copy that the user can reach.
fn reachable(program: &Path, dir: &Path, user: User) -> PathBuf {
    if user == User::Root || !rustix::process::geteuid().is_root() || assets::is_open_to_all(program) {
        return program.to_path_buf();
    }
    let copy = dir.join(program.file_name().unwrap_or_default());
    // Not by ourselves: a test beside this one may fork while we have it open for writing, and it could not be executed.
    let status = std::process::Command::new("cp").args([program, copy.as_path()]).status().expect("cp");
    assert!(status.success(), "a copy of the program under test");
    set_mode(&copy, 0o755);
    copy
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("the mode of one's own file");
}

/// How long a command of a test may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `stayput` to its end: its exit code, what it said, and what it complained about.
///
/// # Panics
/// As [`TestEnv::cli`], or when it says what is no text.
pub fn stayput(env: &TestEnv, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = env.cli(arguments, PATIENCE);
    let text = |bytes| String::from_utf8(bytes).expect("stayput says text");
    (status.code(), text(stdout), text(stderr))
}

/// As [`stayput`], when it has to succeed: what it said.
///
/// # Panics
/// As [`stayput`], or when it fails.
pub fn succeeds(env: &TestEnv, arguments: &[&str]) -> String {
    let (code, out, err) = stayput(env, arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {out}{err}");
    out
}

/// Makes two tests of each function: as root and as an ordinary user. The function gets a `&TestEnv`. Where the tests do not run as root, the first
/// says so aloud and does nothing.
#[macro_export]
macro_rules! both_users {
    ($($(#[$meta:meta])* fn $name:ident($env:ident) $body:block)*) => {
        $(
            $(#[$meta])*
            mod $name {
                #[allow(unused_imports, clippy::allow_attributes, reason = "a small test may need nothing of its file")]
                use super::*;

                fn body($env: &$crate::env::TestEnv) $body

                #[test]
                fn as_root() {
                    if $crate::env::User::Root.is_possible() {
                        body(&$crate::env::TestEnv::new(env!("CARGO_BIN_EXE_stayput"), $crate::env::User::Root));
                    } else {
                        println!("NOT RUN: {} needs root; it ran as an ordinary user only", module_path!());
                    }
                }

                #[test]
                fn as_ordinary_user() {
                    body(&$crate::env::TestEnv::new(env!("CARGO_BIN_EXE_stayput"), $crate::env::User::Ordinary));
                }
            }
        )*
    };
}

//! Processes of a scenario. Each ends with its scenario, whatever way that ends: a pipe ties it to us, and where a foreign program cannot watch a
//! pipe, the kernel's parent-death signal does.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use stayput_kernel::process;

use crate::cancel::readable;
use crate::story::{self, Server};
use crate::{Cancel, Error, Place};

/// Between two looks at something that has no event: whether a server answers is known by asking it alone.
pub(crate) const LOOK: Duration = Duration::from_millis(5);

/// A process that ends with this value.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    status: Option<ExitStatus>,
    /// Ask it to end before it is killed: it has children of its own to end.
    gently: bool,
}

impl Running {
    /// The story's server.
    pub(crate) fn story(place: &Place, server: &Server) -> Result<Self, Error> {
        let mut command = Command::new(place.server());
        // Its words fit into a pipe.
        command.args(story_words(server, true)).stdin(Stdio::piped()).stderr(Stdio::piped());
        Self::start(&mut command, false)
    }

    /// A program that knows nothing of us, in its own words, with its errors in the file `log`; it gets SIGTERM when we die.
    pub(crate) fn foreign<W: AsRef<OsStr>>(
        place: &Place,
        words: &[W],
        environment: &[(&str, OsString)],
        log: &Path,
    ) -> Result<Self, Error> {
        let failed = |error| Error::Start(log.display().to_string(), error);
        let file = File::options().create(true).append(true).open(log).map_err(failed)?;
        let mut command = Command::new(place.server());
        let us = std::process::id().to_string();
        command.args([story::NAME, "tied", "--parent", &us, "--"]).args(words).stdin(Stdio::null()).stderr(file);
        for (name, value) in environment {
            command.env(name, value);
        }
        Self::start(&mut command, true)
    }

    fn start(command: &mut Command, gently: bool) -> Result<Self, Error> {
        // A Ctrl-C on the terminal is for us; we end our processes in order.
        command.process_group(0).stdout(Stdio::null());
        for name in ["STAYPUT_SERVICE", "STAYPUT_INSTANCE", "STAYPUT_GENERATION", "STAYPUT_CONTROL"] {
            command.env_remove(name);
        }
        let child = command.spawn().map_err(|error| Error::Start(format!("{}", command.get_program().display()), error))?;
        Ok(Self { child, status: None, gently })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // Not reaped while `child` lives without a status, so the pid is still its own.
        if let Some(pidfd) = self.pidfd() {
            let _ = process::signal(&pidfd, signal.as_raw());
        }
    }

    /// `None`: it was seen to end.
    fn pidfd(&self) -> Option<OwnedFd> {
        let pid = i32::try_from(self.child.id()).ok().filter(|_| self.status.is_none());
        process::pidfd(pid?).ok()
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    /// Waits for its end. False: it still runs at the deadline.
    pub(crate) fn wait(&mut self, deadline: Duration, cancel: &Cancel) -> Result<bool, Error> {
        cancel.check()?;
        if self.ended().is_none()
            && let Some(pidfd) = self.pidfd()
        {
            cancel.until_readable(pidfd, deadline)?;
        }
        Ok(self.ended().is_some())
    }

    /// The last line that it wrote to standard error before it ended.
    pub(crate) fn last_words(&mut self) -> Option<String> {
        let mut text = String::new();
        self.child.stderr.as_mut()?.take(64 * 1024).read_to_string(&mut text).ok()?;
        text.lines().rfind(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned())
    }

    /// Closes the pipe that ties it, ends it, and waits until it and all that inherited from it are gone.
    pub(crate) fn end(&mut self) {
        drop(self.child.stdin.take());
        if self.ended().is_none() && self.gently {
            self.signal(Signal::TERM);
            if let Some(pidfd) = self.pidfd() {
                readable(&[pidfd.as_fd()], Duration::from_secs(8));
            }
        }
        if self.ended().is_none() {
            self.signal(Signal::KILL);
            self.status = self.child.wait().ok();
        }
        if let Some(stderr) = self.child.stderr.take() {
            wait_for_writers(stderr);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// What inherited the pipe's other end has ended when the pipe does.
fn wait_for_writers(mut stderr: std::process::ChildStderr) {
    let start = Instant::now();
    let mut buffer = [0; 4096];
    while readable(&[stderr.as_fd()], Duration::from_secs(2).saturating_sub(start.elapsed())) {
        if !matches!(stderr.read(&mut buffer), Ok(1..)) {
            return;
        }
    }
}

/// `signal 15` or `exit status 1`.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("signal {signal}"),
        (None, code) => format!("exit status {}", code.unwrap_or_default()),
    }
}

/// The arguments with which our binary is the story's server.
pub(crate) fn story_words(server: &Server, tied: bool) -> Vec<String> {
    let mut words = vec![story::NAME.to_owned(), "serve".to_owned(), "--port".to_owned(), server.port.to_string()];
    words.extend(["--reuse".to_owned(), server.reuse.name().to_owned(), "--boot-ms".to_owned(), server.boot.as_millis().to_string()]);
    if !server.slow_exit.is_zero() {
        words.extend(["--slow-exit-ms".to_owned(), server.slow_exit.as_millis().to_string()]);
    }
    if let Some(child) = server.child {
        words.extend(["--child".to_owned(), child.name().to_owned()]);
    }
    if tied {
        words.push("--tied".to_owned());
    }
    words
}

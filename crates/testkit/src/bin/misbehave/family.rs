//! Processes that leave their parent: forked twice, in a session of their own, with or without the listener. A fork without an exec is not to be had
//! in safe Rust, so each generation of the family is this program again; the listener travels as standard input.

use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use clap::{Args, ValueEnum};

use crate::{live_on, serve};

/// What a worker does with what it inherited.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Job {
    /// Accepts and answers.
    Serve,
    /// Nothing, for ever.
    Sleep,
}

/// The process in between: makes a session, forks the worker, ends.
#[derive(Args, Clone)]
pub(crate) struct Detach {
    job: Job,
    #[arg(long)]
    listener: bool,
    #[arg(long, default_value = "")]
    tag: String,
}

/// The worker itself.
#[derive(Args, Clone)]
pub(crate) struct Worker {
    job: Job,
    #[arg(long)]
    listener: bool,
    #[arg(long, default_value = "")]
    tag: String,
}

/// Forks a worker twice, so that its parent is whoever reaps orphans here. Returns when the process in between has ended.
pub(crate) fn leave_worker(listener: Option<&TcpListener>, scrub: bool, job: Job, tag: &str) -> io::Result<()> {
    let mut command = again("detach", job, listener.is_some(), tag)?;
    if scrub {
        command.env_clear();
    }
    if let Some(listener) = listener {
        command.stdin(Stdio::from(rustix::fd::OwnedFd::from(listener.try_clone()?)));
    }
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("the process in between ended with {status}"))) }
}

fn again(mode: &str, job: Job, listener: bool, tag: &str) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg0("misbehave").arg(mode);
    command.arg(match job {
        Job::Serve => "serve",
        Job::Sleep => "sleep",
    });
    if listener {
        command.arg("--listener");
    } else {
        command.stdin(Stdio::null());
    }
    command.args(["--tag", tag]);
    Ok(command)
}

impl Detach {
    pub(crate) fn run(self) -> io::Result<ExitCode> {
        rustix::process::setsid()?;
        let mut command = again("worker", self.job, self.listener, &self.tag)?;
        if self.listener {
            command.stdin(Stdio::inherit());
        }
        // Nobody waits for it: leaving it behind is what this program is for.
        let _worker = command.spawn()?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Worker {
    pub(crate) fn run(self) -> io::Result<ExitCode> {
        if !self.listener || self.job == Job::Sleep {
            live_on();
        }
        let listener = TcpListener::from(rustix::io::dup(rustix::stdio::stdin())?);
        rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::CLOEXEC)?;
        let _serving = serve::start(listener)?;
        live_on()
    }
}

/// What stands in /proc/self/fd, as a JSON array of `{"fd", "target"}`; the descriptor of the listing itself is left out.
pub(crate) fn open_fds() -> io::Result<String> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let Ok(target) = std::fs::read_link(entry.path()) else {
            continue;
        };
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let target = target.to_string_lossy().into_owned();
        if !target.starts_with("/proc/") {
            all.push((fd, target));
        }
    }
    all.sort();
    let list: Vec<_> = all.into_iter().map(|(fd, target)| serde_json::json!({ "fd": fd, "target": target })).collect();
    Ok(serde_json::Value::from(list).to_string())
}

//! The hidden command behind `replicas = N`: the main process of a generation that runs N copies of a command. Each binds for itself and joins what its
//! generation has, as the workers of a server do. A copy that ends is started again, ever more slowly; what the generation is told by signal, all
//! copies are told.
//!
//! It is a plain process of the service, with the service's user and limits, and knows nothing of the instance.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use stayput_kernel::process::{self, Ended};
use stayput_model::backoff::Backoff;

use crate::error::{Error, Kind};
use crate::output;

/// Its name on the command line.
pub(crate) const NAME: &str = stayput_daemon::REPLICAS;
/// A copy that has lived for so long had come up, as far as a process can tell.
const CAME_UP: Duration = Duration::from_secs(1);
/// When all copies have ended and none had lived for so long, it is not one copy that has failed.
const GOOD_RUN: Duration = Duration::from_secs(10);

/// Signals that mean the end (signal(7): INT, QUIT, TERM), and those that are only passed on (HUP, USR1, USR2).
const ENDING: [i32; 3] = [2, 3, 15];
const PASSED: [i32; 3] = [1, 10, 12];
/// `SIGCHLD`.
const CHILD: i32 = 17;

/// Arguments of `stayput __replicas`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// When a copy that ended is started again
    #[arg(long, value_enum, default_value = "always")]
    restart: super::run::Restart,
    /// Signals that mean the end, beside the usual ones
    #[arg(long, value_name = "NUMBER")]
    stop: Vec<i32>,
    /// Copies
    #[arg(value_parser = clap::value_parser!(u32).range(1..=256))]
    count: u32,
    /// The command
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<std::ffi::OsString>,
}

/// One copy.
#[derive(Debug)]
struct Copy {
    runs: Option<Run>,
    /// When it is started again.
    due: Option<Instant>,
    backoff: Backoff,
    has_ended: bool,
}

#[derive(Debug)]
struct Run {
    pid: i32,
    pidfd: OwnedFd,
    since: Instant,
}

#[derive(Debug)]
struct Copies<'a> {
    args: &'a Args,
    signals: OwnedFd,
    each: Vec<Copy>,
    /// None is started any more.
    ending: bool,
    /// One has lived for a good while.
    good: bool,
    /// How copies ended for which there is no other start: what this process ends with.
    status: u8,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Result<ExitCode, Error> {
    let all: Vec<i32> = ENDING.iter().chain(&PASSED).chain(&[CHILD]).chain(&args.stop).copied().collect();
    let signals = process::signals(&all).map_err(|error| Error::new(Kind::Failed, "signalfd").because(&error))?;
    let seed = u64::from(std::process::id());
    let copies = (0..u64::from(args.count))
        .map(|number| Copy { runs: None, due: None, backoff: Backoff::new(seed ^ (number << 32)), has_ended: false })
        .collect();
    let mut all = Copies { args, signals, each: copies, ending: false, good: false, status: 0 };
    for number in 0..all.each.len() {
        if let Err(error) = all.start(number) {
            all.pass(9);
            let program = args.command[0].to_string_lossy();
            output::complain(&format!("{program}: {error}\n"));
            return Ok(ExitCode::from(if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 }));
        }
    }
    all.serve().map(ExitCode::from).map_err(|error| Error::new(Kind::Failed, "the copies cannot be waited for").because(&error))
}

impl Copies<'_> {
    fn start(&mut self, number: usize) -> std::io::Result<()> {
        let mut command = Command::new(&self.args.command[0]);
        command.args(&self.args.command[1..]).env("STAYPUT_REPLICA", number.to_string());
        // The standard library gives it default signals and none blocked. It is not waited for by its handle, but by `reap`.
        let child = command.spawn()?;
        let pid = child.id() as i32;
        // It is not reaped yet, so the number is its own.
        let pidfd = process::addressee(pid)?;
        let copy = &mut self.each[number];
        (copy.runs, copy.due) = (Some(Run { pid, pidfd, since: Instant::now() }), None);
        Ok(())
    }

    fn serve(&mut self) -> rustix::io::Result<u8> {
        loop {
            self.reap()?;
            self.start_due();
            if self.each.iter().all(|copy| copy.runs.is_none() && copy.due.is_none()) {
                return Ok(self.status);
            }
            let next = self.each.iter().filter_map(|copy| copy.due).min().map(|due| due.saturating_duration_since(Instant::now()));
            let wait = next.map(|wait| Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) });
            match poll(&mut [PollFd::new(&self.signals, PollFlags::IN)], wait.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error),
            }
            while let Some((signal, _)) = process::next_signal(&self.signals)? {
                if signal == CHILD {
                    continue;
                }
                self.pass(signal);
                if ENDING.contains(&signal) || self.args.stop.contains(&signal) {
                    self.ending = true;
                    self.each.iter_mut().for_each(|copy| copy.due = None);
                }
            }
        }
    }

    /// What this process is told, each copy is told.
    fn pass(&self, signal: i32) {
        for run in self.each.iter().filter_map(|copy| copy.runs.as_ref()) {
            // ESRCH: it has ended, and is reaped next.
            let _ = process::signal(&run.pidfd, signal);
        }
    }

    fn reap(&mut self) -> rustix::io::Result<()> {
        // All that have ended first: whether all of them have decides.
        let mut ended = BTreeMap::new();
        while let Some((pid, how)) = process::next_ended()? {
            process::reap(pid);
            ended.insert(pid, how);
        }
        for number in 0..self.each.len() {
            let how = self.each[number].runs.as_ref().and_then(|run| ended.remove(&run.pid));
            if let Some(how) = how {
                self.ended(number, how);
            }
        }
        Ok(())
    }

    fn ended(&mut self, number: usize, how: Ended) {
        let copy = &mut self.each[number];
        let lived = copy.runs.take().map_or(Duration::ZERO, |run| run.since.elapsed());
        let (words, status) = match how {
            Ended::Exited(status) => (format!("exited with status {status}"), status.to_le_bytes()[0]),
            Ended::Signalled(signal) => (format!("was ended by signal {signal}"), 128_u8.saturating_add(signal as u8)),
        };
        copy.has_ended = true;
        self.good |= lived >= GOOD_RUN;
        let again = match self.args.restart {
            super::run::Restart::Always => true,
            super::run::Restart::OnFailure => how != Ended::Exited(0),
            super::run::Restart::Never => false,
        };
        if self.ending || !again {
            if status != 0 && self.status == 0 {
                self.status = status;
            }
            return;
        }
        if !self.good && self.each.iter().all(|copy| copy.has_ended) {
            // The generation is what has failed, and who started it knows what to do about that.
            self.pass(9);
            self.ending = true;
            self.each.iter_mut().for_each(|copy| copy.due = None);
            self.status = if status == 0 { 1 } else { status };
            return;
        }
        let copy = &mut self.each[number];
        let wait = copy.backoff.after_run(if lived >= CAME_UP { lived } else { Duration::ZERO });
        copy.due = Some(Instant::now() + wait);
        output::complain(&format!(
            "copy {number} {words} after {:.1} s; it is started again in {} ms\n",
            lived.as_secs_f64(),
            wait.as_millis()
        ));
    }

    fn start_due(&mut self) {
        let now = Instant::now();
        for number in 0..self.each.len() {
            if self.each[number].due.is_some_and(|due| due <= now)
                && let Err(error) = self.start(number)
            {
                let copy = &mut self.each[number];
                let wait = copy.backoff.after_run(Duration::ZERO);
                copy.due = Some(now + wait);
                output::complain(&format!("copy {number} cannot be started: {error}; tried again in {} ms\n", wait.as_millis()));
            }
        }
    }
}

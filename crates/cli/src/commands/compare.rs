//! `stayput compare`: the story of the taken port, measured on this machine: before, after, and with stayput.
//!
//! Exit code: 0 it was measured, 1 it could not be, 2 bad input, 130 interrupted.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use stayput_compare::result::Comparison;
use stayput_compare::{Cancel, Options, Progress, render};
use stayput_kernel::process;

use super::why;
use crate::error::{Error, Kind};
use crate::output;

/// What a shell shows for a command that SIGINT ended.
const INTERRUPTED: u8 = 130;
/// Between two looks at the worker, and two turns of the live line.
const TICK: Duration = Duration::from_millis(100);

/// Arguments of `stayput compare`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stayput compare --quick
  stayput compare --full --out results
  stayput compare --quick --port 8000 -- python3 -m http.server 8000

All its servers and clients are its own and on 127.0.0.1; it ends them and leaves nothing, also after Ctrl-C.
Exit code: 0 it was measured, 1 it could not be, 2 bad input, 130 interrupted.")]
pub(crate) struct Args {
    /// The port of the story; with CMD: the port that CMD listens on [default: one that is free]
    #[arg(long, value_name = "PORT", allow_hyphen_values = true)]
    port: Option<String>,
    /// At most 15 s: the wait of 60 s for TIME_WAIT is cut
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// With the whole wait, about 80 s (the default)
    #[arg(long)]
    full: bool,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Also write compare.md, compare.svg and compare.json into this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// A server of your own to compare besides: stopped and started, and under stayput
    #[arg(value_name = "CMD", trailing_var_arg = true)]
    command: Vec<OsString>,
}

/// `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A table for the terminal
    Text,
    /// Tables for a page
    Markdown,
    /// The timeline as a picture
    Svg,
    /// Everything (docs/COMPARE.md)
    Json,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Result<ExitCode, Error> {
    let options = options(args)?;
    if let Some(directory) = &args.out {
        prepare(directory)?;
    }
    // Before any thread starts: threads inherit what is blocked.
    let signals =
        process::signals(&ending_signals()).map_err(|errno| Error::new(Kind::Failed, "signals cannot be watched").because(&errno))?;
    let cancel = Cancel::new().map_err(|error| Error::new(Kind::Failed, "nothing can be interrupted here").because(&error))?;
    let cancel = Arc::new(cancel);
    let doing = Arc::new(Mutex::new(Vec::<Progress>::new()));
    let (of_worker, told, quick) = (Arc::clone(&cancel), Arc::clone(&doing), options.quick);
    let worker = std::thread::spawn(move || {
        let tell = move |progress| {
            if let Ok(mut now) = told.lock() {
                now.push(progress);
            }
        };
        stayput_compare::run(&options, &of_worker, &tell)
    });
    let mut show = Show::new(quick);
    while !worker.is_finished() {
        let tick = Timespec { tv_sec: 0, tv_nsec: i64::from(TICK.subsec_nanos()) };
        let _ = poll(&mut [PollFd::new(&signals, PollFlags::IN)], Some(&tick));
        while let Ok(Some((signal, _))) = process::next_signal(&signals) {
            cancel.cancel();
            show.interrupted(signal);
        }
        let news = doing.lock().map(|mut news| std::mem::take(&mut *news)).unwrap_or_default();
        show.tick(news);
    }
    show.clear();
    let comparison = match worker.join() {
        Ok(Ok(comparison)) => comparison,
        Ok(Err(stayput_compare::Error::Cancelled)) => {
            output::complain("interrupted: its processes are ended, nothing was written\n");
            return Ok(ExitCode::from(INTERRUPTED));
        }
        Ok(Err(error)) => return Err(failed(&error)),
        Err(_) => return Err(Error::new(Kind::Failed, "the comparison ended by a panic")),
    };
    conclude(args, &comparison)
}

/// What ends it; without those that whoever started us has us ignore, as nohup(1) does.
fn ending_signals() -> Vec<i32> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok()).unwrap_or(0);
    let all = [Signal::INT, Signal::TERM, Signal::HUP].map(Signal::as_raw);
    all.into_iter().filter(|signal| ignored & (1 << (signal - 1)) == 0).collect()
}

fn options(args: &Args) -> Result<Options, Error> {
    let port = match &args.port {
        None => None,
        Some(text) => match why::parse_ports(std::slice::from_ref(text))?[..] {
            [port] => Some(port),
            _ => return Err(Error::new(Kind::BadInput, format!("--port {text}: compare takes one port"))),
        },
    };
    if let Some(command) = args.command.first() {
        super::run::check_command(command)?;
    }
    let version = env!("STAYPUT_VERSION").to_owned();
    Ok(Options { port, quick: args.quick, command: args.command.clone(), version })
}

/// A directory that cannot be written is known before a minute has passed.
fn prepare(directory: &Path) -> Result<(), Error> {
    let bad =
        |error: std::io::Error| Error::new(Kind::BadInput, format!("--out {}: it cannot be written", directory.display())).because(&error);
    std::fs::create_dir_all(directory).map_err(bad)?;
    tempfile::tempfile_in(directory).map(drop).map_err(bad)
}

fn failed(error: &stayput_compare::Error) -> Error {
    match error {
        stayput_compare::Error::PortTaken(port, summary) => Error::new(Kind::BadInput, format!("--port {port}: {summary}"))
            .hint(format!("stayput why {port}"))
            .hint("without --port a free one is taken"),
        other => Error::new(Kind::Failed, other.to_string()),
    }
}

fn conclude(args: &Args, comparison: &Comparison) -> Result<ExitCode, Error> {
    if let Some(directory) = &args.out {
        let files = [
            ("compare.md", render::markdown(comparison, Some("compare.svg"))),
            ("compare.svg", render::svg(comparison)),
            ("compare.json", render::json(comparison)),
        ];
        for (name, text) in files {
            write(directory, name, &text)?;
        }
        output::complain(&format!("written: compare.md, compare.svg and compare.json in {}\n", directory.display()));
    }
    output::say(&match args.format {
        Format::Text => render::text(comparison),
        Format::Markdown => render::markdown(comparison, args.out.as_ref().map(|_| "compare.svg")),
        Format::Svg => render::svg(comparison),
        Format::Json => render::json(comparison),
    });
    let asked_for = |id: &str| matches!(id, "before" | "after" | "stayput") || id.starts_with("command-");
    let measured = comparison.scenarios.iter().filter(|scenario| asked_for(&scenario.id)).all(|scenario| scenario.trouble.is_none());
    Ok(if measured { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whole or not at all: beside it first, then renamed.
fn write(directory: &Path, name: &str, text: &str) -> Result<(), Error> {
    let path = directory.join(name);
    let failed = |error: &std::io::Error| Error::new(Kind::Failed, format!("{} cannot be written", path.display())).because(error);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    let mut file = tempfile::Builder::new().prefix(".compare-").permissions(mode).tempfile_in(directory).map_err(|error| failed(&error))?;
    file.write_all(text.as_bytes()).map_err(|error| failed(&error))?;
    file.persist(&path).map(drop).map_err(|error| failed(&error.error))
}

/// Progress on standard error: a line that is written over on a terminal, else a line per step.
struct Show {
    terminal: bool,
    start: Instant,
    of: Duration,
    doing: String,
    shown: bool,
}

impl Show {
    fn new(quick: bool) -> Self {
        let of = Duration::from_secs(if quick { 13 } else { 80 });
        Self { terminal: std::io::stderr().is_terminal(), start: Instant::now(), of, doing: String::new(), shown: false }
    }

    fn tick(&mut self, news: Vec<Progress>) {
        for step in news {
            self.of = Duration::from_millis(step.of_ms);
            if !self.terminal {
                output::complain(&format!("{} s of about {}: {}\n", step.at_ms / 1000, self.of.as_secs(), step.doing));
            }
            self.doing = step.doing;
        }
        if self.terminal && !self.doing.is_empty() {
            let columns = rustix::termios::tcgetwinsize(std::io::stderr()).map_or(80, |size| usize::from(size.ws_col).max(20));
            let (now, of) = (self.start.elapsed().as_secs(), self.of.as_secs());
            let line: String = format!("{now:>3} s of about {of} · {}", self.doing).chars().take(columns - 1).collect();
            output::complain(&format!("\r{line}\x1b[K"));
            self.shown = true;
        }
    }

    fn interrupted(&mut self, signal: i32) {
        let text = format!("interrupted by signal {signal}: ending its processes");
        if self.terminal {
            self.doing = text;
        } else {
            output::complain(&format!("{text}\n"));
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            output::complain("\r\x1b[K");
        }
    }
}

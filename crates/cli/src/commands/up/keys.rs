//! The keys of `stayput up` in the foreground of a terminal: a small process beside the guard, which has no thread to spare for them. It reads them,
//! asks the daemon like any other client, and ends with the guard. It is not for people.

use std::io::IsTerminal as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use stayput_kernel::process;
use stayput_wire::{Client, InstanceStatus, Reply, Request};

use crate::commands::instances::ANSWER_WITHIN;
use crate::error::{Error, Kind};
use crate::terminal::{self, KeyMode};
use crate::{output, table};

/// Its name on the command line.
pub(crate) const NAME: &str = "__keys";
/// What can be pressed.
const HELP: &str = "keys: r restart, s status, q quit (q again hurries), ? this";

/// Arguments of `stayput __keys`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    control: PathBuf,
    #[arg(long)]
    guard: i32,
}

/// Starts the process, if a person is there who can press keys.
pub(super) fn start(control: &Path) {
    if !std::io::stdin().is_terminal() || !output::is_watched() || !is_foreground() {
        return;
    }
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg(NAME).arg("--control").arg(control).args(["--guard", &std::process::id().to_string()]);
    // Without it there are no keys; Ctrl-C is there still. The guard reaps whatever ends.
    let _ = command.spawn();
}

/// Whether the terminal is ours at the moment (tcgetpgrp(3)).
fn is_foreground() -> bool {
    rustix::termios::tcgetpgrp(rustix::stdio::stdin()).is_ok_and(|group| group == rustix::process::getpgrp())
}

/// Runs `stayput __keys`.
pub(crate) fn run(args: &Args) -> Result<ExitCode, Error> {
    let failed = |what: &'static str| move |error: rustix::io::Errno| Error::new(Kind::Failed, format!("{what}: {error}"));
    let guard = Pid::from_raw(args.guard).ok_or_else(|| Error::new(Kind::BadInput, "there is no such process"))?;
    let guard = pidfd_open(guard, PidfdFlags::empty()).map_err(failed("pidfd_open"))?;
    // Ctrl-C is for the guard; we end when it does. After a stop (Ctrl-Z) the shell has set the terminal as it likes it.
    let wanted = [Signal::INT, Signal::QUIT, Signal::TERM, Signal::HUP, Signal::CONT, Signal::TTOU].map(Signal::as_raw);
    let signals = process::signals(&wanted).map_err(failed("signalfd"))?;
    let Some(keys) = KeyMode::enter() else { return Ok(ExitCode::SUCCESS) };
    output::say(&format!("{HELP}\n"));
    let mut desk = Desk { control: args.control.clone(), guard, asked: None, keys };
    let ended = desk.serve(&signals);
    if ended == Ended::Guard {
        // It has given the terminal back itself, and the next program may use it already.
        std::mem::forget(desk.keys);
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Guard,
    Told,
}

struct Desk {
    control: PathBuf,
    guard: OwnedFd,
    /// The names of the services between which the person is choosing.
    asked: Option<Vec<String>>,
    keys: KeyMode,
}

impl Desk {
    fn serve(&mut self, signals: &OwnedFd) -> Ended {
        let input = rustix::stdio::stdin();
        let mut ours = true;
        loop {
            let mut sources = vec![PollFd::new(&self.guard, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
            if ours {
                // In the background a read would stop us.
                sources.push(PollFd::from_borrowed_fd(input, PollFlags::IN));
            }
            if rustix::io::retry_on_intr(|| poll(&mut sources, None)).is_err() {
                return Ended::Told;
            }
            let ready: Vec<bool> = sources.iter().map(|source| !source.revents().is_empty()).collect();
            if ready[0] {
                return Ended::Guard;
            }
            if ready[1] {
                while let Ok(Some((signal, _))) = process::next_signal(signals) {
                    if [Signal::TERM, Signal::HUP].map(Signal::as_raw).contains(&signal) {
                        return Ended::Told;
                    }
                    ours = is_foreground();
                    if ours && signal == Signal::CONT.as_raw() {
                        self.asked = None;
                        self.keys.again();
                    }
                }
            } else if ready.get(2) == Some(&true) {
                let mut bytes = [0_u8; 256];
                match rustix::io::retry_on_intr(|| rustix::io::read(input, &mut bytes)) {
                    Ok(read @ 1..) => self.typed(&bytes[..read]),
                    // The terminal is gone.
                    Ok(0) | Err(_) => return Ended::Told,
                }
            }
        }
    }

    fn typed(&mut self, bytes: &[u8]) {
        if let Some(names) = self.asked.take() {
            self.keys.again();
            let line = String::from_utf8_lossy(bytes);
            match chosen(line.trim(), &names) {
                Ok(services) if services.is_empty() => {}
                Ok(services) => self.restart(services),
                Err(unknown) => drop(output::say(&format!("there is no service {}\n", stayput_model::text::printable(unknown)))),
            }
            return;
        }
        for key in bytes {
            match key {
                b'r' => return self.ask(),
                b's' => self.status(),
                b'q' => {
                    output::say("stopping; q again hurries\n");
                    // As Ctrl-C does it: the second one kills what is left.
                    let _ = pidfd_send_signal(&self.guard, Signal::INT);
                }
                b'?' | b'h' => drop(output::say(&format!("{HELP}\n"))),
                b'\n' | b'\r' => drop(output::say("\n")),
                _ => {}
            }
        }
    }

    fn reply(&self, request: &Request) -> Option<Reply> {
        let asked =
            Client::connect(&self.control, ANSWER_WITHIN).and_then(|mut client| client.request(request, Some(ANSWER_WITHIN), &mut |_| ()));
        match asked {
            Ok(Reply::Failed(failure)) => {
                output::say(&format!("! {}\n", stayput_model::text::printable(&failure.message)));
                None
            }
            Ok(reply) => Some(reply),
            Err(error) => {
                output::say(&format!("! the daemon does not answer: {error}\n"));
                None
            }
        }
    }

    fn look(&self) -> Option<Box<InstanceStatus>> {
        match self.reply(&Request::Status {})? {
            Reply::Status(status) => Some(status),
            _ => None,
        }
    }

    fn status(&self) {
        if let Some(status) = self.look() {
            output::say(&table::table(&status, terminal::width(), output::is_colourful()));
        }
    }

    /// Restart what? Of one service there is nothing to ask.
    fn ask(&mut self) {
        let Some(status) = self.look() else { return };
        let names: Vec<String> = status.services.into_iter().filter(|service| !service.own).map(|service| service.name).collect();
        match names.as_slice() {
            [] => drop(output::say("there is no service yet\n")),
            [_] => self.restart(names),
            several => {
                let numbered = several.iter().enumerate().map(|(index, name)| format!("{} {name}", index + 1));
                let list = numbered.chain(["a all".to_owned()]).collect::<Vec<_>>().join(", ");
                // A line is typed like any other: with Backspace, and shown.
                self.keys.lines();
                output::say(&format!("restart which? {list}; Enter: none > "));
                self.asked = Some(names);
            }
        }
    }

    fn restart(&self, services: Vec<String>) {
        // What comes of it is told by the instance itself, on this terminal.
        let _ = self.reply(&Request::Restart { services, wait: false, parallel: None, canary: None });
    }
}

/// The services that a line means: numbers, names, globs, or `a` for all.
fn chosen<'a>(line: &'a str, names: &[String]) -> Result<Vec<String>, &'a str> {
    let mut services = Vec::new();
    for word in line.split([' ', ',']).filter(|word| !word.is_empty()) {
        let number = word.parse::<usize>().ok().and_then(|number| names.get(number.checked_sub(1)?));
        if names.iter().any(|name| stayput_wire::pattern::matches(word, name)) {
            services.push(word.to_owned());
        } else if let Some(name) = number {
            services.push(name.clone());
        } else if word == "a" {
            services.push("*".to_owned());
        } else {
            return Err(word);
        }
    }
    Ok(services)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_services_by_number_name_or_glob() {
        let names = ["api", "web-1", "web-2"].map(str::to_owned);
        let one = |line| chosen(line, &names);
        assert_eq!(one("2"), Ok(vec!["web-1".to_owned()]));
        assert_eq!(one("api, web-*"), Ok(vec!["api".to_owned(), "web-*".to_owned()]));
        assert_eq!(one("a"), Ok(vec!["*".to_owned()]));
        assert_eq!(one(""), Ok(vec![]));
        for wrong in ["0", "4", "x", "-1"] {
            assert_eq!(one(wrong), Err(wrong));
        }
        // A service may be called like a number, or a.
        assert_eq!(chosen("2", &["a".to_owned(), "b".to_owned(), "2".to_owned()]), Ok(vec!["2".to_owned()]));
    }
}

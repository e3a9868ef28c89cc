//! `stayput status --watch`: the status of now, drawn again when something happens. What happens is heard on the streams of events; figures that change
//! without an event (memory, connections) are looked at every two seconds. The terminal is given back as it was.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use stayput_kernel::process;
use stayput_wire::runtime::Found;
use stayput_wire::{Client, Cursor, Request};

use crate::commands::instances::{self, ANSWER_WITHIN};
use crate::error::{Error, Kind};
use crate::output;
use crate::terminal::{KeyMode, Screen};

/// Without any event it is looked again after this.
const EVERY: Duration = Duration::from_secs(2);
/// Between two pictures: what happens at once is drawn at once, and a storm of events costs no more than this.
const AT_MOST: Duration = Duration::from_millis(250);

/// Draws `picture` until `q`, Ctrl-C, or nobody looks any more.
pub(super) fn run(name: Option<&str>, picture: impl Fn(&[Found]) -> String) -> Result<ExitCode, Error> {
    if !output::is_watched() {
        return Err(Error::new(Kind::BadInput, "--watch draws on a terminal, and standard output is none")
            .hint("for programs: stayput status --json, stayput events --follow --json"));
    }
    if output::is_dumb() {
        return Err(Error::new(Kind::BadInput, "--watch draws on the whole terminal, and this one takes text alone (TERM is dumb)")
            .hint("stayput status; or what happens, line by line: stayput events --follow"));
    }
    let failed = |what: &'static str| move |error: rustix::io::Errno| Error::new(Kind::Failed, format!("{what}: {error}"));
    // Before any thread, which would get them otherwise.
    let wanted = [Signal::INT, Signal::TERM, Signal::HUP, Signal::WINCH].map(Signal::as_raw);
    let signals = process::signals(&wanted).map_err(failed("signalfd"))?;
    let (bell, ring) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK).map_err(failed("pipe"))?;
    let mut listeners = Listeners { ring, heard: BTreeMap::new() };
    // Both give back what they took, whichever way this ends.
    let keys = KeyMode::enter();
    let screen = Screen::enter();
    loop {
        let begun = Instant::now();
        let mut running = instances::all()?;
        if let Some(name) = name {
            running.retain(|found| found.name == name);
        }
        listeners.hear(&running);
        let text = if running.is_empty() { "nothing runs\n".to_owned() } else { picture(&running) };
        if !screen.draw(&text, "q: quit") {
            return Ok(ExitCode::SUCCESS);
        }
        let mut rest = EVERY;
        loop {
            match wait(&signals, &bell, keys.as_ref(), rest)? {
                News::End => return Ok(ExitCode::SUCCESS),
                News::Draw => break,
                News::Event => {
                    // The first moment belongs to whatever belongs together.
                    rest = AT_MOST.saturating_sub(begun.elapsed()).max(Duration::from_millis(30));
                    drain(&bell);
                    if begun.elapsed() >= AT_MOST {
                        break;
                    }
                }
            }
        }
    }
}

enum News {
    End,
    Draw,
    Event,
}

fn wait(signals: &OwnedFd, bell: &OwnedFd, keys: Option<&KeyMode>, rest: Duration) -> Result<News, Error> {
    let input = rustix::stdio::stdin();
    let mut sources = vec![PollFd::new(signals, PollFlags::IN), PollFd::new(bell, PollFlags::IN)];
    if keys.is_some() {
        sources.push(PollFd::from_borrowed_fd(input, PollFlags::IN));
    }
    let rest = Timespec::try_from(rest).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
    let failed = |error: rustix::io::Errno| Error::new(Kind::Failed, format!("poll: {error}"));
    if rustix::io::retry_on_intr(|| poll(&mut sources, Some(&rest))).map_err(failed)? == 0 {
        return Ok(News::Draw);
    }
    let ready: Vec<bool> = sources.iter().map(|source| !source.revents().is_empty()).collect();
    if ready[0]
        && let Ok(Some((signal, _))) = process::next_signal(signals)
    {
        return Ok(if signal == Signal::WINCH.as_raw() { News::Draw } else { News::End });
    }
    if ready.get(2) == Some(&true) {
        let mut key = [0_u8; 16];
        let read = rustix::io::retry_on_intr(|| rustix::io::read(input, &mut key)).unwrap_or(0);
        // End of file: whoever typed is gone, and so is who looked.
        return Ok(if read == 0 || key[..read].contains(&b'q') { News::End } else { News::Draw });
    }
    Ok(News::Event)
}

fn drain(bell: &OwnedFd) {
    let mut bytes = [0_u8; 512];
    while rustix::io::read(bell, &mut bytes).is_ok_and(|read| read > 0) {}
}

/// A thread per instance that rings when something happens there.
struct Listeners {
    ring: OwnedFd,
    heard: BTreeMap<String, std::thread::JoinHandle<()>>,
}

impl Listeners {
    /// Hears all of these; a stream that ended (its daemon died, or the instance did) is begun again.
    fn hear(&mut self, running: &[Found]) {
        self.heard.retain(|name, thread| !thread.is_finished() && running.iter().any(|found| found.name == *name));
        for found in running {
            if self.heard.contains_key(&found.name) {
                continue;
            }
            // Without a thread it is looked at every two seconds, as without a stream.
            let Ok(ring) = self.ring.try_clone() else { continue };
            let socket = found.control_socket.clone();
            let listen = move || {
                let Ok(mut client) = Client::connect(&socket, ANSWER_WITHIN) else { return };
                if client.stream(&Request::Events { since: Some(Cursor::NOW), follow: true, services: Vec::new() }).is_err() {
                    return;
                }
                while client.next(None).is_ok() {
                    // A full pipe rings already.
                    let _ = rustix::io::write(&ring, b"!");
                }
                let _ = rustix::io::write(&ring, b"!");
            };
            if let Ok(thread) = std::thread::Builder::new().name("events".to_owned()).spawn(listen) {
                self.heard.insert(found.name.clone(), thread);
            }
        }
    }
}

//! Catching `bind` and `listen` of a throw-away child, and answering them in every way that the keeper does.

use super::{Child, Failure, Try, Words, call, hear, readable, say, unword, word, wrong};
use crate::memory::SharedRegion;
use crate::process;
use crate::seccomp::{self, Answer, Call, Catch, Notification, Wait};
use crate::socket;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trap {
    /// The filter is in, and `bind` and `listen` were answered with success, with an error, and with "go on".
    pub answered: Try,
    /// Whether the filter could only be installed after `no_new_privs` was set; unknown if it could not be installed.
    pub needs_no_new_privs: Option<bool>,
    /// A signal that the caller handles did not interrupt a `bind` that was being answered.
    pub unbroken: Try,
    /// A listening socket of ours took the place of the caller's.
    pub replaced: Try,
}

/// An errno that no `listen` has of itself: who gets it was answered by us.
const OURS: Errno = Errno::XDEV;
const INSTALL: &str = "seccomp(SET_MODE_FILTER, NEW_LISTENER)";

/// Tries it.
pub fn trap() -> Trap {
    let mut trap = Trap { answered: Ok(()), needs_no_new_privs: None, unbroken: not_tried(), replaced: not_tried() };
    match play(&mut trap) {
        Err(failure) => trap.answered = Err(failure),
        Ok((caught, killable)) => {
            // Played in any case: the caller makes the call.
            let uninterrupted = caught.interrupt();
            trap.unbroken = unword(killable, "seccomp(WAIT_KILLABLE_RECV)").and(uninterrupted);
            trap.replaced = caught.replace();
        }
    }
    trap
}

fn not_tried() -> Try {
    wrong("not tried: bind and listen cannot be caught")
}

/// The caller: installs the filter, then makes the calls that [`play`] expects, in its order, and reports each.
fn caller(channel: &OwnedFd) {
    let (listener, needs, killable) = install();
    let installed = word(listener.as_ref().map_err(|errno| *errno));
    say(channel, [installed, needs, killable, 0], listener.as_ref().ok().map(AsFd::as_fd));
    drop(listener);
    let (Some(_), 0) = (hear(channel), installed) else { return };
    let Ok(socket) = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None) else { return };
    let bind = || word(rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))));
    let listen = || word(rustix::net::listen(&socket, 1));
    let port = || socket::address(&socket).map_or(-1, |address| i64::from(address.port()));
    let inode = || socket::inode(&socket).map_or(0, i64::from);
    process::note(rustix::process::Signal::USR1.as_raw());
    say(channel, [bind(), port(), 0, 0], None);
    say(channel, [listen(), 0, 0, 0], None);
    say(channel, [bind(), port(), 0, 0], None);
    say(channel, [listen(), 0, 0, 0], None);
    say(channel, [listen(), inode(), 0, 0], None);
    // Until it is killed.
    let _ = hear(channel);
}

/// The filter's descriptor; whether it needed `no_new_privs`; with what `WAIT_KILLABLE_RECV` was refused.
fn install() -> (Result<OwnedFd, Errno>, i64, i64) {
    let first = seccomp::install_once(Wait::Killable, Catch::Listeners);
    let needs = matches!(first, Err(Errno::ACCESS));
    let best = if needs {
        rustix::thread::set_no_new_privs(true).and_then(|()| seccomp::install_once(Wait::Killable, Catch::Listeners))
    } else {
        first
    };
    let killable = word(best.as_ref().map_err(|errno| *errno));
    let listener = if matches!(best, Err(Errno::INVAL)) { seccomp::install_once(Wait::Interruptible, Catch::Listeners) } else { best };
    (listener, i64::from(needs), killable)
}

/// Our side: receives each call and answers it. Returns the child with its two last calls to come, and with what the killable
/// wait was refused.
fn play(trap: &mut Trap) -> Try<(Caught, i64)> {
    let child = Child::start(caller)?;
    let ([installed, needs, killable, _], listener) = child.hear("installing the filter")?;
    unword(installed, INSTALL)?;
    trap.needs_no_new_privs = Some(needs == 1);
    let Some(listener) = listener else { return wrong("the filter is in, but its descriptor did not come") };
    let caught = Caught { child, listener, inbox: SharedRegion::new(4096).map_err(call("mmap"))? };
    say(&caught.child.channel, [0; 4], None);

    let bind = caught.receive(Call::Bind)?;
    let [result, port, ..] = caught.answer(&bind, Answer::Success)?;
    if (result, port) != (0, 0) {
        return wrong(format!("a bind answered with success returned {result} and port {port}"));
    }
    let listen = caught.receive(Call::Listen)?;
    let [result, ..] = caught.answer(&listen, Answer::Error(OURS))?;
    if result != i64::from(OURS.raw_os_error()) {
        return wrong(format!("a listen answered with error {} returned {result}", OURS.raw_os_error()));
    }
    let bind = caught.receive(Call::Bind)?;
    let [result, port, ..] = caught.answer(&bind, Answer::Continue)?;
    unword(result, "bind(127.0.0.1:0), answered with CONTINUE")?;
    if port <= 0 {
        return wrong("a bind answered with CONTINUE was not carried out");
    }
    Ok((caught, killable))
}

/// A child whose calls are caught.
struct Caught {
    child: Child,
    listener: OwnedFd,
    inbox: SharedRegion,
}

impl Caught {
    fn receive(&self, expected: Call) -> Try<Notification> {
        readable(&self.listener, "the caught call")?;
        let received = seccomp::receive(&self.listener, self.inbox, 0).map_err(call("ioctl(SECCOMP_IOCTL_NOTIF_RECV)"))?;
        match received {
            Some(notification) if notification.call == expected && notification.tid == self.child.pid => Ok(notification),
            other => wrong(format!("expected the child's {expected:?}, received {other:?}")),
        }
    }

    /// Answers, and hears what the caller got.
    fn answer(&self, notification: &Notification, answer: Answer) -> Try<Words> {
        match seccomp::answer(&self.listener, notification.id, answer) {
            // The caller was interrupted: it says so itself.
            Ok(()) | Err(Errno::NOENT) => self.child.hear("the answered call").map(|(words, _)| words),
            Err(errno) => Err(Failure::Call { call: "ioctl(SECCOMP_IOCTL_NOTIF_SEND)", errno }),
        }
    }

    fn interrupt(&self) -> Try {
        let listen = self.receive(Call::Listen)?;
        let sent = process::signal(&self.child.pidfd, rustix::process::Signal::USR1.as_raw());
        let [result, ..] = self.answer(&listen, Answer::Success)?;
        sent.map_err(call("pidfd_send_signal"))?;
        unword(result, "listen, with a signal while it waited")
    }

    fn replace(&self) -> Try {
        let ours = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(call("socket"))?;
        rustix::net::bind(&ours, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).map_err(call("bind(127.0.0.1:0)"))?;
        rustix::net::listen(&ours, 1).map_err(call("listen"))?;
        let listen = self.receive(Call::Listen)?;
        let replaced = seccomp::replace_descriptor(&self.listener, listen.id, &ours, listen.arguments[0] as i32, true);
        let [result, inode, ..] = self.answer(&listen, Answer::Success)?;
        replaced.map_err(call("ioctl(SECCOMP_IOCTL_NOTIF_ADDFD)"))?;
        unword(result, "listen on the replaced socket")?;
        let expected = socket::inode(&ours).map_err(call("fstat"))?;
        if inode == i64::from(expected) { Ok(()) } else { wrong("the child's descriptor still is its own socket") }
    }
}

//! What a service says with `sd_notify(3)`: `READY=1`, `STOPPING=1`, `STATUS=…`, and the watchdog. Everything is read, so that it
//! never waits for us; other words are passed over.
//!
//! The watchdog is the service's own wish: it sends `WATCHDOG_USEC=N`, and from then on `WATCHDOG=1` at least that often. If it
//! does not, or says `WATCHDOG=trigger`, it is wedged, and gets SIGABRT; what follows is a crash like any other. A daemon that was started anew
//! knows of no interval until the service names it again.

use crate::reactor::Message;
use crate::watch::watch;
use rustix::io::Errno;
use stayput_model::event::{Event, GenerationId};
use stayput_model::text::printable;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::Interest;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

/// What matters of a datagram's lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// `READY=1`
    Ready,
    /// `STOPPING=1`
    Stopping,
    /// `STATUS=…`, made printable.
    Status(String),
    /// `WATCHDOG=1`
    Alive,
    /// `WATCHDOG_USEC=…`: how often it will say that it is alive; zero: no more.
    Watchdog(Duration),
    /// `WATCHDOG=trigger`, or it has not said that it is alive for so long.
    Wedged(Option<Duration>),
}

/// The words of one datagram.
fn parse(datagram: &[u8]) -> Vec<Said> {
    let line = |line: &[u8]| match line {
        b"READY=1" => Some(Said::Ready),
        b"STOPPING=1" => Some(Said::Stopping),
        b"WATCHDOG=1" => Some(Said::Alive),
        b"WATCHDOG=trigger" => Some(Said::Wedged(None)),
        line => {
            let text = String::from_utf8_lossy(line);
            if let Some(status) = text.strip_prefix("STATUS=") {
                return Some(Said::Status(printable(status).into_owned()));
            }
            let microseconds = text.strip_prefix("WATCHDOG_USEC=")?.parse().ok()?;
            Some(Said::Watchdog(Duration::from_micros(microseconds)))
        }
    };
    datagram.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// One datagram, and the user who sent it, where the socket was made to ask that (`SO_PASSCRED`): it is then one that everybody can send to.
fn receive(socket: &OwnedFd, datagram: &mut [u8]) -> Result<(usize, Option<u32>), Errno> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1), ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let length = recvmsg(socket, &mut [std::io::IoSliceMut::new(datagram)], &mut control, flags)?.bytes;
    let sender = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(sender) => Some(sender.uid.as_raw()),
        _ => None,
    });
    Ok((length, sender))
}

/// Whether what a user sent counts: the service's own, ours, and root.
fn is_heard(sender: Option<u32>, user: Option<u32>) -> bool {
    sender.is_none_or(|sender| Some(sender) == user || sender == 0 || sender == rustix::process::geteuid().as_raw())
}

/// Reads what a generation says until its socket is gone. `matters`: its `READY=1` is what makes it ready. `user`: who it runs as, if not as we.
pub(crate) async fn read(socket: OwnedFd, generation: GenerationId, matters: bool, user: Option<u32>, to: UnboundedSender<Message>) {
    let Ok(socket) = watch(socket, Interest::READABLE) else { return };
    let mut datagram = [0_u8; 4096];
    let mut watchdog: Option<(Duration, Instant)> = None;
    loop {
        let ready = if let Some((interval, due)) = watchdog {
            let Ok(ready) = tokio::time::timeout_at(due, socket.readable()).await else {
                watchdog = None;
                let _ = to.send(Message::Said(generation, Said::Wedged(Some(interval))));
                continue;
            };
            ready
        } else {
            socket.readable().await
        };
        let Ok(mut ready) = ready else { return };
        match receive(socket.get_ref(), &mut datagram) {
            Ok((_, sender)) if !is_heard(sender, user) => {}
            Ok((length, _)) => {
                for said in parse(&datagram[..length.min(datagram.len())]) {
                    // The reactor is gone only when the daemon ends.
                    let _ = match said {
                        Said::Ready if matters => {
                            let evidence = "it said READY=1".to_owned();
                            to.send(Message::World(Event::Ready { generation, evidence }))
                        }
                        Said::Ready => Ok(()),
                        Said::Alive => {
                            watchdog = watchdog.map(|(interval, _)| (interval, Instant::now() + interval));
                            Ok(())
                        }
                        Said::Watchdog(interval) => {
                            watchdog = (interval > Duration::ZERO).then(|| (interval, Instant::now() + interval));
                            Ok(())
                        }
                        said @ (Said::Stopping | Said::Status(_) | Said::Wedged(_)) => to.send(Message::Said(generation, said)),
                    };
                }
            }
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_apart() {
        assert_eq!(parse(b"READY=1"), [Said::Ready]);
        assert_eq!(parse(b"STATUS=up \x1b[2J\nREADY=1\nMAINPID=7"), [Said::Status(printable("up \x1b[2J").into_owned()), Said::Ready]);
        assert_eq!(parse(b"WATCHDOG_USEC=500000\nWATCHDOG=1"), [Said::Watchdog(Duration::from_millis(500)), Said::Alive]);
        assert_eq!(parse(b"WATCHDOG=trigger\nSTOPPING=1"), [Said::Wedged(None), Said::Stopping]);
        for wrong in [&b""[..], b"READY=0", b"XREADY=1", b"READY=11", b"WATCHDOG_USEC=soon", b"\xff\xfe"] {
            assert_eq!(parse(wrong), []);
        }
    }

    #[test]
    fn a_socket_that_everybody_can_reach_says_who_sent() {
        let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().expect("pair");
        let ours = OwnedFd::from(ours);
        let mut datagram = [0; 64];
        theirs.send(b"READY=1").expect("send");
        assert_eq!(receive(&ours, &mut datagram), Ok((7, None)), "not asked for");
        rustix::net::sockopt::set_socket_passcred(&ours, true).expect("set");
        theirs.send(b"READY=1").expect("send");
        let own = rustix::process::geteuid().as_raw();
        assert_eq!(receive(&ours, &mut datagram), Ok((7, Some(own))));
        assert!(
            is_heard(None, None) && is_heard(Some(own), Some(12_345)) && is_heard(Some(12_345), Some(12_345)) && is_heard(Some(0), None)
        );
        assert!(!is_heard(Some(12_346), Some(12_345)) && !is_heard(Some(12_346), None));
    }

    /// Without sleeping: the clock is tokio's, and moves by itself when nothing else can happen.
    #[test]
    fn silence_is_noticed_when_it_was_promised_to_be_broken() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().expect("pair");
            ours.set_nonblocking(true).expect("set");
            let (to, mut from) = tokio::sync::mpsc::unbounded_channel();
            theirs.send(b"WATCHDOG_USEC=1000").expect("send");
            let reading = read(ours.into(), GenerationId(3), false, None, to);
            tokio::select! {
                () = reading => panic!("the socket is open"),
                said = from.recv() => {
                    let wedged = Said::Wedged(Some(Duration::from_millis(1)));
                    assert!(matches!(said, Some(Message::Said(GenerationId(3), said)) if said == wedged));
                }
            }
        });
    }
}

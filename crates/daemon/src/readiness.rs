//! Finds out whether a generation is ready.
//!
//! "It listens" is not ready: a server whose workers die at import listens and serves nobody. The least that counts is a
//! connection that was *accepted*: its server side has an inode, or bytes (or an end) came back. The kernel has no event for
//! `accept`, so that is looked for again and again, 0.5 ms to 20 ms apart.
//!
//! While another generation has the connections, the probe reaches the new one through the public port by its source port, which the keeper
//! routes.

use crate::connections::Observer;
use crate::link::Link;
use crate::reactor::Message;
use stayput_keeper::protocol::{GenerationId, Reply, Request};
use stayput_model::event::{self, Event};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{sleep, timeout};

const LOOK_FIRST: Duration = Duration::from_micros(500);
const LOOK_LONGEST: Duration = Duration::from_millis(20);
/// Between two tries of a check that answered "no".
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(1);
/// Longest answer time of one HTTP try.
const HTTP_TIME: Duration = Duration::from_secs(5);
/// The status line of an HTTP answer is within this.
const HTTP_HEAD: usize = 1024;

/// What to probe.
#[derive(Debug)]
pub(crate) struct Probe {
    pub(crate) generation: GenerationId,
    /// Its listeners, and whether they take new connections anyway.
    pub(crate) listeners: Vec<(SocketAddr, bool)>,
    pub(crate) check: Check,
}

/// How.
#[derive(Debug)]
pub(crate) enum Check {
    Accept,
    Http { path: String, host: Option<String> },
}

/// Probes until the generation is ready or the task is called off.
pub(crate) async fn run(probe: Probe, link: Rc<Link>, to: UnboundedSender<Message>) {
    let mut wait = RETRY_FIRST;
    loop {
        match attempt(&probe, &link, &to).await {
            Ok(evidence) => {
                let generation = event::GenerationId(probe.generation.0);
                // The reactor is gone only when the daemon ends.
                let _ = to.send(Message::World(Event::Ready { generation, evidence }));
                return;
            }
            Err(what) => {
                let generation = event::GenerationId(probe.generation.0);
                let _ = to.send(Message::World(Event::NotYetReady { generation, what }));
            }
        }
        sleep(wait).await;
        wait = (wait * 2).min(RETRY_LONGEST);
    }
}

async fn attempt(probe: &Probe, link: &Link, to: &UnboundedSender<Message>) -> Result<String, String> {
    let mut said = Vec::new();
    match &probe.check {
        Check::Accept => {
            for (address, selected) in &probe.listeners {
                said.push(accept(probe.generation, *address, *selected, link, to).await?);
            }
            Ok(format!("a probe connection was accepted on {}", said.join(", ")))
        }
        Check::Http { path, host } => {
            for (address, selected) in &probe.listeners {
                match http(probe.generation, *address, *selected, path, host.as_deref(), HTTP_TIME, link).await {
                    Ok(evidence) => return Ok(evidence),
                    Err(what) => said.push(what),
                }
            }
            Err(said.join("; "))
        }
    }
}

/// Where a probe connects to, and from: a wildcard is reached over the loopback of its family.
fn route(listener: SocketAddr) -> (SocketAddr, SocketAddr) {
    let ip = match listener.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let mut target = listener;
    target.set_ip(ip);
    let mut source = target;
    source.set_port(0);
    (source, target)
}

/// Connects so that exactly this generation gets the connection.
async fn connect(generation: GenerationId, listener: SocketAddr, selected: bool, link: &Link) -> Result<TcpStream, String> {
    let (source, target) = route(listener);
    let failed = |what: &str, error: io::Error| format!("{what} {target}: {error}");
    let socket = if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(|error| failed("socket for", error))?;
    socket.bind(source).map_err(|error| failed("bind a probe for", error))?;
    let port = socket.local_addr().map_err(|error| failed("getsockname of a probe for", error))?.port();
    let mut connecting = pin!(socket.connect(target));
    let connected = if selected {
        connecting.await
    } else {
        // A port routes one probe at a time: the next one has to wait until the request of this one is sent, which the first poll does.
        let turn = link.routing().await;
        match link.call(Request::Route { generation, source_port: Some(port) }).await {
            Some(Reply::Done) => {}
            Some(Reply::Failed { what, .. }) => return Err(what),
            Some(_) | None => return Err("the keeper did not route the probe".to_owned()),
        }
        let first = poll_fn(|context| Poll::Ready(connecting.as_mut().poll(context))).await;
        drop(turn);
        match first {
            Poll::Ready(connected) => connected,
            Poll::Pending => connecting.await,
        }
    };
    connected.map_err(|error| failed("connect to", error))
}

pub(crate) async fn accept(
    generation: GenerationId,
    listener: SocketAddr,
    selected: bool,
    link: &Link,
    to: &UnboundedSender<Message>,
) -> Result<String, String> {
    let mut stream = connect(generation, listener, selected, link).await?;
    let peer = stream.local_addr().map_err(|error| format!("getsockname of a probe: {error}"))?;
    let mut observer = Observer::open()?;
    let mut wait = LOOK_FIRST;
    let (mut said, mut spoke) = (false, false);
    loop {
        if wait == LOOK_LONGEST && !std::mem::replace(&mut said, true) {
            let what = format!("the probe connection to {listener} waits in its accept queue");
            let _ = to.send(Message::World(Event::NotYetReady { generation: event::GenerationId(generation.0), what }));
        }
        match observer.is_accepted(listener, peer)? {
            Some(true) => break,
            // With TCP_DEFER_ACCEPT (tcp(7); Apache, nginx `deferred`) a connection is half open on the server's side until data
            // comes. An empty line is data, and before an HTTP request it is ignored (RFC 9112, 2.2).
            None if wait == LOOK_LONGEST && !spoke => {
                spoke = true;
                // If it is gone already, its end is readable.
                let _ = stream.write_all(b"\r\n").await;
            }
            Some(false) | None => {}
        }
        // A server that speaks first, or closes at once, has accepted.
        if let Ok(ready) = timeout(wait, stream.readable()).await {
            ready.map_err(|error| format!("the probe connection to {listener}: {error}"))?;
            return match stream.try_read(&mut [0_u8; 1]) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    Err(format!("the probe connection to {listener} was reset: {error}"))
                }
                _ => Ok(listener.to_string()),
            };
        }
        wait = (wait * 2).min(LOOK_LONGEST);
    }
    Ok(listener.to_string())
}

pub(crate) async fn http(
    generation: GenerationId,
    listener: SocketAddr,
    selected: bool,
    path: &str,
    host: Option<&str>,
    limit: Duration,
    link: &Link,
) -> Result<String, String> {
    // What is told of it goes further than to the service.
    let told = stayput_model::secrets::hidden(path);
    let exchange = async {
        let mut stream = connect(generation, listener, selected, link).await?;
        let (_, target) = route(listener);
        let host = host.map_or_else(|| target.to_string(), str::to_owned);
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: stayput\r\nAccept: */*\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.map_err(|error| format!("GET {told}: {error}"))?;
        let mut head = Vec::new();
        while !head.contains(&b'\n') && head.len() < HTTP_HEAD {
            match stream.read_buf(&mut head).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return Err(format!("GET {told}: {error}")),
            }
        }
        match status(&head) {
            Some(status @ 200..=399) => Ok(format!("GET {told} on {listener} was answered with {status}")),
            Some(status) => Err(format!("GET {told} on {listener} was answered with {status}")),
            None => Err(format!("GET {told} on {listener} was not answered with HTTP")),
        }
    };
    timeout(limit, exchange).await.unwrap_or_else(|_| Err(format!("GET {told} on {listener}: no answer within {limit:?}")))
}

/// The number in `HTTP/1.1 204 No Content`.
fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_ascii_whitespace();
    words.next().filter(|version| version.starts_with("HTTP/"))?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines() {
        assert_eq!(status(b"HTTP/1.1 204 No Content\r\n"), Some(204));
        assert_eq!(status(b"HTTP/1.0 302"), Some(302));
        for wrong in [&b""[..], b"SSH-2.0-x\r\n", b"HTTP/1.1 abc\r\n", b"HTTP/1.1\r\n", b"\xff\xfe"] {
            assert_eq!(status(wrong), None);
        }
    }

    #[test]
    fn wildcards_are_reached_over_the_loopback() {
        let route = |text: &str| {
            let (source, target) = route(text.parse().unwrap());
            (source.to_string(), target.to_string())
        };
        assert_eq!(route("0.0.0.0:80"), ("127.0.0.1:0".to_owned(), "127.0.0.1:80".to_owned()));
        assert_eq!(route("[::]:80"), ("[::1]:0".to_owned(), "[::1]:80".to_owned()));
        assert_eq!(route("10.1.2.3:80"), ("10.1.2.3:0".to_owned(), "10.1.2.3:80".to_owned()));
    }
}

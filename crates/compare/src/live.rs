//! Clients with a connection that is meant to last, as a dashboard's WebSocket is: each holds one, notices its end, and tries again ten times a
//! second until it has another.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::result::Live;

/// How many.
pub(crate) const CLIENTS: u32 = 3;
const RETRY: Duration = Duration::from_millis(100);

/// Clients that run until they are asked for what they saw.
#[derive(Debug)]
pub(crate) struct LiveClients {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    cuts: Vec<Instant>,
    refused: u32,
    longest_without: Duration,
    connected: bool,
}

impl LiveClients {
    /// Starts them.
    pub(crate) fn start(port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |_| {
            let stop = Arc::clone(&stop);
            std::thread::Builder::new().name("live".to_owned()).spawn(move || hold(port, &stop)).ok()
        };
        let threads = (0..CLIENTS).filter_map(start).collect();
        Self { stop, threads }
    }

    /// Ends them; times count from `ordered`.
    pub(crate) fn finish(mut self, ordered: Instant) -> Live {
        self.stop.store(true, Ordering::Relaxed);
        let seen: Vec<Seen> = self.threads.drain(..).filter_map(|thread| thread.join().ok()).collect();
        let first_cut = seen.iter().flat_map(|seen| &seen.cuts).min();
        Live {
            clients: seen.iter().filter(|seen| seen.connected).count() as u32,
            cut: seen.iter().map(|seen| seen.cuts.len() as u32).sum(),
            refused: seen.iter().map(|seen| seen.refused).sum(),
            longest_without_ms: seen.iter().map(|seen| seen.longest_without.as_millis() as u64).max().unwrap_or_default(),
            first_cut_ms: first_cut.map(|cut| cut.saturating_duration_since(ordered).as_millis() as u64),
        }
    }
}

impl Drop for LiveClients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn hold(port: u16, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut without_since = None::<Instant>;
    let ended = || stop.load(Ordering::Relaxed);
    while !ended() {
        match connect(port) {
            Ok(mut stream) => {
                seen.connected = true;
                let had_to_wait = without_since.take().map(|since| since.elapsed());
                seen.longest_without = seen.longest_without.max(had_to_wait.unwrap_or_default());
                if !read_until_its_end(&mut stream, &ended) {
                    break;
                }
                let now = Instant::now();
                seen.cuts.push(now);
                without_since = Some(now);
            }
            Err(error) => {
                seen.refused += u32::from(error.kind() == ErrorKind::ConnectionRefused);
                std::thread::sleep(RETRY);
            }
        }
    }
    if let Some(since) = without_since {
        seen.longest_without = seen.longest_without.max(since.elapsed());
    }
    seen
}

/// With the first bytes of an answer: a connection that nobody accepted is none.
fn connect(port: u16) -> std::io::Result<TcpStream> {
    // A full queue drops what comes, and connect() would try for two minutes.
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), Duration::from_millis(500))?;
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    stream.write_all(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut first = [0; 256];
    if stream.read(&mut first)? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
    Ok(stream)
}

/// True: the server's side ended it. False: we were told to stop.
fn read_until_its_end(stream: &mut TcpStream, ended: &impl Fn() -> bool) -> bool {
    let mut buffer = [0; 256];
    loop {
        match stream.read(&mut buffer) {
            Ok(1..) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Ok(0) | Err(_) => return !ended(),
        }
        if ended() {
            return false;
        }
    }
}

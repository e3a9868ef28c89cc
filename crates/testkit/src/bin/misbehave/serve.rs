//! Answers as the real test servers do: who answered (pid, generation) and which request this was (n).

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

/// A listener with a thread that accepts.
pub(crate) struct Serving {
    closing: Arc<AtomicBool>,
    wake: Arc<rustix::fd::OwnedFd>,
    thread: std::thread::JoinHandle<()>,
}

/// Starts to accept.
pub(crate) fn start(listener: TcpListener) -> io::Result<Serving> {
    let closing = Arc::new(AtomicBool::new(false));
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
    let (of_thread, wake_of_thread) = (Arc::clone(&closing), Arc::clone(&wake));
    let thread = std::thread::spawn(move || accept_until_closed(&listener, &of_thread, &wake_of_thread));
    Ok(Serving { closing, wake, thread })
}

impl Serving {
    /// Closes the listener; connections that were accepted are served on.
    pub(crate) fn close_listener(self) {
        self.closing.store(true, Ordering::SeqCst);
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        let _ = self.thread.join();
    }
}

fn accept_until_closed(listener: &TcpListener, closing: &AtomicBool, wake: &impl AsFd) {
    while !closing.load(Ordering::SeqCst) {
        let mut ready = [PollFd::new(listener, PollFlags::IN), PollFd::new(wake, PollFlags::IN)];
        if poll(&mut ready, None).is_err() || !ready[0].revents().contains(PollFlags::IN) {
            continue;
        }
        if let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || converse(stream));
        }
    }
}

fn converse(stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let Ok(reading) = stream.try_clone() else {
        return;
    };
    let (mut reader, mut writer) = (BufReader::new(reading), stream);
    while let Ok(Some(request)) = read_request(&mut reader) {
        if request.slow > 0 {
            std::thread::sleep(Duration::from_millis(request.slow));
        }
        let generation = std::env::var("STAYPUT_GENERATION").unwrap_or_default();
        let body = serde_json::json!({ "pid": std::process::id(), "generation": generation, "n": request.n }).to_string();
        let connection = if request.close { "close" } else { "keep-alive" };
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n{body}",
            body.len()
        );
        if writer.write_all(answer.as_bytes()).is_err() || request.close {
            return;
        }
    }
}

struct Request {
    n: String,
    slow: u64,
    close: bool,
}

fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let target = line.split(' ').nth(1).unwrap_or("/").to_owned();
    let mut close = false;
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let header = line.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        close |= header == "connection: close";
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let parameter = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap_or("");
    let slow = if path == "/slow" { parameter("ms").parse().unwrap_or(100) } else { 0 };
    Ok(Some(Request { n: parameter("n").to_owned(), slow, close }))
}

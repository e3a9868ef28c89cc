//! A dashboard in this process, in front of a fake control server, and a client that says exactly what it is told to.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use stayput_dashboard::{Audit, Options, Tokens, run};
use stayput_testkit::fake_control::{FakeControl, Scene};

/// Nothing here takes longer than this.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A dashboard and what is behind it.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) fake: FakeControl,
    pub(crate) directory: tempfile::TempDir,
}

/// Serves a scene. The thread lives as long as the test process does.
pub(crate) fn serve(scene: Scene, adjust: impl FnOnce(&mut Options)) -> Served {
    start(scene, "", adjust)
}

/// Serves a scene below a base path.
pub(crate) fn serve_at(scene: Scene, base: &str) -> Served {
    start(scene, base, |options| options.base = format!("{base}/"))
}

fn start(scene: Scene, base: &str, adjust: impl FnOnce(&mut Options)) -> Served {
    let directory = tempfile::tempdir().unwrap();
    let control = directory.path().join("control.sock");
    let fake = FakeControl::start(&control, scene).unwrap();
    let mut options = Options::new(control);
    options.listen = vec!["127.0.0.1:0".parse().unwrap()];
    adjust(&mut options);
    let (said, hears) = channel();
    std::thread::spawn(move || run(options, Audit::new(move |line| drop(said.send(line.to_owned())))).unwrap());
    let line = hears.recv_timeout(SOON).unwrap();
    let address = line.split("http://").nth(1).unwrap().split('/').next().unwrap().parse().unwrap();
    // The receiver goes on, so that what is said later has somewhere to go.
    std::thread::spawn(move || while hears.recv().is_ok() {});
    let served = Served { address, fake, directory };
    let until = Instant::now() + SOON;
    while served.get(&format!("{base}/readyz"), &[]).status != 200 {
        assert!(Instant::now() < until, "the dashboard did not reach the fake daemon");
    }
    served
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

impl Served {
    pub(crate) fn tokens(&self) -> Tokens {
        Tokens::read(&self.directory.path().join("dashboard.json")).unwrap().unwrap()
    }

    pub(crate) fn bearer(&self) -> (&'static str, String) {
        ("Authorization", format!("Bearer {}", self.tokens().operate))
    }

    pub(crate) fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send("GET", path, headers, "")
    }

    /// As our own page would: with its header.
    pub(crate) fn look(&self, path: &str) -> Answer {
        self.get(path, &[("X-Stayput", "1")])
    }

    pub(crate) fn post(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.send("POST", path, headers, body)
    }

    /// As our own page would, with the operator's token.
    pub(crate) fn act(&self, path: &str, body: &str) -> Answer {
        let (name, value) = self.bearer();
        self.post(path, &[("X-Stayput", "1"), ("Content-Type", "application/json"), (name, &value)], body)
    }

    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut stream = self.open(method, path, headers, body);
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        parse(&String::from_utf8_lossy(&all))
    }

    /// Sends a request and leaves its answer to be read.
    pub(crate) fn open(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            let _ = write!(head, "Host: {}\r\n", self.address);
        }
        for (name, value) in headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if !body.is_empty() || method == "POST" {
            let _ = write!(head, "Content-Length: {}\r\n", body.len());
        }
        // A server that refuses early may have closed already; what it said is still to be read.
        let _ = stream.write_all(format!("{head}\r\n{body}").as_bytes());
        stream
    }

    /// Follows a stream.
    pub(crate) fn follow(&self, path: &str, headers: &[(&str, &str)]) -> Events {
        Events { lines: BufReader::new(self.open("GET", path, headers, "")) }
    }
}

fn parse(all: &str) -> Answer {
    let (head, rest) = all.split_once("\r\n\r\n").unwrap_or((all, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunk(rest) } else { rest.to_owned() };
    Answer { status, head: head.to_owned(), body }
}

fn unchunk(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        if size == 0 || after.len() < size {
            break;
        }
        body.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
    }
    body
}

/// A stream of server-sent events. Chunk sizes are lines of their own between them, and no field looks like one.
pub(crate) struct Events {
    lines: BufReader<TcpStream>,
}

/// One of them.
#[derive(Debug, Clone)]
pub(crate) struct SentEvent {
    pub(crate) name: String,
    pub(crate) id: Option<String>,
    pub(crate) data: serde_json::Value,
}

impl Events {
    /// The next one; `None` at the end. Signs of life are none: a stream that goes on without a word fails in time.
    pub(crate) fn next(&mut self) -> Option<SentEvent> {
        let (mut name, mut id) = (None, None);
        let until = Instant::now() + SOON;
        loop {
            assert!(Instant::now() < until, "the stream goes on and says nothing");
            let mut line = String::new();
            if self.lines.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            let line = line.trim_end();
            if let Some(found) = line.strip_prefix("event: ") {
                name = Some(found.to_owned());
            } else if let Some(found) = line.strip_prefix("id: ") {
                id = Some(found.to_owned());
            } else if let (Some(data), Some(name)) = (line.strip_prefix("data: "), name.take()) {
                return Some(SentEvent { name, id, data: serde_json::from_str(data).unwrap() });
            }
        }
    }

    /// Reads on to the next event of this name.
    pub(crate) fn until(&mut self, name: &str) -> SentEvent {
        let until = Instant::now() + SOON;
        loop {
            assert!(Instant::now() < until, "no {name} in {SOON:?}");
            let event = self.next().unwrap_or_else(|| panic!("the stream ended before {name}"));
            if event.name == name {
                return event;
            }
        }
    }

    /// The ids of the next so many records.
    pub(crate) fn ids(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.until("record").id.unwrap()).collect()
    }
}

//! Clients of any server here, with a fresh connection per request: HTTP for most, a question of their own for Redis and memcached; and who it is that
//! answers.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::further::Further;
use crate::load::{Load, Plan};
use crate::wait;

/// Longer than any of these servers takes to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// So many clients of a closed loop, each with one request in flight: a SIGKILL may cost no more than that.
pub const CLIENTS: u64 = 4;
/// The pause of each of them between two requests.
const PAUSE: Duration = Duration::from_millis(5);

/// What a load saw, of HTTP and of Redis alike.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Good answers.
    pub ok: u64,
    /// `connect()` said `ECONNREFUSED`.
    pub refused: u64,
    /// Not finished in 30 s.
    pub timed_out: u64,
    /// All that was not answered well, the two above included.
    pub failed: u64,
    /// The longest time without a good answer.
    pub longest_gap_ms: u64,
    /// The longest good answer, from when it was due.
    pub longest_answer_ms: u64,
    /// The first failures in full.
    pub failures: Vec<String>,
}

/// A load that runs.
#[derive(Debug)]
pub struct Clients(Kind);

#[derive(Debug)]
enum Kind {
    Http(Load),
    Other(Ping),
}

/// What is asked of a server that does not speak HTTP, and what ends its answer.
type Question = (&'static [u8], &'static [u8]);

fn question(server: Further) -> Option<Question> {
    match server {
        Further::Redis => Some((b"PING\r\n", b"+PONG\r\n")),
        Further::Memcached => Some((b"mn\r\n", b"MN\r\n")),
        _ => None,
    }
}

impl Clients {
    /// Starts [`CLIENTS`] clients that each wait for an answer before they ask again.
    ///
    /// # Errors
    /// A load that cannot be started.
    pub fn start(server: Further, port: u16) -> std::io::Result<Self> {
        if let Some(question) = question(server) {
            return Ok(Self(Kind::Other(Ping::start(port, question))));
        }
        let clients = usize::try_from(CLIENTS).unwrap_or(usize::MAX);
        let plan = Plan::port(port).clients(clients).think(PAUSE).timeout(PATIENCE).duration(Duration::from_mins(30));
        Ok(Self(Kind::Http(plan.start()?)))
    }

    /// Waits for so many further good answers.
    ///
    /// # Errors
    /// They did not come in time.
    pub fn wait_ok(&self, more: u64) -> Result<(), String> {
        match &self.0 {
            Kind::Http(load) => load.wait_ok(more, PATIENCE),
            Kind::Other(ping) => ping.wait_ok(more),
        }
    }

    /// Asks nothing more, waits for what is in flight, and tells.
    ///
    /// # Errors
    /// The load's own failure.
    pub fn stop(self) -> std::io::Result<Seen> {
        match self.0 {
            Kind::Other(ping) => Ok(ping.stop()),
            Kind::Http(load) => {
                let report = load.stop()?;
                Ok(Seen {
                    ok: report.counts.ok,
                    refused: report.counts.refused,
                    timed_out: report.counts.timed_out,
                    failed: report.counts.failed(),
                    longest_gap_ms: report.longest_gap_ms,
                    longest_answer_ms: report.latency_us.max / 1000,
                    failures: report.failures.iter().map(|failure| format!("{failure:?}")).collect(),
                })
            }
        }
    }
}

/// Closed-loop clients that ask on a fresh connection and want the answer.
#[derive(Debug)]
struct Ping {
    stop: Arc<AtomicBool>,
    ok: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Seen>>,
}

impl Ping {
    fn start(port: u16, question: Question) -> Self {
        let (stop, ok) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..CLIENTS).map(|_| {
            let (stop, ok) = (Arc::clone(&stop), Arc::clone(&ok));
            std::thread::spawn(move || Self::client(port, question, &stop, &ok))
        });
        Self { threads: threads.collect(), stop, ok }
    }

    fn client(port: u16, (command, end): Question, stop: &AtomicBool, ok: &AtomicU64) -> Seen {
        let (mut seen, mut last) = (Seen::default(), Instant::now());
        while !stop.load(Ordering::Relaxed) {
            let asked = Instant::now();
            match ask(port, command, end) {
                Ok(_) => {
                    seen.ok += 1;
                    ok.fetch_add(1, Ordering::Relaxed);
                    seen.longest_gap_ms = seen.longest_gap_ms.max(milliseconds(last.elapsed()));
                    seen.longest_answer_ms = seen.longest_answer_ms.max(milliseconds(asked.elapsed()));
                    last = Instant::now();
                }
                Err(error) => {
                    seen.failed += 1;
                    seen.refused += u64::from(error.kind() == ErrorKind::ConnectionRefused);
                    seen.timed_out += u64::from(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
                    seen.failures.push(error.to_string());
                }
            }
            // The pace of the load, as `think` is for HTTP.
            std::thread::sleep(PAUSE);
        }
        seen
    }

    fn wait_ok(&self, more: u64) -> Result<(), String> {
        let goal = self.ok.load(Ordering::Relaxed) + more;
        wait::until_true("further answers", PATIENCE, || self.ok.load(Ordering::Relaxed) >= goal)
    }

    fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().filter_map(|thread| thread.join().ok()).fold(Seen::default(), |mut all, one| {
            all.ok += one.ok;
            all.refused += one.refused;
            all.timed_out += one.timed_out;
            all.failed += one.failed;
            // Of one client: the others may have been answered meanwhile.
            all.longest_gap_ms = all.longest_gap_ms.max(one.longest_gap_ms);
            all.longest_answer_ms = all.longest_answer_ms.max(one.longest_answer_ms);
            all.failures.extend(one.failures);
            all
        })
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// One command on a fresh connection, read until `end` came.
fn ask(port: u16, command: &[u8], end: &[u8]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(command)?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    while !answer.windows(end.len()).any(|window| window == end) {
        match stream.read(&mut buffer)? {
            0 => return Err(std::io::Error::new(ErrorKind::UnexpectedEof, format!("closed after {} bytes", answer.len()))),
            count => answer.extend_from_slice(&buffer[..count]),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The process that answers now: for a server with workers one of them.
pub fn answering(server: Further, port: u16) -> Option<u32> {
    let told = match server {
        // A field that comes after the one that is wanted.
        Further::Redis => Some(("process_id:", ask(port, b"INFO server\r\n", b"\nuptime_in_days:").ok()?)),
        Further::Memcached => Some(("STAT pid ", ask(port, b"stats\r\n", b"END\r\n").ok()?)),
        _ => None,
    };
    if let Some((field, answer)) = told {
        return answer.lines().find_map(|line| line.trim_end().strip_prefix(field))?.parse().ok();
    }
    let once = Plan::port(port).clients(1).duration(Duration::from_millis(1)).timeout(PATIENCE);
    Some(once.run().ok()?.answerers.first()?.pid)
}

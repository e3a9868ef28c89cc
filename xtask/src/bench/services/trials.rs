//! The trials of stayput: starts, costs, crashes, a rolling restart.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use stayput_testkit::env::TestEnv;
use stayput_testkit::load::Plan;
use stayput_testkit::server::Server;
use stayput_testkit::{process, wait};
use stayput_wire::codec::{self, REQUEST_LINE_MAX};
use stayput_wire::{Request, VERSION};

use super::Bench;

const PATIENCE: Duration = Duration::from_mins(3);
const PARTS: [&str; 3] = ["guard", "keeper", "daemon"];
/// Clock ticks a second (sysconf(_SC_CLK_TCK) on every Linux of today).
const TICKS: f64 = 100.0;

/// Starting many services.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Start {
    pub(super) services: usize,
    pub(super) runs: usize,
    /// From the first fork of a loop that does nothing else, or from the start of `stayput up -d`, until the last service ran; medians.
    pub(super) bare_ms: f64,
    pub(super) stayput_ms: f64,
}

/// What stayput costs while nothing happens.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Cost {
    pub(super) services: usize,
    /// Of guard, keeper and daemon.
    pub(super) pss_kib: [u64; 3],
    pub(super) wake_ups: [u64; 3],
    pub(super) idle_seconds: f64,
    /// `stayput status --json`, the whole command.
    pub(super) status_median_ms: f64,
    pub(super) status_max_ms: f64,
}

/// Services that end at once, for ever.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Crash {
    pub(super) services: usize,
    pub(super) seconds: f64,
    /// Of one processor, in percent: guard, keeper and daemon together.
    pub(super) cpu_percent: f64,
    pub(super) starts_per_second: f64,
    /// A status over the control socket, in milliseconds.
    pub(super) api_p99_ms: f64,
    pub(super) api_max_ms: f64,
    pub(super) asked: usize,
}

/// `stayput restart --all` under load.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Rolling {
    pub(super) services: usize,
    pub(super) seconds: f64,
    pub(super) answered: u64,
    pub(super) refused: u64,
    pub(super) lost: u64,
}

/// A service that says that it runs, by a byte into a pipe with a name, and does nothing.
pub(super) struct Roll {
    pipe: std::path::PathBuf,
    reader: std::fs::File,
}

impl Roll {
    pub(super) fn new(env: &TestEnv) -> Result<Self, String> {
        let pipe = env.path("scratch/running");
        let made = env.as_user("mkfifo".as_ref(), [&pipe]).status().map_err(|error| error.to_string())?;
        if !made.success() {
            return Err(format!("mkfifo ended with {made}"));
        }
        // For both: the end of the file is not reached while nobody writes.
        let reader = std::fs::File::options().read(true).write(true).open(&pipe).map_err(|error| error.to_string())?;
        Ok(Self { pipe, reader })
    }

    pub(super) fn line(&self) -> String {
        format!("echo >{}; exec sleep 1000000", self.pipe.display())
    }

    /// Returns when so many have said that they run.
    pub(super) fn wait(&mut self, count: usize) -> Result<(), String> {
        let mut bytes = [0; 4096];
        let mut seen = 0;
        while seen < count {
            seen += self.reader.read(&mut bytes).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

/// An instance of many services; its `up -d` may wait for ever, and is not waited for.
pub(super) struct Many<'env> {
    env: &'env TestEnv,
    up: Child,
}

impl<'env> Many<'env> {
    pub(super) fn start(env: &'env TestEnv, services: usize, line: &str, more: &str) -> Result<Self, String> {
        let mut text = String::from("name = 'host'\ndashboard = { listen = false }\n");
        for number in 0..services {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "[service.s{number}]\nshell = {line:?}\n{more}");
        }
        let file = env.file("stayput.toml", &text);
        let mut command = env.command(["up", "-d", "-f"]);
        command.arg(file).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self { env, up: command.spawn().map_err(|error| error.to_string())? })
    }

    fn parts(&self) -> Result<[u32; 3], String> {
        wait::until("a status", PATIENCE, || {
            let status = self.env.status()?;
            let pid = |part: &str| status[part]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
            match PARTS.map(pid) {
                [Some(guard), Some(keeper), Some(daemon)] => Ok([guard, keeper, daemon]),
                _ => Err(status.to_string()),
            }
        })
    }
}

impl Drop for Many<'_> {
    fn drop(&mut self) {
        self.env.kill_left();
        let _ = self.up.wait();
    }
}

pub(super) fn median(all: &mut [f64]) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// The loop that a supervisor cannot be faster than.
fn bare(bench: &Bench) -> Result<f64, String> {
    let env = bench.env();
    let mut roll = Roll::new(&env)?;
    let line = roll.line();
    let mut children = Vec::new();
    let begin = Instant::now();
    for _ in 0..bench.options.services {
        let mut command: Command = env.as_user("/bin/sh".as_ref(), ["-c", &line]);
        children.push(command.stdout(Stdio::null()).spawn().map_err(|error| error.to_string())?);
    }
    roll.wait(children.len())?;
    let took = milliseconds(begin);
    env.kill_left();
    for mut child in children {
        let _ = child.wait();
    }
    Ok(took)
}

fn with_stayput(bench: &Bench) -> Result<f64, String> {
    let env = bench.env();
    let mut roll = Roll::new(&env)?;
    let begin = Instant::now();
    let _many = Many::start(&env, bench.options.services, &roll.line(), "")?;
    roll.wait(bench.options.services)?;
    Ok(milliseconds(begin))
}

pub(super) fn start(bench: &Bench) -> Result<Start, String> {
    let (mut bare_ms, mut stayput_ms) = (Vec::new(), Vec::new());
    for _ in 0..bench.options.runs {
        bare_ms.push(bare(bench)?);
        stayput_ms.push(with_stayput(bench)?);
        println!("start: bare {:.0} ms, stayput {:.0} ms", bare_ms.last().unwrap_or(&0.0), stayput_ms.last().unwrap_or(&0.0));
    }
    let (services, runs) = (bench.options.services, bench.options.runs);
    Ok(Start { services, runs, bare_ms: median(&mut bare_ms), stayput_ms: median(&mut stayput_ms) })
}

fn read<T>(parts: [u32; 3], what: &str, look: impl Fn(u32) -> Option<T>) -> Result<[T; 3], String> {
    let [guard, keeper, daemon] = parts.map(|pid| look(pid).ok_or_else(|| format!("{what} of pid {pid} cannot be read")));
    Ok([guard?, keeper?, daemon?])
}

pub(super) fn cost(bench: &Bench, services: usize) -> Result<Cost, String> {
    let env = bench.env();
    let mut roll = Roll::new(&env)?;
    let many = Many::start(&env, services, &roll.line(), "")?;
    roll.wait(services)?;
    let parts = many.parts()?;
    // What has a deadline after a start has passed by then: who listens nowhere for 10 s is taken for a worker, and after 16 s is looked last for
    // listeners that could not be caught.
    std::thread::sleep(Duration::from_secs(if bench.options.quick { 2 } else { 20 }));
    let pss_kib = read(parts, "memory", process::pss_kib)?;
    let begin = Instant::now();
    let before = read(parts, "wake-ups", process::wake_ups)?;
    std::thread::sleep(Duration::from_secs(10));
    let after = read(parts, "wake-ups", process::wake_ups)?;
    let idle_seconds = begin.elapsed().as_secs_f64();
    let wake_ups = [0, 1, 2].map(|part| after[part].saturating_sub(before[part]));
    let mut times = Vec::new();
    for _ in 0..21 {
        let begin = Instant::now();
        let status = env.command(["status", "--json"]).output().map_err(|error| error.to_string())?;
        times.push(milliseconds(begin));
        if !status.status.success() {
            return Err(format!("status: {status:?}"));
        }
    }
    let status_median_ms = median(&mut times);
    let cost =
        Cost { services, pss_kib, wake_ups, idle_seconds, status_median_ms, status_max_ms: times.last().copied().unwrap_or_default() };
    println!("{cost:?}");
    Ok(cost)
}

/// Processor time of a process and its threads, in ticks: fields 14 and 15 of proc_pid_stat(5).
fn ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

fn restarts(env: &TestEnv) -> Result<u64, String> {
    let status = env.status()?;
    Ok(status["services"].as_array().into_iter().flatten().filter_map(|service| service["restarts"].as_u64()).sum())
}

/// A client that reads answers and does not understand them: what that takes in this program is not the daemon's.
struct Asker {
    stream: BufReader<UnixStream>,
    line: Vec<u8>,
}

impl Asker {
    fn connect(socket: &Path) -> Result<Self, String> {
        let stream = UnixStream::connect(socket).map_err(|error| format!("{}: {error}", socket.display()))?;
        let mut asker = Self { stream: BufReader::with_capacity(1 << 16, stream), line: Vec::new() };
        asker.ask(&Request::Hello { version: VERSION, by: None })?;
        Ok(asker)
    }

    /// Milliseconds until the whole answer was there.
    fn ask(&mut self, request: &Request) -> Result<f64, String> {
        let text = codec::encode(request, REQUEST_LINE_MAX).map_err(|error| error.to_string())?;
        let asked = Instant::now();
        self.stream.get_mut().write_all(&text).map_err(|error| error.to_string())?;
        self.line.clear();
        self.stream.read_until(b'\n', &mut self.line).map_err(|error| error.to_string())?;
        let took = milliseconds(asked);
        if self.line.starts_with(b"{\"reply\":{\"failed\"") || !self.line.ends_with(b"\n") {
            return Err(String::from_utf8_lossy(&self.line).into_owned());
        }
        Ok(took)
    }
}

pub(super) fn crash(bench: &Bench) -> Result<Crash, String> {
    let services = bench.options.services;
    let env = bench.env();
    let many = Many::start(&env, services, "exit 1", "restart = 'always'")?;
    let parts = many.parts()?;
    // For ever is after the delays have grown: eight crashes of each take half a minute.
    let crashes = if bench.options.quick { 3 } else { 8 };
    wait::until("some crashes of each", PATIENCE, || match restarts(&env)? {
        seen if seen >= crashes * services as u64 => Ok(()),
        seen => Err(seen.to_string()),
    })?;
    // Twice the longest delay. Nobody asks meanwhile: what answers cost is another figure.
    let seconds = if bench.options.quick { 5.0 } else { 60.0 };
    let (begin, before, restarts_before) = (Instant::now(), read(parts, "time", ticks)?, restarts(&env)?);
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let (after, restarts_after, took) = (read(parts, "time", ticks)?, restarts(&env)?, begin.elapsed().as_secs_f64());
    let mut asker = Asker::connect(&env.attached("host").socket())?;
    let mut times = Vec::new();
    while begin.elapsed().as_secs_f64() < took + seconds / 2.0 {
        times.push(asker.ask(&stayput_testkit::env::STATUS)?);
        std::thread::sleep(Duration::from_millis(100));
    }
    times.sort_by(f64::total_cmp);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let (used, starts) = ((after.iter().sum::<u64>() - before.iter().sum::<u64>()) as f64, (restarts_after - restarts_before) as f64);
    let crash = Crash {
        services,
        seconds: took,
        cpu_percent: used / TICKS / took * 100.0,
        starts_per_second: starts / took,
        api_p99_ms: times.get(times.len() * 99 / 100).copied().unwrap_or_default(),
        api_max_ms: times.last().copied().unwrap_or_default(),
        asked: times.len(),
    };
    println!("{crash:?}");
    Ok(crash)
}

pub(super) fn rolling(bench: &Bench) -> Result<Rolling, String> {
    let services = if bench.options.quick { 4 } else { 20 };
    let kinds = [Server::HttpServer, Server::Node, Server::Gunicorn, Server::FlaskSocketIo];
    let env = bench.env();
    let ports: Vec<u16> = (0..services).map(|_| env.port()).collect();
    let mut text = String::new();
    for (number, port) in ports.iter().enumerate() {
        let kind = kinds[number % kinds.len()];
        let _ = writeln!(text, "[service.s{number:02}]\ncommand = {:?}\nsoak = '200ms'", env.server(kind, *port));
    }
    let host = env.host(&text);
    let plan = |port: &u16| Plan::port(*port).rate(5.0).duration(Duration::from_hours(1)).timeout(Duration::from_secs(30));
    let loads: Vec<_> = ports.iter().map(|port| plan(port).start()).collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    let begin = Instant::now();
    let output = env.cli(["restart", "--all"], Duration::from_mins(10));
    let seconds = begin.elapsed().as_secs_f64();
    if !output.status.success() {
        return Err(format!("restart --all: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let mut rolling = Rolling { services, seconds, answered: 0, refused: 0, lost: 0 };
    for load in loads {
        let counts = load.stop().map_err(|error| error.to_string())?.counts;
        rolling.answered += counts.ok;
        rolling.refused += counts.refused;
        rolling.lost += counts.failed();
    }
    host.down();
    println!("{rolling:?}");
    Ok(rolling)
}

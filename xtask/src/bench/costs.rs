//! What stayput itself costs: time to take a port that becomes free, time to start, memory, wake-ups, throughput, and a thousand restarts.

use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use stayput_testkit::env::{Running, TestEnv};
use stayput_testkit::load::Plan;
use stayput_testkit::server::Server;
use stayput_testkit::{process, wait};

use super::Bench;

const PATIENCE: Duration = Duration::from_mins(1);
/// Stayput's own processes.
pub(super) const PARTS: [&str; 3] = ["guard", "keeper", "daemon"];

/// Durations in microseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Spread {
    pub(super) runs: usize,
    pub(super) median_us: u64,
    pub(super) p99_us: u64,
    pub(super) max_us: u64,
}

impl Spread {
    fn of(mut all: Vec<u64>) -> Self {
        all.sort_unstable();
        let at = |quantile: usize| all.get((all.len() * quantile / 100).min(all.len().saturating_sub(1))).copied().unwrap_or_default();
        Self { runs: all.len(), median_us: at(50), p99_us: at(99), max_us: all.last().copied().unwrap_or_default() }
    }
}

/// A stranger closes its listener: how long until a connect() to the port works again, because stayput holds it now.
pub(super) fn stranger(bench: &Bench) -> Result<Spread, String> {
    let runs = bench.options.repeat(200, 5);
    let mut all = Vec::new();
    for _ in 0..runs {
        let env = bench.env();
        let port = env.port();
        let stranger = TcpListener::bind(("127.0.0.1", port)).map_err(|error| error.to_string())?;
        let declared = format!("127.0.0.1:{port}");
        let mut running = env.run("web", &["--port", &declared], &env.misbehave("trivial", port));
        running.wait_for("waiting for the port", |service| service["phase"] == "waiting-for-port");
        let start = Instant::now();
        drop(stranger);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if start.elapsed() > PATIENCE {
                return Err(format!("the port was never taken\n{}", running.log()));
            }
        }
        all.push(start.elapsed().as_micros() as u64);
        running.wait_answer(port);
        running.stop();
    }
    Ok(Spread::of(all))
}

/// From the spawn of the outermost program to the first line of the service's main().
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Spawn {
    pub(super) bare: Spread,
    pub(super) stayput: Spread,
}

pub(super) fn spawn(bench: &Bench) -> Result<Spawn, String> {
    let runs = bench.options.repeat(50, 5);
    let (mut bare, mut under) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let env = bench.env();
        let file = env.file("stamps", "");
        let words = env.misbehave(&format!("stamp --file {}", file.display()), env.port());
        let mut command = env.as_user(words[0].as_ref(), &words[1..]);
        bare.push(until_stamp(command.stdout(Stdio::null()), &file)?);
        std::fs::write(&file, "").map_err(|error| error.to_string())?;
        let arguments = ["run", "--name", "web", "--restart", "never", "--"].into_iter();
        let mut command = env.command(arguments.chain(words.iter().map(String::as_str)));
        under.push(until_stamp(command.stdout(Stdio::null()).stderr(Stdio::null()), &file)?);
        env.kill_left();
    }
    Ok(Spawn { bare: Spread::of(bare), stayput: Spread::of(under) })
}

fn nanoseconds() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

fn until_stamp(command: &mut Command, file: &std::path::Path) -> Result<u64, String> {
    let start = nanoseconds();
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let stamp = wait::until("the service's stamp", PATIENCE, || {
        let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
        text.lines().next().and_then(|line| line.parse::<i64>().ok()).ok_or_else(|| "none".to_owned())
    });
    let ended = wait::until_true("its end", PATIENCE, || matches!(child.try_wait(), Ok(Some(_))));
    let stamp = stamp?;
    ended?;
    Ok(u64::try_from((stamp - start) / 1000).unwrap_or_default())
}

/// Memory and rest of stayput with one ready, idle service.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Costs {
    /// Proportional set size of guard, keeper and daemon, in KiB.
    pub(super) pss_kib: [u64; 3],
    /// Open descriptors of the same.
    pub(super) fds: [usize; 3],
    /// Voluntary context switches of the same, over `idle_seconds`.
    pub(super) wake_ups: [u64; 3],
    pub(super) idle_seconds: f64,
}

struct Parts([u32; 3]);

impl Parts {
    fn of(running: &Running<'_>) -> Self {
        Self(PARTS.map(|part| running.part(part)))
    }

    fn read<T>(&self, what: &str, read: impl Fn(u32) -> Option<T>) -> Result<[T; 3], String> {
        let [guard, keeper, daemon] = self.0.map(|pid| read(pid).ok_or_else(|| format!("{what} of pid {pid} cannot be read")));
        Ok([guard?, keeper?, daemon?])
    }
}

fn serving(env: &TestEnv, port: u16) -> Running<'_> {
    let mut running = env.run("web", &["--soak", "1ms"], &env.misbehave("trivial", port));
    running.wait_answer(port);
    running.wait_ready();
    running
}

pub(super) fn costs(bench: &Bench) -> Result<Costs, String> {
    let env = bench.env();
    let running = serving(&env, env.port());
    let parts = Parts::of(&running);
    let (pss_kib, fds) = (parts.read("memory", process::pss_kib)?, parts.read("descriptors", process::open_fds)?);
    // The readiness check and our questions have died down by then.
    std::thread::sleep(Duration::from_secs(1));
    let start = Instant::now();
    let before = parts.read("wake-ups", process::wake_ups)?;
    std::thread::sleep(Duration::from_secs(u64::from(bench.options.repeat(20, 3))));
    let after = parts.read("wake-ups", process::wake_ups)?;
    let idle_seconds = start.elapsed().as_secs_f64();
    running.stop();
    let wake_ups = [0, 1, 2].map(|index| after[index].saturating_sub(before[index]));
    Ok(Costs { pss_kib, fds, wake_ups, idle_seconds })
}

/// Good answers a second, bare and under stayput, in pairs; medians.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Throughput {
    pub(super) server: String,
    pub(super) keep_alive: bool,
    pub(super) rounds: u32,
    pub(super) bare: f64,
    pub(super) stayput: f64,
    /// Under stayput by bare, of each pair; a virtual machine's speed drifts by more between pairs than within one.
    pub(super) ratio: f64,
}

pub(super) fn throughput(bench: &Bench) -> Result<Vec<Throughput>, String> {
    let rounds = bench.options.repeat(15, 2);
    let mut rows = Vec::new();
    for server in [Server::Go, Server::Nginx] {
        for keep_alive in [false, true] {
            let (mut bare, mut under, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
            for round in 0..rounds {
                // Whoever is first has the processors as the last pair left them: each is first as often as the other.
                let under_first = if round % 2 == 1 { Some(stayput_rate(bench, server, keep_alive)?) } else { None };
                let alone = bare_rate(bench, server, keep_alive)?;
                let held = match under_first {
                    Some(rate) => rate,
                    None => stayput_rate(bench, server, keep_alive)?,
                };
                bare.push(alone);
                under.push(held);
                ratios.push(held / alone);
            }
            let (name, bare, stayput, ratio) = (server.name().to_owned(), median(&mut bare), median(&mut under), median(&mut ratios));
            let row = Throughput { server: name, keep_alive, rounds, bare, stayput, ratio };
            println!("{row:?}");
            rows.push(row);
        }
    }
    Ok(rows)
}

fn median(all: &mut [f64]) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}

fn rate(port: u16, keep_alive: bool) -> Result<f64, String> {
    let mut plan = Plan::port(port).clients(8).duration(Duration::from_secs(2));
    plan.keep_alive = keep_alive;
    let report = plan.run().map_err(|error| error.to_string())?;
    if report.counts.failed() > 0 { Err(format!("requests were lost: {report:?}")) } else { Ok(report.throughput()) }
}

fn bare_rate(bench: &Bench, server: Server, keep_alive: bool) -> Result<f64, String> {
    let env = bench.env();
    let port = env.port();
    // In a session of its own, as every service is: the kernel's autogroups share the processors between sessions, and a server in
    // the session of its load would get another share.
    let mut command = env.as_user("setsid".as_ref(), env.server(server, port));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().map_err(|error| error.to_string())?;
    let ready = wait::until_true("the bare server", PATIENCE, || TcpStream::connect(("127.0.0.1", port)).is_ok());
    let result = ready.and_then(|()| rate(port, keep_alive));
    env.kill_left();
    let _ = child.wait();
    result
}

fn stayput_rate(bench: &Bench, server: Server, keep_alive: bool) -> Result<f64, String> {
    let env = bench.env();
    let port = env.port();
    let mut running = env.run("web", &[], &env.server(server, port));
    running.wait_answer(port);
    running.wait_ready();
    let result = rate(port, keep_alive);
    running.stop();
    result
}

/// Many restarts of a trivial server, one after the other.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Thousand {
    pub(super) restarts: u32,
    pub(super) seconds: f64,
    pub(super) fds_before: [usize; 3],
    pub(super) fds_after: [usize; 3],
    pub(super) pss_before_kib: [u64; 3],
    pub(super) pss_after_kib: [u64; 3],
    /// Requests of a load of 100 a second meanwhile: answered, lost.
    pub(super) answered: u64,
    pub(super) lost: u64,
}

pub(super) fn thousand(bench: &Bench) -> Result<Thousand, String> {
    let restarts = bench.options.repeat(1000, 20);
    let env = bench.env();
    let port = env.port();
    let mut running = serving(&env, port);
    // The first ones fill caches and pools.
    for _ in 0..5 {
        running.restart_well();
    }
    let parts = Parts::of(&running);
    let settle = |running: &mut Running<'_>| {
        running.wait_for("one generation", |service| service["generations"].as_array().is_some_and(|all| all.len() == 1));
    };
    settle(&mut running);
    let (fds_before, pss_before_kib) = (parts.read("descriptors", process::open_fds)?, parts.read("memory", process::pss_kib)?);
    let load = Plan::port(port).rate(100.0).duration(Duration::from_hours(1)).start().map_err(|error| error.to_string())?;
    let start = Instant::now();
    for _ in 0..restarts {
        running.restart_well();
    }
    let seconds = start.elapsed().as_secs_f64();
    let counts = load.stop().map_err(|error| error.to_string())?.counts;
    settle(&mut running);
    let (fds_after, pss_after_kib) = (parts.read("descriptors", process::open_fds)?, parts.read("memory", process::pss_kib)?);
    running.stop();
    Ok(Thousand { restarts, seconds, fds_before, fds_after, pss_before_kib, pss_after_kib, answered: counts.ok, lost: counts.failed() })
}

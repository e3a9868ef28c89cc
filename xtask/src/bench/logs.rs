//! `cargo xtask bench logs`: what it costs to keep the output of a service that writes as fast as it can: beside `cat >file` on the same
//! pipe, in memory, and for the requests of another service meanwhile. Prints a table and writes docs/bench/logs.json.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use stayput_logs::{Bell, Limits, Policy, Pump, PumpEvent, Store, Stream, Track};

use super::Machine;
use crate::setup::workspace;

/// Bytes of a line.
const LINE: usize = 100;
/// Between two requests to the other service.
const PACE: Duration = Duration::from_millis(1);

/// What to measure, and how often.
#[derive(clap::Args)]
pub(super) struct Options {
    /// MiB that are written in each run
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// Runs of each; the median counts
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Prints, and writes no file
    #[arg(long)]
    quick: bool,
    /// Writes so many bytes, in pieces of `--piece`; started by this program itself
    #[arg(long, hide = true)]
    write: Option<u64>,
    #[arg(long, hide = true, default_value_t = 0)]
    piece: usize,
    /// Keeps its standard input in this directory
    #[arg(long, hide = true)]
    keep: Option<PathBuf>,
    /// Answers requests on a port, which it prints
    #[arg(long, hide = true)]
    echo: bool,
}

/// What was measured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Figures {
    pub(super) machine: Machine,
    pub(super) mib: u64,
    pub(super) runs: usize,
    pub(super) rows: Vec<Row>,
    /// 99th percentile of the time of a request to another service, in microseconds.
    pub(super) p99_idle_us: f64,
    pub(super) p99_cat_us: f64,
    pub(super) p99_kept_us: f64,
}

/// One way of writing.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Row {
    /// Bytes of each `write`.
    pub(super) piece: usize,
    pub(super) cat_mib_s: f64,
    pub(super) kept_mib_s: f64,
    /// Peak of resident memory over what it was before the first byte.
    pub(super) rss_kib: u64,
}

/// Name of the figures.
const NAME: &str = "logs";

pub(super) fn load_figures() -> Option<Figures> {
    super::figures::load(NAME)
}

/// True if there are new figures.
pub(super) fn run(options: &Options) -> Result<bool, String> {
    if let Some(bytes) = options.write {
        write(bytes, options.piece.max(LINE));
        return Ok(false);
    }
    if let Some(directory) = &options.keep {
        return keep(directory).map(|()| false);
    }
    if options.echo {
        return echo().map(|()| false);
    }
    if cfg!(debug_assertions) {
        println!("a debug build: no figures worth publishing (cargo run --release -p xtask -- bench logs)");
    }
    let bytes = options.mib << 20;
    let mut figures =
        Figures { machine: super::machine(cfg!(debug_assertions)), mib: options.mib, runs: options.runs, ..Figures::default() };
    for piece in [LINE, 64 * LINE, 640 * LINE] {
        let (mut cat, mut kept, mut rss) = (Vec::new(), Vec::new(), 0);
        for _ in 0..options.runs {
            cat.push(once(Sink::Cat, bytes, piece)?.0);
            let (speed, peak) = once(Sink::Kept, bytes, piece)?;
            kept.push(speed);
            rss = rss.max(peak);
        }
        let row = Row { piece, cat_mib_s: median(&mut cat), kept_mib_s: median(&mut kept), rss_kib: rss };
        println!("{row:?}");
        figures.rows.push(row);
    }
    figures.p99_idle_us = p99(None)?;
    figures.p99_cat_us = p99(Some(Sink::Cat))?;
    figures.p99_kept_us = p99(Some(Sink::Kept))?;
    println!("p99 of another service: idle {} us, cat {} us, kept {} us", figures.p99_idle_us, figures.p99_cat_us, figures.p99_kept_us);
    if options.quick {
        return Ok(false);
    }
    super::figures::save(NAME, &figures)?;
    Ok(true)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn ourselves(arguments: &[&str]) -> Result<Command, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.args(["bench", "logs"]).args(arguments);
    Ok(command)
}

/// Where the bytes go.
#[derive(Debug, Clone, Copy)]
enum Sink {
    Cat,
    Kept,
}

fn place() -> Result<PathBuf, String> {
    use std::os::unix::fs::PermissionsExt as _;
    let place = workspace().join("target/bench-logs");
    // What the run before left.
    let _ = std::fs::remove_dir_all(&place);
    let made = std::fs::create_dir_all(&place).and_then(|()| std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o700)));
    made.map(|()| place).map_err(|error| error.to_string())
}

fn start(sink: Sink, from: ChildStdout, place: &Path) -> Result<Child, String> {
    let mut command = match sink {
        Sink::Cat => {
            let mut command = Command::new("cat");
            command.stdout(std::fs::File::create(place.join("file")).map_err(|error| error.to_string())?);
            command
        }
        Sink::Kept => {
            let mut command = ourselves(&["--keep"])?;
            command.arg(place.join("logs")).stdout(Stdio::piped());
            command
        }
    };
    command.stdin(from).spawn().map_err(|error| format!("cannot start {command:?}: {error}"))
}

/// MiB per second from the first byte to the last in the file, and the peak of memory in KiB.
fn once(sink: Sink, bytes: u64, piece: usize) -> Result<(f64, u64), String> {
    let place = place()?;
    let (writer, mut reader, started) = flood(sink, bytes, piece, &place)?;
    let mut said = String::new();
    if let Some(out) = &mut reader.stdout {
        out.read_to_string(&mut said).map_err(|error| error.to_string())?;
    }
    let ended = reader.wait().map_err(|error| error.to_string())?;
    let seconds = started.elapsed().as_secs_f64();
    finish(writer)?;
    if !ended.success() {
        return Err(format!("{sink:?} ended with {ended}"));
    }
    #[expect(clippy::cast_precision_loss, reason = "a speed")]
    let speed = (bytes >> 20) as f64 / seconds;
    let _ = std::fs::remove_dir_all(&place);
    Ok((speed, said.trim().parse().unwrap_or(0)))
}

fn flood(sink: Sink, bytes: u64, piece: usize, place: &Path) -> Result<(Child, Child, Instant), String> {
    let (bytes, piece) = (bytes.to_string(), piece.to_string());
    let mut command = ourselves(&["--write", &bytes, "--piece", &piece])?;
    let started = Instant::now();
    let mut writer = command.stdout(Stdio::piped()).spawn().map_err(|error| error.to_string())?;
    let from = writer.stdout.take().ok_or("no pipe")?;
    let reader = start(sink, from, place)?;
    Ok((writer, reader, started))
}

fn finish(mut child: Child) -> Result<(), String> {
    let ended = child.wait().map_err(|error| error.to_string())?;
    if ended.success() { Ok(()) } else { Err(format!("a child ended with {ended}")) }
}

/// The chatty service.
fn write(bytes: u64, piece: usize) {
    let mut text = Vec::with_capacity(piece);
    while text.len() < piece {
        text.extend_from_slice(&[b'x'; LINE - 1]);
        text.push(b'\n');
    }
    let mut out = std::fs::File::from(std::os::fd::AsFd::as_fd(&std::io::stdout()).try_clone_to_owned().expect("standard output"));
    let mut left = bytes;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(text.len());
        // Whoever reads it may have been ended.
        if out.write_all(&text[..length]).is_err() {
            return;
        }
        left -= length as u64;
    }
}

/// The pump of the daemon, in a process of its own.
fn keep(directory: &Path) -> Result<(), String> {
    let store = Arc::new(Store::create(directory).map_err(|error| error.to_string())?);
    let (ended, over) = std::sync::mpsc::channel();
    let tell = move |event| {
        if matches!(event, PumpEvent::Ended(..)) {
            let _ = ended.send(());
        }
    };
    let mut pump = Pump::start(store, Bell::default(), tell).map_err(|error| error.to_string())?;
    let pipe = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned().map_err(|error| error.to_string())?;
    rustix::io::ioctl_fionbio(&pipe, true).map_err(|error| error.to_string())?;
    let before = peak_kib();
    let limits = Limits { max_size: 64 << 20, max_age: None };
    let policy = Policy { limits, segment: 8 << 20, block: false, compress: true };
    let track = Track { run: 1, generation: 1, stream: Stream::Stdout };
    pump.attach("chatty", track, pipe, policy).map_err(|error| error.to_string())?;
    over.recv().map_err(|error| error.to_string())?;
    println!("{}", peak_kib() - before);
    Ok(())
}

/// `VmHWM` (proc_pid_status(5)).
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// The other service.
fn echo() -> Result<(), String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| error.to_string())?;
    println!("{}", listener.local_addr().map_err(|error| error.to_string())?.port());
    let (mut stream, _) = listener.accept().map_err(|error| error.to_string())?;
    let mut bytes = [0; 64];
    while let Ok(length @ 1..) = stream.read(&mut bytes) {
        stream.write_all(&bytes[..length]).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Requests to the other service for some seconds, while a chatty one is kept, or none is.
fn p99(sink: Option<Sink>) -> Result<f64, String> {
    let place = place()?;
    let mut other = ourselves(&["--echo"])?.stdout(Stdio::piped()).spawn().map_err(|error| error.to_string())?;
    let mut port = String::new();
    let out = other.stdout.take().ok_or("no pipe")?;
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut port).map_err(|error| error.to_string())?;
    let port = port.trim().parse::<u16>().map_err(|error| error.to_string())?;
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let flood = sink.map(|sink| flood(sink, 1 << 40, LINE, &place)).transpose()?;
    let mut times = Vec::new();
    let until = Instant::now() + Duration::from_secs(8);
    while Instant::now() < until {
        let started = Instant::now();
        let mut bytes = [7; 32];
        stream.write_all(&bytes).and_then(|()| stream.read_exact(&mut bytes)).map_err(|error| error.to_string())?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
        std::thread::sleep(PACE);
    }
    if let Some((mut writer, mut reader, _)) = flood {
        for child in [&mut writer, &mut reader] {
            child.kill().and_then(|()| child.wait()).map_err(|error| error.to_string())?;
        }
    }
    drop(stream);
    finish(other)?;
    let _ = std::fs::remove_dir_all(&place);
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() * 99 / 100].round())
}

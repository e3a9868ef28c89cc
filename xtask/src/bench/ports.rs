//! `cargo xtask bench ports`: how long port questions take, beside lsof, fuser and ss, on this machine as it is and on one
//! with 2,000 processes and 100,000 TCP sockets; and how fast `stayput wait --free` returns.
//!
//! Makes its crowd in a network namespace of its own (root): 2,000 processes with 25 connections to themselves each. All of
//! it ends with this program. Prints a table and writes docs/bench/ports.json.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Machine, figures};
use crate::setup::workspace;

/// Port of the listener that is asked for.
const PORT: u16 = 5000;

/// What to measure, and how often.
#[derive(clap::Args)]
pub(super) struct Options {
    /// Processes in the crowd; each has 51 sockets. 0: no crowd, its last figures are kept
    #[arg(long, default_value_t = 2000)]
    processes: usize,
    /// Runs of each command; the median counts
    #[arg(long, default_value_t = 21)]
    runs: usize,
    /// Runs of each command in the crowd, where some take seconds
    #[arg(long, default_value_t = 5)]
    crowded_runs: usize,
    /// Runs of `stayput wait --free`. 0: none, the last figures are kept
    #[arg(long, default_value_t = 1000)]
    waits: usize,
    /// The program to measure; without this a release build of this workspace
    #[arg(long)]
    stayput: Option<PathBuf>,
    /// One of the crowd; started by this program itself
    #[arg(long, hide = true)]
    member: Option<usize>,
}

/// What was measured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Figures {
    pub(super) machine: Machine,
    pub(super) idle: Table,
    pub(super) crowded: Option<Crowded>,
    pub(super) wait_free: Option<Waits>,
}

/// Port questions side by side.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Table {
    /// Processes on the machine: all the programs look into each.
    pub(super) processes: usize,
    /// Load average before the first run.
    pub(super) load: String,
    pub(super) runs: usize,
    pub(super) rows: Vec<Row>,
}

/// The times of one command, in milliseconds from its start.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) command: String,
    /// Median of the first line of its answer.
    pub(super) first_line_ms: f64,
    /// Median of its end.
    pub(super) complete_ms: f64,
    /// The shortest run: what it takes when nothing else wants the processor.
    pub(super) shortest_ms: f64,
}

/// The same with many processes and sockets.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Crowded {
    pub(super) tcp_sockets: usize,
    pub(super) table: Table,
    /// The highest resident size of `stayput why` that was seen.
    pub(super) why_memory_kib: u64,
}

/// `stayput wait --free`: from the close of the listener to the end of the command.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Waits {
    pub(super) runs: usize,
    pub(super) median_ms: f64,
    pub(super) p99_ms: f64,
    /// How often a bind right after the command's end failed.
    pub(super) failed_binds: usize,
}

/// Name of the figures.
const NAME: &str = "ports";

pub(super) fn load_figures() -> Option<Figures> {
    figures::load(NAME)
}

/// Measures and writes the figures; false if it was called as one of its own crowd.
pub(super) fn run(options: &Options) -> Result<bool, String> {
    if let Some(number) = options.member {
        return member(number).map(|()| false).map_err(|error| format!("member {number}: {error}"));
    }
    let stayput = match &options.stayput {
        Some(path) => path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))?,
        None => super::build(false)?,
    };
    let tools = tools()?;
    namespace()?;
    let mut figures = load_figures().unwrap_or_default();
    figures.machine = super::machine(false);
    let owner = Crowd::start(1, true)?;
    figures.idle = compare("idle", &stayput, &tools, options.runs)?;
    if options.waits > 0 {
        figures.wait_free = Some(waits(&stayput, options.waits)?);
    }
    if options.processes > 0 {
        println!("\nstarting {} processes …", options.processes);
        let crowd = Crowd::start(options.processes, false)?;
        let table = compare("crowded", &stayput, &tools, options.crowded_runs)?;
        let why_memory_kib = memory(&stayput)?;
        println!("\nmemory of `stayput why {PORT}` in the crowd: {why_memory_kib} KiB (highest VmHWM seen)");
        figures.crowded = Some(Crowded { tcp_sockets: options.processes * 51, table, why_memory_kib });
        drop(crowd);
    }
    drop(owner);
    figures::save(NAME, &figures)?;
    Ok(true)
}

/// A network namespace for this thread and all that it starts.
#[expect(deprecated, reason = "the unsafe variant is about fd tables; a network namespace takes nothing away from safe code")]
fn namespace() -> Result<(), String> {
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).map_err(|errno| format!("a network namespace (as root): {errno}"))?;
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().map_err(|error| format!("ip: {error}"))?;
    if up.success() { Ok(()) } else { Err("loopback does not come up".to_owned()) }
}

/// One of the crowd: 25 connections to itself, then sleep until standard input ends.
fn member(number: usize) -> std::io::Result<()> {
    let mut keep = Vec::new();
    let listener = if number == 0 {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?
    } else {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 1, (number / 250) as u8, (number % 250) as u8 + 1), 6000))?;
        let address: SocketAddr = listener.local_addr()?;
        for _ in 0..25 {
            keep.push(TcpStream::connect(address)?);
            keep.push(listener.accept()?.0);
        }
        listener
    };
    std::io::stdout().write_all(b"x\n")?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    drop((keep, listener));
    Ok(())
}

/// Processes that end when this value does.
struct Crowd(Vec<Child>);

impl Crowd {
    fn start(count: usize, owner: bool) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut crowd = Self(Vec::new());
        for number in 0..count {
            let number = if owner { 0 } else { number + 1 };
            let child = Command::new(&program)
                .args(["bench", "ports", "--member", &number.to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .map_err(|error| format!("process {number}: {error}"))?;
            crowd.0.push(child);
        }
        for child in &mut crowd.0 {
            let ready = child.stdout.as_mut().map(|out| out.read_exact(&mut [0]));
            if !matches!(ready, Some(Ok(()))) {
                return Err("a process of the crowd did not come up".to_owned());
            }
        }
        Ok(crowd)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.stdin.take());
        }
        for child in &mut self.0 {
            // Their standard input has ended; so will they.
            let _ = child.wait();
        }
    }
}

/// A command to measure: its name and its words.
struct Contender(&'static str, Vec<String>);

/// Tools from crates.io that name the owner of a port, built once beside everything else that is built.
fn tools() -> Result<PathBuf, String> {
    let root = workspace().join("target/bench-tools");
    let mut install = Command::new(env!("CARGO"));
    install.args(["install", "--quiet", "--locked", "--root"]).arg(&root).args(["killport@2.0.2", "somo@1.4.0"]);
    let status = install.status().map_err(|error| format!("cargo install: {error}"))?;
    if !status.success() {
        println!("killport and somo could not be built: they are not compared");
    }
    Ok(root.join("bin"))
}

fn contenders(stayput: &Path, tools: &Path) -> Vec<Contender> {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let (stayput, tools) = (stayput.display(), tools.display());
    vec![
        Contender("true", words("true")),
        Contender("lsof -ti:P", words(&format!("lsof -ti:{PORT}"))),
        Contender("lsof -nP -iTCP:P -sTCP:LISTEN -t", words(&format!("lsof -nP -iTCP:{PORT} -sTCP:LISTEN -t"))),
        Contender("fuser P/tcp", words(&format!("fuser {PORT}/tcp"))),
        Contender("ss -ltnp", words("ss -ltnp")),
        Contender("ss -ltnp sport = :P", words(&format!("ss -ltnp sport = :{PORT}"))),
        Contender("killport --dry-run P", words(&format!("{tools}/killport --dry-run {PORT}"))),
        Contender("somo -l --port P", words(&format!("{tools}/somo -l --port {PORT}"))),
        Contender("stayput why P", words(&format!("{stayput} why {PORT}"))),
        Contender("stayput why P --json", words(&format!("{stayput} why {PORT} --json"))),
        Contender("stayput ports", words(&format!("{stayput} ports"))),
    ]
}

/// Runs every contender in turn, `runs` times.
fn compare(name: &str, stayput: &Path, tools: &Path, runs: usize) -> Result<Table, String> {
    let mut table = Table { processes: processes(), load: super::machine(false).load, runs, rows: Vec::new() };
    println!("\n{:<36} {:>10} {:>10} {:>10}", format!("{name}, {} processes", table.processes), "first line", "complete", "shortest");
    let contenders = contenders(stayput, tools);
    let mut times: Vec<Vec<(f64, f64)>> = contenders.iter().map(|_| Vec::new()).collect();
    for _ in 0..runs {
        // Side by side: a disturbance meets all of them.
        for (contender, times) in contenders.iter().zip(&mut times) {
            times.extend(measure(&contender.1)?);
        }
    }
    for (Contender(label, _), times) in contenders.iter().zip(times) {
        let Some(shortest) = times.iter().map(|time| time.1).min_by(f64::total_cmp) else {
            println!("{label:<36} {:>10} {:>10} {:>10}", "not here", "-", "-");
            continue;
        };
        let first = median(times.iter().map(|time| time.0).collect());
        let whole = median(times.iter().map(|time| time.1).collect());
        println!("{label:<36} {first:>10.1} {whole:>10.1} {shortest:>10.1}");
        table.rows.push(Row {
            command: (*label).to_owned(),
            first_line_ms: round(first),
            complete_ms: round(whole),
            shortest_ms: round(shortest),
        });
    }
    Ok(table)
}

/// How many processes there are.
fn processes() -> usize {
    let is_pid = |entry: &std::fs::DirEntry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
    std::fs::read_dir("/proc").map_or(0, |entries| entries.flatten().filter(is_pid).count())
}

/// One run; `None` if the program is not installed.
fn measure(words: &[String]) -> Result<Option<(f64, f64)>, String> {
    let [program, arguments @ ..] = words else { return Ok(None) };
    let start = Instant::now();
    let spawned = Command::new(program).args(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{program}: {error}")),
    };
    let mut out = BufReader::new(child.stdout.take().ok_or("no output")?);
    let mut line = String::new();
    out.read_line(&mut line).map_err(|error| error.to_string())?;
    let first = start.elapsed();
    out.read_to_end(&mut Vec::new()).map_err(|error| error.to_string())?;
    child.wait().map_err(|error| error.to_string())?;
    Ok(Some((milliseconds(first), milliseconds(start.elapsed()))))
}

/// The highest resident size that can be seen while `stayput why` runs, in KiB.
fn memory(stayput: &Path) -> Result<u64, String> {
    let mut highest = 0;
    for _ in 0..5 {
        let mut child = Command::new(stayput)
            .args(["why", &PORT.to_string(), "--json"])
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| error.to_string())?;
        let status = format!("/proc/{}/status", child.id());
        while child.try_wait().map_err(|error| error.to_string())?.is_none() {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let seen = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
            highest = highest.max(seen.unwrap_or(0));
        }
    }
    Ok(highest)
}

/// `stayput wait --free` on a listener of ours: from its close to the end of the command, and a bind right after.
fn waits(stayput: &Path, runs: usize) -> Result<Waits, String> {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT + 1));
    let (mut times, mut failed) = (Vec::new(), 0);
    for _ in 0..runs {
        let listener = TcpListener::bind(address).map_err(|error| format!("bind: {error}"))?;
        let mut child = Command::new(stayput)
            .args(["wait", &address.port().to_string(), "--free", "--timeout", "10s"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        // It says whom it waits for after it has subscribed.
        let mut said = String::new();
        BufReader::new(child.stderr.take().ok_or("no stderr")?).read_line(&mut said).map_err(|error| error.to_string())?;
        let start = Instant::now();
        drop(listener);
        let status = child.wait().map_err(|error| error.to_string())?;
        times.push(milliseconds(start.elapsed()));
        if !status.success() || TcpListener::bind(address).is_err() {
            failed += 1;
        }
    }
    times.sort_by(f64::total_cmp);
    let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or(0.0);
    let (middle, late) = (at(50), at(99));
    println!(
        "\nstayput wait --free, {runs} runs: event to exit {middle:.2} ms (median), {late:.2} ms (p99); a bind right after failed {failed} times"
    );
    Ok(Waits { runs, median_ms: round(middle), p99_ms: round(late), failed_binds: failed })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

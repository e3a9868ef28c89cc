//! `misbehave MODE --port N`: one server, many ways to be a bad one. Each mode is one fault of a real server that stayput must survive or name;
//! `trivial` has none.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "what a service prints is what the tests read")]

mod family;
mod listen;
mod serve;

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(about = "A server that misbehaves in one chosen way")]
struct Arguments {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Args, Clone)]
struct Where {
    /// Port to listen on
    #[arg(long)]
    port: u16,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Ignored: marks the process for whoever looks for it by its command line
    #[arg(long, default_value = "")]
    tag: String,
}

#[derive(Subcommand, Clone)]
enum Mode {
    /// Listens and answers; dies of its signals like any simple program
    Trivial(Where),
    /// Serves, and takes SIGTERM, SIGINT and SIGHUP without a word
    IgnoreTerm(Where),
    /// Serves from a worker that was forked twice and left its session; the main process ends with status 0 at once
    Daemonise(Where),
    /// The same, and the worker's environment is empty
    Scrub(Where),
    /// Serves, and leaves a twice forked process behind that has no socket
    Stray(Where),
    /// Serves, and leaves a process in another session that inherited the listener and never accepts
    GrandchildHolds(Where),
    /// Binds and listens only after --ms
    Late {
        #[command(flatten)]
        place: Where,
        #[arg(long, default_value_t = 1000)]
        ms: u64,
    },
    /// Lives, and never binds
    NeverListen(Where),
    /// Binds and listens, and never accepts
    NeverAccept(Where),
    /// Prints a line to stderr and ends with --status, before it binds
    CrashBeforeReady {
        #[command(flatten)]
        place: Where,
        #[arg(long, default_value_t = 3)]
        status: u8,
    },
    /// Serves, and --ms after it began to listen ends with --status
    CrashAfter {
        #[command(flatten)]
        place: Where,
        #[arg(long, default_value_t = 500)]
        ms: u64,
        #[arg(long, default_value_t = 3)]
        status: u8,
    },
    /// Serves, closes its listener --ms after it began to listen, and lives on
    CloseListener {
        #[command(flatten)]
        place: Where,
        #[arg(long, default_value_t = 500)]
        ms: u64,
    },
    /// Serves, and binds and closes other sockets as fast as it can for --ms
    FloodBind {
        #[command(flatten)]
        place: Where,
        #[arg(long, default_value_t = 1000)]
        ms: u64,
    },
    /// Prints the file descriptors that it was born with as one line of JSON, then serves
    OpenFds(Where),
    /// Prints its environment's names and values as one line of JSON, then serves
    Environment(Where),
    /// Serves, and writes lines to its standard output as fast as it can for --ms
    Chatter {
        #[command(flatten)]
        place: Where,
        #[arg(long, default_value_t = 1000)]
        ms: u64,
    },
    /// Serves with its standard output and standard error closed to whoever reads them
    Mute(Where),
    /// Serves over MPTCP, as Go does by default since 1.24
    Mptcp(Where),
    /// Serves with SO_REUSEPORT set by itself, with two listeners on the same port
    TwoListeners(Where),
    /// Ends with --status, without a word
    Exit {
        #[command(flatten)]
        place: Where,
        #[arg(long, default_value_t = 0)]
        status: u8,
    },
    /// Appends the monotonic clock in nanoseconds to --file at once, and ends
    Stamp {
        #[command(flatten)]
        place: Where,
        #[arg(long)]
        file: PathBuf,
    },
    /// Reads its mode, with options but without --port, from the first line of --file at each start: the "new version" of a restart
    FromFile {
        #[command(flatten)]
        place: Where,
        #[arg(long)]
        file: PathBuf,
    },
    #[command(hide = true)]
    Detach(family::Detach),
    #[command(hide = true)]
    Worker(family::Worker),
}

fn main() -> ExitCode {
    match run(Arguments::parse().mode) {
        Ok(code) => code,
        Err(error) => {
            // The shape of every real server's last words, so that whoever looks for the cause finds it.
            eprintln!("OSError: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(mode: Mode) -> io::Result<ExitCode> {
    match mode {
        Mode::Trivial(place) => {
            let _serving = listen_and_serve(&place)?;
            live_on()
        }
        Mode::IgnoreTerm(place) => {
            ignore_signals()?;
            let _serving = listen_and_serve(&place)?;
            live_on()
        }
        Mode::Daemonise(place) => {
            family::leave_worker(Some(&listen::tcp(&place)?), false, family::Job::Serve, &place.tag)?;
            Ok(ExitCode::SUCCESS)
        }
        Mode::Scrub(place) => {
            family::leave_worker(Some(&listen::tcp(&place)?), true, family::Job::Serve, &place.tag)?;
            Ok(ExitCode::SUCCESS)
        }
        Mode::Stray(place) => {
            family::leave_worker(None, false, family::Job::Sleep, &place.tag)?;
            let _serving = listen_and_serve(&place)?;
            live_on()
        }
        Mode::GrandchildHolds(place) => {
            let listener = listen::tcp(&place)?;
            family::leave_worker(Some(&listener), false, family::Job::Sleep, &place.tag)?;
            let _serving = serve::start(listener)?;
            live_on()
        }
        Mode::Late { place, ms } => {
            std::thread::sleep(Duration::from_millis(ms));
            let _serving = listen_and_serve(&place)?;
            live_on()
        }
        Mode::NeverListen(_) => {
            println!("starting, any moment now");
            live_on()
        }
        Mode::NeverAccept(place) => {
            let _listener = listen::tcp(&place)?;
            live_on()
        }
        Mode::CrashBeforeReady { status, .. } => {
            eprintln!("ImportError: this version is broken");
            Ok(ExitCode::from(status))
        }
        Mode::CrashAfter { place, ms, status } => {
            let _serving = listen_and_serve(&place)?;
            std::thread::sleep(Duration::from_millis(ms));
            eprintln!("RuntimeError: this version breaks after {ms} ms");
            Ok(ExitCode::from(status))
        }
        Mode::CloseListener { place, ms } => {
            let serving = listen_and_serve(&place)?;
            std::thread::sleep(Duration::from_millis(ms));
            serving.close_listener();
            live_on()
        }
        Mode::FloodBind { place, ms } => {
            let _serving = listen_and_serve(&place)?;
            let end = Instant::now() + Duration::from_millis(ms);
            let mut binds = 0_u64;
            while Instant::now() < end {
                drop(std::net::TcpListener::bind((place.host, 0))?);
                binds += 1;
            }
            println!("binds {binds}");
            live_on()
        }
        Mode::OpenFds(place) => {
            println!("{}", family::open_fds()?);
            let _serving = listen_and_serve(&place)?;
            live_on()
        }
        Mode::Environment(place) => {
            let all: std::collections::BTreeMap<_, _> = std::env::vars().collect();
            println!("{}", serde_json::to_string(&all)?);
            let _serving = listen_and_serve(&place)?;
            live_on()
        }
        Mode::Chatter { place, ms } => {
            let _serving = listen_and_serve(&place)?;
            chatter(Duration::from_millis(ms))?;
            live_on()
        }
        Mode::Mute(place) => {
            let null = std::fs::File::options().write(true).open("/dev/null")?;
            rustix::stdio::dup2_stdout(&null)?;
            rustix::stdio::dup2_stderr(&null)?;
            let _serving = listen_and_serve(&place)?;
            live_on()
        }
        Mode::Mptcp(place) => {
            let _serving = serve::start(listen::mptcp(&place)?)?;
            live_on()
        }
        Mode::TwoListeners(place) => {
            let _first = serve::start(listen::reuse_port(&place)?)?;
            let _second = serve::start(listen::reuse_port(&place)?)?;
            live_on()
        }
        Mode::Exit { status, .. } => Ok(ExitCode::from(status)),
        Mode::Stamp { file, .. } => stamp(&file),
        Mode::FromFile { place, file } => run(mode_from_file(&place, &file)?),
        Mode::Detach(detach) => detach.run(),
        Mode::Worker(worker) => worker.run(),
    }
}

fn listen_and_serve(place: &Where) -> io::Result<serve::Serving> {
    serve::start(listen::tcp(place)?)
}

fn chatter(time: Duration) -> io::Result<()> {
    let (end, line) = (Instant::now() + time, [b'x'; 99]);
    let mut out = io::BufWriter::with_capacity(64 * 1024, io::stdout().lock());
    while Instant::now() < end {
        for _ in 0..1000 {
            out.write_all(&line)?;
            out.write_all(b"\n")?;
        }
    }
    out.flush()
}

fn stamp(file: &std::path::Path) -> io::Result<ExitCode> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let mut file = std::fs::File::options().create(true).append(true).open(file)?;
    writeln!(file, "{}", now.tv_sec * 1_000_000_000 + now.tv_nsec)?;
    Ok(ExitCode::SUCCESS)
}

fn live_on() -> ! {
    loop {
        std::thread::park();
    }
}

/// Installs handlers that do nothing. They stay for the life of the process, also when the runtime that registered them is gone.
fn ignore_signals() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _context = runtime.enter();
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()] {
        drop(signal(kind)?);
    }
    Ok(())
}

fn mode_from_file(place: &Where, file: &std::path::Path) -> io::Result<Mode> {
    let text = std::fs::read_to_string(file)?;
    let line = text.lines().next().unwrap_or_default().to_owned();
    let (port, host) = (place.port.to_string(), place.host.to_string());
    let mut words = vec!["misbehave"];
    words.extend(line.split_whitespace());
    words.extend(["--port", &port, "--host", &host, "--tag", &place.tag]);
    match Arguments::try_parse_from(words) {
        Ok(arguments) if !matches!(arguments.mode, Mode::FromFile { .. }) => Ok(arguments.mode),
        Ok(_) => Err(io::Error::other("a file that names a file")),
        Err(error) => Err(io::Error::other(error.to_string())),
    }
}

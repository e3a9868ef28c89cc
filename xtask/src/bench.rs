//! `cargo xtask bench restart`: what a restart costs the clients, with stayput and with what people use today, and what stayput itself costs;
//! `cargo xtask bench peers`: the same trials for everybody else; `cargo xtask bench ports`: what port questions cost. Each writes its figures to `docs/bench/` and from all of them `docs/BENCHMARKS.md`. Restarts
//! run as an ordinary user, everything on loopback, bounded in time.

mod compare;
mod contestant;
mod costs;
mod figures;
mod instructions;
mod logs;
mod micro;
mod peers;
mod ports;
mod render;
mod restart;
mod servers;
mod services;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use stayput_testkit::env::{TestEnv, User};
use stayput_testkit::server::Server;

use crate::setup::{self, workspace};

/// Options of `cargo xtask bench`.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Restarts under load, beside other supervisors; and what stayput costs
    Restart(Options),
    /// The full `stayput compare` of the release binary, kept in docs/bench/
    Compare,
    /// The micro-benchmarks of the crates, kept in docs/bench/micro.txt
    Micro,
    /// Instructions of the hot parts, counted by callgrind, beside those that were accepted: fails at 10 % more
    Instructions(instructions::Options),
    /// Four trials for everybody who keeps servers running and can be had, beside stayput
    Peers(peers::Options),
    /// Port questions beside lsof, fuser and ss, idle and in a crowd; `wait --free` a thousand times (as root)
    Ports(ports::Options),
    /// Keeping the output of a service that writes as fast as it can, beside `cat >file`
    Logs(logs::Options),
    /// A thousand services: start, memory, wake-ups, status, crashes, a rolling restart; beside other supervisors
    Services(services::Options),
    /// Writes docs/BENCHMARKS.md anew from the figures that were measured last
    Render,
}

#[derive(Args, Clone)]
struct Options {
    /// Smoke test: few repetitions; prints, and writes no file
    #[arg(long)]
    quick: bool,
    /// Restarts and kills per server
    #[arg(long)]
    count: Option<u32>,
    /// Only these parts: restart, servers (every server of the testkit under stayput), stranger, spawn, costs, throughput, thousand
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these servers, by the names in the table; `all`: every server of the testkit under stayput, and nothing else
    #[arg(long, value_delimiter = ',')]
    servers: Vec<String>,
    /// Only these contestants: stayput, script, supervisord, supervisord-fcgi, circus
    #[arg(long, value_delimiter = ',', value_enum)]
    contestants: Vec<contestant::Contestant>,
    /// Only these events: restart, kill, keep-alive
    #[arg(long, value_delimiter = ',')]
    events: Vec<String>,
    /// Seconds of peace before each kill, so that a kill is an accident and not a crash loop, from which supervisors back off [default: 12]
    #[arg(long)]
    peace: Option<u64>,
    /// Measure the debug build (no figures worth publishing)
    #[arg(long)]
    debug: bool,
}

impl Options {
    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }

    fn repeat(&self, full: u32, quick: u32) -> u32 {
        if self.quick { quick } else { full }
    }

    fn servers(&self) -> Vec<Server> {
        let all = [Server::HttpServer, Server::FlaskSocketIo, Server::Gunicorn, Server::Node, Server::Go];
        let wanted = |server: &Server| self.servers.is_empty() || self.servers.iter().any(|name| name == server.name());
        all.into_iter().filter(wanted).collect()
    }
}

/// All that was measured. A part that was not run keeps its last figures.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Figures {
    machine: Machine,
    #[serde(default)]
    restart: Vec<restart::Row>,
    #[serde(default)]
    stranger: Option<costs::Spread>,
    #[serde(default)]
    spawn: Option<costs::Spawn>,
    #[serde(default)]
    costs: Option<costs::Costs>,
    #[serde(default)]
    throughput: Vec<costs::Throughput>,
    #[serde(default)]
    thousand: Option<costs::Thousand>,
}

/// Where it was measured.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Machine {
    kernel: String,
    cpus: usize,
    model: String,
    build: String,
    /// One-minute load average when the last part began: what else the machine was doing.
    #[serde(default)]
    load: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, String> {
    match &arguments.what {
        What::Restart(options) => measure(options)?,
        What::Ports(options) => {
            if ports::run(options)? {
                render::write(&load_figures())?;
            }
        }
        What::Compare => {
            compare::run()?;
            render::write(&load_figures())?;
        }
        What::Instructions(options) => return instructions::run(options).map(|()| ExitCode::SUCCESS),
        What::Micro => {
            micro::run()?;
            render::write(&load_figures())?;
        }
        What::Peers(options) => {
            if peers::run(options)? {
                render::write(&load_figures())?;
            }
        }
        What::Logs(options) => {
            if logs::run(options)? {
                render::write(&load_figures())?;
            }
        }
        What::Services(options) => {
            if services::run(options)? {
                render::write(&load_figures())?;
            }
        }
        What::Render => render::write(&load_figures())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The counts of instructions beside the accepted ones, for the test run.
///
/// # Errors
/// More than is tolerated, or they cannot be counted.
pub(crate) fn count_instructions() -> Result<(), String> {
    instructions::run(&instructions::Options::default())
}

/// Name of the figures of `bench restart`.
const NAME: &str = "restart";

fn load_figures() -> Figures {
    figures::load(NAME).unwrap_or_default()
}

fn measure(options: &Options) -> Result<(), String> {
    let every_server = options.only.iter().any(|only| only == "servers") || options.servers.iter().any(|name| name == "all");
    setup::run(&setup::Arguments { bench: !every_server })?;
    let bench = Bench { stayput: build(options.debug)?, options: options.clone() };
    if every_server {
        servers::measure(&bench, machine(options.debug))?;
        return if options.quick { Ok(()) } else { render::write(&load_figures()) };
    }
    let mut figures = load_figures();
    figures.machine = machine(options.debug);
    if options.wants("restart") {
        restart::measure(&bench, |row| {
            figures.restart.retain(|old| !row.is_of(old));
            figures.restart.push(row);
            bench.save(&figures)
        })?;
    }
    if options.wants("stranger") {
        figures.stranger = Some(costs::stranger(&bench)?);
        bench.save(&figures)?;
    }
    if options.wants("spawn") {
        figures.spawn = Some(costs::spawn(&bench)?);
        bench.save(&figures)?;
    }
    if options.wants("costs") {
        figures.costs = Some(costs::costs(&bench)?);
        bench.save(&figures)?;
    }
    if options.wants("throughput") {
        figures.throughput = costs::throughput(&bench)?;
        bench.save(&figures)?;
    }
    if options.wants("thousand") {
        figures.thousand = Some(costs::thousand(&bench)?);
        bench.save(&figures)?;
    }
    println!("{}", render::text(&figures));
    if options.quick { Ok(()) } else { render::write(&figures) }
}

/// What every part needs.
struct Bench {
    stayput: PathBuf,
    options: Options,
}

impl Bench {
    fn env(&self) -> TestEnv {
        TestEnv::new(&self.stayput, User::Ordinary)
    }

    /// After each part, so that a part that fails costs nothing of the others.
    fn save(&self, figures: &Figures) -> Result<(), String> {
        if self.options.quick { Ok(()) } else { figures::save(NAME, figures) }
    }
}

fn build(debug: bool) -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "-p", "stayput", "-p", "stayput-testkit", "--bins"]).current_dir(workspace());
    if !debug {
        command.arg("--release");
    }
    println!("+ {command:?}");
    let status = command.status().map_err(|error| format!("cannot start cargo: {error}"))?;
    if !status.success() {
        return Err(format!("the build ended with {status}"));
    }
    let profile = if debug { "debug" } else { "release" };
    Ok(stayput_testkit::assets::target_dir().join(profile).join("stayput"))
}

fn machine(debug: bool) -> Machine {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    Machine {
        kernel: read("/proc/sys/kernel/osrelease").trim().split('-').next().unwrap_or_default().to_owned(),
        cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        model: model.map_or_else(String::new, |(_, name)| name.trim().to_owned()),
        load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
        build: if debug { "debug" } else { "release" }.to_owned(),
    }
}

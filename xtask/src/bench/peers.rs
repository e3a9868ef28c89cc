//! `cargo xtask bench peers`: the same four trials for everybody who keeps servers running and can be had, around the same server under the same load.
//! Raw figures go to `docs/bench/peers.json`, tables from them to `docs/BENCHMARKS.md`.

mod install;
mod many;
mod peer;
mod render;
mod trials;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde::{Deserialize, Serialize};
use stayput_testkit::env::{TestEnv, User};

pub(super) use self::install::Tools;
use self::peer::{ABSENT, Peer};
use self::trials::{Event, MemoryRow, Row, StrangerRow, SupervisorRow};
use super::{Machine, build, figures, machine};
use crate::setup;

pub(super) use self::render::text;

/// Options of `cargo xtask bench peers`.
#[derive(Args, Clone)]
pub(super) struct Options {
    /// Smoke test: once each; prints, and writes no file
    #[arg(long)]
    quick: bool,
    /// Restarts and kills per peer
    #[arg(long, default_value_t = 20)]
    count: u32,
    /// Only peers whose name contains one of these words
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Only these trials: restart, kill, supervisor, stranger, memory
    #[arg(long, value_delimiter = ',')]
    trials: Vec<String>,
    /// Seconds of peace before each kill, so that it is an accident and no crash loop
    #[arg(long, default_value_t = 2)]
    peace: u64,
    /// Measure the debug build (no figures worth publishing)
    #[arg(long)]
    debug: bool,
}

impl Options {
    fn wants(&self, trial: &str) -> bool {
        self.trials.is_empty() || self.trials.iter().any(|wanted| wanted == trial)
    }

    fn wants_peer(&self, peer: Peer) -> bool {
        self.peers.is_empty() || self.peers.iter().any(|part| peer.name().contains(part.as_str()))
    }
}

/// All that was measured. A peer that was not measured this time keeps its last figures.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Figures {
    machine: Machine,
    /// Day of the last measurement, UTC.
    #[serde(default)]
    date: String,
    /// Seconds of peace before each kill.
    peace: u64,
    restart: Vec<Row>,
    kill: Vec<Row>,
    supervisor: Vec<SupervisorRow>,
    stranger: Vec<StrangerRow>,
    memory: Vec<MemoryRow>,
    /// Who could not take part, and why.
    absent: Vec<(String, String)>,
}

/// What every trial needs.
pub(super) struct Bench {
    stayput: PathBuf,
    tools: Tools,
}

impl Bench {
    fn env(&self) -> TestEnv {
        TestEnv::new(&self.stayput, User::Ordinary)
    }
}

/// Name of the figures.
const NAME: &str = "peers";

pub(super) fn load_figures() -> Option<Figures> {
    figures::load(NAME)
}

/// Measures. True: figures were written.
pub(super) fn run(options: &Options) -> Result<bool, String> {
    setup::run(&setup::Arguments { bench: true })?;
    let bench = Bench { stayput: build(options.debug)?, tools: Tools::install()? };
    let mut figures = load_figures().unwrap_or_default();
    figures.machine = machine(options.debug);
    figures.date = today();
    figures.peace = options.peace;
    figures.absent = ABSENT.map(|(who, why)| (who.to_owned(), why.to_owned())).to_vec();
    let count = if options.quick { 1 } else { options.count };
    for peer in Peer::ALL {
        if let Some(why) = peer.needs().and_then(|needed| bench.tools.missing.get(needed)) {
            figures.absent.push((peer.name().to_owned(), why.clone()));
            continue;
        }
        if options.wants_peer(peer) {
            measure(&bench, options, peer, count, &mut figures)?;
        }
    }
    in_order(&mut figures);
    save(options, &figures)?;
    println!("{}", text(&figures));
    Ok(!options.quick)
}

/// As the peers are listed, whichever was measured last.
fn in_order(figures: &mut Figures) {
    let place = |name: &str| Peer::ALL.iter().position(|peer| peer.name() == name);
    figures.restart.sort_by_key(|row| place(&row.peer));
    figures.kill.sort_by_key(|row| place(&row.peer));
    figures.supervisor.sort_by_key(|row| place(&row.peer));
    figures.stranger.sort_by_key(|row| place(&row.peer));
    figures.memory.sort_by_key(|row| (place(&row.peer), row.services));
}

/// After each trial the figures are saved, so that one that fails costs nothing of the others.
fn measure(bench: &Bench, options: &Options, peer: Peer, count: u32, figures: &mut Figures) -> Result<(), String> {
    let peace = Duration::from_secs(if options.quick { 1 } else { options.peace });
    let shown =
        |trial: &str, start: Instant, what: &str| println!("{:6.1}s {} | {trial} | {what}", start.elapsed().as_secs_f32(), peer.name());
    for (trial, event) in [("restart", Event::Restart), ("kill", Event::Kill)] {
        if !options.wants(trial) {
            continue;
        }
        let start = Instant::now();
        let rows = if event == Event::Restart { &mut figures.restart } else { &mut figures.kill };
        match trials::under_load(bench, peer, event, count, peace) {
            Ok(row) => {
                shown(trial, start, &format!("{:?} {:?}", row.counts, row.trouble));
                rows.retain(|old| old.peer != row.peer);
                rows.push(row);
            }
            Err(why) => shown(trial, start, &format!("FAILED: {why}")),
        }
        save(options, figures)?;
    }
    if options.wants("supervisor") {
        let start = Instant::now();
        match trials::supervisor_killed(bench, peer) {
            Ok(row) => {
                shown("supervisor", start, &format!("{row:?}"));
                figures.supervisor.retain(|old| old.peer != row.peer);
                figures.supervisor.push(row);
            }
            Err(why) => shown("supervisor", start, &format!("FAILED: {why}")),
        }
        save(options, figures)?;
    }
    if options.wants("stranger") {
        let start = Instant::now();
        match trials::stranger(bench, peer) {
            Ok(row) => {
                shown("stranger", start, &format!("{row:?}"));
                figures.stranger.retain(|old| old.peer != row.peer);
                figures.stranger.push(row);
            }
            Err(why) => shown("stranger", start, &format!("FAILED: {why}")),
        }
        save(options, figures)?;
    }
    if options.wants("memory") {
        for services in if options.quick { vec![1, 3] } else { vec![1, 50] } {
            let start = Instant::now();
            match trials::memory(bench, peer, services) {
                Ok(Some(row)) => {
                    shown("memory", start, &format!("{row:?}"));
                    figures.memory.retain(|old| old.peer != row.peer || old.services != row.services);
                    figures.memory.push(row);
                }
                Ok(None) => {}
                Err(why) => shown("memory", start, &format!("FAILED: {why}")),
            }
        }
        save(options, figures)?;
    }
    Ok(())
}

fn save(options: &Options, figures: &Figures) -> Result<(), String> {
    if options.quick { Ok(()) } else { figures::save(NAME, figures) }
}

fn today() -> String {
    let output = std::process::Command::new("date").args(["-u", "+%Y-%m-%d"]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

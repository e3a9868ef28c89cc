//! `cargo xtask bench services`: what many services cost: their start beside a bare loop and beside other supervisors, memory, wake-ups, the time of a
//! status; a thousand that crash for ever; a rolling restart of real ones under load. Figures go to docs/bench/services.json, and from there to
//! docs/BENCHMARKS.md.

mod others;
mod render;
mod trials;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use stayput_testkit::env::{TestEnv, User};

use super::peers::Tools;
use super::{Machine, figures};
use crate::setup;

pub(super) use self::render::text;

/// What to measure, and how much of it.
#[derive(clap::Args, Clone)]
pub(super) struct Options {
    /// Services of the big trials
    #[arg(long, default_value_t = 1000)]
    services: usize,
    /// Runs of each start; the median counts
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Only these trials: start, cost, crash, rolling, others
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Smoke test: prints, and writes no file
    #[arg(long)]
    quick: bool,
    /// Measure the debug build (no figures worth publishing)
    #[arg(long)]
    debug: bool,
}

impl Options {
    fn wants(&self, trial: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == trial)
    }
}

/// All that was measured. A trial that was not run keeps its last figures.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Figures {
    machine: Machine,
    #[serde(default)]
    start: Option<trials::Start>,
    #[serde(default)]
    costs: Vec<trials::Cost>,
    #[serde(default)]
    crash: Option<trials::Crash>,
    #[serde(default)]
    rolling: Option<trials::Rolling>,
    #[serde(default)]
    others: Vec<others::Other>,
    /// Who could not take part, and why.
    #[serde(default)]
    absent: Vec<(String, String)>,
}

/// What every trial needs.
struct Bench {
    stayput: PathBuf,
    options: Options,
}

impl Bench {
    fn env(&self) -> TestEnv {
        TestEnv::new(&self.stayput, User::Ordinary)
    }
}

/// Name of the figures.
const NAME: &str = "services";

pub(super) fn load_figures() -> Option<Figures> {
    figures::load(NAME)
}

/// Measures. True: figures were written.
pub(super) fn run(options: &Options) -> Result<bool, String> {
    setup::run(&setup::Arguments { bench: options.wants("others") })?;
    let bench = Bench { stayput: super::build(options.debug)?, options: options.clone() };
    let mut figures = load_figures().unwrap_or_default();
    figures.machine = super::machine(options.debug);
    if options.wants("start") {
        figures.start = Some(trials::start(&bench)?);
        save(options, &figures)?;
    }
    if options.wants("cost") {
        figures.costs.clear();
        for services in [50, options.services] {
            figures.costs.push(trials::cost(&bench, services)?);
        }
        save(options, &figures)?;
    }
    if options.wants("crash") {
        figures.crash = Some(trials::crash(&bench)?);
        save(options, &figures)?;
    }
    if options.wants("rolling") {
        figures.rolling = Some(trials::rolling(&bench)?);
        save(options, &figures)?;
    }
    if options.wants("others") {
        let tools = Tools::install()?;
        (figures.others, figures.absent) = others::measure(&bench, &tools);
        save(options, &figures)?;
    }
    println!("{}", text(&figures));
    Ok(!options.quick)
}

/// After each trial, so that one that fails costs nothing of the others.
fn save(options: &Options, figures: &Figures) -> Result<(), String> {
    if options.quick { Ok(()) } else { figures::save(NAME, figures) }
}

//! Every real server of the testkit under stayput: planned restarts, SIGKILLs of its main process and, where another process answers, SIGKILLs
//! of the one that answers. A fresh connection per request; what is lost is counted, whatever it is.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use stayput_testkit::clients::{self, Clients};
use stayput_testkit::env::{Running, ready_generation};
use stayput_testkit::further::Further;
use stayput_testkit::{process, wait};

use super::{Bench, Machine, figures};

const PATIENCE: Duration = Duration::from_mins(1);

/// What is done to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Trial {
    Restart,
    KillMain,
    KillWorker,
}

impl Trial {
    pub(super) const ALL: [Self; 3] = [Self::Restart, Self::KillMain, Self::KillWorker];
}

/// One line of the table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) server: String,
    pub(super) trial: Trial,
    /// How often it was done.
    pub(super) events: u32,
    pub(super) answered: u64,
    pub(super) refused: u64,
    pub(super) timed_out: u64,
    /// Reset, or closed without an answer.
    pub(super) broken: u64,
    /// The longest a client waited for a good answer, in milliseconds.
    pub(super) longest_ms: u64,
    /// Why it could not be measured to the end.
    #[serde(default)]
    pub(super) trouble: Option<String>,
}

/// All of them, and where they were measured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Figures {
    pub(super) machine: Machine,
    pub(super) rows: Vec<Row>,
}

/// Name of the figures.
const NAME: &str = "servers";

pub(super) fn load_figures() -> Option<Figures> {
    figures::load(NAME)
}

/// Measures those whose names are wanted; figures of the others stay. A server whose trial fails is told of, and the next one has its turn.
///
/// # Errors
/// A name that no server has; figures that cannot be written.
pub(super) fn measure(bench: &Bench, machine: Machine) -> Result<(), String> {
    let events = bench.options.count.unwrap_or_else(|| bench.options.repeat(20, 2));
    let mut figures = load_figures().unwrap_or_default();
    figures.machine = machine;
    for server in wanted(&bench.options.servers)? {
        for trial in Trial::ALL.into_iter().filter(|trial| *trial != Trial::KillWorker || server.worker_answers()) {
            let start = Instant::now();
            let row = one(bench, server, trial, events);
            println!("{:6.1}s {row:?}", start.elapsed().as_secs_f32());
            figures.rows.retain(|old| (&old.server, old.trial) != (&row.server, row.trial));
            figures.rows.push(row);
            if !bench.options.quick {
                figures::save(NAME, &figures)?;
            }
        }
    }
    println!("{}", text(&figures));
    Ok(())
}

fn wanted(names: &[String]) -> Result<Vec<Further>, String> {
    if names.is_empty() || names.iter().any(|name| name == "all") {
        return Ok(Further::ALL.to_vec());
    }
    let of_name = |name: &String| {
        Further::ALL.into_iter().find(|server| server.name() == name).ok_or_else(|| {
            let known = Further::ALL.map(Further::name).join(", ");
            format!("no server is called {name}; there are: {known}")
        })
    };
    names.iter().map(of_name).collect()
}

fn one(bench: &Bench, server: Further, trial: Trial, events: u32) -> Row {
    let mut row = Row {
        server: server.name().to_owned(),
        trial,
        events,
        answered: 0,
        refused: 0,
        timed_out: 0,
        broken: 0,
        longest_ms: 0,
        trouble: None,
    };
    let env = bench.env();
    let port = env.port();
    let mut running = env.run(server.name(), &["--soak", "300ms"], &server.command(port, &env.path("scratch")));
    let mut under_load = || -> Result<(), String> {
        settled(&running)?;
        let load = Clients::start(server, port).map_err(|error| error.to_string())?;
        let mut tried = Ok(());
        for done in 0..events {
            tried = load.wait_ok(20).and_then(|()| turn(&running, &load, server, port, trial));
            if tried.is_err() {
                row.events = done;
                break;
            }
        }
        let seen = load.stop().map_err(|error| error.to_string())?;
        (row.answered, row.refused, row.timed_out, row.longest_ms) = (seen.ok, seen.refused, seen.timed_out, seen.longest_answer_ms);
        row.broken = seen.failed - seen.refused - seen.timed_out;
        tried
    };
    if let Err(why) = under_load() {
        println!("{}\n--- log of {}\n{}", why, server.name(), running.log());
        row.trouble = why.lines().next().map(str::to_owned);
    }
    running.signal(Signal::TERM);
    running.wait_exit(PATIENCE);
    row
}

/// Once; returns when another process has answered and the load has gone on for a while.
fn turn(running: &Running<'_>, load: &Clients, server: Further, port: u16, trial: Trial) -> Result<(), String> {
    let old = match trial {
        Trial::Restart => {
            let restart = running.restart(&[]);
            if restart.code != Some(0) {
                return Err(format!("{restart:?}"));
            }
            return settled(running).map(|_| ());
        }
        Trial::KillMain => settled(running)?,
        Trial::KillWorker => clients::answering(server, port).ok_or("nobody answers")?,
    };
    process::signal(old, Signal::KILL);
    wait::until_true("its end", PATIENCE, || !process::is_alive(old))?;
    load.wait_ok(20)?;
    settled(running).map(|_| ())
}

/// The main process, when it is ready and has nobody beside it: an event within the soak, or beside a generation that drains, would be another
/// trial.
fn settled(running: &Running<'_>) -> Result<u32, String> {
    wait::until("a single ready generation", PATIENCE, || {
        let service = running.service()?;
        let alone = service["generations"].as_array().is_some_and(|all| all.len() == 1);
        let pid = ready_generation(&service).filter(|_| alone && service["phase"] == "ready").and_then(|one| one["pid"].as_u64());
        pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| process::is_alive(*pid)).ok_or_else(|| service.to_string())
    })
}

/// The section of the page.
pub(super) fn text(figures: &Figures) -> String {
    let machine = &figures.machine;
    let mut page = format!(
        "\n## Every server we have tried\n\n`cargo xtask bench restart --servers all`\n\nFrom `docs/bench/servers.json`. Linux {}, {} CPUs ({}), {} \
         build, as an ordinary user; load average when it began: {}. {} clients, each with a fresh connection per request and 5 ms between two. \
         *Broken*: reset, or closed without an answer. A SIGKILL takes what the killed process had accepted with it: at most one request of each \
         client, each time. *Worker*: the process that answers is killed, where that is not the main process.\n\n\
         | Server | What | Times | Answered | Refused | Timed out | Broken | Longest wait |\n|---|---|---:|---:|---:|---:|---:|---:|\n",
        machine.kernel,
        machine.cpus,
        machine.model,
        machine.build,
        machine.load,
        clients::CLIENTS
    );
    for row in &figures.rows {
        let what = match row.trial {
            Trial::Restart => "planned restart",
            Trial::KillMain => "SIGKILL of the main process",
            Trial::KillWorker => "SIGKILL of a worker",
        };
        let trouble = row.trouble.as_deref().map_or(String::new(), |why| format!(" (not finished: {})", why.replace('|', "/")));
        // Writing into a String cannot fail.
        let _ = writeln!(
            page,
            "| {} | {what}{trouble} | {} | {} | {} | {} | {} | {} ms |",
            row.server, row.events, row.answered, row.refused, row.timed_out, row.broken, row.longest_ms
        );
    }
    page
}

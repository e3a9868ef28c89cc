//! The `stayput` command: one file per subcommand under `commands/`; the only crate that prints.

mod commands;
mod error;
mod output;
mod table;
mod terminal;
mod words;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::commands::{
    canary, compare, completions, daemon, dashboard, doctor, events, free, history, hold, logs, ports, reload, replicas, restart, run,
    schema, start, status, stop, story, up, wait, why,
};

/// Processes restart. Ports stay put.
#[derive(Debug, Parser)]
#[command(name = "stayput", version = env!("STAYPUT_VERSION"), max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// One variant per subcommand; its arguments and `run` live in `commands/`.
#[derive(Debug, Subcommand)]
enum Command {
    /// Keep a command on its ports: restart it without refusing a connection
    Run(Box<run::Args>),
    /// Start all services of a configuration, and keep them on their ports
    Up(up::Args),
    /// Stop all services of an instance, and the instance
    Down(stop::DownArgs),
    /// Start services that are stopped
    Start(start::StartArgs),
    /// Replace the running generation by a new one, show how it went
    Restart(restart::Args),
    /// Go back to the command and environment from before their last change
    Rollback(canary::RollbackArgs),
    /// Send a signal to services
    Signal(start::SignalArgs),
    /// Say what a reload would change; change nothing
    Plan(reload::PlanArgs),
    /// Read the configuration again and apply what changed
    Reload(reload::ReloadArgs),
    /// Say what runs, what listens, and how it is known
    Status(status::Args),
    /// Show what happened, and follow what happens
    Events(events::EventsArgs),
    /// Print all counters in the text format of Prometheus
    Metrics(events::MetricsArgs),
    /// Hold a port now: connections to it wait
    Hold(hold::HoldArgs),
    /// Let a port go that is held and that nobody accepts on
    Release(hold::ReleaseArgs),
    /// Show how connections, queues, memory, processor and restarts of services went
    History(history::Args),
    /// Show what services wrote
    Logs(Box<logs::Args>),
    /// Stop an instance and wait until it is gone
    Stop(stop::Args),
    /// What the keeper starts
    #[command(name = daemon::NAME, hide = true)]
    Daemon,
    /// What runs the copies of a service
    #[command(name = replicas::NAME, hide = true)]
    Replicas(replicas::Args),
    /// What shells ask for names
    #[command(name = completions::names::NAME, hide = true)]
    Complete(completions::names::Args),
    /// What reads the keys
    #[command(name = up::keys::NAME, hide = true)]
    Keys(up::keys::Args),
    /// Say who has a port, in which state, and what a server that binds it would get
    Why(why::Args),
    /// List every listening port with its owner
    Ports(ports::Args),
    /// Wait until a port is free, listening, accepting or answering
    Wait(wait::Args),
    /// Free a port: stop its holder gently, by the means that fit it
    Free(free::Args),
    /// Measure the story of the taken port on this machine: before, after, and with stayput
    Compare(compare::Args),
    /// The servers of that story
    #[command(name = story::NAME, hide = true)]
    Story(story::Args),
    /// Try what this kernel, container and user allow, and say which promises hold
    Doctor(doctor::Args),
    /// Print the JSON schema of stayput.toml, for editors
    Schema,
    /// Print what a shell needs to complete commands and options
    Completions(completions::Args),
    /// Write the man pages
    Man(completions::ManArgs),
    /// Serve the web page of an instance, or print the address that opens it
    Dashboard(dashboard::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Up(args) => up::run(&args),
        Command::Restart(args) => restart::run(&args),
        Command::Rollback(args) => canary::rollback(&args),
        Command::Start(args) => start::run(&args),
        Command::Signal(args) => start::signal(&args),
        Command::Events(args) => events::run(&args),
        Command::Metrics(args) => events::metrics(&args),
        Command::History(args) => history::run(&args),
        Command::Hold(args) => hold::hold(&args),
        Command::Release(args) => hold::release(&args),
        Command::Plan(args) => reload::plan(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Logs(args) => logs::run(&args),
        Command::Stop(args) => stop::run(&args),
        Command::Down(args) => stop::down(&args),
        Command::Daemon => daemon::run(),
        Command::Replicas(args) => replicas::run(&args),
        Command::Keys(args) => up::keys::run(&args),
        Command::Why(args) => why::run(&args),
        Command::Ports(args) => ports::run(&args),
        Command::Wait(args) => wait::run(&args),
        Command::Free(args) => free::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Story(args) => story::run(&args),
        Command::Doctor(args) => Ok(doctor::run(&args)),
        Command::Schema => Ok(schema::run()),
        Command::Complete(args) => Ok(completions::names::run(&args, &Cli::command())),
        Command::Completions(args) => Ok(completions::run(&args, &Cli::command())),
        Command::Man(args) => completions::man(&args, &Cli::command()),
        Command::Dashboard(args) => dashboard::run(&args),
    };
    result.unwrap_or_else(|error| error.report())
}

//! The `stayput` command: one file per subcommand under `commands/`; the only crate that prints.

mod commands;
mod error;
mod output;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::commands::{free, ports, wait, why};

/// Processes restart. Ports stay put.
#[derive(Debug, Parser)]
#[command(name = "stayput", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// One variant per subcommand; its arguments and `run` live in `commands/`.
#[derive(Debug, Subcommand)]
enum Command {
    /// Say who has a port, in which state, and what a server that binds it would get
    Why(why::Args),
    /// List every listening port with its owner
    Ports(ports::Args),
    /// Wait until a port is free, listening, accepting or answering
    Wait(wait::Args),
    /// Free a port: stop its holder gently, by the means that fit it
    Free(free::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Why(args) => why::run(&args),
        Command::Ports(args) => ports::run(&args),
        Command::Wait(args) => wait::run(&args),
        Command::Free(args) => free::run(&args),
    };
    result.unwrap_or_else(|error| error.report())
}

//! Set-up, test and bench tasks of the workspace: `cargo xtask TASK`. One file per task.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people and scripts")]

mod bench;
mod dist;
mod docs;
mod setup;
mod test;
mod web;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set-up, test and bench tasks of the stayput workspace")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Installs what the tests need: Debian packages (as root), a Python environment and a Go server under target/
    Setup(setup::Arguments),
    /// Sets up, then runs every test of the workspace
    Test(test::Arguments),
    /// Measures: restarts, port questions, logs, many services, beside what else there is; each by its name
    Bench(bench::Arguments),
    /// Checks and tests the dashboard's page in a browser; `--build` makes its files anew
    Web(web::Arguments),
    /// Writes the pages of docs/ that are made from the program; `--build` makes the book
    Docs(docs::Arguments),
    /// Builds a static binary to copy, proves that it runs in an empty root, and lists the licences of what is in it
    Dist,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Setup(arguments) => setup::run(&arguments),
        Task::Test(arguments) => test::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Web(arguments) => web::run(&arguments),
        Task::Docs(arguments) => docs::run(&arguments),
        Task::Dist => dist::run(),
    };
    match done {
        Ok(code) => code,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

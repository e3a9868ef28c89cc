//! `cargo xtask test`: set-up, then every test of the workspace with plain cargo, whose summary lines are the result.

use std::process::{Command, ExitCode};

use clap::Args;

use crate::{bench, setup, web};

/// Options of `cargo xtask test`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Do not look whether the real servers are set up
    #[arg(long)]
    no_setup: bool,
    /// Passed to `cargo test --workspace`, for example `--test p2_planned_restart -- --nocapture`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    cargo: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, String> {
    if !arguments.no_setup {
        setup::run(&setup::Arguments::default())?;
    }
    // The end-to-end tests start these two beside the `stayput` binary; cargo builds binaries of other packages only when asked.
    cargo(&["build", "--workspace", "--bins"])?;
    // All of it, so that one run shows all that is wrong.
    let mut all = vec!["test", "--workspace", "--no-fail-fast"];
    all.extend(arguments.cargo.iter().map(String::as_str));
    cargo(&all)?;
    // Who asked for a certain test asked for that one.
    if arguments.cargo.is_empty() {
        web::check()?;
        bench::count_instructions()?;
    }
    println!("cargo xtask test: all tests passed");
    Ok(ExitCode::SUCCESS)
}

fn cargo(arguments: &[&str]) -> Result<(), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    println!("+ cargo {}", arguments.join(" "));
    let status = Command::new(cargo)
        .args(arguments)
        .current_dir(setup::workspace())
        .status()
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("cargo {} ended with {status}", arguments.join(" "))) }
}

//! `cargo xtask web`: the dashboard's page: checks that the committed files are what `web/` makes, and tests it in a browser. `--build` makes them.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use clap::Args;
use stayput_testkit::assets;

use crate::setup;

/// Options of `cargo xtask web`.
#[derive(Args, Default)]
pub(crate) struct Arguments {
    /// Make crates/dashboard/assets anew, and do not test
    #[arg(long, conflicts_with = "shots")]
    build: bool,
    /// Take the pictures in docs/screenshots anew, and do not test
    #[arg(long)]
    shots: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, String> {
    setup::run(&setup::Arguments::default())?;
    modules()?;
    if arguments.build {
        node(&["build.mjs"])?;
        return Ok(ExitCode::SUCCESS);
    }
    cargo_bins()?;
    if arguments.shots {
        node(&["test/shots.mjs"])?;
        return Ok(ExitCode::SUCCESS);
    }
    check()?;
    println!("cargo xtask web: all tests passed");
    Ok(ExitCode::SUCCESS)
}

/// What `cargo xtask test` does as well; its binaries are built already.
pub(crate) fn check() -> Result<(), String> {
    modules()?;
    node(&["node_modules/typescript/bin/tsc", "--noEmit"])?;
    node(&["build.mjs", "--check"])?;
    let mut tests: Vec<String> = std::fs::read_dir(web().join("test"))
        .map_err(|error| format!("cannot read web/test: {error}"))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".test.mjs"))
        .map(|name| format!("test/{name}"))
        .collect();
    tests.sort();
    // One after the other: they measure, too.
    let mut arguments = vec!["--test", "--test-concurrency=1"];
    arguments.extend(tests.iter().map(String::as_str));
    node(&arguments)
}

fn web() -> PathBuf {
    setup::workspace().join("web")
}

/// The pinned packages, once for each lock file.
fn modules() -> Result<(), String> {
    let lock = web().join("package-lock.json");
    let input = std::fs::read_to_string(&lock).map_err(|error| format!("cannot read {}: {error}", lock.display()))?;
    setup::once(&web().join("node_modules/.stayput-stamp"), &input, || {
        println!("web: the Node packages of web/package-lock.json");
        let mut install = Command::new("npm");
        install.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--update-notifier=false"]).current_dir(web());
        checked(install)
    })
}

fn node(arguments: &[&str]) -> Result<(), String> {
    println!("+ node {}", arguments.join(" "));
    let mut command = Command::new("node");
    command.args(arguments).current_dir(web());
    command.env("STAYPUT_BIN_DIR", assets::target_dir().join("debug"));
    command.env("STAYPUT_PYTHON", assets::dir().join("venv/bin/python"));
    if let Some(chromium) = assets::find_program("chromium") {
        command.env("CHROMIUM", chromium);
    }
    checked(command)
}

fn cargo_bins() -> Result<(), String> {
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--workspace", "--bins"]).current_dir(setup::workspace());
    checked(build)
}

fn checked(mut command: Command) -> Result<(), String> {
    let shown = format!("{command:?}");
    let status = command.stdin(Stdio::null()).status().map_err(|error| format!("cannot start {shown}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{shown} ended with {status}")) }
}

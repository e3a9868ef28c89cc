//! `cargo xtask bench instructions`: how many instructions the hot pure parts take, counted by callgrind, beside those that were accepted. A clock on a
//! busy machine shows nothing below a factor of two; a count shows each percent, and is the same everywhere.
//!
//! By callgrind itself, and not by gungraun, which would bring some sixty crates and a program to install for what is one option and one line of output.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::Args;
use stayput_testkit::assets;

use crate::setup::workspace;

/// So much more than accepted is a regression; so much less is worth accepting.
const TOLERANCE_PERCENT: u64 = 10;

/// Options of `cargo xtask bench instructions`.
#[derive(Args, Clone, Default)]
pub(super) struct Options {
    /// Write the counts of now into docs/bench/instructions.txt as those that are accepted
    #[arg(long)]
    accept: bool,
}

fn accepted_path() -> PathBuf {
    workspace().join("docs/bench/instructions.txt")
}

/// One line: a count, and what it is of.
fn parse(text: &str) -> Vec<(u64, &str)> {
    text.lines()
        .filter_map(|line| line.trim().split_once("  "))
        .filter_map(|(count, name)| Some((count.parse().ok()?, name.trim())))
        .collect()
}

/// Counts, shows, and compares.
pub(super) fn run(options: &Options) -> Result<(), String> {
    if assets::find_program("valgrind").is_none() {
        return Err(
            "valgrind is not installed, so no instruction can be counted: run `cargo xtask setup`, or install the package valgrind"
                .to_owned(),
        );
    }
    let program = build()?;
    let list = said(Command::new(&program))?;
    let mut counted = Vec::new();
    for name in list.lines() {
        counted.push((count(&program, name)?, name));
    }
    let text = std::fs::read_to_string(accepted_path()).unwrap_or_default();
    let accepted = parse(&text);
    let (table, worse) = compare(&counted, &accepted);
    println!("{table}");
    if options.accept {
        let lines: String = counted.iter().fold(String::new(), |mut all, (count, name)| {
            let _ = writeln!(all, "{count:>10}  {name}");
            all
        });
        return std::fs::write(accepted_path(), lines).map_err(|error| format!("{}: {error}", accepted_path().display()));
    }
    if worse.is_empty() {
        Ok(())
    } else {
        Err(format!("{}; if it has to be so: cargo xtask bench instructions --accept", worse.join("; ")))
    }
}

/// The section of the page; empty if none were accepted.
pub(super) fn text() -> String {
    let Ok(text) = std::fs::read_to_string(accepted_path()) else { return String::new() };
    format!(
        "## Instructions\n\n`cargo xtask bench instructions`, by callgrind: what was accepted last. The same on a busy machine as on an idle one; a test run fails at \
         {TOLERANCE_PERCENT} % more.\n\n```\n{}\n```\n\n",
        text.trim_end()
    )
}

/// The table, and what is wrong with it.
fn compare(counted: &[(u64, &str)], accepted: &[(u64, &str)]) -> (String, Vec<String>) {
    let (mut table, mut worse) = (format!("{:>12} {:>12} {:>8}  instructions of\n", "now", "accepted", ""), Vec::new());
    for (now, name) in counted {
        let Some((before, _)) = accepted.iter().find(|(_, known)| known == name) else {
            let _ = writeln!(table, "{now:>12} {:>12} {:>8}  {name}", "-", "");
            worse.push(format!("{name}: no count of it was accepted"));
            continue;
        };
        let tenths = (i128::from(*now) - i128::from(*before)) * 1000 / i128::from(*before).max(1);
        let percent = format!("{}{}.{}", if tenths < 0 { '-' } else { '+' }, tenths.abs() / 10, tenths.abs() % 10);
        let _ = writeln!(table, "{now:>12} {before:>12} {percent:>7}%  {name}");
        if *now * 100 > before * (100 + TOLERANCE_PERCENT) {
            worse.push(format!("{name}: {percent} % instructions, and {TOLERANCE_PERCENT} % are tolerated"));
        }
    }
    let gone = accepted.iter().filter(|(_, known)| !counted.iter().any(|(_, name)| name == known));
    worse.extend(gone.map(|(_, name)| format!("{name}: accepted, and not counted any more")));
    (table.trim_end().to_owned(), worse)
}

/// Optimised, in a profile of its own: the release profile's link-time optimisation takes too long for a test.
fn build() -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--profile", "counted", "-p", "stayput-counted"]).current_dir(workspace());
    said(build)?;
    Ok(assets::target_dir().join("counted/counted"))
}

fn count(program: &PathBuf, name: &str) -> Result<u64, String> {
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no", "--toggle-collect=counted::measured::*"])
        .arg(program)
        .arg(name);
    let said = said(valgrind)?;
    let count = said.lines().find_map(|line| line.split_once("Collected : ")?.1.split_whitespace().next()?.parse().ok());
    // Nothing counted: the function was not found by its name.
    count.filter(|count| *count > 0).ok_or_else(|| format!("callgrind counted nothing of {name}: {said}"))
}

/// What it printed, on both streams.
fn said(mut command: Command) -> Result<String, String> {
    let shown = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("cannot start {shown}: {error}"))?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { Ok(text) } else { Err(format!("{shown} ended with {}: {text}", output.status)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_more_is_a_regression_and_what_is_missing_too() {
        let accepted = parse("      1000  a tick\n       200  a parse\n");
        assert_eq!(accepted, [(1000, "a tick"), (200, "a parse")]);
        assert_eq!(compare(&[(1100, "a tick"), (90, "a parse")], &accepted).1, [""; 0]);
        let (table, worse) = compare(&[(1101, "a tick"), (1, "new")], &accepted);
        assert!(table.contains("+10.1%"), "{table}");
        let parts = ["a tick: +10.1 %", "new: no count", "a parse: accepted, and not"];
        assert!(worse.len() == 3 && worse.iter().zip(parts).all(|(why, part)| why.starts_with(part)), "{worse:?}");
    }
}

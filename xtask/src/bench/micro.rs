//! `cargo xtask bench micro`: the micro-benchmarks of the crates (divan), their table kept in docs/bench/micro.txt.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use super::machine;
use crate::setup::workspace;

/// Package and bench target.
const BENCHES: [(&str, &str); 7] = [
    ("stayput-model", "world"),
    ("stayput-keeper", "steering"),
    ("stayput-wire", "codec"),
    ("stayput-logs", "log"),
    ("stayput-kernel", "sock_diag"),
    ("stayput-kernel", "steering"),
    ("stayput-kernel", "trap"),
];

fn path() -> PathBuf {
    workspace().join("docs/bench/micro.txt")
}

/// Runs them one after the other.
pub(super) fn run() -> Result<(), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let machine = machine(false);
    let mut all = format!("Linux {}, {} CPUs ({}), load average {}\n\n", machine.kernel, machine.cpus, machine.model, machine.load);
    for (package, bench) in BENCHES {
        let words = ["bench", "-q", "-p", package, "--bench", bench];
        let output = Command::new(&cargo).args(words).current_dir(workspace()).output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(format!("cargo {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr)));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        let _ = writeln!(all, "$ cargo bench -p {package} --bench {bench}\n{}\n", lines.join("\n"));
    }
    print_and_keep(&all)
}

fn print_and_keep(text: &str) -> Result<(), String> {
    println!("{text}");
    std::fs::write(path(), text).map_err(|error| format!("{}: {error}", path().display()))
}

/// The section of the page; empty if they were never run.
pub(super) fn text() -> String {
    let Ok(text) = std::fs::read_to_string(path()) else { return String::new() };
    format!("## Micro-benchmarks\n\n`cargo xtask bench micro`\n\n```\n{}\n```\n\n", text.trim_end())
}

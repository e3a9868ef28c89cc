//! `cargo xtask bench compare`: the full `stayput compare` of the release binary as an ordinary user, kept in docs/bench/ without its thousands of single
//! requests, which the picture shows.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use stayput_testkit::env::{TestEnv, User};

use super::build;
use crate::setup::workspace;

fn docs(name: &str) -> PathBuf {
    workspace().join("docs/bench").join(name)
}

/// Measures, and keeps what was measured.
pub(super) fn run() -> Result<(), String> {
    let env = TestEnv::new(build(false)?, User::Ordinary);
    let out = env.path("scratch").join("out").display().to_string();
    // With the Python of the test servers, where it is set up: then Flask-SocketIO itself is looked at.
    let venv = stayput_testkit::assets::dir().join("venv/bin");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = env.command(["compare", "--full", "--out", &out]);
    let status = command
        .env("PATH", format!("{}:{path}", venv.display()))
        .status()
        .map_err(|error| format!("stayput compare cannot be started: {error}"))?;
    if !status.success() {
        return Err(format!("stayput compare ended with {status}"));
    }
    env.assert_nothing_left(Duration::from_secs(5));
    let read = |name: &str| std::fs::read_to_string(format!("{out}/{name}")).map_err(|error| format!("{name}: {error}"));
    let mut all: Value = serde_json::from_str(&read("compare.json")?).map_err(|error| error.to_string())?;
    for scenario in all["scenarios"].as_array_mut().into_iter().flatten() {
        scenario.as_object_mut().map(|fields| fields.remove("timeline"));
    }
    let kernel = all["environment"]["kernel"].as_str().and_then(|kernel| kernel.split('-').next()).unwrap_or_default().to_owned();
    all["environment"]["kernel"] = kernel.into();
    let text = serde_json::to_string_pretty(&all).map_err(|error| error.to_string())? + "\n";
    for (name, text) in [("compare.json", text), ("compare.svg", read("compare.svg")?), ("compare.md", read("compare.md")?)] {
        std::fs::write(docs(name), text).map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(())
}

/// The section of the page; empty if it was never measured.
pub(super) fn text() -> String {
    let Ok(text) = std::fs::read_to_string(docs("compare.json")) else { return String::new() };
    let all: Value = serde_json::from_str(&text).unwrap_or_default();
    let mut page = String::new();
    let _ = section(&mut page, &all);
    page
}

fn section(page: &mut String, all: &Value) -> std::fmt::Result {
    let word = |value: &Value| value.as_str().unwrap_or_default().trim().to_owned();
    writeln!(page, "## Before, after, and with stayput\n\n`cargo xtask bench compare`, which is `stayput compare --full`\n")?;
    writeln!(page, "{}\n\n![Timeline of the three restarts](bench/compare.svg)\n", word(&all["verdict"]))?;
    writeln!(page, "| Metric | Before | After | stayput | Better by (after, stayput) |\n|---|---:|---:|---:|---:|")?;
    for metric in all["metrics"].as_array().into_iter().flatten() {
        let cells = ["name", "before", "after", "stayput", "ratio"].map(|field| word(&metric[field]));
        writeln!(page, "| {} |", cells.join(" | "))?;
    }
    writeln!(
        page,
        "\nThe whole of it, with the true causes, the logs and how it was measured: [bench/compare.md](bench/compare.md); \
         what each number means: [COMPARE.md](COMPARE.md).\n"
    )
}

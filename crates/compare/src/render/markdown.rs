//! For a page: the story's tables, with numbers that were measured.

use std::fmt::Write as _;

use crate::judge::outcome;
use crate::result::{Comparison, Scenario};
use crate::scenario::causes::Cause;

/// The whole result. `picture`: the name of the SVG beside it, if there is one.
pub fn markdown(comparison: &Comparison, picture: Option<&str>) -> String {
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _ = write_all(&mut out, comparison, picture);
    out
}

fn write_all(out: &mut String, comparison: &Comparison, picture: Option<&str>) -> std::fmt::Result {
    let environment = &comparison.environment;
    let flag = if environment.mode == "quick" { "--quick" } else { "--full" };
    writeln!(out, "# Before, after, and with stayput\n\nMeasured by `stayput compare {flag}`.\n\n{}\n", comparison.verdict)?;
    if let Some(picture) = picture {
        writeln!(out, "![Timeline of the three restarts]({picture})\n")?;
    }
    writeln!(out, "| Metric | Before | After | stayput | Better by (after, stayput) |\n|---|---:|---:|---:|---:|")?;
    for metric in &comparison.metrics {
        writeln!(out, "| {} | {} | {} | {} | {} |", metric.name.trim(), metric.before, metric.after, metric.stayput, metric.ratio)?;
    }
    if let Some(cut) = comparison.scenario("before").and_then(|before| before.cut.as_ref()) {
        let left = cut.left_ms.map_or("nothing".to_owned(), crate::judge::time);
        writeln!(
            out,
            "\n*Before* was watched for {} only; the kernel's own TIME_WAIT timers had {left} to go.",
            crate::judge::time(cut.after_ms)
        )?;
    }
    if let Some(released) = comparison.scenario("before").and_then(|before| before.released_ms) {
        let text = crate::judge::time(released);
        writeln!(out, "\nThe kernel let go of the port {text} after the order (*before*); the rest is the loop's pause of 15 s.")?;
    }
    writeln!(
        out,
        "\n## The true causes\n\n| What takes the port | Before: SO_REUSEADDR, test bind | After: SO_REUSEPORT, live-process check | stayput |\n|---|---|---|---|"
    )?;
    for cause in Cause::ALL {
        let of = |way: &str| comparison.scenario(&format!("{}-{way}", cause.id())).map_or_else(|| "not measured".to_owned(), outcome);
        writeln!(out, "| {} | {} | {} | {} |", cause.title(), of("before"), of("after"), of("stayput"))?;
    }
    writeln!(out, "\nWhat `stayput why` says while it is taken:\n")?;
    for cause in Cause::ALL {
        let scenario = comparison.scenario(&format!("{}-before", cause.id()));
        if let Some(why) = scenario.and_then(|scenario| scenario.why.as_ref()) {
            writeln!(out, "- {}: `{}`", cause.title(), why.replace('`', "'"))?;
        }
    }
    lab(out, comparison)?;
    writeln!(out, "\n## What the story says, and what was measured\n")?;
    for correction in &comparison.corrections {
        let here = if correction.shown_here { "" } else { " (not shown on this machine)" };
        writeln!(out, "- {}: {}{here}.", correction.told, correction.measured)?;
    }
    command(out, comparison)?;
    writeln!(out, "\n## The logs\n")?;
    for id in ["before", "after", "stayput"] {
        if let Some(scenario) = comparison.scenario(id) {
            log(out, scenario)?;
        }
    }
    writeln!(out, "## How it was measured\n")?;
    writeln!(
        out,
        "Linux {}, {} CPUs ({}), load average {} at the start, stayput {} ({} build), uid {}, everything on {}. The server imports for {} ms before \
         it binds. {} requests a second, each on a fresh connection, sent whether or not earlier ones were answered; an answer after {} ms counts as \
         one that waited. Three clients hold a connection that is meant to last. The run took {}.\n",
        environment.kernel.split('-').next().unwrap_or_default(),
        environment.cpus,
        environment.cpu,
        environment.load,
        environment.stayput,
        environment.build,
        environment.uid,
        environment.address,
        environment.boot_ms,
        environment.rate,
        crate::result::WAITED_MS,
        crate::judge::time(environment.took_ms),
    )?;
    for note in &environment.notes {
        writeln!(out, "- {note}")?;
    }
    Ok(())
}

fn lab(out: &mut String, comparison: &Comparison) -> std::fmt::Result {
    if comparison.lab.rows.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n## TIME_WAIT, option by option\n\nThe old server closed first. Does a bind on its port work?\n")?;
    writeln!(out, "| The old server set | New: {} | The check said |", comparison.lab.columns.join(" | New: "))?;
    writeln!(out, "|---|---|---|---|---|---|")?;
    for row in &comparison.lab.rows {
        let cells = row.works.map(|works| if works { "works" } else { "EADDRINUSE" }).join(" | ");
        writeln!(out, "| {} | {cells} | {} |", row.old, if row.check_said_free { "available" } else { "in use" })?;
    }
    Ok(())
}

fn command(out: &mut String, comparison: &Comparison) -> std::fmt::Result {
    let Some(command) = &comparison.environment.command else { return Ok(()) };
    writeln!(out, "\n## Your command\n\n`{}`\n", command.join(" ").replace('`', "'"))?;
    writeln!(out, "| | Nobody served for | Lost | of | Order to done |\n|---|---:|---:|---:|---:|")?;
    for (name, id) in [("stopped, then started", "command-before"), ("`stayput restart`", "command-stayput")] {
        let Some(scenario) = comparison.scenario(id) else { continue };
        if let Some(trouble) = &scenario.trouble {
            writeln!(out, "| {name} | not measured: {} | | | |", trouble.replace('|', "/"))?;
            continue;
        }
        let done = scenario.done_ms.map_or("not seen".to_owned(), crate::judge::time);
        let (lost, total) = (scenario.requests.lost(), scenario.requests.total);
        writeln!(out, "| {name} | {} | {lost} | {total} | {done} |", crate::judge::time(scenario.outage_ms))?;
    }
    Ok(())
}

fn log(out: &mut String, scenario: &Scenario) -> std::fmt::Result {
    writeln!(out, "{}:\n\n```", scenario.title)?;
    for line in &scenario.log {
        writeln!(out, "[{}] {}", line.time, line.text)?;
    }
    writeln!(out, "```\n")
}

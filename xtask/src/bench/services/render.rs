//! The section on many services.

use std::fmt::Write as _;

use super::Figures;
use super::trials::Cost;

/// Goals: the start beside a bare loop; memory of all three parts at 50 and at 1,000; a status; processor and status during crashes.
const START_RATIO: f64 = 2.0;
const STATUS_MS: f64 = 20.0;
const CRASH_PERCENT: f64 = 10.0;
const CRASH_API_MS: f64 = 100.0;

fn memory_goal_mib(services: usize) -> f64 {
    if services <= 50 { 10.0 } else { 40.0 }
}

pub(in super::super) fn text(figures: &Figures) -> String {
    let mut page = String::new();
    // Writing into a String cannot fail.
    let _ = section(&mut page, figures);
    page
}

#[expect(clippy::cast_precision_loss, reason = "KiB of one machine")]
fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

fn total_mib(cost: &Cost) -> f64 {
    mib(cost.pss_kib.iter().sum())
}

fn section(page: &mut String, figures: &Figures) -> std::fmt::Result {
    let machine = &figures.machine;
    writeln!(page, "\n## Many services\n\n`cargo xtask bench services`\n")?;
    writeln!(
        page,
        "From `docs/bench/services.json`. Linux {}, {} CPUs ({}), {} build, as an ordinary user; load average before: {}. The services say into a pipe that they \
         run, and sleep.\n",
        machine.kernel, machine.cpus, machine.model, machine.build, machine.load
    )?;
    writeln!(page, "| What | Measured | Goal | |\n|---|---|---|---|")?;
    let met = |is: bool| if is { "met" } else { "**missed**" };
    if let Some(start) = &figures.start {
        let ratio = start.stayput_ms / start.bare_ms;
        writeln!(
            page,
            "| {} services run: `stayput up -d` beside a loop of fork and exec, median of {} runs | {:.0} ms, bare {:.0} ms: {ratio:.2} times | {START_RATIO} times | {} |",
            start.services,
            start.runs,
            start.stayput_ms,
            start.bare_ms,
            met(ratio <= START_RATIO)
        )?;
    }
    for cost in &figures.costs {
        let goal = memory_goal_mib(cost.services);
        writeln!(
            page,
            "| Memory (PSS) of guard, keeper, daemon with {} services | {:?} KiB, together {:.1} MiB | {goal} MiB | {} |",
            cost.services,
            cost.pss_kib,
            total_mib(cost),
            met(total_mib(cost) <= goal)
        )?;
        writeln!(
            page,
            "| Wake-ups of the same while nothing happens, {:.0} s | {:?} | 0 | {} |",
            cost.idle_seconds,
            cost.wake_ups,
            met(cost.wake_ups.iter().sum::<u64>() == 0)
        )?;
        writeln!(
            page,
            "| `stayput status --json` with {} services, the whole command | {:.1} ms median, {:.1} ms max | {STATUS_MS} ms | {} |",
            cost.services,
            cost.status_median_ms,
            cost.status_max_ms,
            met(cost.status_median_ms <= STATUS_MS)
        )?;
    }
    if let Some(crash) = &figures.crash {
        writeln!(
            page,
            "| {} services that end at once, for ever (each has eight times), {:.0} s: {:.1} starts a second | {:.1} % of one processor | {CRASH_PERCENT} % | {} |",
            crash.services,
            crash.seconds,
            crash.starts_per_second,
            crash.cpu_percent,
            met(crash.cpu_percent <= CRASH_PERCENT)
        )?;
        writeln!(
            page,
            "| A status over the control socket while that goes on, {} asked | {:.1} ms p99, {:.1} ms max | {CRASH_API_MS} ms | {} |",
            crash.asked,
            crash.api_p99_ms,
            crash.api_max_ms,
            met(crash.api_p99_ms <= CRASH_API_MS)
        )?;
    }
    if let Some(rolling) = &figures.rolling {
        writeln!(
            page,
            "| `stayput restart --all` of {} servers (http.server, Node, gunicorn, Flask-SocketIO), 5 requests a second to each | {:.1} s; {} answered, {} refused, {} lost | 0 refused, 0 lost | {} |",
            rolling.services,
            rolling.seconds,
            rolling.answered,
            rolling.refused,
            rolling.lost,
            met(rolling.lost == 0)
        )?;
    }
    if figures.others.is_empty() {
        return Ok(());
    }
    writeln!(
        page,
        "\nThe same services under others:\n\n| With | Services | All run after | Memory (PSS) | Wake-ups in 10 s |\n|---|---:|---:|---:|---:|"
    )?;
    for other in &figures.others {
        writeln!(
            page,
            "| {} | {} | {:.0} ms | {:.1} MiB | {} |",
            other.name,
            other.services,
            other.start_ms,
            mib(other.pss_kib),
            other.wake_ups
        )?;
    }
    for (who, why) in &figures.absent {
        writeln!(page, "\nNot measured: {who}, {why}.")?;
    }
    Ok(())
}

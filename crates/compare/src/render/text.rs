//! For a terminal: 80 columns, one screen.

use std::fmt::Write as _;

use super::strip;
use crate::judge::{outcome, short_outcome};
use crate::result::{Comparison, Scenario};
use crate::scenario::causes::Cause;

const WIDTH: usize = 80;
/// The strip begins so long before the order.
const LEAD_MS: f64 = 300.0;

/// The whole result.
pub fn text(comparison: &Comparison) -> String {
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _ = write_all(&mut out, comparison);
    out
}

fn write_all(out: &mut String, comparison: &Comparison) -> std::fmt::Result {
    let cut = comparison.scenario("before").and_then(|before| before.cut.as_ref());
    writeln!(out, "{:<26}{:>11}{:>12}{:>14}  better by", "One server, one restart", "before", "after", "stayput")?;
    for metric in &comparison.metrics {
        let star = if cut.is_some() && metric.name == "nobody was served for" { " *" } else { "" };
        let ratio = if metric.ratio == "–" { String::new() } else { shorter(&metric.ratio) };
        let name = metric.name.to_owned() + star;
        let line = format!("{name:<26}{:>11}{:>12}{:>14}  {ratio}", metric.before, metric.after, metric.stayput);
        writeln!(out, "{}", fitted(line.trim_end()))?;
    }
    writeln!(out)?;
    strips(out, comparison)?;
    causes(out, comparison)?;
    command(out, comparison)?;
    writeln!(out)?;
    for line in wrapped(&comparison.verdict) {
        writeln!(out, "{line}")?;
    }
    if let Some(cut) = cut {
        let left = cut.left_ms.map_or("nothing".to_owned(), crate::judge::time);
        let seen = crate::judge::time(cut.after_ms);
        writeln!(out, "{}", fitted(&format!("* watched for {seen}; the kernel's own timers had {left} to go (--full waits)")))?;
    }
    let environment = &comparison.environment;
    let line = format!(
        "Linux {}, {} CPUs, {} build, boot {} ms, {} requests/s, took {:.1} s",
        environment.kernel.split('-').next().unwrap_or_default(),
        environment.cpus,
        environment.build,
        environment.boot_ms,
        environment.rate,
        std::time::Duration::from_millis(environment.took_ms).as_secs_f64(),
    );
    writeln!(out, "{}", fitted(&line))
}

fn shorter(ratio: &str) -> String {
    let ratio = ratio.replace("> ", ">");
    match ratio.split_once(", ") {
        Some((after, stayput)) if after == stayput => after.to_owned(),
        Some((after, stayput)) => format!("{after}/{}", stayput.trim_start_matches("to ")),
        None => ratio,
    }
}

/// What really takes a port: a line each.
fn causes(out: &mut String, comparison: &Comparison) -> std::fmt::Result {
    writeln!(out, "\n{:<29}{:<19}{:<23}stayput", "What really takes a port:", "before", "after")?;
    for cause in Cause::ALL {
        let of = |way: &str| comparison.scenario(&format!("{}-{way}", cause.id())).map_or_else(|| "not measured".to_owned(), short_outcome);
        let name = match cause {
            Cause::Stray => "child inherited the listener",
            Cause::Reloader => "reloader's child after KILL",
            Cause::SlowExit => "slow exit",
        };
        writeln!(out, "{}", fitted(&format!("{name:<29}{:<19}{:<23}{}", of("before"), of("after"), of("stayput"))))?;
    }
    if let Some(share) = comparison.scenario("stale-copy").and_then(|stale| stale.share) {
        let text = format!("{} of {} by old code", share.by_old, share.sent);
        writeln!(out, "{:<48}{text}", "stale copy beside the new one")?;
        let text = format!("{} of {} unanswered", share.by_nobody_stopped, share.sent_stopped);
        writeln!(out, "{:<48}{text}", "the same, once it hangs")?;
    }
    if let Some(why) = comparison.scenario("stray-before").and_then(|stray| stray.why.as_ref()) {
        for line in
            wrapped(&format!("stayput why: {}", why.split("; ").next().unwrap_or(why).replace(" __story stray", ""))).into_iter().take(2)
        {
            writeln!(out, "{}", fitted(&line))?;
        }
    }
    Ok(())
}

/// The three restarts on one time scale.
fn strips(out: &mut String, comparison: &Comparison) -> std::fmt::Result {
    const COLUMNS: usize = WIDTH - 9;
    let three: Vec<&Scenario> = ["before", "after", "stayput"].iter().filter_map(|id| comparison.scenario(id)).collect();
    let window = 71.0 * 40.0;
    for scenario in &three {
        let from = scenario.ordered_ms as f64 - LEAD_MS;
        let columns = strip::columns(scenario, from, window, COLUMNS);
        writeln!(out, "{:<8} {}", scenario.id, strip::line(&columns).trim_end())?;
    }
    let order = (LEAD_MS / window * COLUMNS as f64) as usize;
    writeln!(out, "{:>width$} order · served o waited × refused ! reset ? hung; 40 ms each", "^", width = 9 + order + 1)
}

fn command(out: &mut String, comparison: &Comparison) -> std::fmt::Result {
    let (Some(before), with) = (comparison.scenario("command-before"), comparison.scenario("command-stayput")) else { return Ok(()) };
    writeln!(out, "\nYour command: {}", fitted(&comparison.environment.command.clone().unwrap_or_default().join(" ")))?;
    for (name, scenario) in [("stop, start", Some(before)), ("stayput", with)] {
        if let Some(scenario) = scenario {
            let gap = crate::judge::time(scenario.outage_ms);
            let text = if scenario.trouble.is_some() {
                outcome(scenario)
            } else {
                format!("nobody served for {gap}; {} of {} requests lost", scenario.requests.lost(), scenario.requests.total)
            };
            writeln!(out, "{}", fitted(&format!(" {name:<12} {text}")))?;
        }
    }
    Ok(())
}

/// At most a line.
fn fitted(line: &str) -> String {
    if line.chars().count() <= WIDTH {
        return line.to_owned();
    }
    line.chars().take(WIDTH - 1).chain(['…']).collect()
}

fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last().map_or(0, |line| line.chars().count());
        if last > 0 && last + 1 + word.chars().count() > WIDTH {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Attempt, Cut, Dot, Environment, Fate, Flask, Lab, Process, Share};

    /// With the widest numbers that a run can bring.
    fn widest() -> Comparison {
        let mut scenarios = Vec::new();
        let causes = Cause::ALL.iter().flat_map(|cause| ["before", "after", "stayput"].map(|way| format!("{}-{way}", cause.id())));
        for id in ["before", "after", "stayput", "stale-copy"].map(str::to_owned).into_iter().chain(causes) {
            let mut scenario = Scenario::new(&id, &id, 65_535);
            scenario.ordered_ms = 1200;
            scenario.turnover_ms = Some(12_345);
            scenario.outage_ms = 76_543;
            scenario.requests.total = 10_000;
            scenario.requests.refused = 9_999;
            scenario.live.clients = 3;
            scenario.live.cut = 3;
            scenario.live.first_cut_ms = Some(5_432);
            scenario.live.longest_without_ms = 76_543;
            scenario.memory_kib = Some(123_456);
            scenario.why = Some(format!("Port 65535 is taken: {}", "word ".repeat(60)));
            scenario.attempts = vec![Attempt { at_ms: 1300, pid: 1, served: false, error: None }; 30];
            scenario.processes = vec![Process { pid: 1, role: "new", from_ms: 0, to_ms: None, end: None }];
            scenario.cut = (id != "after" && id != "stayput").then_some(Cut { after_ms: 12_345, left_ms: Some(59_999) });
            scenario.share = (id == "stale-copy").then_some(Share {
                sent: 1000,
                by_old: 999,
                sent_stopped: 1000,
                by_nobody_stopped: 999,
                ..Share::default()
            });
            let dot = |number: u32| Dot { due_ms: f64::from(number) * 20.0, took_ms: 1.0, fate: Fate::Refused, pid: 0 };
            scenario.timeline = (0..4000).map(dot).collect();
            scenarios.push(scenario);
        }
        let mut comparison = Comparison {
            schema: 1,
            environment: Environment {
                started_unix: 0,
                took_ms: 123_456,
                mode: "quick",
                kernel: "6.18.44-with-a-long-name-of-its-own".to_owned(),
                cpus: 256,
                cpu: "A processor".to_owned(),
                load: "123.45".to_owned(),
                stayput: "0.1.0".to_owned(),
                build: "release",
                uid: 65_534,
                address: "127.0.0.1",
                boot_ms: 400,
                rate: 50,
                command: Some(vec!["python3".to_owned(); 40]),
                notes: Vec::new(),
            },
            scenarios,
            lab: Lab { columns: [""; 4], rows: Vec::new(), trouble: None },
            flask: Flask { version: None, reuseaddr: None, reuseport: None, turnover_ms: None, absent: None },
            corrections: Vec::new(),
            metrics: Vec::new(),
            verdict: String::new(),
        };
        crate::judge::judge(&mut comparison);
        comparison
    }

    #[test]
    fn nothing_is_wider_than_a_terminal() {
        let all = text(&widest());
        let wide: Vec<&str> = all.lines().filter(|line| line.chars().count() > WIDTH).collect();
        assert!(wide.is_empty(), "{wide:#?}");
        assert!(all.lines().count() <= 40, "one screen:\n{all}");
    }

    #[test]
    fn a_cut_wait_is_said_to_be_one() {
        let all = text(&widest());
        assert!(all.contains("nobody was served for *") && all.contains("* watched for 12.3 s"), "{all}");
        let mut whole = widest();
        for scenario in &mut whole.scenarios {
            scenario.cut = None;
        }
        crate::judge::judge(&mut whole);
        let all = text(&whole);
        assert!(!all.contains('*') && !all.contains("more than"), "{all}");
    }

    #[test]
    fn lines_are_wrapped_at_words() {
        let text = "word ".repeat(40);
        let lines = wrapped(text.trim());
        assert!(lines.len() == 3 && lines.iter().all(|line| line.chars().count() <= WIDTH), "{lines:?}");
        assert_eq!(lines.join(" "), text.trim());
    }
}

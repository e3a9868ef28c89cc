//! From measurements to the table, the corrections and the verdict. Pure: it reads what was measured, and says nothing that does not stand there.

use std::fmt::Write as _;

use crate::result::{Comparison, Correction, Metric, Scenario};
use crate::scenario::causes::Cause;

/// Fills what follows from the scenarios.
pub(crate) fn judge(comparison: &mut Comparison) {
    comparison.metrics = metrics(comparison);
    comparison.corrections = corrections(comparison);
    comparison.verdict = verdict(comparison);
}

/// `75.3 s`, `0.52 s`, `12 ms`, `0`.
pub(crate) fn time(ms: u64) -> String {
    match ms {
        0 => "0".to_owned(),
        1..100 => format!("{ms} ms"),
        100..10_000 => format!("{}.{:02} s", ms / 1000, ms % 1000 / 10),
        _ => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
    }
}

/// How long nobody was served, and whether that is only a lower bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) ms: u64,
    pub(crate) at_least: bool,
}

impl Gap {
    pub(crate) fn of(scenario: &Scenario) -> Self {
        match &scenario.cut {
            // What was watched, and what the kernel's timers still had.
            Some(cut) => Self { ms: scenario.outage_ms.max(cut.after_ms) + cut.left_ms.unwrap_or_default(), at_least: true },
            None => Self { ms: scenario.outage_ms, at_least: false },
        }
    }

    pub(crate) fn text(self) -> String {
        format!("{}{}", if self.at_least { "> " } else { "" }, time(self.ms))
    }
}

/// `170×`, `none left` when there is nothing to divide by.
fn ratio(before: Gap, other: u64) -> String {
    let more = if before.at_least { "> " } else { "" };
    match (before.ms, other) {
        (0, _) => "–".to_owned(),
        (_, 0) => "to none".to_owned(),
        (before, other) if before >= 10 * other => format!("{more}{}×", before / other),
        (before, other) => {
            let tenths = before * 10 / other.max(1);
            format!("{more}{}.{}×", tenths / 10, tenths % 10)
        }
    }
}

fn both(before: Gap, after: u64, stayput: u64) -> String {
    format!("{}, {}", ratio(before, after), ratio(before, stayput))
}

fn exact(ms: u64) -> Gap {
    Gap { ms, at_least: false }
}

fn failed(scenario: &Scenario) -> u64 {
    scenario.attempts.iter().filter(|attempt| !attempt.served).count() as u64
}

/// Times the check said "free", and of these how often that was wrong.
pub(crate) fn wrong_checks(scenario: &Scenario) -> (usize, usize) {
    // The first one stood before the first start and is about nothing.
    let checks = scenario.checks.iter().filter(|check| check.at_ms >= scenario.ordered_ms);
    let (mut all, mut wrong) = (0, 0);
    for check in checks {
        all += 1;
        wrong += usize::from(check.said_free != check.was_free);
    }
    (all, wrong)
}

fn metrics(comparison: &Comparison) -> Vec<Metric> {
    let (Some(before), Some(after), Some(stayput)) =
        (comparison.scenario("before"), comparison.scenario("after"), comparison.scenario("stayput"))
    else {
        return Vec::new();
    };
    // A scenario that failed has no numbers.
    let cell = |scenario: &Scenario, text: String| if scenario.timeline.is_empty() { "not measured".to_owned() } else { text };
    let gap = Gap::of(before);
    let mut rows = vec![Metric {
        name: "nobody was served for",
        before: cell(before, gap.text()),
        after: cell(after, time(after.outage_ms)),
        stayput: cell(stayput, time(stayput.outage_ms)),
        ratio: both(gap, after.outage_ms, stayput.outage_ms),
    }];
    let count = |name, of: &dyn Fn(&Scenario) -> u64| {
        let at_least = before.cut.is_some() && of(before) > 0;
        let counted = |scenario: &Scenario| cell(scenario, of(scenario).to_string());
        Metric {
            name,
            before: cell(before, format!("{}{}", if at_least { "≥ " } else { "" }, of(before))),
            after: counted(after),
            stayput: counted(stayput),
            ratio: both(Gap { ms: of(before), at_least }, of(after), of(stayput)),
        }
    };
    rows.push(count("failed starts", &failed));
    rows.push(count("requests refused", &|scenario| scenario.requests.refused));
    rows.push(count("requests lost otherwise", &|scenario| scenario.requests.lost() - scenario.requests.refused));
    let check = |scenario: &Scenario| match wrong_checks(scenario) {
        (0, _) => "no check".to_owned(),
        (all, wrong) => format!("{wrong} of {all}"),
    };
    rows.push(Metric {
        name: "the port check was wrong",
        before: cell(before, check(before)),
        after: cell(after, check(after)),
        stayput: "no check".to_owned(),
        ratio: "–".to_owned(),
    });
    let live = |scenario: &Scenario| {
        let when = scenario.live.first_cut_ms.map_or(String::new(), |at| format!(" at {}", time(at.max(1))));
        cell(scenario, format!("{}{when}", scenario.live.cut))
    };
    rows.push(Metric {
        name: "lasting connections cut",
        before: live(before),
        after: live(after),
        stayput: live(stayput),
        ratio: "–".to_owned(),
    });
    let without = |scenario: &Scenario| match scenario.live {
        live if live.cut > 0 && live.longest_without_ms == 0 => cell(scenario, "< 1 ms".to_owned()),
        live => cell(scenario, time(live.longest_without_ms)),
    };
    rows.push(Metric {
        name: "  until they had another",
        before: if before.cut.is_some() { format!("> {}", without(before)) } else { without(before) },
        after: without(after),
        stayput: without(stayput),
        ratio: "–".to_owned(),
    });
    let turnover = |scenario: &Scenario| cell(scenario, scenario.turnover_ms.map_or("not seen".to_owned(), time));
    rows.push(Metric {
        name: "order to new code serving",
        before: if before.cut.is_some() { gap.text() } else { turnover(before) },
        after: turnover(after),
        stayput: turnover(stayput),
        ratio: match (after.turnover_ms, stayput.turnover_ms) {
            (Some(after), Some(stayput)) => both(before.turnover_ms.map_or(gap, exact), after, stayput),
            _ => "–".to_owned(),
        },
    });
    rows.push(Metric {
        name: "longest answer",
        before: cell(before, time(before.requests.longest_ms)),
        after: cell(after, time(after.requests.longest_ms)),
        stayput: cell(stayput, time(stayput.requests.longest_ms)),
        ratio: "–".to_owned(),
    });
    rows.push(Metric {
        name: "memory of the supervisor",
        before: "–".to_owned(),
        after: "–".to_owned(),
        stayput: stayput
            .memory_kib
            .map_or_else(|| "not measured".to_owned(), |kib| format!("{}.{} MiB", kib / 1024, kib % 1024 * 10 / 1024)),
        ratio: "–".to_owned(),
    });
    rows
}

fn corrections(comparison: &Comparison) -> Vec<Correction> {
    let mut all = Vec::new();
    let flask = &comparison.flask;
    let version = flask.version.as_deref().unwrap_or_default();
    let told = "\"Flask doesn't use SO_REUSEADDR by default\"";
    all.push(match flask.reuseaddr {
        Some(set) => {
            let turnover = flask.turnover_ms.map_or(String::new(), |ms| format!("; with connections open its restart took {}", time(ms)));
            let is = if set { "is set" } else { "is not set" };
            Correction {
                told,
                measured: format!("on the listening socket of Flask-SocketIO {version} (threading) SO_REUSEADDR {is}{turnover}"),
                shown_here: true,
            }
        }
        None => Correction {
            told,
            measured: format!(
                "Flask-SocketIO could not be looked at here: {}; elsewhere it was seen to set it in every mode",
                flask.absent.as_deref().unwrap_or("not tried")
            ),
            shown_here: false,
        },
    });
    let row = |name: &str| comparison.lab.rows.iter().find(|row| row.old == name);
    let word = |works: bool| if works { "works" } else { "fails (EADDRINUSE)" };
    if let Some(none) = row("none") {
        all.push(Correction {
            told: "\"SO_REUSEADDR = 1 (allow TIME_WAIT binding)\", in the new server",
            measured: format!(
                "it is the old server's option that counts: against TIME_WAIT left by a server without it, a bind with SO_REUSEADDR {}, with both options {}",
                word(none.works[1]),
                word(none.works[3])
            ),
            shown_here: true,
        });
    }
    if let Some(before) = comparison.scenario("before").filter(|before| !before.attempts.is_empty()) {
        let (all_checks, wrong) = wrong_checks(before);
        all.push(Correction {
            told: "make_server_with_reuse: the options are set on a socket that is bound already",
            measured: format!(
                "they come too late for that bind: {} of {} starts failed with exactly this",
                failed(before),
                before.attempts.len()
            ),
            shown_here: true,
        });
        if let Some(never) = comparison.scenario("before-never").filter(|never| !never.checks.is_empty()) {
            let (of, lied) = wrong_checks(never);
            all.push(Correction {
                told: "the check says \"available\" because TIME_WAIT is invisible to it",
                measured: format!(
                    "it was wrong {wrong} of {all_checks} times where the options are set after bind, and {lied} of {of} times where they are never \
                     set: it asks with SO_REUSEADDR, so it is right only for servers that do the same"
                ),
                shown_here: true,
            });
        }
    }
    if let Some(after) = comparison.scenario("after").filter(|after| !after.timeline.is_empty()) {
        all.push(Correction {
            told: "\"100% success\"",
            measured: format!(
                "every start succeeded, and {} of {} requests were refused while it started",
                after.requests.refused, after.requests.total
            ),
            shown_here: true,
        });
    }
    if let Some(share) = comparison.scenario("stale-copy").and_then(|stale| stale.share) {
        all.push(Correction {
            told: "\"SO_REUSEPORT = 1 (allow multiple binds)\"",
            measured: format!(
                "it also allows the copy that should be gone: it answered {} of {} requests beside the new one, and when it hung {} of {} got no answer",
                share.by_old, share.sent, share.by_nobody_stopped, share.sent_stopped
            ),
            shown_here: true,
        });
    }
    all
}

/// What a loop made of a cause, in a few words.
pub(crate) fn outcome(scenario: &Scenario) -> String {
    if let Some(trouble) = &scenario.trouble {
        return format!("not measured: {trouble}");
    }
    let bad = failed(scenario);
    let requests = scenario.requests;
    let many = |count: u64, one: &str, more: &str| format!("{count} {}", if count == 1 { one } else { more });
    let starts = |count| many(count, "start failed", "starts failed");
    let mut parts = Vec::new();
    match (bad, scenario.turnover_ms, &scenario.cut) {
        (0, ..) => {}
        (bad, Some(turnover), _) => parts.push(format!("{}, serves after {}", starts(bad), time(turnover))),
        (bad, None, Some(cut)) => parts.push(format!("{}, no new code in {}", starts(bad), time(cut.after_ms))),
        (bad, None, None) => parts.push(starts(bad)),
    }
    if let Some(share) = scenario.share {
        if share.by_old > 0 {
            parts.push(format!("old code answers {} of {}", share.by_old, share.sent));
        }
        if share.by_nobody > 0 {
            parts.push(format!("{} of {} get no answer", share.by_nobody, share.sent));
        }
    }
    if requests.lost() == 0 && scenario.cut.is_some() {
        parts.push("the old code goes on".to_owned());
    } else if requests.lost() == 0 {
        parts.push("no request lost".to_owned());
    } else if scenario.share.is_none_or(|share| share.by_nobody == 0) {
        let kinds = [(requests.refused, "refused"), (requests.reset, "reset"), (requests.hung, "hung"), (requests.other, "failed")];
        let kinds: Vec<String> = kinds.iter().filter(|(count, _)| *count > 0).map(|(count, name)| format!("{count} {name}")).collect();
        parts.push(kinds.join(", "));
    }
    parts.join("; ")
}

fn verdict(comparison: &Comparison) -> String {
    let (Some(before), Some(after), Some(stayput)) =
        (comparison.scenario("before"), comparison.scenario("after"), comparison.scenario("stayput"))
    else {
        return "nothing was measured".to_owned();
    };
    if let Some(trouble) = [before, after, stayput].into_iter().find_map(|scenario| scenario.trouble.as_ref()) {
        return format!("No verdict: {trouble}.");
    }
    let gap = Gap::of(before);
    let (_, wrong) = wrong_checks(before);
    let plural = |count: u64| if count == 1 { "" } else { "s" };
    let bad = failed(before);
    let mut text = format!(
        "Before, nobody was served for {}{} and {bad} start{} failed; {wrong} time{} the check had just said \"available\". After, the gap is {}, with \
         {} request{} refused.",
        if gap.at_least { "more than " } else { "" },
        time(gap.ms),
        plural(bad),
        plural(wrong as u64),
        time(after.outage_ms),
        after.requests.refused,
        plural(after.requests.refused),
    );
    let (lost, total) = (stayput.requests.lost(), stayput.requests.total);
    let lost = if lost == 0 { "none".to_owned() } else { lost.to_string() };
    let _ = write!(text, " With stayput, the same server unmodified, {lost} of {total} requests came to nothing");
    if let Some(cut) = stayput.live.first_cut_ms {
        let _ = write!(text, "; connections that last were cut after {}, when their time to drain was over", time(cut));
    }
    text += ".";
    let hides = |cause: &Cause| {
        let share = comparison.scenario(&format!("{}-after", cause.id())).and_then(|after| after.share);
        share.is_some_and(|share| share.by_nobody + share.by_old > 0)
    };
    let hidden = Cause::ALL.iter().filter(|cause| hides(cause)).count();
    let all = Cause::ALL.len();
    if hidden > 0 {
        let which = if hidden == all { format!("None of the {all} things") } else { format!("{hidden} of the {all} things") };
        let verb = if hidden == all { "is cured by SO_REUSEPORT: it hides them" } else { "SO_REUSEPORT does not cure but hide" };
        let _ = write!(text, " {which} that really take a port on a restart {verb}.");
    }
    text
}

/// The same as [`outcome`] for a narrow column.
pub(crate) fn short_outcome(scenario: &Scenario) -> String {
    if scenario.trouble.is_some() {
        return "not measured".to_owned();
    }
    let bad = failed(scenario);
    if let (true, Some(cut)) = (bad > 0, &scenario.cut) {
        return format!("no start in {}", time(cut.after_ms));
    }
    if let Some(share) = scenario.share.filter(|share| share.by_old + share.by_nobody > 0) {
        return match (share.by_old, share.by_nobody) {
            (0, nobody) => format!("{nobody} of {} unanswered", share.sent),
            (old, 0) => format!("{old} of {} by old code", share.sent),
            (old, nobody) => format!("{old} old, {nobody} lost of {}", share.sent),
        };
    }
    match (bad, scenario.requests.lost()) {
        (0, 0) => "none lost".to_owned(),
        (0, lost) => format!("{lost} lost"),
        (bad, lost) => format!("{bad} failed, {lost} lost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_people_read_them() {
        for (ms, text) in [(0, "0"), (7, "7 ms"), (99, "99 ms"), (100, "0.10 s"), (5432, "5.43 s"), (75_321, "75.3 s")] {
            assert_eq!(time(ms), text);
        }
    }

    #[test]
    fn ratios_never_divide_by_nothing() {
        assert_eq!(ratio(exact(75_000), 500), "150×");
        assert_eq!(ratio(Gap { ms: 60_000, at_least: true }, 500), "> 120×");
        assert_eq!(ratio(exact(900), 600), "1.5×");
        assert_eq!(ratio(exact(600), 900), "0.6×");
        assert_eq!(ratio(exact(5), 0), "to none");
        assert_eq!(ratio(exact(0), 0), "–");
        assert_eq!(ratio(exact(0), 3), "–");
    }
}

//! The report in words of at most 80 columns, and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};
use stayput_model::host::{Finding, Group, Level, Report, Standing};
use stayput_model::text::printable;

const WIDTH: usize = 80;
/// Where the text of a finding begins.
const INDENT: usize = 12;

fn standing_words(standing: Standing) -> (&'static str, &'static str) {
    match standing {
        Standing::Kept => ("✓", "kept"),
        Standing::Weaker => ("!", "weaker"),
        Standing::Gone => ("✗", "gone"),
    }
}

fn level_words(level: Level) -> (&'static str, &'static str) {
    match level {
        Level::Ok => ("✓", "ok"),
        Level::Note => ("!", "note"),
        Level::Missing => ("✗", "missing"),
    }
}

/// A mark with its word: the colour only repeats what they say.
fn mark((sign, word): (&str, &str), colourful: bool) -> String {
    let plain = format!("  {sign} {word:<7} ");
    if !colourful {
        return plain;
    }
    let colour = match sign {
        "✓" => 32,
        "!" => 33,
        _ => 31,
    };
    format!("\u{1b}[{colour}m{plain}\u{1b}[0m")
}

/// For people.
pub(super) fn text(report: &Report, colourful: bool) -> String {
    let mut out = String::new();
    push_wrapped(&mut out, &report.verdict, 0, 0);
    out.push('\n');
    for promise in &report.promises {
        let because = if promise.because.is_empty() { String::new() } else { format!(" (see {})", promise.because.join(", ")) };
        let _ = write!(out, "{}", mark(standing_words(promise.standing), colourful));
        push_wrapped(&mut out, &format!("{:?} {}{because}", promise.promise, promise.title), INDENT, INDENT);
    }
    let mut group: Option<Group> = None;
    for finding in &report.findings {
        if group != Some(finding.group) {
            let _ = writeln!(out, "\n{}", finding.group.title());
            group = Some(finding.group);
        }
        push_finding(&mut out, finding, colourful);
    }
    out
}

fn push_finding(out: &mut String, finding: &Finding, colourful: bool) {
    let words = level_words(finding.level);
    let words = if finding.promises.is_empty() || finding.level == Level::Missing { words } else { ("!", "weaker") };
    let _ = write!(out, "{}", mark(words, colourful));
    let result = printable(&finding.result);
    if finding.level == Level::Ok {
        push_wrapped(out, &result, INDENT, INDENT);
        return;
    }
    let more = INDENT + 2;
    push_wrapped(out, &format!("{}: {result}", finding.id), INDENT, more);
    if finding.level == Level::Missing || !finding.promises.is_empty() {
        let _ = write!(out, "{:more$}", "");
        push_wrapped(out, &format!("tried: {}", finding.tried), more, more);
    }
    let promises = taken(finding);
    let meaning = match (promises.is_empty(), finding.meaning.is_empty()) {
        (true, _) => finding.meaning.clone(),
        (false, true) => promises,
        (false, false) => format!("{promises}: {}", finding.meaning),
    };
    if !meaning.is_empty() {
        let _ = write!(out, "{:more$}", "");
        push_wrapped(out, &meaning, more, more);
    }
    if let Some(improve) = &finding.improve {
        // Not wrapped: it is to be copied.
        let _ = writeln!(out, "{:more$}to improve: {}", "", printable(improve));
    }
}

/// `P1, P2, P3 gone, P4 weaker`.
fn taken(finding: &Finding) -> String {
    let with = |wanted: Standing| -> Option<String> {
        let promises = finding.promises.iter().filter(|(_, standing)| *standing == wanted);
        let names: Vec<String> = promises.map(|(promise, _)| format!("{promise:?}")).collect();
        (!names.is_empty()).then(|| format!("{} {}", names.join(", "), standing_words(wanted).1))
    };
    [with(Standing::Gone), with(Standing::Weaker)].into_iter().flatten().collect::<Vec<String>>().join(", ")
}

/// Appends words that begin at column `first`, further lines at `rest`.
fn push_wrapped(out: &mut String, text: &str, first: usize, rest: usize) {
    let mut column = first;
    let mut fresh = true;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let length = word.chars().count();
        if !fresh && column + 1 + length > WIDTH {
            let _ = write!(out, "\n{:rest$}", "");
            column = rest;
            fresh = true;
        }
        if !fresh {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
        fresh = false;
    }
    out.push('\n');
}

/// For programs: docs/DOCTOR.md.
pub(super) fn document(report: &Report) -> Value {
    let findings: Vec<Value> = report
        .findings
        .iter()
        .map(|finding| {
            let promises: serde_json::Map<String, Value> =
                finding.promises.iter().map(|(promise, standing)| (format!("{promise:?}"), json!(standing))).collect();
            json!({
                "id": finding.id,
                "group": finding.group,
                "level": finding.level,
                "tried": finding.tried,
                "result": finding.result,
                "promises": promises,
                "meaning": finding.meaning,
                "improve": finding.improve,
            })
        })
        .collect();
    json!({
        "version": 1,
        "verdict": report.verdict,
        "keeps_all": report.keeps_all(),
        "promises": report.promises,
        "findings": findings,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_words_and_lines_are_wrapped_where_they_can_be() {
        let mut out = String::new();
        push_wrapped(&mut out, &"word ".repeat(40), 12, 14);
        for line in out.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
        assert!(out.lines().nth(1).unwrap().starts_with(&" ".repeat(14)));
        let mut out = String::new();
        push_wrapped(&mut out, &"x".repeat(100), 0, 0);
        assert_eq!(out, "x".repeat(100) + "\n");
    }

    #[test]
    fn a_mark_is_never_a_colour_alone() {
        for words in [Level::Ok, Level::Note, Level::Missing].map(level_words) {
            for colourful in [false, true] {
                let mark = mark(words, colourful);
                assert!(mark.contains(words.0) && mark.contains(words.1) && mark.contains('\u{1b}') == colourful);
            }
        }
    }
}

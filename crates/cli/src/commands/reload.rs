//! `stayput plan` and `stayput reload`: what the configuration as it stands now would change, and the change.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde_json::json;
use stayput_model::text::printable;
use stayput_wire::plan::{ConfigProblem, FieldChange, PlanReport, ServiceAction};
use stayput_wire::{Reply, Request};

use super::{instances, restart};
use crate::error::{Error, Kind};
use crate::output;

/// Arguments of `stayput plan`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Nothing is changed. Exit status: 0; 2 if the configuration has errors.")]
pub(crate) struct PlanArgs {
    /// Name of the instance [default: the only one that runs]
    name: Option<String>,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `stayput reload`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 if all that changed is in force, 1 if a new generation failed, 2 if the configuration has errors: then nothing
was changed."
)]
pub(crate) struct ReloadArgs {
    /// Name of the instance [default: the only one that runs]
    name: Option<String>,
    /// Do not wait for the restarts that it takes
    #[arg(long)]
    no_wait: bool,
    /// Print what was changed and how it went as JSON
    #[arg(long)]
    json: bool,
}

/// Runs `stayput plan`.
pub(crate) fn plan(args: &PlanArgs) -> Result<ExitCode, Error> {
    let found = instances::choose(args.name.as_deref(), "plan")?;
    match instances::ask(&found, &Request::Plan {}, None, &mut |_| ())? {
        Reply::Plan(plan) => {
            if args.json {
                output::say(&format!("{}\n", json!(plan)));
            }
            refuse(&plan, args.json, "it cannot be applied: the configuration has errors")?;
            if !args.json {
                output::say(&text(&plan));
            }
            Ok(ExitCode::SUCCESS)
        }
        other => Err(instances::unexpected(&found, other)),
    }
}

/// Runs `stayput reload`.
pub(crate) fn run(args: &ReloadArgs) -> Result<ExitCode, Error> {
    let found = instances::choose(args.name.as_deref(), "reload")?;
    let mut show = instances::shown(args.json);
    match instances::ask(&found, &Request::Reload { wait: !args.no_wait }, None, &mut show)? {
        Reply::Reloaded { plan, services } => {
            if args.json {
                output::say(&format!("{}\n", json!({ "plan": plan, "services": services })));
            }
            refuse(&plan, args.json, "nothing was changed: the configuration has errors")?;
            if !args.json {
                output::say(&text(&plan));
            }
            Ok(restart::report_each(&services, args.json))
        }
        other => Err(instances::unexpected(&found, other)),
    }
}

/// Errors of the file, all of them.
fn refuse(plan: &PlanReport, json: bool, sentence: &str) -> Result<(), Error> {
    if plan.errors.is_empty() {
        return Ok(());
    }
    if !json {
        // The daemon draws the frames of all errors as one text, which has neither colours nor control characters.
        let drawn: Vec<&str> = plan.errors.iter().filter_map(|problem| problem.rendered.as_deref()).collect();
        let text = if drawn.is_empty() { plan.errors.iter().map(problem).collect() } else { drawn.concat() };
        output::complain(&text);
    }
    Err(Error::new(Kind::BadInput, sentence))
}

fn problem(problem: &ConfigProblem) -> String {
    let place = match (&problem.path, problem.line) {
        (Some(path), Some(line)) => format!("{}:{line}: ", printable(path)),
        _ => String::new(),
    };
    format!("error: {place}{}\n", printable(&problem.message))
}

/// A plan in words.
fn text(plan: &PlanReport) -> String {
    let mut text = String::new();
    for change in &plan.changes {
        let action = match change.action {
            ServiceAction::Add => "is added",
            ServiceAction::Remove => "is drained and stopped",
            ServiceAction::Restart => "is restarted",
            ServiceAction::Live => "goes on",
        };
        let _ = writeln!(text, "{}: {action}: {}", change.service, printable(&change.why));
        fields(&mut text, &change.fields);
    }
    if !plan.instance.is_empty() {
        text.push_str("the instance:\n");
        fields(&mut text, &plan.instance);
    }
    if text.is_empty() {
        text.push_str("nothing changes\n");
    }
    text
}

fn fields(text: &mut String, fields: &[FieldChange]) {
    let value = |value: &Option<String>| value.as_deref().map_or_else(|| "not set".to_owned(), |value| printable(value).into_owned());
    for field in fields {
        let (from, to) = (value(&field.from), value(&field.to));
        let _ = writeln!(text, "  {}: {from} -> {to} ({})", printable(&field.field), printable(&field.why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stayput_wire::plan::ServiceChange;

    #[test]
    fn a_plan_says_what_happens_and_why() {
        assert_eq!(text(&PlanReport::default()), "nothing changes\n");
        let field = FieldChange {
            field: "command".to_owned(),
            from: None,
            to: Some("server\u{1b}".to_owned()),
            restart: true,
            why: "a process gets it when it starts".to_owned(),
        };
        let change =
            ServiceChange { service: "web".to_owned(), action: ServiceAction::Restart, why: "it changed".to_owned(), fields: vec![field] };
        let plan = PlanReport { changes: vec![change], ..PlanReport::default() };
        let expected = "web: is restarted: it changed\n  command: not set -> server\\x1b (a process gets it when it starts)\n";
        assert_eq!(text(&plan), expected);
    }
}

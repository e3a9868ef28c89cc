//! `stayput status`: what is true of the running instances, asked from their daemons.

mod watch;

use std::process::ExitCode;

use serde::Serialize;
use stayput_wire::runtime::Found;
use stayput_wire::{Client, ClientError, InstanceStatus, ProcessStatus, Reply, Request};

use super::instances::{self, ANSWER_WITHIN};
use crate::error::Error;
use crate::{output, table, terminal, words};

/// Arguments of `stayput status`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "An instance of several services is a table, fitted to the terminal; one of a single service is shown with its generations and listeners.
Exit status: 0; 1 if nothing runs or a daemon does not answer; 2 if there is no such instance."
)]
pub(crate) struct Args {
    /// Name of the instance [default: all]
    name: Option<String>,
    /// Show generations, listeners and the last restart of each service
    #[arg(long, short)]
    long: bool,
    /// Draw it again whenever something happens, until q
    #[arg(long, short, conflicts_with = "json")]
    watch: bool,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Result<ExitCode, Error> {
    let mut running = instances::all()?;
    if let Some(name) = &args.name {
        running = vec![instances::find(running, name)?];
    }
    if running.is_empty() {
        if args.json {
            output::say("{\"instances\":[]}\n");
        }
        return Err(instances::nothing_running());
    }
    if args.watch {
        return watch::run(args.name.as_deref(), |running| picture(args, running));
    }
    // Each is asked after the other: only one that does not answer takes time.
    let asked: Vec<_> = running.into_iter().map(|found| (ask(&found), found)).collect();
    let all_answered = asked.iter().all(|(answer, _)| answer.is_ok());
    if args.json {
        let documents: Vec<Document<'_>> = asked.iter().map(|(answer, found)| document(answer, found)).collect();
        output::say(&format!("{}\n", json(&documents)));
    } else {
        output::say(&pictures(args, &asked));
    }
    Ok(if all_answered { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn ask(found: &Found) -> Result<InstanceStatus, ClientError> {
    let mut client = Client::connect(&found.control_socket, ANSWER_WITHIN)?;
    match client.request(&Request::Status {}, Some(ANSWER_WITHIN), &mut |_| ())? {
        Reply::Status(status) => Ok(*status),
        other => Err(ClientError::Unexpected(Box::new(other))),
    }
}

/// What is shown of these instances now.
fn picture(args: &Args, running: &[Found]) -> String {
    let asked: Vec<_> = running.iter().map(|found| (ask(found), found.clone())).collect();
    pictures(args, &asked)
}

fn pictures(args: &Args, asked: &[(Result<InstanceStatus, ClientError>, Found)]) -> String {
    let texts: Vec<String> = asked.iter().map(|(answer, found)| text(args, answer, found, asked.len() > 1)).collect();
    texts.join("\n")
}

fn text(args: &Args, answer: &Result<InstanceStatus, ClientError>, found: &Found, several: bool) -> String {
    match answer {
        // Of one service everything has room.
        Ok(status) if args.long || (!args.watch && status.services.len() == 1) => words::status(status),
        Ok(status) => {
            let name = if several { format!("{}:\n", found.name) } else { String::new() };
            format!("{name}{}", table::table(status, terminal::width(), output::is_colourful()))
        }
        Err(error) => {
            let guard = found.guard.map_or("unreadable".to_owned(), |pid| pid.to_string());
            format!("{}: its lock is held (guard pid {guard}), so it runs; its daemon does not answer\n  cause: {error}\n", found.name)
        }
    }
}

/// What `--json` says of an instance.
#[derive(Serialize)]
#[serde(untagged)]
enum Document<'a> {
    Answered(&'a InstanceStatus),
    Unanswered { name: &'a str, guard: Option<ProcessStatus>, unanswered: String },
}

fn document<'a>(answer: &'a Result<InstanceStatus, ClientError>, found: &'a Found) -> Document<'a> {
    match answer {
        Ok(status) => Document::Answered(status),
        Err(error) => {
            Document::Unanswered { name: &found.name, guard: found.guard.map(|pid| ProcessStatus { pid }), unanswered: error.to_string() }
        }
    }
}

/// `{"instances":[…]}`, with the fields of the only instance at the top level as well. Written as it is walked: a status of a thousand
/// services is some megabytes.
fn json(documents: &[Document<'_>]) -> String {
    #[derive(Serialize)]
    struct Envelope<'a> {
        #[serde(flatten)]
        only: Option<&'a Document<'a>>,
        instances: &'a [Document<'a>],
    }
    let only = if let [only] = documents { Some(only) } else { None };
    // Maps with names for keys, numbers and text: there is nothing in it that JSON could not say.
    serde_json::to_string(&Envelope { only, instances: documents }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_instance_is_at_the_top_as_well() {
        let named = |name: &str| InstanceStatus { name: name.to_owned(), ..InstanceStatus::default() };
        let (a, b) = (named("a"), named("b"));
        let read = |documents: &[Document<'_>]| serde_json::from_str::<serde_json::Value>(&json(documents)).unwrap();
        let one = read(&[Document::Answered(&a)]);
        assert_eq!((&one["name"], &one["instances"][0]["name"], one["instances"].as_array().unwrap().len()), (&"a".into(), &"a".into(), 1));
        let two = read(&[Document::Answered(&a), Document::Unanswered { name: &b.name, guard: None, unanswered: "no answer".to_owned() }]);
        assert_eq!((&two["name"], &two["instances"][1]["unanswered"]), (&serde_json::Value::Null, &"no answer".into()));
    }
}

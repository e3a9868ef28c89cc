//! `stayput status`: what is true of the running instances, asked from their daemons.

mod watch;

use std::borrow::Cow;
use std::process::ExitCode;

use serde_json::json;
use stayput_wire::runtime::Found;
use stayput_wire::{Client, ClientError, InstanceStatus, Reply, Request};

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
    let all_answered = if args.json {
        let asked: Vec<_> = running.iter().map(|found| (ask_json(found), found)).collect();
        say_json(&asked.iter().map(|(answer, found)| document(answer, found)).collect::<Vec<_>>());
        asked.iter().all(|(answer, _)| answer.is_ok())
    } else {
        let asked: Vec<_> = running.into_iter().map(|found| (ask(&found), found)).collect();
        output::say(&pictures(args, &asked));
        asked.iter().all(|(answer, _)| answer.is_ok())
    };
    Ok(if all_answered { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn ask(found: &Found) -> Result<InstanceStatus, ClientError> {
    let mut client = Client::connect(&found.control_socket, ANSWER_WITHIN)?;
    match client.request(&Request::Status {}, Some(ANSWER_WITHIN), &mut |_| ())? {
        Reply::Status(status) => Ok(*status),
        other => Err(ClientError::Unexpected(Box::new(other))),
    }
}

fn ask_json(found: &Found) -> Result<String, ClientError> {
    Client::connect(&found.control_socket, ANSWER_WITHIN)?.status_json(Some(ANSWER_WITHIN))
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

/// The JSON object of an instance.
fn document<'a>(answer: &'a Result<String, ClientError>, found: &Found) -> Cow<'a, str> {
    match answer {
        Ok(status) => Cow::Borrowed(status),
        Err(error) => {
            let guard = found.guard.map(|pid| json!({ "pid": pid }));
            Cow::Owned(json!({ "name": found.name, "guard": guard, "unanswered": error.to_string() }).to_string())
        }
    }
}

/// `{"instances":[…]}`, with the fields of the only instance at the top level as well. The objects are printed where they are: those of a
/// thousand services are some megabytes.
fn say_json(objects: &[Cow<'_, str>]) {
    for piece in pieces(objects) {
        if !output::say(piece) {
            return;
        }
    }
}

fn pieces<'a>(objects: &'a [Cow<'_, str>]) -> Vec<&'a str> {
    let mut pieces = vec!["{\"instances\":["];
    for (number, object) in objects.iter().enumerate() {
        if number > 0 {
            pieces.push(",");
        }
        pieces.push(object);
    }
    match objects {
        // Its fields and its closing brace follow.
        [only] => pieces.extend(["],", only.strip_prefix('{').unwrap_or(only)]),
        _ => pieces.push("]}"),
    }
    pieces.push("\n");
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn the_only_instance_is_at_the_top_as_well() {
        let read = |objects: &[Cow<'_, str>]| serde_json::from_str::<Value>(&pieces(objects).concat()).unwrap();
        let (a, b) = (Cow::Borrowed(r#"{"name":"a","services":[]}"#), Cow::Borrowed(r#"{"name":"b"}"#));
        let only = read(std::slice::from_ref(&a));
        assert_eq!(only, json!({ "name": "a", "services": [], "instances": [{ "name": "a", "services": [] }] }));
        assert_eq!(read(&[a, b]), json!({ "instances": [{ "name": "a", "services": [] }, { "name": "b" }] }));
    }
}

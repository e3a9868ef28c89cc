//! `stayput events` and `stayput metrics`: what happened and happens in an instance, and its counters.

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use stayput_kernel::local_time::LocalTime;
use stayput_model::text::printable;
use stayput_wire::runtime::Found;
use stayput_wire::stream::{Cursor, EventRecord, Level};
use stayput_wire::{Answer, Client, ClientError, Reply, Request};

use super::instances::{self, ANSWER_WITHIN};
use crate::error::{Error, Kind};
use crate::output;

/// Arguments of `stayput events`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0; 1 if the daemon does not answer; 2 if there is no such service.")]
pub(crate) struct EventsArgs {
    /// Only of these services, by name or pattern [default: all, and what concerns none]
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
    /// Name of the instance [default: the only one that runs]
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// Go on with what happens from now on
    #[arg(long, short)]
    follow: bool,
    /// Only those after this one: a `cursor` of the JSON output, or `now`
    #[arg(long, value_name = "CURSOR")]
    since: Option<String>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Arguments of `stayput metrics`.
#[derive(Debug, clap::Args)]
#[command(after_help = "In the text format of Prometheus. Exit status: 0; 1 if the daemon does not answer.")]
pub(crate) struct MetricsArgs {
    /// Name of the instance [default: the only one that runs]
    name: Option<String>,
}

/// Runs `stayput metrics`.
pub(crate) fn metrics(args: &MetricsArgs) -> Result<ExitCode, Error> {
    let found = instances::choose(args.name.as_deref(), "metrics")?;
    match instances::ask(&found, &Request::Metrics {}, Some(ANSWER_WITHIN), &mut |_| ())? {
        Reply::Metrics { text } => {
            output::say(&text);
            Ok(ExitCode::SUCCESS)
        }
        other => Err(instances::unexpected(&found, other)),
    }
}

/// Runs `stayput events`. A daemon that dies while it is followed has a successor, whose events follow.
pub(crate) fn run(args: &EventsArgs) -> Result<ExitCode, Error> {
    let since = args.since.as_deref().map(str::parse::<Cursor>).transpose();
    let mut since = since.map_err(|error| Error::new(Kind::BadInput, "--since makes no sense").because(&error))?;
    let found = instances::choose(args.instance.as_deref(), "events --instance")?;
    let mut lost: Option<Instant> = None;
    loop {
        match read(args, &found, &mut since, &mut lost) {
            Ok(None | Some(Reply::End {})) => return Ok(ExitCode::SUCCESS),
            Ok(Some(Reply::Failed(failure))) => return Err(instances::refused(failure)),
            Ok(Some(other)) => return Err(instances::unexpected(&found, other)),
            Err(error) => {
                let again = matches!(error, ClientError::Closed | ClientError::Codec(_) | ClientError::Io(_) | ClientError::Connect(..));
                let first = *lost.get_or_insert_with(Instant::now);
                if !args.follow || !again || first.elapsed() > ANSWER_WITHIN {
                    return Err(instances::unreachable(&found, &error));
                }
                if !instances::goes_on(&found, &error) {
                    return Ok(ExitCode::SUCCESS);
                }
            }
        }
    }
}

/// Prints a stream to its end; `None`: nobody reads what is printed any more.
fn read(args: &EventsArgs, found: &Found, since: &mut Option<Cursor>, lost: &mut Option<Instant>) -> Result<Option<Reply>, ClientError> {
    let mut client = Client::connect(&found.control_socket, ANSWER_WITHIN)?;
    client.stream(&Request::Events { since: *since, follow: args.follow, services: args.services.clone() })?;
    loop {
        let answer = client.next(None)?;
        *lost = None;
        let line = match answer {
            Answer::Reply(reply) => return Ok(Some(reply)),
            Answer::Record(record) => {
                *since = Some(record.cursor);
                if args.json { json!(record).to_string() } else { line(&record) }
            }
            Answer::Gap { missed } if args.json => json!({ "gap": { "missed": missed } }).to_string(),
            Answer::Gap { missed: Some(missed) } => format!("-- {missed} events are missing here --"),
            Answer::Gap { missed: None } => "-- events are missing here, nobody knows how many --".to_owned(),
            Answer::Reset {} if args.json => json!({ "reset": {} }).to_string(),
            Answer::Reset {} => "-- another daemon: its events begin here --".to_owned(),
            other => return Err(ClientError::Misplaced(Box::new(other))),
        };
        if !output::say(&format!("{line}\n")) {
            return Ok(None);
        }
    }
}

fn line(record: &EventRecord) -> String {
    let time = LocalTime::at(SystemTime::UNIX_EPOCH + Duration::from_millis(record.at_ms));
    let time = time.map_or_else(
        || record.at_ms.to_string(),
        |at| format!("{}-{:02}-{:02} {:02}:{:02}:{:02}", at.year, at.month, at.day, at.hour, at.minute, at.second),
    );
    let mark = match record.level {
        Level::Good => '+',
        Level::Info => ' ',
        Level::Trouble => '!',
    };
    let about = record.service.as_deref().map(|service| format!("{}: ", printable(service))).unwrap_or_default();
    format!("{time} {mark} {about}{}", printable(&record.text))
}

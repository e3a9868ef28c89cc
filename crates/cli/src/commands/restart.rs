//! `stayput restart`: asks the daemon for a restart, shows its progress, and ends with the ledger.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::json;
use stayput_model::text::printable;
use stayput_wire::pattern::is_glob;
use stayput_wire::runtime::Found;
use stayput_wire::{
    Canary, Client, ClientError, Cursor, Event, InstanceStatus, Ledger, Outcome, Reply, Request, RestartedService, RestartingService,
    ServicePhase, ServiceStatus,
};

use super::canary;
use super::instances::{self, Chosen};
use crate::error::{Error, Kind};
use crate::{output, words};

/// Arguments of `stayput restart`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stayput restart                 the only service of the only instance
  stayput restart web 'worker-*'  services of the only instance
  stayput restart shop web        a service of the instance shop
  stayput restart --all           one after the other, dependencies first, no further after one that failed
  stayput restart --all --parallel 4
  stayput restart web --canary 5% --for 10m      a share of the new connections first, then all of them
  stayput restart web --canary 5% --stay         until stayput restart web --switch, or --abort

A name that an instance and a service have is the instance's; --instance NAME tells them apart.
Exit status: 0 if each new generation has the connections, 1 if one does not, 2 if nothing was tried.")]
pub(crate) struct Args {
    #[command(flatten)]
    meant: instances::Meant,
    /// So many at a time [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    parallel: Option<u32>,
    #[command(flatten)]
    canary: canary::Options,
    /// Do not wait for the outcome
    #[arg(long)]
    no_wait: bool,
    /// Print the ledger as JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Result<ExitCode, Error> {
    let Chosen { found, services } = args.meant.choose("restart")?;
    if let Some(switch) = args.canary.decision() {
        return canary::decide(&found, &services, switch, args.json);
    }
    let canary = args.canary.canary()?;
    // What is printed for one service and for several differs, and is not to depend on how many there are of a pattern.
    if services.len() > 1 || services.iter().any(|name| is_glob(name)) {
        return several(args, &found, services, canary);
    }
    let mut client = instances::connect(&found)?;
    let mut started = None;
    let mut show = |event: Event| {
        if let Event::Starting { to, .. } = &event {
            started = Some(*to);
        }
        if !args.json {
            output::say(&format!("{}\n", words::event(&event)));
        }
    };
    let request = Request::Restart { services: services.clone(), wait: !args.no_wait, parallel: args.parallel, canary };
    match client.request(&request, None, &mut show) {
        Ok(Reply::Restarting { services }) => {
            let first = services.into_iter().next();
            let Some(RestartingService { name: service, from, to }) = first else { return Ok(ExitCode::SUCCESS) };
            let text = match to {
                Some(to) => format!("{service}: restarting, generation {to} is being started\n"),
                None => format!("{service}: restarting\n"),
            };
            let document = json!({ "service": service, "from": from, "to": to });
            output::say(&if args.json { format!("{document}\n") } else { text });
            Ok(ExitCode::SUCCESS)
        }
        Ok(Reply::Restarted { services, .. }) => match services.into_iter().next() {
            Some(RestartedService { name, ledger: Some(ledger), last_output, .. }) => finish(args, &name, &ledger, &last_output),
            _ => Err(Error::new(Kind::Failed, "the service was stopped before the restart was decided")),
        },
        Ok(Reply::Failed(failure)) => Err(instances::refused(failure)),
        Ok(other) => Err(instances::unexpected(&found, other)),
        Err(ClientError::Closed | ClientError::Codec(_) | ClientError::Io(_)) => follow(args, &found, services.first(), started),
        Err(error) => Err(instances::unreachable(&found, &error)),
    }
}

fn several(args: &Args, found: &Found, services: Vec<String>, canary: Option<Canary>) -> Result<ExitCode, Error> {
    let request = Request::Restart { services, wait: !args.no_wait, parallel: args.parallel, canary };
    each(found, &request, args.json, |services| {
        let names: Vec<&str> = services.iter().map(|one| one.name.as_str()).collect();
        format!("restarting {}\n", names.join(", "))
    })
}

/// Asks for restarts, and tells how each went; `begun` is said if that is not waited for.
pub(super) fn each(
    found: &Found,
    request: &Request,
    json: bool,
    begun: impl Fn(&[RestartingService]) -> String,
) -> Result<ExitCode, Error> {
    match instances::connect(found)?.request(request, None, &mut instances::shown(json)) {
        Ok(Reply::Restarting { services }) => {
            if json {
                let each = services.iter().map(|one| json!({ "service": one.name, "from": one.from, "to": one.to })).collect::<Vec<_>>();
                output::say(&format!("{}\n", json!({ "services": each })));
            } else {
                output::say(&begun(&services));
            }
            Ok(ExitCode::SUCCESS)
        }
        Ok(Reply::Restarted { services, untouched }) => {
            if json {
                output::say(&format!("{}\n", json!({ "services": services, "untouched": untouched })));
            }
            let code = report_each(&services, json);
            if !untouched.is_empty() {
                output::complain(&format!("not touched because of that: {}\n", untouched.join(", ")));
            }
            Ok(code)
        }
        Ok(Reply::Failed(failure)) => Err(instances::refused(failure)),
        Ok(other) => Err(instances::unexpected(found, other)),
        Err(error) => Err(instances::unreachable(found, &error).hint("how far it came: stayput status")),
    }
}

/// What became of several restarts: their accounts on standard output unless `json`, what failed on standard error.
pub(super) fn report_each(services: &[RestartedService], json: bool) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for service in services {
        let RestartedService { name, ledger, last_output, problem } = service;
        let result = match (ledger, problem) {
            (_, Some(problem)) => {
                Err(Error::new(Kind::Failed, format!("{name}: {}", printable(problem))).quote("its last output", last_output))
            }
            (Some(ledger), None) => {
                if !json {
                    output::say(&format!("{name}: {}", words::ledger(ledger)));
                }
                judge(name, ledger).map_err(|error| error.quote("its last output", last_output))
            }
            (None, None) => Ok(()),
        };
        if let Err(error) = result {
            code = error.report();
        }
    }
    code
}

/// Whether a restart did what it was for.
fn judge(service: &str, ledger: &Ledger) -> Result<(), Error> {
    let reason = ledger.reason.as_deref().unwrap_or("no reason was given");
    let what = match ledger.outcome {
        Outcome::Switched => return Ok(()),
        // It was asked to stay at its share, and does.
        Outcome::Running if ledger.canary.is_some_and(|canary| canary.for_ms.is_none() && canary.lasted_ms.is_some()) => return Ok(()),
        Outcome::Running => return Err(Error::new(Kind::Failed, format!("{service}: the restart is not decided yet: {reason}"))),
        Outcome::RolledBack if ledger.canary.is_some() => "the old generation has all connections again",
        Outcome::RolledBack => "the new generation failed on probation, the old one serves again",
        Outcome::NotReady => "the new generation did not become ready, the old one was not touched",
    };
    Err(Error::new(Kind::Failed, format!("{service}: {what}: {}", printable(reason))))
}

fn finish(args: &Args, service: &str, ledger: &Ledger, last_output: &[String]) -> Result<ExitCode, Error> {
    if args.json {
        // The ledger's fields, and beside them whose ledger it is.
        let mut document = json!(ledger);
        document["service"] = json!(service);
        document["last_output"] = json!(last_output);
        output::say(&format!("{document}\n"));
    } else {
        output::say(&words::ledger(ledger));
    }
    let quoted = if args.json { &[] } else { last_output };
    judge(service, ledger).map_err(|error| error.quote("its last output", quoted))?;
    Ok(ExitCode::SUCCESS)
}

/// How long the next daemon's events are waited for before it is asked all the same.
const NEWS_WITHIN: Duration = Duration::from_secs(10);

/// The daemon died while we waited. The keeper starts another, which carries the restart on, but our request died with its
/// connection: so its status is asked, and again whenever something happens, until the restart is decided.
fn follow(args: &Args, found: &Found, name: Option<&String>, started: Option<u64>) -> Result<ExitCode, Error> {
    if !args.json {
        output::complain("note: the daemon ended while we waited; asking the next one\n");
    }
    let mut news: Option<Client> = None;
    let mut lost: Option<Instant> = None;
    loop {
        let error = match ask(found) {
            Ok(status) => {
                let service = status.services.into_iter().find(|service| name.is_none_or(|name| *name == service.name));
                let service = service.ok_or_else(|| Error::new(Kind::Failed, format!("{}: it has no service any more", found.name)))?;
                if let Some(ended) = decided(args, service, started) {
                    return ended;
                }
                let heard = match &mut news {
                    Some(stream) => stream.next(Some(NEWS_WITHIN)).map(|_| lost = None),
                    // Asked again after that: what was decided in between has no event any more.
                    None => listen(found).map(|stream| news = Some(stream)),
                };
                match heard {
                    Ok(()) | Err(ClientError::NoAnswer(_)) => continue,
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        news = None;
        let again = !matches!(error, ClientError::Version(_) | ClientError::Unexpected(_) | ClientError::Misplaced(_));
        let first = *lost.get_or_insert_with(Instant::now);
        if !again || first.elapsed() > instances::ANSWER_WITHIN * 3 {
            return Err(instances::unreachable(found, &error));
        }
        if !instances::goes_on(found, &error) {
            return Err(Error::new(Kind::Failed, format!("{}: the instance ended before the restart was decided", found.name)));
        }
    }
}

fn ask(found: &Found) -> Result<Box<InstanceStatus>, ClientError> {
    let mut client = Client::connect(&found.control_socket, instances::ANSWER_WITHIN)?;
    match client.request(&Request::Status {}, Some(instances::ANSWER_WITHIN), &mut |_| ())? {
        Reply::Status(status) => Ok(status),
        other => Err(ClientError::Unexpected(Box::new(other))),
    }
}

fn listen(found: &Found) -> Result<Client, ClientError> {
    let mut client = Client::connect(&found.control_socket, instances::ANSWER_WITHIN)?;
    client.stream(&Request::Events { since: Some(Cursor::NOW), follow: true, services: Vec::new() })?;
    Ok(client)
}

/// What became of the restart, if it is over.
fn decided(args: &Args, service: ServiceStatus, started: Option<u64>) -> Option<Result<ExitCode, Error>> {
    let undecided = [ServicePhase::Starting, ServicePhase::Restarting, ServicePhase::Handover, ServicePhase::Soaking];
    if undecided.contains(&service.phase) {
        return None;
    }
    Some(match service.ledger {
        Some(ledger) if started.is_none() || ledger.to == started => finish(args, &service.name, &ledger, &[]),
        _ => Err(Error::new(Kind::Failed, format!("{}: the daemon that did the restart died with its ledger", service.name))
            .hint(format!("what is true now: {}", service.detail))),
    })
}

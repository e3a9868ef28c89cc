//! `stayput stop`: asks the daemon to stop, and waits until the instance is gone.

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::json;
use stayput_wire::message::StoppedService;
use stayput_wire::runtime::Found;
use stayput_wire::{ClientError, Reply, Request};

use super::instances::{self, Chosen};
use crate::error::{Error, Kind};
use crate::output;

/// How long the guard may take to end after its services have.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// Arguments of `stayput stop`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stayput stop                    the only instance, and all of it
  stayput stop web 'worker-*'     services of the only instance, which goes on
  stayput stop shop web           a service of the instance shop

A name that an instance and a service have is the instance's; --instance NAME tells them apart.
Exit status: 0; 1 if it did not stop; 2 if there is no such instance or service.")]
pub(crate) struct Args {
    #[command(flatten)]
    meant: instances::Meant,
    /// Print how it ended as JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `stayput down`.
#[derive(Debug, clap::Args)]
pub(crate) struct DownArgs {
    /// Name of the instance [default: the only one that runs]
    name: Option<String>,
    /// Print how it ended as JSON
    #[arg(long)]
    json: bool,
}

/// Runs `stayput down`.
pub(crate) fn down(args: &DownArgs) -> Result<ExitCode, Error> {
    end(&instances::choose(args.name.as_deref(), "down")?, args.json)
}

/// Runs `stayput stop`.
pub(crate) fn run(args: &Args) -> Result<ExitCode, Error> {
    let Chosen { found, services } = args.meant.choose("stop")?;
    if services.is_empty() {
        return end(&found, args.json);
    }
    let mut show = instances::shown(args.json);
    match instances::ask(&found, &Request::Stop { services, wait: true }, None, &mut show)? {
        Reply::Stopped { services } => {
            if args.json {
                output::say(&format!("{}\n", json!({ "name": found.name, "services": services })));
            } else {
                for service in &services {
                    let ended = stayput_model::text::printable(&service.ended);
                    output::say(&format!("{}: stopped; its main process {ended}\n", service.name));
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        other => Err(instances::unexpected(&found, other)),
    }
}

/// Ends an instance.
fn end(found: &Found, json: bool) -> Result<ExitCode, Error> {
    let mut client = instances::connect(found)?;
    // A pidfd is this process and no later one of the same number.
    let guard = Pid::from_raw(client.guard).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let services = match client.request(&Request::Down { wait: true }, None, &mut instances::shown(json)) {
        Ok(Reply::Stopped { services }) => Some(services),
        Ok(Reply::Failed(failure)) => return Err(instances::refused(failure)),
        Ok(other) => return Err(instances::unexpected(found, other)),
        // The daemon ended before it answered: whether the instance ends as well is seen at its lock.
        Err(ClientError::Closed | ClientError::Codec(_) | ClientError::Io(_)) => None,
        Err(error) => return Err(instances::unreachable(found, &error)),
    };
    wait_gone(found, guard.as_ref(), client.guard)?;
    report(json, found, services.as_deref());
    Ok(ExitCode::SUCCESS)
}

/// Waits for the guard's exit, then for the lock, which says the last word: it is held as long as any process of the instance holds
/// sockets.
fn wait_gone(found: &Found, guard: Option<&OwnedFd>, pid: i32) -> Result<(), Error> {
    if let Some(guard) = guard {
        // One that was put to sleep with Ctrl-Z cannot end. Nothing else feels this signal.
        let _ = pidfd_send_signal(guard, Signal::CONT);
        let timeout = Timespec::try_from(GONE_WITHIN).ok();
        let _ = rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(guard, PollFlags::IN)], timeout.as_ref()));
    }
    if found.wait_end(GONE_WITHIN).map_err(|error| Error::new(Kind::Failed, error.to_string()))? {
        return Ok(());
    }
    Err(Error::new(Kind::Failed, format!("{}: its lock is still held; its guard was pid {pid}", found.name))
        .hint(format!("look with: stayput status {}", found.name)))
}

fn report(json: bool, found: &Found, services: Option<&[StoppedService]>) {
    if json {
        let document = json!({ "name": found.name, "stopped": true, "services": services });
        output::say(&format!("{document}\n"));
        return;
    }
    let ended = match services {
        Some([one]) => format!("its main process {}", one.ended),
        Some(several) => endings(several),
        None => "how its command ended was not told: the daemon was gone first".to_owned(),
    };
    output::say(&format!("{}: stopped; {}\n", found.name, stayput_model::text::printable(&ended)));
}

/// Names that are told of services that ended alike.
const NAMES: usize = 5;

/// How services ended, those that ended alike together: a host has hundreds.
fn endings(services: &[StoppedService]) -> String {
    let mut alike: Vec<(&str, Vec<&str>)> = Vec::new();
    for service in services {
        match alike.iter_mut().find(|(ended, _)| *ended == service.ended) {
            Some((_, names)) => names.push(&service.name),
            None => alike.push((&service.ended, vec![&service.name])),
        }
    }
    let told = |(ended, names): &(&str, Vec<&str>)| match names.as_slice() {
        [one] => format!("{one} {ended}"),
        few if few.len() <= NAMES => format!("{} each {ended}", few.join(", ")),
        many => format!("{}, … ({} services) each {ended}", many[..NAMES].join(", "), many.len()),
    };
    alike.iter().map(told).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_ended_alike_are_told_together() {
        let service = |name: String, ended: &str| StoppedService { name, ended: ended.to_owned(), status: 0 };
        let mut services = vec![service("web".to_owned(), "exited with status 0"), service("api".to_owned(), "was ended by signal TERM")];
        assert_eq!(endings(&services), "web exited with status 0; api was ended by signal TERM");
        services.extend((0..1000).map(|number| service(format!("s{number}"), "was ended by signal TERM")));
        let told = endings(&services);
        assert_eq!(told, "web exited with status 0; api, s0, s1, s2, s3, … (1001 services) each was ended by signal TERM");
    }
}

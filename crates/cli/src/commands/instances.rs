//! Which instance a command means, and how to reach its daemon.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use stayput_wire::pattern::closest;
use stayput_wire::runtime::{self, Found, RuntimeError};
use stayput_wire::{Client, ClientError, Event, Failure, FailureKind, Reply, Request};

use crate::error::{Error, Kind};
use crate::{output, words};

/// How long a daemon may take to say hello. One that was killed is back within a fraction of that.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// All running instances of this user.
pub(crate) fn all() -> Result<Vec<Found>, Error> {
    runtime::running(&runtime::base()).map_err(|error| {
        if matches!(error, RuntimeError::NotOurs(..)) {
            Error::new(Kind::BadInput, error.to_string())
                .hint("instances are looked for in XDG_RUNTIME_DIR; it is to be a directory of yours that is closed to others")
        } else {
            Error::new(Kind::Failed, error.to_string())
        }
    })
}

/// The instance that is meant: the named one, or the only one.
pub(crate) fn choose(name: Option<&str>, verb: &str) -> Result<Found, Error> {
    let mut running = all()?;
    match name {
        Some(name) => find(running, name),
        None if running.len() > 1 => {
            let names: Vec<_> = running.iter().map(|found| found.name.as_str()).collect();
            Err(Error::new(Kind::BadInput, format!("several instances are running: {}", names.join(", ")))
                .hint(format!("say which: stayput {verb} {}", names[0])))
        }
        None => running.pop().ok_or_else(nothing_running),
    }
}

/// Which services of which instance.
#[derive(Debug)]
pub(crate) struct Chosen {
    /// The instance.
    pub(crate) found: Found,
    /// Names and globs of services; empty: none was named.
    pub(crate) services: Vec<String>,
}

/// The arguments that say which.
#[derive(Debug, clap::Args)]
pub(crate) struct Meant {
    /// Name of an instance, names or globs of services, or first the one and then the others [default: the only one]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Name of the instance; all other names are services then
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// All services of the instance but the dashboard
    #[arg(long)]
    all: bool,
}

impl Meant {
    /// The names may begin with an instance's: the rest, or all of them, are services. An instance's name comes before a service's; `--instance` says
    /// that all are services, `--all` that every service is meant.
    pub(crate) fn choose(&self, verb: &str) -> Result<Chosen, Error> {
        let chosen = named_services(self.instance.as_deref(), &self.names, verb)?;
        match chosen.services.first() {
            None if self.all => Ok(Chosen { services: vec!["*".to_owned()], ..chosen }),
            Some(name) if self.all => {
                let message = format!("{name:?} and --all: all services are meant anyway");
                Err(Error::new(Kind::BadInput, message).hint(format!("the instance that runs is {}", chosen.found.name)))
            }
            _ => Ok(chosen),
        }
    }
}

fn named_services(instance: Option<&str>, names: &[String], verb: &str) -> Result<Chosen, Error> {
    let Some((first, rest)) = names.split_first().filter(|_| instance.is_none()) else {
        return Ok(Chosen { found: choose(instance, verb)?, services: names.to_vec() });
    };
    let mut running = all()?;
    if let Some(at) = running.iter().position(|found| found.name == *first) {
        return Ok(Chosen { found: running.swap_remove(at), services: rest.to_vec() });
    }
    if running.len() > 1 {
        let several: Vec<_> = running.iter().map(|found| found.name.as_str()).collect();
        let say = format!("a service of one of {}: stayput {verb} --instance NAME {first}", several.join(", "));
        return find(running, first).map(|found| Chosen { found, services: Vec::new() }).map_err(|error| error.hint(say));
    }
    let found = running.pop().ok_or_else(nothing_running)?;
    Ok(Chosen { found, services: names.to_vec() })
}

/// The one of this name among these.
pub(crate) fn find(running: Vec<Found>, name: &str) -> Result<Found, Error> {
    if running.is_empty() {
        return Err(nothing_running());
    }
    let names: Vec<_> = running.iter().map(|found| found.name.clone()).collect();
    running.into_iter().find(|found| found.name == name).ok_or_else(|| {
        let error = Error::new(Kind::BadInput, format!("no instance {name:?} is running"));
        match closest(name, &names) {
            Some(closest) => error.hint(format!("did you mean {closest}?")),
            None => error.hint(format!("running: {}", names.join(", "))),
        }
    })
}

/// That there is nothing to talk to.
pub(crate) fn nothing_running() -> Error {
    let user = rustix::process::geteuid().as_raw();
    Error::new(Kind::Failed, format!("no instance of stayput is running for this user (uid {user})"))
        .hint("start one: stayput run -- python3 -m http.server 8000")
}

/// A client of this instance's daemon.
pub(crate) fn connect(found: &Found) -> Result<Client, Error> {
    Client::connect(&found.control_socket, ANSWER_WITHIN).map_err(|error| unreachable(found, &error))
}

/// Asks this instance's daemon, shows what happens meanwhile, and gives the reply; a refusal is an error.
pub(crate) fn ask(found: &Found, request: &Request, within: Option<Duration>, show: &mut dyn FnMut(Event)) -> Result<Reply, Error> {
    match connect(found)?.request(request, within, show) {
        Ok(Reply::Failed(failure)) => Err(refused(failure)),
        Ok(reply) => Ok(reply),
        Err(error) => Err(unreachable(found, &error)),
    }
}

/// Prints events as they come, but beside JSON.
pub(crate) fn shown(json: bool) -> impl FnMut(Event) {
    move |event| {
        if !json {
            output::say(&format!("{}\n", words::event(&event)));
        }
    }
}

/// That it answered, and not to what was asked.
pub(crate) fn unexpected(found: &Found, reply: Reply) -> Error {
    unreachable(found, &ClientError::Unexpected(Box::new(reply)))
}

/// That the daemon of a running instance does not answer, as a fact.
pub(crate) fn unreachable(found: &Found, error: &ClientError) -> Error {
    let report = Error::new(Kind::Failed, format!("{}: its daemon does not answer", found.name)).because(error);
    match (error, found.guard) {
        (ClientError::Version(_), _) => report.hint("restart the instance with this stayput, or use the stayput that started it"),
        (_, Some(guard)) => {
            report.hint(format!("its lock is held, so it runs: guard pid {guard}; a daemon that dies is started again, so ask once more"))
        }
        (_, None) => report.hint("its lock is held, so it runs"),
    }
}

/// Whether the instance goes on after its daemon was lost in the middle of a stream. The next daemon has the same control socket, which the keeper
/// keeps: who connects meanwhile waits in its queue, so it can be asked at once. Where there is no socket any more the instance ends, and that is
/// waited for.
pub(crate) fn goes_on(found: &Found, lost: &ClientError) -> bool {
    if matches!(lost, ClientError::Connect(..))
        && let Some(guard) = found.guard.and_then(Pid::from_raw).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
    {
        let patience = Timespec::try_from(ANSWER_WITHIN).ok();
        // A failure is no end: the lock has the last word.
        let _ = rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(&guard, PollFlags::IN)], patience.as_ref()));
    }
    found.is_running().unwrap_or(true)
}

/// A refusal by the daemon.
pub(crate) fn refused(failure: Failure) -> Error {
    let kind = match failure.kind {
        FailureKind::BadRequest | FailureKind::UnknownService => Kind::BadInput,
        FailureKind::Version | FailureKind::Busy | FailureKind::Failed => Kind::Failed,
    };
    let error = Error::new(kind, failure.message);
    match failure.hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

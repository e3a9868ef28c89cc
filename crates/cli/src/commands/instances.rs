//! Which instance a command means, and how to reach its daemon.

use std::time::Duration;

use stayput_wire::runtime::{self, Found, RuntimeError};
use stayput_wire::{Client, ClientError, Failure, FailureKind};

use crate::error::{Error, Kind};

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

/// The name that was probably meant, if one is close.
fn closest<'a>(typed: &str, names: &'a [String]) -> Option<&'a str> {
    if typed.is_empty() {
        return None;
    }
    if let Some(name) = names.iter().find(|name| name.starts_with(typed)) {
        return Some(name);
    }
    let (edits, name) = names.iter().map(|name| (distance(typed, name), name)).min()?;
    (edits <= 2.max(typed.len() / 3)).then_some(name.as_str())
}

/// Edits (insert, delete, replace) from one to the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, from) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits() {
        for (one, other, edits) in [("", "", 0), ("web", "web", 0), ("wbe", "web", 2), ("", "abc", 3), ("kitten", "sitting", 3)] {
            assert_eq!(distance(one, other), edits, "{one} {other}");
        }
    }

    #[test]
    fn a_close_name_is_suggested_and_a_far_one_is_not() {
        let names = ["http.server", "web"].map(str::to_owned);
        assert_eq!(closest("wbe", &names), Some("web"));
        assert_eq!(closest("http", &names), Some("http.server"));
        assert_eq!(closest("database", &names), None);
        assert_eq!(closest("", &names), None);
    }
}

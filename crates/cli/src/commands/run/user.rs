//! `--user`: who the command runs as, made into numbers before anything is started.

use crate::error::{Error, Kind};
use stayput_config::Disk;
use stayput_config::accounts::{AccountError, Accounts, Who};
use stayput_model::config::UserSpec;

/// Resolves `NAME|UID[:GROUP|GID]`. `None`: it is who we are already.
pub(crate) fn user(text: &str) -> Result<Option<UserSpec>, Error> {
    let (who, group) = text.split_once(':').map_or((text, None), |(who, group)| (who, Some(Who::Text(group))));
    let found = Accounts::read(&Disk).and_then(|accounts| accounts.user(Who::Text(who), group));
    let user = found.map_err(|error| unknown(text, &error))?;
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if own.0 == 0 {
        return Ok(Some(user));
    }
    if (user.uid, user.gid) == own {
        return Ok(None);
    }
    let who = user.name.as_ref().map_or_else(|| user.uid.to_string(), |name| format!("{name} ({})", user.uid));
    Err(Error::new(Kind::NotPermitted, format!("--user {text}: only root can start a command as {who}, group {}", user.gid))
        .hint(format!("this is user {}, group {}: leave --user out, or start stayput with sudo", own.0, own.1)))
}

fn unknown(text: &str, error: &AccountError) -> Error {
    let report = Error::new(Kind::BadInput, format!("--user {text:?}: {error}"));
    match error {
        AccountError::NoUser(Some(near)) | AccountError::NoGroup(Some(near)) => report.hint(format!("did you mean {near}?")),
        AccountError::NoUser(None) | AccountError::NoGroup(None) => report.hint(
            "write it like --user www-data, --user www-data:www-data or --user 33:33; users of a directory service are known by number only",
        ),
        AccountError::GroupUnknown(uid) => report.hint(format!("name the group: --user {uid}:{uid}")),
        AccountError::Ambiguous(..) => report.hint("give the user by another name, or rename it: nobody can tell which is meant"),
        AccountError::NotAnId | AccountError::Unreadable(..) => report,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_guessed() {
        for (text, part) in [
            ("no-such-user-here", "no such user"),
            ("", "no such user"),
            ("root:no-such-group-here", "no such group"),
            ("4294967295", "no id"),
            ("4000000000", "--user 4000000000:4000000000"),
        ] {
            let error = format!("{:?}", user(text).unwrap_err());
            assert!(error.contains(part), "{text:?}: {error}");
        }
        // Root can be everybody, others only themselves.
        let own = format!("{}:{}", rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let found = user(&own).unwrap();
        assert_eq!(found.is_some(), rustix::process::geteuid().is_root());
        assert_eq!(user("0:0").is_ok(), rustix::process::geteuid().is_root());
    }
}

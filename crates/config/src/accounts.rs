//! Users and groups, from the text of `/etc/passwd` and `/etc/group` (passwd(5), group(5)). Directories in the network (LDAP, sssd) are not asked, because
//! those are plug-ins of the C library, which a static program does not have: a service whose user is only there is given by number.

use crate::files::Files;
use stayput_model::config::UserSpec;
use std::path::Path;

/// The text of both files.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    /// `/etc/passwd`.
    pub passwd: String,
    /// `/etc/group`.
    pub group: String,
}

/// Why a text names nobody, or nobody in particular.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountError {
    /// No user has this name; this one is like it.
    NoUser(Option<String>),
    /// No group has this name; this one is like it.
    NoGroup(Option<String>),
    /// The name of one user or group is the number of another.
    Ambiguous(&'static str, u32),
    /// Digits that are no id.
    NotAnId,
    /// This number has no account, so its group must be named.
    GroupUnknown(u32),
    /// This file is there and cannot be read, for this reason.
    Unreadable(&'static str, String),
}

impl std::fmt::Display for AccountError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoUser(_) => f.write_str("there is no such user in /etc/passwd"),
            Self::NoGroup(_) => f.write_str("there is no such group in /etc/group"),
            Self::Ambiguous(what, _) => write!(f, "this is the name of one {what} and the number of another"),
            Self::NotAnId => f.write_str("this is no id: they go from 0 to 4294967294"),
            Self::GroupUnknown(_) => f.write_str("this number has no account in /etc/passwd, so its group is not known"),
            Self::Unreadable(path, why) => write!(f, "{path} cannot be read: {why}"),
        }
    }
}

impl std::error::Error for AccountError {}

/// A user or a group as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who<'a> {
    /// A number.
    Number(u32),
    /// A name, or digits in quotes.
    Text(&'a str),
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
    shell: &'a str,
}

/// Larger than any of these files.
const MOST: usize = 16 << 20;

impl Accounts {
    /// Those of this machine. A file that is not there is empty: in a minimal container only numbers mean something.
    ///
    /// # Errors
    /// One of them is there and cannot be read.
    pub fn read(files: &dyn Files) -> Result<Self, AccountError> {
        let text = |path: &'static str| match files.read(Path::new(path), MOST) {
            Ok((bytes, _)) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(AccountError::Unreadable(path, error.to_string())),
        };
        Ok(Self { passwd: text("/etc/passwd")?, group: text("/etc/group")? })
    }

    fn users(&self) -> impl Iterator<Item = Account<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| !name.is_empty())?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            let home = fields.nth(1)?;
            Some(Account { name, uid, gid, home, shell: fields.next().unwrap_or_default() })
        })
    }

    /// Name, number and members.
    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| !name.is_empty())?;
            let gid = fields.nth(1)?.parse().ok()?;
            Some((name, gid, fields.next().unwrap_or_default()))
        })
    }

    /// The user in numbers, with the groups that it belongs to, its own among them, as initgroups(3) sets them.
    ///
    /// # Errors
    /// As [`AccountError`] says.
    pub fn user(&self, user: Who<'_>, group: Option<Who<'_>>) -> Result<UserSpec, AccountError> {
        let uid = match user {
            Who::Number(number) => number,
            Who::Text(text) => {
                let named = self.users().find(|account| account.name == text).map(|account| account.uid);
                let missing = || AccountError::NoUser(near(text, self.users().map(|account| account.name)));
                one("user", text, named, missing)?
            }
        };
        let account = match user {
            Who::Text(name) => self.users().find(|account| account.name == name),
            Who::Number(_) => None,
        };
        let account = account.or_else(|| self.users().find(|account| account.uid == uid));
        let group = group.map(|group| self.group(group)).transpose()?;
        let gid = group.or(account.as_ref().map(|account| account.gid)).ok_or(AccountError::GroupUnknown(uid))?;
        let name = account.as_ref().map(|account| account.name);
        let is_member = |members: &str| name.is_some_and(|name| members.split(',').any(|member| member.trim() == name));
        let memberships = self.groups().filter(|(_, _, members)| is_member(members)).map(|(_, gid, _)| gid);
        let mut groups: Vec<u32> = memberships.chain([gid]).collect();
        groups.sort_unstable();
        groups.dedup();
        let bytes = |text: &str| Some(text.as_bytes().to_vec()).filter(|text| !text.is_empty());
        Ok(UserSpec {
            uid,
            gid,
            groups,
            name: name.map(str::to_owned),
            home: account.as_ref().and_then(|account| bytes(account.home)),
            shell: account.as_ref().and_then(|account| bytes(account.shell)),
        })
    }

    /// The name of a user; `None` if no account has this number.
    pub fn name_of(&self, uid: u32) -> Option<&str> {
        self.users().find(|account| account.uid == uid).map(|account| account.name)
    }

    /// The number of a group.
    ///
    /// # Errors
    /// As [`AccountError`] says.
    pub fn group(&self, group: Who<'_>) -> Result<u32, AccountError> {
        match group {
            Who::Number(number) => Ok(number),
            Who::Text(text) => {
                let named = self.groups().find(|(known, _, _)| *known == text).map(|(_, gid, _)| gid);
                one("group", text, named, || AccountError::NoGroup(near(text, self.groups().map(|(known, _, _)| known))))
            }
        }
    }
}

/// A name, or else a number. One that is both, and not the same, is neither: it is a number for some programs and a name for others (chown,
/// systemd, useradd).
fn one(what: &'static str, text: &str, named: Option<u32>, missing: impl FnOnce() -> AccountError) -> Result<u32, AccountError> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number {
        return named.ok_or_else(missing);
    }
    // u32::MAX is "nobody" for setresuid(2).
    let number = text.parse().ok().filter(|number| *number != u32::MAX).ok_or(AccountError::NotAnId)?;
    match named {
        Some(other) if other != number => Err(AccountError::Ambiguous(what, number)),
        _ => Ok(number),
    }
}

fn near<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    crate::decode::suggest(text, names.collect::<Vec<_>>().into_iter()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33:www:/var/www:/usr/sbin/nologin\n33:x:1000:1000::/home/33:\n1001:x:1001:7::/:/bin/sh\nbad\n:x:1:1:::\n"
                .to_owned(),
            group: "root:x:0:\nwww-data:x:33:\nadm:x:4:syslog, www-data\n4:x:44:\n7:x:7:\n".to_owned(),
        }
    }

    #[test]
    fn names_and_numbers() {
        let accounts = accounts();
        let www = accounts.user(Who::Text("www-data"), None).unwrap();
        assert_eq!((www.uid, www.gid, &www.groups[..], www.name.as_deref()), (33, 33, &[4, 33][..], Some("www-data")));
        assert_eq!((www.home.as_deref(), www.shell.as_deref()), (Some(&b"/var/www"[..]), Some(&b"/usr/sbin/nologin"[..])));
        assert_eq!(accounts.user(Who::Number(33), None).unwrap(), www);
        assert_eq!(accounts.user(Who::Text("1001"), None).unwrap().uid, 1001);
        let nobody = accounts.user(Who::Number(4000), Some(Who::Text("adm"))).unwrap();
        assert_eq!((nobody.uid, nobody.gid, &nobody.groups[..], nobody.name), (4000, 4, &[4][..], None));
        assert_eq!(accounts.group(Who::Text("99")), Ok(99));
    }

    /// A name of digits is a number for some programs and a name for others (chown, systemd, useradd): it could be anybody.
    #[test]
    fn digits_that_are_a_name_are_refused() {
        let accounts = accounts();
        for (user, group, part) in [
            (Who::Text("33"), None, "number of another"),
            (Who::Number(33), Some(Who::Text("4")), "number of another"),
            (Who::Text("ww-data"), None, "no such user"),
            (Who::Text(""), None, "no such user"),
            (Who::Number(4000), None, "no account"),
            (Who::Text("4294967295"), None, "no id"),
            (Who::Text("99999999999999999999"), None, "no id"),
            (Who::Number(33), Some(Who::Text("no")), "no such group"),
        ] {
            let wrong = accounts.user(user, group).unwrap_err().to_string();
            assert!(wrong.contains(part), "{user:?}: {wrong}");
        }
        assert_eq!(accounts.user(Who::Text("ww-data"), None), Err(AccountError::NoUser(Some("www-data".to_owned()))));
    }
}

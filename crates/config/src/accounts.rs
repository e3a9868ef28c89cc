//! Users and groups, from the text of `/etc/passwd` and `/etc/group` (passwd(5), group(5)). Directories in the network are not asked: a
//! service whose user is only there is given by number.

use crate::value::Wrong;
use stayput_model::config::UserSpec;

/// The text of both files; empty if they cannot be read.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    /// `/etc/passwd`.
    pub passwd: String,
    /// `/etc/group`.
    pub group: String,
}

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

impl Accounts {
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

    /// The user in numbers, with the groups that it belongs to.
    ///
    /// # Errors
    /// Nobody is called so; digits are both a number and somebody's name; a number without an account, and no group.
    pub fn user(&self, user: Who<'_>, group: Option<Who<'_>>) -> Result<UserSpec, Wrong> {
        let account = match user {
            Who::Text(name) => match (self.users().find(|account| account.name == name), digits(name)) {
                (Some(account), None) => Some(account),
                (Some(account), Some(number)) if account.uid == number => Some(account),
                (Some(_), Some(number)) => return Err(ambiguous("user", number)),
                (None, Some(number)) => self.users().find(|account| account.uid == number),
                (None, None) => {
                    let near = crate::decode::suggest(name, self.users().map(|account| account.name).collect::<Vec<_>>().into_iter());
                    return Err(Wrong::new(
                        "there is no such user in /etc/passwd",
                        near.map_or("give its number".to_owned(), |near| format!("did you mean {near}?")),
                    ));
                }
            },
            Who::Number(number) => self.users().find(|account| account.uid == number),
        };
        let uid = match (&account, user) {
            (Some(account), _) => account.uid,
            (None, Who::Number(number)) => number,
            (None, Who::Text(text)) => digits(text).unwrap_or_default(),
        };
        let group = group.map(|group| self.group(group)).transpose()?;
        let Some(gid) = group.or(account.as_ref().map(|account| account.gid)) else {
            return Err(Wrong::new("this number has no account in /etc/passwd, so its group is not known", "say it too: group = NUMBER"));
        };
        let name = account.as_ref().map(|account| account.name);
        let mut groups: Vec<u32> = self
            .groups()
            .filter(|(_, _, members)| name.is_some_and(|name| members.split(',').any(|member| member == name)))
            .map(|(_, gid, _)| gid)
            .chain([gid])
            .collect();
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

    /// The number of a group.
    ///
    /// # Errors
    /// None is called so, or digits are both a number and a group's name.
    pub fn group(&self, group: Who<'_>) -> Result<u32, Wrong> {
        let name = match group {
            Who::Number(number) => return Ok(number),
            Who::Text(name) => name,
        };
        let found = self.groups().find(|(known, _, _)| *known == name).map(|(_, gid, _)| gid);
        match (found, digits(name)) {
            (Some(gid), None) => Ok(gid),
            (Some(gid), Some(number)) if gid == number => Ok(gid),
            (Some(_), Some(number)) => Err(ambiguous("group", number)),
            (None, Some(number)) => Ok(number),
            (None, None) => {
                let near = crate::decode::suggest(name, self.groups().map(|(known, _, _)| known).collect::<Vec<_>>().into_iter());
                Err(Wrong::new(
                    "there is no such group in /etc/group",
                    near.map_or("give its number".to_owned(), |near| format!("did you mean {near}?")),
                ))
            }
        }
    }
}

fn digits(text: &str) -> Option<u32> {
    let all = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // u32::MAX is "no user" for setresuid(2).
    all.then(|| text.parse().ok()).flatten().filter(|number| *number != u32::MAX)
}

fn ambiguous(what: &str, number: u32) -> Wrong {
    Wrong::new(
        format!("this is the name of one {what} and the number of another"),
        format!("without quotes it is the number: {what} = {number}; for the name give that {what}'s own number"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33:www:/var/www:/usr/sbin/nologin\n33:x:1000:1000::/home/33:\n1001:x:1001:7::/:/bin/sh\nbad\n:x:1:1:::\n"
                .to_owned(),
            group: "root:x:0:\nwww-data:x:33:\nadm:x:4:www-data,syslog\n4:x:44:\n7:x:7:\n".to_owned(),
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
            (Who::Text("4294967295"), None, "no such user"),
            (Who::Number(33), Some(Who::Text("no")), "no such group"),
        ] {
            let wrong = accounts.user(user, group).unwrap_err();
            assert!(wrong.message.contains(part), "{user:?}: {wrong}");
        }
        assert_eq!(accounts.user(Who::Text("ww-data"), None).unwrap_err().hint.unwrap(), "did you mean www-data?");
    }
}

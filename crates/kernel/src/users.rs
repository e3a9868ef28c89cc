//! Users and groups by name: `/etc/passwd` and `/etc/group`. Source: passwd(5), group(5).
//!
//! It refuses to ask other sources (LDAP, sssd): those are the C library's plug-ins, which a static program does not have. Who is
//! known only there can be given by numbers.

use std::path::Path;

/// A user as a service can be started as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups, `gid` not among them.
    pub groups: Vec<u32>,
    /// Name, if the id has one.
    pub name: Option<String>,
    /// Home directory.
    pub home: Option<Vec<u8>>,
    /// Login shell.
    pub shell: Option<Vec<u8>>,
}

/// Why a text names no user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserError {
    /// A name or number is missing.
    Empty,
    /// No user of this name.
    NoUser(String),
    /// No group of this name.
    NoGroup(String),
    /// It is a number and the name of another user or group, whose number this is.
    Ambiguous(String, u32),
    /// A number that no user or group can have.
    NotAnId(String),
    /// This user id has no entry, so its group must be named.
    GroupUnknown(u32),
    /// This file could not be read, for this reason.
    Unreadable(&'static str, String),
}

impl std::fmt::Display for UserError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => f.write_str("it names no user"),
            Self::NoUser(name) => write!(f, "there is no user {name:?} in /etc/passwd"),
            Self::NoGroup(name) => write!(f, "there is no group {name:?} in /etc/group"),
            Self::Ambiguous(text, id) => write!(f, "{text:?} is a number, and the name of number {id}"),
            Self::NotAnId(text) => write!(f, "{text} is no id: they go from 0 to 4294967294"),
            Self::GroupUnknown(uid) => write!(f, "user id {uid} is not in /etc/passwd, so nothing says which group it has"),
            Self::Unreadable(path, why) => write!(f, "{path} cannot be read: {why}"),
        }
    }
}

impl std::error::Error for UserError {}

/// Resolves `NAME|UID[:GROUP|GID]` with the files of this machine. Without a group it is the user's own; the supplementary groups are those
/// that have the user as a member.
///
/// # Errors
/// As [`UserError`] says.
pub fn find(text: &str) -> Result<User, UserError> {
    let read = |path: &'static str| match std::fs::read(Path::new(path)) {
        Ok(bytes) => Ok(bytes),
        // A minimal container has none: then only numbers mean something.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(UserError::Unreadable(path, error.to_string())),
    };
    find_in(&read("/etc/passwd")?, &read("/etc/group")?, text)
}

/// [`find`] in the texts of the two files.
///
/// # Errors
/// As [`find`].
pub fn find_in(passwd: &[u8], group: &[u8], text: &str) -> Result<User, UserError> {
    let (who, of) = text.split_once(':').map_or((text, None), |(who, of)| (who, Some(of)));
    let passwd: Vec<Vec<&[u8]>> = entries(passwd, 7);
    let group: Vec<Vec<&[u8]>> = entries(group, 4);
    let (uid, entry) = match lookup(&passwd, who)? {
        Found::Entry(entry) => (id(entry[2]).ok_or_else(|| UserError::NotAnId(lossy(entry[2])))?, Some(entry)),
        Found::Number(uid) => (uid, passwd.iter().find(|entry| id(entry[2]) == Some(uid))),
        Found::Nobody => return Err(UserError::NoUser(who.to_owned())),
    };
    let gid = match of {
        Some(of) => match lookup(&group, of)? {
            Found::Entry(entry) => id(entry[2]).ok_or_else(|| UserError::NotAnId(lossy(entry[2])))?,
            Found::Number(gid) => gid,
            Found::Nobody => return Err(UserError::NoGroup(of.to_owned())),
        },
        None => entry.and_then(|entry| id(entry[3])).ok_or(UserError::GroupUnknown(uid))?,
    };
    let name = entry.map(|entry| entry[0]);
    let is_member = |entry: &&Vec<&[u8]>| entry[3].split(|byte| *byte == b',').any(|member| Some(member.trim_ascii()) == name);
    let mut groups: Vec<u32> = group.iter().filter(is_member).filter_map(|entry| id(entry[2])).filter(|group| *group != gid).collect();
    groups.sort_unstable();
    groups.dedup();
    let field = |at: usize| entry.map(|entry| entry[at].to_vec()).filter(|field| !field.is_empty());
    Ok(User { uid, gid, groups, name: name.map(lossy), home: field(5), shell: field(6) })
}

enum Found<'entries, 'text> {
    Entry(&'entries Vec<&'text [u8]>),
    Number(u32),
    Nobody,
}

/// A name, or else a number. One that is both, and not the same, is neither.
fn lookup<'entries, 'text>(entries: &'entries [Vec<&'text [u8]>], text: &str) -> Result<Found<'entries, 'text>, UserError> {
    if text.is_empty() {
        return Err(UserError::Empty);
    }
    let named = entries.iter().find(|entry| entry[0] == text.as_bytes());
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(named.map_or(Found::Nobody, Found::Entry));
    }
    let number = id(text.as_bytes()).ok_or_else(|| UserError::NotAnId(text.to_owned()))?;
    match named.and_then(|entry| id(entry[2])) {
        Some(other) if other != number => Err(UserError::Ambiguous(text.to_owned(), other)),
        _ => Ok(Found::Number(number)),
    }
}

/// `(uid_t) -1` means "leave as it is" to the kernel, and nobody has it.
fn id(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok().filter(|id| *id != u32::MAX)
}

fn entries(text: &[u8], fields: usize) -> Vec<Vec<&[u8]>> {
    let lines = text.split(|byte| *byte == b'\n').map(|line| line.split(|byte| *byte == b':').collect());
    lines.filter(|entry: &Vec<&[u8]>| entry.len() == fields && !entry[0].is_empty()).collect()
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] =
        b"root:x:0:0:root:/root:/bin/bash\nweb:x:33:33:www:/var/www:\n77:x:78:78::/:/bin/sh\n99:x:99:1::/:/bin/sh\nbroken\n";
    const GROUP: &[u8] = b"root:x:0:\nweb:x:33:\ncerts:x:200:other, web\nadm:x:4:web,other\ndaemon:x:1:\n";

    #[test]
    fn users_are_found_by_name_and_by_number() {
        let web = User { uid: 33, gid: 33, groups: vec![4, 200], name: Some("web".into()), home: Some(b"/var/www".to_vec()), shell: None };
        assert_eq!(find_in(PASSWD, GROUP, "web"), Ok(web.clone()));
        assert_eq!(find_in(PASSWD, GROUP, "33"), Ok(web.clone()));
        assert_eq!(find_in(PASSWD, GROUP, "web:web"), Ok(web.clone()));
        assert_eq!(find_in(PASSWD, GROUP, "web:certs"), Ok(User { gid: 200, groups: vec![4], ..web.clone() }));
        assert_eq!(find_in(PASSWD, GROUP, "web:1234").map(|user| user.gid), Ok(1234));
        let unknown = User { uid: 5000, gid: 6000, groups: Vec::new(), name: None, home: None, shell: None };
        assert_eq!(find_in(PASSWD, GROUP, "5000:6000"), Ok(unknown));
        assert_eq!(find_in(PASSWD, GROUP, "99").map(|user| user.gid), Ok(1), "name and number are the same user's");
    }

    #[test]
    fn what_names_nobody_is_refused() {
        let wrong = |text: &str| find_in(PASSWD, GROUP, text).unwrap_err();
        for text in ["", ":web", "web:"] {
            assert_eq!(wrong(text), UserError::Empty, "{text:?}");
        }
        assert_eq!(wrong("nosuch"), UserError::NoUser("nosuch".into()));
        assert_eq!(wrong("web:nosuch"), UserError::NoGroup("nosuch".into()));
        assert_eq!(wrong("77"), UserError::Ambiguous("77".into(), 78));
        assert_eq!(wrong("5000"), UserError::GroupUnknown(5000));
        for text in ["4294967295", "4294967296", "99999999999999999999"] {
            assert_eq!(wrong(text), UserError::NotAnId(text.into()));
        }
        assert_eq!(wrong("-1"), UserError::NoUser("-1".into()));
        assert_eq!(wrong("web:x:y"), UserError::NoGroup("x:y".into()));
    }
}

//! What can be known to fail before anything is started. It looks only; nothing is bound, opened for writing or executed.

use crate::error::{Error, Kind};
use rustix::fs::Access;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use stayput_model::text::{printable, printable_bytes};
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const CAP_NET_BIND_SERVICE: u32 = 10;

/// An instance with one service needs some forty descriptors, in a restart some ten more.
const DESCRIPTORS: u64 = 64;

/// Refuses to begin with fewer descriptors than an instance needs.
pub(super) fn descriptors() -> Result<(), Error> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    match limit {
        Some(limit) if limit < DESCRIPTORS => {
            let what = format!("at most {limit} files may be open here (RLIMIT_NOFILE); stayput needs {DESCRIPTORS}");
            Err(Error::new(Kind::BadInput, what)
                .hint("ulimit -n 1024, or LimitNOFILE=1024 of the systemd unit, or docker run --ulimit nofile=1024"))
        }
        _ => Ok(()),
    }
}

/// Refuses a command that cannot be executed: not found (naming where it was looked for), a directory, not executable.
pub(super) fn command(command: &OsStr) -> Result<(), Error> {
    let here = std::env::current_dir().unwrap_or_default();
    command_in(command, &here, std::env::var_os("PATH"))
}

/// As [`command`], of what is executed in this working directory and with this `PATH`.
pub(in crate::commands) fn command_in(command: &OsStr, cwd: &Path, path: Option<OsString>) -> Result<(), Error> {
    let shown = printable_bytes(command.as_bytes());
    let bad = |what: String| Error::new(Kind::BadInput, what);
    if command.is_empty() {
        return Err(bad("the command is empty".to_owned()).hint("stayput run -- python3 -m http.server 8000"));
    }
    if command.as_bytes().contains(&b'/') {
        return match executable(&cwd.join(command)) {
            Ok(()) => Ok(()),
            Err(why) => Err(hint_for(bad(format!("{shown}: {why}")), &shown, why, cwd)),
        };
    }
    // execvp(3): without PATH the C library looks in /bin and /usr/bin.
    let path = path.unwrap_or_else(|| OsString::from("/bin:/usr/bin"));
    let places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let (mut found, mut closed) = (None, Vec::new());
    for place in &places {
        let candidate = cwd.join(place).join(command);
        match executable(&candidate) {
            Ok(()) => return Ok(()),
            Err(Unusable::NotFound) => {}
            // It may be there: nobody can say.
            Err(Unusable::NotPermitted) => closed.push(place.display().to_string()),
            Err(why) => found = found.or(Some((candidate, why))),
        }
    }
    if let Some((candidate, why)) = found {
        let shown = printable_bytes(candidate.as_os_str().as_bytes());
        return Err(hint_for(bad(format!("{shown}: {why}")), &shown, why, cwd));
    }
    let mut error = bad(format!("there is no command {shown:?}")).hint(format!("looked in PATH: {}", printable_bytes(path.as_bytes())));
    if !closed.is_empty() {
        error = error.hint(format!("this user may not look into {}", printable(&closed.join(", "))));
    }
    Err(if shown.contains(' ') {
        error.hint("give the command and its arguments as separate words, or use: sh -c '...'")
    } else if cwd.join(command).is_file() {
        error.hint(format!("for the file in this directory write ./{shown}"))
    } else {
        error
    })
}

fn hint_for(error: Error, shown: &str, why: Unusable, cwd: &Path) -> Error {
    match why {
        Unusable::NotExecutable => error.hint(format!("chmod +x {shown}, or name its interpreter: python3 {shown}, sh {shown}")),
        Unusable::Directory => error.hint("name the program in it"),
        Unusable::NotFound | Unusable::NotPermitted => {
            let here = cwd.display().to_string();
            error.hint(format!("a path with a slash is not looked up in PATH; the working directory is {}", printable(&here)))
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unusable {
    NotFound,
    Directory,
    NotExecutable,
    NotPermitted,
}

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotFound => "there is no such file",
            Self::Directory => "it is a directory",
            Self::NotExecutable => "it is not executable",
            Self::NotPermitted => "its directory may not be searched by this user",
        })
    }
}

fn executable(path: &Path) -> Result<(), Unusable> {
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => Unusable::NotPermitted,
        _ => Unusable::NotFound,
    })?;
    if metadata.is_dir() {
        return Err(Unusable::Directory);
    }
    rustix::fs::access(path, Access::EXEC_OK).map_err(|_| Unusable::NotExecutable)
}

/// Most bytes of command and environment together. With the usual limit of the stack, 8 MiB, `execve` takes a quarter of it, pointers
/// and all.
const START_MAX: usize = 1 << 20;

/// Refuses a command line and an environment with which nothing could be executed.
pub(in crate::commands) fn size(argv: &[Vec<u8>], env: &[Vec<u8>]) -> Result<(), Error> {
    let bytes: usize = argv.iter().chain(env).map(|word| word.len() + 1).sum();
    if bytes <= START_MAX {
        return Ok(());
    }
    let report = Error::new(Kind::BadInput, format!("command and environment have {bytes} bytes, more than {START_MAX}"));
    Err(match env.iter().max_by_key(|entry| entry.len()) {
        Some(largest) => {
            let name = largest.split(|byte| *byte == b'=').next().unwrap_or_default();
            let (name, length) = (printable_bytes(name), largest.len());
            report.hint(format!("the longest variable is {name} ({length} bytes); env -u takes one away"))
        }
        None => report,
    })
}

/// Refuses a declared address that this machine does not have, and a port that this user may not bind. `by` is how it was said.
pub(in crate::commands) fn port(address: &SocketAddr, by: &str) -> Result<(), Error> {
    exists(address, by)?;
    may_bind(address, by)
}

/// Asks with port 0, so that no real port is taken even for a moment.
fn exists(address: &SocketAddr, by: &str) -> Result<(), Error> {
    let ask = || {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let mut any_port = *address;
        any_port.set_port(0);
        rustix::net::bind(&socket, &any_port)
    };
    ask().map_err(|error| {
        Error::new(Kind::BadInput, format!("{by}{address}: this address cannot be bound here"))
            .because(&error)
            .hint("`ip addr` lists the addresses of this machine; 0.0.0.0 is all of IPv4, [::] all of IPv6")
    })
}

fn may_bind(address: &SocketAddr, by: &str) -> Result<(), Error> {
    // ip(7): ports below this need CAP_NET_BIND_SERVICE. If it cannot be read, the bind itself will tell.
    let first_free = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let Some(first_free) = first_free.ok().and_then(|text| text.trim().parse::<u16>().ok()) else { return Ok(()) };
    if address.port() >= first_free || has_capability(CAP_NET_BIND_SERVICE) {
        return Ok(());
    }
    let port = address.port();
    Err(Error::new(Kind::NotPermitted, format!("{by}{address}: ports below {first_free} need the right CAP_NET_BIND_SERVICE"))
        .hint(format!("allow it for everybody: sudo sysctl net.ipv4.ip_unprivileged_port_start={port}")))
}

fn has_capability(number: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|set| set >> number & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        assert!(command(OsStr::new("sh")).is_ok());
        assert!(command(OsStr::new("/bin/sh")).is_ok());
        for (name, part) in [
            ("", "empty"),
            ("no-such-command-here", "PATH"),
            ("python3 app.py", "separate words"),
            ("/", "directory"),
            ("/no/such/file", "no such file"),
            ("/etc/passwd", "not executable"),
        ] {
            let error = format!("{:?}", command(OsStr::new(name)).unwrap_err());
            assert!(error.contains(part), "{name}: {error}");
        }
    }

    #[test]
    fn addresses() {
        assert!(port(&"127.0.0.1:8000".parse().unwrap(), "").is_ok());
        // TEST-NET-1 (RFC 5737) belongs to nobody.
        assert!(port(&"192.0.2.1:8000".parse().unwrap(), "").is_err());
    }
}

//! What a dashboard is told when it starts, and what it refuses to do.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::server::is_local;
use crate::tls::{Certificate, TlsError};
use crate::tokens::TokenError;

/// What a dashboard is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Path of the instance's control socket.
    pub control: PathBuf,
    /// Where to listen. Port 0: any.
    pub listen: Vec<SocketAddr>,
    /// Other machines may reach it: an address that is not loopback is refused without this. Everyone needs a token then.
    pub remote: bool,
    /// Nobody may act.
    pub read_only: bool,
    /// Programs of the same user on this machine may look without a token.
    pub same_user: bool,
    /// Names by which it may be called beside its addresses and `localhost`, with a port or without.
    pub allow_hosts: Vec<String>,
    /// Where the page is mounted: begins and ends with a slash.
    pub base: String,
    /// Speak TLS with this certificate.
    pub tls: Option<Certificate>,
}

/// Why there is no dashboard.
#[derive(Debug)]
pub enum DashboardError {
    /// This address could be reached from other machines, and nobody said that it may.
    Remote(SocketAddr),
    /// This is no path of letters, digits, `-`, `_`, `.` and `/` that begins with a slash.
    Base(String),
    /// This is no host name.
    Host(String),
    /// No address was given.
    Nowhere,
    /// `bind` failed.
    Bind(SocketAddr, std::io::Error),
    /// The certificate cannot be used.
    Tls(TlsError),
    /// The tokens could not be had.
    Tokens(TokenError),
    /// There is no event loop, or no signals.
    Runtime(std::io::Error),
}

impl std::fmt::Display for DashboardError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Remote(address) => write!(f, "other machines could reach {address}"),
            Self::Base(path) => write!(f, "{path:?} is no base path"),
            Self::Host(name) => write!(f, "{name:?} is no host name"),
            Self::Nowhere => f.write_str("no address to listen on"),
            Self::Bind(address, error) => write!(f, "bind {address}: {error}"),
            Self::Tls(error) => error.fmt(f),
            Self::Tokens(error) => error.fmt(f),
            Self::Runtime(error) => write!(f, "the event loop: {error}"),
        }
    }
}

impl std::error::Error for DashboardError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Bind(_, error) | Self::Runtime(error) => Some(error),
            Self::Tls(error) => Some(error),
            Self::Tokens(error) => Some(error),
            Self::Remote(_) | Self::Base(_) | Self::Host(_) | Self::Nowhere => None,
        }
    }
}

impl DashboardError {
    /// Whether it was asked wrongly: nothing was tried.
    pub fn is_bad_input(&self) -> bool {
        matches!(self, Self::Tls(_) | Self::Remote(_) | Self::Base(_) | Self::Host(_) | Self::Nowhere)
    }
}

impl Options {
    /// For the instance with this control socket, on port 5000 of the loopback addresses.
    pub fn new(control: PathBuf) -> Self {
        let listen = [std::net::IpAddr::from([127, 0, 0, 1]), std::net::Ipv6Addr::LOCALHOST.into()].map(|ip| SocketAddr::new(ip, 5000));
        Self {
            control,
            listen: listen.to_vec(),
            remote: false,
            read_only: false,
            same_user: true,
            allow_hosts: Vec::new(),
            base: "/".to_owned(),
            tls: None,
        }
    }

    pub(crate) fn check(&self) -> Result<(), DashboardError> {
        if self.listen.is_empty() {
            return Err(DashboardError::Nowhere);
        }
        if let Some(address) = self.listen.iter().find(|address| !self.remote && !is_local(address.ip())) {
            return Err(DashboardError::Remote(*address));
        }
        let plain = |text: &str, also: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || also.as_bytes().contains(&byte));
        if !plain(&self.base, "-_./")
            || !self.base.starts_with('/')
            || !self.base.ends_with('/')
            || self.base.contains("//")
            || self.base.contains("/.")
        {
            return Err(DashboardError::Base(self.base.clone()));
        }
        match self.allow_hosts.iter().find(|name| name.is_empty() || !plain(name, "-_.:[]")) {
            Some(name) => Err(DashboardError::Host(name.clone())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_addresses_are_refused_unless_wanted() {
        let with = |address: &str, remote| Options { listen: vec![address.parse().unwrap()], remote, ..Options::new("/x".into()) };
        for address in ["0.0.0.0:5000", "[::]:5000", "192.0.2.1:5000", "[::ffff:0.0.0.0]:80"] {
            assert!(matches!(with(address, false).check(), Err(DashboardError::Remote(_))), "{address}");
            assert!(with(address, true).check().is_ok(), "{address}");
        }
        for address in ["127.0.0.1:0", "[::1]:5000", "127.3.4.5:80"] {
            assert!(with(address, false).check().is_ok(), "{address}");
        }
    }

    #[test]
    fn base_paths() {
        let with = |base: &str| Options { base: base.to_owned(), ..Options::new("/x".into()) }.check();
        assert!(with("/ops/stayput/").is_ok());
        for wrong in ["", "ops/", "/ops", "/o\"/", "/../", "//evil.example/", "/a b/"] {
            assert!(with(wrong).is_err(), "{wrong}");
        }
    }
}

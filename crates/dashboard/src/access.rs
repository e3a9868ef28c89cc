//! Who may look and who may act: decided for each request, and again for a stream while it lasts.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::http::header::{self, HeaderMap};

use crate::guard::{self, OUR_HEADER};
use crate::owner;
use crate::tokens::{Role, Tokens};

/// So many wrong tokens within [`WINDOW`] are answered; more have to wait.
const WRONG_TOKENS: usize = 30;
const WINDOW: Duration = Duration::from_mins(1);

/// A connection, as far as it matters for who is at its other end.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Where it comes from.
    pub(crate) client: SocketAddr,
    /// Where it arrived.
    pub(crate) local: SocketAddr,
    /// Asked once: both ends of a connection stay what they are.
    ours: OnceLock<bool>,
}

impl Peer {
    pub(crate) fn new(client: SocketAddr, local: SocketAddr) -> Self {
        Self { client, local, ours: OnceLock::new() }
    }

    /// Whether the other end is a socket of our own user on this machine.
    fn is_ours(&self) -> bool {
        let loopback = |address: IpAddr| address.to_canonical().is_loopback();
        if !loopback(self.client.ip()) || !loopback(self.local.ip()) {
            return false;
        }
        *self.ours.get_or_init(|| owner::of(self.client, self.local).ok().flatten() == Some(rustix::process::geteuid().as_raw()))
    }
}

/// How a request got in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// With a token.
    Token,
    /// As a program of our own user.
    SameUser,
}

/// Somebody who got in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Admitted {
    pub(crate) role: Role,
    pub(crate) by: By,
}

/// Why somebody did not get in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// No token, and not of our own user.
    NoToken,
    /// A token, and not one of ours.
    WrongToken,
    /// Too many of them.
    TooMany,
}

/// What a request without a token has to show besides the right user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Our header: no page of another origin can send it.
    OurHeader,
    /// A browser that was led here by nobody, or a program: for what a person opens by its address.
    Opened,
}

#[derive(Debug)]
struct Known {
    tokens: Tokens,
    stamp: Option<(SystemTime, u64)>,
    wrong: Vec<Instant>,
}

/// The rule.
#[derive(Debug)]
pub(crate) struct Access {
    path: Option<PathBuf>,
    same_user: bool,
    known: Mutex<Known>,
}

impl Access {
    /// With the tokens in the file at `path`, if they live in a file.
    pub(crate) fn new(tokens: Tokens, path: Option<PathBuf>, same_user: bool) -> Self {
        let access = Self { path, same_user, known: Mutex::new(Known { tokens, stamp: None, wrong: Vec::new() }) };
        access.lock().stamp = access.stamp();
        access
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stamp(&self) -> Option<(SystemTime, u64)> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = std::fs::metadata(self.path.as_ref()?).ok()?;
        Some((metadata.modified().ok()?, metadata.ino()))
    }

    /// Reads the tokens again if their file was replaced. A file that is gone or broken changes nothing.
    fn refresh(&self) {
        let stamp = self.stamp();
        let mut known = self.lock();
        if stamp.is_some() && stamp != known.stamp {
            if let Some(Ok(Some(tokens))) = self.path.as_deref().map(Tokens::read) {
                known.tokens = tokens;
            }
            known.stamp = stamp;
        }
    }

    /// Who this is.
    pub(crate) fn admit(&self, headers: &HeaderMap, forwarded: bool, peer: &Arc<Peer>, manner: Manner) -> Result<Admitted, Denied> {
        if headers.contains_key(header::AUTHORIZATION) {
            let bearer = guard::only(headers, &header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
            return self.bearer(bearer.unwrap_or_default());
        }
        let shown = match manner {
            Manner::OurHeader => headers.contains_key(OUR_HEADER),
            Manner::Opened => true,
        };
        if self.same_user && shown && !forwarded && peer.is_ours() {
            return Ok(Admitted { role: Role::View, by: By::SameUser });
        }
        Err(Denied::NoToken)
    }

    /// Who the bearer of this token is.
    pub(crate) fn bearer(&self, token: &str) -> Result<Admitted, Denied> {
        self.refresh();
        let mut known = self.lock();
        if let Some(role) = known.tokens.role(token) {
            return Ok(Admitted { role, by: By::Token });
        }
        known.wrong.retain(|at| at.elapsed() < WINDOW);
        if known.wrong.len() >= WRONG_TOKENS {
            return Err(Denied::TooMany);
        }
        known.wrong.push(Instant::now());
        Err(Denied::WrongToken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use std::net::{TcpListener, TcpStream};

    fn connection() -> (TcpStream, TcpStream, Arc<Peer>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, from) = listener.accept().unwrap();
        let peer = Arc::new(Peer::new(from, server.local_addr().unwrap()));
        (client, server, peer)
    }

    fn with(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).unwrap());
        headers
    }

    #[test]
    fn our_own_user_may_look_with_our_header_and_nothing_more() {
        let (_client, _server, peer) = connection();
        let access = Access::new(Tokens::draw().unwrap(), None, true);
        let ours = with("x-stayput", "1");
        assert_eq!(access.admit(&ours, false, &peer, Manner::OurHeader), Ok(Admitted { role: Role::View, by: By::SameUser }));
        assert_eq!(access.admit(&HeaderMap::new(), false, &peer, Manner::OurHeader), Err(Denied::NoToken));
        assert_eq!(access.admit(&ours, true, &peer, Manner::OurHeader), Err(Denied::NoToken), "a proxy stands between");
        let off = Access::new(Tokens::draw().unwrap(), None, false);
        assert_eq!(off.admit(&ours, false, &peer, Manner::OurHeader), Err(Denied::NoToken), "switched off");
        let elsewhere = Arc::new(Peer::new("192.0.2.1:7".parse().unwrap(), peer.local));
        assert_eq!(access.admit(&ours, false, &elsewhere, Manner::OurHeader), Err(Denied::NoToken));
    }

    #[test]
    fn tokens_open_and_wrong_ones_do_not_fall_back() {
        let (_client, _server, peer) = connection();
        let tokens = Tokens::draw().unwrap();
        let access = Access::new(tokens.clone(), None, true);
        let admit = |value: &str| access.admit(&with("authorization", value), false, &peer, Manner::Opened);
        assert_eq!(admit(&format!("Bearer {}", tokens.operate)), Ok(Admitted { role: Role::Operate, by: By::Token }));
        assert_eq!(admit(&format!("Bearer {}", tokens.view)), Ok(Admitted { role: Role::View, by: By::Token }));
        assert_eq!(admit(&tokens.view), Err(Denied::WrongToken));
        assert_eq!(admit("Bearer "), Err(Denied::WrongToken));
        for _ in 0..WRONG_TOKENS {
            let _ = admit("Bearer guess");
        }
        assert_eq!(admit("Bearer guess"), Err(Denied::TooMany));
        assert!(admit(&format!("Bearer {}", tokens.view)).is_ok(), "who has the token is never locked out");
    }

    #[test]
    fn a_new_file_is_a_new_lock() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dashboard.json");
        let old = Tokens::draw().unwrap();
        old.write(&path).unwrap();
        let access = Access::new(old.clone(), Some(path.clone()), true);
        assert!(access.bearer(&old.view).is_ok());
        let new = Tokens::draw().unwrap();
        new.write(&path).unwrap();
        assert_eq!(access.bearer(&old.view), Err(Denied::WrongToken));
        assert!(access.bearer(&new.operate).is_ok());
    }
}

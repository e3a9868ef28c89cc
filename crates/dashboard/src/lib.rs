//! The web dashboard: one page that shows an instance and acts on it, live; the same as a JSON API, as a stream of server-sent events and
//! as plain text.
//!
//! It is a process of its own and knows nothing but the control API ([`stayput_wire`]): it cannot open a port of a service, read its
//! environment or start a process, and when it dies nothing else does. It is started like any other service, and its ports are held like any
//! other's.
//!
//! ```text
//! browser ── HTTP ── server ── guard (Host, Origin) ── access (token, same user) ── api, actions, logs, stream ── wire ── daemon
//!                                                                                          └── hub: one subscription for all pages
//! ```
//!
//! What it refuses: cookies, CORS, GET that changes something, a generic call into the daemon, values of the environment, writing a
//! configuration, inline scripts and styles, anything from another host.

mod access;
mod actions;
pub mod ansi;
mod api;
mod assets;
mod feed;
mod guard;
mod hub;
mod link;
mod logs;
pub mod openapi;
mod options;
mod owner;
mod page;
mod patience;
mod plain;
mod reply;
mod server;
#[cfg(feature = "socketio")]
mod socketio;
mod stream;
mod time;
mod tls;
pub mod tokens;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

pub use link::LinkError;
pub use options::{DashboardError, Options};
pub use tls::{Certificate, TlsError};
pub use tokens::{Role, TokenError, Tokens};

/// Where lines for people go: who did what, and what could not be done. This crate prints nothing itself.
#[derive(Clone)]
pub struct Audit(Arc<dyn Fn(&str) + Send + Sync>);

impl Audit {
    /// Lines go to `say`.
    pub fn new(say: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(say))
    }

    fn say(&self, line: &str) {
        (self.0)(line);
    }
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Audit")
    }
}

/// Serves until it is told to end by SIGTERM or SIGINT; then it says so on every stream, finishes what is under way and returns.
///
/// # Errors
/// [`DashboardError`], before anything is served.
pub fn run(options: Options, audit: Audit) -> Result<(), DashboardError> {
    options.check()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(DashboardError::Runtime)?;
    runtime.block_on(serve(options, audit))
}

async fn serve(options: Options, audit: Audit) -> Result<(), DashboardError> {
    more_descriptors();
    let tls = options.tls.as_ref().map(tls::acceptor).transpose().map_err(DashboardError::Tls)?;
    let path = Tokens::path(&options.control);
    let known = Tokens::read(&path).map_err(DashboardError::Tokens)?;
    let mut tokens = match known {
        Some(tokens) => tokens,
        None => Tokens::draw().map_err(DashboardError::Tokens)?,
    };
    let listeners = bind(&options.listen, &audit).await?;
    let addresses: Vec<SocketAddr> = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
    tokens.urls =
        addresses.iter().map(|address| format!("{}://{address}{}", if tls.is_some() { "https" } else { "http" }, options.base)).collect();
    tokens.write(&path).map_err(DashboardError::Tokens)?;
    for url in &tokens.urls {
        audit.say(&format!("listening on {url}"));
    }

    let hub = hub::Hub::new(options.control);
    let app = Arc::new(api::App {
        hub: Arc::clone(&hub),
        access: access::Access::new(
            tokens,
            Some(path),
            options.same_user && addresses.iter().all(|address| server::is_local(address.ip())),
        ),
        hosts: guard::Hosts { names: options.allow_hosts.iter().map(|name| name.to_ascii_lowercase()).collect(), tls: tls.is_some() },
        read_only: options.read_only,
        base: options.base,
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        audit,
        operations: AtomicU64::new(1),
        log_streams: Arc::new(Semaphore::new(logs::READERS)),
    });
    let router = api::router(&app);
    let base: Arc<str> = Arc::from(app.base.as_str());
    tokio::spawn(Arc::clone(&hub).follow());
    tokio::spawn(Arc::clone(&hub).look());
    let places = Arc::new(Semaphore::new(server::CONNECTIONS));
    let served = server::Served { router, base, tls };
    for listener in listeners {
        tokio::spawn(server::serve(listener, served.clone(), Arc::clone(&places), hub.ending()));
    }

    let (mut term, mut int) = (
        signal(SignalKind::terminate()).map_err(DashboardError::Runtime)?,
        signal(SignalKind::interrupt()).map_err(DashboardError::Runtime)?,
    );
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    hub.end();
    // Every connection gives its place back when it is over.
    let _ = tokio::time::timeout(server::LAST_WORDS, places.acquire_many(server::CONNECTIONS as u32)).await;
    Ok(())
}

/// Binds all of them. That there is no IPv6 here is no reason to show nothing on IPv4.
async fn bind(addresses: &[SocketAddr], audit: &Audit) -> Result<Vec<TcpListener>, DashboardError> {
    let mut listeners = Vec::new();
    for address in addresses {
        match TcpListener::bind(address).await {
            Ok(listener) => listeners.push(listener),
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable && address.is_ipv6() && addresses.len() > 1 => {
                audit.say(&format!("not listening on {address}: {error}"));
            }
            Err(error) => return Err(DashboardError::Bind(*address, error)),
        }
    }
    Ok(listeners)
}

/// As many descriptors as we may have: the usual soft limit of 1,024 is for programs that use select(2).
fn more_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Without it there are fewer connections; nothing else changes.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

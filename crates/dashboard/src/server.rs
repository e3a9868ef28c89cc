//! Listening, and one connection: bounded in number, in the time for the head of a request, and in the time for taking an answer.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use crate::access::Peer;
use crate::patience::Patient;

/// Connections at once. A page has two or three.
pub(crate) const CONNECTIONS: usize = 3000;
/// The head of a request has to be there within this, also the next one on a connection that is kept.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// An answer has to be taken within this.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);
/// Bytes of a request's head.
const HEAD: usize = 16 * 1024;
/// Requests that are under way when we are told to end have this long.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(3);
/// After an error of `accept` (out of descriptors, most likely) it is not tried again for so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whether only programs of this machine can reach the address.
pub(crate) fn is_local(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// What answers on a connection.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) router: Router,
    /// The base path.
    pub(crate) base: Arc<str>,
    pub(crate) tls: Option<TlsAcceptor>,
}

/// Accepts until `ending`, then lets what is under way come to its end.
pub(crate) async fn serve(listener: TcpListener, served: Served, places: Arc<Semaphore>, ending: tokio::sync::watch::Receiver<bool>) {
    let mut over = ending.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = crate::hub::ended(&mut over) => return,
        };
        match accepted {
            Ok((stream, client)) => {
                // Beyond the limit a connection is closed at once: it would keep others waiting.
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                let (served, ending) = (served.clone(), ending.clone());
                tokio::spawn(async move {
                    accepted_one(stream, client, served, ending).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn accepted_one(stream: TcpStream, client: SocketAddr, served: Served, ending: tokio::sync::watch::Receiver<bool>) {
    let Ok(local) = stream.local_addr() else { return };
    // Small messages are to arrive at once.
    let _ = stream.set_nodelay(true);
    let peer = Arc::new(Peer::new(client, local));
    let Served { router, base, tls } = served;
    match tls {
        None => connection(stream, peer, router, base, ending).await,
        Some(tls) => {
            // Who does not come to an agreement in time is hung up on, like who does not come to a request.
            if let Ok(Ok(stream)) = tokio::time::timeout(HEAD_WITHIN, tls.accept(stream)).await {
                connection(stream, peer, router, base, ending).await;
            }
        }
    }
}

async fn connection<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: T,
    peer: Arc<Peer>,
    router: Router,
    base: Arc<str>,
    mut ending: tokio::sync::watch::Receiver<bool>,
) {
    let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(Arc::clone(&peer));
        *request.uri_mut() = crate::page::below(request.uri(), &base);
        router.clone().oneshot(request.map(axum::body::Body::new))
    });
    let io = TokioIo::new(Patient::new(stream, TAKEN_WITHIN));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD)
        .max_headers(64)
        .serve_connection(io, service)
        .with_upgrades();
    tokio::pin!(connection);
    tokio::select! {
        // A connection that breaks has nobody left to tell.
        _ = connection.as_mut() => return,
        () = crate::hub::ended(&mut ending) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(LAST_WORDS, connection).await;
}

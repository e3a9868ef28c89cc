//! `/socket.io/`: the live stream for clients that speak Socket.IO (protocol 5, over WebSocket and polling).
//!
//! The same messages with the same names as on [`crate::stream`], one document each. Socket.IO itself keeps nothing for who was away; so a
//! client says where it left off: `auth: { token, since }` when it connects, or the event `resume` with `{ since }` later. Nothing can be done
//! over it: it accepts no other event, and no other namespace.
//!
//! The guard in front of everything has looked at Host and Origin of each request already, upgrades and polls included.

use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{self, HeaderMap, HeaderValue};
use serde::Deserialize;
use serde_json::{Value, json};
use socketioxide::SocketIo;
use socketioxide::extract::{Data, SocketRef, TryData};
use socketioxide::layer::SocketIoLayer;
use stayput_wire::Cursor;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, mpsc};

use crate::access::{Admitted, Denied, Manner, Peer};
use crate::api::App;
use crate::guard;
use crate::hub::{Frame, ended, is_seen};
use crate::stream::{self, Visit};

/// Clients at once.
const CLIENTS: usize = 1200;
/// Bytes that a client may send at once: it has next to nothing to say.
const PAYLOAD: u64 = 8 * 1024;
/// Packets that wait for a slow client.
const PACKETS: usize = 256;
/// A client that takes nothing for so long is hung up on; it comes back with the last number that it saw.
const TAKE_WITHIN: Duration = Duration::from_secs(30);
/// Between two tries to give a client a packet that it has no room for.
const FULL_PAUSE: Duration = Duration::from_millis(10);
/// The token is looked at again this often.
const AGAIN: Duration = Duration::from_secs(10);

#[derive(Debug, Default, Deserialize)]
struct Auth {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    since: Option<Cursor>,
}

#[derive(Debug, Deserialize)]
struct Resume {
    since: Cursor,
}

/// The client is gone, or takes nothing.
struct Gone;

/// The layer that answers below `/socket.io/`.
pub(crate) fn layer(app: &Arc<App>) -> SocketIoLayer {
    let (layer, io) = SocketIo::builder().max_payload(PAYLOAD).max_buffer_size(PACKETS).build_layer();
    let app = Arc::clone(app);
    let places = Arc::new(Semaphore::new(CLIENTS));
    io.ns("/", move |socket: SocketRef, auth: TryData<Auth>| {
        let (app, places) = (Arc::clone(&app), Arc::clone(&places));
        async move {
            // Without `auth` there is nothing to parse, and a header may do.
            let auth = auth.0.unwrap_or_default();
            let admitted = match admit(&app, &socket, auth.token.as_deref()) {
                Ok(admitted) => admitted,
                Err(denied) => {
                    let _ = socket.emit("denied", &json!({ "why": crate::reply::Refused::from(denied).message }));
                    let _ = socket.disconnect();
                    return;
                }
            };
            let Ok(place) = places.try_acquire_owned() else {
                let _ = socket.disconnect();
                return;
            };
            let (resumes, asked) = mpsc::channel(4);
            socket.on("resume", move |Data(Resume { since }): Data<Resume>| {
                // A client that asks faster than it is answered asks for the same.
                let _ = resumes.try_send(since);
                async {}
            });
            tokio::spawn(async move {
                let _place = place;
                let _watcher = app.hub.watch();
                let _ = serve(&app, &socket, admitted, &auth, asked).await;
                let _ = socket.disconnect();
            });
        }
    });
    layer
}

fn admit(app: &App, socket: &SocketRef, token: Option<&str>) -> Result<Admitted, Denied> {
    let request = socket.req_parts();
    let mut headers: HeaderMap = request.headers.clone();
    if let Some(token) = token {
        let value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| Denied::WrongToken)?;
        headers.insert(header::AUTHORIZATION, value);
    }
    let peer = request.extensions.get::<Arc<Peer>>().ok_or(Denied::NoToken)?;
    app.access.admit(&headers, guard::is_forwarded(&headers), peer, Manner::OurHeader)
}

/// How the wait for something to say ended.
enum Next {
    /// The client wants everything after this, or fell behind and gets it unasked.
    Again(Option<Cursor>),
    /// This process ends.
    Over,
}

async fn serve(app: &Arc<App>, socket: &SocketRef, admitted: Admitted, auth: &Auth, mut asked: mpsc::Receiver<Cursor>) -> Result<(), Gone> {
    app.hub.settled(stream::FIRST_PICTURE).await;
    let _ = tokio::time::timeout(stream::FIRST_PICTURE, app.hub.picture(Duration::from_secs(3))).await;
    let mut since = auth.since;
    let header = auth.token.as_ref().and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
    let header = header.or_else(|| socket.req_parts().headers.get(header::AUTHORIZATION).cloned());
    let mut visit = Visit::new(admitted, header, AGAIN);
    loop {
        let start = app.hub.start(since);
        send(socket, &app.hello(admitted, start.last)).await?;
        for frame in &start.frames {
            send(socket, frame).await?;
            since = frame.cursor.or(since);
        }
        match start.fetch {
            Some((after, Some(until))) => {
                for frame in stream::missed(&app.hub, after, until).await {
                    send(socket, &frame).await?;
                    since = frame.cursor.or(since);
                }
                since = Some(stream::later(since, until));
            }
            Some((_, None)) => {}
            None => since = since.or_else(|| app.hub.last()),
        }
        match live(app, socket, start.live, &mut since, &mut asked, &mut visit).await? {
            Next::Again(from) => since = from,
            Next::Over => return send(socket, &Frame::new("bye", None, &json!({}))).await,
        }
    }
}

async fn live(
    app: &App,
    socket: &SocketRef,
    mut frames: tokio::sync::broadcast::Receiver<Arc<Frame>>,
    since: &mut Option<Cursor>,
    asked: &mut mpsc::Receiver<Cursor>,
    visit: &mut Visit,
) -> Result<Next, Gone> {
    let mut ending = app.hub.ending();
    loop {
        tokio::select! {
            stays = visit.may_stay(app) => {
                if !socket.connected() {
                    return Err(Gone);
                }
                if !stays {
                    return send(socket, &Frame::new("denied", None, &json!({ "why": "the token was replaced" }))).await.and(Err(Gone));
                }
            }
            next = frames.recv() => match next {
                Ok(frame) if is_seen(&frame, *since) => {}
                Ok(frame) => {
                    send(socket, &frame).await?;
                    *since = frame.cursor.or(*since);
                }
                Err(RecvError::Lagged(_)) => return Ok(Next::Again(*since)),
                Err(RecvError::Closed) => return Ok(Next::Over),
            },
            Some(from) = asked.recv() => return Ok(Next::Again(Some(from))),
            () = ended(&mut ending) => return Ok(Next::Over),
        }
    }
}

/// Gives a client a message, when it has room for it.
async fn send(socket: &SocketRef, frame: &Frame) -> Result<(), Gone> {
    let document: Value = serde_json::from_slice(frame.json()).map_err(|_| Gone)?;
    let given_up = tokio::time::Instant::now() + TAKE_WITHIN;
    loop {
        match socket.emit(frame.name, &document) {
            Ok(()) => return Ok(()),
            Err(socketioxide::SendError::Socket(socketioxide::SocketError::InternalChannelFull))
                if tokio::time::Instant::now() < given_up =>
            {
                tokio::time::sleep(FULL_PAUSE).await;
            }
            Err(_) => return Err(Gone),
        }
    }
}

//! `GET /api/v1/stream`: everything that a page needs to stay true, as server-sent events.
//!
//! `hello`, then `status` (the whole picture), then `record`s that were missed since `since` (or the `Last-Event-ID` header), then what
//! happens: `record`s with the id to come back with, `status` differences, `operation`s, `upstream`. `gap` says that events are missing,
//! `reset` that they are of a daemon that is gone, `bye` that this process ends and another one is there already or soon.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Query, State};
use axum::http::Response;
use axum::http::header::{self, HeaderMap, HeaderValue};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use stayput_wire::{Answer, Cursor, Reply, Request};
use tokio::sync::broadcast::error::RecvError;

use crate::access::{Admitted, By};
use crate::api::App;
use crate::feed::{Gone, Writer, feed};
use crate::hub::{Frame, Hub, Watcher, is_seen, now_ms};
use crate::link::{Link, LinkError};
use crate::reply::Refused;

/// A sign of life, for proxies and for the page's watchdog; and as often the token is looked at again.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// A first picture is waited for so long; without one the stream begins without.
pub(crate) const FIRST_PICTURE: Duration = Duration::from_secs(2);

/// What may be asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// The last event that was seen.
    since: Option<Cursor>,
}

pub(crate) async fn stream(
    State(app): State<Arc<App>>,
    Extension(admitted): Extension<Admitted>,
    headers: HeaderMap,
    wanted: Result<Query<Wanted>, axum::extract::rejection::QueryRejection>,
) -> Result<Response<Body>, Refused> {
    let Query(wanted) = wanted.map_err(|error| Refused::bad(error.body_text()))?;
    let since = match (wanted.since, headers.get("last-event-id")) {
        (Some(since), _) => Some(since),
        (None, Some(id)) => {
            Some(id.to_str().ok().and_then(|id| id.parse().ok()).ok_or_else(|| Refused::bad("Last-Event-ID is no cursor"))?)
        }
        (None, None) => None,
    };
    let watcher = app.hub.watch();
    app.hub.settled(FIRST_PICTURE).await;
    let _ = tokio::time::timeout(FIRST_PICTURE, app.hub.picture(Duration::from_secs(3))).await;
    let (writer, body) = feed();
    let authorization = headers.get(header::AUTHORIZATION).cloned();
    tokio::spawn(async move {
        // The client going away is how a stream ends.
        let _ = serve(&app, &writer, since, Visit::new(admitted, authorization, HEARTBEAT), watcher).await;
    });
    Ok(event_stream(body))
}

/// The headers of a stream: no proxy may hold it back or keep it.
pub(crate) fn event_stream(body: Body) -> Response<Body> {
    let mut response = crate::reply::typed("text/event-stream", body);
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    response
}

/// Who is at the other end of a stream, and when it is looked at again whether it may stay. It lasts as long as the stream: who falls behind again and
/// again is looked at all the same.
pub(crate) struct Visit {
    pub(crate) admitted: Admitted,
    authorization: Option<HeaderValue>,
    beat: tokio::time::Interval,
}

impl Visit {
    pub(crate) fn new(admitted: Admitted, authorization: Option<HeaderValue>, every: Duration) -> Self {
        let beat = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
        Self { admitted, authorization, beat }
    }

    /// Returns when it is time to look again, and whether it may stay. To be asked before there is something to send: a flood of that leaves no other
    /// time.
    pub(crate) async fn may_stay(&mut self, app: &App) -> bool {
        self.beat.tick().await;
        app.still_admitted(self.admitted, self.authorization.as_ref())
    }
}

async fn serve(app: &App, writer: &Writer, mut since: Option<Cursor>, mut visit: Visit, _watcher: Watcher) -> Result<(), Gone> {
    // Once for each time that the client fell behind: it then begins again after the last event that it got.
    loop {
        let start = app.hub.start(since);
        writer.send(app.hello(visit.admitted, start.last).sse).await?;
        for frame in &start.frames {
            writer.send(frame.sse.clone()).await?;
            since = frame.cursor.or(since);
        }
        let mut waits = false;
        match start.fetch {
            Some((after, Some(until))) => {
                for frame in missed(&app.hub, after, until).await {
                    writer.send(frame.sse.clone()).await?;
                    since = frame.cursor.or(since);
                }
                since = Some(later(since, until));
            }
            // We have not reached the daemon ourselves yet.
            Some((_, None)) => waits = true,
            None => since = since.or_else(|| app.hub.last()),
        }
        if !live(app, writer, start.live, &mut since, waits, &mut visit).await? {
            return Ok(());
        }
    }
}

/// Passes on what happens, until this process ends (`false`) or the client has to begin again (`true`).
async fn live(
    app: &App,
    writer: &Writer,
    mut frames: tokio::sync::broadcast::Receiver<Arc<Frame>>,
    since: &mut Option<Cursor>,
    waits: bool,
    visit: &mut Visit,
) -> Result<bool, Gone> {
    let mut ending = app.hub.ending();
    loop {
        tokio::select! {
            biased;
            () = writer.closed() => return Err(Gone),
            stays = visit.may_stay(app) => {
                if !stays {
                    writer.send(Frame::new("denied", None, &json!({ "why": "the token was replaced" })).sse).await?;
                    return Ok(false);
                }
                writer.send(Bytes::from(format!(": {}\n\n", now_ms()))).await?;
            }
            next = frames.recv() => match next {
                Ok(frame) if is_seen(&frame, *since) => {}
                Ok(_) if waits && app.hub.last().is_some() => return Ok(true),
                Ok(frame) => {
                    writer.send(frame.sse.clone()).await?;
                    *since = frame.cursor.or(*since);
                }
                Err(RecvError::Lagged(_)) => return Ok(true),
                Err(RecvError::Closed) => return Ok(false),
            },
            () = crate::hub::ended(&mut ending) => {
                writer.send(Frame::new("bye", None, &json!({})).sse).await?;
                return Ok(false);
            }
        }
    }
}

/// Where a client stands that had seen everything up to `since` and was given everything up to `until`. It may be further than we are.
pub(crate) fn later(since: Option<Cursor>, until: Cursor) -> Cursor {
    since.filter(|since| since.boot == until.boot && since.seq > until.seq).unwrap_or(until)
}

/// What the daemon still has of the events after `since` and up to `until`, and where something is missing. Its own memory bounds it.
pub(crate) async fn missed(hub: &Arc<Hub>, since: Cursor, until: Cursor) -> Vec<Frame> {
    let mut frames = Vec::new();
    let _turn = hub.questions.acquire().await;
    if collect(hub, since, until, &mut frames).await.is_err() {
        frames.push(Frame::new("gap", None, &json!({ "missed": null })));
    }
    frames
}

async fn collect(hub: &Arc<Hub>, since: Cursor, until: Cursor, frames: &mut Vec<Frame>) -> Result<(), LinkError> {
    let mut link = Link::connect(hub.control()).await?;
    link.send(&Request::Events { since: Some(since), follow: false, services: Vec::new() }).await?;
    loop {
        frames.push(match next(&mut link).await? {
            // It came while we asked, and is on its way live.
            Answer::Record(record) if until.boot == record.cursor.boot && record.cursor.seq > until.seq => continue,
            Answer::Record(record) => Frame::new("record", Some(record.cursor), &record),
            Answer::Gap { missed } => Frame::new("gap", None, &json!({ "missed": missed })),
            Answer::Reset {} => Frame::new("reset", None, &json!({})),
            Answer::Reply(Reply::End {}) => return Ok(()),
            _ => return Err(LinkError::Unexpected("events")),
        });
    }
}

async fn next(link: &mut Link) -> Result<Answer, LinkError> {
    let within = Duration::from_secs(10);
    tokio::time::timeout(within, link.next()).await.unwrap_or(Err(LinkError::NoAnswer(within)))
}

/// Who looks, for the greeting.
pub(crate) fn by(admitted: Admitted) -> &'static str {
    match admitted.by {
        By::Token => "token",
        By::SameUser => "same-user",
    }
}

//! What services wrote: the last lines as a document, a stream that goes on, and a file to keep.
//!
//! Each reader has a connection of its own to the daemon. A slow one is not read for, so it is the daemon's bound that says what is
//! dropped, and the reader is told. Lines leave here as pieces of text with classes ([`crate::ansi`]), several in one message.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Query, State};
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{Response, StatusCode};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stayput_wire::{Answer, LogLine, LogsQuery, Reply, Request, Stream};

use crate::access::Admitted;
use crate::ansi::{self, Piece};
use crate::api::{App, Wanted};
use crate::feed::{Gone, Writer, feed};
use crate::hub::{Frame, now_ms};
use crate::link::{Link, LinkError};
use crate::reply::{Refused, json as json_reply};
use crate::stream::{Visit, event_stream};

/// Lines in one message at most.
const BATCH: usize = 250;
/// A message goes out at the latest so long after its first line.
const BATCH_WITHIN: Duration = Duration::from_millis(16);
/// Lines in a document.
const DOCUMENT: u32 = 10_000;
/// Lines that a stream begins with, if nothing is said.
const FIRST: u32 = 500;
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The daemon has to begin its answer within this.
const BEGIN_WITHIN: Duration = Duration::from_secs(10);
/// Readers at once. The daemon takes a bounded number of connections, and the command line needs some.
pub(crate) const READERS: usize = 24;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    /// Names or globs with commas between them.
    services: Option<String>,
    lines: Option<u32>,
    since_ms: Option<u64>,
    until_ms: Option<u64>,
    grep: Option<String>,
    generation: Option<u64>,
    previous: Option<bool>,
    stream: Option<Stream>,
    /// A file with the bytes as they were written, without times.
    raw: Option<bool>,
}

impl Asked {
    fn query(self, follow: bool, lines: Option<u32>) -> LogsQuery {
        let services = self.services.unwrap_or_default();
        LogsQuery {
            services: services.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
            follow,
            lines: self.lines.map(|lines| lines.min(DOCUMENT)).or(lines),
            since_ms: self.since_ms,
            until_ms: self.until_ms,
            grep: self.grep.filter(|pattern| !pattern.is_empty()),
            generation: self.generation,
            previous: self.previous.unwrap_or_default(),
            stream: self.stream,
        }
    }
}

/// A line as it leaves here. Short names: there are many.
#[derive(Debug, Serialize)]
struct Line {
    /// Service.
    s: String,
    /// Generation.
    g: u64,
    /// `out` or `err`.
    o: &'static str,
    /// Milliseconds since 1970.
    t: u64,
    /// Nanoseconds below that.
    n: u32,
    /// error, warn, info, debug; or nothing.
    l: Option<&'static str>,
    /// The line was longer.
    c: bool,
    /// Not valid UTF-8.
    b: bool,
    /// Place in the log.
    p: String,
    /// The text.
    x: Vec<Piece>,
}

impl From<LogLine> for Line {
    fn from(line: LogLine) -> Self {
        let x = ansi::pieces(&line.text);
        Self {
            s: line.service,
            g: line.generation,
            o: match line.stream {
                Stream::Stdout => "out",
                Stream::Stderr => "err",
            },
            t: line.at_ms,
            n: line.at_ns,
            l: ansi::level(&x),
            c: line.truncated,
            b: line.bytes.is_some(),
            p: line.position,
            x,
        }
    }
}

fn reader(app: &App) -> Result<tokio::sync::OwnedSemaphorePermit, Refused> {
    Arc::clone(&app.log_streams).try_acquire_owned().map_err(|_| {
        Refused::new(StatusCode::SERVICE_UNAVAILABLE, "too-many", format!("{READERS} readers of logs are there already"))
            .hint("close a page that shows logs")
    })
}

/// The first answer decides whether there is something to send.
async fn ask(app: &App, query: LogsQuery) -> Result<(Link, Option<Answer>), Refused> {
    let mut link = Link::connect(app.hub.control()).await?;
    let follow = query.follow;
    link.send(&Request::Logs(query)).await?;
    // A stream of a quiet service has no first answer; a refusal comes at once.
    let wait = if follow { Duration::from_millis(250) } else { BEGIN_WITHIN };
    match tokio::time::timeout(wait, link.next()).await {
        Ok(Ok(Answer::Reply(Reply::Failed(failure)))) => Err(failure.into()),
        Ok(Ok(answer)) => Ok((link, Some(answer))),
        Ok(Err(error)) => Err(error.into()),
        Err(_) if follow => Ok((link, None)),
        Err(_) => Err(LinkError::NoAnswer(wait).into()),
    }
}

/// The last lines that fit, as a document.
pub(crate) async fn logs(State(app): State<Arc<App>>, asked: Wanted<Asked>) -> Result<Response<Body>, Refused> {
    let Query(asked) = asked.map_err(|error| Refused::bad(error.body_text()))?;
    let _place = reader(&app)?;
    let (mut link, mut answer) = ask(&app, asked.query(false, Some(FIRST))).await?;
    let (mut lines, mut gaps): (Vec<Line>, Vec<Value>) = (Vec::new(), Vec::new());
    loop {
        match answer.take() {
            Some(Answer::Log(line)) => lines.push(line.into()),
            Some(Answer::LogGap { service, dropped_bytes, why }) => {
                gaps.push(json!({ "service": service, "dropped_bytes": dropped_bytes, "why": why, "before": lines.len() }));
            }
            Some(Answer::Reply(Reply::Failed(failure))) => return Err(failure.into()),
            Some(Answer::Reply(_)) => return Ok(json_reply(&json!({ "lines": lines, "gaps": gaps }))),
            Some(_) | None => {}
        }
        answer = Some(next(&mut link).await?);
    }
}

async fn next(link: &mut Link) -> Result<Answer, LinkError> {
    tokio::time::timeout(BEGIN_WITHIN, link.next()).await.unwrap_or(Err(LinkError::NoAnswer(BEGIN_WITHIN)))
}

/// Lines as they come.
pub(crate) async fn stream(
    State(app): State<Arc<App>>,
    Extension(admitted): Extension<Admitted>,
    headers: HeaderMap,
    asked: Wanted<Asked>,
) -> Result<Response<Body>, Refused> {
    let Query(asked) = asked.map_err(|error| Refused::bad(error.body_text()))?;
    let place = reader(&app)?;
    let (link, first) = ask(&app, asked.query(true, Some(FIRST))).await?;
    let (writer, body) = feed();
    let authorization = headers.get(header::AUTHORIZATION).cloned();
    tokio::spawn(async move {
        let _place = place;
        // The client going away is how it ends.
        let _ = follow(&app, &writer, link, first, Visit::new(admitted, authorization, HEARTBEAT)).await;
    });
    Ok(event_stream(body))
}

async fn follow(app: &App, writer: &Writer, mut link: Link, first: Option<Answer>, mut visit: Visit) -> Result<(), Gone> {
    let mut ending = app.hub.ending();
    let mut batch: Vec<Line> = Vec::new();
    let mut due: Option<tokio::time::Instant> = None;
    let mut answer = first;
    loop {
        match answer.take() {
            Some(Answer::Log(line)) => {
                batch.push(line.into());
                due.get_or_insert_with(|| tokio::time::Instant::now() + BATCH_WITHIN);
            }
            Some(Answer::LogGap { service, dropped_bytes, why }) => {
                flush(writer, &mut batch, &mut due).await?;
                let document = json!({ "service": service, "dropped_bytes": dropped_bytes, "why": why });
                writer.send(Frame::new("log-gap", None, &document).sse).await?;
            }
            Some(Answer::Reply(_)) => {
                flush(writer, &mut batch, &mut due).await?;
                return writer.send(Frame::new("end", None, &json!({})).sse).await;
            }
            Some(_) | None => {}
        }
        if batch.len() >= BATCH || due.is_some_and(|due| due <= tokio::time::Instant::now()) {
            flush(writer, &mut batch, &mut due).await?;
        }
        let wake = due.unwrap_or_else(|| tokio::time::Instant::now() + HEARTBEAT);
        tokio::select! {
            biased;
            () = writer.closed() => return Err(Gone),
            stays = visit.may_stay(app) => {
                if !stays {
                    return writer.send(Frame::new("denied", None, &json!({ "why": "the token was replaced" })).sse).await;
                }
                writer.send(Bytes::from(format!(": {}\n\n", now_ms()))).await?;
            }
            next = link.next() => match next {
                Ok(next) => answer = Some(next),
                Err(error) => {
                    flush(writer, &mut batch, &mut due).await?;
                    return writer.send(Frame::new("broken", None, &json!({ "why": error.to_string() })).sse).await;
                }
            },
            () = tokio::time::sleep_until(wake) => {}
            () = crate::hub::ended(&mut ending) => {
                flush(writer, &mut batch, &mut due).await?;
                return writer.send(Frame::new("bye", None, &json!({})).sse).await;
            }
        }
    }
}

async fn flush(writer: &Writer, batch: &mut Vec<Line>, due: &mut Option<tokio::time::Instant>) -> Result<(), Gone> {
    *due = None;
    if batch.is_empty() {
        return Ok(());
    }
    writer.send(Frame::new("lines", None, &std::mem::take(batch)).sse).await
}

/// All lines that fit, as a text file: with times, service and generation, and without what steers a terminal; or, with `raw`, the lines
/// as they were written.
pub(crate) async fn download(State(app): State<Arc<App>>, asked: Wanted<Asked>) -> Result<Response<Body>, Refused> {
    let Query(asked) = asked.map_err(|error| Refused::bad(error.body_text()))?;
    let place = reader(&app)?;
    let raw = asked.raw.unwrap_or_default();
    let name = asked.services.clone().unwrap_or_default();
    let query = asked.query(false, None);
    let (mut link, first) = ask(&app, query).await?;
    let (writer, body) = feed();
    tokio::spawn(async move {
        let _place = place;
        let mut answer = first;
        let mut chunk = Vec::new();
        loop {
            let end = match answer.take() {
                Some(Answer::Log(line)) => {
                    write_line(&mut chunk, &line, raw);
                    false
                }
                Some(Answer::LogGap { service, dropped_bytes, why }) => {
                    let bytes = dropped_bytes.map_or("an unknown number of".to_owned(), |bytes| bytes.to_string());
                    chunk.extend_from_slice(format!("-- {service}: {bytes} bytes are missing here: {why} --\n").as_bytes());
                    false
                }
                Some(Answer::Reply(_)) => true,
                Some(_) | None => false,
            };
            if (end || chunk.len() > 32 * 1024) && !chunk.is_empty() && writer.send(Bytes::from(std::mem::take(&mut chunk))).await.is_err()
            {
                return;
            }
            if end {
                return;
            }
            answer = match next(&mut link).await {
                Ok(next) => Some(next),
                Err(error) => {
                    let _ = writer.send(Bytes::from(format!("-- the rest is missing: {error} --\n"))).await;
                    return;
                }
            };
        }
    });
    let mut response = crate::reply::typed(crate::reply::TEXT, body);
    let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || "_.@-".contains(c) { c } else { '-' }).take(64).collect();
    let file = if plain.is_empty() { "all".to_owned() } else { plain };
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{file}.log\"")) {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, value);
    }
    Ok(response)
}

fn write_line(chunk: &mut Vec<u8>, line: &LogLine, raw: bool) {
    if raw {
        chunk.extend_from_slice(line.text.as_bytes());
    } else {
        let plain = |text| ansi::pieces(text).into_iter().map(|piece| piece.0).collect::<String>();
        let (service, text) = (plain(&line.service), plain(&line.text));
        let stream = if line.stream == Stream::Stderr { "err" } else { "out" };
        let stamp = crate::time::utc(line.at_ms);
        chunk.extend_from_slice(format!("{stamp} {service} {} {stream} {text}", line.generation).as_bytes());
    }
    chunk.push(b'\n');
}

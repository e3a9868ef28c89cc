//! The routes: who may use which, and what they answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Path, Query, State};
use axum::http::header::HeaderValue;
use axum::http::{Request as HttpRequest, Response, StatusCode};
use axum::middleware::{self, Next};
use axum::response::IntoResponse as _;
use axum::routing::{MethodRouter, get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use stayput_wire::{Cursor, History, HistoryRange, InstanceStatus, ListenerStatus, Reply, Request, Sample, ServiceStatus};

use crate::access::{Access, Admitted, By, Denied, Manner, Peer};
use crate::guard::{self, Hosts};
use crate::hub::{Frame, Hub, Upstream, now_ms};
use crate::link;
use crate::reply::{self, Refused, json as json_reply};
use crate::tokens::Role;
use crate::{actions, logs, page, plain, stream};

/// The daemon answers a question within this, or we say that it does not.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A status for one request may be this old.
const FRESH: Duration = Duration::from_millis(500);

/// What the routes share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) hub: Arc<Hub>,
    pub(crate) access: Access,
    pub(crate) hosts: Hosts,
    pub(crate) read_only: bool,
    /// Where the page is mounted: `/`, or a path that begins and ends with a slash.
    pub(crate) base: String,
    pub(crate) host: String,
    pub(crate) audit: crate::Audit,
    pub(crate) operations: AtomicU64,
    pub(crate) log_streams: Arc<tokio::sync::Semaphore>,
}

impl App {
    /// The first message of a stream.
    pub(crate) fn hello(&self, admitted: Admitted, last: Option<Cursor>) -> Frame {
        let mut document = self.me(admitted);
        document["cursor"] = json!(last);
        document["now_ms"] = json!(now_ms());
        Frame::new("hello", None, &document)
    }

    fn me(&self, admitted: Admitted) -> Value {
        let (instance, release) = self.hub.who();
        json!({
            "role": if self.read_only { Role::View } else { admitted.role },
            "by": stream::by(admitted),
            "read_only": self.read_only,
            "instance": instance,
            "host": self.host,
            "release": release,
            "dashboard": env!("CARGO_PKG_VERSION"),
            "clients": self.hub.watching(),
        })
    }

    /// Whether who was let in with this still would be.
    pub(crate) fn still_admitted(&self, admitted: Admitted, authorization: Option<&HeaderValue>) -> bool {
        match admitted.by {
            By::SameUser => true,
            By::Token => {
                let token = authorization.and_then(|value| value.to_str().ok()).and_then(|value| value.strip_prefix("Bearer "));
                self.access.bearer(token.unwrap_or_default()).is_ok()
            }
        }
    }
}

/// What a route needs of who uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Nothing: it tells nothing.
    Open,
    /// To look, as a program that sends our header.
    Look,
    /// To look, as something that a person opens by its address.
    Read,
    /// To act.
    Act,
}

type Route = (&'static str, Need, fn() -> MethodRouter<Arc<App>>);

/// Every route there is. The OpenAPI document is tested against this list.
const ROUTES: &[Route] = &[
    ("/healthz", Need::Open, || get(healthz)),
    ("/readyz", Need::Open, || get(readyz)),
    ("/metrics", Need::Read, || get(metrics)),
    ("/plain", Need::Read, || get(plain::plain)),
    ("/api/v1/openapi.json", Need::Open, || get(openapi)),
    ("/api/v1/me", Need::Look, || get(me)),
    ("/api/v1/status", Need::Look, || get(status)),
    ("/api/v1/services", Need::Look, || get(services)),
    ("/api/v1/services/{service}", Need::Look, || get(service)),
    ("/api/v1/services/{service}/config", Need::Look, || get(config)),
    ("/api/v1/services/{service}/processes", Need::Look, || get(processes)),
    ("/api/v1/ports", Need::Look, || get(ports)),
    ("/api/v1/events", Need::Look, || get(events)),
    ("/api/v1/stream", Need::Look, || get(stream::stream)),
    ("/api/v1/logs", Need::Look, || get(logs::logs)),
    ("/api/v1/logs/stream", Need::Look, || get(logs::stream)),
    ("/api/v1/logs/download", Need::Look, || get(logs::download)),
    ("/api/v1/history", Need::Look, || get(history)),
    ("/api/v1/plan", Need::Look, || get(plan)),
    ("/api/v1/operations/{operation}", Need::Look, || get(actions::operation)),
    ("/api/v1/services/{service}/{action}", Need::Act, || post(actions::service)),
    ("/api/v1/reload", Need::Act, || post(actions::reload)),
    ("/api/v1/ports/hold", Need::Act, || post(actions::hold)),
    ("/api/v1/ports/release", Need::Act, || post(actions::release)),
];

/// Paths of the document, for its test.
#[cfg(test)]
pub(crate) fn paths() -> impl Iterator<Item = &'static str> {
    ROUTES.iter().map(|(path, ..)| *path)
}

/// Everything behind the guard.
pub(crate) fn router(app: &Arc<App>) -> Router {
    let mut all = Router::new();
    for (path, need, methods) in ROUTES {
        let gate = middleware::from_fn_with_state((Arc::clone(app), *need), admit);
        all = all.route(path, methods().layer(gate));
    }
    let all = all.fallback(page::page).method_not_allowed_fallback(wrong_method).with_state(Arc::clone(app));
    #[cfg(feature = "socketio")]
    let all = all.layer(crate::socketio::layer(app));
    let all = all.layer(axum::extract::DefaultBodyLimit::max(actions::BODY));
    all.layer(middleware::from_fn_with_state(Arc::clone(app), outermost))
}

/// Before every route, asset and error.
async fn outermost(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Arc<Peer>>,
    request: HttpRequest<Body>,
    next: Next,
) -> Response<Body> {
    let opens = page::opens(request.method(), request.uri().path());
    match app.hosts.check(request.uri(), request.headers(), peer.local.ip(), opens) {
        Ok(()) => guard::strict(next.run(request).await),
        Err(refusal) => guard::refuse(refusal),
    }
}

/// Before each route: who this is, and whether that is enough.
async fn admit(
    State((app, need)): State<(Arc<App>, Need)>,
    Extension(peer): Extension<Arc<Peer>>,
    mut request: HttpRequest<Body>,
    next: Next,
) -> Response<Body> {
    let manner = match need {
        Need::Open => return next.run(request).await,
        Need::Look | Need::Act => Manner::OurHeader,
        Need::Read => Manner::Opened,
    };
    let admitted = match app.access.admit(request.headers(), guard::is_forwarded(request.headers()), &peer, manner) {
        Ok(admitted) => admitted,
        Err(denied) => return Refused::from(denied).into_response(),
    };
    // A method that the route does not have is told as such to who may look.
    if need == Need::Act
        && request.method() == axum::http::Method::POST
        && let Err(refused) = actions::allowed(&app, admitted, request.headers())
    {
        return refused.into_response();
    }
    request.extensions_mut().insert(admitted);
    next.run(request).await
}

impl App {
    /// Why somebody may not act, if so.
    pub(crate) fn may_act(&self, admitted: Admitted) -> Result<(), Refused> {
        if self.read_only {
            return Err(Refused::new(StatusCode::FORBIDDEN, "read-only", "this dashboard was started read-only"));
        }
        match (admitted.by, admitted.role) {
            (By::Token, Role::Operate) => Ok(()),
            (By::Token, Role::View) => Err(Refused::new(StatusCode::FORBIDDEN, "view-only", "this token looks and does not act")
                .hint("`stayput dashboard --link` prints an address that may act")),
            (By::SameUser, _) => Err(Refused::from(Denied::NoToken)),
        }
    }
}

async fn wrong_method() -> Refused {
    Refused::new(StatusCode::METHOD_NOT_ALLOWED, "method", "this address has no such method; what changes something is POST")
}

async fn healthz() -> Response<Body> {
    reply::typed(reply::TEXT, "ok\n")
}

/// Ready means that pages can be served with data in them.
async fn readyz(State(app): State<Arc<App>>) -> Response<Body> {
    match app.hub.upstream() {
        Upstream::Up => reply::typed(reply::TEXT, "ready\n"),
        Upstream::Unknown | Upstream::Down(..) => {
            let mut response = reply::typed(reply::TEXT, "the daemon does not answer\n");
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response
        }
    }
}

/// The daemon's metrics, and our own few.
async fn metrics(State(app): State<Arc<App>>) -> Result<Response<Body>, Refused> {
    let Reply::Metrics { mut text } = link::ask(app.hub.control(), &Request::Metrics {}, Some(ANSWER_WITHIN)).await? else {
        return Err(unexpected());
    };
    text.push_str(
        "# HELP stayput_dashboard_streams Pages and programs that follow the live stream.\n# TYPE stayput_dashboard_streams gauge\n",
    );
    text.push_str("stayput_dashboard_streams ");
    text.push_str(&app.hub.watching().to_string());
    text.push('\n');
    Ok(reply::typed("text/plain; version=0.0.4; charset=utf-8", text))
}

async fn openapi() -> Response<Body> {
    reply::typed(reply::JSON, crate::openapi::DOCUMENT)
}

async fn me(State(app): State<Arc<App>>, Extension(admitted): Extension<Admitted>) -> Response<Body> {
    json_reply(&app.me(admitted))
}

pub(crate) async fn fresh(app: &App) -> Result<(Arc<InstanceStatus>, u64), Refused> {
    let picture = app.hub.picture(FRESH).await?;
    Ok((picture.status, picture.at_ms))
}

async fn status(State(app): State<Arc<App>>) -> Result<Response<Body>, Refused> {
    let (status, at_ms) = fresh(&app).await?;
    let mut document = json!(*status);
    document["at_ms"] = json!(at_ms);
    Ok(json_reply(&document))
}

async fn services(State(app): State<Arc<App>>) -> Result<Response<Body>, Refused> {
    let (status, at_ms) = fresh(&app).await?;
    Ok(json_reply(&json!({ "at_ms": at_ms, "services": status.services })))
}

pub(crate) fn unknown(name: &str) -> Refused {
    let shown: String = name.chars().take(64).collect();
    Refused::new(StatusCode::NOT_FOUND, "unknown-service", format!("there is no service {shown:?} in this instance"))
}

async fn service(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Response<Body>, Refused> {
    let (status, _) = fresh(&app).await?;
    status.services.iter().find(|service| service.name == name).map(json_reply).ok_or_else(|| unknown(&name))
}

async fn config(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Response<Body>, Refused> {
    let request = Request::Config { service: Some(name) };
    match link::ask(app.hub.control(), &request, Some(ANSWER_WITHIN)).await? {
        Reply::Config(report) => Ok(json_reply(&report)),
        _ => Err(unexpected()),
    }
}

async fn processes(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Response<Body>, Refused> {
    let request = Request::Processes { service: Some(name) };
    match link::ask(app.hub.control(), &request, Some(ANSWER_WITHIN)).await? {
        Reply::Processes(report) => Ok(json_reply(&report)),
        _ => Err(unexpected()),
    }
}

/// One listener or wished-for port of a service.
fn port_row(service: &ServiceStatus, listener: &ListenerStatus, generation: Option<u64>) -> Value {
    json!({
        "address": listener.address,
        "port": listener.port,
        "service": service.name,
        "generation": generation,
        "held": listener.held,
        "origin": listener.origin,
        "selected": listener.selected,
        "inode": listener.inode,
        "queue": listener.queue,
        "evidence": listener.evidence,
    })
}

async fn ports(State(app): State<Arc<App>>) -> Result<Response<Body>, Refused> {
    let (status, at_ms) = fresh(&app).await?;
    let mut listeners = Vec::new();
    let mut waiting = Vec::new();
    for service in &status.services {
        listeners.extend(service.held.iter().map(|listener| port_row(service, listener, None)));
        for generation in &service.generations {
            listeners.extend(generation.listeners.iter().map(|listener| port_row(service, listener, Some(generation.id))));
        }
        waiting
            .extend(service.waiting.iter().map(|port| json!({ "address": port.address, "service": service.name, "holder": port.holder })));
    }
    listeners.sort_by_key(|row| (row["port"].as_u64(), row["address"].as_str().map(str::to_owned)));
    Ok(json_reply(&json!({ "at_ms": at_ms, "listeners": listeners, "waiting": waiting })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsWanted {
    since: Option<Cursor>,
    service: Option<String>,
    limit: Option<u32>,
}

pub(crate) type Wanted<T> = Result<Query<T>, axum::extract::rejection::QueryRejection>;

/// The last events that are kept, oldest first.
async fn events(State(app): State<Arc<App>>, wanted: Wanted<EventsWanted>) -> Result<Response<Body>, Refused> {
    let Query(wanted) = wanted.map_err(|error| Refused::bad(error.body_text()))?;
    let limit = wanted.limit.unwrap_or(500).min(5000) as usize;
    let request = Request::Events { since: wanted.since, follow: false, services: wanted.service.into_iter().collect() };
    let mut link = link::Link::connect(app.hub.control()).await?;
    let collected = async {
        link.send(&request).await?;
        let mut records = std::collections::VecDeque::new();
        let (mut missed, mut reset) = (false, false);
        loop {
            match link.next().await? {
                stayput_wire::Answer::Record(record) => {
                    records.push_back(record);
                    if records.len() > limit {
                        records.pop_front();
                    }
                }
                stayput_wire::Answer::Gap { .. } => missed = true,
                stayput_wire::Answer::Reset {} => reset = true,
                stayput_wire::Answer::Reply(Reply::Failed(failure)) => return Err(failure.into()),
                stayput_wire::Answer::Reply(_) => return Ok(json!({ "events": records, "gap": missed, "reset": reset })),
                _ => {}
            }
        }
    };
    let document: Result<Value, Refused> =
        tokio::time::timeout(ANSWER_WITHIN, collected).await.unwrap_or_else(|_| Err(link::LinkError::NoAnswer(ANSWER_WITHIN).into()));
    document.map(|document| json_reply(&document))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HistoryWanted {
    /// Names with commas between them; none: all.
    services: Option<String>,
    range: Option<HistoryRange>,
    /// At most so many samples of each.
    points: Option<usize>,
}

/// Names in one question about history: each is a question to the daemon.
const HISTORIES: usize = 50;

async fn history(State(app): State<Arc<App>>, wanted: Wanted<HistoryWanted>) -> Result<Response<Body>, Refused> {
    let Query(wanted) = wanted.map_err(|error| Refused::bad(error.body_text()))?;
    let range = wanted.range.unwrap_or(HistoryRange::Hour);
    let names = wanted.services.unwrap_or_default();
    let mut services: Vec<Option<String>> = names.split(',').filter(|name| !name.is_empty()).map(|name| Some(name.to_owned())).collect();
    if services.len() > HISTORIES {
        return Err(Refused::bad(format!("at most {HISTORIES} services at a time")));
    }
    if services.is_empty() {
        services.push(None);
    }
    let mut link = link::Link::connect(app.hub.control()).await?;
    let mut all: Option<History> = None;
    for service in services {
        match link.ask(&Request::History { service, range }, Some(ANSWER_WITHIN)).await? {
            Reply::History(history) => match &mut all {
                Some(all) => all.series.extend(history.series),
                None => all = Some(*history),
            },
            _ => return Err(unexpected()),
        }
    }
    let mut all = all.ok_or_else(unexpected)?;
    if let Some(points) = wanted.points.map(|points| points.max(2)) {
        for series in &mut all.series {
            thin(&mut series.samples, points);
        }
    }
    Ok(json_reply(&all))
}

/// At most `points` samples: of each stretch the one with the most connections, because a peak is what one looks for.
fn thin(samples: &mut Vec<Sample>, points: usize) {
    if samples.len() > points {
        let stretch = samples.len().div_ceil(points);
        *samples = samples.chunks(stretch).filter_map(|part| part.iter().max_by_key(|sample| sample.connections).copied()).collect();
    }
}

async fn plan(State(app): State<Arc<App>>) -> Result<Response<Body>, Refused> {
    match link::ask(app.hub.control(), &Request::Plan {}, Some(ANSWER_WITHIN)).await? {
        Reply::Plan(report) => Ok(json_reply(&report)),
        _ => Err(unexpected()),
    }
}

pub(crate) fn unexpected() -> Refused {
    Refused::new(StatusCode::BAD_GATEWAY, "unexpected", "the daemon answered something else")
}

/// Operation ids do not repeat after a restart of the dashboard.
pub(crate) fn next_operation(app: &App) -> String {
    format!("{:x}-{}", now_ms(), app.operations.fetch_add(1, Ordering::Relaxed))
}

/// What is counted by name, for `/plain` and its like.
pub(crate) fn tally<'a>(words: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, usize> {
    words.fold(BTreeMap::new(), |mut all, word| {
        *all.entry(word).or_default() += 1;
        all
    })
}

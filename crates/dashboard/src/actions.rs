//! What changes something: POST with a JSON body, our header and an operator's token. The answer is 202 and an operation; how it ends is
//! told on the stream and kept for who asks. There is no generic way to call the daemon: each action is one of a closed list.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::request::Parts;
use axum::http::{Response, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stayput_wire::{Canary, Failure, FailureKind, Reply, Request, SignalScope};

use crate::access::{Admitted, Peer};
use crate::api::{self, App};
use crate::guard::{self, OUR_HEADER};
use crate::hub::now_ms;
use crate::link::{Link, LinkError};
use crate::reply::{Refused, json as json_reply};

/// Longest body, in bytes.
pub(crate) const BODY: usize = 16 * 1024;
/// In which a body has to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(10);
/// An operation that has said nothing for so long is given up by us; the daemon goes on with it.
const OPERATION_WITHIN: Duration = Duration::from_hours(1);
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What may be done with services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Action {
    Start,
    Stop,
    Restart,
    Rollback,
    Decide,
    Signal,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Details {
    #[serde(default)]
    canary: Option<Canary>,
    #[serde(default)]
    parallel: Option<u32>,
    #[serde(default)]
    switch: Option<bool>,
    #[serde(default)]
    signal: Option<String>,
    #[serde(default)]
    scope: Option<SignalScope>,
}

/// Signals that may be sent, by name. Those that end or stop a process are what `stop` is for.
const SIGNALS: [(&str, i32); 6] = [("HUP", 1), ("QUIT", 3), ("USR1", 10), ("USR2", 12), ("WINCH", 28), ("TTIN", 21)];

/// Whether a request may act at all: who it is, and that a browser could not have been tricked into it.
pub(crate) fn allowed(app: &App, admitted: Admitted, headers: &HeaderMap) -> Result<(), Refused> {
    app.may_act(admitted)?;
    if !headers.contains_key(OUR_HEADER) {
        return Err(Refused::new(StatusCode::FORBIDDEN, "header", "an action needs the header X-Stayput").hint("-H 'X-Stayput: 1'"));
    }
    let kind = guard::only(headers, &header::CONTENT_TYPE).unwrap_or_default();
    if kind.split(';').next().is_none_or(|kind| !kind.trim().eq_ignore_ascii_case("application/json")) {
        return Err(Refused::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "media-type",
            "an action needs a JSON body: Content-Type: application/json",
        ));
    }
    Ok(())
}

async fn body<T: DeserializeOwned>(body: Body) -> Result<T, Refused> {
    let bytes = tokio::time::timeout(BODY_WITHIN, axum::body::to_bytes(body, BODY))
        .await
        .map_err(|_| Refused::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the body did not arrive"))?
        .map_err(|_| Refused::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", format!("a body may have {BODY} bytes")))?;
    let wrong = |error: serde_json::Error| Refused::bad(format!("the body: {error}"));
    let document: Value = serde_json::from_slice(&bytes).map_err(wrong)?;
    // serde would take a list for a struct, too.
    if !document.is_object() {
        return Err(Refused::bad("the body is a JSON object"));
    }
    serde_json::from_value(document).map_err(wrong)
}

/// Who acts, and what a request says beside its body.
#[derive(Debug)]
pub(crate) struct Caller {
    app: Arc<App>,
    admitted: Admitted,
    peer: Arc<Peer>,
    headers: HeaderMap,
}

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refused> {
        // Both are put there before any route is reached: `server` and `api::admit`.
        let missing = || Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "nobody said who asks");
        let admitted = *parts.extensions.get::<Admitted>().ok_or_else(missing)?;
        let peer = Arc::clone(parts.extensions.get::<Arc<Peer>>().ok_or_else(missing)?);
        Ok(Self { app: Arc::clone(app), admitted, peer, headers: std::mem::take(&mut parts.headers) })
    }
}

pub(crate) async fn service(
    caller: Caller,
    Path((service, action)): Path<(String, String)>,
    content: Body,
) -> Result<Response<Body>, Refused> {
    let Ok(action) = serde_json::from_value::<Action>(Value::String(action)) else {
        return Err(Refused::new(
            StatusCode::NOT_FOUND,
            "unknown-action",
            "there is no such action: start, stop, restart, rollback, decide, signal",
        ));
    };
    let details: Details = body(content).await?;
    let services = vec![service.clone()];
    let request = match action {
        Action::Start => Request::Start { services, wait: true },
        Action::Stop => Request::Stop { services, wait: true },
        Action::Restart => Request::Restart { services, wait: true, parallel: details.parallel, canary: details.canary },
        Action::Rollback => Request::Rollback { service: Some(service.clone()), wait: true },
        Action::Decide => {
            let switch = details.switch.ok_or_else(|| Refused::bad("switch is true (all to the new generation) or false (none)"))?;
            Request::Decide { service: Some(service.clone()), switch }
        }
        Action::Signal => {
            let name = details.signal.unwrap_or_default();
            let Some((_, signal)) = SIGNALS.iter().find(|(known, _)| *known == name.trim_start_matches("SIG")) else {
                return Err(Refused::bad("signal is one of HUP, QUIT, USR1, USR2, WINCH, TTIN"));
            };
            Request::Signal { services, signal: *signal, scope: details.scope.unwrap_or(SignalScope::Main) }
        }
    };
    begin(caller, json!({ "action": action, "service": service }), request)
}

pub(crate) async fn reload(caller: Caller, content: Body) -> Result<Response<Body>, Refused> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    let Nothing {} = body(content).await?;
    begin(caller, json!({ "action": "reload" }), Request::Reload { wait: true })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Port {
    address: String,
    #[serde(default)]
    service: Option<String>,
}

impl Port {
    fn subject(&self, action: &str) -> Value {
        json!({ "action": action, "service": self.service, "address": self.address })
    }
}

pub(crate) async fn hold(caller: Caller, content: Body) -> Result<Response<Body>, Refused> {
    let port: Port = body(content).await?;
    begin(caller, port.subject("hold"), Request::Hold { service: port.service, address: port.address })
}

pub(crate) async fn release(caller: Caller, content: Body) -> Result<Response<Body>, Refused> {
    let port: Port = body(content).await?;
    begin(caller, port.subject("release"), Request::Release { service: port.service, address: port.address })
}

/// How an operation that was begun stands.
pub(crate) async fn operation(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response<Body>, Refused> {
    let found = app.hub.find_operation("id", &id);
    found.map(|document| json_reply(&*document)).ok_or_else(|| {
        Refused::new(StatusCode::NOT_FOUND, "unknown-operation", "there is no such operation, or it was before this dashboard")
            .hint("the events tell what was done")
    })
}

/// Begins an operation, unless one with its key was begun already.
fn begin(caller: Caller, mut document: Value, request: Request) -> Result<Response<Body>, Refused> {
    let Caller { app, admitted, peer, headers } = caller;
    let key = idempotency_key(&headers)?;
    if let Some(known) = key.as_deref().and_then(|key| app.hub.find_operation("key", key)) {
        return Ok(accepted(&app, &known));
    }
    document["id"] = json!(api::next_operation(&app));
    document["key"] = json!(key);
    document["at_ms"] = json!(now_ms());
    let from = peer.client.ip().to_canonical();
    document["by"] = json!({ "role": admitted.role, "from": from.to_string() });
    document["state"] = json!("running");
    app.audit.say(&format!("{}: requested from {from} with the operator's token", describe(&document)));
    app.hub.operation(document.clone());
    let response = accepted(&app, &document);
    tokio::spawn(async move {
        let asked = async {
            let mut link = Link::connect_for(app.hub.control(), Some(format!("dashboard: operator's token from {from}"))).await?;
            link.ask(&request, Some(OPERATION_WITHIN)).await
        };
        let outcome = asked.await;
        let (state, message, hint, result) = account(outcome);
        document["state"] = json!(state);
        document["ended_ms"] = json!(now_ms());
        document["message"] = json!(message);
        document["hint"] = json!(hint);
        document["result"] = result;
        app.audit.say(&format!("{}: {state}{}", describe(&document), message.map_or(String::new(), |why| format!(": {why}"))));
        app.hub.operation(document);
    });
    Ok(response)
}

/// What the client calls this operation, if it does.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Refused> {
    if !headers.contains_key(IDEMPOTENCY_KEY) {
        return Ok(None);
    }
    let plain = |key: &&str| key.len() <= 128 && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    let key = guard::only(headers, &IDEMPOTENCY_KEY).filter(plain);
    key.map(|key| Some(key.to_owned())).ok_or_else(|| Refused::bad("Idempotency-Key has at most 128 letters, digits and _ . -"))
}

fn describe(document: &Value) -> String {
    let words = ["action", "service", "address"].map(|key| document[key].as_str().unwrap_or_default());
    let line = words.join(" ");
    line.split_whitespace().collect::<Vec<_>>().join(" ").chars().filter(|character| !character.is_control()).take(200).collect()
}

type Account = (&'static str, Option<String>, Option<String>, Value);

fn account(outcome: Result<Reply, LinkError>) -> Account {
    match outcome {
        Ok(reply) => {
            let failed = failure(&reply);
            let state = if failed.is_some() { "failed" } else { "done" };
            (state, failed, None, json!(reply))
        }
        Err(LinkError::Failed(Failure { kind, message, hint })) => {
            let state = if kind == FailureKind::Failed { "failed" } else { "refused" };
            (state, Some(message), hint, Value::Null)
        }
        Err(error) => {
            let hint = "whether it was done can be seen in the events".to_owned();
            ("unknown", Some(error.to_string()), Some(hint), Value::Null)
        }
    }
}

/// What a reply says went wrong, if it does.
fn failure(reply: &Reply) -> Option<String> {
    match reply {
        Reply::Restarted { services, .. } | Reply::Reloaded { services, .. } if services.iter().any(|one| went_wrong(one).is_some()) => {
            let mut words: Vec<String> = services.iter().filter_map(went_wrong).collect();
            if let Reply::Restarted { untouched, .. } = reply
                && !untouched.is_empty()
            {
                words.push(format!("not touched because of that: {}", untouched.join(", ")));
            }
            Some(words.join("; "))
        }
        Reply::Reloaded { plan, .. } if !plan.errors.is_empty() => {
            Some(format!("the configuration has {} error(s); nothing was changed: {}", plan.errors.len(), plan.errors[0].message))
        }
        Reply::Started { services } if services.iter().any(|one| !one.started) => {
            let named = services.iter().filter(|one| !one.started).map(|one| format!("{}: {}", one.name, one.detail));
            Some(named.collect::<Vec<_>>().join("; "))
        }
        _ => None,
    }
}

fn went_wrong(restarted: &stayput_wire::RestartedService) -> Option<String> {
    use stayput_wire::Outcome;
    if let Some(problem) = &restarted.problem {
        return Some(format!("{}: {problem}", restarted.name));
    }
    let ledger = restarted.ledger.as_deref()?;
    let why = ledger.reason.as_deref().unwrap_or("no reason is known");
    match ledger.outcome {
        Outcome::NotReady => Some(format!("{}: the new generation never became ready ({why}); the old one goes on", restarted.name)),
        Outcome::RolledBack if ledger.canary.is_some() => {
            Some(format!("{}: the old generation has all connections again ({why})", restarted.name))
        }
        Outcome::RolledBack => {
            Some(format!("{}: the new generation failed ({why}); the old one has the connections again", restarted.name))
        }
        Outcome::Switched | Outcome::Running => None,
    }
}

fn accepted(app: &App, document: &Value) -> Response<Body> {
    let mut response = json_reply(document);
    *response.status_mut() = StatusCode::ACCEPTED;
    let location = format!("{}api/v1/operations/{}", app.base, document["id"].as_str().unwrap_or_default());
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

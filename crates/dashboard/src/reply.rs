//! Answers to requests that are not streams, and what goes wrong as one JSON shape: `{"error":{"kind","message","hint"}}`.

use axum::body::Body;
use axum::http::header::{self, HeaderValue};
use axum::http::{Response, StatusCode};
use serde::Serialize;
use serde_json::json;
use stayput_wire::{Failure, FailureKind};

use crate::access::Denied;
use crate::link::LinkError;

pub(crate) const JSON: &str = "application/json";
pub(crate) const TEXT: &str = "text/plain; charset=utf-8";

/// A request that was not done, and why.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    pub(crate) kind: &'static str,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Refused {
    pub(crate) fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into(), hint: None }
    }

    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", message)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The error as a document.
    pub(crate) fn document(&self) -> serde_json::Value {
        json!({ "error": { "kind": self.kind, "message": self.message, "hint": self.hint } })
    }
}

impl From<LinkError> for Refused {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Failed(failure) => failure.into(),
            error => Self::new(StatusCode::SERVICE_UNAVAILABLE, "unreachable", error.to_string())
                .hint("the services and their ports do not depend on the daemon; it is started again by itself"),
        }
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        let (status, kind) = match failure.kind {
            FailureKind::Version => (StatusCode::BAD_GATEWAY, "version"),
            FailureKind::BadRequest => (StatusCode::BAD_REQUEST, "bad-request"),
            FailureKind::UnknownService => (StatusCode::NOT_FOUND, "unknown-service"),
            FailureKind::Busy => (StatusCode::CONFLICT, "busy"),
            FailureKind::Failed => (StatusCode::UNPROCESSABLE_ENTITY, "failed"),
        };
        Self { status, kind, message: failure.message, hint: failure.hint }
    }
}

impl From<Denied> for Refused {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::NoToken => Self::new(StatusCode::UNAUTHORIZED, "no-token", "this needs the dashboard's token")
                .hint("`stayput dashboard --link` prints an address with it"),
            Denied::WrongToken => {
                Self::new(StatusCode::UNAUTHORIZED, "wrong-token", "this token is not one of the dashboard's, or not any more")
                    .hint("`stayput dashboard --link` prints an address with the present one")
            }
            Denied::TooMany => Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many", "too many wrong tokens; try again in a minute"),
        }
    }
}

impl axum::response::IntoResponse for Refused {
    fn into_response(self) -> Response<Body> {
        let mut response = json(&self.document());
        *response.status_mut() = self.status;
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"stayput\""));
        }
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("60"));
        }
        response
    }
}

/// A document.
pub(crate) fn json(document: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(document) {
        Ok(bytes) => typed(JSON, bytes),
        // Unreachable with the wire's types; told all the same.
        Err(error) => {
            let mut response = typed(TEXT, error.to_string());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    }
}

/// A body of this type.
pub(crate) fn typed(kind: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

//! The dashboard over HTTP: security, the live stream, and the API's description.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
mod openapi;
mod security;
mod stream;

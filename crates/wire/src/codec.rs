//! Lines in, messages out. Used by both sides; it does no I/O and no waiting.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest line a server takes, in bytes without the newline.
pub const REQUEST_LINE_MAX: usize = 16 * 1024;
/// Longest line a client takes, in bytes without the newline. A status of some thousand listeners fits.
pub const ANSWER_LINE_MAX: usize = 4 * 1024 * 1024;

/// Why bytes are no message, or a message cannot be sent.
#[derive(Debug)]
pub enum CodecError {
    /// The line is longer than this many bytes.
    TooLong(usize),
    /// The stream ended in the middle of a line, after this many bytes of it.
    HalfLine(usize),
    /// The line is not a message of this version.
    Json(serde_json::Error),
}

impl std::fmt::Display for CodecError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLong(limit) => write!(f, "a line is longer than {limit} bytes"),
            Self::HalfLine(bytes) => write!(f, "the stream ended after {bytes} bytes of a line"),
            Self::Json(error) => write!(f, "a line is not a message of this protocol: {error}"),
        }
    }
}

impl std::error::Error for CodecError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Json(error) => Some(error),
            Self::TooLong(_) | Self::HalfLine(_) => None,
        }
    }
}

/// One message as a line with its newline. `limit` is what the other side takes: [`REQUEST_LINE_MAX`] or [`ANSWER_LINE_MAX`].
///
/// # Errors
/// [`CodecError::TooLong`] if the other side would refuse it.
pub fn encode<T: Serialize>(message: &T, limit: usize) -> Result<Vec<u8>, CodecError> {
    let mut line = serde_json::to_vec(message).map_err(CodecError::Json)?;
    if line.len() > limit {
        return Err(CodecError::TooLong(limit));
    }
    line.push(b'\n');
    Ok(line)
}

/// The message in a line (without its newline).
///
/// # Errors
/// [`CodecError::Json`].
pub fn decode<T: DeserializeOwned>(line: &[u8]) -> Result<T, CodecError> {
    serde_json::from_slice(line).map_err(CodecError::Json)
}

/// Cuts a stream of bytes into lines, and keeps no more of it than one line may have.
#[derive(Debug)]
pub struct LineBuffer {
    limit: usize,
    bytes: Vec<u8>,
    /// Up to here there is no newline: a long line that arrives in small pieces is not searched again from its start.
    searched: usize,
}

impl LineBuffer {
    /// A buffer for lines of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, bytes: Vec::new(), searched: 0 }
    }

    /// Appends what was read from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole line without its newline, `None` if more bytes are needed.
    ///
    /// # Errors
    /// [`CodecError::TooLong`]; the stream cannot be used any further.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>, CodecError> {
        let newline = self.bytes[self.searched..].iter().position(|&byte| byte == b'\n').map(|at| at + self.searched);
        let length = newline.unwrap_or(self.bytes.len());
        if length > self.limit {
            return Err(CodecError::TooLong(self.limit));
        }
        let Some(newline) = newline else {
            self.searched = self.bytes.len();
            return Ok(None);
        };
        let rest = self.bytes.split_off(newline + 1);
        let mut line = std::mem::replace(&mut self.bytes, rest);
        line.truncate(newline);
        self.searched = 0;
        Ok(Some(line))
    }

    /// Bytes that are not taken out yet.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// All bytes were taken out.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// At the end of the stream: nothing may be left.
    ///
    /// # Errors
    /// [`CodecError::HalfLine`].
    pub fn finish(&self) -> Result<(), CodecError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(CodecError::HalfLine(self.bytes.len())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Answer, Canary, CanaryAccount, Cursor, Event, EventRecord, Failure, FailureKind, HistoryRange, Ledger, Level, LogsQuery, Measured,
        Outcome, Reply, Request, RestartedService, SignalScope, StoppedService, Stream,
    };
    use proptest::prelude::*;

    fn ledger() -> Ledger {
        Ledger {
            from: Some(3),
            to: None,
            outcome: Outcome::RolledBack,
            reason: Some("exited with status 1 \u{1b}[31m\n2nd line".to_owned()),
            queued: Measured::Count(7),
            drained: Measured::Count(u64::MAX),
            cut: Measured::NotMeasured,
            idle_closed: Measured::Count(1),
            notes: Vec::new(),
            lost: Measured::Count(0),
            gap_ms: Measured::NotMeasured,
            listener_gap: false,
            accepted: Measured::NotMeasured,
            refused: Measured::NotMeasured,
            canary: Some(CanaryAccount { permille: 50, for_ms: None, lasted_ms: Some(9) }),
        }
    }

    fn restart(services: &[&str], wait: bool) -> Request {
        let services = services.iter().map(|&name| name.to_owned()).collect();
        Request::Restart { services, wait, parallel: None, canary: None }
    }

    #[test]
    fn every_request_survives_the_round_trip() {
        for request in [
            Request::Hello { version: 2, by: None },
            Request::Status {},
            Request::Start { services: vec!["*".to_owned()], wait: true },
            restart(&[], true),
            restart(&["w\u{e9}b\n"], false),
            Request::Restart {
                services: vec![],
                wait: true,
                parallel: Some(2),
                canary: Some(Canary { permille: 50, for_ms: Some(60_000) }),
            },
            Request::Decide { service: None, switch: true },
            Request::Stop { services: vec![], wait: true },
            Request::Down { wait: true },
            Request::Signal { services: vec![], signal: 10, scope: SignalScope::Tree },
            Request::Rollback { service: None, wait: false },
            Request::Plan {},
            Request::Reload { wait: true },
            Request::Hold { service: None, address: "5000".to_owned() },
            Request::Release { service: Some("web".to_owned()), address: "[::1]:5000".to_owned() },
            Request::Events { since: Some(Cursor { boot: 7, seq: 9 }), follow: true, services: vec![] },
            Request::Logs(LogsQuery { lines: Some(10), stream: Some(Stream::Stderr), ..LogsQuery::default() }),
            Request::Metrics {},
            Request::History { service: None, range: HistoryRange::Day },
            Request::Config { service: None },
        ] {
            let line = encode(&request, REQUEST_LINE_MAX).unwrap();
            assert_eq!(line.iter().position(|&byte| byte == b'\n'), Some(line.len() - 1), "one newline, at the end: {request:?}");
            assert_eq!(decode::<Request>(&line[..line.len() - 1]).unwrap(), request);
        }
    }

    #[test]
    fn answers_survive_the_round_trip() {
        for answer in [
            Answer::Reply(Reply::Hello { version: 2, stayput: "0.1.0".to_owned(), instance: "web".to_owned(), guard: 12 }),
            Answer::Reply(Reply::Restarted {
                services: vec![RestartedService {
                    name: "web".to_owned(),
                    ledger: Some(Box::new(ledger())),
                    last_output: vec!["a\nb".to_owned()],
                    problem: None,
                }],
                untouched: vec!["api".to_owned()],
            }),
            Answer::Record(EventRecord {
                cursor: Cursor { boot: 1, seq: 2 },
                at_ms: 3,
                service: None,
                kind: "ready".to_owned(),
                generation: Some(4),
                level: Level::Good,
                text: "x".to_owned(),
                data: serde_json::json!({ "after_ms": 310 }),
            }),
            Answer::Gap { missed: None },
            Answer::Reset {},
            Answer::LogGap { service: "web".to_owned(), dropped_bytes: Some(1), why: "the disk was full".to_owned() },
            Answer::Reply(Reply::End {}),
            Answer::Reply(Reply::Stopped { services: vec![StoppedService { name: "web".to_owned(), ended: "x".to_owned(), status: 143 }] }),
            Answer::Reply(Reply::Failed(Failure { kind: FailureKind::Busy, message: "no".to_owned(), hint: None })),
            Answer::Event(Event::Switched {
                service: "web".to_owned(),
                from: None,
                to: 2,
                soak_ms: 10_000,
                draining: Measured::NotMeasured,
            }),
        ] {
            let line = encode(&answer, ANSWER_LINE_MAX).unwrap();
            assert_eq!(decode::<Answer>(&line[..line.len() - 1]).unwrap(), answer);
        }
    }

    #[test]
    fn the_example_in_the_documentation_is_what_is_sent() {
        let documentation = include_str!("lib.rs");
        for line in [
            encode(&Request::Hello { version: 2, by: None }, REQUEST_LINE_MAX).unwrap(),
            encode(&restart(&["web"], true), REQUEST_LINE_MAX).unwrap(),
            encode(&Answer::Event(Event::Ready { service: "web".to_owned(), generation: 4, after_ms: 310 }), ANSWER_LINE_MAX).unwrap(),
        ] {
            let text = String::from_utf8(line).unwrap();
            assert!(documentation.contains(text.trim_end()), "not in the documentation: {text}");
        }
    }

    #[test]
    fn numbers_are_counts_or_say_that_nobody_counted() {
        let text = serde_json::to_string(&ledger()).unwrap();
        assert!(text.contains("\"queued\":7"), "{text}");
        assert!(text.contains("\"cut\":\"not measured\""), "{text}");
        assert!(text.contains("\"outcome\":\"rolled-back\""), "{text}");
        for wrong in ["-1", "1.5", "\"ok\"", "null", "true"] {
            assert!(serde_json::from_str::<Measured>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_field_that_was_added_later_is_ignored() {
        let request: Request = decode(br#"{"restart":{"services":[],"wait":true,"colour":"red"}}"#).unwrap();
        assert_eq!(request, restart(&[], true));
        assert!(decode::<Request>(br#"{"explode":{}}"#).is_err());
    }

    #[test]
    fn an_overlong_line_is_refused_before_its_end_arrives() {
        let mut lines = LineBuffer::new(8);
        lines.push(b"12345678\n123456789");
        assert_eq!(lines.next_line().unwrap().as_deref(), Some(&b"12345678"[..]));
        assert!(matches!(lines.next_line(), Err(CodecError::TooLong(8))));
        assert!(matches!(encode(&"123456789", 8), Err(CodecError::TooLong(8))));
    }

    #[test]
    fn half_a_line_is_an_error_at_the_end() {
        let mut lines = LineBuffer::new(64);
        lines.push(b"whole\nhalf");
        assert_eq!(lines.next_line().unwrap().as_deref(), Some(&b"whole"[..]));
        assert_eq!(lines.next_line().unwrap(), None);
        assert!(matches!(lines.finish(), Err(CodecError::HalfLine(4))));
        lines.push(b"\n");
        assert_eq!(lines.next_line().unwrap().as_deref(), Some(&b"half"[..]));
        assert!(lines.finish().is_ok());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..16)) {
            let mut lines = LineBuffer::new(128);
            for chunk in &chunks {
                lines.push(chunk);
                while let Ok(Some(line)) = lines.next_line() {
                    let _ = decode::<Request>(&line);
                    let _ = decode::<Answer>(&line);
                }
            }
            let _ = lines.finish();
        }

        #[test]
        fn cutting_does_not_depend_on_how_the_bytes_arrive(text in "[a-z\n]{0,200}", step in 1_usize..17) {
            let mut lines = LineBuffer::new(1024);
            let mut seen = Vec::new();
            for piece in text.as_bytes().chunks(step) {
                lines.push(piece);
                while let Some(line) = lines.next_line().unwrap() {
                    seen.push(String::from_utf8(line).unwrap());
                }
            }
            let mut expected: Vec<String> = text.split('\n').map(str::to_owned).collect();
            let rest = expected.pop().unwrap();
            prop_assert_eq!(seen, expected);
            prop_assert_eq!(lines.finish().is_ok(), rest.is_empty());
        }
    }
}

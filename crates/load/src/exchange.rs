//! One request and its answer on one connection: as much HTTP/1.1 (RFC 9112) as the servers here speak, read strictly, because an answer that is
//! merely present is not yet right.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::report::Outcome;
use crate::{Expect, Plan};

/// Answers of our own servers are below 1 KiB; a page of somebody else's may be larger, and has an end all the same.
const LONGEST_ANSWER: usize = 4 * 1024 * 1024;

/// Who answered.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Body {
    pub(crate) pid: u32,
    #[serde(default)]
    pub(crate) generation: String,
    #[serde(default)]
    n: String,
}

/// Why a request failed.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) outcome: Outcome,
    pub(crate) detail: String,
}

impl Failed {
    fn new(outcome: Outcome, detail: impl std::fmt::Display) -> Self {
        let mut detail = detail.to_string();
        if detail.len() > 200 {
            detail = detail.chars().take(200).collect();
        }
        Self { outcome, detail }
    }
}

/// A connection, and whether it has carried a request before.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    used: bool,
}

impl Connection {
    /// # Errors
    /// [`Outcome::Refused`], [`Outcome::TimedOut`] or [`Outcome::ConnectOther`].
    pub(crate) async fn open(target: SocketAddr, limit: Duration) -> Result<Self, Failed> {
        match timeout(limit, TcpStream::connect(target)).await {
            Err(_) => Err(Failed::new(Outcome::TimedOut, "connect")),
            Ok(Ok(stream)) => {
                // Without it a delayed acknowledgement can add 40 ms to an answer that was written in two parts.
                let _ = stream.set_nodelay(true);
                Ok(Self { stream, used: false })
            }
            Ok(Err(error)) => Err(match error.kind() {
                ErrorKind::ConnectionRefused => Failed::new(Outcome::Refused, error),
                // The handshake was over and a reset came before connect() could return: the server took it and dropped it.
                ErrorKind::ConnectionReset => Failed::new(Outcome::ResetBeforeFirstByte, error),
                ErrorKind::TimedOut => Failed::new(Outcome::TimedOut, error),
                _ => Failed::new(Outcome::ConnectOther, error),
            }),
        }
    }

    /// Whether the server has closed this idle connection: then nothing is lost by opening another.
    pub(crate) fn is_closed(&self) -> bool {
        let mut byte = [0];
        match self.stream.try_read(&mut byte) {
            Err(error) => error.kind() != ErrorKind::WouldBlock,
            Ok(_) => true,
        }
    }

    /// Sends the request and reads the whole answer. `true`: the connection may be used again.
    ///
    /// # Errors
    /// Each way to fail after connect().
    pub(crate) async fn request(&mut self, plan: &Plan, n: u64, limit: Duration) -> Result<(Body, bool), Failed> {
        let mut answer = Vec::with_capacity(512);
        let exchange = self.exchange(plan, n, &mut answer);
        let Ok(result) = timeout(limit, exchange).await else {
            return Err(Failed::new(Outcome::TimedOut, format!("after {} bytes of the answer", answer.len())));
        };
        self.used = true;
        result
    }

    async fn exchange(&mut self, plan: &Plan, n: u64, answer: &mut Vec<u8>) -> Result<(Body, bool), Failed> {
        let Plan { target, ref path, keep_alive, expect, .. } = *plan;
        let joint = if path.contains('?') { '&' } else { '?' };
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let request = format!("GET {path}{joint}n={n} HTTP/1.1\r\nHost: {target}\r\nConnection: {connection}\r\n\r\n");
        if let Err(error) = self.stream.write_all(request.as_bytes()).await {
            return Err(self.lost(answer, error));
        }
        loop {
            let read = match self.stream.read_buf(answer).await {
                Ok(read) => read,
                Err(error) => return Err(self.lost(answer, error)),
            };
            match Answer::parse(answer, read == 0) {
                Parsed::Whole(whole) => {
                    return whole.judge(n, expect).map(|body| (body, keep_alive && whole.reusable));
                }
                Parsed::Wrong(why) => return Err(Failed::new(Outcome::WrongBody, why)),
                Parsed::More if read == 0 => return Err(self.lost(answer, "closed")),
                Parsed::More if answer.len() > LONGEST_ANSWER => {
                    return Err(Failed::new(Outcome::WrongBody, "an answer without end"));
                }
                Parsed::More => {}
            }
        }
    }

    fn lost(&self, answer: &[u8], why: impl std::fmt::Display) -> Failed {
        let outcome = match (answer.is_empty(), self.used) {
            (false, _) => Outcome::ResetAfterFirstByte,
            (true, false) => Outcome::ResetBeforeFirstByte,
            (true, true) => Outcome::KeepAliveRace,
        };
        Failed::new(outcome, why)
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    body: Vec<u8>,
    reusable: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    Whole(Answer),
    More,
    Wrong(&'static str),
}

impl Answer {
    /// `ended`: the server has closed its side.
    fn parse(bytes: &[u8], ended: bool) -> Parsed {
        let Some(end) = find(bytes, b"\r\n\r\n") else {
            return Parsed::More;
        };
        let (head, rest) = (&bytes[..end], &bytes[end + 4..]);
        let Ok(head) = std::str::from_utf8(head) else {
            return Parsed::Wrong("a head that is not text");
        };
        let mut lines = head.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let Some(status) = first.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)).and_then(|status| status.parse().ok())
        else {
            return Parsed::Wrong("no status line");
        };
        let (mut length, mut chunked) = (None, false);
        let mut reusable = first.starts_with("HTTP/1.1");
        for line in lines {
            let Some((name, value)) = line.split_once(':') else {
                return Parsed::Wrong("a header without a colon");
            };
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse::<usize>().ok();
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = value.eq_ignore_ascii_case("chunked");
            } else if name.eq_ignore_ascii_case("connection") {
                reusable = !value.eq_ignore_ascii_case("close") && (reusable || value.eq_ignore_ascii_case("keep-alive"));
            }
        }
        let body = match (chunked, length) {
            (true, _) => match dechunk(rest) {
                Some(body) => body,
                None => return Parsed::More,
            },
            (false, Some(length)) if rest.len() >= length => rest[..length].to_vec(),
            (false, None) if ended => rest.to_vec(),
            (false, _) => return Parsed::More,
        };
        Parsed::Whole(Self { status, body, reusable: reusable && !ended })
    }

    /// Whether this is the answer to request `n`.
    fn judge(&self, n: u64, expect: Expect) -> Result<Body, Failed> {
        let text = String::from_utf8_lossy(&self.body);
        if expect == Expect::AnyHttp {
            return if self.status < 500 {
                Ok(Body { pid: 0, generation: String::new(), n: String::new() })
            } else {
                Err(Failed::new(Outcome::WrongBody, format!("status {}", self.status)))
            };
        }
        if self.status != 200 {
            return Err(Failed::new(Outcome::WrongBody, format!("status {}: {text}", self.status)));
        }
        let body: Body = serde_json::from_slice(&self.body).map_err(|error| Failed::new(Outcome::WrongBody, format!("{error}: {text}")))?;
        if body.n != n.to_string() {
            return Err(Failed::new(Outcome::WrongBody, format!("the answer to another request than {n}: {text}")));
        }
        Ok(body)
    }
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}

/// The body once its last chunk has come.
fn dechunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = find(rest, b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        let data = rest.get(end + 2..)?;
        let after = data.get(size..)?;
        body.extend_from_slice(&data[..size]);
        rest = after.strip_prefix(b"\r\n")?;
        if size == 0 {
            return Some(body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(bytes: &[u8], ended: bool) -> Answer {
        match Answer::parse(bytes, ended) {
            Parsed::Whole(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_body_of_known_length_is_whole_only_when_all_of_it_came() {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(Answer::parse(&[head, &b"1234"[..]].concat(), true), Parsed::More);
        let answer = whole(&[head, &b"12345"[..]].concat(), false);
        assert_eq!((answer.body.as_slice(), answer.reusable), (&b"12345"[..], true));
    }

    #[test]
    fn a_chunked_body_is_put_together() {
        let answer = whole(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", false);
        assert_eq!(answer.body, b"abc");
        let cut = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n";
        assert_eq!(Answer::parse(cut, false), Parsed::More);
    }

    #[test]
    fn a_body_without_length_ends_with_the_connection() {
        let bytes = b"HTTP/1.0 200 OK\r\n\r\nabc";
        assert_eq!(Answer::parse(bytes, false), Parsed::More);
        assert_eq!(whole(bytes, true).body, b"abc");
    }

    #[test]
    fn the_answer_to_another_request_is_wrong() {
        let answer = Answer { status: 200, body: br#"{"pid":1,"n":"7"}"#.to_vec(), reusable: true };
        assert_eq!(answer.judge(7, Expect::Echo).expect("right").pid, 1);
        assert_eq!(answer.judge(8, Expect::Echo).expect_err("wrong").outcome, Outcome::WrongBody);
    }

    #[test]
    fn of_a_strange_server_any_answer_is_good_but_its_own_failure() {
        let answer = |status| Answer { status, body: b"<html>".to_vec(), reusable: true };
        assert!(answer(404).judge(7, Expect::AnyHttp).is_ok());
        assert_eq!(answer(502).judge(7, Expect::AnyHttp).expect_err("wrong").outcome, Outcome::WrongBody);
    }

    #[test]
    fn garbage_is_wrong() {
        assert!(matches!(Answer::parse(b"hello\r\n\r\n", false), Parsed::Wrong(_)));
    }
}

//! A blocking client, for the command line and for tests. It has no threads and no runtime; every wait has a deadline if wanted.

use crate::codec::{self, ANSWER_LINE_MAX, CodecError, LineBuffer, REQUEST_LINE_MAX};
use crate::message::{Answer, Event, Failure, FailureKind, Reply, Request, VERSION};
use crate::peer::{self, PeerError};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Why a daemon could not be asked.
#[derive(Debug)]
pub enum ClientError {
    /// `connect` to this socket failed.
    Connect(PathBuf, Errno),
    /// The other side is not trusted.
    Peer(PeerError),
    /// It took the connection (or the kernel did for it), and did not answer within this time.
    NoAnswer(Duration),
    /// It closed the connection without an answer.
    Closed,
    /// Reading or writing failed.
    Io(std::io::Error),
    /// What came is no answer of this protocol.
    Codec(CodecError),
    /// It speaks another version of the protocol, or refused ours with this message.
    Version(String),
    /// The reply does not belong to the request: this one came.
    Unexpected(Box<Reply>),
    /// A line of a stream came, and none was asked for.
    Misplaced(Box<Answer>),
}

impl std::fmt::Display for ClientError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connect(path, error) => write!(f, "connect to {}: {error}", path.display()),
            Self::Peer(error) => error.fmt(f),
            Self::NoAnswer(waited) => write!(f, "no answer from the daemon within {:.1} s", waited.as_secs_f64()),
            Self::Closed => f.write_str("the daemon closed the connection without an answer"),
            Self::Io(error) => write!(f, "the control socket: {error}"),
            Self::Codec(error) => error.fmt(f),
            Self::Version(what) => f.write_str(what),
            Self::Unexpected(reply) => write!(f, "the daemon answered something else: {reply:?}"),
            Self::Misplaced(answer) => write!(f, "the daemon sent a line of a stream that was not asked for: {answer:?}"),
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect(_, error) => Some(error),
            Self::Peer(error) => Some(error),
            Self::Io(error) => Some(error),
            Self::Codec(error) => Some(error),
            Self::NoAnswer(_) | Self::Closed | Self::Version(_) | Self::Unexpected(_) | Self::Misplaced(_) => None,
        }
    }
}

impl From<CodecError> for ClientError {
    fn from(error: CodecError) -> Self {
        Self::Codec(error)
    }
}

/// A connection to a daemon that has said hello.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    lines: LineBuffer,
    /// Name of the instance, as the daemon says.
    pub instance: String,
    /// Process id of the guard, as the daemon says.
    pub guard: i32,
}

impl Client {
    /// Connects and says hello. `deadline` bounds the whole of it: the keeper holds the listening socket, so a connection
    /// succeeds also while no daemon is there to answer.
    ///
    /// # Errors
    /// [`ClientError::Connect`] with `NOENT` or `CONNREFUSED`: nobody is there; [`ClientError::NoAnswer`]; the others as they say.
    pub fn connect(path: &Path, deadline: Duration) -> Result<Self, ClientError> {
        let refused = |error| ClientError::Connect(path.to_owned(), error);
        let address = SocketAddrUnix::new(path).map_err(refused)?;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(refused)?;
        // unix(7): a connect() to a full queue waits; it heeds the send timeout and says EAGAIN then.
        set_socket_timeout(&socket, Timeout::Send, Some(deadline.max(Duration::from_millis(1)))).map_err(refused)?;
        let started = Instant::now();
        rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address)).map_err(|error| match error {
            Errno::AGAIN => ClientError::NoAnswer(deadline),
            error => refused(error),
        })?;
        peer::check(&socket).map_err(ClientError::Peer)?;
        let stream = UnixStream::from(socket);
        let mut client = Self { stream, lines: LineBuffer::new(ANSWER_LINE_MAX), instance: String::new(), guard: 0 };
        let left = deadline.saturating_sub(started.elapsed());
        match client.request(&Request::Hello { version: VERSION, by: None }, Some(left), &mut |_| ())? {
            Reply::Hello { version: VERSION, instance, guard, .. } => {
                client.instance = instance;
                client.guard = guard;
                Ok(client)
            }
            Reply::Hello { version, stayput, .. } => {
                Err(ClientError::Version(format!("the running stayput {stayput} speaks control protocol {version}, this one {VERSION}")))
            }
            Reply::Failed(Failure { kind: FailureKind::Version, message, .. }) => Err(ClientError::Version(message)),
            other => Err(ClientError::Unexpected(Box::new(other))),
        }
    }

    /// Sends a request and waits for its reply; `on_event` gets the progress that comes before it. `deadline` is the longest
    /// time between two answers; `None` waits as long as it takes.
    ///
    /// # Errors
    /// As [`ClientError`] says; the connection cannot be used any further.
    pub fn request(
        &mut self,
        request: &Request,
        deadline: Option<Duration>,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<Reply, ClientError> {
        self.send(request, deadline)?;
        loop {
            match self.answer(deadline)? {
                Answer::Event(event) => on_event(event),
                Answer::Reply(reply) => return Ok(reply),
                other => return Err(ClientError::Misplaced(Box::new(other))),
            }
        }
    }

    /// The whole status as the JSON text that the daemon wrote, an object with the fields of [`InstanceStatus`](crate::InstanceStatus): for
    /// who passes it on. Of a thousand services it is more than a megabyte, which need not be understood to be handed over.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn status_json(&mut self, deadline: Option<Duration>) -> Result<String, ClientError> {
        #[derive(Deserialize)]
        struct Line<'a> {
            #[serde(borrow)]
            reply: Told<'a>,
        }
        #[derive(Deserialize)]
        struct Told<'a> {
            #[serde(borrow)]
            status: &'a RawValue,
        }
        self.send(&Request::Status {}, deadline)?;
        let line = self.line(deadline)?;
        if let Ok(Line { reply: Told { status } }) = serde_json::from_slice(&line) {
            return Ok(status.get().to_owned());
        }
        match codec::decode(&line)? {
            Answer::Reply(other) => Err(ClientError::Unexpected(Box::new(other))),
            other => Err(ClientError::Misplaced(Box::new(other))),
        }
    }

    fn send(&mut self, request: &Request, deadline: Option<Duration>) -> Result<(), ClientError> {
        let line = codec::encode(request, REQUEST_LINE_MAX)?;
        self.stream.write_all(&line).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => ClientError::NoAnswer(deadline.unwrap_or_default()),
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => ClientError::Closed,
            _ => ClientError::Io(error),
        })
    }

    /// Asks for a stream: [`Request::Events`] or [`Request::Logs`]. Its lines are read with [`Client::next`].
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn stream(&mut self, request: &Request) -> Result<(), ClientError> {
        self.send(request, None)
    }

    /// The next line of the stream that was asked for: a record, a log line, a gap, a reset, and at its end a [`Reply`]. `deadline` is
    /// the longest time to wait for it; `None` waits as long as it takes. After [`ClientError::NoAnswer`] it may be called again.
    ///
    /// # Errors
    /// As [`ClientError`] says.
    pub fn next(&mut self, deadline: Option<Duration>) -> Result<Answer, ClientError> {
        self.answer(deadline)
    }

    fn answer(&mut self, deadline: Option<Duration>) -> Result<Answer, ClientError> {
        Ok(codec::decode(&self.line(deadline)?)?)
    }

    fn line(&mut self, deadline: Option<Duration>) -> Result<Vec<u8>, ClientError> {
        let until = deadline.map(|deadline| Instant::now() + deadline);
        loop {
            if let Some(line) = self.lines.next_line()? {
                return Ok(line);
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Err(ClientError::NoAnswer(deadline.unwrap_or_default()));
            }
            self.stream.set_read_timeout(left).map_err(ClientError::Io)?;
            let mut bytes = [0_u8; 16 * 1024];
            match self.stream.read(&mut bytes) {
                Ok(0) => {
                    self.lines.finish()?;
                    return Err(ClientError::Closed);
                }
                Ok(length) => self.lines.push(&bytes[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(ClientError::NoAnswer(deadline.unwrap_or_default())),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Err(ClientError::Closed),
                Err(error) => return Err(ClientError::Io(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufRead;
    use std::os::unix::net::UnixListener;

    fn socket() -> (tempfile::TempDir, PathBuf, UnixListener) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        (directory, path, listener)
    }

    /// A server that answers the hello, and then does what the test says with its next request.
    fn serve(listener: UnixListener, hello: Reply, then: impl FnOnce(&mut UnixStream) + Send + 'static) -> std::thread::JoinHandle<()> {
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = std::io::BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            lines.read_line(&mut line).unwrap();
            assert_eq!(codec::decode::<Request>(line.trim_end().as_bytes()).unwrap(), Request::Hello { version: VERSION, by: None });
            stream.write_all(&codec::encode(&Answer::Reply(hello), ANSWER_LINE_MAX).unwrap()).unwrap();
            line.clear();
            if lines.read_line(&mut line).unwrap() > 0 {
                then(&mut stream);
            }
        })
    }

    fn hello() -> Reply {
        Reply::Hello { version: VERSION, stayput: "0.1.0".to_owned(), instance: "web".to_owned(), guard: 7 }
    }

    const SOON: Duration = Duration::from_secs(5);
    const AT_ONCE: Duration = Duration::from_millis(50);

    #[test]
    fn events_come_before_the_reply() {
        let (_directory, path, listener) = socket();
        let ready = Event::Ready { service: "web".to_owned(), generation: 4, after_ms: 310 };
        let sent = ready.clone();
        let server = serve(listener, hello(), move |stream| {
            for answer in [Answer::Event(sent), Answer::Reply(Reply::Stopping {})] {
                stream.write_all(&codec::encode(&answer, ANSWER_LINE_MAX).unwrap()).unwrap();
            }
        });
        let mut client = Client::connect(&path, SOON).unwrap();
        assert_eq!((client.instance.as_str(), client.guard), ("web", 7));
        let mut events = Vec::new();
        let reply = client.request(&Request::Stop { services: vec![], wait: false }, Some(SOON), &mut |event| events.push(event)).unwrap();
        assert_eq!((reply, events), (Reply::Stopping {}, vec![ready]));
        server.join().unwrap();
    }

    #[test]
    fn a_status_is_passed_on_as_it_came() {
        let text = r#"{"name":"web","of_a_newer_release":[1,{"deep":null}]}"#;
        let answers = [format!(r#"{{"reply":{{"status":{text}}}}}"#), r#"{"reply":{"stopping":{}}}"#.to_owned()];
        let asked = answers.map(|answer| {
            let (_directory, path, listener) = socket();
            let server = serve(listener, hello(), move |stream| stream.write_all(format!("{answer}\n").as_bytes()).unwrap());
            let asked = Client::connect(&path, SOON).unwrap().status_json(Some(SOON));
            server.join().unwrap();
            asked
        });
        assert_eq!(asked[0].as_deref().unwrap(), text);
        assert!(matches!(asked[1], Err(ClientError::Unexpected(_))), "{asked:?}");
    }

    #[test]
    fn half_a_line_then_a_close_is_no_answer() {
        let (_directory, path, listener) = socket();
        let server = serve(listener, hello(), |stream| stream.write_all(b"{\"reply\":{\"stop").unwrap());
        let mut client = Client::connect(&path, SOON).unwrap();
        let error = client.request(&Request::Status {}, Some(SOON), &mut |_| ()).unwrap_err();
        assert!(matches!(error, ClientError::Codec(CodecError::HalfLine(15))), "{error}");
        server.join().unwrap();
    }

    #[test]
    fn a_close_without_an_answer_is_told() {
        let (_directory, path, listener) = socket();
        let server = serve(listener, hello(), |_| ());
        let mut client = Client::connect(&path, SOON).unwrap();
        let error = client.request(&Request::Status {}, Some(SOON), &mut |_| ()).unwrap_err();
        assert!(matches!(error, ClientError::Closed), "{error}");
        server.join().unwrap();
    }

    #[test]
    fn another_version_is_told() {
        let (_directory, path, listener) = socket();
        let other = Reply::Hello { version: VERSION + 1, stayput: "9.0.0".to_owned(), instance: "web".to_owned(), guard: 7 };
        let server = serve(listener, other, |_| ());
        let error = Client::connect(&path, SOON).unwrap_err();
        assert!(error.to_string().contains("stayput 9.0.0 speaks control protocol 3"), "{error}");
        server.join().unwrap();
    }

    #[test]
    fn a_socket_that_nobody_serves_is_told_within_the_deadline() {
        let (_directory, path, listener) = socket();
        let error = Client::connect(&path, AT_ONCE).unwrap_err();
        assert!(matches!(error, ClientError::NoAnswer(_)), "{error}");
        drop(listener);
        let error = Client::connect(&path, AT_ONCE).unwrap_err();
        assert!(matches!(error, ClientError::Connect(_, Errno::CONNREFUSED)), "{error}");
        let error = Client::connect(&path.with_extension("gone"), AT_ONCE).unwrap_err();
        assert!(matches!(error, ClientError::Connect(_, Errno::NOENT)), "{error}");
    }

    #[test]
    fn a_full_queue_is_told_within_the_deadline() {
        let (_directory, path, listener) = socket();
        rustix::net::listen(&listener, 0).unwrap();
        let filler = UnixStream::connect(&path).unwrap();
        let error = Client::connect(&path, AT_ONCE).unwrap_err();
        assert!(matches!(error, ClientError::NoAnswer(_)), "{error}");
        drop(filler);
    }
}

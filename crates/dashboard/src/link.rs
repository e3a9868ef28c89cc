//! A connection to the daemon, for a program that waits for many things at once. The wire's own client blocks; this one speaks the
//! same lines with tokio. Every wait has a bound: the keeper holds the control socket, so a connection succeeds also while no daemon
//! is there to answer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use stayput_wire::codec::{self, ANSWER_LINE_MAX, CodecError, LineBuffer, REQUEST_LINE_MAX};
use stayput_wire::peer::{self, PeerError};
use stayput_wire::{Answer, Failure, Reply, Request, VERSION};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

/// Within this the daemon has to take a connection and say hello.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// Read at once.
const CHUNK: usize = 16 * 1024;

/// Why the daemon could not be asked.
#[derive(Debug)]
pub enum LinkError {
    /// `connect` to this socket failed.
    Connect(PathBuf, std::io::Error),
    /// The other side is not trusted.
    Peer(PeerError),
    /// No answer within this time.
    NoAnswer(Duration),
    /// It closed the connection.
    Closed,
    /// Reading or writing failed.
    Io(std::io::Error),
    /// What came is no answer of this protocol.
    Codec(CodecError),
    /// It refused, and says why.
    Failed(Failure),
    /// The answer does not belong to the question.
    Unexpected(&'static str),
}

impl std::fmt::Display for LinkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connect(path, error) => write!(f, "connect to {}: {error}", path.display()),
            Self::Peer(error) => error.fmt(f),
            Self::NoAnswer(waited) => write!(f, "no answer from the daemon within {:.1} s", waited.as_secs_f64()),
            Self::Closed => f.write_str("the daemon closed the connection"),
            Self::Io(error) => write!(f, "the control socket: {error}"),
            Self::Codec(error) => error.fmt(f),
            Self::Failed(failure) => f.write_str(&failure.message),
            Self::Unexpected(to) => write!(f, "the daemon answered something else to {to}"),
        }
    }
}

impl std::error::Error for LinkError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect(_, error) | Self::Io(error) => Some(error),
            Self::Peer(error) => Some(error),
            Self::Codec(error) => Some(error),
            Self::NoAnswer(_) | Self::Closed | Self::Failed(_) | Self::Unexpected(_) => None,
        }
    }
}

/// A connection that has said hello.
#[derive(Debug)]
pub(crate) struct Link {
    stream: UnixStream,
    lines: LineBuffer,
    /// Name of the instance.
    pub(crate) instance: String,
    /// Release of the daemon.
    pub(crate) release: String,
}

impl Link {
    pub(crate) async fn connect(path: &Path) -> Result<Self, LinkError> {
        Self::connect_for(path, None).await
    }

    /// As [`Link::connect`], on behalf of somebody whom the daemon's events are to name.
    pub(crate) async fn connect_for(path: &Path, by: Option<String>) -> Result<Self, LinkError> {
        let greeted = async {
            let stream = UnixStream::connect(path).await.map_err(|error| LinkError::Connect(path.to_owned(), error))?;
            peer::check(&stream).map_err(LinkError::Peer)?;
            let mut link = Self { stream, lines: LineBuffer::new(ANSWER_LINE_MAX), instance: String::new(), release: String::new() };
            link.send(&Request::Hello { version: VERSION, by }).await?;
            match link.next().await? {
                Answer::Reply(Reply::Hello { stayput, instance, .. }) => {
                    (link.release, link.instance) = (stayput, instance);
                    Ok(link)
                }
                Answer::Reply(Reply::Failed(failure)) => Err(LinkError::Failed(failure)),
                _ => Err(LinkError::Unexpected("hello")),
            }
        };
        within(HELLO_WITHIN, greeted).await
    }

    /// Sends a request whose answers are read with [`Link::next`].
    pub(crate) async fn send(&mut self, request: &Request) -> Result<(), LinkError> {
        let line = codec::encode(request, REQUEST_LINE_MAX).map_err(LinkError::Codec)?;
        self.stream.write_all(&line).await.map_err(LinkError::Io)
    }

    /// The next line from the daemon. Nothing is lost if the wait is given up.
    pub(crate) async fn next(&mut self) -> Result<Answer, LinkError> {
        loop {
            if let Some(line) = self.lines.next_line().map_err(LinkError::Codec)? {
                return codec::decode(&line).map_err(LinkError::Codec);
            }
            self.stream.readable().await.map_err(LinkError::Io)?;
            // Not across a wait: the buffer would be a part of every future that asks.
            let mut bytes = [0_u8; CHUNK];
            match self.stream.try_read(&mut bytes) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(length) => self.lines.push(&bytes[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(LinkError::Io(error)),
            }
        }
    }

    /// Asks, and waits for the reply; progress that comes before it is dropped, because the stream of events tells it too.
    pub(crate) async fn ask(&mut self, request: &Request, deadline: Option<Duration>) -> Result<Reply, LinkError> {
        let answered = async {
            self.send(request).await?;
            loop {
                match self.next().await? {
                    Answer::Reply(Reply::Failed(failure)) => return Err(LinkError::Failed(failure)),
                    Answer::Reply(reply) => return Ok(reply),
                    _ => {}
                }
            }
        };
        match deadline {
            Some(deadline) => within(deadline, answered).await,
            None => answered.await,
        }
    }
}

async fn within<T>(deadline: Duration, what: impl Future<Output = Result<T, LinkError>>) -> Result<T, LinkError> {
    tokio::time::timeout(deadline, what).await.unwrap_or(Err(LinkError::NoAnswer(deadline)))
}

/// Asks on a connection of its own.
pub(crate) async fn ask(path: &Path, request: &Request, deadline: Option<Duration>) -> Result<Reply, LinkError> {
    Link::connect(path).await?.ask(request, deadline).await
}

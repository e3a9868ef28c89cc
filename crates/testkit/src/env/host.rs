//! One `stayput up -d` under test: an instance of several services from a configuration, driven by the command line and by the control socket.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use stayput_wire::{Answer, Reply, Request, VERSION, codec};

use super::TestEnv;
use crate::wait;

/// Longer than anything takes on a busy machine; a test that reaches it has failed.
const PATIENCE: Duration = Duration::from_mins(1);

/// The request for a status, for who knows nothing of the wire.
pub const STATUS: Request = Request::Status {};

/// An instance that runs in the background, and ends with [`Host::down`].
#[derive(Debug)]
pub struct Host<'env> {
    env: &'env TestEnv,
    name: String,
}

/// What a command said, and its exit code.
#[derive(Debug, Clone)]
pub struct Said {
    /// Exit code; `None`: a signal ended it.
    pub code: Option<i32>,
    /// Standard output; what is not UTF-8 as U+FFFD.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl<'env> Host<'env> {
    /// Starts what `stayput.toml` in the scratch directory says; its `name` has to be this one. What is not started is in what it said.
    pub(super) fn start(env: &'env TestEnv, name: &str, options: &[&str]) -> (Self, Said) {
        let host = Self::attached(env, name);
        let said = host.stayput(&["up", "-d"].into_iter().chain(options.iter().copied()).collect::<Vec<_>>());
        (host, said)
    }

    pub(super) fn attached(env: &'env TestEnv, name: &str) -> Self {
        Self { env, name: name.to_owned() }
    }

    /// Runs a command to its end.
    pub fn stayput(&self, arguments: &[&str]) -> Said {
        let output = self.env.cli(arguments, PATIENCE);
        Said {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a command that has to succeed, and gives its standard output.
    ///
    /// # Panics
    /// When it fails: with all that it said.
    pub fn succeeds(&self, arguments: &[&str]) -> String {
        let said = self.stayput(arguments);
        assert_eq!(said.code, Some(0), "{arguments:?}: {}{}", said.out, said.err);
        said.out
    }

    /// Its runtime directory.
    pub fn runtime(&self) -> PathBuf {
        self.env.path("run").join("stayput").join(&self.name)
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime().join(stayput_wire::runtime::CONTROL_SOCKET)
    }

    /// Asks its daemon, as root if the test is: which `stayput_wire::Client` would not, because the socket may be another user's trap.
    ///
    /// # Panics
    /// When there is no reply in time.
    pub fn ask(&self, request: &Request) -> Reply {
        let ask = || -> std::io::Result<Reply> {
            let mut stream = UnixStream::connect(self.socket())?;
            stream.set_read_timeout(Some(PATIENCE))?;
            for request in [&Request::Hello { version: VERSION, by: None }, request] {
                stream.write_all(&codec::encode(request, codec::REQUEST_LINE_MAX).map_err(std::io::Error::other)?)?;
            }
            let answers = BufReader::new(stream).lines().map(|line| codec::decode(line?.as_bytes()).map_err(std::io::Error::other));
            let replies = answers.filter_map(|answer: std::io::Result<Answer>| match answer {
                Ok(Answer::Reply(Reply::Hello { .. })) => None,
                Ok(Answer::Reply(reply)) => Some(Ok(reply)),
                Ok(_) => None,
                Err(error) => Some(Err(error)),
            });
            replies.into_iter().next().unwrap_or_else(|| Err(std::io::ErrorKind::UnexpectedEof.into()))
        };
        ask().unwrap_or_else(|error| panic!("{}: {request:?}: {error}", self.name))
    }

    /// Its status.
    ///
    /// # Panics
    /// When there is none.
    pub fn status(&self) -> Value {
        let status = self.env.status().unwrap_or_else(|why| panic!("{why}"));
        let found = status["instances"].as_array().and_then(|all| all.iter().find(|instance| instance["name"] == self.name.as_str()));
        found.unwrap_or_else(|| panic!("no instance {} in {status}", self.name)).clone()
    }

    /// A service's status.
    ///
    /// # Panics
    /// When there is no such service.
    pub fn service(&self, name: &str) -> Value {
        let status = self.status();
        let found = status["services"].as_array().and_then(|all| all.iter().find(|service| service["name"] == name));
        found.unwrap_or_else(|| panic!("no service {name} in {status}")).clone()
    }

    /// Waits until a service is as `is` wants it, and gives it.
    ///
    /// # Panics
    /// When it is not in time: with its status.
    pub fn wait_for(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let seen = wait::until(&format!("{name}: {what}"), PATIENCE, || {
            let service = self.service(name);
            if is(&service) { Ok(service) } else { Err(service.to_string()) }
        });
        seen.unwrap_or_else(|why| panic!("{why}"))
    }

    /// The process id of one of stayput's own processes: `guard`, `keeper` or `daemon`.
    ///
    /// # Panics
    /// When status does not tell.
    pub fn part(&self, part: &str) -> u32 {
        let status = self.status();
        let pid = status[part]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        pid.unwrap_or_else(|| panic!("no {part} in {status}"))
    }

    /// The newest generation of a service.
    ///
    /// # Panics
    /// When it has none.
    pub fn generation(&self, name: &str) -> u64 {
        let service = self.service(name);
        let ids = service["generations"].as_array().into_iter().flatten().filter_map(|generation| generation["id"].as_u64());
        ids.max().unwrap_or_else(|| panic!("no generation in {service}"))
    }

    /// The main process of a service's generation that takes the connections, or of its newest.
    ///
    /// # Panics
    /// When it has none.
    pub fn pid(&self, name: &str) -> u32 {
        let service = self.service(name);
        let generation = super::ready_generation(&service).or_else(|| service["generations"].get(0));
        let pid = generation.and_then(|generation| generation["pid"].as_u64()).and_then(|pid| u32::try_from(pid).ok());
        pid.unwrap_or_else(|| panic!("no process in {service}"))
    }

    /// Ends it, and sees that nothing is left.
    ///
    /// # Panics
    /// When `down` fails, or something is left.
    pub fn down(self) {
        self.succeeds(&["down"]);
        self.env.assert_nothing_left(PATIENCE);
    }
}

//! The control API of stayput: requests, replies, events and a client.
//!
//! Everything that steers or watches a running instance speaks this and nothing else: the command line, the dashboard, tests.
//! It runs over the instance's unix stream socket, `control.sock` in its runtime directory ([`runtime`]). The daemon is the server.
//!
//! # Framing
//! One JSON document per line, ended by `\n`, no other newline in it. A line from the client is a [`Request`], a line from the
//! server an [`Answer`]. Lines are bounded: [`codec::REQUEST_LINE_MAX`] and [`codec::ANSWER_LINE_MAX`] bytes; the side that gets
//! a longer one closes the connection. Bytes after the last newline at the end of the stream are an error, never half a message.
//!
//! # Order
//! Each request gets exactly one [`Reply`], in the order of the requests. [`Event`]s may come before the reply of a request that
//! takes time (those with `wait`): they tell its progress and belong to it. The reply follows the effect: `stopped` means that it
//! has stopped.
//!
//! # Streams
//! [`Request::Events`] and [`Request::Logs`] are answered by any number of lines before their reply, [`Reply::End`]. With `follow`
//! that never comes: the connection is for this stream alone, and the client ends it by closing. The server keeps nothing for a slow
//! client: one that falls behind is told what it missed ([`Answer::Gap`], [`Answer::LogGap`]) and goes on from there.
//!
//! # Version
//! The first request on a connection is [`Request::Hello`] with [`VERSION`]; any other first request is refused. The server
//! answers `hello` with its own version, or `failed` with [`FailureKind::Version`] and closes. Within one version, fields that
//! have a default may be added, and both sides ignore fields that they do not know; a new request, reply or event, or a changed
//! meaning, raises the number.
//!
//! # One exchange
//! ```text
//! → {"hello":{"version":2}}
//! ← {"reply":{"hello":{"version":2,"stayput":"0.1.0","instance":"web","guard":4711}}}
//! → {"restart":{"services":["web"],"wait":true,"parallel":null,"canary":null}}
//! ← {"event":{"starting":{"service":"web","from":3,"to":4,"pid":4790}}}
//! ← {"event":{"ready":{"service":"web","generation":4,"after_ms":310}}}
//! ← {"event":{"switched":{"service":"web","from":3,"to":4,"soak_ms":10000,"draining":12}}}
//! ← {"reply":{"restarted":{"services":[{"name":"web","ledger":{"from":3,"to":4,"outcome":"switched","reason":null,"queued":0,
//!    "drained":12,"cut":0,"idle_closed":0,"lost":0,"gap_ms":0,"listener_gap":false,"accepted":"not measured",
//!    "refused":"not measured"},"last_output":[]}],"untouched":[]}}}
//! ```
//!
//! # Who may speak
//! The directory and the socket are closed to other users; on top of that each side asks the kernel who the other one is and hangs
//! up on anyone but root and its own user ([`peer`]).

pub mod client;
pub mod codec;
pub mod history;
pub mod message;
pub mod pattern;
pub mod peer;
pub mod plan;
pub mod processes;
pub mod runtime;
pub mod status;
pub mod stream;

pub use client::{Client, ClientError};
pub use history::{History, HistoryRange, Sample, Series};
pub use message::{
    Answer, Canary, Event, Failure, FailureKind, Reply, Request, RestartedService, RestartingService, SignalScope, SignalledService,
    StartedService, StoppedService, VERSION,
};
pub use plan::{ConfigProblem, ConfigReport, FieldChange, PlanReport, ServiceAction, ServiceChange};
pub use processes::{ListenerOpen, ProcessFacts, Processes};
pub use status::{
    AfterStatus, CanaryAccount, ConfigOrigin, ConfigSource, Connections, Evidence, Fact, Facts, GenerationPhase, GenerationStatus,
    HealthStatus, Holding, InstanceStatus, LastExit, Ledger, ListenerOrigin, ListenerStatus, Measured, Mode, NextStep, Outcome,
    ProcessStatus, ServiceKind, ServicePhase, ServiceStatus, State, Target, TrapStatus, Truth, WaitingPort, WatchStatus,
};
pub use stream::{Cursor, CursorError, EventRecord, Level, LogLine, LogsQuery, Stream};

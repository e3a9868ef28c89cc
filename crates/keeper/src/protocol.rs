//! What crosses the wall between the brain and the keeper.
//!
//! One `SOCK_SEQPACKET` pair, made by the keeper and inherited by the daemon; one postcard-encoded [`ToKeeper`] or
//! [`FromKeeper`] per packet, file descriptors beside it as `SCM_RIGHTS`; a message too large for a packet is in a sealed memfd
//! beside one ([`crate::client`]). Nobody else can reach it: there is no address.
//! Everything the keeper knows is in a [`Dump`], so a daemon that starts anew lacks nothing.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

pub use stayput_kernel::limits::Rlimit;

/// One run of a service. Chosen by the brain, unique and increasing within an instance, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GenerationId(pub u64);

/// A listening socket that the keeper holds a duplicate of. Chosen by the keeper, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ListenerId(pub u64);

/// A request of the brain with the number that its reply carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToKeeper {
    /// Echoed by [`FromKeeper::Reply`].
    pub seq: u64,
    /// What to do.
    pub request: Request,
}

/// What the brain may ask. Each is answered by exactly one [`FromKeeper::Reply`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Everything the keeper knows. Answered by [`Reply::Dump`]; events after it build on it.
    Dump,
    /// Keep these for the next daemon, each under its key in the place of what was there; no bytes: drop the key. All of them or,
    /// if the keeper is killed meanwhile, all of them when its successor finds the request. Answered by [`Reply::Done`].
    SetBlobs(Vec<(String, Vec<u8>)>),
    /// Hold a port that no generation has: bind and listen with a long queue, to be handed to the next generation that binds it.
    /// Taken by somebody else: [`Event::HoldWaits`] at once, [`Event::Held`] when the kernel says that it was released.
    Hold {
        /// The service it is held for.
        service: String,
        /// The address to hold.
        address: SocketAddr,
    },
    /// Start a generation. Answered by [`Reply::Spawned`] with its output descriptors; [`Event::Executed`] or
    /// [`Event::ExecFailed`] follows.
    Spawn(Box<SpawnSpec>),
    /// Let every new connection of the service's ports go to this generation's listeners (ports on which it has none stay as
    /// they are); listeners of its other generations are muted: they keep what they have.
    Steer {
        /// The service.
        service: String,
        /// Who takes them from now on.
        generation: GenerationId,
        /// So many of a thousand; the others stay with those who have them. `None`: all.
        share: Option<u16>,
    },
    /// Let new connections of the service wait in held queues of our own, so that the generation that has the ports can finish and
    /// stop (`overlap = false`). The next generation that binds is handed those sockets.
    Park {
        /// The service.
        service: String,
        /// The next generation listens on another address: nothing may wait in these queues, for they cannot be handed over. Connection
        /// requests are left unanswered, and repeated by the clients' kernels.
        elsewhere: bool,
    },
    /// New connections from this source port go to this generation, whoever is selected (a readiness probe). `None` ends it.
    Route {
        /// The generation to probe.
        generation: GenerationId,
        /// Source port of the probe.
        source_port: Option<u16>,
    },
    /// Send a signal.
    Signal {
        /// To whom.
        generation: GenerationId,
        /// Signal number, 1 to 64.
        signal: i32,
        /// To its main process or to all that it started.
        scope: Scope,
    },
    /// Send a signal to all processes of a generation that an earlier life left ([`Dump::left`]). `ESRCH` if none is left.
    SignalLeft {
        /// Its service.
        service: String,
        /// Its number in that life.
        generation: GenerationId,
        /// Signal number; 0 only looks.
        signal: i32,
    },
    /// Close our duplicates of this generation's listeners (after its drain, or at stop). What still waits in their queues is reset
    /// by the kernel unless the generation's own process still has the socket; the reply counts it: [`Reply::Released`].
    Release {
        /// Whose listeners.
        generation: GenerationId,
    },
    /// Close everything held for the service (its ports are then closed unless a process of its own has them).
    ReleaseService {
        /// The service.
        service: String,
        /// The instance ends: what the service manager keeps of its ports stays there, for it may start the instance again.
        ends: bool,
    },
    /// End a hold of one address: close our own socket if no generation has it, and wait for the port no longer.
    Unhold {
        /// The service it is held for.
        service: String,
        /// The address.
        address: SocketAddr,
    },
    /// Close every listener of this address that no generation accepts on, whoever had it; a person wants it. Answered by
    /// [`Reply::Released`].
    LetGo {
        /// The service it is held for.
        service: String,
        /// The address.
        address: SocketAddr,
    },
    /// The output descriptors of a generation again (for a daemon that started anew): [`Reply::Output`].
    Fetch {
        /// Whose.
        generation: GenerationId,
    },
    /// The generation is over (its tree is empty): drop its records.
    Forget {
        /// Which.
        generation: GenerationId,
    },
    /// End the instance: release all, end what is left of our process trees, and let the guard exit with this status.
    Exit {
        /// Exit status of the guard, 0 to 255.
        status: u8,
    },
}

/// How to start a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnSpec {
    /// Service name, `[A-Za-z0-9_.@-]+`.
    pub service: String,
    /// The generation's id.
    pub generation: GenerationId,
    /// Command and arguments; the command is looked up in `PATH` if it has no slash.
    pub argv: Vec<Vec<u8>>,
    /// The whole environment as `NAME=value`; the keeper adds `STAYPUT_INSTANCE`, `STAYPUT_SERVICE`, `STAYPUT_GENERATION` and,
    /// with `notify`, `NOTIFY_SOCKET`.
    pub env: Vec<Vec<u8>>,
    /// Working directory.
    pub cwd: Vec<u8>,
    /// Where standard output and error go (standard input is `/dev/null`).
    pub output: OutputKind,
    /// Make an `sd_notify` socket for it.
    pub notify: bool,
    /// The user it runs as; `None`: ours.
    pub credentials: Option<Credentials>,
    /// File mode creation mask, at most `0o777`; `None`: ours.
    pub umask: Option<u32>,
    /// Resource limits of its processes; those that are not named stay as they were when the instance was started.
    pub rlimits: Vec<Rlimit>,
    /// Limits of all its processes together, where a control group can be made.
    pub limits: Limits,
    /// Addresses declared for the service: passed as open sockets where binds cannot be caught, and bound for it whatever its rights.
    pub declared: Vec<SocketAddr>,
    /// Where binds cannot be caught, pass sockets of the declared addresses, in the ways that servers know (`LISTEN_FDS` and others). A
    /// command with `{fd}` in it gets them in any case.
    pub pass_sockets: bool,
    /// Its processes are copies of one server: each may bind the ports that another of them has, although it does not ask to share them.
    pub copies: bool,
}

/// A user that a generation runs as, by number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// User id: real, effective and saved.
    pub uid: u32,
    /// Group id: real, effective and saved.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Limits of all processes of a generation together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Per cent of one processor.
    pub cpu: Option<u32>,
    /// Processes and threads.
    pub tasks: Option<u32>,
}

/// Kind of a generation's standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutputKind {
    /// Two pipes, standard output and standard error.
    Pipes,
    /// One pseudo-terminal for both, of this size.
    Pty {
        /// Rows in characters.
        rows: u16,
        /// Columns in characters.
        columns: u16,
    },
}

/// Who gets a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// The process that was spawned, if it lives.
    Main,
    /// Every process of the generation's tree, however it forked.
    Tree,
}

/// What the keeper sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromKeeper {
    /// The answer to the request with this number. Descriptors, if any, are beside it.
    Reply {
        /// The request's number.
        seq: u64,
        /// The answer.
        reply: Reply,
    },
    /// Something happened.
    Event(Event),
}

/// Answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done; nothing to tell.
    Done,
    /// To [`Request::Dump`].
    Dump(Box<Dump>),
    /// To [`Request::Spawn`]: forked. Beside it the read ends: output, error (absent with a pty), notify socket (with `notify`), as
    /// `descriptors` says.
    Spawned {
        /// Process id of the main process.
        pid: i32,
        /// What the descriptors beside it are, in order.
        descriptors: Vec<DescriptorKind>,
    },
    /// To [`Request::Fetch`].
    Output {
        /// What the descriptors beside it are, in order.
        descriptors: Vec<DescriptorKind>,
    },
    /// To [`Request::Release`], [`Request::ReleaseService`], [`Request::Unhold`] and [`Request::LetGo`].
    Released {
        /// Connections that waited in the queues at the moment before the close.
        queued: u32,
    },
    /// It could not be done; nothing was changed.
    Failed {
        /// What failed, naming the call and the object.
        what: String,
        /// The error number, 0 if none.
        errno: i32,
    },
}

/// What a passed descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DescriptorKind {
    /// Read end of standard output, or the pseudo-terminal's master (non-blocking).
    Output,
    /// Read end of standard error (non-blocking).
    Error,
    /// Datagram socket on which the generation's `sd_notify` messages arrive (non-blocking).
    Notify,
}

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The command was executed (`execve` succeeded).
    Executed {
        /// Which.
        generation: GenerationId,
        /// Whether its binds are caught.
        trap: Trap,
    },
    /// The child died before its command ran.
    ExecFailed {
        /// Which.
        generation: GenerationId,
        /// At which step.
        stage: ExecStage,
        /// Error number of that step.
        errno: i32,
    },
    /// A listener came to be or changed (new owner, selected, nobody left who accepts).
    Listener(ListenerFacts),
    /// A listener is gone: released, or closed by everybody.
    ListenerGone {
        /// Which.
        listener: ListenerId,
    },
    /// Limits of a generation that are not in force: what was asked for, and the error number. It runs without them.
    Unlimited {
        /// Whose.
        generation: GenerationId,
        /// Interface file of the control group (`memory.max`) and error number.
        limits: Vec<(String, i32)>,
    },
    /// A bind of the generation was refused with its real error.
    BindRefused {
        /// Whose.
        generation: GenerationId,
        /// What it asked for.
        address: SocketAddr,
        /// Error number it was given.
        errno: i32,
    },
    /// [`Request::Hold`] has succeeded (a [`Event::Listener`] with it).
    Held {
        /// For which service.
        service: String,
        /// Which address.
        address: SocketAddr,
    },
    /// [`Request::Hold`] waits: somebody else has the port.
    HoldWaits {
        /// For which service.
        service: String,
        /// Which address.
        address: SocketAddr,
        /// Error number of the bind, normally `EADDRINUSE`. Other errors end the hold: nothing is waited for.
        errno: i32,
    },
    /// The main process ended.
    MainExited {
        /// Which.
        generation: GenerationId,
        /// How.
        status: ExitStatus,
    },
    /// No process of the generation is left.
    TreeEmpty {
        /// Which.
        generation: GenerationId,
    },
    /// The guard was sent a signal that is meant for the instance: `SIGHUP`, `SIGINT`, `SIGTERM`, `SIGQUIT`, `SIGUSR1`, `SIGUSR2`.
    Signalled {
        /// Signal number.
        signal: i32,
        /// For `SIGHUP`: the terminal went away.
        hangup: bool,
    },
    /// The generation has a listener that was not caught: it is not held. Told at each look.
    NotHeld {
        /// Whose.
        generation: GenerationId,
        /// Where it listens.
        address: SocketAddr,
        /// The socket.
        inode: u32,
        /// A process of it has an `io_uring`, with which one can bind past the filter.
        ring: bool,
    },
    /// The generation listens elsewhere than where the port was held for it, so what waited there could not be given to it and was reset. If
    /// `held` and `own` are the same, what was held could not be put in the place of the generation's own socket (no `ADDFD`).
    Reset {
        /// Who listens.
        generation: GenerationId,
        /// Where the port was held.
        held: SocketAddr,
        /// Where the generation listens.
        own: SocketAddr,
        /// Connections that waited.
        count: u32,
    },
    /// Options that the service had set of its own socket and that the one in its place could not be given.
    NotCopied {
        /// Whose.
        generation: GenerationId,
        /// Where it binds.
        address: SocketAddr,
        /// Their names, as in `SO_MARK`.
        options: Vec<String>,
    },
    /// A same-user socket of a process that is not of this service shares or shadows the port.
    Stranger {
        /// Whose port.
        service: String,
        /// Address of the strange socket.
        address: SocketAddr,
        /// Its inode.
        inode: u32,
    },
}

/// Whether a generation's `bind` and `listen` are caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trap {
    /// By seccomp user notification.
    Active,
    /// Not, for this reason, but it was passed open sockets of its declared ports, which are held and steered.
    Environment {
        /// Error number of `seccomp(2)`.
        errno: i32,
    },
    /// Not: the filter could not be installed (`EBUSY`: there is another listener; `ENOSYS`/`EINVAL`: no support). Its ports are not held.
    Unavailable {
        /// Error number of `seccomp(2)`.
        errno: i32,
    },
}

/// The steps between `fork` and the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecStage {
    /// A session of its own, default signals, resource limits.
    Session,
    /// Standard input, output and error.
    Stdio,
    /// A resource limit.
    Limits {
        /// `RLIMIT_*`.
        resource: i32,
    },
    /// The seccomp filter, and the sockets that are passed without one.
    Filter,
    /// Groups and user.
    Credentials,
    /// `chdir`.
    WorkingDirectory,
    /// `execve`.
    Exec,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// With this status.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
    /// It ended, and nobody can say how (its parent was killed at the same time).
    Unknown,
}

/// How we came by a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// The generation's own socket; we have a duplicate.
    Adopted,
    /// Ours, or a dead generation's: put in the place of the generation's own at its `bind`.
    Swapped,
    /// Ours, made for a declared port or while parked; no generation has it yet.
    Held,
    /// Ours, given to the generation as an open descriptor when it was started.
    Passed,
    /// Ours, put in the place of the generation's own at its `bind`, because its own cannot be duplicated. Options that it had set before are lost.
    Given,
}

/// What is known of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerFacts {
    /// Its id.
    pub id: ListenerId,
    /// Its service.
    pub service: String,
    /// The generation that accepts on it; `None`: nobody, connections wait in its queue.
    pub owner: Option<GenerationId>,
    /// The generation that had it last, if any.
    pub last_owner: Option<GenerationId>,
    /// Where it listens.
    pub address: SocketAddr,
    /// `IPV6_V6ONLY`.
    pub v6only: bool,
    /// Socket inode, the key to it in sock_diag and `/proc/PID/fd`.
    pub inode: u32,
    /// How we came by it.
    pub origin: Origin,
    /// It takes new connections of its port.
    pub selected: bool,
}

/// What is known of a generation's processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationFacts {
    /// Its service.
    pub service: String,
    /// Its id.
    pub id: GenerationId,
    /// Main process id.
    pub pid: i32,
    /// `None` until the command was executed.
    pub trap: Option<Trap>,
    /// The child died at this stage with this error number before its command ran.
    pub exec_failed: Option<(ExecStage, i32)>,
    /// How the main process ended, once it has.
    pub exit: Option<ExitStatus>,
    /// No process of it is left.
    pub tree_empty: bool,
}

/// A hold that waits for its port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingHold {
    /// For which service.
    pub service: String,
    /// Which address.
    pub address: SocketAddr,
}

/// Everything the keeper knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dump {
    /// Instance name.
    pub instance: String,
    /// Process id of the guard.
    pub guard_pid: i32,
    /// Process id of the keeper.
    pub keeper_pid: i32,
    /// How often a keeper was started after the first, because one died.
    pub keeper_deaths: u32,
    /// How often a daemon was started after the first, because one died.
    pub daemon_deaths: u32,
    /// What the last daemon left under each key, or what the instance was started with (under the empty key).
    pub blobs: Vec<(String, Vec<u8>)>,
    /// All generations not yet forgotten.
    pub generations: Vec<GenerationFacts>,
    /// All held listeners.
    pub listeners: Vec<ListenerFacts>,
    /// All holds that wait for their port.
    pub waiting: Vec<WaitingHold>,
    /// What runs on of lives of the instance whose guard and keeper were killed in one instant.
    pub left: Vec<Left>,
}

/// A generation of an earlier life of the instance that runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Its service then.
    pub service: String,
    /// Its number then: generations of now may have the same.
    pub generation: GenerationId,
    /// Its processes, as far as they can be told.
    pub pids: Vec<i32>,
    /// Where they listen, and the inodes of these sockets.
    pub listeners: Vec<(SocketAddr, u32)>,
}

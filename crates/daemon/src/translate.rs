//! The keeper's words in the model's, and back. Values only.

use stayput_keeper::protocol as keeper;
use stayput_model::config::{Kind, OutputKind, Readiness, RestartPolicy, ServiceConfig, UserSpec};
use stayput_model::event::{Event, ExecFailure, ExitStatus, GenerationId, ListenerFacts, ListenerId, Origin, Scope, StopWay};
use stayput_model::reconcile::{Facts, GenerationFacts};

/// `SIGHUP`, `SIGUSR1`, `SIGUSR2`.
const HUP: i32 = 1;
const USR1: i32 = 10;
const USR2: i32 = 12;

pub(crate) fn to_keeper(generation: GenerationId) -> keeper::GenerationId {
    keeper::GenerationId(generation.0)
}

pub(crate) fn from_keeper(generation: keeper::GenerationId) -> GenerationId {
    GenerationId(generation.0)
}

pub(crate) fn scope(scope: Scope) -> keeper::Scope {
    match scope {
        Scope::Main => keeper::Scope::Main,
        Scope::Tree => keeper::Scope::Tree,
    }
}

pub(crate) fn spawn_spec(config: &ServiceConfig, base: &[Vec<u8>], generation: GenerationId) -> keeper::SpawnSpec {
    keeper::SpawnSpec {
        service: config.name.clone(),
        generation: to_keeper(generation),
        argv: argv(config),
        env: config.environment(&of_user(config.base(base), config.user.as_ref())),
        cwd: config.cwd.clone(),
        output: match config.output {
            OutputKind::Pipes => keeper::OutputKind::Pipes,
            OutputKind::Pty { rows, columns } => keeper::OutputKind::Pty { rows, columns },
        },
        notify: matches!(config.readiness, Readiness::Notify),
        credentials: config.user.as_ref().map(|user| keeper::Credentials { uid: user.uid, gid: user.gid, groups: user.groups.clone() }),
        umask: config.umask,
        rlimits: config
            .rlimits
            .iter()
            .map(|limit| keeper::Rlimit { resource: limit.resource, soft: limit.soft, hard: limit.hard })
            .collect(),
        limits: keeper::Limits { memory: config.limits.memory, cpu: config.limits.cpu, tasks: config.limits.tasks },
        declared: config.ports.clone(),
        // One that does not take them fails once, so it must be allowed to try again.
        copies: config.replicas > 1,
        pass_sockets: config.restart != RestartPolicy::Never && matches!(config.kind, Kind::Service),
    }
}

/// The command; for several copies of it that which runs them: this binary, as it is in memory, whoever may read its file.
fn argv(config: &ServiceConfig) -> Vec<Vec<u8>> {
    if config.replicas <= 1 {
        return config.argv.clone();
    }
    let restart = match config.restart {
        RestartPolicy::Always => "always",
        RestartPolicy::OnFailure => "on-failure",
        RestartPolicy::Never => "never",
    };
    let stops = [config.stop_signal].into_iter().chain(config.stop.iter().map(|step| step.signal));
    let mut words = vec!["/proc/self/exe".to_owned(), crate::REPLICAS.to_owned(), "--restart".to_owned(), restart.to_owned()];
    words.extend(stops.flat_map(|signal| ["--stop".to_owned(), signal.to_string()]));
    words.extend([config.replicas.to_string(), "--".to_owned()]);
    words.into_iter().map(String::into_bytes).chain(config.argv.iter().cloned()).collect()
}

/// The instance's environment as login(1) would change it for a user; what the service itself sets is laid over it.
fn of_user(base: &[Vec<u8>], user: Option<&UserSpec>) -> Vec<Vec<u8>> {
    let Some(user) = user else { return base.to_vec() };
    let name = user.name.as_ref().map(String::as_bytes);
    let own: [(&[u8], Option<&[u8]>); 4] = [
        (b"HOME=", Some(user.home.as_deref().unwrap_or(b"/"))),
        (b"USER=", name),
        (b"LOGNAME=", name),
        (b"SHELL=", Some(user.shell.as_deref().unwrap_or(b"/bin/sh"))),
    ];
    let others = base.iter().filter(|entry| !own.iter().any(|(variable, _)| entry.starts_with(variable))).cloned();
    let own = own.iter().filter_map(|(variable, value)| Some([*variable, (*value)?].concat()));
    others.chain(own).collect()
}

pub(crate) fn exit_status(status: keeper::ExitStatus) -> ExitStatus {
    match status {
        keeper::ExitStatus::Exited(status) => ExitStatus::Exited(status),
        keeper::ExitStatus::Signalled(signal) => ExitStatus::Signalled(signal),
        keeper::ExitStatus::Unknown => ExitStatus::Unknown,
    }
}

pub(crate) fn exec_failure(stage: keeper::ExecStage, errno: i32) -> ExecFailure {
    let stage = match stage {
        keeper::ExecStage::Session => "making its session",
        keeper::ExecStage::Stdio => "setting up its standard streams",
        keeper::ExecStage::WorkingDirectory => "chdir",
        keeper::ExecStage::Limits { resource } => {
            return ExecFailure { stage: format!("setting its limit {}", rlimit_name(resource)), errno };
        }
        keeper::ExecStage::Filter => "installing the seccomp filter",
        keeper::ExecStage::Credentials => "changing to its user",
        keeper::ExecStage::Exec => "execve",
    };
    ExecFailure { stage: stage.to_owned(), errno }
}

/// `RLIMIT_*` of getrlimit(2), by number as on all architectures but MIPS and SPARC (asm-generic/resource.h).
fn rlimit_name(resource: i32) -> String {
    const NAMES: [&str; 16] = [
        "CPU",
        "FSIZE",
        "DATA",
        "STACK",
        "CORE",
        "RSS",
        "NPROC",
        "NOFILE",
        "MEMLOCK",
        "AS",
        "LOCKS",
        "SIGPENDING",
        "MSGQUEUE",
        "NICE",
        "RTPRIO",
        "RTTIME",
    ];
    let name = usize::try_from(resource).ok().and_then(|resource| NAMES.get(resource));
    name.map_or_else(|| resource.to_string(), |name| format!("RLIMIT_{name}"))
}

fn untrapped(trap: keeper::Trap) -> Option<i32> {
    match trap {
        // Held and steered alike, whichever way.
        keeper::Trap::Active | keeper::Trap::Environment { .. } => None,
        keeper::Trap::Unavailable { errno } => Some(errno),
    }
}

fn listener(facts: keeper::ListenerFacts) -> ListenerFacts {
    ListenerFacts {
        id: ListenerId(facts.id.0),
        service: facts.service,
        owner: facts.owner.map(from_keeper),
        last_owner: facts.last_owner.map(from_keeper),
        address: facts.address,
        v6only: facts.v6only,
        inode: facts.inode,
        origin: match facts.origin {
            keeper::Origin::Adopted => Origin::Adopted,
            keeper::Origin::Swapped => Origin::Swapped,
            keeper::Origin::Held => Origin::Held,
            keeper::Origin::Passed => Origin::Passed,
            keeper::Origin::Given => Origin::Given,
        },
        selected: facts.selected,
    }
}

pub(crate) fn facts(dump: keeper::Dump) -> Facts {
    Facts {
        generations: dump
            .generations
            .into_iter()
            .map(|fact| GenerationFacts {
                service: fact.service,
                id: from_keeper(fact.id),
                pid: fact.pid,
                executed: fact.trap.map(untrapped),
                exec_failed: fact.exec_failed.map(|(stage, errno)| exec_failure(stage, errno)),
                exit: fact.exit.map(exit_status),
                tree_empty: fact.tree_empty,
            })
            .collect(),
        listeners: dump.listeners.into_iter().map(listener).collect(),
        waiting: dump.waiting.into_iter().map(|hold| (hold.service, hold.address)).collect(),
    }
}

/// What an event of the keeper means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// For the world.
    World(Event),
    /// Restart all services.
    RestartAll,
    /// Pass this signal on to the services.
    Forward(i32),
    /// Limits that are not in force.
    Unlimited { generation: GenerationId, limits: Vec<(String, i32)> },
    /// Connections that waited where a generation does not listen.
    Reset { generation: GenerationId, held: std::net::SocketAddr, own: std::net::SocketAddr, count: u32 },
    /// Options that a held socket could not be given.
    NotCopied { generation: GenerationId, address: std::net::SocketAddr, options: Vec<String> },
    /// A listener that is not held.
    NotHeld { generation: GenerationId, address: std::net::SocketAddr, ring: bool },
    /// Somebody shares a port.
    Stranger { service: String, address: std::net::SocketAddr, inode: u32 },
}

pub(crate) fn event(event: keeper::Event) -> Meaning {
    use keeper::Event as From;
    Meaning::World(match event {
        From::Executed { generation, trap } => Event::Executed { generation: from_keeper(generation), untrapped: untrapped(trap) },
        From::ExecFailed { generation, stage, errno } => {
            Event::ExecFailed { generation: from_keeper(generation), failure: exec_failure(stage, errno) }
        }
        From::Listener(facts) => Event::Listener(listener(facts)),
        From::ListenerGone { listener } => Event::ListenerGone { listener: ListenerId(listener.0) },
        From::BindRefused { generation, address, errno } => Event::BindRefused { generation: from_keeper(generation), address, errno },
        From::Held { service, address } => Event::Held { service, address },
        From::HoldWaits { service, address, errno } => Event::HoldWaits { service, address, errno },
        From::MainExited { generation, status } => Event::MainExited { generation: from_keeper(generation), status: exit_status(status) },
        From::TreeEmpty { generation } => Event::TreeEmpty { generation: from_keeper(generation) },
        From::Signalled { signal: HUP, hangup: false } => return Meaning::RestartAll,
        From::Signalled { signal: signal @ (USR1 | USR2), .. } => return Meaning::Forward(signal),
        From::Signalled { signal, .. } => Event::Shutdown { way: StopWay::Gentle, signal: Some(signal) },
        From::Unlimited { generation, limits } => return Meaning::Unlimited { generation: from_keeper(generation), limits },
        From::Reset { generation, held, own, count } => return Meaning::Reset { generation: from_keeper(generation), held, own, count },
        From::NotHeld { generation, address, ring, inode: _ } => {
            return Meaning::NotHeld { generation: from_keeper(generation), address, ring };
        }
        From::NotCopied { generation, address, options } => {
            return Meaning::NotCopied { generation: from_keeper(generation), address, options };
        }
        From::Stranger { service, address, inode } => return Meaning::Stranger { service, address, inode },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_run_by_a_command_of_ours() {
        let mut config = ServiceConfig::new("web", [b"./server".as_slice(), b"--port"].map(<[u8]>::to_vec).to_vec());
        assert_eq!(argv(&config), config.argv);
        (config.replicas, config.restart, config.stop_signal) = (4, RestartPolicy::OnFailure, 3);
        let words: Vec<String> = argv(&config).into_iter().map(|word| String::from_utf8(word).expect("text")).collect();
        assert_eq!(words.join(" "), "/proc/self/exe __replicas --restart on-failure --stop 3 4 -- ./server --port");
    }

    #[test]
    fn signals_mean_what_they_mean_to_people() {
        let signalled = |signal, hangup| event(keeper::Event::Signalled { signal, hangup });
        assert_eq!(signalled(1, false), Meaning::RestartAll);
        let stop = |signal| Meaning::World(Event::Shutdown { way: StopWay::Gentle, signal: Some(signal) });
        assert_eq!(signalled(1, true), stop(1), "the terminal is gone");
        assert_eq!(signalled(2, false), stop(2));
        assert_eq!(signalled(15, false), stop(15));
        assert_eq!(signalled(10, false), Meaning::Forward(10));
    }
}

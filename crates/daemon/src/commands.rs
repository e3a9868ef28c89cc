//! Commands that are run for a service beside its generations: those of its health checks. The keeper starts them, each as a process tree of its own,
//! which is ended whole when the main process of it has ended or somebody says so; a daemon that starts anew ends those of the one before.
//!
//! They are generations to the keeper and nothing to the world: their numbers are far above any that it gives.

use crate::link::{Asked, Link};
use crate::reactor::Reactor;
use crate::translate;
use rustix::io::Errno;
use stayput_keeper::protocol::{Dump, Event, GenerationId, OutputKind, Reply, Request, Scope};
use stayput_model::event::ExitStatus;
use stayput_model::text::printable_bytes;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use tokio::io::Interest;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

/// Their numbers begin here. The time in microseconds is added, so that none is used twice by daemons that follow each other; the sum is within the
/// 56 bits that the keeper has room for.
const FIRST: u64 = 1 << 54;
/// `SIGKILL` (asm-generic/signal.h).
const SIGKILL: i32 = 9;
/// Bytes of output in which the last line is looked for.
const TAIL: usize = 1024;

/// What there is to know about one of them.
#[derive(Debug)]
pub(crate) enum Told {
    /// It was forked; where it writes to.
    Spawned(Vec<OwnedFd>),
    /// It did not come to run.
    Failed(String),
    /// Its main process ended.
    Exited(ExitStatus),
    /// No process of it is left.
    Empty,
}

/// Those that the keeper has.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    running: BTreeMap<u64, UnboundedSender<Told>>,
    last: u64,
}

impl Commands {
    fn tell(&self, command: GenerationId, told: Told) {
        if let Some(to) = self.running.get(&command.0) {
            // Nobody may be interested any more.
            let _ = to.send(told);
        }
    }
}

pub(crate) fn is_command(generation: GenerationId) -> bool {
    generation.0 >= FIRST
}

/// Ends it and all that it started.
pub(crate) fn kill(command: GenerationId, link: &Link) {
    // ESRCH: it is gone.
    link.ask(Request::Signal { generation: command, signal: SIGKILL, scope: Scope::Tree }, Asked::Whatever);
}

impl Reactor {
    /// Runs a command as a service would be, without its ports.
    pub(crate) fn run_command(&mut self, service: &str, argv: &[Vec<u8>]) -> (GenerationId, UnboundedReceiver<Told>) {
        let (to, from) = unbounded_channel();
        let number = (FIRST + stayput_kernel::clock::monotonic_ns() / 1000).max(self.commands.last + 1);
        self.commands.last = number;
        let command = GenerationId(number);
        let Some(config) = self.world.services.get(service).map(|service| &service.config) else { return (command, from) };
        let mut spec = translate::spawn_spec(config, &self.world.env, translate::from_keeper(command));
        // Not in the service's name: what it binds is not the service's.
        spec.service = format!("{service}.check");
        spec.argv = argv.to_vec();
        spec.output = OutputKind::Pipes;
        (spec.notify, spec.pass_sockets, spec.copies) = (false, false, false);
        spec.declared = Vec::new();
        spec.limits = stayput_keeper::protocol::Limits::default();
        self.commands.running.insert(number, to);
        self.link.ask(Request::Spawn(Box::new(spec)), Asked::Spawn(command));
        (command, from)
    }

    /// Ends it; what the keeper says of it from now on matters to nobody.
    pub(crate) fn end_command(&mut self, command: GenerationId) {
        if self.commands.running.contains_key(&command.0) {
            kill(command, &self.link);
        }
    }

    /// The reply to its spawn.
    pub(crate) fn command_replied(&mut self, command: GenerationId, reply: Reply, descriptors: Vec<OwnedFd>) {
        match reply {
            Reply::Failed { what, errno } => {
                let why = if errno == 0 { what } else { format!("{what}: {}", std::io::Error::from_raw_os_error(errno)) };
                self.commands.tell(command, Told::Failed(why));
                self.commands.running.remove(&command.0);
            }
            _ => self.commands.tell(command, Told::Spawned(descriptors)),
        }
    }

    /// What the keeper told of one of them; else it is given back.
    pub(crate) fn command_told(&mut self, event: Event) -> Option<Event> {
        match event {
            Event::MainExited { generation, status } if is_command(generation) => {
                self.commands.tell(generation, Told::Exited(translate::exit_status(status)));
                // What it leaves behind ends with it.
                kill(generation, &self.link);
            }
            Event::TreeEmpty { generation } if is_command(generation) => self.forget_command(generation, Told::Empty),
            Event::ExecFailed { generation, stage, errno } if is_command(generation) => {
                let failure = translate::exec_failure(stage, errno);
                let why = format!("{}: {}", failure.stage, std::io::Error::from_raw_os_error(failure.errno));
                self.forget_command(generation, Told::Failed(why));
            }
            Event::Executed { generation, .. } | Event::BindRefused { generation, .. } | Event::Unlimited { generation, .. }
                if is_command(generation) => {}
            other => return Some(other),
        }
        None
    }

    fn forget_command(&mut self, command: GenerationId, told: Told) {
        self.commands.tell(command, told);
        self.commands.running.remove(&command.0);
        self.link.ask(Request::Forget { generation: command }, Asked::Whatever);
    }

    /// Ends those of a daemon that died, and takes them out of the facts.
    pub(crate) fn end_orphaned_commands(&mut self, dump: &mut Dump) {
        let (commands, generations) = std::mem::take(&mut dump.generations).into_iter().partition(|facts| is_command(facts.id));
        dump.generations = generations;
        for facts in commands {
            let facts: stayput_keeper::protocol::GenerationFacts = facts;
            if facts.tree_empty || facts.exec_failed.is_some() {
                self.link.ask(Request::Forget { generation: facts.id }, Asked::Whatever);
            } else {
                kill(facts.id, &self.link);
            }
        }
    }
}

/// What a command writes: read, so that it never waits for us, and the end of it kept.
#[derive(Debug, Default)]
pub(crate) struct Output {
    tail: Rc<RefCell<Vec<u8>>>,
    readers: JoinSet<()>,
}

impl Output {
    pub(crate) fn read(&mut self, descriptors: Vec<OwnedFd>) {
        for descriptor in descriptors {
            self.readers.spawn_local(read(descriptor, Rc::clone(&self.tail)));
        }
    }

    /// `: ` and its last line that is not empty, if there is one.
    pub(crate) fn last_line(&self) -> String {
        let tail = self.tail.borrow();
        let line = tail.split(|byte| *byte == b'\n').rev().find(|line| !line.trim_ascii().is_empty());
        line.map_or_else(String::new, |line| format!(": {}", printable_bytes(line.trim_ascii())))
    }
}

async fn read(descriptor: OwnedFd, tail: Rc<RefCell<Vec<u8>>>) {
    let Ok(source) = crate::watch::watch(descriptor, Interest::READABLE) else { return };
    let mut buffer = [0_u8; 4096];
    loop {
        let Ok(mut ready) = source.readable().await else { return };
        match rustix::io::read(source.get_ref(), &mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                let mut tail = tail.borrow_mut();
                tail.extend_from_slice(&buffer[..length]);
                let surplus = tail.len().saturating_sub(TAIL);
                tail.drain(..surplus);
            }
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

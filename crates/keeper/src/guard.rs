//! The life line: the guard is the parent of the keeper and shares its descriptors, waits, reaps, passes signals on, and starts
//! the keeper again when it dies. It allocates and parses next to nothing. If the guard is the one that is killed, the keeper
//! becomes the guard and starts a keeper.

use crate::errand;
use crate::keeper::{self, Outcome};
use crate::life::{GuardDescriptors, Life};
use crate::state::State;
use crate::store::Stored;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use stayput_kernel::limits::{self, Rlimit};
use stayput_kernel::table::TableFd;
use stayput_kernel::{clock, process};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

/// What an instance starts with.
#[derive(Debug)]
pub struct Start {
    /// Instance name.
    pub instance: String,
    /// Its runtime directory (0700, ours).
    pub directory: PathBuf,
    /// What the first daemon finds in [`crate::protocol::Dump::blobs`], under the empty key.
    pub blob: Vec<u8>,
    /// Listening control socket, non-blocking; a daemon inherits it as descriptor 4 (3 is its channel to the keeper).
    pub control: OwnedFd,
    /// Descriptor with the instance's lock, kept open as long as guard or keeper live.
    pub lock: OwnedFd,
    /// File of the runtime directory, open for reading and writing, in which the marks of earlier lives of the instance stand whose end left it there. What
    /// such a life left running is ended. `None`: nobody asks.
    pub lives: Option<OwnedFd>,
    /// Listening TCP sockets that this process was given by who started it (`LISTEN_FDS`): each is held for the first service that wants its address.
    pub inherited: Vec<OwnedFd>,
    /// What the service manager kept of an instance before this one, with the socket if it is to be held again; without, it is to be kept no longer.
    pub stored: Vec<(Stored, Option<OwnedFd>)>,
    /// Arguments with which this binary is executed as the daemon, the first being its name.
    pub daemon_argv: Vec<Vec<u8>>,
}

/// How long the guard waits for the daemon's last lines after the instance is over.
const LAST_WORDS_NS: u64 = 2_000_000_000;

/// Turns this process, which must have a single thread, into the guard of a new instance; returns the instance's exit status when
/// it is over.
///
/// # Errors
/// The system call without which no instance can be: `mmap`, `pipe`, `signalfd`, `clone`.
pub fn run(start: Start) -> Result<u8, Errno> {
    process::become_subreaper()?;
    let nofile = raise_descriptor_limit();
    let life = Life::new()?;
    let mut random = [0_u8; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let nonce = format!("{:016x}", u64::from_ne_bytes(random));
    let sockets = (TableFd::keep(start.control), TableFd::keep(start.lock));
    let left = start.lives.map(|lives| crate::left::begin(&lives, &nonce));
    let mut state = State::new(start.instance, start.directory, nonce, sockets);
    state.left = left.unwrap_or_default();
    state.daemon.argv = start.daemon_argv;
    state.nofile = nofile;
    state.inherited = start.inherited.into_iter().map(TableFd::keep).collect();
    for (stored, socket) in start.stored {
        state.restored.extend(socket.map(|socket| (stored.service.clone(), TableFd::keep(socket))));
        state.stored.push(stored);
    }
    state.new_blobs.insert(String::new(), start.blob);
    let changes = state.changes().map_err(|_| Errno::INVAL)?;
    life.journal().and_then(|mut journal| journal.commit(&changes)).map_err(|_| Errno::TOOBIG)?;
    drop((state, changes));
    live(life)
}

/// One descriptor for each listener and some for each generation: as many as we may have. Returns soft and hard as they were, so that
/// services get what they would have had.
fn raise_descriptor_limit() -> Option<(u64, u64)> {
    let before = Rlimit::current(limits::NOFILE).ok()?;
    let raised = Rlimit { soft: before.hard, ..before };
    (before.soft != before.hard && raised.set().is_ok()).then_some((before.soft, before.hard))
}

/// One process of the pair, whichever role it has now. Returns only in the guard, when the instance is over.
fn live(life: Life) -> Result<u8, Errno> {
    loop {
        let guard = Guard::new(life)?;
        match guard.watch()? {
            Turn::Over(status) => return Ok(status),
            // In the clone, after the guard was killed: its place is ours.
            Turn::Promoted => life.count_keeper_death(),
        }
    }
}

enum Turn {
    Over(u8),
    Promoted,
}

struct Guard {
    life: Life,
    signals: TableFd,
    pipe_write: TableFd,
    errand_wake: TableFd,
    keeper: i32,
}

impl Guard {
    fn new(life: Life) -> Result<Self, Errno> {
        let signals = TableFd::keep(process::signals(&process::WATCHED)?);
        let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
        let (read, write) = rustix::pipe::pipe_with(flags)?;
        let (pipe_read, pipe_write) = (TableFd::keep(read), TableFd::keep(write));
        let event = || rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(TableFd::keep);
        let (errand_wake, errand_done) = (event()?, event()?);
        let descriptors = GuardDescriptors {
            signals: signals.as_raw_fd(),
            pipe_write: pipe_write.as_raw_fd(),
            pipe_read: pipe_read.as_raw_fd(),
            errand_wake: errand_wake.as_raw_fd(),
            errand_done: errand_done.as_raw_fd(),
        };
        life.set_guard(rustix::process::getpid().as_raw_nonzero().get(), descriptors);
        Ok(Self { life, signals, pipe_write, errand_wake, keeper: 0 })
    }

    /// Starts a keeper. In the clone this returns only when the guard is gone.
    fn start_keeper(&mut self) -> Result<Option<Turn>, Errno> {
        match process::clone_sharing_descriptors()? {
            Some(pid) => {
                self.keeper = pid;
                Ok(None)
            }
            None => match be_keeper(self.life) {
                Ok(Outcome::GuardDied) => Ok(Some(Turn::Promoted)),
                Ok(Outcome::Ended) => process::exit_now(0),
                Err(_) => process::exit_now(111),
            },
        }
    }

    fn watch(mut self) -> Result<Turn, Errno> {
        if let Some(promoted) = self.start_keeper()? {
            return Ok(promoted);
        }
        loop {
            let mut sources = [PollFd::new(&self.signals, PollFlags::IN), PollFd::new(&self.errand_wake, PollFlags::IN)];
            match poll(&mut sources, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
            if sources[1].revents().contains(PollFlags::IN) {
                errand::serve(self.life);
            }
            while let Some((signal, by_kernel)) = process::next_signal(self.signals)? {
                if signal == rustix::process::Signal::CHILD.as_raw() {
                    if self.reap()? == Reaped::Keeper {
                        if let Some(status) = self.life.exit_status() {
                            return Ok(Turn::Over(self.finish(status)));
                        }
                        self.life.count_keeper_death();
                        if let Some(promoted) = self.start_keeper()? {
                            return Ok(promoted);
                        }
                    }
                } else {
                    let hangup = signal == rustix::process::Signal::HUP.as_raw() && (by_kernel || terminal_is_gone());
                    self.pass(signal as u8 | if hangup { 0x80 } else { 0 });
                }
            }
        }
    }

    /// A full pipe means a keeper that has not run for long and will find all it needs: nothing is lost but repetition.
    fn pass(&self, byte: u8) {
        let _ = rustix::io::write(self.pipe_write, &[byte]);
    }

    fn reap(&self) -> Result<Reaped, Errno> {
        let mut reaped = Reaped::Others;
        while let Some((pid, ended)) = process::next_ended()? {
            if pid == self.keeper {
                reaped = Reaped::Keeper;
            } else if !self.life.push_exit(pid, ended) {
                // It stays a zombie, and is ours again at the next SIGCHLD. The keeper may have ended behind it.
                if process::has_ended(self.keeper) {
                    process::reap(self.keeper);
                    reaped = Reaped::Keeper;
                }
                break;
            }
            process::reap(pid);
        }
        self.pass(0);
        Ok(reaped)
    }

    /// The keeper has ended the instance: wait a little for the daemon's last lines, then leave nothing behind.
    fn finish(&self, status: u8) -> u8 {
        let Some(mut state) = self.life.journal().ok().and_then(|journal| State::restore(&journal).ok()?) else { return status };
        if let Some(channel) = state.daemon.channel {
            channel.close(); // its end of stream
        }
        let deadline = clock::monotonic_ns() + LAST_WORDS_NS;
        if let Some(daemon) = state.daemon.pidfd {
            let patience = Timespec { tv_sec: (LAST_WORDS_NS / 1_000_000_000) as i64, tv_nsec: 0 };
            if poll(&mut [PollFd::new(&daemon, PollFlags::IN)], Some(&patience)) != Ok(1) {
                let _ = process::signal(daemon, rustix::process::Signal::KILL.as_raw());
            }
        }
        // What was killed last is ours to reap, and leaves its cgroup a moment later.
        state.remove_emptied();
        while !state.emptied.is_empty() && clock::monotonic_ns() < deadline {
            let _ = poll(&mut [PollFd::new(&self.signals, PollFlags::IN)], Some(&Timespec { tv_sec: 0, tv_nsec: 5_000_000 }));
            while matches!(process::next_signal(self.signals), Ok(Some(_))) {}
            while let Ok(Some((pid, _))) = process::next_ended() {
                process::reap(pid);
            }
            state.remove_emptied();
        }
        let _ = std::fs::remove_dir_all(&state.directory);
        status
    }
}

/// A terminal that hung up answers everything with EIO. The kernel's own SIGHUP goes to the foreground only; a shell that got one
/// passes it on to the jobs in the background, and that is no request to restart either.
fn terminal_is_gone() -> bool {
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    streams.into_iter().any(|stream| matches!(rustix::termios::tcgetattr(stream), Err(Errno::IO)))
}

#[derive(PartialEq, Eq)]
enum Reaped {
    Keeper,
    Others,
}

fn be_keeper(life: Life) -> Result<Outcome, Errno> {
    use rustix::process::Signal;
    // Away from the terminal: what it sends is for the guard.
    let _ = rustix::process::setsid();
    process::ignore(&[Signal::HUP, Signal::INT, Signal::QUIT, Signal::TSTP, Signal::TTOU, Signal::PIPE].map(Signal::as_raw));
    process::become_subreaper()?;
    life.set_keeper_pid(rustix::process::getpid().as_raw_nonzero().get());
    let journal = life.journal().map_err(|_| Errno::BADMSG)?;
    match State::restore(&journal) {
        Ok(Some(state)) => keeper::run(life, journal, state),
        Ok(None) | Err(_) => Err(Errno::BADMSG),
    }
}

//! Starting generations and the daemon. What is about to be started is written down first, so that a successor of a keeper that
//! is killed in between knows what to look for.

use crate::keeper::{Keeper, Source};
use crate::left::cgroup_prefix;
use crate::passing;
use crate::protocol::{self, DescriptorKind, Event, ExecStage, ExitStatus, GenerationId, OutputKind, Reply, SpawnSpec, Trap};
use crate::state::{Generation, NotifyName};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use stayput_kernel::cgroup::Cgroup;
use stayput_kernel::clock;
use stayput_kernel::credentials::Credentials;
use stayput_kernel::limits::{self, Rlimit};
use stayput_kernel::process::{self, Cloned};
use stayput_kernel::spawn::{self, Exec, Report, Stage};
use stayput_kernel::table::TableFd;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A daemon that dies sooner than this after its start died "quickly".
const QUICK_NS: u64 = 2_000_000_000;

/// What a failing step of a spawn was.
pub(crate) struct SpawnError {
    pub(crate) what: String,
    pub(crate) errno: Errno,
}

fn failed(what: &str) -> impl FnOnce(Errno) -> SpawnError {
    move |errno| SpawnError { what: what.to_owned(), errno }
}

/// Both ends of what a child writes to.
struct Outputs {
    /// Ours: output, error.
    read: (OwnedFd, Option<OwnedFd>),
    /// The child's: output, error.
    write: (OwnedFd, OwnedFd),
}

/// `owner`: whose a terminal shall be, if not ours.
fn outputs(kind: OutputKind, owner: Option<u32>) -> Result<Outputs, Errno> {
    match kind {
        OutputKind::Pipes => {
            let (output, output_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            let (error, error_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            rustix::io::ioctl_fionbio(&output, true)?;
            rustix::io::ioctl_fionbio(&error, true)?;
            Ok(Outputs { read: (output, Some(error)), write: (output_write, error_write) })
        }
        OutputKind::Pty { rows, columns } => {
            use rustix::pty::OpenptFlags;
            let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
            rustix::pty::grantpt(&master)?;
            rustix::pty::unlockpt(&master)?;
            let name = rustix::pty::ptsname(&master, Vec::new())?;
            let slave = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
            if let Some(owner) = owner {
                // Programs open their terminal anew (/dev/tty, ttyname), or want it to be theirs.
                rustix::fs::fchown(&slave, Some(rustix::fs::Uid::from_raw(owner)), None)?;
            }
            let mut modes = rustix::termios::tcgetattr(&slave)?;
            modes.make_raw();
            rustix::termios::tcsetattr(&slave, rustix::termios::OptionalActions::Now, &modes)?;
            let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            rustix::termios::tcsetwinsize(&slave, size)?;
            rustix::io::ioctl_fionbio(&master, true)?;
            let error = rustix::io::fcntl_dupfd_cloexec(&slave, 3)?;
            Ok(Outputs { read: (master, None), write: (slave, error) })
        }
    }
}

fn dev_null() -> Result<OwnedFd, Errno> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

fn packet_pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

impl Keeper {
    /// Starts a generation; one with this id that was already started is told of again.
    ///
    /// # Errors
    /// The step before or at `fork` that failed; nothing is left of it.
    pub(crate) fn spawn(&mut self, spec: &SpawnSpec) -> Result<(), SpawnError> {
        if self.state.generation(spec.generation).is_some() {
            return Ok(());
        }
        let argv = spawn::c_strings(&spec.argv).map_err(failed("the command has a NUL byte in it"))?;
        let mut env = spawn::c_strings(&spec.env).map_err(failed("the environment has a NUL byte in it"))?;
        let cwd = CString::new(spec.cwd.as_slice()).map_err(|_| failed("the working directory has a NUL byte in it")(Errno::INVAL))?;
        let path = spawn::variable(&env, "PATH").unwrap_or(b"/usr/local/bin:/usr/bin:/bin").to_vec();
        let candidates = spawn::candidates(spec.argv.first().map_or(&[], Vec::as_slice), &path);
        let other = spec.credentials.as_ref().map(|credentials| credentials.uid).filter(|uid| *uid != own_uid());
        let notify = if spec.notify {
            Some(self.notify_socket(spec.generation, other.is_some()).map_err(failed("making the notify socket"))?)
        } else {
            None
        };
        self.mark(&mut env, spec, notify.as_ref().map(|(_, name)| name));
        let passed = passing::passed(spec, &env, self.state.declines.contains(&spec.service))
            .map_err(failed("{fd} in the command names a socket, and no such port is declared"))?;
        let outputs = outputs(spec.output, other).map_err(failed("making the output pipes"))?;
        let (report, childs_report) = packet_pair().map_err(failed("socketpair for the child's report"))?;
        let null = dev_null().map_err(failed("open /dev/null"))?;

        // Not everywhere ours to make; the cookie and the filter tell the tree without it.
        let cgroup = Cgroup::create(&format!("{}{}", cgroup_prefix(&self.state.nonce), spec.generation.0)).ok();
        let unlimited = limit(cgroup.as_ref(), &spec.limits);
        let door = cgroup.as_ref().and_then(|cgroup| cgroup.door().ok());
        self.state.generations.push(Generation {
            service: spec.service.clone(),
            id: spec.generation,
            pid: 0,
            pidfd: None,
            report: Some(TableFd::keep(report)),
            calls: None,
            trap: None,
            executed: false,
            exec_failed: None,
            exit: None,
            tree_empty: false,
            killed: false,
            output: Some(TableFd::keep(outputs.read.0)),
            error: outputs.read.1.map(TableFd::keep),
            notify: notify.map(|(socket, path)| (TableFd::keep(socket), path)),
            cgroup: cgroup.clone(),
            declared: spec.declared.clone(),
            copies: spec.copies,
            asked: false,
            served: false,
            unlimited: unlimited.clone(),
            given: Vec::new(),
            sees_options: false,
            options: Vec::new(),
        });
        self.commit();
        match process::clone() {
            Ok(Cloned::Child) => {
                let descriptors = vec![null.as_fd(), outputs.write.0.as_fd(), outputs.write.1.as_fd()];
                let exec = Exec {
                    candidates,
                    argv,
                    env,
                    cwd,
                    descriptors,
                    trap: true,
                    cgroup: door.as_ref().map(AsFd::as_fd),
                    umask: spec.umask,
                    rlimits: self.rlimits(spec),
                    credentials: spec.credentials.as_ref().map(credentials),
                    passed,
                };
                spawn::exec(&exec, childs_report.as_fd())
            }
            Ok(Cloned::Parent { pid, pidfd }) => {
                if let Some(generation) = self.state.generation_mut(spec.generation) {
                    generation.pid = pid;
                    generation.pidfd = Some(TableFd::keep(pidfd));
                }
                self.commit();
                self.watch_generation(spec.generation);
                if !unlimited.is_empty() {
                    self.tell(Event::Unlimited { generation: spec.generation, limits: unlimited });
                }
                Ok(())
            }
            Err(errno) => {
                self.forget(spec.generation);
                Err(SpawnError { what: "fork".to_owned(), errno })
            }
        }
    }

    /// Adds what our processes are known by to an environment; values of ours that were inherited go.
    fn mark(&self, env: &mut Vec<CString>, spec: &SpawnSpec, notify: Option<&NotifyName>) {
        let ours = |entry: &CString| {
            let entry = entry.as_bytes();
            entry.starts_with(b"STAYPUT_")
                || entry.starts_with(b"NOTIFY_SOCKET=")
                || entry.starts_with(b"WATCHDOG_")
                || entry.starts_with(b"FDSTORE=")
        };
        env.retain(|entry| !ours(entry));
        let mut marks = vec![
            format!("STAYPUT_INSTANCE={}", self.state.instance),
            format!("STAYPUT_SERVICE={}", spec.service),
            format!("STAYPUT_GENERATION={}", spec.generation.0),
            self.state.cookie(spec.generation),
        ];
        marks.extend(notify.map(|name| match name {
            NotifyName::Path(path) => format!("NOTIFY_SOCKET={}", path.display()),
            NotifyName::Abstract(name) => format!("NOTIFY_SOCKET=@{name}"),
        }));
        env.extend(marks.into_iter().filter_map(|mark| CString::new(mark).ok()));
    }

    /// A socket for `sd_notify(3)`. The runtime directory is closed to other users: theirs has an abstract name, which everybody can send to
    /// who learns it, and the reader looks who did (`SO_PASSCRED`).
    fn notify_socket(&self, generation: GenerationId, other: bool) -> Result<(OwnedFd, NotifyName), Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        let mut random = [0_u8; 8];
        let name = if other {
            rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
            let name = format!("stayput-notify-{:016x}", u64::from_ne_bytes(random));
            rustix::net::sockopt::set_socket_passcred(&socket, true)?;
            rustix::net::bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
            NotifyName::Abstract(name)
        } else {
            let path = self.state.directory.join(format!("notify-{}", generation.0));
            let _ = std::fs::remove_file(&path);
            rustix::net::bind(&socket, &SocketAddrUnix::new(&path)?)?;
            NotifyName::Path(path)
        };
        Ok((socket, name))
    }

    /// Those that were asked for; else what we raised for ourselves is as it was.
    fn rlimits(&self, spec: &SpawnSpec) -> Vec<Rlimit> {
        let before = self.state.nofile.map(|(soft, hard)| Rlimit { resource: limits::NOFILE, soft, hard });
        let wanted = spec.rlimits.iter().copied();
        before.into_iter().chain(wanted).collect()
    }

    /// Descriptors of a generation that its brain reads, and what they are.
    pub(crate) fn descriptors_of(&self, generation: GenerationId) -> (Vec<DescriptorKind>, Vec<TableFd>) {
        let Some(generation) = self.state.generation(generation) else { return (Vec::new(), Vec::new()) };
        let notify = generation.notify.as_ref().map(|(socket, _)| *socket);
        let all =
            [(DescriptorKind::Output, generation.output), (DescriptorKind::Error, generation.error), (DescriptorKind::Notify, notify)];
        all.into_iter().filter_map(|(kind, descriptor)| Some((kind, descriptor?))).unzip()
    }

    /// What a child says between `fork` and its command.
    pub(crate) fn on_report(&mut self, id: GenerationId) {
        loop {
            let Some(report) = self.state.generation(id).and_then(|generation| generation.report) else { return };
            let said = match spawn::receive(report) {
                Ok(None) => return,
                Ok(Some(said)) => said,
                Err(_) => None,
            };
            let Some(generation) = self.state.generation_mut(id) else { return };
            match said {
                Some(Report::Trapped(calls, options)) => {
                    generation.sees_options = options;
                    generation.calls = Some(TableFd::keep(calls));
                    generation.trap = Some(Trap::Active);
                    self.watch_generation(id);
                }
                Some(Report::NotTrapped(errno, asks)) => {
                    generation.trap = Some(Trap::Unavailable { errno: errno.raw_os_error() });
                    // If it asks for sockets, it gets what is held; else that must not stand in its way.
                    if !asks {
                        let service = generation.service.clone();
                        self.release_unowned(&service);
                    }
                }
                Some(Report::Asks) => self.on_asks(id),
                Some(Report::Failed(stage, errno, resource)) => {
                    generation.exec_failed = Some((exec_stage(stage, resource), errno.raw_os_error()));
                }
                None => {
                    generation.report = None;
                    let event = match (generation.exec_failed, generation.trap) {
                        (Some((stage, errno)), _) => Some(Event::ExecFailed { generation: id, stage, errno }),
                        (None, Some(trap)) => {
                            generation.executed = true;
                            Some(Event::Executed { generation: id, trap })
                        }
                        (None, None) => None, // killed before it came that far: its exit says the rest
                    };
                    report.close();
                    if matches!(event, Some(Event::Executed { .. })) {
                        self.look_later(id);
                    }
                    if let Some(event) = event {
                        self.tell(event);
                    }
                }
            }
        }
    }

    /// Starts a daemon on a fresh channel, with the control socket beside it.
    pub(crate) fn start_daemon(&mut self) {
        let started = (|| -> Result<(), Errno> {
            let (ours, theirs) = packet_pair()?;
            let (report, childs_report) = packet_pair()?;
            let null = dev_null()?;
            let argv = spawn::c_strings(&self.state.daemon.argv)?;
            let env: Vec<Vec<u8>> =
                std::env::vars_os().map(|(name, value)| [name.as_encoded_bytes(), b"=", value.as_encoded_bytes()].concat()).collect();
            let env = spawn::c_strings(&env)?;
            self.state.daemon.channel = Some(TableFd::keep(ours));
            self.state.daemon.greeted = false;
            self.state.daemon.started_ns = clock::monotonic_ns();
            self.commit();
            match process::clone()? {
                Cloned::Child => {
                    let candidates = vec![c"/proc/self/exe".to_owned()];
                    let (stdout, stderr) = (rustix::stdio::stdout(), rustix::stdio::stderr());
                    let descriptors = vec![null.as_fd(), stdout, stderr, theirs.as_fd(), self.state.control.as_fd()];
                    let exec = Exec {
                        candidates,
                        argv,
                        env,
                        cwd: c".".to_owned(),
                        descriptors,
                        trap: false,
                        cgroup: None,
                        umask: None,
                        rlimits: Vec::new(),
                        credentials: None,
                        passed: None,
                    };
                    spawn::exec(&exec, childs_report.as_fd())
                }
                Cloned::Parent { pid, pidfd } => {
                    self.state.daemon.pid = pid;
                    self.state.daemon.pidfd = Some(TableFd::keep(pidfd));
                }
            }
            drop(report);
            Ok(())
        })();
        self.commit();
        if started.is_err() {
            self.close_channel();
            self.daemon_due = Some(clock::monotonic_ns() + QUICK_NS);
        }
        self.watch_channel();
    }

    /// The daemon ended: start another, at once if it had lived a while.
    pub(crate) fn on_daemon_exit(&mut self) {
        self.take_last_requests();
        self.close_channel();
        self.state.daemon.pid = 0;
        if let Some(pidfd) = self.state.daemon.pidfd.take() {
            self.commit();
            pidfd.close();
        }
        self.state.daemon.deaths += 1;
        let now = clock::monotonic_ns();
        let quick = now.saturating_sub(self.state.daemon.started_ns) < QUICK_NS;
        self.state.daemon.quick_deaths = if quick { self.state.daemon.quick_deaths + 1 } else { 0 };
        // The first few at once: a daemon that is killed twice is no loop. Then 0.1 s, doubling, to 5 s.
        let exponent = self.state.daemon.quick_deaths.saturating_sub(5).min(6);
        let pause = if self.state.daemon.quick_deaths <= 5 { 0 } else { (50_000_000 << exponent).min(5_000_000_000) };
        self.daemon_due = Some(now + pause);
    }

    /// Ends what is remembered of a generation.
    pub(crate) fn forget(&mut self, id: GenerationId) {
        let gone = self.state.generations.remove(id.0);
        self.commit();
        if let Some(generation) = gone {
            if let Some((socket, name)) = generation.notify {
                if let NotifyName::Path(path) = name {
                    let _ = std::fs::remove_file(path);
                }
                socket.close();
            }
            let descriptors = [generation.pidfd, generation.report, generation.calls, generation.output, generation.error];
            let given = generation.given.into_iter().map(|(_, _, socket)| socket);
            descriptors.into_iter().flatten().chain(given).for_each(TableFd::close);
            self.state.emptied.extend(generation.cgroup);
        }
        self.state.remove_emptied();
        for listener in self.state.listeners_of(id) {
            if let Some(listener) = self.state.listener_mut(listener) {
                listener.owner = None;
            }
        }
    }

    /// The reply to a spawn or a fetch, with the descriptors beside it.
    pub(crate) fn output_reply(&self, id: GenerationId, spawned: bool) -> (Reply, Vec<TableFd>) {
        let (descriptors, table) = self.descriptors_of(id);
        let pid = self.state.generation(id).map_or(0, |generation| generation.pid);
        let reply = if spawned { Reply::Spawned { pid, descriptors } } else { Reply::Output { descriptors } };
        (reply, table)
    }
}

/// Descriptors as they are passed beside a packet.
pub(crate) fn borrowed(table: &[TableFd]) -> Vec<BorrowedFd<'_>> {
    table.iter().map(AsFd::as_fd).collect()
}

fn exec_stage(stage: Stage, resource: i32) -> ExecStage {
    match stage {
        Stage::Session => ExecStage::Session,
        Stage::Stdio => ExecStage::Stdio,
        Stage::Limits => ExecStage::Limits { resource },
        Stage::Filter => ExecStage::Filter,
        Stage::Credentials => ExecStage::Credentials,
        Stage::WorkingDirectory => ExecStage::WorkingDirectory,
        Stage::Exec => ExecStage::Exec,
    }
}

/// How a process ended, in the protocol's words.
pub(crate) fn exit_status(ended: process::Ended) -> ExitStatus {
    match ended {
        process::Ended::Exited(status) => ExitStatus::Exited(status),
        process::Ended::Signalled(signal) => ExitStatus::Signalled(signal),
    }
}

/// Sets the limits of a tree; returns those that are not in force.
fn limit(cgroup: Option<&Cgroup>, limits: &protocol::Limits) -> Vec<(String, i32)> {
    let memory = limits.memory.map(|bytes| ("memory.max", bytes.to_string()));
    // Microseconds in each tenth of a second.
    let cpu = limits.cpu.map(|per_cent| ("cpu.max", format!("{} 100000", u64::from(per_cent.max(1)) * 1000)));
    let tasks = limits.tasks.map(|tasks| ("pids.max", tasks.to_string()));
    let set = |(file, value): (&str, String)| {
        let done = cgroup.map_or(Err(Errno::NOENT), |cgroup| cgroup.limit(file, &value));
        done.err().map(|error| (file.to_owned(), error.raw_os_error()))
    };
    [memory, cpu, tasks].into_iter().flatten().filter_map(set).collect()
}

fn credentials(credentials: &protocol::Credentials) -> Credentials {
    Credentials { uid: credentials.uid, gid: credentials.gid, groups: credentials.groups.clone() }
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Sources of a generation that the keeper watches.
pub(crate) fn sources(generation: &Generation) -> Vec<(Source, TableFd)> {
    let report = generation.report.map(|descriptor| (Source::Report(generation.id), descriptor));
    let calls = generation.calls.map(|descriptor| (Source::Calls(generation.id), descriptor));
    [report, calls].into_iter().flatten().collect()
}

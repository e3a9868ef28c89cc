//! Facts to findings: what each means, and what would improve it.

use super::Promise::{P1, P2, P3, P4, P5};
use super::Standing::{Gone, Weaker};
use super::{Facts, Failure, Finding, Group, Level, Mptcp, Promise, Standing, Tried};

/// The same on every architecture that stayput is built for (asm-generic/errno-base.h, errno.h).
const EPERM: i32 = 1;
const EBUSY: i32 = 16;
const ENOSYS: i32 = 38;

/// Connections that are to wait while nobody accepts.
const HELD_QUEUE: u32 = 4096;
/// Fewer open files than this and a few generations of a few listeners each do not fit.
const FEW_FILES: u64 = 256;

/// What remains when `bind` and `listen` cannot be caught.
const NOT_CAUGHT: &str = "a command's ports are not held, and the status says so: restarts and crashes refuse connections, \
    a taken port is not waited for, and a command given --port cannot bind it; its processes are looked after as ever";
/// What remains when a caught call cannot be looked into.
const NOT_SEEN: &str = "what a command binds is not seen: its ports are not held, it does not count as listening, \
    and given --port it cannot bind it; its processes are looked after as ever";
const NO_PORT: [(Promise, Standing); 4] = [(P1, Gone), (P2, Gone), (P3, Gone), (P4, Gone)];

/// What cannot be tried where something else failed already: only that something takes promises.
const FOLLOWS: [(&str, &[&str]); 3] = [
    (
        "clone",
        &[
            "itself",
            "trap",
            "duplicate",
            "read",
            "replace",
            "unbroken",
            "see",
            "signal",
            "subreaper",
            "yama",
            "no_new_privs",
            "close_range",
        ],
    ),
    ("trap", &["replace", "unbroken", "no_new_privs"]),
    ("steering", &["mptcp"]),
];

pub(super) fn all(facts: &Facts) -> Vec<Finding> {
    let mut findings = each(facts);
    for (first, followers) in FOLLOWS {
        if findings.iter().any(|finding| finding.id == first && finding.level == Level::Missing) {
            for finding in findings.iter_mut().filter(|finding| followers.contains(&finding.id) && finding.level > Level::Ok) {
                *finding = fine(finding.id, finding.group, finding.tried, format!("not tried: it needs what {first} lacks")).note("");
            }
        }
    }
    findings
}

fn each(facts: &Facts) -> Vec<Finding> {
    vec![
        clone(facts),
        itself(facts),
        trap(facts),
        duplicate(facts),
        read(facts),
        replaced(facts),
        unbroken(facts),
        held_queue(facts),
        uring(facts),
        steering(facts),
        muting(facts),
        mptcp(facts),
        migrating(facts),
        listing(facts),
        release_event(facts),
        see(facts),
        signal(facts),
        subreaper(facts),
        cgroup(facts),
        stranger(facts),
        no_new_privs(facts),
        low_port(facts),
        open_files(facts),
        close_range(facts),
        place(facts),
        systemd(facts),
    ]
}

/// A finding with nothing to say but that it is well.
fn fine(id: &'static str, group: Group, tried: &'static str, result: impl Into<String>) -> Finding {
    Finding { id, group, level: Level::Ok, tried, result: result.into(), promises: Vec::new(), meaning: String::new(), improve: None }
}

impl Finding {
    fn takes(mut self, promises: &[(Promise, Standing)], meaning: impl Into<String>) -> Self {
        self.level = if promises.iter().any(|(_, standing)| *standing == Gone) { Level::Missing } else { Level::Note };
        self.promises = promises.to_vec();
        self.meaning = meaning.into();
        self
    }

    fn note(mut self, meaning: impl Into<String>) -> Self {
        self.level = Level::Note;
        self.meaning = meaning.into();
        self
    }

    fn improve(mut self, how: Option<impl Into<String>>) -> Self {
        self.improve = how.map(Into::into);
        self
    }
}

/// The rows of one shape: fine, or a failure that takes promises.
fn row(
    (id, group, tried): (&'static str, Group, &'static str),
    outcome: &Tried,
    works: &str,
    fails: impl FnOnce(Finding, &Failure) -> Finding,
) -> Finding {
    match outcome {
        Ok(()) => fine(id, group, tried, works),
        Err(failure) => fails(fine(id, group, tried, failure.said.clone()), failure),
    }
}

fn clone(facts: &Facts) -> Finding {
    let what = ("clone", Group::Holding, "a child with a descriptor of its own (clone, CLONE_PIDFD)");
    row(what, &facts.clone, "children can be started", |finding, _| {
        let all = [(P1, Gone), (P2, Gone), (P3, Gone), (P4, Gone), (P5, Gone)];
        finding.takes(&all, "`stayput run` cannot start anything; `why`, `ports`, `wait` and `free` work")
    })
}

fn itself(facts: &Facts) -> Finding {
    let what = ("itself", Group::Holding, "executing this program again (/proc/self/exe, /dev/null)");
    row(what, &facts.itself, "its own processes can be started", |finding, _| {
        let all = [(P1, Gone), (P2, Gone), (P3, Gone), (P4, Gone), (P5, Gone)];
        finding
            .takes(
                &all,
                "`stayput run` cannot start its daemon, so it starts nothing; without /proc `why`, `ports` and `free` cannot look either",
            )
            .improve(Some("mount -t proc proc /proc; and /dev/null, as every container runtime brings it"))
    })
}

fn trap(facts: &Facts) -> Finding {
    let what = ("trap", Group::Holding, "bind and listen of a child, caught by seccomp and answered");
    row(what, &facts.trap, "bind and listen are caught and answered", |finding, failure| {
        let improve = match (failure.errno, facts) {
            (_, facts) if facts.gvisor => Some("use another runtime than gVisor (runsc)".to_owned()),
            (Some(EBUSY), facts) if facts.wsl == Some(true) => Some("in .wslconfig: networkingMode=nat, then `wsl --shutdown`".to_owned()),
            (Some(EBUSY), _) => Some("start it outside of the other stayput or runtime whose filter listens already".to_owned()),
            (Some(EPERM | ENOSYS), facts) => container_option(facts, "--security-opt seccomp=unconfined"),
            _ => None,
        };
        finding.takes(&NO_PORT, NOT_CAUGHT).improve(improve)
    })
}

/// An option for whoever starts the container.
fn container_option(facts: &Facts, option: &str) -> Option<String> {
    let kind = facts.container.as_deref()?;
    match kind {
        "docker" | "podman" => Some(format!("{kind} run {option} ...")),
        _ => Some(format!("give the {kind} container what `docker run {option}` gives")),
    }
}

/// What lets one process reach into another, where it may not.
fn ptrace_improvement(facts: &Facts) -> Option<String> {
    match facts.ptrace_scope {
        Some(2) => Some("sysctl -w kernel.yama.ptrace_scope=1".to_owned()),
        Some(3) => Some("kernel.yama.ptrace_scope = 1 in /etc/sysctl.d, then reboot (3 is final)".to_owned()),
        _ => container_option(facts, "--cap-add SYS_PTRACE"),
    }
}

/// `holding` is `swap` then.
const SWAPPED: &str = "sockets of ours are put in the place of a service's own when it binds (holding: swap): its ports are held and steered all the same, but some options \
                       that it sets before it binds are lost (keep-alive, no delay, time limits), and one that registers with epoll before it binds, or binds to a device, is not held";

fn duplicate(facts: &Facts) -> Finding {
    let what = ("duplicate", Group::Holding, "a duplicate of a child's socket (pidfd_getfd)");
    row(what, &facts.duplicate, "duplicates of a child's sockets can be taken", |finding, _| {
        // What is left needs neither a duplicate nor ptrace access (keeper/src/blind.rs).
        let swaps = facts.replaced.is_ok() && facts.read.is_ok() && facts.see.is_ok();
        let finding = if swaps { finding.takes(&[(P1, Weaker), (P2, Weaker)], SWAPPED) } else { finding.takes(&NO_PORT, NOT_SEEN) };
        finding.improve(ptrace_improvement(facts))
    })
}

fn read(facts: &Facts) -> Finding {
    let what = ("read", Group::Holding, "the address that a child binds (process_vm_readv)");
    row(what, &facts.read, "a child's memory can be read", |finding, _| {
        finding.takes(&NO_PORT, NOT_SEEN).improve(ptrace_improvement(facts))
    })
}

fn replaced(facts: &Facts) -> Finding {
    let what = ("replace", Group::Holding, "a held socket put in the place of a child's (ADDFD, SETFD)");
    row(what, &facts.replaced, "a held socket can be given to a new process", |finding, _| {
        let meaning = "the port is held all the same, and a server's own socket takes over when it listens; but what waited until then, after a crash, \
                       with --no-overlap and with --port, is reset, and counted; planned restarts beside each other remain";
        let moves = facts.migrating == Ok(false);
        finding.takes(&[(P1, Weaker)], meaning).improve(moves.then_some("sysctl -w net.ipv4.tcp_migrate_req=1"))
    })
}

fn unbroken(facts: &Facts) -> Finding {
    let what = ("unbroken", Group::Holding, "a signal while a caught call is answered (WAIT_KILLABLE_RECV)");
    row(what, &facts.unbroken, "a signal does not interrupt a caught bind", |finding, _| {
        finding.takes(
            &[(P2, Weaker)],
            "a bind that a signal interrupts is made again by the kernel, and succeeds (Go); under a handler without SA_RESTART it fails with EINTR: \
             that start fails, the old generation goes on",
        )
    })
}

fn held_queue(facts: &Facts) -> Finding {
    let (id, group, tried) = ("queue", Group::Holding, "a queue for 4096 connections that wait while nobody accepts");
    let finding = match &facts.held_queue {
        Ok(length) if *length >= HELD_QUEUE => fine(id, group, tried, format!("{length} connections can wait while nobody accepts")),
        Ok(length) => fine(id, group, tried, format!("only {length} connections can wait while nobody accepts"))
            .note("more have to ask again until there is room; none is refused for it")
            .improve(Some(format!("sysctl -w net.core.somaxconn={HELD_QUEUE}"))),
        Err(failure) => fine(id, group, tried, failure.said.clone()).note("how many connections can wait is not known"),
    };
    if facts.refuses_on_overflow {
        let finding = Finding { result: format!("{}, and a full queue refuses", finding.result), ..finding };
        return finding
            .takes(&[(P1, Weaker)], "net.ipv4.tcp_abort_on_overflow is set: when more connections wait than fit, the rest are refused")
            .improve(Some("sysctl -w net.ipv4.tcp_abort_on_overflow=0"));
    }
    finding
}

fn uring(facts: &Facts) -> Finding {
    let (id, group, tried) = ("io_uring", Group::Holding, "whether io_uring can bind past the filter");
    match &facts.uring_binds {
        Ok(false) => fine(id, group, tried, "nothing can bind past the filter"),
        Ok(true) => fine(id, group, tried, "io_uring can bind past the filter")
            .note("a server that binds so is served but not held; hardly any does")
            .improve(Some("sysctl -w kernel.io_uring_disabled=2")),
        Err(failure) => fine(id, group, tried, failure.said.clone()).note("whether a server can bind past the filter is not known"),
    }
}

fn steering(facts: &Facts) -> Finding {
    let what = ("steering", Group::Switching, "two listeners on one port, steered (SO_ATTACH_REUSEPORT_CBPF)");
    row(what, &facts.steering, "new connections go to the generation that is chosen", |finding, _| {
        finding.takes(
            &[(P1, Gone), (P2, Gone), (P3, Gone)],
            "the kernel spreads connections over all listeners of a port, the silent ones as well; P4 and the end of process trees remain",
        )
    })
}

fn muting(facts: &Facts) -> Finding {
    let what = ("muting", Group::Switching, "a listener that gets no connections (SO_ATTACH_FILTER)");
    row(what, &facts.muting, "a generation that is not ready can be muted", |finding, failure| {
        let improve = (failure.errno == Some(EPERM)).then_some("AmbientCapabilities=CAP_NET_ADMIN in its unit; the command gets it too");
        finding.takes(&[(P2, Weaker), (P3, Weaker)], "in the instant in which a listener leaves its group, a connection can reach a generation that is not chosen; the steering itself remains").improve(improve)
    })
}

fn mptcp(facts: &Facts) -> Finding {
    let (id, group, tried) = ("mptcp", Group::Switching, "MPTCP listeners on one port, steered (Go listens so)");
    match &facts.mptcp {
        Mptcp::Absent(why) => fine(id, group, tried, format!("no MPTCP here ({why}); servers use TCP")),
        Mptcp::Present(Ok(())) => fine(id, group, tried, "MPTCP listeners are steered as TCP ones"),
        Mptcp::Present(Err(failure)) => {
            let finding = fine(id, group, tried, failure.said.clone());
            finding
                .takes(
                    &[(P2, Weaker), (P3, Weaker)],
                    "restarts of servers that listen with MPTCP (Go) can send connections to the wrong generation; TCP ones are steered",
                )
                .improve(Some("sysctl -w net.mptcp.enabled=0"))
        }
    }
}

fn migrating(facts: &Facts) -> Finding {
    let (id, group, tried) = ("migrate", Group::Switching, "whether a closed listener's queue moves (tcp_migrate_req)");
    match &facts.migrating {
        Ok(true) => fine(id, group, tried, "what waits on a failed generation moves to the other"),
        Ok(false) => fine(id, group, tried, "what waits on a failed generation is reset")
            .note("after a rollback those connections are lost, and counted; no promise says otherwise")
            .improve(Some("sysctl -w net.ipv4.tcp_migrate_req=1")),
        Err(failure) => fine(id, group, tried, failure.said.clone()).note("what becomes of a failed generation's queue is not known"),
    }
}

fn listing(facts: &Facts) -> Finding {
    let what = ("listing", Group::Knowing, "our own listener in the kernel's list of sockets (sock_diag)");
    row(what, &facts.listing, "the kernel lists sockets, queues and connections", |finding, _| {
        if facts.listed.is_ok() {
            let meaning = "connections are read from /proc/net/tcp instead: whether one is idle cannot be told, so a drain waits for all of them; `why`, \
                           `ports` and `free` do not work, and holders are not named";
            return finding.takes(&[(P2, Weaker), (P4, Weaker)], meaning);
        }
        finding.takes(&[(P2, Weaker), (P3, Weaker), (P4, Weaker)], "open connections cannot be seen: a drain takes its whole time, \"accepted\" cannot be checked (use --ready http, notify or log), holders are not named; the ledger says \"not measured\"")
    })
}

fn release_event(facts: &Facts) -> Finding {
    let what = ("release", Group::Knowing, "the event of a released port (sock_diag, destroy group)");
    row(what, &facts.release_event, "the kernel tells when a port is released", |finding, _| {
        finding.takes(&[(P4, Weaker)], "a port that somebody else has is not taken at once when it is released; the holder is named")
    })
}

fn see(facts: &Facts) -> Finding {
    let what = ("see", Group::Knowing, "the sockets of a child in /proc/PID/fd");
    row(what, &facts.see, "the sockets of a service's processes are seen", |finding, _| {
        finding.takes(
            &[(P2, Weaker)],
            "connections cannot be told apart by generation: all count as the old one's, so a drain takes its whole time",
        )
    })
}

fn signal(facts: &Facts) -> Finding {
    let what = ("signal", Group::Knowing, "a signal to a child by its pidfd (pidfd_send_signal)");
    row(what, &facts.signal, "a signal reaches one process and no other", |finding, _| {
        finding.takes(
            &[(P2, Gone), (P5, Gone)],
            "nothing can be stopped without the risk of hitting a stranger, so nothing is: the old generation of a restart goes on",
        )
    })
}

fn subreaper(facts: &Facts) -> Finding {
    let what = ("subreaper", Group::Knowing, "an orphan below a child that adopts orphans");
    row(what, &facts.subreaper, "orphans of a service come to stayput", |finding, _| {
        finding.takes(&[(P5, Weaker)], "a process that a service puts in the background can escape; what still descends from it is stopped")
    })
}

fn cgroup(facts: &Facts) -> Finding {
    let what = ("cgroup", Group::Rights, "a child in a cgroup of our own (v2)");
    row(what, &facts.cgroup, "each generation can have a cgroup", |finding, _| {
        finding
            .note(
                "process trees are followed by descent and a variable instead: a process that sheds both while two generations run is \
                 ended only when one is left; no promise is touched",
            )
            .improve(facts.systemd.then_some("systemd-run --user --scope -p Delegate=yes stayput run ..."))
    })
}

fn stranger(facts: &Facts) -> Finding {
    let what = ("yama", Group::Rights, "reaching into a process that is no descendant (Yama)");
    let scope = facts.ptrace_scope.map_or("no Yama here".to_owned(), |scope| format!("kernel.yama.ptrace_scope is {scope}"));
    row(what, &facts.stranger, &format!("own processes can be reached into ({scope})"), |finding, _| {
        let finding = Finding { result: format!("only descendants can be reached into ({scope})"), ..finding };
        if facts.duplicate.is_ok() {
            // The guard and the keeper are ancestors of all that they start.
            return Finding { meaning: "nothing is lost: stayput reaches into its descendants alone".to_owned(), ..finding };
        }
        Finding { result: format!("no process can be reached into ({scope})"), ..finding }
            .note("see the duplicate of a child's socket, above")
    })
}

fn no_new_privs(facts: &Facts) -> Finding {
    let (id, group, tried) = ("no_new_privs", Group::Rights, "the filter without giving up the right to gain rights");
    match facts.needs_no_new_privs {
        Some(false) => fine(id, group, tried, "commands may use sudo and setuid programs"),
        Some(true) => fine(id, group, tried, "commands cannot use sudo and setuid programs")
            .note("the kernel takes the filter only from who gives up gaining rights, or has CAP_SYS_ADMIN; no promise is touched"),
        None => fine(id, group, tried, "not known, since the filter cannot be installed").note(""),
    }
}

fn low_port(facts: &Facts) -> Finding {
    let what = ("low_port", Group::Rights, "a port below 1024");
    row(what, &facts.low_port, "ports below 1024 can be bound", |finding, _| {
        let first = facts.first_free_port.map_or("1024".to_owned(), |first| first.to_string());
        Finding { result: format!("ports below {first} cannot be bound by uid {}", facts.uid), ..finding }
            .note("as without stayput; no promise is touched")
            .improve(Some("sysctl -w net.ipv4.ip_unprivileged_port_start=80"))
    })
}

fn open_files(facts: &Facts) -> Finding {
    let (id, group, tried) = ("open_files", Group::Rights, "the limit of open files (RLIMIT_NOFILE)");
    let (soft, hard) = facts.open_files;
    let shown = |limit: u64| if limit == u64::MAX { "unlimited".to_owned() } else { limit.to_string() };
    let finding = fine(id, group, tried, format!("{} open files, at most {}", shown(soft), shown(hard)));
    if soft >= FEW_FILES {
        return finding;
    }
    let meaning = "stayput keeps some ten for each generation: with several, a new one may not start, and the old one goes on";
    finding.takes(&[(P2, Weaker)], meaning).improve(Some(format!("ulimit -n {}", hard.min(1024))))
}

fn close_range(facts: &Facts) -> Finding {
    let what = ("close_range", Group::Rights, "closing all that a command must not inherit (close_range)");
    row(what, &facts.close_range, "commands inherit nothing that they should not", |finding, _| {
        finding.note("descriptors that were left open by who started stayput reach the command; stayput's own do not")
    })
}

fn place(facts: &Facts) -> Finding {
    let (id, group, tried) = ("place", Group::Place, "the marks of containers, WSL and gVisor");
    let mut words = Vec::new();
    if facts.gvisor {
        words.push("gVisor".to_owned());
    }
    match facts.wsl {
        Some(true) => words.push("WSL2 with mirrored networking".to_owned()),
        Some(false) => words.push("WSL2".to_owned()),
        None => {}
    }
    if let Some(kind) = &facts.container {
        words.push(format!("a {kind} container"));
    }
    if words.is_empty() {
        words.push("no container, no WSL, no gVisor".to_owned());
    }
    fine(id, group, tried, format!("{}, uid {}, {}", facts.system, facts.uid, words.join(", ")))
}

fn systemd(facts: &Facts) -> Finding {
    let (id, group, tried) = ("systemd", Group::Place, "whether systemd is the service manager");
    let result = if facts.systemd { "systemd manages services; a unit of stayput's needs KillMode=process" } else { "no systemd" };
    fine(id, group, tried, result)
}

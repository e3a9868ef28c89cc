//! What a host allows: facts, each from a try, and what they mean for the seven promises.
//!
//! Owns the judgement. Refuses to look at anything: whoever has [`Facts`], from here or invented, gets the same [`Report`].

mod findings;
#[cfg(test)]
mod tests;

use serde::Serialize;

/// One of the seven promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Promise {
    /// The port never closes.
    P1,
    /// A planned restart loses no request.
    P2,
    /// A bad version never takes traffic.
    P3,
    /// No restart loop on a taken port.
    P4,
    /// Nothing is left behind.
    P5,
    /// Only true statements.
    P6,
    /// Honest limits.
    P7,
}

impl Promise {
    /// All, in order.
    pub const ALL: [Self; 7] = [Self::P1, Self::P2, Self::P3, Self::P4, Self::P5, Self::P6, Self::P7];

    /// In words.
    pub fn title(self) -> &'static str {
        match self {
            Self::P1 => "the port never closes",
            Self::P2 => "a planned restart loses no request",
            Self::P3 => "a bad version never takes traffic",
            Self::P4 => "no restart loop on a taken port",
            Self::P5 => "nothing is left behind",
            Self::P6 => "only true statements",
            Self::P7 => "honest limits",
        }
    }

    fn name(self) -> &'static str {
        ["P1", "P2", "P3", "P4", "P5", "P6", "P7"][self as usize]
    }
}

/// What is left of a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// All of it.
    Kept,
    /// It holds with an exception, which the finding names.
    Weaker,
    /// Nothing to rely on.
    Gone,
}

/// Why a try failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// In words: the call and the error.
    pub said: String,
    /// The error number, if it was a call that failed.
    pub errno: Option<i32>,
}

/// What came of a try.
pub type Tried<T = ()> = Result<T, Failure>;

/// What an MPTCP listener does here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mptcp {
    /// There is none, as the kernel said: servers use TCP.
    Absent(String),
    /// It was steered, or not.
    Present(Tried),
}

/// All that was tried or read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Release of the kernel and architecture, for people.
    pub system: String,
    /// As whom.
    pub uid: u32,
    /// A child with a pidfd.
    pub clone: Tried,
    /// Executing this very program again.
    pub itself: Tried,
    /// `bind` and `listen` of a child caught and answered.
    pub trap: Tried,
    /// The filter needed `no_new_privs`.
    pub needs_no_new_privs: Option<bool>,
    /// A caught call survived a signal.
    pub unbroken: Tried,
    /// Our socket took the place of a child's.
    pub replaced: Tried,
    /// A duplicate of a child's socket.
    pub duplicate: Tried,
    /// A child's memory.
    pub read: Tried,
    /// Both on a process that is no descendant.
    pub stranger: Tried,
    /// A child's descriptors in /proc.
    pub see: Tried,
    /// A signal by pidfd.
    pub signal: Tried,
    /// Marking all descriptors close-on-exec.
    pub close_range: Tried,
    /// Orphans become ours.
    pub subreaper: Tried,
    /// A group's program decides who gets a connection.
    pub steering: Tried,
    /// A listener can be muted.
    pub muting: Tried,
    /// Queued connections move when a listener is closed.
    pub migrating: Tried<bool>,
    /// MPTCP members.
    pub mptcp: Mptcp,
    /// Length of the queue that is to hold 4096.
    pub held_queue: Tried<u32>,
    /// A full queue refuses.
    pub refuses_on_overflow: bool,
    /// Our own listener in the kernel's list.
    pub listing: Tried,
    /// The same in `/proc/net/tcp`.
    pub listed: Tried,
    /// The event of a released port.
    pub release_event: Tried,
    /// `io_uring` can bind past the filter.
    pub uring_binds: Tried<bool>,
    /// A child in a cgroup of our own.
    pub cgroup: Tried,
    /// `kernel.yama.ptrace_scope`.
    pub ptrace_scope: Option<u32>,
    /// A port below 1024.
    pub low_port: Tried,
    /// `net.ipv4.ip_unprivileged_port_start`.
    pub first_free_port: Option<u32>,
    /// Soft and hard limit of open files.
    pub open_files: (u64, u64),
    /// systemd is the service manager.
    pub systemd: bool,
    /// Kind of container.
    pub container: Option<String>,
    /// WSL; true within: mirrored networking.
    pub wsl: Option<bool>,
    /// The kernel is gVisor's.
    pub gvisor: bool,
}

/// What a finding belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// Holding the ports of a command.
    Holding,
    /// Switching between generations.
    Switching,
    /// Knowing what goes on.
    Knowing,
    /// Rights and limits.
    Rights,
    /// Where this is.
    Place,
}

impl Group {
    /// As a heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::Holding => "Holding ports",
            Self::Switching => "Switching between generations",
            Self::Knowing => "Knowing what goes on",
            Self::Rights => "Rights and limits",
            Self::Place => "Where this is",
        }
    }
}

/// How a finding is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing, or a promise is weaker.
    Note,
    /// It is missing, and a promise with it.
    Missing,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its name, the same in all versions.
    pub id: &'static str,
    /// What it belongs to.
    pub group: Group,
    /// How to read it.
    pub level: Level,
    /// What was tried.
    pub tried: &'static str,
    /// What came of it.
    pub result: String,
    /// What it does to promises; those that are not here are untouched by it.
    pub promises: Vec<(Promise, Standing)>,
    /// What is lost by it, and what remains; empty if nothing is.
    pub meaning: String,
    /// What would improve it.
    pub improve: Option<String>,
}

/// A promise on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standings {
    /// Which.
    pub promise: Promise,
    /// In words.
    pub title: &'static str,
    /// What is left of it.
    pub standing: Standing,
    /// The findings that took from it.
    pub because: Vec<&'static str>,
}

/// What a host allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In a sentence or two.
    pub verdict: String,
    /// Each promise.
    pub promises: Vec<Standings>,
    /// Each finding, by group.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether all seven are kept.
    pub fn keeps_all(&self) -> bool {
        self.promises.iter().all(|promise| promise.standing == Standing::Kept)
    }
}

/// Judges the facts.
pub fn judge(facts: &Facts) -> Report {
    let findings = findings::all(facts);
    let promises: Vec<Standings> = Promise::ALL.into_iter().map(|promise| standing(promise, &findings)).collect();
    Report { verdict: verdict(&promises), promises, findings }
}

fn standing(promise: Promise, findings: &[Finding]) -> Standings {
    let taken =
        || findings.iter().flat_map(|finding| finding.promises.iter().map(move |(taken, standing)| (finding.id, *taken, *standing)));
    let ours = || taken().filter(|(_, taken, _)| *taken == promise);
    let standing = ours().map(|(_, _, standing)| standing).max().unwrap_or(Standing::Kept);
    Standings { promise, title: promise.title(), standing, because: ours().map(|(id, _, _)| id).collect() }
}

fn verdict(promises: &[Standings]) -> String {
    let of = |standing| -> Vec<&'static str> {
        promises.iter().filter(|promise| promise.standing == standing).map(|promise| promise.promise.name()).collect()
    };
    let (kept, weaker, gone) = (of(Standing::Kept), of(Standing::Weaker), of(Standing::Gone));
    let parts: Vec<String> = [(gone, "gone"), (weaker, "weaker")]
        .into_iter()
        .filter(|(names, _)| !names.is_empty())
        .map(|(names, what)| format!("{} {} {what}", list(&names), if names.len() == 1 { "is" } else { "are" }))
        .collect();
    if parts.is_empty() {
        return "This host keeps all seven promises.".to_owned();
    }
    let remain = if kept.len() == 1 { "remains" } else { "remain" };
    format!("Here {}; {} {remain}.", parts.join(", "), list(&kept))
}

fn list(names: &[&str]) -> String {
    match names {
        [] => "none".to_owned(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

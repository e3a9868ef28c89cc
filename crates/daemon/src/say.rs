//! Notices in words, for the console and for replies. Every sentence names the fact behind it.

use stayput_model::config::{ReportStyle, When};
use stayput_model::event::{DrainReport, ExitStatus};
use stayput_model::ledger::{Failure, Ledger, Moved, Unequal};
use stayput_model::notice::{Notice, StopReason, What};
use stayput_wire::Level;
use std::fmt::Write as _;
use std::time::Duration;

/// How a sentence begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// `✓`
    Good,
    /// `!`
    Trouble,
    /// `INFO`
    Plain,
}

impl Mark {
    /// For programs.
    pub(crate) fn level(self) -> Level {
        match self {
            Self::Good => Level::Good,
            Self::Plain => Level::Info,
            Self::Trouble => Level::Trouble,
        }
    }

    fn text(self, style: ReportStyle) -> &'static str {
        match (self, style) {
            (Self::Good, ReportStyle::Colour) => "\u{1b}[32m✓\u{1b}[0m",
            (Self::Trouble, ReportStyle::Colour) => "\u{1b}[33m!\u{1b}[0m",
            (Self::Good, _) => "✓",
            (Self::Trouble, _) => "!",
            (Self::Plain, _) => "INFO",
        }
    }
}

/// Colours of names (ECMA-48): those that are readable on light and dark.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

/// The name of a service without control characters, in its colour: always the same one for the same name.
pub fn coloured(service: &str) -> String {
    let sum = service.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
    format!("\u{1b}[{}m{}\u{1b}[0m", COLOURS[sum % COLOURS.len()], stayput_model::text::printable(service))
}

/// A line for the console.
pub(crate) fn line(service: &str, mark: Mark, text: &str, style: ReportStyle) -> String {
    let time = stayput_kernel::clock::local_hms();
    match style {
        ReportStyle::Plain => format!("[{time}] [{service}] {} {text}", mark.text(style)),
        ReportStyle::Colour => format!("[{time}] [{}] {} {text}", coloured(service), mark.text(style)),
        ReportStyle::Json => serde_json::json!({ "time": time, "service": service, "event": "message", "message": text }).to_string(),
    }
}

/// A notice as a line for the console. `more` is appended to its words.
pub(crate) fn notice(notice: &Notice, more: &str, style: ReportStyle) -> Option<String> {
    let (mark, mut text) = words(&notice.what)?;
    text.push_str(more);
    Some(match style {
        ReportStyle::Plain | ReportStyle::Colour => line(&notice.service, mark, &text, style),
        ReportStyle::Json => json(notice, &text).to_string(),
    })
}

fn json(notice: &Notice, text: &str) -> serde_json::Value {
    let mut line = serde_json::json!({
        "time": stayput_kernel::clock::local_hms(), "service": notice.service, "message": text,
    });
    let (kind, facts) = facts(&notice.what);
    if let Some(line) = line.as_object_mut() {
        line.insert("event".to_owned(), kind.into());
        line.extend(facts);
    }
    line
}

/// A notice for programs: its kind as a kebab-case word, and its fields; durations in milliseconds.
pub(crate) fn facts(what: &What) -> (String, serde_json::Map<String, serde_json::Value>) {
    // The model's enum is `"Name"` or `{"Name": {fields}}`: the name becomes the kind.
    let (name, fields) = match serde_json::to_value(what) {
        Ok(serde_json::Value::Object(what)) => what.into_iter().next().unwrap_or_default(),
        Ok(serde_json::Value::String(name)) => (name, serde_json::Value::Null),
        Ok(_) | Err(_) => Default::default(),
    };
    let fields = match fields {
        serde_json::Value::Object(fields) => fields.into_iter().map(|(name, value)| milliseconds(name, value)).collect(),
        _ => serde_json::Map::new(),
    };
    (kebab(&name), fields)
}

/// serde writes a duration as `{"secs", "nanos"}`; people count in milliseconds.
fn milliseconds(name: String, value: serde_json::Value) -> (String, serde_json::Value) {
    let parts = value.get("secs").and_then(serde_json::Value::as_u64).zip(value.get("nanos").and_then(serde_json::Value::as_u64));
    match parts {
        Some((seconds, nanos)) => (format!("{name}_ms"), (seconds * 1000 + nanos / 1_000_000).into()),
        None => (name, value),
    }
}

fn kebab(name: &str) -> String {
    let mut out = String::new();
    for character in name.chars() {
        if character.is_ascii_uppercase() && !out.is_empty() {
            out.push('-');
        }
        out.push(character.to_ascii_lowercase());
    }
    out
}

/// The words; `None`: nothing that a person needs to read.
pub(crate) fn words(what: &What) -> Option<(Mark, String)> {
    use Mark::{Good, Plain, Trouble};
    Some(match what {
        What::Spawned { generation, pid, from: None, .. } => (Plain, format!("generation {generation} started (pid {pid})")),
        What::Spawned { generation, pid, from: Some(from), .. } => {
            (Plain, format!("generation {generation} started (pid {pid}); generation {from} has the connections until it is ready"))
        }
        What::Untrapped { errno, .. } => {
            (Trouble, format!("its binds cannot be caught ({}): its ports are not held, a restart refuses connections", untrapped(*errno)))
        }
        What::Listening { pid, address, inode, selected, .. } => {
            let pid = pid.map_or_else(|| "pid not known yet".to_owned(), |pid| format!("pid {pid}"));
            let muted = if *selected { "" } else { "; no connections yet" };
            (Good, format!("listening on {address} ({pid}, inode {inode}){muted}"))
        }
        What::BindRefused { generation, address, errno } => {
            (Trouble, format!("generation {generation} was refused {address}: {}", error(*errno)))
        }
        What::Held { address } => (Good, format!("{address} is held; connections wait")),
        What::PortTaken { address } => (Trouble, format!("waiting for {address}: it is taken")),
        What::HoldRefused { address, errno } => (Trouble, format!("{address} cannot be held: {}", error(*errno))),
        What::Ready { generation, after, evidence } => {
            (Good, format!("generation {generation} is ready after {}: {evidence}", span(*after)))
        }
        What::Overdue { generation, failure } => {
            (Trouble, format!("generation {generation} is {}; it is left running, for nothing else could serve", reason(failure)))
        }
        What::Switched { from: None, to, .. } => (Good, format!("generation {to} has the connections")),
        What::Switched { from: Some(from), to, soak, took, .. } => {
            let took = took.map_or_else(String::new, |took| format!(" after {}", span(took)));
            let soak = if soak.is_zero() { String::new() } else { format!("; generation {from} stays {} as the way back", span(*soak)) };
            (Good, format!("generation {to} has all new connections{took}{soak}"))
        }
        What::Counted { from, old: Some(old), .. } => {
            let open = count(old.open, "open connection");
            (Plain, format!("generation {from} finishes {open} and {} queued", old.queued))
        }
        What::Counted { from, old: None, .. } => (Plain, format!("generation {from} finishes its connections (not measured)")),
        What::Settled { probation: false, .. } => return None,
        What::Settled { generation, .. } => (Good, format!("generation {generation} has passed its probation")),
        What::NotReady { generation, serving, failure, .. } => {
            let who = generation.map_or_else(|| "the restart".to_owned(), |generation| format!("generation {generation}"));
            let rest = serving.map_or_else(String::new, |serving| format!("; generation {serving} goes on, untouched"));
            (Trouble, format!("{who} failed: {}{rest}", reason(failure)))
        }
        What::RollingBack { from, to, failure: Failure::CalledOff } => {
            (Plain, format!("generation {from} was called off: it finishes what it has; all new connections go to generation {to}"))
        }
        What::RollingBack { from, to, failure } => {
            (Trouble, format!("generation {from} failed on probation: {}; the connections go back to generation {to}", reason(failure)))
        }
        What::RolledBack { to, .. } => (Good, format!("generation {to} has all new connections again")),
        What::Crashed { generation, status, served } => {
            (Trouble, format!("generation {generation} {} after serving for {}", ended(*status), span(*served)))
        }
        What::WentToBackground { generation } => {
            (Plain, format!("the main process of generation {generation} ended with status 0, and its children go on: it is a daemon"))
        }
        What::BackingOff { wait, failures } => (Plain, format!("the next start is in {} ({failures} failed in a row)", span(*wait))),
        What::Unequal { generation, serving, unequal, .. } => (
            Trouble,
            format!("generation {generation} could not bind beside generation {serving}, which goes first: {}", self::unequal(*unequal)),
        ),
        What::Moved { from, to, moved, .. } => {
            (Trouble, format!("generation {to} {}; generation {from} keeps that until it has drained", self::moved(moved)))
        }
        What::HandingOver { from, parked: true } => (Plain, format!("generation {from} finishes; new connections wait for its successor")),
        What::HandingOver { from, parked: false } => {
            (Trouble, format!("generation {from} has to stop first; its ports are not held, so new connections are refused meanwhile"))
        }
        What::RestartQueued => (Plain, "another restart follows when this one is decided".to_owned()),
        What::StopSignal { generation, signal, grace, why, left } => {
            let name = signal_name(*signal);
            let why = stop_reason(*why);
            let left = left.map_or_else(String::new, |left| format!(", {}", remaining(left)));
            (Plain, format!("SIG{name} sent to generation {generation} ({why}{left}); it has {} to end", span(*grace)))
        }
        What::Killed { generation, grace } => {
            (Trouble, format!("SIGKILL sent to all that is left of generation {generation} after {}", span(*grace)))
        }
        What::Gone { generation, status, stopped } => {
            let how = if *stopped { "as asked" } else { "by itself" };
            (Plain, format!("no process of generation {generation} is left; its main process {}, {how}", ended(*status)))
        }
        What::Lost { generation, count } => {
            (Trouble, format!("lost: {}, in the queue of generation {generation}", self::count(*count, "waiting connection")))
        }
        What::HoldOver { after } => {
            (Trouble, format!("nobody has accepted for {}: the ports are released, connections are refused from now on", span(*after)))
        }
        What::SteerFailed { generation, what } => {
            (Trouble, format!("new connections could not be steered to generation {generation}: {what}"))
        }
        What::WaitsFor { services } => {
            let services: Vec<String> = services.iter().map(|(service, when)| format!("{service} ({})", awaited(*when))).collect();
            (Plain, format!("its start waits for {}", services.join(", ")))
        }
        What::Alive { generation, after } => {
            (Good, format!("generation {generation} runs: its process has lived for {} and listens nowhere", span(*after)))
        }
        What::Completed { generation, took } => {
            (Good, format!("run {generation} is complete: it exited with status 0 after {}", span(*took)))
        }
        What::TaskFailed { generation, status, took } => {
            (Trouble, format!("run {generation} failed: it {} after {}", ended(*status), span(*took)))
        }
        What::RunSkipped { generation, running } => {
            (Trouble, format!("a run was due and left out: run {generation} has been going on for {}", span(*running)))
        }
        What::GaveUp { starts, within, status } => {
            let last = status.map_or_else(String::new, |status| format!("; the last one {}", ended(status)));
            let starts = count(*starts, "start");
            (Trouble, format!("given up: {starts} within {}{last}; a restart by hand tries again", span(*within)))
        }
        What::Unhealthy { generation, failures, what, restart } => {
            let rest = if *restart { "it is restarted" } else { "it was restarted for this just now, the next restart waits" };
            let times = count(*failures, "time");
            (Trouble, format!("generation {generation} fails its health check: {what}, {times} in a row; {rest}"))
        }
        What::Healthy { generation, what } => (Good, format!("generation {generation} passes its health check again: {what}")),
        What::FilesChanged { path, count: 1 } => (Plain, format!("{path} changed: it is restarted")),
        What::FilesChanged { path, count } => (Plain, format!("{path} and {} changed: it is restarted", others(*count))),
        What::Canary { generation, share, time } => {
            let time = time.map_or_else(|| "until somebody decides".to_owned(), |time| format!("for {}", span(time)));
            (Good, format!("generation {generation} gets {} of the new connections {time}", percent(*share)))
        }
        What::Added => (Plain, "new in the configuration".to_owned()),
        What::Removed => (Plain, "no longer in the configuration: it finishes what it has, and stops".to_owned()),
        What::Reconfigured { keys, restart } => {
            let rest = if *restart { "it takes a new process" } else { "done without a restart" };
            (Plain, format!("its configuration changed ({}): {rest}", keys.join(", ")))
        }
        What::Reverted => (Plain, "its command and environment are those of before again".to_owned()),
        What::GaveWay { wanted, service, to } => {
            let who = service.as_ref().map_or_else(|| "somebody else has it".to_owned(), |service| format!("{service} wants it"));
            (Plain, format!("it leaves {wanted}, because {who}, and is on http://{to}/"))
        }
        What::Ended { status } => {
            let how = status.map_or_else(|| "it never ran".to_owned(), |status| format!("its main process {}", ended(status)));
            (Trouble, format!("it is over: {how}, and it is not started again"))
        }
        What::Stopped { status } => {
            let how = status.map_or_else(String::new, |status| format!("; its main process {}", ended(status)));
            (Good, format!("stopped: no process of it is left{how}"))
        }
    })
}

fn awaited(when: When) -> &'static str {
    match when {
        When::Started => "started",
        When::Ready => "ready",
        When::Completed => "completed",
    }
}

/// "5 %", "0.5 %".
pub(crate) fn percent(permille: u16) -> String {
    let (whole, tenths) = (permille / 10, permille % 10);
    if tenths == 0 { format!("{whole} %") } else { format!("{whole}.{tenths} %") }
}

/// "1 other file", "2 other files".
fn others(count: u32) -> String {
    self::count(count.saturating_sub(1), "other file")
}

fn remaining(left: DrainReport) -> String {
    format!("{}, {} of them idle", count(left.open, "open connection"), left.idle)
}

fn stop_reason(why: StopReason) -> &'static str {
    match why {
        StopReason::Stop => "stop",
        StopReason::Drained => "drained",
        StopReason::DrainDeadline => "the drain's time is over",
        StopReason::TooMany => "too many generations drain",
        StopReason::NotReady => "not ready",
        StopReason::Failed => "failed on probation",
        StopReason::HandingOver => "its successor waits for it",
        StopReason::Leftover => "left over",
        StopReason::Removed => "no longer in the configuration",
    }
}

/// "1 connection", "2 connections".
pub(crate) fn count(count: u32, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Why a generation failed, without a full stop.
pub(crate) fn reason(failure: &Failure) -> String {
    match failure {
        Failure::Spawn(what) => format!("it could not be forked: {what}"),
        Failure::Exec(failure) => format!("its command did not run: {}: {}", failure.stage, error(failure.errno)),
        Failure::Died { status, refused } => {
            let mut text = format!("its main process {}", ended(*status));
            for (address, errno) in refused {
                // Writing to a String cannot fail.
                let _ = write!(text, "; it was refused {address}: {}", error(*errno));
            }
            text
        }
        Failure::TimedOut { after, listens, last } => {
            let listens = if *listens { "" } else { ", and listens nowhere" };
            let last = last.as_ref().map_or_else(String::new, |last| format!(": {last}"));
            format!("not ready within {}{listens}{last}", span(*after))
        }
        Failure::Unhealthy { failures, last } => format!("its health check failed {}: {last}", count(*failures, "time")),
        Failure::Steer(what) => format!("connections could not be steered to it: {what}"),
        Failure::Park(what) => format!("new connections could not be made to wait: {what}"),
        Failure::CalledOff => "it was called off".to_owned(),
        Failure::Superseded => "a newer restart took its place".to_owned(),
    }
}

/// What else there is to know of a restart.
pub(crate) fn notes(ledger: &Ledger) -> Vec<String> {
    let without = ledger.unequal.map(|both| format!("without overlap: {}", unequal(both)));
    let moved = ledger.moved.as_ref().map(|moved| format!("the new generation {}", self::moved(moved)));
    without.into_iter().chain(moved).collect()
}

fn unequal(Unequal { old, new }: Unequal) -> String {
    format!("it wants {new}, the old one has {old}, and connections cannot be steered between unequal addresses of a port")
}

fn moved(moved: &Moved) -> String {
    let list = |addresses: &[std::net::SocketAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    let left = list(&moved.left);
    if moved.new.is_empty() {
        format!("does not listen on {left} any more")
    } else {
        format!("listens on {} instead of {left}", list(&moved.new))
    }
}

/// "exited with status 0", "was ended by signal TERM".
pub(crate) fn ended(status: ExitStatus) -> String {
    match status {
        ExitStatus::Exited(status) => format!("exited with status {status}"),
        ExitStatus::Signalled(signal) => format!("was ended by signal {}", signal_name(signal)),
        ExitStatus::Unknown => "ended, nobody can say how".to_owned(),
    }
}

/// A command as a person would type it, without control characters and secrets; not too long.
pub(crate) fn command(argv: &[Vec<u8>]) -> String {
    const LONGEST: usize = 400;
    let mut text = stayput_model::text::command_line(argv.iter().map(Vec::as_slice));
    if let Some((at, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(at);
        text.push('…');
    }
    text
}

/// Why binds cannot be caught. Installing the filter fails with other errors than reaching into the service does.
pub(crate) fn untrapped(errno: i32) -> String {
    const EPERM: i32 = 1;
    const EOPNOTSUPP: i32 = 95;
    let call = match errno {
        EPERM => "pidfd_getfd",
        EOPNOTSUPP => return "io_uring: it binds past the filter".to_owned(),
        _ => "seccomp",
    };
    format!("{call}: {}", error(errno))
}

/// A limit that the kernel does not keep for a generation.
pub(crate) fn unlimited(file: &str, errno: i32) -> String {
    const ENOENT: i32 = 2;
    const EBUSY: i32 = 16;
    let controller = file.split('.').next().unwrap_or_default();
    let why = match errno {
        ENOENT => format!("there is no {controller} controller here (systemd: Delegate=yes)"),
        EBUSY => format!("processes in stayput's own control group keep {controller} from being enabled"),
        errno => error(errno),
    };
    format!("it runs without its limit {file}: {why}")
}

/// A listener that passed no trap.
pub(crate) fn not_held(address: std::net::SocketAddr, ring: bool) -> String {
    if ring {
        format!("{address} is not held: it was bound by io_uring, which no filter sees; the port closes in a restart")
    } else {
        format!("{address} is not held: the kernel chose the port, or the socket was open before the command began")
    }
}

/// Somebody else listens where the service does.
pub(crate) fn stranger(owner: Option<&str>, address: std::net::SocketAddr, inode: u32) -> String {
    let owner = owner.unwrap_or("a process that we may not look at");
    format!("{owner}, which is not of this service, listens on {address} as well (inode {inode}): it may get connections")
}

/// What the server set of its own socket and the held one does not have.
pub(crate) fn not_copied(address: std::net::SocketAddr, options: &[String]) -> String {
    format!("{address}: the held socket could not be given what the server had set of its own: {}", options.join(", "))
}

/// Connections that waited where the server does not listen, or on a socket that it could not be given.
pub(crate) fn reset(held: std::net::SocketAddr, own: std::net::SocketAddr, count: u32) -> String {
    let connections = self::count(count, "waiting connection");
    if held == own {
        return format!(
            "what was held on {held} could not be put in the place of the server's own socket, which took over: {connections} reset \
             (`stayput doctor` tells why)"
        );
    }
    format!("{connections} reset: they waited on {held}, and it listens on {own}; declare that (--port {own}), and they are served")
}

fn error(errno: i32) -> String {
    std::io::Error::from_raw_os_error(errno).to_string()
}

pub(crate) fn span(duration: Duration) -> String {
    let ms = duration.as_millis();
    if ms < 1000 { format!("{ms} ms") } else { format!("{:.1} s", duration.as_secs_f64()) }
}

/// A wall-clock time as people read it.
pub(crate) fn local_time(at_ms: u64) -> String {
    let at = std::time::UNIX_EPOCH + Duration::from_millis(at_ms);
    let text = |at: stayput_kernel::local_time::LocalTime| {
        format!("{:04}-{:02}-{:02} {:02}:{:02}:{:02}", at.year, at.month, at.day, at.hour, at.minute, at.second)
    };
    stayput_kernel::local_time::LocalTime::at(at).map_or_else(|| format!("{} s after 1970", at_ms / 1000), text)
}

/// Signal name without `SIG` (signal(7), the numbers of x86 and ARM).
pub(crate) fn signal_name(signal: i32) -> String {
    const NAMES: [&str; 32] = [
        "0", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM", "STKFLT",
        "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    usize::try_from(signal).ok().and_then(|n| NAMES.get(n)).map_or_else(|| signal.to_string(), |name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use stayput_model::event::GenerationId;

    #[test]
    fn a_command_can_be_typed_again() {
        let argv = ["python3", "-c", "print('hi there')", ""].map(|word| word.as_bytes().to_vec());
        assert_eq!(command(&argv), "python3 -c 'print('\\''hi there'\\'')' ''");
        assert!(!command(&[b"a\x1b[31m".to_vec()]).contains('\u{1b}'));
        assert!(command(&[vec![b'x'; 10_000]]).len() < 500);
    }

    #[test]
    fn json_lines_say_the_same_and_more() {
        let what = What::Ready { generation: GenerationId(4), after: Duration::from_millis(310), evidence: "e".to_owned() };
        let line = super::notice(&Notice { service: "web".to_owned(), what }, "", ReportStyle::Json).unwrap();
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["event"], "ready");
        assert_eq!(value["generation"], 4);
        assert_eq!(value["after_ms"], 310);
        assert_eq!(value["message"], "generation 4 is ready after 310 ms: e");
        let line = super::notice(&Notice { service: "web".to_owned(), what: What::RestartQueued }, "", ReportStyle::Json).unwrap();
        assert!(line.contains("\"restart-queued\""), "{line}");
    }

    #[test]
    fn the_listening_line_has_the_shape_that_people_know() {
        let what = What::Listening {
            generation: GenerationId(1),
            pid: Some(24376),
            address: "0.0.0.0:5000".parse().unwrap(),
            inode: 48213,
            selected: true,
        };
        let line = super::notice(&Notice { service: "web".to_owned(), what }, "", ReportStyle::Plain).unwrap();
        assert!(line.ends_with("] [web] ✓ listening on 0.0.0.0:5000 (pid 24376, inode 48213)"), "{line}");
    }
}

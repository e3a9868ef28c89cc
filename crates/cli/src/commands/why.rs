//! `stayput why PORT`: who has a port, in which state, what a bind would say, and what to do.
//!
//! Exit code: 0 a server with SO_REUSEADDR can bind and listen on 0.0.0.0 (with `--as`: the server asked for), 1 it cannot,
//! 2 bad input, 3 not enough rights to know.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use stayput_kernel::sock_diag::DestroyEvents;
use stayput_ports::bind::Server;
use stayput_ports::explain::{host, seconds, shorten, since};
use stayput_ports::facts::{AcceptQueue, Fact, Holder, Manager, PortSocket, Role, Via};
use stayput_ports::verdict::{Basis, Probe, Verdict};
use stayput_ports::{Options, Outcome, Report, inspect, spec};

use crate::error::{Error, Kind};
use crate::output;

/// Nobody reads more sockets than this; the JSON has all.
const SHOWN_SOCKETS: usize = 12;
/// With more ports than this each gets one line.
const IN_FULL: usize = 3;

/// Arguments of `stayput why`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code: 0 it can be bound, 1 it cannot, 2 bad input, 3 not enough rights to know.")]
pub(crate) struct Args {
    /// Ports, ranges or both: 5000, 8000-8010, 80,443
    #[arg(required = true, value_name = "PORT")]
    ports: Vec<String>,
    /// Judge for exactly this server: `ADDR[,reuseaddr][,reuseport][,v6only][,udp][,uid=N]`
    #[arg(long = "as", value_name = "SERVER")]
    server: Option<String>,
    /// Print JSON (one object; an array for several ports)
    #[arg(long)]
    json: bool,
    /// Show it again whenever it changes
    #[arg(long)]
    watch: bool,
    /// Do not confirm by a bind that is undone at once
    #[arg(long)]
    no_probe: bool,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Result<ExitCode, Error> {
    let ports = parse_ports(&args.ports)?;
    let options = Options { servers: servers(args.server.as_deref())?, probe: !args.no_probe, ..Options::default() };
    if args.watch {
        return watch(&ports, &options, args.json);
    }
    let mut told = false;
    let early = |sentence: &str| {
        if !args.json {
            told = output::say(&format!("{sentence}\n"));
        }
    };
    let reports = inspect(&ports, &options, early).map_err(|error| cannot_look(&error))?;
    let text = if args.json { json(&reports) } else { text(&reports) };
    // The sentence has been printed while the rest was looked for.
    let text = if told { text.split_once('\n').map_or("", |(_, rest)| rest) } else { &text };
    output::say(text);
    Ok(ExitCode::from(code(&reports)))
}

/// All port arguments together.
pub(crate) fn parse_ports(texts: &[String]) -> Result<Vec<u16>, Error> {
    let mut ports = Vec::new();
    for text in texts {
        ports.extend(
            spec::parse_ports(text)
                .map_err(|bad| Error::new(Kind::BadInput, bad.to_string()).hint("ports look like 5000, 8000-8010 or 80,443"))?,
        );
    }
    ports.sort_unstable();
    ports.dedup();
    Ok(ports)
}

/// The server of `--as`, if there is one.
pub(crate) fn servers(text: Option<&str>) -> Result<Vec<Server>, Error> {
    let uid = rustix::process::geteuid().as_raw();
    text.map(|text| {
        spec::parse_server(text, uid)
            .map_err(|bad| Error::new(Kind::BadInput, bad.to_string()).hint("a server looks like 0.0.0.0,reuseaddr or ::,reuseaddr,uid=33"))
    })
    .transpose()
    .map(|server| server.into_iter().collect())
}

/// The kernel or /proc did not let us look at all.
pub(crate) fn cannot_look(error: &stayput_ports::Error) -> Error {
    Error::new(Kind::NotPermitted, "ports cannot be looked at here").because(error).hint("`stayput doctor` tells what this system allows")
}

fn code(reports: &[Report]) -> u8 {
    let worst = |outcome| reports.iter().any(|report| report.outcome() == outcome);
    match (worst(Outcome::Taken), worst(Outcome::Unknown)) {
        (true, _) => 1,
        (false, true) => 3,
        (false, false) => 0,
    }
}

fn json(reports: &[Report]) -> String {
    let text = match reports {
        [report] => serde_json::to_string_pretty(report),
        several => serde_json::to_string_pretty(several),
    };
    // Nothing in a report can fail to be written: no maps with odd keys, no floats.
    text.unwrap_or_default() + "\n"
}

fn text(reports: &[Report]) -> String {
    if reports.len() <= IN_FULL {
        return reports.iter().map(in_full).collect::<Vec<_>>().join("\n");
    }
    let mut out = String::new();
    let mut free = Vec::new();
    for report in reports {
        if report.outcome() == Outcome::Free && report.sockets.is_empty() {
            free.push(report.port);
        } else {
            let _ = writeln!(out, "{}", report.summary);
        }
    }
    if !free.is_empty() {
        let _ = writeln!(out, "Free: {}", ranges(&free));
    }
    out
}

/// `5000-5003, 5007`.
fn ranges(ports: &[u16]) -> String {
    let mut parts: Vec<(u16, u16)> = Vec::new();
    for &port in ports {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == port => *last = port,
            _ => parts.push((port, port)),
        }
    }
    parts.iter().map(|(low, high)| if low == high { low.to_string() } else { format!("{low}-{high}") }).collect::<Vec<_>>().join(", ")
}

fn in_full(report: &Report) -> String {
    let mut out = format!("{}\n", report.summary);
    if !report.sockets.is_empty() {
        out.push('\n');
    }
    for socket in report.sockets.iter().take(SHOWN_SOCKETS) {
        socket_line(&mut out, report, socket);
    }
    if let Some(more) = report.sockets.len().checked_sub(SHOWN_SOCKETS).filter(|more| *more > 0) {
        let _ = writeln!(out, "  … and {more} more (--json has all)");
    }
    out.push('\n');
    for verdict in &report.verdicts {
        verdict_line(&mut out, verdict);
    }
    for note in &report.notes {
        let _ = writeln!(out, "note: {note}");
    }
    for unseen in &report.unreadable {
        let _ = writeln!(out, "not seen: {}: {}", unseen.what, unseen.reason);
    }
    for step in &report.next {
        let _ = writeln!(out, "  $ {:<34} # {}", step.command, step.why);
    }
    out
}

fn socket_line(out: &mut String, report: &Report, socket: &PortSocket) {
    let many = if socket.count > 1 { format!("{} × ", socket.count) } else { String::new() };
    let transport = socket.transport.name().to_lowercase();
    let _ = write!(out, "  {many}{} {transport} {}", socket.state.name(), socket.local);
    if let Some(remote) = socket.remote {
        let arrow = if socket.role == Role::Accepted { "←" } else { "→" };
        let _ = write!(out, " {arrow} {remote}");
    }
    if let Some(queue) = socket.accept_queue {
        let _ = write!(out, ", accept queue {}/{}", queue.waiting, queue.limit);
    }
    if let Some(left) = socket.not_before {
        let _ = write!(out, ", kept for at least {}", seconds(left));
    }
    match &socket.flags {
        Fact::Known { value, .. } => {
            let options = match (value.reuseaddr, value.reuseport) {
                (true, true) => "SO_REUSEADDR SO_REUSEPORT",
                (true, false) => "SO_REUSEADDR",
                (false, true) => "SO_REUSEPORT",
                (false, false) => "no reuse options",
            };
            let _ = write!(out, ", {options}");
        }
        Fact::Unreadable { reason, .. } => {
            let _ = write!(out, ", reuse options unreadable: {reason}");
        }
        Fact::Absent { .. } => {}
    }
    if socket.inode != 0 {
        let _ = write!(out, ", inode {}", socket.inode);
    }
    out.push('\n');
    if !matches!(socket.role, Role::Listener | Role::Bound | Role::Outgoing) {
        return;
    }
    let pids = socket.pids.value().map(Vec::as_slice).unwrap_or_default();
    // In the report's order: who listens before who inherited.
    for holder in report.holders.iter().filter(|holder| pids.contains(&holder.process.pid)).take(SHOWN_SOCKETS) {
        let _ = writeln!(out, "    {}", holder_line(holder));
    }
    if let Some(reason) = socket.pids.unreadable() {
        let _ = writeln!(out, "    owner unreadable: {reason}");
    }
}

/// `pid 24376 python app.py, user www, since 07:55:28, in /srv, child of bash (812)`.
pub(crate) fn holder_line(holder: &Holder) -> String {
    let process = &holder.process;
    let mut line = format!("pid {} {}", process.pid, shorten(&process.command, 100));
    if let Some(user) = process.user.clone().or_else(|| process.uid.map(|uid| uid.to_string())) {
        let _ = write!(line, ", user {user}");
    }
    if let Some(time) = process.started.and_then(since) {
        let _ = write!(line, ", since {time}");
    }
    if let Some(cwd) = process.cwd.value() {
        let _ = write!(line, ", in {cwd}");
    }
    if let Some(parent) = process.parents.first() {
        let _ = write!(line, ", child of {} ({})", parent.name, parent.pid);
    }
    match &process.manager {
        Some(Manager::Stayput(service)) => {
            let _ = write!(line, ", stayput service {}", service.service);
        }
        Some(Manager::Systemd { unit, .. }) => {
            let _ = write!(line, ", unit {unit}");
        }
        Some(Manager::SystemdSocket { units }) => {
            let _ = write!(line, ", for {}", units.join(" or "));
        }
        Some(Manager::Container { runtime, id }) => {
            let _ = write!(line, ", {runtime} container {id}");
        }
        Some(Manager::PublishedPort { target: Some(target) }) => {
            let _ = write!(line, ", published for {target}");
        }
        Some(Manager::PublishedPort { target: None }) | None => {}
    }
    match holder.via {
        Via::Fd => {}
        Via::Thread => line.push_str(", open in a thread (its main thread is gone or has other files)"),
        Via::IoUring => line.push_str(", registered with an io_uring, no fd is open"),
        Via::InFlight => line.push_str(", perhaps: fds wait in one of its unix sockets"),
    }
    line
}

fn verdict_line(out: &mut String, verdict: &Verdict) {
    let answer = match verdict.outcome {
        Outcome::Free => "works",
        Outcome::Taken => verdict.errno.unwrap_or("fails"),
        Outcome::Unknown => "unknown",
    };
    let basis = match (verdict.basis, verdict.probe) {
        (Basis::Rule, Probe::NotMade { reason }) => format!("by the rule; no probe: {reason}"),
        (Basis::Rule, _) => "by the rule".to_owned(),
        (Basis::Probe, _) => "by a probe bind, closed at once".to_owned(),
        (Basis::RuleAndProbe, _) => "by the rule and a probe bind, closed at once".to_owned(),
    };
    let wait = match verdict.not_before() {
        Some(left) if verdict.outcome != Outcome::Free => format!(", not before {}", seconds(left)),
        _ => String::new(),
    };
    let _ = writeln!(out, "  {:<42} {answer}{wait} ({basis})", verdict.server);
}

/// Shows it again whenever it changes: on the kernel's event when a socket ends; for new sockets there is none, so once a
/// second at the least.
fn watch(ports: &[u16], options: &Options, json: bool) -> Result<ExitCode, Error> {
    let mut events = DestroyEvents::subscribe(true, true)
        .map_err(|error| Error::new(Kind::NotPermitted, "the kernel's events cannot be had").because(&error))?;
    let mut last = String::new();
    loop {
        let reports = inspect(ports, options, |_| {}).map_err(|error| cannot_look(&error))?;
        let shown = text(&reports);
        let settled = without_times(&reports);
        if settled != last {
            let out = if json {
                serde_json::to_string(&reports).unwrap_or_default() + "\n"
            } else if output::is_watched() {
                format!("\x1b[H\x1b[2J{shown}\n(watching; Ctrl-C ends)\n")
            } else {
                format!("{shown}\n")
            };
            if !output::say(&out) {
                return Ok(ExitCode::from(code(&reports)));
            }
            last = settled;
        }
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        // An interrupted wait just looks again.
        let _ = poll(&mut [PollFd::new(&events, PollFlags::IN)], Some(&second));
        // Our own probes end sockets too: a pause keeps them from waking us in a circle.
        let _ = poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: Duration::from_millis(200).subsec_nanos().into() }));
        let _ = events.drain(|_| {});
    }
}

/// What counts as a change: not the seconds that run down.
fn without_times(reports: &[Report]) -> String {
    let mut out = String::new();
    for report in reports {
        let _ = write!(out, "{}:", report.port);
        for verdict in &report.verdicts {
            let _ = write!(out, "{:?}{:?}", verdict.outcome, verdict.errno);
        }
        for socket in &report.sockets {
            let _ = write!(out, "{}{}{:?}{:?};", socket.state.name(), host(socket.local.ip()), socket.remote, socket.pids.value());
            let _ = write!(out, "{:?}", socket.accept_queue.map(AcceptQueue::is_full));
        }
        for holder in &report.holders {
            let _ = write!(out, "{}{:?}", holder.process.pid, holder.process.is_stopped());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_are_put_together() {
        assert_eq!(ranges(&[1, 2, 3, 5, 7, 8]), "1-3, 5, 7-8");
        assert_eq!(ranges(&[u16::MAX - 1, u16::MAX]), "65534-65535");
    }
}

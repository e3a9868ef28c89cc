//! `stayput ports`: every listening port with its owner.
//!
//! Exit code: 0 something is listed, 1 nothing matches, 2 bad input.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use stayput_ports::explain::shorten;
use stayput_ports::facts::{Manager, PortSocket, Process};
use stayput_ports::listing::{Filter, Listing, list, manager_name};

use super::why;
use crate::error::Error;
use crate::output;

/// Lines are cut here when nobody says how wide the terminal is.
const WIDTH: usize = 80;

/// Arguments of `stayput ports`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code: 0 something is listed, 1 nothing matches, 2 bad input.")]
pub(crate) struct Args {
    /// Only these ports: 5000, 8000-8010, 80,443
    #[arg(value_name = "PORT")]
    ports: Vec<String>,
    /// Only processes whose command line contains TEXT, or with this pid
    #[arg(long, short, value_name = "TEXT")]
    process: Option<String>,
    /// Only sockets of this user (name or uid)
    #[arg(long, short, value_name = "USER")]
    user: Option<String>,
    /// Only units, containers and stayput services whose name contains TEXT
    #[arg(long, value_name = "TEXT")]
    unit: Option<String>,
    /// Also unix sockets
    #[arg(long)]
    unix: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Result<ExitCode, Error> {
    let ports = if args.ports.is_empty() { None } else { Some(why::parse_ports(&args.ports)?.into_iter().collect()) };
    let filter = Filter { ports, process: args.process.clone(), user: args.user.clone(), unit: args.unit.clone() };
    let listing = list(args.unix, &filter).map_err(|error| why::cannot_look(&error))?;
    let text = if args.json { serde_json::to_string_pretty(&listing).unwrap_or_default() + "\n" } else { table(&listing, width()) };
    output::say(&text);
    Ok(ExitCode::from(u8::from(listing.sockets.is_empty() && listing.unix.is_empty())))
}

fn width() -> usize {
    if let Some(columns) = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()) {
        return columns;
    }
    // A file or a pipe has no width: programs get whole command lines.
    if !output::is_watched() {
        return usize::MAX;
    }
    rustix::termios::tcgetwinsize(std::io::stdout()).map_or(WIDTH, |size| usize::from(size.ws_col).max(40))
}

fn table(listing: &Listing, width: usize) -> String {
    let by_pid: HashMap<i32, &Process> = listing.processes.iter().map(|process| (process.pid, process)).collect();
    let mut out = String::new();
    if !listing.sockets.is_empty() {
        let _ = writeln!(out, "{:<5} {:<21} {:>9} {:>7} {:<9} COMMAND", "PROTO", "ADDRESS", "QUEUE", "PID", "USER");
    }
    for socket in &listing.sockets {
        socket_rows(&mut out, socket, &by_pid, width);
    }
    for socket in &listing.unix {
        let owner = socket.pids.first().and_then(|pid| by_pid.get(pid));
        let pid = owner.map_or_else(|| "-".to_owned(), |process| process.pid.to_string());
        let command = owner.map_or_else(|| "not readable".to_owned(), |process| process.command.clone());
        let more = if socket.pids.len() > 1 { format!(" (+{} more)", socket.pids.len() - 1) } else { String::new() };
        push_cut(&mut out, &format!("unix  {:<31} {pid:>7} {command}{more}", socket.name), width);
    }
    for unseen in &listing.unreadable {
        let _ = writeln!(out, "not seen: {}: {}", unseen.what, unseen.reason);
    }
    out
}

fn socket_rows(out: &mut String, socket: &PortSocket, by_pid: &HashMap<i32, &Process>, width: usize) {
    let six = if socket.raw.family == stayput_kernel::sock_diag::Family::V6 { "6" } else { "" };
    let proto = format!("{}{six}", socket.transport.name().to_lowercase());
    let queue = socket.accept_queue.map_or(String::new(), |queue| {
        let full = if queue.is_full() { "!" } else { "" };
        format!("{full}{}/{}", queue.waiting, queue.limit)
    });
    let head = format!("{proto:<5} {:<21} {queue:>9}", socket.local.to_string());
    let mut owners: Vec<&&Process> = socket.pids.value().into_iter().flatten().filter_map(|pid| by_pid.get(pid)).collect();
    // The server before who keeps its socket for it and who inherited it.
    owners.sort_by_key(|process| (process.name == "stayput", process.stray.is_some()));
    let user = socket.user.clone().or_else(|| socket.uid.map(|uid| uid.to_string())).unwrap_or_default();
    let Some((first, sharers)) = owners.split_first() else {
        let reason = if socket.pids.unreadable().is_some() { "owner not readable" } else { "the kernel itself" };
        push_cut(out, &format!("{head} {:>7} {:<9} {reason}", "-", shorten(&user, 9)), width);
        return;
    };
    push_cut(out, &format!("{head} {:>7} {:<9} {}", first.pid, shorten(&user, 9), what(first)), width);
    // One socket, several processes: a tree under the first.
    for (index, process) in sharers.iter().enumerate() {
        let branch = if index + 1 == sharers.len() { "└─" } else { "├─" };
        let user = process.user.clone().unwrap_or_default();
        push_cut(out, &format!("{:<37} {:>7} {:<9} {branch} {}", "", process.pid, shorten(&user, 9), what(process)), width);
    }
}

fn what(process: &Process) -> String {
    let mark = match &process.manager {
        Some(manager @ Manager::Stayput(_)) => format!("★ {}: ", manager_name(manager)),
        Some(manager) => format!("{}: ", manager_name(manager)),
        None => String::new(),
    };
    let stray = if process.stray.is_some() { " (inherited)" } else { "" };
    let stopped = if process.is_stopped() { " (stopped)" } else { "" };
    format!("{mark}{}{stopped}{stray}", process.command)
}

fn push_cut(out: &mut String, line: &str, width: usize) {
    out.push_str(&shorten(line, width));
    out.push('\n');
}

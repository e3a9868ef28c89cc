//! `stayput free PORT`: stop the holder of a port gently, by the means that fit it, after asking.
//!
//! Exit code: 0 the port is free (or was), 1 it is not, 2 bad input or nobody there to ask, 3 not enough rights.

use std::fmt::Write as _;
use std::io::{self, BufRead, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use stayput_ports::bind::Transport;
use stayput_ports::facts::Manager;
use stayput_ports::free::{self, Destroyed, Plan, Stopped};
use stayput_ports::report::Step;
use stayput_ports::{Options, Outcome, Report, inspect};

use super::{wait, why};
use crate::error::{Error, Kind};
use crate::output;

/// Arguments of `stayput free`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code: 0 the port is free, 1 it is not, 2 bad input or nobody to ask, 3 not enough rights.")]
pub(crate) struct Args {
    /// The port
    port: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// After the grace period, SIGKILL
    #[arg(long)]
    force: bool,
    /// How long a holder may take to end after SIGTERM
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = wait::parse_time)]
    grace: Duration,
    /// Signal the holder even if systemd or docker manages it (it may be started again)
    #[arg(long)]
    anyway: bool,
    /// Drop connections that only the kernel has (TIME_WAIT, FIN_WAIT); needs root
    #[arg(long)]
    kernel: bool,
    /// The UDP port instead of the TCP port
    #[arg(long)]
    udp: bool,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Result<ExitCode, Error> {
    let ports = why::parse_ports(std::slice::from_ref(&args.port))?;
    let [port] = ports[..] else {
        return Err(Error::new(Kind::BadInput, format!("`{}` is several ports: free takes one at a time", args.port)));
    };
    let report = look(port)?;
    let transport = if args.udp { Transport::Udp } else { Transport::Tcp };
    let plan = free::plan(&report, transport, args.anyway);
    if plan.is_empty() {
        output::say(&format!("Port {port} is already free: nobody holds it, nothing was done\n"));
        return Ok(ExitCode::SUCCESS);
    }
    output::say(&describe(&plan, args));
    if let Some(answer) = nothing_to_do(&plan, args)? {
        return Ok(answer);
    }
    if !args.yes && !confirmed(port)? {
        output::say("Nothing was done\n");
        return Ok(ExitCode::FAILURE);
    }
    if !plan.stop.is_empty() {
        stop(&plan, args)?;
    }
    if args.kernel {
        drop_ownerless(port, transport, args)?;
    }
    conclude(port, args)
}

fn look(port: u16) -> Result<Report, Error> {
    let options = Options { elsewhere: false, ..Options::default() };
    let mut reports = inspect(&[port], &options, |_| {}).map_err(|error| why::cannot_look(&error))?;
    reports.pop().ok_or_else(|| Error::new(Kind::Failed, "no report was made"))
}

fn describe(plan: &Plan, args: &Args) -> String {
    let mut out = format!("To free {} port {}:\n", if args.udp { "UDP" } else { "TCP" }, plan.port);
    for holder in &plan.stop {
        let then = if args.force { format!(", SIGKILL after {} s", args.grace.as_secs_f64()) } else { String::new() };
        let _ = writeln!(out, "  SIGTERM{then} to {}", why::holder_line(holder));
        if let Some(stray) = &holder.process.stray {
            let _ = writeln!(out, "    {stray}");
        }
    }
    for step in steps(plan) {
        for (holder, _) in plan.managed.iter().filter(|(_, other)| other.command == step.command) {
            let _ = writeln!(out, "  not touched: {}", why::holder_line(holder));
        }
        let _ = writeln!(out, "    {}: $ {}", step.why, step.command);
    }
    for holder in &plan.clients {
        let _ = writeln!(out, "  not touched: {} is a client that uses the port for its own connection", why::holder_line(holder));
    }
    if !plan.ownerless.is_empty() {
        let count: usize = plan.ownerless.iter().map(|socket| socket.count).sum();
        let verb = if args.kernel { "drop" } else { "not touched (--kernel drops them):" };
        let _ = writeln!(out, "  {verb} {count} closed connection(s) that only the kernel has");
    }
    for socket in &plan.unseen {
        let _ = writeln!(out, "  not visible: the owner of {} {} (inode {})", socket.state.name(), socket.local, socket.inode);
    }
    out
}

/// What to do about managed processes: each command once, however many processes it stands for.
fn steps(plan: &Plan) -> Vec<&Step> {
    let mut steps: Vec<&Step> = Vec::new();
    for (_, step) in &plan.managed {
        if steps.iter().all(|known| known.command != step.command) {
            steps.push(step);
        }
    }
    steps
}

/// Plans without anything that we would do ourselves, each with its own sentence.
fn nothing_to_do(plan: &Plan, args: &Args) -> Result<Option<ExitCode>, Error> {
    let port = plan.port;
    if !plan.stop.is_empty() || (args.kernel && !plan.ownerless.is_empty()) {
        return Ok(None);
    }
    if !plan.managed.is_empty() {
        let mut error = Error::new(Kind::Failed, format!("port {port} is held by a process that is managed elsewhere; nothing was done"));
        for step in steps(plan) {
            error = error.hint(format!("run `{}`", step.command));
        }
        let others = plan.managed.iter().any(|(holder, _)| !matches!(holder.process.manager, Some(Manager::Stayput(_))));
        return Err(if others { error.hint("--anyway sends SIGTERM nevertheless") } else { error });
    }
    if !plan.unseen.is_empty() {
        return Err(Error::new(Kind::NotPermitted, format!("who holds port {port} cannot be seen by this user; nothing was done"))
            .hint(format!("run `sudo stayput free {port}`")));
    }
    if !plan.clients.is_empty() {
        return Err(Error::new(Kind::Failed, format!("only a client uses port {port}, for its own connection; clients are not stopped"))
            .hint(format!("`stayput wait {port} --free` returns when it is done")));
    }
    // Left-over connections. Do they stop a server at all?
    if look(port)?.outcome() == Outcome::Free {
        output::say(&format!("Port {port} is free for a server with SO_REUSEADDR: the closed connections do not stop it\n"));
        return Ok(Some(ExitCode::SUCCESS));
    }
    Err(Error::new(Kind::Failed, format!("port {port} is kept by the kernel alone, no process has it; nothing was done"))
        .hint(format!("`sudo stayput free {port} --kernel` drops these connections"))
        .hint(format!("`stayput wait {port} --free` returns when the kernel lets go")))
}

fn confirmed(port: u16) -> Result<bool, Error> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(Error::new(Kind::BadInput, "nobody is there to ask; nothing was done")
            .hint(format!("`stayput free {port} --yes` does not ask")));
    }
    output::say("Do it? [y/N] ");
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).map_err(|error| Error::new(Kind::Failed, "the answer cannot be read").because(&error))?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

fn stop(plan: &Plan, args: &Args) -> Result<(), Error> {
    let port = plan.port;
    match free::stop(plan, args.grace, args.force).map_err(|error| wait::failed(&error))? {
        Stopped::Released { killed } if killed.is_empty() => {}
        Stopped::Released { killed } => {
            output::say(&format!("Needed SIGKILL: {}\n", list(&killed)));
        }
        Stopped::NotPermitted(pids) => {
            return Err(Error::new(Kind::NotPermitted, format!("not allowed to stop {}", list(&pids)))
                .hint(format!("run `sudo stayput free {port}`")));
        }
        Stopped::StillHeld(_) if !plan.managed.is_empty() || !plan.unseen.is_empty() => {
            output::complain("others still hold it\n");
        }
        Stopped::StillHeld(pids) => {
            let mut error = Error::new(Kind::Failed, format!("port {port} is still held after {} s", args.grace.as_secs_f64()));
            if !pids.is_empty() {
                error = error.hint(format!("{} did not end on SIGTERM: --force sends SIGKILL after the grace period", list(&pids)));
            }
            return Err(error);
        }
    }
    Ok(())
}

fn list(pids: &[i32]) -> String {
    let numbers: Vec<String> = pids.iter().map(|pid| format!("pid {pid}")).collect();
    numbers.join(", ")
}

/// Looks again: connections of a holder that was just stopped are orphans by now.
fn drop_ownerless(port: u16, transport: Transport, args: &Args) -> Result<(), Error> {
    let plan = free::plan(&look(port)?, transport, args.anyway);
    let Destroyed { destroyed, denied, unsupported } = free::destroy_ownerless(&plan).map_err(|error| wait::failed(&error))?;
    if denied {
        return Err(Error::new(Kind::NotPermitted, "dropping the kernel's connections needs root (CAP_NET_ADMIN)")
            .hint(format!("run `sudo stayput free {port} --kernel`")));
    }
    if unsupported {
        return Err(Error::new(Kind::Failed, "this kernel cannot drop connections (CONFIG_INET_DIAG_DESTROY is off)"));
    }
    output::say(&format!("Dropped {destroyed} closed connection(s)\n"));
    Ok(())
}

fn conclude(port: u16, args: &Args) -> Result<ExitCode, Error> {
    let report = look(port)?;
    let transport = if args.udp { Transport::Udp } else { Transport::Tcp };
    let left = free::plan(&report, transport, args.anyway);
    if args.udp && left.inodes.is_empty() {
        output::say(&format!("UDP port {port} is free\n"));
        return Ok(ExitCode::SUCCESS);
    }
    if !args.udp && report.outcome() == Outcome::Free {
        output::say(&format!("{}\n", report.summary));
        return Ok(ExitCode::SUCCESS);
    }
    let mut error = Error::new(Kind::Failed, format!("port {port} is not free yet")).hint(report.summary.clone());
    for step in report.next.iter().take(3) {
        error = error.hint(format!("`{}`: {}", step.command, step.why));
    }
    Err(error)
}

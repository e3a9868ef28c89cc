//! `stayput up`: all services of a configuration. It checks everything that can be checked, and becomes the guard of the instance, as
//! `stayput run` does; with `--detach` a child of it does, and this process waits until everything is started or says what is not.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use stayput_config::Request as ConfigRequest;
use stayput_model::config::ReportStyle;
use stayput_wire::runtime::{self, Found, RuntimeDir};
use stayput_wire::{Event, Reply, Request, StartedService};

use super::{instances, run, start};
use crate::error::{Error, Kind};
use crate::{output, words};

/// Arguments of `stayput up`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stayput up                      all services of stayput.toml or Procfile, here or in a directory above
  stayput up -d web 'worker-*'    some of them and what they need, in the background

Exit status: 0; with -d 1 if a service is not started (it is left to go on trying); 2 if nothing was started.")]
pub(crate) struct Args {
    /// The configuration: a stayput.toml or a Procfile [default: found by walking up from here]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Apply this profile of the configuration
    #[arg(long)]
    profile: Option<String>,
    /// In the background: return when everything is started, or say what is not
    #[arg(short, long)]
    detach: bool,
    /// Report as one JSON object per line
    #[arg(long)]
    json: bool,
    /// This is the process in the background
    #[arg(long, hide = true)]
    detached: bool,
    /// Only these services and what they start after; names or globs
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

/// What the process in the background says when it is about to become the guard and its control socket takes connections; the path of
/// its runtime directory follows.
const STARTED: &str = "started ";

/// Runs it.
pub(crate) fn run(args: &Args) -> Result<ExitCode, Error> {
    if args.detach { detach(args) } else { become_instance(args) }
}

fn become_instance(args: &Args) -> Result<ExitCode, Error> {
    if args.detached {
        // Away from the terminal and its signals. It is the leader of no group, being a child: this cannot fail.
        let _ = rustix::process::setsid();
    }
    let report = match (args.json, output::is_colourful()) {
        (true, _) => ReportStyle::Json,
        (false, true) => ReportStyle::Colour,
        (false, false) => ReportStyle::Plain,
    };
    let unreadable = |error: std::io::Error| {
        Error::new(Kind::BadInput, "the working directory cannot be read").because(&error).hint("cd to a directory that exists")
    };
    let mut request = ConfigRequest::of_process(report).map_err(unreadable)?;
    request.path.clone_from(&args.file);
    request.profile.clone_from(&args.profile);
    request.only.clone_from(&args.services);
    let config = stayput_config::load(&request).map_err(|report| {
        output::complain(&report.render(output::is_colourful()));
        Error::new(Kind::BadInput, "nothing was started: the configuration has errors")
    })?;
    let runtime = RuntimeDir::create(&runtime::base(), &config.name).map_err(|error| run::directory_error(&run::current(error)))?;
    let (runtime, control) = run::listen(runtime)?;
    if args.detached {
        output::say(&format!("{STARTED}{}\n", runtime.path().display()));
        silence()?;
    }
    run::become_guard(runtime, control, &config)
}

/// Nobody reads what this process writes from now on.
fn silence() -> Result<(), Error> {
    let failed = |error: std::io::Error| Error::new(Kind::Failed, "/dev/null cannot be opened").because(&error);
    let null = std::fs::File::options().read(true).write(true).open("/dev/null").map_err(failed)?;
    let put = || {
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)
    };
    put().map_err(|error| failed(error.into()))
}

/// Starts this program again in the background, and waits for what it makes of it.
fn detach(args: &Args) -> Result<ExitCode, Error> {
    let failed = |error: std::io::Error| Error::new(Kind::Failed, "stayput could not be started in the background").because(&error);
    let mut command = Command::new("/proc/self/exe");
    command.args(["up", "--detached"]);
    if let Some(file) = &args.file {
        command.arg("--file").arg(file);
    }
    if let Some(profile) = &args.profile {
        command.args(["--profile", profile]);
    }
    command.arg("--").args(&args.services);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut line).map_err(failed)?;
    }
    let Some(directory) = line.trim_end().strip_prefix(STARTED).map(PathBuf::from) else {
        // It has said why on standard error.
        let status = child.wait().map_err(failed)?;
        return Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0).unwrap_or(1)));
    };
    let name = directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let guard = i32::try_from(child.id()).ok();
    let (control_socket, lock) = (directory.join(runtime::CONTROL_SOCKET), directory.join(runtime::LOCK));
    await_start(args, &Found { name, control_socket, lock, guard })
}

fn await_start(args: &Args, found: &Found) -> Result<ExitCode, Error> {
    let mut client = instances::connect(found)?;
    let mut show = |event: Event| {
        if !args.json {
            output::say(&format!("{}\n", words::event(&event)));
        }
    };
    match client.request(&Request::Start { services: vec!["*".to_owned()], wait: true }, None, &mut show) {
        Ok(Reply::Started { services }) => Ok(report(args, found, &services)),
        Ok(Reply::Failed(failure)) => Err(instances::refused(failure)),
        Ok(other) => Err(instances::unreachable(found, &stayput_wire::ClientError::Unexpected(Box::new(other)))),
        Err(error) => Err(instances::unreachable(found, &error)),
    }
}

fn report(args: &Args, found: &Found, services: &[StartedService]) -> ExitCode {
    if args.json {
        output::say(&format!("{}\n", serde_json::json!({ "name": found.name, "guard": found.guard, "services": services })));
    } else {
        for service in services.iter().filter(|service| !service.started) {
            start::report(service);
        }
        let started = services.iter().filter(|service| service.started).count();
        output::say(&format!("{}: {started} of {} services are started\n", found.name, services.len()));
    }
    if services.iter().all(|service| service.started) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

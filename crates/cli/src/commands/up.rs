//! `stayput up`: all services of a configuration, and the dashboard. It checks everything that can be checked, and becomes the guard of the
//! instance, as `stayput run` does; with `--detach` a child of it does, and this process waits until everything is started or says what is
//! not.

mod again;
mod check;
pub(crate) mod keys;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use stayput_config::Request as ConfigRequest;
use stayput_dashboard::Tokens;
use stayput_model::config::{InstanceConfig, ReportStyle};
use stayput_model::text::printable;
use stayput_wire::runtime::{self, Found, RuntimeDir, RuntimeError};
use stayput_wire::{Client, InstanceStatus, Reply, Request, StartedService};

use super::{instances, run, start};
use crate::error::{Error, Kind};
use crate::{output, terminal};

/// Arguments of `stayput up`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stayput up                      all services of stayput.toml or Procfile, here or in a directory above, and the dashboard
  stayput up -d web 'worker-*'    some of them and what they need, in the background

In the foreground of a terminal: r restarts, s shows the status, q quits; a second q or Ctrl-C hurries.
Without any configuration it is the dashboard alone, which shows how to add a service.
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

/// What the process in the background says when it is about to become the guard; the path of its runtime directory follows.
const STARTED: &str = "started ";

/// Runs it.
pub(crate) fn run(args: &Args) -> Result<ExitCode, Error> {
    if args.detach { detach(args) } else { become_instance(args) }
}

fn become_instance(args: &Args) -> Result<ExitCode, Error> {
    let sockets = run::inherited::claim();
    if args.detached {
        // Away from the terminal and its signals. It is the leader of no group, being a child: this cannot fail.
        let _ = rustix::process::setsid();
    }
    let mut config = configuration(args)?;
    check::all(&config)?;
    let runtime = match RuntimeDir::create(&runtime::base(), &config.name) {
        Ok(runtime) => runtime,
        Err(error) => return again::tell_manager(&error, &config).ok_or_else(|| directory_error(error, &config)),
    };
    stayput_daemon::add_dashboard(&mut config, &runtime.control_socket());
    if !args.detached && !args.json && config.services.iter().all(|service| service.own) {
        output::say(&how_to_add(&config));
    }
    let (runtime, control) = run::listen(runtime)?;
    if args.detached {
        output::say(&format!("{STARTED}{}\n", runtime.path().display()));
        silence()?;
    }
    // Whatever reads the keys may be killed: the terminal is given back here.
    let terminal = terminal::Lines::keep();
    if !args.detached && !args.json {
        keys::start(&runtime.control_socket());
    }
    let ended = run::become_guard(runtime, control, sockets, &config);
    drop(terminal);
    ended
}

fn configuration(args: &Args) -> Result<InstanceConfig, Error> {
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
    match stayput_config::load(&request) {
        Ok(config) => Ok(config),
        Err(report) if report.nothing_found() && args.services.is_empty() && args.profile.is_none() => {
            Ok(stayput_config::without_file(&request))
        }
        Err(report) => {
            output::complain(&report.render(output::is_colourful()));
            Err(Error::new(Kind::BadInput, "nothing was started: the configuration has errors"))
        }
    }
}

/// What a person reads who has no service yet.
fn how_to_add(config: &InstanceConfig) -> String {
    let path = source(config).map_or_else(|| "stayput.toml".to_owned(), |path| printable(&path.display().to_string()).into_owned());
    format!(
        "there is no service yet: this is the dashboard alone
hint: write one into {path}, then: stayput reload {}
    [service.web]
    command = \"python3 -m http.server 8000\"
",
        config.name
    )
}

fn source(config: &InstanceConfig) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt as _;
    config.source.as_ref().map(|source| PathBuf::from(std::ffi::OsString::from_vec(source.path.clone())))
}

/// That there is no runtime directory to be had. Two instances of one name are no accident: it says what runs, and what was probably meant.
fn directory_error(error: RuntimeError, config: &InstanceConfig) -> Error {
    let RuntimeError::Running(name, _) = &error else { return run::directory_error(&error) };
    let (name, socket) = (name.clone(), runtime::base().join(name).join(runtime::CONTROL_SOCKET));
    let report = Error::new(Kind::BadInput, run::current(error).to_string());
    let Some(status) = status(&socket) else { return report.hint(format!("stayput status {name}")) };
    let services: Vec<&str> = status.services.iter().filter(|service| !service.own).map(|service| service.name.as_str()).collect();
    let what = match services.as_slice() {
        [] => "it has no service".to_owned(),
        [few @ .., last] if few.len() < 8 => format!("it runs {}", [few, &[*last]].concat().join(", ")),
        many => format!("it runs {} services", many.len()),
    };
    let theirs = status.source.as_ref().map(|source| PathBuf::from(&source.path));
    match theirs {
        Some(theirs) if Some(&theirs) == source(config).as_ref() => {
            report.hint(format!("{what} of the same file; what changed in it is applied by: stayput reload {name}"))
        }
        Some(theirs) => {
            let theirs = printable(&theirs.display().to_string()).into_owned();
            report.hint(format!("{what} of {theirs}; name = \"...\" in the file gives this instance another name"))
        }
        None => report.hint(format!("{what}, by `stayput run`; stayput stop {name}, or name = \"...\" in the file")),
    }
}

fn status(control: &Path) -> Option<InstanceStatus> {
    let mut client = Client::connect(control, instances::ANSWER_WITHIN).ok()?;
    match client.request(&Request::Status {}, Some(instances::ANSWER_WITHIN), &mut |_| ()) {
        Ok(Reply::Status(status)) => Some(*status),
        Ok(_) | Err(_) => None,
    }
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
    // Also when the file was replaced meanwhile. Whoever looks at the process is to read what it is.
    let mut command = Command::new("/proc/self/exe");
    std::os::unix::process::CommandExt::arg0(&mut command, "stayput");
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
    let services = started(found, vec!["*".to_owned()], !args.json)?;
    let own = status(&found.control_socket).into_iter().flat_map(|status| status.services).find(|service| service.own);
    let dashboard = match own {
        Some(own) => started(found, vec![own.name], false)?.pop(),
        None => None,
    };
    Ok(report(args, found, &services, dashboard.as_ref()))
}

/// Waits until these are started, or cannot be for now.
fn started(found: &Found, services: Vec<String>, loud: bool) -> Result<Vec<StartedService>, Error> {
    match instances::ask(found, &Request::Start { services, wait: true }, None, &mut instances::shown(!loud))? {
        Reply::Started { services } => Ok(services),
        other => Err(instances::unexpected(found, other)),
    }
}

/// Where the dashboard says that it is.
fn address(found: &Found) -> Option<String> {
    Tokens::read(&Tokens::path(&found.control_socket)).ok().flatten()?.urls.into_iter().next()
}

fn report(args: &Args, found: &Found, services: &[StartedService], dashboard: Option<&StartedService>) -> ExitCode {
    let address = dashboard.filter(|dashboard| dashboard.started).and_then(|_| address(found));
    if args.json {
        let document = serde_json::json!({ "name": found.name, "guard": found.guard, "services": services, "dashboard": address });
        output::say(&format!("{document}\n"));
    } else {
        services.iter().filter(|service| !service.started).for_each(start::report);
        let count = services.iter().filter(|service| service.started).count();
        match services {
            [] => output::say(&format!("{}: there is no service yet\n", found.name)),
            _ => output::say(&format!("{}: {count} of {} services are started\n", found.name, services.len())),
        };
        match (address, dashboard) {
            (Some(address), _) => {
                output::say(&format!("dashboard: {address}  (stayput dashboard --link prints the address that may act)\n"));
            }
            // Told, and no failure of the services.
            (None, Some(dashboard)) => start::report(dashboard),
            (None, None) => {}
        }
    }
    if services.iter().all(|service| service.started) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

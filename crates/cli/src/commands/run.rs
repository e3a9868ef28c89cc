//! `stayput run`: checks everything that can be checked, makes the runtime directory, and becomes the guard of the instance.
//!
//! It starts no thread and no process: the keeper's entry clones, and a clone of a process with threads has only one of them.

pub(super) mod inherited;
pub(super) mod input;
mod name;
pub(super) mod preflight;
mod user;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::ExitCode;

use stayput_keeper::guard::{self, Start};
use stayput_model::blob::Blob;
use stayput_model::config::{InstanceConfig, Mode, OutputKind, ReportStyle, RestartPolicy, ServiceConfig};
use stayput_wire::Client;
use stayput_wire::runtime::{self, RuntimeDir, RuntimeError};

use super::instances;
use crate::error::{Error, Kind};
use crate::output;

/// Arguments of `stayput run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stayput run -- python3 app.py
  stayput run --port 8000 --ready http:/health -- ./server --listen :8000

SIGHUP or `stayput restart` restarts it without refusing a connection; Ctrl-C stops it.
Exit status: that of the command; 128+n if signal n ended it; 2 if nothing was started.")]
pub(crate) struct Args {
    /// Name of the instance [default: made from the command]
    #[arg(long)]
    name: Option<String>,
    /// Hold this port before the first start, so that clients wait instead of being refused; may be given several times
    #[arg(long, value_name = "[ADDR:]PORT", allow_hyphen_values = true)]
    port: Vec<String>,
    /// Run the command as this user, and group (root only)
    #[arg(long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// When a new generation takes over: accept | http:/PATH | notify | log:REGEX
    #[arg(long, value_name = "CHECK", default_value = "accept")]
    ready: String,
    /// How long a new generation may take to become ready
    #[arg(long, value_name = "TIME", default_value = "30s", allow_hyphen_values = true)]
    ready_timeout: String,
    /// How long old connections may live on after a restart
    #[arg(long, value_name = "TIME", default_value = "30s", allow_hyphen_values = true)]
    drain: String,
    /// How long after the stop signal the rest is killed
    #[arg(long, value_name = "TIME", default_value = "10s", allow_hyphen_values = true)]
    grace: String,
    /// Signal that asks the command to stop
    #[arg(long, value_name = "SIGNAL", default_value = "TERM", allow_hyphen_values = true)]
    stop_signal: String,
    /// How long a new generation is on probation: if it fails, the old one takes over again
    #[arg(long, value_name = "TIME", default_value = "10s", allow_hyphen_values = true)]
    soak: String,
    /// How long the ports are held while nothing accepts
    #[arg(long, value_name = "TIME", default_value = "60s", allow_hyphen_values = true)]
    hold: String,
    /// Stop the old generation before the new one starts; connections wait meanwhile
    #[arg(long)]
    no_overlap: bool,
    /// What to do when the command ends by itself
    #[arg(long, value_enum, value_name = "WHEN", default_value = "always")]
    restart: Restart,
    /// Report as one JSON object per line
    #[arg(long)]
    json: bool,
    /// The command and its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

/// `--restart`.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum Restart {
    /// Start it again
    Always,
    /// Start it again unless it exited with status 0
    OnFailure,
    /// Leave it, and end with its status
    Never,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Result<ExitCode, Error> {
    let sockets = inherited::claim();
    let mut service = service(args)?;
    let env = environment();
    preflight::command(&args.command[0])?;
    preflight::size(&service.argv, &env)?;
    preflight::descriptors()?;
    for port in &service.ports {
        preflight::port(port, "--port ")?;
    }
    let runtime = directory(args)?;
    // The directory's name is the instance's name: it may have got a number.
    let name = runtime.path().file_name().and_then(|name| name.to_str()).unwrap_or(&service.name).to_owned();
    service.name.clone_from(&name);
    let config = InstanceConfig { env, services: vec![service], ..InstanceConfig::new(name, Mode::Run, style(args)) };
    let (runtime, control) = listen(runtime)?;
    become_guard(runtime, control, sockets, &config)
}

/// Refuses a command that could not be executed, as `run` does.
pub(crate) fn check_command(command: &std::ffi::OsStr) -> Result<(), Error> {
    preflight::command(command)
}

/// The control socket of an instance that is about to be: from now on clients connect, and wait for the daemon to answer.
pub(super) fn listen(runtime: RuntimeDir) -> Result<(RuntimeDir, OwnedFd), Error> {
    match runtime.listen() {
        Ok(control) => Ok((runtime, control)),
        Err(error) => {
            // What cannot be removed now is taken over by the next instance of the name.
            let _ = runtime.remove();
            Err(directory_error(&error))
        }
    }
}

/// Open files without which no part of stayput can start: it would be there, hold its lock, and answer nobody.
const LEAST_DESCRIPTORS: u64 = 64;

/// What is missing later, for one more service or generation, is told by its start.
fn enough_descriptors() -> Result<(), Error> {
    // getrlimit(2): `None` is no limit. The soft one is raised to it.
    match rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum {
        Some(limit) if limit < LEAST_DESCRIPTORS => Err(Error::new(
            Kind::BadInput,
            format!("at most {limit} open files are allowed here, and stayput needs {LEAST_DESCRIPTORS}, and more with each service"),
        )
        .hint("ulimit -Hn says how many; whoever started this shell, container or unit has set it (LimitNOFILE= of a unit)")),
        _ => Ok(()),
    }
}

pub(super) fn become_guard(
    runtime: RuntimeDir,
    control: OwnedFd,
    sockets: Vec<inherited::Passed>,
    config: &InstanceConfig,
) -> Result<ExitCode, Error> {
    let mut config = config.clone();
    let wanted = inherited::wanted(sockets, &mut config);
    enough_descriptors()?;
    // proc_pid_comm(5): by this name `why`, `free` and people tell our processes from a service's, however the program was called. It is
    // /proc/self/exe in the background, which makes it "exe".
    let _ = rustix::thread::set_name(c"stayput");
    let start = Start {
        instance: config.name.clone(),
        directory: runtime.path().to_owned(),
        blob: Blob::Start(Box::new(config)).encode(),
        control,
        // Without it what a killed life left is somebody else's, and is waited for.
        lives: runtime.lives().ok(),
        lock: runtime.into_lock(),
        inherited: wanted.inherited,
        stored: wanted.stored,
        daemon_argv: vec![b"stayput".to_vec(), super::daemon::NAME.as_bytes().to_vec()],
    };
    match guard::run(start) {
        Ok(status) => Ok(ExitCode::from(status)),
        Err(error) => Err(Error::new(Kind::Failed, "the guard of the instance could not do its work").because(&error)),
    }
}

fn service(args: &Args) -> Result<ServiceConfig, Error> {
    if let Some(name) = &args.name {
        runtime::check_name(name).map_err(|error| directory_error(&error))?;
    }
    let name = args.name.clone().unwrap_or_else(|| name::suggest(&args.command));
    let argv: Vec<_> = args.command.iter().map(|word| word.as_bytes().to_vec()).collect();
    let working_directory = std::env::current_dir().map_err(|error| {
        Error::new(Kind::BadInput, "the working directory cannot be read").because(&error).hint("cd to a directory that exists")
    })?;
    let mut service = ServiceConfig::new(name, argv);
    service.cwd = working_directory.into_os_string().into_vec();
    service.ports = input::ports(&args.port)?;
    service.user = args.user.as_deref().map(user::user).transpose()?.flatten();
    service.readiness = input::readiness(&args.ready)?;
    service.ready_timeout = input::duration("--ready-timeout", &args.ready_timeout)?;
    if service.ready_timeout.is_zero() {
        return Err(Error::new(Kind::BadInput, "--ready-timeout 0: nothing is ready at once").hint("leave it out for 30s"));
    }
    service.drain = input::duration("--drain", &args.drain)?;
    service.grace = input::duration("--grace", &args.grace)?;
    service.stop_signal = input::signal(&args.stop_signal)?;
    service.soak = input::duration("--soak", &args.soak)?;
    service.hold = input::duration("--hold", &args.hold)?;
    service.overlap = !args.no_overlap;
    service.restart = match args.restart {
        Restart::Always => RestartPolicy::Always,
        Restart::OnFailure => RestartPolicy::OnFailure,
        Restart::Never => RestartPolicy::Never,
    };
    service.output = terminal();
    Ok(service)
}

fn environment() -> Vec<Vec<u8>> {
    let entry = |(name, value): (OsString, OsString)| [name.as_bytes(), b"=", value.as_bytes()].concat();
    std::env::vars_os().map(entry).collect()
}

/// A terminal of its own for the command if ours is one: most programs write each line at once then, and in colour.
fn terminal() -> OutputKind {
    if !output::is_watched() {
        return OutputKind::Pipes;
    }
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => OutputKind::Pty { rows: size.ws_row, columns: size.ws_col },
        _ => OutputKind::Pty { rows: 24, columns: 80 },
    }
}

fn style(args: &Args) -> ReportStyle {
    if args.json {
        ReportStyle::Json
    } else if output::is_colourful() {
        ReportStyle::Colour
    } else {
        ReportStyle::Plain
    }
}

/// The runtime directory of the wanted name, or of the first that is free: `app`, `app-2`, `app-3`.
fn directory(args: &Args) -> Result<RuntimeDir, Error> {
    let base = runtime::base();
    let create = |name: &str| RuntimeDir::create(&base, name);
    if let Some(name) = &args.name {
        return create(name).map_err(|error| directory_error(&current(error)));
    }
    let name = name::suggest(&args.command);
    let mut result = create(&name);
    for number in 2..1000 {
        if !matches!(result, Err(RuntimeError::Running(..))) {
            break;
        }
        result = create(&format!("{name}-{number}"));
    }
    result.map_err(|error| directory_error(&error))
}

/// The guard of a running instance is another process than the one that wrote the lock, if that was killed and the keeper took its
/// place. The daemon knows.
pub(super) fn current(error: RuntimeError) -> RuntimeError {
    if let RuntimeError::Running(name, _) = &error {
        let socket = runtime::base().join(name).join(runtime::CONTROL_SOCKET);
        if let Ok(client) = Client::connect(&socket, instances::ANSWER_WITHIN) {
            return RuntimeError::Running(name.clone(), Some(client.guard));
        }
    }
    error
}

pub(super) fn directory_error(error: &RuntimeError) -> Error {
    let kind = match error {
        RuntimeError::Name(..) | RuntimeError::Running(..) | RuntimeError::NotOurs(..) | RuntimeError::PathTooLong(..) => Kind::BadInput,
        RuntimeError::Call(..) => Kind::Failed,
    };
    let report = Error::new(kind, error.to_string());
    match error {
        RuntimeError::Name(..) => report.hint("a name has 1 to 64 of A-Z a-z 0-9 _ . @ - and does not start with a dot"),
        RuntimeError::Running(name, _) => report.hint(format!("stayput restart {name}, stayput stop {name}, or another --name")),
        RuntimeError::NotOurs(path, _) if path.parent() == Some(Path::new("/tmp")) => {
            report.hint("set XDG_RUNTIME_DIR to a directory of yours that is closed to others")
        }
        RuntimeError::NotOurs(..) => report.hint("XDG_RUNTIME_DIR is to be a directory of yours that is closed to others (chmod 700)"),
        RuntimeError::PathTooLong(_) => report.hint("set XDG_RUNTIME_DIR to a shorter path, or give a shorter --name"),
        RuntimeError::Call(..) => report.hint("set XDG_RUNTIME_DIR to a directory of yours that can be written"),
    }
}

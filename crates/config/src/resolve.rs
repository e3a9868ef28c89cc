//! From the typed keys of a service to what the model knows: defaults, names to numbers, keys that exclude each other.

use crate::accounts::{AccountError, Accounts, Who};
use crate::command;
use crate::decode::At;
use crate::expand::Variables;
use crate::file::{self, File, get};
use crate::files::Files;
use crate::kinds::{Command, DashboardForm, ReadyForm, RestartForm, StopForm, User, WatchForm, loopback};
use crate::load::{Loader, Merged};
use crate::report::Problems;
use crate::source::Span;
use crate::value::{self, Wrong};
use stayput_model::config::{
    Dashboard, Health, HealthCheck, InstanceConfig, Kind, Limits, LogPolicy, LogsConfig, Mode, Origin, OutputKind, Readiness,
    RestartPolicy, Rlimit, ServiceConfig, Source, StartLimit, StopStep,
};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A service with what only names others by now.
pub(crate) struct Resolved {
    pub(crate) config: ServiceConfig,
    /// Whether `logs.block` was said for it.
    pub(crate) block: Option<bool>,
}

/// The accounts of this machine, if a service needs them.
pub(crate) fn accounts(services: &[Merged], files: &dyn Files) -> Accounts {
    if services.iter().all(|service| service.file.user.is_none() && service.file.group.is_none()) {
        return Accounts::default();
    }
    // What cannot be read has nobody in it, and whoever is named is not found there: that is the error, at its place.
    Accounts::read(files).unwrap_or_default()
}

/// What the model knows of a service; `None`: what is wrong was noted.
pub(crate) fn service(merged: &Merged, accounts: &Accounts, loader: &mut Loader<'_>) -> Option<Resolved> {
    let Merged { name, name_at, at, file, env, variables, broken } = merged;
    let before = loader.problems.len();
    let argv = argv(file, (!broken).then_some(*name_at), variables, &mut loader.problems);
    let mut config = ServiceConfig::new(name.clone(), argv.unwrap_or_default());
    let (line, column) = loader.sources[usize::from(name_at.file)].position(name_at.start);
    config.origin = Some(Origin { line, column });
    config.env.clone_from(env);
    let cwd = match &file.cwd {
        Some(cwd) => loader.sources[usize::from(cwd.at.file)].directory().join(&cwd.value),
        None => loader.sources[usize::from(at.file)].directory().to_owned(),
    };
    config.cwd = clean(&cwd).into_os_string().into_vec();
    ports(file, &mut config, &mut loader.problems);
    ready(file, &mut config, &mut loader.problems);
    times(file, &mut config);
    kind(file, &mut config, &mut loader.problems);
    stop(file, &mut config);
    restart(file, &mut config, &mut loader.problems);
    user(file, accounts, &mut config, &mut loader.problems);
    limits(file, &mut config);
    health(file, variables, &mut config, &mut loader.problems);
    watch(file, &mut config);
    if let Some(logs) = &file.logs {
        let logs = &logs.value;
        config.log = LogPolicy {
            max_size: get(logs.max_size.as_ref()).map(|size| size.0),
            max_age: get(logs.max_age.as_ref()).map(|age| age.0),
            block: false,
        };
    }
    let block = file.logs.as_ref().and_then(|logs| get(logs.value.block.as_ref()));
    (!broken && loader.problems.len() == before).then_some(Resolved { config, block })
}

/// The path without `.` and with `..` taken back where that is sure.
fn clean(path: &Path) -> PathBuf {
    path.components().collect()
}

/// `nowhere`: where to say that there is no command; `None`: it may be there, but could not be read.
fn argv(file: &file::Service, nowhere: Option<Span>, variables: &Variables, problems: &mut Problems) -> Option<Vec<Vec<u8>>> {
    match (&file.command, &file.shell) {
        (Some(command), None) => words(command, variables, problems),
        (None, Some(shell)) if shell.value.0.trim().is_empty() => {
            problems.add(shell.at, "an empty command line").hint("shell = \"exec ./server >server.log\"");
            None
        }
        (None, Some(shell)) => Some([b"/bin/sh".as_slice(), b"-c", shell.value.0.as_bytes()].map(<[u8]>::to_vec).to_vec()),
        (Some(command), Some(shell)) => {
            problems
                .add(shell.at, "command and shell exclude each other")
                .hint("take one of them out")
                .related(command.at, "the other one");
            None
        }
        (None, None) => {
            let name_at = nowhere?;
            problems.add(name_at, "this service has no command").hint("command = \"python app.py\", or shell = \"...\"");
            None
        }
    }
}

fn words(command: &At<Command>, variables: &Variables, problems: &mut Problems) -> Option<Vec<Vec<u8>>> {
    let words = match &command.value {
        Command::Words(words) => Ok(words.clone()),
        Command::Text(text) => command::split(text, variables),
    };
    match words {
        Ok(words) if words[0].is_empty() => {
            problems.add(command.at, "the program's name is empty").hint("its first word is the program");
            None
        }
        Ok(words) => Some(words.into_iter().map(String::into_bytes).collect()),
        Err(wrong) => {
            problems.wrong(command.at, wrong);
            None
        }
    }
}

fn ports(file: &file::Service, config: &mut ServiceConfig, problems: &mut Problems) {
    for port in file.port.iter().flat_map(|ports| &ports.value.0) {
        let address = port.value.0;
        if config.ports.iter().any(|earlier| value::covers(earlier, &address) || value::covers(&address, earlier)) {
            problems.add(port.at, format!("{address} is already covered by another port of this service")).hint("name each address once");
        }
        config.ports.push(address);
    }
}

fn ready(file: &file::Service, config: &mut ServiceConfig, problems: &mut Problems) {
    let Some(form) = &file.ready else { return };
    let table = match &form.value {
        ReadyForm::Word(readiness) => return config.readiness = readiness.clone(),
        ReadyForm::Table(table) => table,
    };
    let on = |flag: &Option<At<bool>>| flag.as_ref().filter(|flag| flag.value).map(|flag| flag.at);
    let chosen: Vec<Span> =
        [on(&table.accept), table.http.as_ref().map(|http| http.at), on(&table.notify), table.log.as_ref().map(|log| log.at)]
            .into_iter()
            .flatten()
            .collect();
    if let [first, second, ..] = chosen[..] {
        problems.add(second, "one check can decide, not two").hint("take one of them out").related(first, "the other one");
    }
    if let (Some(host), None) = (&table.host, &table.http) {
        problems.add(host.at, "a host without http").hint("add http = \"/health\"");
    }
    let host = get(table.host.as_ref()).map(|host| host.0);
    config.readiness = match (&table.http, &table.log) {
        (Some(path), _) => Readiness::Http { path: path.value.0.clone(), host },
        (None, Some(pattern)) => Readiness::Log { pattern: pattern.value.0.clone() },
        (None, None) if on(&table.notify).is_some() => Readiness::Notify,
        (None, None) => Readiness::Accept,
    };
    if let Some(timeout) = &table.timeout {
        if timeout.value.0.is_zero() {
            problems.add(timeout.at, "nothing is ready at once").hint("leave it out for 30s");
        }
        config.ready_timeout = timeout.value.0;
    }
}

fn times(file: &file::Service, config: &mut ServiceConfig) {
    let set = |place: &mut Duration, value: &Option<At<crate::kinds::Time>>| {
        if let Some(time) = value {
            *place = time.value.0;
        }
    };
    set(&mut config.drain, &file.drain);
    set(&mut config.soak, &file.soak);
    set(&mut config.hold, &file.hold);
    config.overlap = get(file.overlap.as_ref()).unwrap_or(true);
    config.disabled = get(file.disabled.as_ref()).unwrap_or(false);
    config.umask = get(file.umask.as_ref()).map(|mask| mask.0);
    config.replicas = get(file.replicas.as_ref()).map_or(1, |replicas| replicas.0);
    if get(file.tty.as_ref()) == Some(true) {
        config.output = OutputKind::Pty { rows: 24, columns: 80 };
    }
}

fn kind(file: &file::Service, config: &mut ServiceConfig, problems: &mut Problems) {
    let task = file.kind.as_ref().map(|kind| kind.value.0);
    let schedule = get(file.schedule.as_ref()).map(|schedule| schedule.0);
    if let (Some(false), Some(schedule)) = (task, &file.schedule) {
        problems.add(schedule.at, "only a task has a schedule").hint("kind = \"task\"");
    }
    // A schedule alone says that it is a task.
    if task == Some(true) || schedule.is_some() {
        config.kind = Kind::Task { schedule };
        config.restart = RestartPolicy::Never;
        if let Some(replicas) = file.replicas.as_ref().filter(|replicas| replicas.value.0 > 1) {
            problems.add(replicas.at, "a task has no copies").hint("write one task for each");
        }
    }
}

fn stop(file: &file::Service, config: &mut ServiceConfig) {
    let Some(form) = &file.stop else { return };
    match &form.value {
        StopForm::Signal(signal) => config.stop_signal = *signal,
        StopForm::Table(table) => {
            config.stop_signal = get(table.signal.as_ref()).map_or(config.stop_signal, |signal| signal.0);
            config.grace = get(table.grace.as_ref()).map_or(config.grace, |grace| grace.0);
        }
        StopForm::Steps(steps) => {
            let step = |step: &At<file::StopStep>| StopStep {
                signal: get(step.value.signal.as_ref()).map_or(config.stop_signal, |signal| signal.0),
                wait: get(step.value.wait.as_ref()).map_or(config.grace, |wait| wait.0),
            };
            let mut steps: Vec<StopStep> = steps.iter().map(step).collect();
            if !steps.is_empty() {
                let first = steps.remove(0);
                (config.stop_signal, config.grace) = (first.signal, first.wait);
            }
            config.stop = steps;
        }
    }
}

fn restart(file: &file::Service, config: &mut ServiceConfig, problems: &mut Problems) {
    let Some(form) = &file.restart else { return };
    let table = match &form.value {
        RestartForm::Word(policy) => return config.restart = *policy,
        RestartForm::Table(table) => table,
    };
    config.restart = get(table.policy.as_ref()).map_or(config.restart, |policy| policy.0);
    match (&table.starts, &table.within) {
        (Some(starts), Some(within)) if within.value.0.is_zero() => {
            problems
                .add(within.at, "within no time there are no starts")
                .hint("write it like within = \"1m\"")
                .related(starts.at, "this many");
        }
        (Some(starts), Some(within)) => config.start_limit = Some(StartLimit { starts: starts.value.0, within: within.value.0 }),
        (Some(starts), None) => {
            problems.add(starts.at, "so many starts within which time?").hint("add within = \"1m\"");
        }
        (None, Some(within)) => {
            problems.add(within.at, "how many starts within this time?").hint("add starts = 5");
        }
        (None, None) => {}
    }
}

fn user(file: &file::Service, accounts: &Accounts, config: &mut ServiceConfig, problems: &mut Problems) {
    fn who(user: &User) -> Who<'_> {
        match user {
            User::Number(number) => Who::Number(*number),
            User::Text(text) => Who::Text(text),
        }
    }
    let Some(user) = &file.user else {
        if let Some(group) = &file.group {
            problems.add(group.at, "a group without a user").hint("add user = \"NAME\"");
        }
        return;
    };
    if let Some(group) = &file.group
        && let Err(error) = accounts.group(who(&group.value))
    {
        return problems.wrong(group.at, nobody(&error));
    }
    match accounts.user(who(&user.value), file.group.as_ref().map(|group| who(&group.value))) {
        Ok(spec) => config.user = Some(spec),
        Err(error) => problems.wrong(user.at, nobody(&error)),
    }
}

/// What to write instead of a user or group that is none.
fn nobody(error: &AccountError) -> Wrong {
    let hint = match error {
        AccountError::NoUser(near) | AccountError::NoGroup(near) => {
            near.as_ref().map_or("give its number".to_owned(), |near| format!("did you mean {near}?"))
        }
        AccountError::Ambiguous(what, number) => {
            format!("without quotes it is the number: {what} = {number}; for the name give that {what}'s own number")
        }
        AccountError::GroupUnknown(_) => "say it too: group = NUMBER".to_owned(),
        AccountError::NotAnId | AccountError::Unreadable(..) => return Wrong { message: error.to_string(), hint: None },
    };
    Wrong::new(error.to_string(), hint)
}

fn limits(file: &file::Service, config: &mut ServiceConfig) {
    let Some(limits) = &file.limits else { return };
    let limits = &limits.value;
    config.limits = Limits {
        memory: get(limits.memory.as_ref()).map(|size| size.0),
        cpu: get(limits.cpu.as_ref()).map(|percent| percent.0),
        tasks: get(limits.tasks.as_ref()).map(|tasks| tasks.0),
    };
    // Numbers of the kernel's include/uapi/asm-generic/resource.h; x86 and arm have no others.
    let numbered = [
        (0, &limits.cpu_time),
        (1, &limits.fsize),
        (2, &limits.data),
        (3, &limits.stack),
        (4, &limits.core),
        (6, &limits.nproc),
        (7, &limits.nofile),
        (8, &limits.memlock),
        (9, &limits.r#as),
        (11, &limits.sigpending),
        (12, &limits.msgqueue),
        (13, &limits.nice),
        (14, &limits.rtprio),
        (15, &limits.rttime),
    ];
    let rlimit = |(resource, limit): (i32, &Option<At<crate::kinds::Limit>>)| {
        get(limit.as_ref()).map(|limit| Rlimit { resource, soft: limit.soft, hard: limit.hard })
    };
    config.rlimits = numbered.into_iter().filter_map(rlimit).collect();
}

fn health(file: &file::Service, variables: &Variables, config: &mut ServiceConfig, problems: &mut Problems) {
    let Some(health) = &file.health else { return };
    let (at, health) = (health.at, &health.value);
    let tcp = health.tcp.as_ref().filter(|tcp| tcp.value);
    let chosen: Vec<Span> = [health.http.as_ref().map(|http| http.at), tcp.map(|tcp| tcp.at), health.exec.as_ref().map(|exec| exec.at)]
        .into_iter()
        .flatten()
        .collect();
    match chosen[..] {
        [_] => {}
        [] => {
            problems.add(at, "a check of what?").hint("one of http = \"/health\", tcp = true, exec = \"command\"");
            return;
        }
        [first, second, ..] => {
            problems.add(second, "one check can decide, not two").hint("take one of them out").related(first, "the other one");
            return;
        }
    }
    if let (Some(host), None) = (&health.host, &health.http) {
        problems.add(host.at, "a host without http").hint("add http = \"/health\"");
    }
    if let (Some(port), Some(_)) = (&health.port, &health.exec) {
        problems.add(port.at, "a command is told its port as an argument").hint("take port out");
    }
    let port = get(health.port.as_ref()).map(|port| port.0 as u16);
    let check = match (&health.http, &health.exec) {
        (Some(path), _) => HealthCheck::Http { path: path.value.0.clone(), host: get(health.host.as_ref()).map(|host| host.0), port },
        (None, Some(exec)) => {
            let Some(argv) = words(exec, variables, problems) else { return };
            HealthCheck::Exec { argv }
        }
        (None, None) => HealthCheck::Tcp { port },
    };
    let time = |value: &Option<At<crate::kinds::Time>>, default| get(value.as_ref()).map_or(Duration::from_secs(default), |time| time.0);
    let checks = Health {
        check,
        every: time(&health.every, 10),
        timeout: time(&health.timeout, 5),
        failures: get(health.failures.as_ref()).map_or(3, |failures| failures.0),
        start_after: time(&health.start_after, 0),
    };
    for (key, value) in [(&health.every, checks.every), (&health.timeout, checks.timeout)] {
        if let (Some(key), true) = (key, value.is_zero()) {
            problems.add(key.at, "a check takes time").hint("leave it out for the default");
        }
    }
    config.health = Some(checks);
}

fn watch(file: &file::Service, config: &mut ServiceConfig) {
    let Some(form) = &file.watch else { return };
    let globs = |many: &crate::decode::Many<crate::kinds::Glob>| many.0.iter().map(|glob| glob.value.0.clone()).collect();
    match &form.value {
        WatchForm::Globs(files) => config.watch = globs(files),
        WatchForm::Table(table) => {
            config.watch = table.files.as_ref().map(|files| globs(&files.value)).unwrap_or_default();
            config.watch_ignore = table.ignore.as_ref().map(|files| globs(&files.value)).unwrap_or_default();
            config.watch_debounce = get(table.debounce.as_ref()).map_or(config.watch_debounce, |time| time.0);
        }
    }
}

/// The instance of these services.
pub(crate) fn instance(file: &File, services: Vec<ServiceConfig>, procfile: bool, loader: &Loader<'_>) -> InstanceConfig {
    let source = &loader.sources[0];
    let name = get(file.name.as_ref()).map_or_else(|| directory_name(source.directory()), |name| name.0);
    let request = loader.request;
    let mut config = InstanceConfig::new(name, Mode::Up, request.report);
    config.env.clone_from(&request.environment);
    config.source = Some(Source {
        path: source.path.as_os_str().as_bytes().to_vec(),
        profile: request.profile.clone(),
        only: request.only.clone(),
        procfile,
    });
    config.dashboard = dashboard(file);
    config.logs = Some(logs(file, &config.name, loader));
    config.services = services;
    config
}

/// The port of the dashboard unless another is named.
const DASHBOARD_PORT: u16 = 5000;

fn dashboard(file: &File) -> Option<Dashboard> {
    let default = Dashboard { listen: loopback(DASHBOARD_PORT).to_vec(), declared: false, read_only: false };
    let Some(form) = &file.dashboard else { return Some(default) };
    let table = match &form.value {
        DashboardForm::Switch(on) => return on.then_some(default),
        DashboardForm::Table(table) => table,
    };
    let read_only = get(table.read_only.as_ref()).unwrap_or(false);
    match get(table.listen.as_ref()) {
        None => Some(Dashboard { read_only, ..default }),
        Some(listen) => Some(Dashboard { listen: listen.0?, declared: true, read_only }),
    }
}

fn logs(file: &File, name: &str, loader: &Loader<'_>) -> LogsConfig {
    let none = file::Logs::default();
    let logs = file.logs.as_ref().map_or(&none, |logs| &logs.value);
    let directory = match &logs.directory {
        Some(directory) => clean(&loader.sources[usize::from(directory.at.file)].directory().join(&directory.value)),
        None => logs_directory(name, loader),
    };
    let size = |value: &Option<At<crate::kinds::Size>>, default| get(value.as_ref()).map_or(default, |size| size.0);
    let max_size = size(&logs.max_size, 256 << 20);
    LogsConfig {
        directory: clean(&directory).into_os_string().into_vec(),
        max_size,
        max_age: get(logs.max_age.as_ref()).map(|age| age.0),
        // A service keeps at least its newest segment, so it must be much smaller than all.
        segment: size(&logs.segment, 16 << 20).clamp(1 << 16, (max_size / 4).max(1 << 16)),
        compress: get(logs.compress.as_ref()).unwrap_or(true),
    }
}

/// Where `stayput logs` looks when nothing runs (`directory.rs` of the logs): `$XDG_STATE_HOME/stayput/NAME/logs`, for root without that variable
/// `/var/log/stayput/NAME`, else `~/.local/state/stayput/NAME/logs` (XDG Base Directory Specification; a path that is not absolute does not count).
fn logs_directory(name: &str, loader: &Loader<'_>) -> PathBuf {
    let variables = Variables::new(&loader.request.environment);
    let path =
        |name: &str| variables.get(name).map(|value| PathBuf::from(OsString::from_vec(value.to_vec()))).filter(|path| path.is_absolute());
    let below = |base: PathBuf| base.join("stayput").join(name).join("logs");
    match (path("XDG_STATE_HOME"), path("HOME")) {
        (Some(state), _) => below(state),
        (None, _) if loader.request.uid == 0 => PathBuf::from("/var/log/stayput").join(name),
        (None, Some(home)) => below(home.join(".local/state")),
        (None, None) => PathBuf::from(format!("/tmp/stayput-{}", loader.request.uid)).join(name).join("logs"),
    }
}

/// A directory's name, made fit to be that of an instance.
fn directory_name(directory: &Path) -> String {
    let name = directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let allowed = |character: char| if character.is_ascii_alphanumeric() || "_.@-".contains(character) { character } else { '-' };
    let name: String = name.chars().map(allowed).take(56).collect();
    let name = name.trim_start_matches(['.', '-']);
    if name.is_empty() { "stayput".to_owned() } else { name.to_owned() }
}

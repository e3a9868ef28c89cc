//! What a new configuration changes, field by field, and what each change needs. Pure, so that a plan shown and a reload done cannot differ.
//!
//! Values of environment variables are never in it, only their names.

use crate::config::{
    After, Health, HealthCheck, InstanceConfig, Kind, Limits, LogPolicy, LogsConfig, OutputKind, Readiness, RestartPolicy, Rlimit,
    ServiceConfig, StartLimit, StopStep, UserSpec, When,
};
use crate::secrets::{HIDDEN, hidden};
use crate::text::{command_line, printable, printable_bytes};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// What changes for one service, or for the instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Change {
    /// Which service; `None`: the instance.
    pub service: Option<String>,
    /// What happens to it.
    pub what: What,
    /// The most that any of its fields needs; of an added or removed service [`Needs::Live`].
    pub needs: Needs,
}

/// What happens to a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// It is new.
    Added,
    /// It is no longer there: it is drained and stopped.
    Removed,
    /// These fields differ; not empty.
    Changed(Vec<FieldChange>),
}

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FieldChange {
    /// The key in the configuration; of a variable `env.NAME`.
    pub field: String,
    /// What it was, for people; of a variable only whether it was set.
    pub before: String,
    /// What it will be, for people.
    pub after: String,
    /// What the change needs.
    pub needs: Needs,
    /// Why it needs that.
    pub why: String,
}

/// What a change needs, in rising order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Needs {
    /// Nothing now: it counts from the next start or stop.
    Nothing,
    /// It is applied at once, without a restart.
    Live,
    /// A restart of the service.
    Restart,
}

/// What `new` changes in `old`: the instance first, then the services by name. What is equal is not mentioned; neither is where a service is
/// defined in its file.
pub fn diff(old: &InstanceConfig, new: &InstanceConfig) -> Vec<Change> {
    let by_name = |config: &'_ InstanceConfig| -> BTreeMap<String, ServiceConfig> {
        config.services.iter().map(|service| (service.name.clone(), service.clone())).collect()
    };
    let (before, after) = (by_name(old), by_name(new));
    let mut changes: Vec<Change> = changed(None, instance(old, new)).into_iter().collect();
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in names {
        let whole = |what| Some(Change { service: Some(name.clone()), what, needs: Needs::Live });
        changes.extend(match (before.get(name), after.get(name)) {
            (Some(before), Some(after)) => changed(Some(name.clone()), service(before, &old.env, after, &new.env)),
            (None, Some(_)) => whole(What::Added),
            (Some(_), None) => whole(What::Removed),
            (None, None) => None,
        });
    }
    changes
}

fn changed(service: Option<String>, fields: Vec<FieldChange>) -> Option<Change> {
    let needs = fields.iter().map(|field| field.needs).max()?;
    Some(Change { service, what: What::Changed(fields), needs })
}

/// The fields that differ between two configurations of one service, each with the environment of its instance.
pub fn service(old: &ServiceConfig, old_base: &[Vec<u8>], new: &ServiceConfig, new_base: &[Vec<u8>]) -> Vec<FieldChange> {
    const AT_START: &str = "a process gets it when it starts";
    const NEXT_START: &str = "it counts from the next start on";
    const NEXT_RESTART: &str = "it counts from the next restart on";
    const NEXT_STOP: &str = "it counts from the next stop on";
    // No `..`: a field that is added must be given its place here.
    let ServiceConfig {
        name: _,
        argv,
        env: _,
        base: _,
        cwd,
        ports,
        readiness,
        ready_timeout,
        drain,
        grace,
        stop_signal,
        soak,
        hold,
        overlap,
        restart,
        output,
        kind,
        after,
        replicas,
        disabled,
        start_limit,
        user,
        umask,
        rlimits,
        limits,
        health,
        watch,
        watch_ignore,
        watch_debounce,
        stop,
        log,
        origin: _,
        own: _,
    } = old;
    let mut fields = Fields::default();
    fields.compare("command", argv, &new.argv, Needs::Restart, AT_START, |argv| command_line(argv.iter().map(Vec::as_slice)));
    fields.variables(&old.environment(old.base(old_base)), &new.environment(new.base(new_base)));
    fields.compare("cwd", cwd, &new.cwd, Needs::Restart, AT_START, |path| printable_bytes(path));
    fields.compare("port", ports, &new.ports, Needs::Live, "the new one is held before the old one is released", |ports| {
        list(ports, SocketAddr::to_string)
    });
    fields.compare("ready", readiness, &new.readiness, Needs::Nothing, NEXT_START, ready);
    fields.compare("ready.timeout", ready_timeout, &new.ready_timeout, Needs::Nothing, NEXT_START, time);
    fields.compare("drain", drain, &new.drain, Needs::Nothing, NEXT_RESTART, time);
    let steps = |signal: i32, grace: Duration, more: &[StopStep]| {
        [StopStep { signal, wait: grace }].into_iter().chain(more.iter().copied()).collect::<Vec<_>>()
    };
    let before = steps(*stop_signal, *grace, stop);
    fields.compare("stop", &before, &steps(new.stop_signal, new.grace, &new.stop), Needs::Nothing, NEXT_STOP, |steps| {
        list(steps, |step| format!("signal {}, wait {}", step.signal, time(&step.wait)))
    });
    fields.compare("soak", soak, &new.soak, Needs::Nothing, NEXT_RESTART, time);
    fields.compare("hold", hold, &new.hold, Needs::Live, "the time counts anew", time);
    fields.compare("overlap", overlap, &new.overlap, Needs::Nothing, NEXT_RESTART, bool::to_string);
    fields.compare("restart", restart, &new.restart, Needs::Live, "it is asked when the process ends", |policy_of| policy(*policy_of));
    fields.compare("tty", output, &new.output, Needs::Restart, AT_START, |output| matches!(output, OutputKind::Pty { .. }).to_string());
    fields.kind(kind, &new.kind);
    fields.compare("after", after, &new.after, Needs::Nothing, NEXT_START, |after| list(after, dependency));
    fields.compare("replicas", replicas, &new.replicas, Needs::Restart, "copies are started together", u32::to_string);
    fields.compare("disabled", disabled, &new.disabled, Needs::Live, "it is started or stopped", bool::to_string);
    fields.compare("restart.starts", start_limit, &new.start_limit, Needs::Live, "starts are counted by it at once", |starts| {
        or_none(starts.as_ref(), limit)
    });
    fields.compare("user", user, &new.user, Needs::Restart, AT_START, |user| or_none(user.as_ref(), who));
    fields.compare("umask", umask, &new.umask, Needs::Restart, AT_START, |mask| or_none(mask.as_ref(), |mask| format!("{mask:04o}")));
    fields.compare("limits", rlimits, &new.rlimits, Needs::Restart, AT_START, |limits| list(limits, resource));
    fields.limits(*limits, new.limits);
    fields.compare("health", health, &new.health, Needs::Live, "the checks begin anew", |health| or_none(health.as_ref(), checks));
    let look_anew = "files are looked at anew";
    fields.compare("watch", watch, &new.watch, Needs::Live, look_anew, |globs| list(globs, |glob| printable(glob).into_owned()));
    let ignored = &new.watch_ignore;
    fields.compare("watch.ignore", watch_ignore, ignored, Needs::Live, look_anew, |globs| list(globs, |glob| printable(glob).into_owned()));
    fields.compare("watch.debounce", watch_debounce, &new.watch_debounce, Needs::Live, look_anew, time);
    fields.compare("logs", log, &new.log, Needs::Live, "it is asked when output is written", kept);
    fields.0
}

fn instance(old: &InstanceConfig, new: &InstanceConfig) -> Vec<FieldChange> {
    let mut fields = Fields::default();
    let own_restart = "an instance keeps its name while it runs";
    fields.compare("name", &old.name, &new.name, Needs::Nothing, own_restart, Clone::clone);
    fields.compare("dashboard", &old.dashboard, &new.dashboard, Needs::Live, "its port is moved without a gap", |dashboard| {
        or_none(dashboard.as_ref(), |dashboard| {
            let kind = if dashboard.read_only { ", read-only" } else { "" };
            format!("{}{kind}", list(&dashboard.listen, SocketAddr::to_string))
        })
    });
    let place = |logs: &Option<LogsConfig>| logs.as_ref().map(|logs| logs.directory.clone());
    let stays = "an instance keeps its logs where they are while it runs";
    fields.compare("logs.directory", &place(&old.logs), &place(&new.logs), Needs::Nothing, stays, |place| {
        or_none(place.as_ref(), |place: &Vec<u8>| printable_bytes(place))
    });
    if let (Some(old), Some(new)) = (&old.logs, &new.logs) {
        let kept = |logs: &LogsConfig| LogsConfig { directory: Vec::new(), ..logs.clone() };
        fields.compare("logs", &kept(old), &kept(new), Needs::Live, "it is asked when output is written", |logs| {
            let age = or_none(logs.max_age.as_ref(), time);
            let packed = if logs.compress { ", compressed" } else { "" };
            format!("{} bytes, age {age}, segments of {}{packed}", logs.max_size, logs.segment)
        });
    }
    fields.0
}

#[derive(Default)]
struct Fields(Vec<FieldChange>);

impl Fields {
    fn push(&mut self, field: &str, before: String, after: String, needs: Needs, why: &str) {
        self.0.push(FieldChange { field: field.to_owned(), before, after, needs, why: why.to_owned() });
    }

    fn compare<T: PartialEq>(&mut self, field: &str, old: &T, new: &T, needs: Needs, why: &str, show: impl Fn(&T) -> String) {
        if old != new {
            let (before, mut after) = (show(old), show(new));
            if before == after && after.contains(HIDDEN) {
                after.push_str(" (another secret)");
            }
            self.push(field, before, after, needs, why);
        }
    }

    /// Names only: values are secrets.
    fn variables(&mut self, old: &[Vec<u8>], new: &[Vec<u8>]) {
        let split = |entries: &'_ [Vec<u8>]| -> BTreeMap<Vec<u8>, Vec<u8>> {
            let split = |entry: &Vec<u8>| {
                let end = entry.iter().position(|byte| *byte == b'=').unwrap_or(entry.len());
                (entry[..end].to_vec(), entry[end..].to_vec())
            };
            entries.iter().map(split).collect()
        };
        let (old, new) = (split(old), split(new));
        let names: BTreeSet<&Vec<u8>> = old.keys().chain(new.keys()).collect();
        for name in names {
            let (before, after) = match (old.get(name), new.get(name)) {
                (Some(before), Some(after)) if before == after => continue,
                (Some(_), Some(_)) => ("set", "another value"),
                (Some(_), None) => ("set", "not set"),
                (None, _) => ("not set", "set"),
            };
            let field = format!("env.{}", printable_bytes(name));
            self.push(&field, before.to_owned(), after.to_owned(), Needs::Restart, "a process gets its environment when it starts");
        }
    }

    fn kind(&mut self, old: &Kind, new: &Kind) {
        let (before, after) = match (old, new) {
            (Kind::Task { schedule: before }, Kind::Task { schedule: after }) => {
                let show = |schedule: &Option<String>| or_none(schedule.as_ref(), Clone::clone);
                return self.compare("schedule", before, after, Needs::Live, "the next run is reckoned anew", show);
            }
            (Kind::Service, Kind::Service) => return,
            (Kind::Service, Kind::Task { .. }) => ("service", "task"),
            (Kind::Task { .. }, Kind::Service) => ("task", "service"),
        };
        self.push("kind", before.to_owned(), after.to_owned(), Needs::Restart, "a task ends, a service stays");
    }

    fn limits(&mut self, old: Limits, new: Limits) {
        let why = "a process tree gets its limits when it starts";
        let Limits { memory, cpu, tasks } = old;
        self.compare("limits.memory", &memory, &new.memory, Needs::Restart, why, |memory| or_none(memory.as_ref(), u64::to_string));
        self.compare("limits.cpu", &cpu, &new.cpu, Needs::Restart, why, |cpu| or_none(cpu.as_ref(), |cpu| format!("{cpu}%")));
        self.compare("limits.tasks", &tasks, &new.tasks, Needs::Restart, why, |tasks| or_none(tasks.as_ref(), u32::to_string));
    }
}

fn or_none<T>(value: Option<&T>, show: impl Fn(&T) -> String) -> String {
    value.map_or_else(|| "none".to_owned(), show)
}

fn list<T>(items: &[T], show: impl Fn(&T) -> String) -> String {
    if items.is_empty() { "none".to_owned() } else { items.iter().map(show).collect::<Vec<_>>().join(", ") }
}

fn time(time: &Duration) -> String {
    format!("{time:?}")
}

fn ready(readiness: &Readiness) -> String {
    match readiness {
        Readiness::Accept => "accept".to_owned(),
        Readiness::Http { path, host: None } => format!("http:{}", printable(&hidden(path))),
        Readiness::Http { path, host: Some(host) } => format!("http://{}{}", printable(host), printable(&hidden(path))),
        Readiness::Notify => "notify".to_owned(),
        Readiness::Log { pattern } => format!("log:{}", printable(pattern)),
    }
}

fn policy(policy: RestartPolicy) -> String {
    match policy {
        RestartPolicy::Always => "always",
        RestartPolicy::OnFailure => "on-failure",
        RestartPolicy::Never => "never",
    }
    .to_owned()
}

fn dependency(after: &After) -> String {
    let when = match after.when {
        When::Started => "started",
        When::Ready => "ready",
        When::Completed => "completed",
    };
    format!("{} {when}", after.service)
}

fn limit(limit: &StartLimit) -> String {
    format!("{} starts within {:?}", limit.starts, limit.within)
}

fn who(user: &UserSpec) -> String {
    let groups = if user.groups.is_empty() { String::new() } else { format!(" groups {}", list(&user.groups, u32::to_string)) };
    let name = user.name.as_deref().map(|name| format!(" ({})", printable(name))).unwrap_or_default();
    format!("{}:{}{name}{groups}", user.uid, user.gid)
}

fn resource(limit: &Rlimit) -> String {
    let show = |value: u64| if value == u64::MAX { "unlimited".to_owned() } else { value.to_string() };
    format!("resource {} {}:{}", limit.resource, show(limit.soft), show(limit.hard))
}

fn checks(health: &Health) -> String {
    let port = |port: Option<u16>| port.map(|port| format!(" port {port}")).unwrap_or_default();
    let what = match &health.check {
        HealthCheck::Http { path, host, port: at } => {
            format!("http {}{}{}", printable(host.as_deref().unwrap_or_default()), printable(&hidden(path)), port(*at))
        }
        HealthCheck::Tcp { port: at } => format!("tcp{}", port(*at)),
        HealthCheck::Exec { argv } => format!("exec {}", command_line(argv.iter().map(Vec::as_slice))),
    };
    let Health { check: _, every, timeout, failures, start_after } = health;
    format!("{what} every {every:?}, timeout {timeout:?}, {failures} failures, first after {start_after:?}")
}

fn kept(log: &LogPolicy) -> String {
    let LogPolicy { max_size, max_age, block } = log;
    let size = or_none(max_size.as_ref(), u64::to_string);
    format!("max-size {size}, max-age {}, block {block}", or_none(max_age.as_ref(), time))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Mode, ReportStyle};

    fn instance(services: Vec<ServiceConfig>) -> InstanceConfig {
        InstanceConfig { services, ..InstanceConfig::new("test", Mode::Up, ReportStyle::Plain) }
    }

    fn named(name: &str) -> ServiceConfig {
        ServiceConfig::new(name, vec![b"server".to_vec()])
    }

    fn fields(change: impl FnOnce(&mut ServiceConfig)) -> Vec<FieldChange> {
        let mut new = named("web");
        change(&mut new);
        match diff(&instance(vec![named("web")]), &instance(vec![new])).pop() {
            None => Vec::new(),
            Some(Change { what: What::Changed(fields), .. }) => fields,
            Some(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn added_removed_and_equal() {
        let plan = diff(&instance(vec![named("a"), named("same")]), &instance(vec![named("same"), named("b")]));
        let short: Vec<_> = plan.iter().map(|change| (change.service.as_deref(), &change.what, change.needs)).collect();
        assert_eq!(short, [(Some("a"), &What::Removed, Needs::Live), (Some("b"), &What::Added, Needs::Live)]);
        assert_eq!(fields(|service| service.origin = Some(crate::config::Origin { line: 7, column: 1 })), []);
    }

    #[test]
    fn another_secret_is_told_and_not_shown() {
        let with = |secret: &str| ServiceConfig::new("web", ["app", "--token", secret].map(|word| word.as_bytes().to_vec()).to_vec());
        let change = diff(&instance(vec![with("hunter2")]), &instance(vec![with("hunter3")])).pop().unwrap();
        let What::Changed(fields) = change.what else { panic!("{change:?}") };
        assert_eq!((fields[0].before.as_str(), fields[0].after.as_str()), ("app --token ***", "app --token *** (another secret)"));
    }

    /// People edit a policy of a supervisor and find their service restarted.
    #[test]
    fn a_policy_alone_restarts_nothing() {
        let live = fields(|service| {
            service.restart = RestartPolicy::Never;
            service.hold = Duration::from_secs(5);
            service.grace = Duration::from_secs(5);
            service.log.block = true;
            service.readiness = Readiness::Notify;
            service.ports = vec![SocketAddr::from(([127, 0, 0, 1], 80))];
        });
        assert_eq!(live.len(), 6);
        assert!(live.iter().all(|field| field.needs < Needs::Restart), "{live:?}");
        let restart = fields(|service| service.argv.push(b"--verbose".to_vec()));
        assert_eq!(
            (restart[0].before.as_str(), restart[0].after.as_str(), restart[0].needs),
            ("server", "server --verbose", Needs::Restart)
        );
    }

    #[test]
    fn values_of_variables_are_never_shown() {
        let old = InstanceConfig { env: vec![b"SECRET=hunter2".to_vec(), b"GONE=hunter2".to_vec()], ..instance(vec![named("web")]) };
        let mut web = named("web");
        web.env = vec![b"SECRET=hunter3".to_vec(), b"NEW=hunter3".to_vec()];
        let plan = diff(&old, &instance(vec![web]));
        let What::Changed(fields) = &plan[0].what else { panic!("{plan:?}") };
        let names: Vec<_> = fields.iter().map(|field| (field.field.as_str(), field.after.as_str())).collect();
        assert_eq!(names, [("env.GONE", "not set"), ("env.NEW", "set"), ("env.SECRET", "another value")]);
        assert!(!format!("{plan:?}").contains("hunter"));
    }
}

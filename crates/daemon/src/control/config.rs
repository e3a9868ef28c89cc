//! The configuration while it is in force: what a reload would change, the reload, and how a service is configured now.
//!
//! The file is read by the same code as at `stayput up`, with the environment that the instance was started with; a file with errors changes
//! nothing. Values of environment variables leave this module in no answer.

use super::Answers;
use super::waiting::{Awaited, Waiter};
use crate::reactor::{Message, Reactor};
use serde_json::{Map, Value, json};
use stayput_config::Report;
use stayput_model::config::{InstanceConfig, Kind, OutputKind, Readiness, RestartPolicy, ServiceConfig, Source, When};
use stayput_model::dashboard::Present;
use stayput_model::event::Event as WorldEvent;
use stayput_model::plan::{self, Needs};
use stayput_model::text::{command_line, printable_bytes};
use stayput_wire::plan::{ConfigProblem, ConfigReport, FieldChange, PlanReport, ServiceAction, ServiceChange};
use stayput_wire::{ConfigOrigin, Failure, FailureKind, Reply};
use std::rc::Rc;
use std::time::Duration;

/// A file that cannot be read within so long is given up.
const READ_TIME: Duration = Duration::from_secs(20);

/// What the configuration is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Plan,
    Reload { wait: bool },
}

/// The configuration was read, or could not be in time.
#[derive(Debug)]
pub(crate) struct ConfigRead {
    result: Option<Result<InstanceConfig, Report>>,
    purpose: Purpose,
    answers: Answers,
}

/// Does it on another thread; `None`: it took too long. The thread is left to itself then, there are only a few of them, and they end with the
/// process.
async fn elsewhere<T: Send + 'static>(within: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::time::timeout(within, tokio::task::spawn_blocking(work)).await.ok()?.ok()
}

impl Reactor {
    pub(super) fn asked_plan(&self, answers: &Answers) -> Result<(), Failure> {
        self.read_again(Purpose::Plan, answers)
    }

    pub(super) fn asked_reload(&self, wait: bool, answers: &Answers) -> Result<(), Failure> {
        self.not_ending()?;
        self.read_again(Purpose::Reload { wait }, answers)
    }

    /// The file was read.
    pub(crate) fn config_read(&mut self, read: ConfigRead) {
        let ConfigRead { result, purpose, answers } = read;
        let done = match result {
            Some(result) => self.use_config(result, purpose, &answers),
            None => Err(Failure {
                kind: FailureKind::Failed,
                message: format!("the configuration could not be read within {} s: nothing was changed", READ_TIME.as_secs()),
                hint: Some("the disk that it is on does not answer".to_owned()),
            }),
        };
        if let Err(failure) = done {
            answers.refuse(failure);
        }
    }

    fn use_config(&mut self, result: Result<InstanceConfig, Report>, purpose: Purpose, answers: &Answers) -> Result<(), Failure> {
        let source = self.source()?;
        let mut new = match result {
            Ok(new) => new,
            Err(report) => {
                let plan = Box::new(refusal(source, &report));
                answers.reply(match purpose {
                    Purpose::Plan => Reply::Plan(plan),
                    Purpose::Reload { .. } => Reply::Reloaded { plan, services: Vec::new() },
                });
                return Ok(());
            }
        };
        let own = self.world.services.values().find(|service| service.config.own && !service.removed);
        let present = self.world.dashboard.as_ref().zip(own).map(|(asked, own)| Present { asked, service: &own.config });
        crate::own::add(&mut new, &self.socket, present);
        let plan = Box::new(self.plan_of(source, &new));
        let wait = match purpose {
            Purpose::Plan => {
                answers.reply(Reply::Plan(plan));
                return Ok(());
            }
            Purpose::Reload { wait } => wait,
        };
        // It may have begun to end meanwhile.
        self.not_ending()?;
        self.requested("reload", "", &[], answers);
        let of = |action: ServiceAction| {
            let chosen = plan.changes.iter().filter(move |change| change.action == action);
            chosen.map(|change| change.service.clone()).collect::<Vec<_>>()
        };
        let (restarts, added) = (of(ServiceAction::Restart), of(ServiceAction::Add));
        let before: Vec<_> = restarts.iter().map(|name| self.newest_ledger(name)).collect();
        // Also without a change of a field: where services are defined may have moved.
        self.step(WorldEvent::Configure(Box::new(new)));
        self.apply_log_policies();
        if !wait {
            answers.reply(Reply::Reloaded { plan, services: Vec::new() });
            return Ok(());
        }
        let opened = restarts.into_iter().zip(before).filter_map(|(name, before)| {
            let ledger = self.newest_ledger(&name).filter(|newest| Some(*newest) != before)?;
            Some((name, ledger))
        });
        let what = Awaited::Reload { plan, restarts: opened.collect(), added };
        self.waiters.push(Waiter { what, answers: answers.clone() });
        Ok(())
    }

    pub(super) fn asked_config(&self, service: Option<String>, answers: &Answers) -> Result<(), Failure> {
        let name = self.one_service(service)?;
        let config = &self.world.services[&name].config;
        let origin = config.origin.map(|origin| ConfigOrigin { path: None, line: origin.line, column: origin.column });
        let fields = fields(config, &self.world.env);
        answers.reply(Reply::Config(Box::new(ConfigReport { service: name, origin, fields })));
        Ok(())
    }

    fn source(&self) -> Result<&Source, Failure> {
        self.world.source.as_ref().ok_or_else(|| Failure {
            kind: FailureKind::BadRequest,
            message: "this instance has no configuration file: it was started by `stayput run`".to_owned(),
            hint: Some("start it from a stayput.toml: stayput up".to_owned()),
        })
    }

    /// Reads the file again, on a thread of its own: a disk may not answer, and nobody else is to wait for it. One after the other, so that the
    /// last who asks gets what is there last.
    fn read_again(&self, purpose: Purpose, answers: &Answers) -> Result<(), Failure> {
        let uid = rustix::process::geteuid().as_raw();
        let request = stayput_config::Request::again(self.source()?, self.world.env.clone(), uid, self.world.report);
        let (turn, to, answers) = (Rc::clone(&self.config_turn), self.to.clone(), answers.clone());
        tokio::task::spawn_local(async move {
            let _turn = turn.lock().await;
            let result = elsewhere(READ_TIME, move || stayput_config::load(&request)).await;
            // The reactor is gone only when the daemon ends.
            let _ = to.send(Message::ConfigRead(Box::new(ConfigRead { result, purpose, answers })));
        });
        Ok(())
    }

    fn plan_of(&self, source: &Source, new: &InstanceConfig) -> PlanReport {
        let mut report = PlanReport { path: Some(printable_bytes(&source.path)), ..PlanReport::default() };
        for change in plan::diff(&self.world.config(), new) {
            let fields = match &change.what {
                plan::What::Changed(fields) => fields.iter().map(field).collect(),
                plan::What::Added | plan::What::Removed => Vec::new(),
            };
            let Some(service) = change.service else {
                report.instance = fields;
                continue;
            };
            let is_task = self.world.services.get(&service).is_some_and(stayput_model::service::Service::is_task);
            let (action, why) = match (&change.what, change.needs) {
                (plan::What::Added, _) => (ServiceAction::Add, "it is new in the file"),
                (plan::What::Removed, _) => (ServiceAction::Remove, "it is no longer in the file"),
                (_, Needs::Restart) if is_task => (ServiceAction::Live, "a task takes it at its next run"),
                (_, Needs::Restart) => (ServiceAction::Restart, "a process has what changed from its start"),
                (_, Needs::Live | Needs::Nothing) => (ServiceAction::Live, "no process is touched"),
            };
            report.changes.push(ServiceChange { service, action, why: why.to_owned(), fields });
        }
        report
    }
}

fn field(change: &plan::FieldChange) -> FieldChange {
    let set = |text: &String| (text != "none" && text != "not set").then(|| text.clone());
    FieldChange {
        field: change.field.clone(),
        from: set(&change.before),
        to: set(&change.after),
        restart: change.needs == Needs::Restart,
        why: change.why.clone(),
    }
}

fn refusal(source: &Source, report: &Report) -> PlanReport {
    // The frames of all of them are one text: it stands with the first.
    let mut rendered = Some(report.render(false));
    let problem = |problem: &stayput_config::Problem| ConfigProblem {
        message: problem.message.clone(),
        path: problem.place.as_ref().map(|place| place.file.clone()),
        line: problem.place.as_ref().map(|place| place.line),
        column: problem.place.as_ref().map(|place| place.column),
        hint: problem.hint.clone(),
        rendered: rendered.take(),
    };
    let errors = report.problems().iter().map(problem).collect();
    PlanReport { path: Some(printable_bytes(&source.path)), errors, ..PlanReport::default() }
}

fn ms(time: Duration) -> Value {
    json!(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// By their names in the file. Of the environment the names, of what the instance was started with and its own.
fn fields(config: &ServiceConfig, base: &[Vec<u8>]) -> Map<String, Value> {
    let name = |entry: &Vec<u8>| printable_bytes(entry.split(|byte| *byte == b'=').next().unwrap_or_default());
    let mut variables: Vec<String> = config.environment(config.base(base)).iter().map(name).collect();
    variables.sort();
    let after = |after: &stayput_model::config::After| {
        let when = match after.when {
            When::Started => "started",
            When::Ready => "ready",
            When::Completed => "completed",
        };
        json!({ "service": after.service, "when": when })
    };
    let (task, schedule) = match &config.kind {
        Kind::Service => (false, None),
        Kind::Task { schedule } => (true, schedule.clone()),
    };
    let values = json!({
        "command": command_line(config.argv.iter().map(Vec::as_slice)),
        "cwd": printable_bytes(&config.cwd),
        "port": config.ports.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "env": variables,
        "ready": ready(&config.readiness),
        "ready_timeout_ms": ms(config.ready_timeout),
        "drain_ms": ms(config.drain),
        "grace_ms": ms(config.grace),
        "stop_signal": crate::say::signal_name(config.stop_signal),
        "soak_ms": ms(config.soak),
        "hold_ms": ms(config.hold),
        "overlap": config.overlap,
        "restart": match config.restart {
            RestartPolicy::Always => "always",
            RestartPolicy::OnFailure => "on-failure",
            RestartPolicy::Never => "never",
        },
        "tty": matches!(config.output, OutputKind::Pty { .. }),
        "task": task,
        "schedule": schedule,
        "after": config.after.iter().map(after).collect::<Vec<_>>(),
        "replicas": config.replicas,
        "disabled": config.disabled,
        "user": config.user.as_ref().map(|user| json!({ "name": user.name, "uid": user.uid, "gid": user.gid, "groups": user.groups })),
        "umask": config.umask.map(|mask| format!("{mask:04o}")),
        "limits": { "memory": config.limits.memory, "cpu": config.limits.cpu, "tasks": config.limits.tasks },
        "watch": config.watch,
        "watch_ignore": config.watch_ignore,
        "watch_debounce_ms": ms(config.watch_debounce),
    });
    match values {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn ready(readiness: &Readiness) -> String {
    match readiness {
        Readiness::Accept => "accept".to_owned(),
        Readiness::Http { path, host } => format!("http:{}{}", host.as_deref().unwrap_or_default(), stayput_model::secrets::hidden(path)),
        Readiness::Notify => "notify".to_owned(),
        Readiness::Log { pattern } => format!("log:{pattern}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_disk_that_does_not_answer_holds_up_nobody_else() {
        let (answer, hangs) = std::sync::mpsc::channel::<()>();
        let slow = elsewhere(Duration::from_millis(50), move || hangs.recv());
        let other = async {
            // On the same thread, while the read hangs.
            tokio::task::yield_now().await;
            elsewhere(READ_TIME, || 5).await
        };
        let (slow, other) = tokio::join!(slow, other);
        assert_eq!((slow, other), (None, Some(5)));
        drop(answer);
    }

    #[test]
    fn the_environment_is_told_by_its_names_alone() {
        let mut config = ServiceConfig::new("web", vec![b"server".to_vec()]);
        config.env = vec![b"SECRET=hunter2".to_vec()];
        let fields = fields(&config, &[b"PATH=/hunter2".to_vec(), b"SECRET=hunter1".to_vec()]);
        assert_eq!(fields["env"], json!(["PATH", "SECRET"]));
        assert!(!Value::Object(fields).to_string().contains("hunter"));
    }
}

//! A restart as it happens, step by step; in one go, or with a share first.

use std::sync::PoisonError;
use std::time::Duration;

use serde_json::json;
use stayput_wire::{
    Canary, CanaryAccount, Failure, FailureKind, GenerationPhase, Ledger, Level, Measured, Outcome, ServicePhase, State, Stream,
};

use super::{FakeControl, scenes};

impl FakeControl {
    /// Between two steps, unless the play is over.
    fn pause(&self, time: Duration) {
        let until = std::time::Instant::now() + time;
        let mut world = self.lock();
        while let Some(left) = until.checked_duration_since(std::time::Instant::now()) {
            world = self.world.1.wait_timeout(world, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Plays a restart to its end: starting, listening, ready, switched, draining, stopped. `None`: there is no such service, or it does
    /// not run.
    pub fn restart(&self, name: &str) -> Option<Ledger> {
        let (from, port) = self.serving(name)?;
        let to = from + 1;
        let step = |kind: &str, level, generation, text: String, data| self.record(Some(name), kind, level, Some(generation), &text, data);
        let mut ledger = scenes::ledger(from, to, Outcome::Running);
        (ledger.drained, ledger.accepted, ledger.idle_closed) = (Measured::Count(0), Measured::Count(0), Measured::Count(0));
        step(
            "restart-requested",
            Level::Info,
            from,
            "restart requested by dashboard: operator's token from 127.0.0.1 (pid 4290, uid 1000)".to_owned(),
            json!({ "from": from }),
        );
        self.service(name, |service| {
            service.state = State::Restarting;
            service.phase = ServicePhase::Restarting;
            service.detail = format!("generation {to} is being started beside generation {from}");
            service.generations.insert(0, scenes::generation(to, GenerationPhase::Spawning, 0, 0));
            service.ledger = Some(ledger.clone());
        });
        step("spawned", Level::Info, to, format!("generation {to} was started"), json!({ "from": from, "to": to, "pid": 31_337 }));
        self.line(name, to, Stream::Stdout, "\u{1b}[36mINFO\u{1b}[0m  booting");
        self.pause(Duration::from_millis(400));
        let phase = |service: &mut stayput_wire::ServiceStatus, id: u64, phase: GenerationPhase| {
            if let Some(generation) = service.generations.iter_mut().find(|generation| generation.id == id) {
                let connections = if let Measured::Count(count) = generation.connections { count } else { 0 };
                *generation = scenes::generation(id, phase, port, connections);
                generation.since_ms = 0;
            }
        };
        self.service(name, |service| phase(service, to, GenerationPhase::Starting));
        step(
            "listening",
            Level::Info,
            to,
            format!("generation {to} listens on 127.0.0.1:{port}"),
            json!({ "address": format!("127.0.0.1:{port}") }),
        );
        self.pause(Duration::from_millis(300));
        step("ready", Level::Good, to, format!("generation {to} is ready after 700 ms"), json!({ "after_ms": 700 }));
        self.service(name, |service| {
            phase(service, to, GenerationPhase::Ready);
            phase(service, from, GenerationPhase::Draining);
            service.state = State::Soaking;
            service.phase = ServicePhase::Soaking;
            service.detail = format!("generation {to} takes the connections on probation");
            service.uptime_ms = Some(0);
        });
        let text = format!("all new connections go to generation {to}; 12 of generation {from} drain");
        step("switched", Level::Good, to, text, json!({ "from": from, "to": to, "soak_ms": 1500, "draining": 12 }));
        for left in (0..12_u64).rev().step_by(2) {
            self.pause(Duration::from_millis(200));
            ledger.drained = Measured::Count(12 - left);
            ledger.accepted = Measured::Count((12 - left) * 3);
            let now = ledger.clone();
            self.service(name, |service| {
                for generation in &mut service.generations {
                    generation.connections = Measured::Count(if generation.id == to { (12 - left) * 3 } else { left });
                }
                service.connections.old = Measured::Count(left);
                service.connections.new = Measured::Count((12 - left) * 3);
                service.ledger = Some(now);
            });
        }
        step(
            "stop-signal",
            Level::Info,
            from,
            format!("TERM was sent to generation {from}"),
            json!({ "signal": "TERM", "grace_ms": 10_000 }),
        );
        self.service(name, |service| phase(service, from, GenerationPhase::Stopping));
        self.pause(Duration::from_millis(300));
        step("gone", Level::Info, from, format!("generation {from} exited with status 0"), json!({ "status": 0 }));
        ledger.outcome = Outcome::Switched;
        ledger.drained = Measured::Count(12);
        let end = ledger.clone();
        self.service(name, |service| {
            service.generations.retain(|generation| generation.id != from);
            service.state = State::Running;
            service.phase = ServicePhase::Ready;
            service.detail = format!("generation {to} takes the connections");
            service.connections.old = Measured::Count(0);
            service.restarts += 1;
            service.ledger = Some(end);
        });
        step("restarted", Level::Good, to, "restart is over: 12 drained, 0 cut, 0 refused".to_owned(), json!({ "from": from, "to": to }));
        Some(ledger)
    }
    /// Who has the connections of a service, and on which port.
    fn serving(&self, name: &str) -> Option<(u64, u16)> {
        let world = self.lock();
        let service = world.status.services.iter().find(|service| service.name == name)?;
        let generation = service.generations.first()?;
        Some((generation.id, generation.listeners.first().map_or(0, |listener| listener.port)))
    }

    /// Plays a restart with a version that does not come up: the old generation goes on. `None`: there is no such service, or it does not run.
    pub fn fail(&self, name: &str) -> Option<Ledger> {
        let (from, _) = self.serving(name)?;
        let to = from + 1;
        let step = |kind: &str, level, generation, text: String, data| self.record(Some(name), kind, level, Some(generation), &text, data);
        step(
            "restart-requested",
            Level::Info,
            from,
            "restart requested by stayput (pid 30411, uid 1000)".to_owned(),
            json!({ "from": from }),
        );
        step("spawned", Level::Info, to, format!("generation {to} was started"), json!({ "from": from, "to": to, "pid": 31_337 }));
        for line in
            ["Traceback (most recent call last):", "  File \"/srv/shop/auth.py\", line 3, in <module>", "ImportError: no module named jwt"]
        {
            self.line(name, to, Stream::Stderr, line);
        }
        let mut ledger = scenes::ledger(from, to, Outcome::NotReady);
        for count in [&mut ledger.drained, &mut ledger.accepted, &mut ledger.idle_closed, &mut ledger.queued] {
            *count = Measured::Count(0);
        }
        ledger.reason = Some("its main process exited with status 1".to_owned());
        let end = ledger.clone();
        self.service(name, |service| service.ledger = Some(end));
        let text = format!("generation {to} never became ready: its main process exited with status 1; generation {from} goes on");
        step("not-ready", Level::Trouble, to, text, json!({ "generation": to, "serving": from }));
        step("gone", Level::Info, to, format!("generation {to} exited with status 1"), json!({ "generation": to, "status": 1 }));
        Some(ledger)
    }

    /// Plays a restart up to the share of the new generation, and on to its end if the share has one. `None`: there is no such service, or it does
    /// not run.
    pub fn canary(&self, name: &str, canary: Canary) -> Option<Ledger> {
        let (from, port) = self.serving(name)?;
        let to = from + 1;
        let step = |kind: &str, level, generation, text: String, data| self.record(Some(name), kind, level, Some(generation), &text, data);
        step(
            "restart-requested",
            Level::Info,
            from,
            "restart requested by dashboard: operator's token".to_owned(),
            json!({ "from": from }),
        );
        step("spawned", Level::Info, to, format!("generation {to} was started"), json!({ "from": from, "to": to, "pid": 31_337 }));
        step("listening", Level::Info, to, format!("generation {to} listens on 127.0.0.1:{port}"), json!({ "generation": to }));
        step("ready", Level::Good, to, format!("generation {to} is ready after 90 ms"), json!({ "generation": to, "after_ms": 90 }));
        let share = format!("{}%", f64::from(canary.permille) / 10.0);
        let time = canary.for_ms.map_or_else(|| "until somebody decides".to_owned(), |time| format!("for {} s", time / 1000));
        let mut ledger = scenes::ledger(from, to, Outcome::Running);
        for count in [&mut ledger.drained, &mut ledger.accepted, &mut ledger.idle_closed, &mut ledger.queued] {
            *count = Measured::Count(0);
        }
        ledger.canary = Some(CanaryAccount { permille: canary.permille, for_ms: canary.for_ms, lasted_ms: Some(0) });
        let now = ledger.clone();
        self.service(name, |service| {
            service.state = State::Restarting;
            service.phase = ServicePhase::Restarting;
            service.detail = format!("generation {from} has the connections; generation {to}: has {share} of the new connections {time}");
            service.generations.insert(0, scenes::generation(to, GenerationPhase::Ready, port, 4));
            service.ledger = Some(now);
        });
        step("canary", Level::Good, to, format!("generation {to} gets {share} of the new connections {time}"), json!({ "generation": to }));
        if let Some(time) = canary.for_ms {
            self.pause(Duration::from_millis(time));
            // Somebody may have decided before.
            let _ = self.decide(name, true);
        }
        self.lock().status.services.iter().find(|service| service.name == name)?.ledger.clone()
    }

    /// Decides about a generation with a share.
    ///
    /// # Errors
    /// There is none.
    pub fn decide(&self, name: &str, switch: bool) -> Result<String, Failure> {
        let shared = {
            let world = self.lock();
            let service = world.status.services.iter().find(|service| service.name == name);
            service
                .and_then(|service| service.ledger.clone())
                .filter(|ledger| ledger.canary.is_some() && ledger.outcome == Outcome::Running)
        };
        let Some((mut ledger, (from, to))) = shared.and_then(|ledger| Some((ledger.clone(), ledger.from.zip(ledger.to)?))) else {
            let message = format!("{name}: no generation of it has a share of the connections: there is nothing to decide");
            return Err(Failure { kind: FailureKind::Failed, message, hint: None });
        };
        let (stays, goes) = if switch { (to, from) } else { (from, to) };
        ledger.outcome = if switch { Outcome::Switched } else { Outcome::RolledBack };
        ledger.reason = (!switch).then(|| "it was called off".to_owned());
        self.service(name, |service| {
            service.state = State::Running;
            service.phase = ServicePhase::Ready;
            service.detail = format!("generation {stays} takes the connections");
            service.generations.retain(|generation| generation.id == stays);
            service.ledger = Some(ledger);
        });
        let data = json!({ "from": goes, "to": stays });
        let text = format!("generation {stays} has all new connections{}", if switch { "" } else { " again" });
        self.record(Some(name), if switch { "switched" } else { "rolled-back" }, Level::Good, Some(stays), &text, data);
        self.record(
            Some(name),
            "gone",
            Level::Info,
            Some(goes),
            &format!("generation {goes} exited with status 0"),
            json!({ "generation": goes }),
        );
        Ok(text)
    }
}

//! A restart as it happens, step by step.

use std::sync::PoisonError;
use std::time::Duration;

use serde_json::json;
use stayput_wire::{GenerationPhase, Ledger, Level, Measured, Outcome, ServicePhase, State, Stream};

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
        let (from, port) = {
            let world = self.lock();
            let service = world.status.services.iter().find(|service| service.name == name)?;
            let generation = service.generations.first()?;
            (generation.id, generation.listeners.first().map_or(0, |listener| listener.port))
        };
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
}

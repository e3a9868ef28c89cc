//! A control server that has no instance behind it: it speaks the wire's protocol and plays what it is told. For tests of clients in states
//! that are hard to bring about: a thousand services, hostile names and lines, a daemon that goes away in the middle.

mod play;
mod processes;
mod scenes;

pub use scenes::Scene;

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use stayput_wire::codec::{self, ANSWER_LINE_MAX};
use stayput_wire::{
    Answer, ConfigReport, Cursor, EventRecord, Failure, FailureKind, History, HistoryRange, InstanceStatus, Level, LogLine, LogsQuery,
    PlanReport, Reply, Request, RestartedService, RestartingService, Sample, Series, ServiceStatus, StartedService, State, StoppedService,
    Stream, Target, VERSION,
};

/// Events and lines that are kept.
const KEPT: usize = 4096;
const LINES: usize = 60_000;

struct World {
    status: InstanceStatus,
    boot: u64,
    seq: u64,
    events: VecDeque<EventRecord>,
    lines: VecDeque<LogLine>,
    /// Lines that were dropped from the front.
    dropped: usize,
    plan: PlanReport,
    requests: Vec<Request>,
    /// Nobody is answered.
    away: bool,
    /// Connections from before the daemon went away are closed: each has the number it began with.
    life: u64,
}

/// The server. Clones are the same one.
#[derive(Clone)]
pub struct FakeControl {
    world: Arc<(Mutex<World>, Condvar)>,
}

impl std::fmt::Debug for FakeControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FakeControl")
    }
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

impl FakeControl {
    /// Listens at `path` and plays `scene`.
    ///
    /// # Errors
    /// What `bind` says.
    pub fn start(path: &Path, scene: Scene) -> std::io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        let world = World {
            status: scene.status(),
            boot: 0x5eed,
            seq: 0,
            events: VecDeque::new(),
            lines: VecDeque::new(),
            dropped: 0,
            plan: scenes::plan(),
            requests: Vec::new(),
            away: false,
            life: 0,
        };
        let fake = Self { world: Arc::new((Mutex::new(world), Condvar::new())) };
        scenes::past(&fake, scene);
        let accepting = fake.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let fake = accepting.clone();
                // A client that goes away is how a connection ends.
                std::thread::spawn(move || fake.serve(stream).ok());
            }
        });
        Ok(fake)
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.world.1.notify_all();
    }

    /// Something happens now.
    pub fn record(&self, service: Option<&str>, kind: &str, level: Level, generation: Option<u64>, text: &str, data: Value) -> Cursor {
        self.record_at(now_ms(), service, kind, level, generation, text, data)
    }

    /// Something happened then.
    #[expect(clippy::too_many_arguments, reason = "a record's fields, once more")]
    pub fn record_at(
        &self,
        at_ms: u64,
        service: Option<&str>,
        kind: &str,
        level: Level,
        generation: Option<u64>,
        text: &str,
        data: Value,
    ) -> Cursor {
        let mut world = self.lock();
        world.seq += 1;
        let cursor = Cursor { boot: world.boot, seq: world.seq };
        let service = service.map(str::to_owned);
        world.events.push_back(EventRecord {
            cursor,
            at_ms,
            service,
            kind: kind.to_owned(),
            generation,
            level,
            text: text.to_owned(),
            data,
        });
        if world.events.len() > KEPT {
            world.events.pop_front();
        }
        world.status.cursor = Some(cursor);
        drop(world);
        self.changed();
        cursor
    }

    /// A service writes a line.
    pub fn line(&self, service: &str, generation: u64, stream: Stream, text: &str) {
        self.line_at(now_ms(), service, generation, stream, text);
    }

    fn line_at(&self, at_ms: u64, service: &str, generation: u64, stream: Stream, text: &str) {
        let mut world = self.lock();
        let position = format!("{}", world.dropped + world.lines.len());
        let (service, text) = (service.to_owned(), text.to_owned());
        world.lines.push_back(LogLine { service, generation, stream, at_ms, at_ns: 0, text, bytes: None, truncated: false, position });
        if world.lines.len() > LINES {
            world.lines.pop_front();
            world.dropped += 1;
        }
        drop(world);
        self.changed();
    }

    /// Changes what is true.
    pub fn change(&self, change: impl FnOnce(&mut InstanceStatus)) {
        change(&mut self.lock().status);
        self.changed();
    }

    /// Changes what is true of one service.
    pub fn service(&self, name: &str, change: impl FnOnce(&mut ServiceStatus)) {
        self.change(|status| {
            if let Some(service) = status.services.iter_mut().find(|service| service.name == name) {
                change(service);
            }
        });
    }

    /// The daemon goes away: connections end, and nobody is answered.
    pub fn away(&self) {
        let mut world = self.lock();
        world.away = true;
        world.life += 1;
        drop(world);
        self.changed();
    }

    /// Another daemon is there: its events begin anew.
    pub fn back(&self) {
        let mut world = self.lock();
        world.away = false;
        world.boot += 1;
        world.seq = 0;
        world.events.clear();
        world.status.daemon_deaths += 1;
        world.status.cursor = None;
        drop(world);
        self.changed();
    }

    /// Every request so far that was no question.
    pub fn requests(&self) -> Vec<Request> {
        self.lock().requests.clone()
    }

    fn serve(&self, mut stream: UnixStream) -> std::io::Result<()> {
        let life = self.lock().life;
        let hang_up = stream.try_clone()?;
        let watched = self.clone();
        std::thread::spawn(move || {
            let mut world = watched.lock();
            while world.life == life && Arc::strong_count(&watched.world) > 1 {
                world = watched.world.1.wait_timeout(world, Duration::from_millis(200)).unwrap_or_else(PoisonError::into_inner).0;
            }
            let _ = hang_up.shutdown(std::net::Shutdown::Both);
        });
        let reader = BufReader::new(stream.try_clone()?);
        for line in reader.lines() {
            let line = line?;
            if self.lock().away {
                // Nobody answers, as with a daemon that is gone: the keeper holds the socket.
                let _never = self.world.1.wait_while(self.lock(), |world| world.life == life || world.away);
                return Ok(());
            }
            match codec::decode::<Request>(line.as_bytes()) {
                Ok(request) => self.answer(&mut stream, request, life)?,
                Err(error) => {
                    let failure = Failure { kind: FailureKind::BadRequest, message: error.to_string(), hint: None };
                    send(&mut stream, &Answer::Reply(Reply::Failed(failure)))?;
                }
            }
        }
        Ok(())
    }

    fn answer(&self, stream: &mut UnixStream, request: Request, life: u64) -> std::io::Result<()> {
        let reply = match request {
            Request::Hello { .. } => {
                let world = self.lock();
                let instance = world.status.name.clone();
                Reply::Hello { version: VERSION, stayput: env!("CARGO_PKG_VERSION").to_owned(), instance, guard: world.status.guard.pid }
            }
            Request::Status {} => Reply::Status(Box::new(self.lock().status.clone())),
            Request::Events { since, follow, services } => return self.events(stream, since, follow, &services, life),
            Request::Logs(query) => return self.logs(stream, &query, life),
            Request::Metrics {} => Reply::Metrics { text: "# TYPE stayput_up gauge\nstayput_up 1\n".to_owned() },
            Request::History { service, range } => Reply::History(Box::new(self.history(service.as_deref(), range))),
            Request::Config { service } => match self.config(service.as_deref().unwrap_or_default()) {
                Ok(report) => Reply::Config(Box::new(report)),
                Err(failure) => Reply::Failed(failure),
            },
            Request::Processes { service } => {
                let name = service.unwrap_or_default();
                let found = self.lock().status.services.iter().find(|service| service.name == name).map(processes::of);
                found.map_or_else(|| Reply::Failed(unknown(&name)), |found| Reply::Processes(Box::new(found)))
            }
            Request::Plan {} => Reply::Plan(Box::new(self.lock().plan.clone())),
            request => {
                self.lock().requests.push(request.clone());
                self.act(request)
            }
        };
        send(stream, &Answer::Reply(reply))
    }

    fn act(&self, request: Request) -> Reply {
        let named = |services: &[String]| -> Result<Vec<String>, Failure> {
            let world = self.lock();
            let all: Vec<String> = world.status.services.iter().map(|service| service.name.clone()).collect();
            let chosen: Vec<String> =
                all.into_iter().filter(|name| services.iter().any(|pattern| stayput_wire::pattern::matches(pattern, name))).collect();
            if chosen.is_empty() { Err(unknown(services.first().map_or("", String::as_str))) } else { Ok(chosen) }
        };
        let failed = |failure| Reply::Failed(failure);
        match request {
            Request::Restart { services, canary: Some(canary), .. } => named(&services).map_or_else(failed, |names| {
                let ledger = self.canary(&names[0], canary).map(Box::new);
                let restarted = RestartedService { name: names[0].clone(), ledger, last_output: Vec::new(), problem: None };
                Reply::Restarted { services: vec![restarted], untouched: Vec::new() }
            }),
            Request::Decide { service, switch } => {
                self.decide(service.as_deref().unwrap_or_default(), switch).map_or_else(failed, |fact| Reply::Done { facts: vec![fact] })
            }
            Request::Restart { services, wait, .. } => named(&services).map_or_else(failed, |names| self.act_restart(&names, wait)),
            Request::Rollback { service, wait } => {
                named(&service.into_iter().collect::<Vec<_>>()).map_or_else(failed, |names| self.act_restart(&names, wait))
            }
            Request::Stop { services, .. } => named(&services).map_or_else(failed, |names| {
                for name in &names {
                    self.stop(name);
                }
                let ended = |name| StoppedService { name, ended: "exited with status 0".to_owned(), status: 0 };
                Reply::Stopped { services: names.into_iter().map(ended).collect() }
            }),
            Request::Start { services, .. } => named(&services).map_or_else(failed, |names| {
                for name in &names {
                    self.start_service(name);
                }
                let started = |name| StartedService {
                    name,
                    started: true,
                    state: State::Running,
                    detail: "generation 1 takes the connections".to_owned(),
                    last_output: Vec::new(),
                };
                Reply::Started { services: names.into_iter().map(started).collect() }
            }),
            Request::Signal { services, .. } => named(&services).map_or_else(failed, |_| Reply::Signalled { services: Vec::new() }),
            Request::Reload { .. } => {
                let plan = std::mem::take(&mut self.lock().plan);
                self.record(None, "reloaded", Level::Good, None, "the configuration was applied: 3 changes", json!({}));
                Reply::Reloaded { plan: Box::new(plan), services: Vec::new() }
            }
            Request::Hold { address, .. } => Reply::Done { facts: vec![format!("{address} is held")] },
            Request::Release { address, .. } => {
                self.change(|status| {
                    for service in &mut status.services {
                        service.held.retain(|held| !address.ends_with(&format!(":{}", held.port)));
                    }
                });
                self.record(None, "released", Level::Info, None, &format!("{address} was let go"), json!({}));
                Reply::Done { facts: vec![format!("{address} was let go")] }
            }
            _ => Reply::Failed(Failure { kind: FailureKind::Failed, message: "not in this play".to_owned(), hint: None }),
        }
    }

    fn act_restart(&self, names: &[String], wait: bool) -> Reply {
        if wait {
            let services = names
                .iter()
                .map(|name| RestartedService {
                    name: name.clone(),
                    ledger: self.restart(name).map(Box::new),
                    last_output: Vec::new(),
                    problem: None,
                })
                .collect();
            return Reply::Restarted { services, untouched: Vec::new() };
        }
        let (fake, all) = (self.clone(), names.to_vec());
        std::thread::spawn(move || all.iter().for_each(|name| drop(fake.restart(name))));
        Reply::Restarting { services: names.iter().map(|name| RestartingService { name: name.clone(), from: None, to: None }).collect() }
    }

    fn stop(&self, name: &str) {
        self.service(name, |service| {
            service.target = Target::Down;
            service.state = State::Stopped;
            service.phase = stayput_wire::ServicePhase::Stopped;
            "stopped by request".clone_into(&mut service.detail);
            service.generations.clear();
            service.held.clear();
            service.uptime_ms = None;
        });
        self.record(Some(name), "stopped", Level::Info, None, "stopped by request; its ports are closed", json!({}));
    }

    fn start_service(&self, name: &str) {
        self.service(name, |service| {
            let fresh = scenes::running(&service.name, 8000, 1);
            *service = fresh;
        });
        self.record(Some(name), "ready", Level::Good, Some(1), "generation 1 is ready", json!({ "after_ms": 310 }));
    }

    fn config(&self, name: &str) -> Result<ConfigReport, Failure> {
        let world = self.lock();
        let service = world.status.services.iter().find(|service| service.name == name).ok_or_else(|| unknown(name))?;
        Ok(scenes::config(service))
    }

    fn history(&self, service: Option<&str>, range: HistoryRange) -> History {
        let (step_ms, count) = match range {
            HistoryRange::Hour => (10_000, 360),
            HistoryRange::Day => (300_000, 288),
        };
        let services = self.lock().status.services.clone();
        let idle: Vec<String> =
            services.iter().filter(|service| service.generations.is_empty()).map(|service| service.name.clone()).collect();
        let names: Vec<String> = services.into_iter().map(|service| service.name).collect();
        let now = now_ms() / step_ms * step_ms;
        let series = names.into_iter().filter(|name| service.is_none_or(|wanted| wanted == name)).map(|name| {
            let seed = name.bytes().fold(7_u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
            let mut samples: Vec<Sample> = (0..count).map(|index| scenes::sample(now - (count - index) * step_ms, index, seed)).collect();
            if idle.contains(&name) {
                for sample in &mut samples {
                    *sample = Sample {
                        at_ms: sample.at_ms,
                        connections: Some(0),
                        queued: Some(0),
                        restarts: sample.restarts,
                        ..Sample::default()
                    };
                }
            }
            Series { service: name, samples }
        });
        History { range, step_ms, series: series.collect() }
    }

    fn events(&self, stream: &mut UnixStream, since: Option<Cursor>, follow: bool, services: &[String], life: u64) -> std::io::Result<()> {
        let mut world = self.lock();
        let mut next = match since {
            Some(Cursor::NOW) => world.seq + 1,
            Some(cursor) if cursor.boot != world.boot => {
                send(stream, &Answer::Reset {})?;
                1
            }
            Some(cursor) => cursor.seq + 1,
            None => 1,
        };
        let first = world.events.front().map_or(world.seq + 1, |record| record.cursor.seq);
        if next < first && since.is_some() {
            send(stream, &Answer::Gap { missed: Some(first - next) })?;
        }
        loop {
            let fits = |record: &&EventRecord| services.is_empty() || record.service.as_ref().is_some_and(|name| services.contains(name));
            let fresh: Vec<EventRecord> = world.events.iter().filter(|record| record.cursor.seq >= next).filter(fits).cloned().collect();
            next = world.seq + 1;
            drop(world);
            for record in fresh {
                send(stream, &Answer::Record(record))?;
            }
            if !follow {
                return send(stream, &Answer::Reply(Reply::End {}));
            }
            world = self.lock();
            while world.seq < next && world.life == life {
                world = self.world.1.wait_timeout(world, Duration::from_secs(1)).unwrap_or_else(PoisonError::into_inner).0;
            }
            if world.life != life {
                return Ok(());
            }
        }
    }

    fn logs(&self, stream: &mut UnixStream, query: &LogsQuery, life: u64) -> std::io::Result<()> {
        let fits = |line: &LogLine| {
            (query.services.is_empty() || query.services.iter().any(|pattern| stayput_wire::pattern::matches(pattern, &line.service)))
                && query.since_ms.is_none_or(|since| line.at_ms >= since)
                && query.until_ms.is_none_or(|until| line.at_ms <= until)
                && query.grep.as_ref().is_none_or(|pattern| line.text.contains(pattern.as_str()))
                && query.generation.is_none_or(|generation| line.generation == generation)
                && (!query.previous || line.generation + 1 == scenes::newest(&line.service))
                && query.stream.is_none_or(|wanted| line.stream == wanted)
        };
        let mut world = self.lock();
        let all: Vec<LogLine> = world.lines.iter().filter(|line| fits(line)).cloned().collect();
        let mut next = world.dropped + world.lines.len();
        drop(world);
        let skip = query.lines.map_or(0, |lines| all.len().saturating_sub(lines as usize));
        for line in all.into_iter().skip(skip) {
            send(stream, &Answer::Log(line))?;
        }
        if !query.follow {
            return send(stream, &Answer::Reply(Reply::End {}));
        }
        loop {
            world = self.lock();
            while world.dropped + world.lines.len() <= next && world.life == life {
                world = self.world.1.wait_timeout(world, Duration::from_secs(1)).unwrap_or_else(PoisonError::into_inner).0;
            }
            if world.life != life {
                return Ok(());
            }
            let from = next.saturating_sub(world.dropped);
            let fresh: Vec<LogLine> = world.lines.iter().skip(from).filter(|line| fits(line)).cloned().collect();
            next = world.dropped + world.lines.len();
            drop(world);
            for line in fresh {
                send(stream, &Answer::Log(line))?;
            }
        }
    }
}

fn unknown(name: &str) -> Failure {
    Failure { kind: FailureKind::UnknownService, message: format!("there is no service {name:?} in this instance"), hint: None }
}

fn send(stream: &mut UnixStream, answer: &Answer) -> std::io::Result<()> {
    stream.write_all(&codec::encode(answer, ANSWER_LINE_MAX).map_err(std::io::Error::other)?)
}

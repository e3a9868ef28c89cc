//! What is there when the play begins.

use serde_json::{Value, json};
use stayput_wire::{
    AfterStatus, ConfigOrigin, ConfigReport, ConfigSource, Connections, Evidence, Fact, Facts, FieldChange, GenerationPhase,
    GenerationStatus, HealthStatus, InstanceStatus, LastExit, Ledger, Level, ListenerOrigin, ListenerStatus, Measured, Mode, NextStep,
    Outcome, PlanReport, ProcessStatus, Sample, ServiceAction, ServiceChange, ServiceKind, ServicePhase, ServiceStatus, State, Stream,
    Target, TrapStatus, Truth, WaitingPort, WatchStatus,
};

use super::{FakeControl, now_ms};

/// What is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scene {
    /// No service.
    Empty,
    /// Ten services, three of which need attention.
    Ten,
    /// A thousand.
    Thousand,
    /// Names, texts and lines of somebody who wants to break the page.
    Hostile,
}

/// What could become markup, a script or an escape sequence if somebody forgot.
pub(crate) const HOSTILE: &str =
    "<img src=x onerror=alert(1)>\"'`</script><script>alert(2)</script>{{7*7}}${alert(3)}\u{202e}\u{1b}]0;x\u{7}";

impl Scene {
    /// By its name on a command line.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "empty" => Some(Self::Empty),
            "ten" => Some(Self::Ten),
            "thousand" => Some(Self::Thousand),
            "hostile" => Some(Self::Hostile),
            _ => None,
        }
    }

    pub(super) fn status(self) -> InstanceStatus {
        let services = match self {
            Self::Empty => Vec::new(),
            Self::Ten => ten(),
            Self::Thousand => (0..1000).map(one_of_many).collect(),
            Self::Hostile => hostile(),
        };
        InstanceStatus {
            name: "shop".to_owned(),
            guard: ProcessStatus { pid: 4711 },
            keeper: ProcessStatus { pid: 4712 },
            daemon: ProcessStatus { pid: 4713 },
            services,
            keeper_deaths: 0,
            daemon_deaths: 0,
            mode: Mode::Up,
            daemon_ms: 1_036_800_000,
            source: Some(ConfigSource { path: "/srv/shop/stayput.toml".to_owned(), profile: None, only: Vec::new() }),
            cursor: None,
        }
    }
}

fn evidence(source: &str, age_ms: u64) -> Evidence {
    Evidence { source: source.to_owned(), age_ms }
}

fn fact(is: Truth, detail: &str, source: &str) -> Fact {
    Fact { is, detail: detail.to_owned(), evidence: Some(evidence(source, 400)) }
}

pub(super) fn listener(port: u16, inode: u32, origin: ListenerOrigin, selected: bool, queue: u64) -> ListenerStatus {
    ListenerStatus {
        address: "127.0.0.1".to_owned(),
        port,
        inode,
        held: true,
        origin,
        selected,
        queue: Measured::Count(queue),
        evidence: evidence("sock_diag", 300),
    }
}

pub(super) fn generation(id: u64, phase: GenerationPhase, port: u16, connections: u64) -> GenerationStatus {
    let pid = 20_000 + (id as i32) * 7 + i32::from(port % 997);
    let selected = phase == GenerationPhase::Ready;
    let listeners = if phase == GenerationPhase::Spawning || port == 0 {
        Vec::new()
    } else {
        vec![listener(port, 48_000 + (id as u32) * 13 + u32::from(port), ListenerOrigin::Adopted, selected, 0)]
    };
    GenerationStatus {
        holding: stayput_wire::Holding::Adopt,
        id,
        pid,
        phase,
        since_ms: 183_000,
        listeners,
        trap: TrapStatus::Active,
        connections: Measured::Count(connections),
        last_exit: None,
        notes: Vec::new(),
    }
}

pub(super) fn ledger(from: u64, to: u64, outcome: Outcome) -> Ledger {
    Ledger {
        from: Some(from),
        to: Some(to),
        outcome,
        reason: None,
        queued: Measured::Count(3),
        drained: Measured::Count(12),
        cut: Measured::Count(0),
        idle_closed: Measured::Count(2),
        notes: Vec::new(),
        lost: Measured::Count(0),
        gap_ms: Measured::Count(0),
        listener_gap: false,
        accepted: Measured::Count(31),
        refused: Measured::Count(0),
        canary: None,
    }
}

/// A service that is as it should be.
pub(super) fn running(name: &str, port: u16, id: u64) -> ServiceStatus {
    let process = format!("pid {} {}", 20_000 + (id as i32) * 7 + i32::from(port % 997), "python3");
    ServiceStatus {
        name: name.to_owned(),
        target: Target::Up,
        phase: ServicePhase::Ready,
        detail: format!("generation {id} takes the connections"),
        restarts: id.saturating_sub(1),
        generations: vec![generation(id, GenerationPhase::Ready, port, u64::from(port % 211))],
        held: Vec::new(),
        ledger: (id > 1).then(|| ledger(id - 1, id, Outcome::Switched)),
        state: State::Running,
        facts: Facts {
            process: fact(Truth::Yes, &process, "pidfd"),
            listening: fact(Truth::Yes, &format!("127.0.0.1:{port}"), "sock_diag"),
            accepting: fact(Truth::Yes, "no connection waits", "sock_diag"),
            probe: fact(Truth::Yes, "a connection was accepted", "probe"),
            looping: fact(Truth::No, "no crash in the last hour", "daemon"),
        },
        kind: ServiceKind::Service,
        replicas: 1,
        uptime_ms: Some(183_000 * id),
        crashes: 0,
        last_exit: (id > 1).then(|| LastExit {
            generation: id - 1,
            ended: "exited with status 0".to_owned(),
            status: 0,
            why: Some("restart".to_owned()),
            at_ms: Some(now_ms().saturating_sub(183_000)),
        }),
        connections: Connections { new: Measured::Count(u64::from(port % 211)), old: Measured::Count(0), queued: Measured::Count(0) },
        memory: Measured::Count(41_000_000 + u64::from(port) * 1000),
        cpu_permille: Measured::Count(u64::from(port % 89)),
        usage: Some(evidence("procfs", 900)),
        processes: Measured::Count(1 + u64::from(port % 4)),
        waiting: Vec::new(),
        after: Vec::new(),
        health: None,
        watch: None,
        next_run_ms: None,
        next: None,
        command: format!("python3 -m {name} --port {port}"),
        origin: Some(ConfigOrigin { path: None, line: u32::from(port % 90) + 4, column: 1 }),
        own: false,
    }
}

fn without_server(mut service: ServiceStatus, phase: ServicePhase, state: State, detail: &str) -> ServiceStatus {
    service.phase = phase;
    service.state = state;
    detail.clone_into(&mut service.detail);
    service.generations.clear();
    service.uptime_ms = None;
    service.connections.new = Measured::Count(0);
    (service.memory, service.cpu_permille, service.processes) = (Measured::NotMeasured, Measured::NotMeasured, Measured::Count(0));
    service.facts.process = fact(Truth::No, "no process of it lives", "pidfd");
    service.facts.accepting = fact(Truth::No, "nobody accepts", "sock_diag");
    service.facts.probe = fact(Truth::Unknown, "there is nothing to probe", "daemon");
    service
}

/// Held by another means, and not in every way what it was to be.
fn with_notes(mut service: ServiceStatus) -> ServiceStatus {
    let generation = &mut service.generations[0];
    generation.holding = stayput_wire::Holding::Swap;
    generation.listeners[0].origin = ListenerOrigin::Given;
    generation.notes = vec!["memory = 256 MB is not in force: memory.max: permission denied".to_owned()];
    let problem = Some("too many files are watched on this machine: raise fs.inotify.max_user_watches".to_owned());
    service.watch = Some(WatchStatus { directories: 12, problem });
    if let Some(ledger) = &mut service.ledger {
        ledger.notes = vec!["without overlap: it wants [::]:9100, the old one has 127.0.0.1:9100".to_owned()];
    }
    service
}

fn ten() -> Vec<ServiceStatus> {
    let mut api = running("api", 9000, 3);
    api.after = vec![AfterStatus { service: "db".to_owned(), when: "ready".to_owned(), met: true }];
    api.health = Some(HealthStatus {
        passing: Some(true),
        failures: 0,
        detail: "GET /health answered 200 in 3 ms".to_owned(),
        evidence: Some(evidence("probe", 2100)),
    });
    let mut mail =
        without_server(running("mail", 2525, 11), ServicePhase::BackingOff, State::Looping, "exited with status 1, 3 times in 40 s");
    mail.held = vec![listener(2525, 48_213, ListenerOrigin::Held, false, 3)];
    mail.connections.queued = Measured::Count(3);
    mail.crashes = 3;
    mail.ledger = None;
    mail.facts.looping = fact(Truth::Yes, "3 crashes in 40 s", "daemon");
    mail.facts.listening = fact(Truth::Yes, "127.0.0.1:2525 is held, nobody accepts: 3 wait", "sock_diag");
    mail.next = Some(NextStep { what: "the next start".to_owned(), in_ms: 8000 });
    mail.last_exit = Some(LastExit {
        generation: 11,
        ended: "exited with status 1".to_owned(),
        status: 1,
        why: None,
        at_ms: Some(now_ms().saturating_sub(4000)),
    });
    let mut search = without_server(
        running("search", 7700, 1),
        ServicePhase::WaitingForPort,
        State::WaitingForPort,
        "waiting for port 7700, held by pid 991 nginx",
    );
    search.waiting = vec![WaitingPort {
        address: "127.0.0.1:7700".to_owned(),
        holder: Some("pid 991 nginx (LISTEN 0.0.0.0:7700, inode 4711)".to_owned()),
    }];
    let mut cache = running("cache", 6379, 2);
    cache.state = State::Unhealthy;
    "its health check has failed 3 times in a row".clone_into(&mut cache.detail);
    cache.facts.probe = fact(Truth::No, "TCP 127.0.0.1:6379: timed out after 2 s", "probe");
    cache.health = Some(HealthStatus {
        passing: Some(false),
        failures: 3,
        detail: "TCP 127.0.0.1:6379: timed out after 2 s".to_owned(),
        evidence: Some(evidence("probe", 1200)),
    });
    let mut backup = without_server(running("backup", 0, 24), ServicePhase::Ended, State::Scheduled, "waits for its time");
    backup.kind = ServiceKind::Task;
    "/srv/shop/backup.sh".clone_into(&mut backup.command);
    backup.next_run_ms = Some(now_ms() + 3 * 3_600_000);
    backup.facts.process = fact(Truth::No, "it runs when its time comes", "daemon");
    let mut worker = running("worker", 0, 5);
    worker.replicas = 4;
    worker.connections = Connections { new: Measured::NotMeasured, old: Measured::NotMeasured, queued: Measured::NotMeasured };
    worker.facts.listening = fact(Truth::Unknown, "it is not known to have a port", "keeper");
    "celery -A shop worker".clone_into(&mut worker.command);
    let mut old = without_server(running("legacy", 8081, 1), ServicePhase::Stopped, State::Stopped, "stopped by request");
    old.target = Target::Down;
    vec![
        api,
        with_notes(running("auth", 9100, 4)),
        backup,
        cache,
        ServiceStatus { own: true, ..running("dashboard", 5000, 2) },
        running("db", 5432, 1),
        old,
        mail,
        search,
        {
            let mut web = running("web", 8080, 8);
            web.generations[0].connections = Measured::Count(214);
            web.connections.new = Measured::Count(214);
            web
        },
        worker,
    ]
}

fn one_of_many(index: u16) -> ServiceStatus {
    let name = format!("svc-{index:04}");
    let service = running(&name, 10_000 + index, u64::from(index % 9) + 1);
    match index % 97 {
        13 => without_server(service, ServicePhase::BackingOff, State::BackingOff, "exited with status 1"),
        41 => without_server(service, ServicePhase::Stopped, State::Stopped, "stopped by request"),
        _ => service,
    }
}

fn hostile() -> Vec<ServiceStatus> {
    let mut service = running(HOSTILE, 8080, 2);
    HOSTILE.clone_into(&mut service.detail);
    HOSTILE.clone_into(&mut service.command);
    service.state = State::Unhealthy;
    service.facts.probe = fact(Truth::No, HOSTILE, HOSTILE);
    service.waiting = vec![WaitingPort { address: HOSTILE.to_owned(), holder: Some(HOSTILE.to_owned()) }];
    service.after = vec![AfterStatus { service: HOSTILE.to_owned(), when: HOSTILE.to_owned(), met: false }];
    HOSTILE.clone_into(&mut service.generations[0].listeners[0].address);
    service.generations[0].last_exit = Some(HOSTILE.to_owned());
    service.last_exit = Some(LastExit { generation: 1, ended: HOSTILE.to_owned(), status: 1, why: Some(HOSTILE.to_owned()), at_ms: None });
    let mut slashes = running("../../etc/passwd?#%00", 8081, 1);
    "javascript:alert(1)".clone_into(&mut slashes.detail);
    vec![service, slashes, running("__proto__", 8082, 1), running("constructor", 8083, 1)]
}

/// The newest generation of a service's lines.
pub(super) fn newest(service: &str) -> u64 {
    match service {
        "api" => 3,
        "web" => 8,
        "mail" => 11,
        _ => 1,
    }
}

pub(super) fn config(service: &ServiceStatus) -> ConfigReport {
    let fields = json!({
        "command": service.command,
        "cwd": "/srv/shop",
        "port": service.generations.first().and_then(|generation| generation.listeners.first()).map(|listener| listener.port),
        "env": ["DATABASE_URL", "LANG", "PATH", "SECRET_KEY"],
        "ready": "probe",
        "drain_ms": 30_000,
        "grace_ms": 10_000,
        "soak_ms": 10_000,
        "overlap": true,
        "restart": "always",
        "replicas": service.replicas,
        "user": Value::Null,
        "limits": { "memory": "512M", "tasks": 64 },
        "watch": [],
    });
    ConfigReport { service: service.name.clone(), origin: service.origin.clone(), fields: fields.as_object().cloned().unwrap_or_default() }
}

pub(super) fn plan() -> PlanReport {
    let field = |field: &str, from: Option<&str>, to: Option<&str>, restart| FieldChange {
        field: field.to_owned(),
        from: from.map(str::to_owned),
        to: to.map(str::to_owned),
        restart,
        why: if restart { "a process has its command from its start".to_owned() } else { "policy holds from now on".to_owned() },
    };
    let change =
        |service: &str, action, why: &str, fields| ServiceChange { service: service.to_owned(), action, why: why.to_owned(), fields };
    PlanReport {
        path: Some("/srv/shop/stayput.toml".to_owned()),
        errors: Vec::new(),
        changes: vec![
            change("metrics", ServiceAction::Add, "it is new in the file", Vec::new()),
            change(
                "api",
                ServiceAction::Restart,
                "its command changed",
                vec![
                    field("command", Some("python3 -m api --port 9000"), Some("python3 -m api --port 9000 --workers 4"), true),
                    field("env.SECRET_KEY", None, None, true),
                ],
            ),
            change("web", ServiceAction::Live, "only policy changed", vec![field("drain", Some("30s"), Some("60s"), false)]),
            change("legacy", ServiceAction::Remove, "it is gone from the file", Vec::new()),
        ],
        instance: Vec::new(),
    }
}

/// A plausible course: waves and a little noise, and a restart now and then.
#[expect(clippy::cast_precision_loss, reason = "small numbers")]
pub(super) fn sample(at_ms: u64, index: u64, seed: u64) -> Sample {
    let noise = |salt: u64| ((index.wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(salt)) >> 7) % 17) as f64;
    let wave = |period: f64| ((index as f64 + (seed % 97) as f64 * 5.0) / period * std::f64::consts::TAU).sin();
    let busy = 0.5 + 0.3 * wave(410.0) + 0.14 * wave(97.0) + 0.06 * wave(31.0);
    Sample {
        at_ms,
        connections: (!(200..206).contains(&index)).then(|| (60.0 + 170.0 * busy + 0.7 * noise(3)) as u32),
        queued: Some(if index % 90 < 3 { noise(5) as u32 } else { 0 }),
        memory: Some((58_000_000.0 + 24_000_000.0 * busy + (index % 150) as f64 * 60_000.0 + noise(7) * 60_000.0) as u64),
        cpu_permille: Some((15.0 + 110.0 * busy + noise(11) * 1.5 + 12.0 * wave(11.0)).max(1.0) as u32),
        restarts: index / 150,
    }
}

/// What happened before the first look.
pub(super) fn past(fake: &FakeControl, scene: Scene) {
    let now = now_ms();
    if scene == Scene::Hostile {
        fake.record(Some(HOSTILE), HOSTILE, Level::Trouble, Some(2), HOSTILE, json!({ "<b>": HOSTILE, "__proto__": { "x": 1 } }));
        for index in 0..50_u64 {
            let text =
                format!("{index} {HOSTILE} \u{1b}[31m{HOSTILE}\u{1b}[0m \u{1b}]8;;javascript:alert(4)\u{1b}\\link\u{1b}]8;;\u{1b}\\");
            fake.line_at(now - 5000 + index * 100, HOSTILE, 2, if index % 3 == 0 { Stream::Stderr } else { Stream::Stdout }, &text);
        }
        return;
    }
    if scene != Scene::Ten {
        return;
    }
    let ago = |seconds: u64| now.saturating_sub(seconds * 1000);
    let note = |seconds, service, kind, level, generation, text: &str, data| {
        fake.record_at(ago(seconds), service, kind, level, generation, text, data)
    };
    note(3700, None, "up", Level::Good, None, "the instance was started from /srv/shop/stayput.toml", json!({ "services": 11 }));
    note(3600, Some("db"), "ready", Level::Good, Some(1), "generation 1 is ready after 412 ms", json!({ "after_ms": 412 }));
    note(3590, Some("web"), "ready", Level::Good, Some(7), "generation 7 is ready after 310 ms", json!({ "after_ms": 310 }));
    note(3000, Some("backup"), "done", Level::Info, Some(24), "exited with status 0; next in 4 h", json!({ "status": 0 }));
    note(
        190,
        Some("web"),
        "restart-requested",
        Level::Info,
        Some(7),
        "restart requested by stayput (pid 30411, uid 1000)",
        json!({ "from": 7 }),
    );
    note(
        189,
        Some("web"),
        "spawned",
        Level::Info,
        Some(8),
        "generation 8 was started, pid 20063",
        json!({ "from": 7, "to": 8, "pid": 20063 }),
    );
    note(
        188,
        Some("web"),
        "listening",
        Level::Info,
        Some(8),
        "generation 8 listens on 127.0.0.1:8080",
        json!({ "address": "127.0.0.1:8080" }),
    );
    note(187, Some("web"), "ready", Level::Good, Some(8), "generation 8 is ready after 310 ms", json!({ "after_ms": 310 }));
    note(
        187,
        Some("web"),
        "switched",
        Level::Good,
        Some(8),
        "all new connections go to generation 8; 12 of generation 7 drain",
        json!({ "from": 7, "to": 8, "soak_ms": 10_000, "draining": 12 }),
    );
    note(
        177,
        Some("web"),
        "stop-signal",
        Level::Info,
        Some(7),
        "TERM was sent to generation 7",
        json!({ "signal": "TERM", "grace_ms": 10_000 }),
    );
    note(176, Some("web"), "gone", Level::Info, Some(7), "generation 7 exited with status 0", json!({ "status": 0 }));
    note(
        175,
        Some("web"),
        "restarted",
        Level::Good,
        Some(8),
        "restart is over: 12 drained, 0 cut, 0 refused",
        json!({ "from": 7, "to": 8 }),
    );
    note(
        90,
        Some("cache"),
        "unhealthy",
        Level::Trouble,
        Some(2),
        "the health check has failed 3 times in a row: timed out after 2 s",
        json!({ "failures": 3 }),
    );
    note(
        60,
        Some("search"),
        "port-taken",
        Level::Trouble,
        None,
        "port 7700 is taken by pid 991 nginx: waiting for it",
        json!({ "address": "127.0.0.1:7700" }),
    );
    for (index, seconds) in [40, 24, 4].into_iter().enumerate() {
        let generation = 9 + index as u64;
        note(
            seconds + 2,
            Some("mail"),
            "spawned",
            Level::Info,
            Some(generation),
            &format!("generation {generation} was started, pid 2{generation}77"),
            json!({ "to": generation }),
        );
        note(
            seconds,
            Some("mail"),
            "crashed",
            Level::Trouble,
            Some(generation),
            &format!("generation {generation} exited with status 1; its port stays open, the next start is in 8 s"),
            json!({ "status": 1, "next_ms": 8000 }),
        );
    }
    lines(fake, now);
}

/// What the ten services wrote.
fn lines(fake: &FakeControl, now: u64) {
    const PATHS: [&str; 6] = ["/", "/cart", "/api/items?page=2", "/static/app.css", "/health", "/checkout"];
    for index in 0..700_u64 {
        let at = now - (700 - index) * 250;
        let path = PATHS[(index % 6) as usize];
        let (status, colour) = if index % 41 == 7 {
            (500, 31)
        } else if index % 13 == 4 {
            (404, 33)
        } else {
            (200, 32)
        };
        match index % 5 {
            0 | 1 => fake.line_at(
                at,
                "web",
                if index < 300 { 7 } else { 8 },
                Stream::Stdout,
                &format!("127.0.0.1 \"GET {path} HTTP/1.1\" \u{1b}[{colour}m{status}\u{1b}[0m {}ms", index % 37 + 1),
            ),
            2 => fake.line_at(
                at,
                "api",
                3,
                Stream::Stdout,
                &format!("\u{1b}[36mINFO\u{1b}[0m  items.query took \u{1b}[1m{}\u{1b}[0m ms, {} rows", index % 90, index % 7 * 11),
            ),
            3 if index % 29 == 3 => fake.line_at(
                at,
                "api",
                3,
                Stream::Stderr,
                "\u{1b}[33mWARN\u{1b}[0m  slow query: SELECT * FROM items WHERE stock < 3 (812 ms)",
            ),
            3 => fake.line_at(at, "auth", 4, Stream::Stdout, &format!("level=info msg=\"token issued\" user={} ttl=3600", index % 51)),
            _ if index % 70 == 4 => {
                fake.line_at(at, "mail", 11, Stream::Stderr, "Traceback (most recent call last):");
                fake.line_at(at, "mail", 11, Stream::Stderr, "  File \"/srv/shop/mail.py\", line 41, in <module>");
                fake.line_at(at, "mail", 11, Stream::Stderr, "\u{1b}[1;31mConnectionRefusedError\u{1b}[0m: [Errno 111] relay.internal:25");
            }
            _ => fake.line_at(at, "db", 1, Stream::Stderr, &format!("LOG:  checkpoint complete: wrote {} buffers", index % 97)),
        }
    }
}

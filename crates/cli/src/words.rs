//! Status, events and ledgers in words, for people. Text that came from outside is made printable here.

use std::fmt::Write as _;

use stayput_model::text::printable;
use stayput_wire::{
    Event, GenerationPhase, GenerationStatus, Holding, InstanceStatus, Ledger, ListenerOrigin, ListenerStatus, Measured, Outcome,
    ServicePhase, ServiceStatus, State, Target, TrapStatus,
};

use crate::table::{self, WIDTH};

/// One line about an event, without a newline.
pub(crate) fn event(event: &Event) -> String {
    match event {
        Event::Waiting { service, detail } => format!("{service}: {}", printable(detail)),
        Event::Starting { service, from: Some(from), to, pid } => {
            format!("{service}: starting generation {to} (pid {pid}) beside generation {from}")
        }
        Event::Starting { service, from: None, to, pid } => format!("{service}: starting generation {to} (pid {pid})"),
        Event::Listening { service, generation, address } => format!("{service}: generation {generation} listens on {address}"),
        Event::Ready { service, generation, after_ms } => {
            format!("{service}: generation {generation} is ready after {}", duration(*after_ms))
        }
        Event::Canary { service, generation, permille, for_ms } => {
            let time = for_ms.map_or_else(|| "until it is decided".to_owned(), |time| format!("for {}", duration(time)));
            format!("{service}: generation {generation} gets {} of the new connections {time}", percent(*permille))
        }
        Event::Switched { service, from, to, soak_ms, draining } => {
            let mut text = format!("{service}: switched: generation {to} takes all new connections");
            if let Some(from) = from {
                let _ = write!(text, "\n{service}: generation {from} keeps its open connections: {draining}");
            }
            if *soak_ms > 0 {
                let _ = write!(text, "\n{service}: on probation for {}", duration(*soak_ms));
            }
            text
        }
        Event::NotReady { service, generation, reason } => {
            format!("{service}: generation {generation} did not become ready: {}", printable(reason))
        }
        Event::RolledBack { service, from, to, reason } => {
            format!("{service}: generation {from} failed: {}; generation {to} has the connections again", printable(reason))
        }
        Event::StopSignal { service, generation, signal, grace_ms } => {
            format!("{service}: sent {signal} to generation {generation}; what is left after {} is killed", duration(*grace_ms))
        }
        Event::Exited { service, generation, ended } => format!("{service}: generation {generation} {}", printable(ended)),
    }
}

/// Thousandths as per cent.
fn percent(permille: u16) -> String {
    let (whole, tenths) = (permille / 10, permille % 10);
    if tenths == 0 { format!("{whole} %") } else { format!("{whole}.{tenths} %") }
}

/// The account of a restart: a counted fact per line, then what nobody counted.
pub(crate) fn ledger(ledger: &Ledger) -> String {
    let mut text = format!("{}\n", ledger_head(ledger));
    let (counted, uncounted) = ledger_facts(ledger);
    for note in &ledger.notes {
        wrap(&mut text, &printable(note));
    }
    for (fact, value) in counted {
        let _ = writeln!(text, "  {fact:<24} {value}");
    }
    if !uncounted.is_empty() {
        wrap(&mut text, &format!("{}: {}", stayput_wire::status::NOT_MEASURED, uncounted.join(", ")));
    }
    text
}

fn ledger_head(ledger: &Ledger) -> String {
    let outcome = match ledger.outcome {
        Outcome::Switched => "switched",
        Outcome::RolledBack => "rolled back",
        Outcome::NotReady => "not ready",
        Outcome::Running => "not decided yet",
    };
    match (ledger.from, ledger.to) {
        (Some(from), Some(to)) => format!("restart of generation {from} by {to}: {outcome}"),
        (None, Some(to)) => format!("start of generation {to}: {outcome}"),
        (Some(from), None) => format!("restart of generation {from}: {outcome}"),
        (None, None) => format!("restart: {outcome}"),
    }
}

/// What was counted, and what was not.
fn ledger_facts(ledger: &Ledger) -> (Vec<(&'static str, String)>, Vec<&'static str>) {
    let (mut counted, mut uncounted) = (Vec::new(), Vec::new());
    if let Some(canary) = ledger.canary {
        let lasted = canary.lasted_ms.map_or_else(|| "never".to_owned(), |lasted| format!("for {}", duration(lasted)));
        counted.push(("its first share", format!("{} of the new connections, {lasted}", percent(canary.permille))));
    }
    for (fact, value) in [
        ("old connections drained", ledger.drained),
        ("old connections cut", ledger.cut),
        ("idle ones closed", ledger.idle_closed),
        ("waited in the old queue", ledger.queued),
        ("lost with a failed one", ledger.lost),
        ("refused", ledger.refused),
        ("accepted by the new one", ledger.accepted),
        ("nobody accepted for", ledger.gap_ms),
    ] {
        match value {
            Measured::Count(milliseconds) if fact == "nobody accepted for" => counted.push((fact, duration(milliseconds))),
            Measured::Count(count) => counted.push((fact, count.to_string())),
            Measured::NotMeasured => uncounted.push(fact),
        }
    }
    // Where nobody looked for gaps (a port that is not held), "no gap is known" must not become "there was none".
    match (ledger.listener_gap, ledger.gap_ms) {
        (true, _) => counted.push(("without any listener", "for a while: connections may have been refused".to_owned())),
        (false, Measured::Count(_)) => counted.push(("without any listener", "never".to_owned())),
        (false, Measured::NotMeasured) => uncounted.push("without any listener"),
    }
    (counted, uncounted)
}

/// An instance as a few short tables.
pub(crate) fn status(instance: &InstanceStatus) -> String {
    let mut text = String::new();
    for service in &instance.services {
        service_text(&mut text, service);
    }
    if instance.services.is_empty() {
        let _ = writeln!(text, "{}: no service", instance.name);
    }
    wrap(&mut text, &processes(instance));
    text
}

/// stayput's own processes.
pub(crate) fn processes(instance: &InstanceStatus) -> String {
    let mut processes = format!("guard {}, keeper {}, daemon {}", instance.guard.pid, instance.keeper.pid, instance.daemon.pid);
    if instance.keeper_deaths + instance.daemon_deaths > 0 {
        let _ = write!(processes, "; started again: keeper {}x, daemon {}x", instance.keeper_deaths, instance.daemon_deaths);
    }
    processes
}

/// What a service is, in at most a few words.
pub(crate) fn state(state: State) -> &'static str {
    match state {
        State::Stopped => "stopped",
        State::Disabled => "disabled",
        State::WaitingFor => "waiting",
        State::WaitingForPort => "port taken",
        State::BackingOff => "backing off",
        State::Looping => "looping",
        State::GivenUp => "given up",
        State::Starting => "starting",
        State::Running => "running",
        State::Restarting => "restarting",
        State::Handover => "handing over",
        State::Soaking => "on probation",
        State::Deaf => "deaf",
        State::Unhealthy => "unhealthy",
        State::NotListening => "not listening",
        State::Stopping => "stopping",
        State::Wedged => "wedged",
        State::Working => "working",
        State::Scheduled => "scheduled",
        State::Done => "done",
        State::Failed => "failed",
    }
}

fn service_text(text: &mut String, service: &ServiceStatus) {
    let target = match service.target {
        Target::Up => "up",
        Target::Down => "down",
    };
    let restarts = if service.restarts == 1 { "restart" } else { "restarts" };
    let _ = writeln!(text, "{}: {} (target {target}), {} {restarts}", service.name, phase(service.phase), service.restarts);
    wrap(text, &printable(&service.detail));
    let mut rows = vec![["GEN", "PID", "PHASE", "FOR", "CONNECTIONS"].map(str::to_owned)];
    rows.extend(service.generations.iter().map(|generation| {
        [
            generation.id.to_string(),
            generation.pid.to_string(),
            generation_phase(generation.phase).to_owned(),
            duration(generation.since_ms),
            generation.connections.to_string(),
        ]
    }));
    if !service.generations.is_empty() {
        table(text, &rows);
    }
    for generation in &service.generations {
        generation_notes(text, generation);
    }
    let mut rows = vec![["LISTENER", "GEN", "TAKES NEW", "QUEUE", "HELD", "INODE"].map(str::to_owned)];
    for generation in &service.generations {
        rows.extend(generation.listeners.iter().map(|listener| listener_row(listener, &generation.id.to_string())));
    }
    rows.extend(service.held.iter().map(|listener| listener_row(listener, "nobody")));
    if rows.len() > 1 {
        table(text, &rows);
        evidence_note(text, service);
    }
    if let Some(last) = &service.ledger {
        let (counted, uncounted) = ledger_facts(last);
        let facts: Vec<_> = counted.into_iter().map(|(fact, value)| format!("{fact} {value}")).collect();
        let reason = last.reason.as_ref().map_or(String::new(), |reason| format!(" ({})", printable(reason)));
        wrap(text, &format!("last {}{reason}; {}", ledger_head(last), facts.join(", ")));
        if !uncounted.is_empty() {
            wrap(text, &format!("{}: {}", stayput_wire::status::NOT_MEASURED, uncounted.join(", ")));
        }
    }
}

/// Where the queue lengths come from, and how old the oldest is.
fn evidence_note(text: &mut String, service: &ServiceStatus) {
    let listeners = service.generations.iter().flat_map(|generation| &generation.listeners).chain(&service.held);
    if let Some(oldest) = listeners.map(|listener| &listener.evidence).max_by_key(|evidence| evidence.age_ms) {
        wrap(text, &format!("queue lengths from {}, {} ago", printable(&oldest.source), duration(oldest.age_ms)));
    }
}

fn generation_notes(text: &mut String, generation: &GenerationStatus) {
    if let TrapStatus::Unavailable(why) = &generation.trap {
        wrap(text, &format!("generation {}: its ports are not held: {}", generation.id, printable(why)));
    }
    if generation.holding == Holding::Swap {
        wrap(
            text,
            &format!(
                "generation {}: sockets of ours are put in the place of its own, which may not be looked into (pidfd_getfd); all promises hold, options \
                 that it sets before it binds are lost",
                generation.id
            ),
        );
    }
    if generation.holding == Holding::Environment {
        wrap(
            text,
            &format!("generation {}: open sockets of its declared ports were passed to it; any other port is not held", generation.id),
        );
    }
    for note in &generation.notes {
        wrap(text, &format!("generation {}: {}", generation.id, printable(note)));
    }
    if let Some(ended) = &generation.last_exit {
        wrap(text, &format!("generation {}: its main process {}", generation.id, printable(ended)));
    }
}

fn listener_row(listener: &ListenerStatus, owner: &str) -> [String; 6] {
    let address = if listener.address.contains(':') { format!("[{}]", listener.address) } else { listener.address.clone() };
    let held = match (listener.held, listener.origin) {
        (false, _) => "no",
        (true, ListenerOrigin::Adopted) => "adopted",
        (true, ListenerOrigin::Swapped) => "swapped",
        (true, ListenerOrigin::Held) => "held",
        (true, ListenerOrigin::Passed) => "passed",
        (true, ListenerOrigin::Given) => "given",
    };
    [
        format!("{address}:{}", listener.port),
        owner.to_owned(),
        if listener.selected { "yes" } else { "no" }.to_owned(),
        match listener.queue {
            Measured::Count(waiting) => waiting.to_string(),
            Measured::NotMeasured => "?".to_owned(),
        },
        held.to_owned(),
        listener.inode.to_string(),
    ]
}

fn phase(phase: ServicePhase) -> &'static str {
    match phase {
        ServicePhase::Stopped => "stopped",
        ServicePhase::WaitingForPort => "waiting for its port",
        ServicePhase::BackingOff => "backing off",
        ServicePhase::Starting => "starting",
        ServicePhase::Ready => "ready",
        ServicePhase::Restarting => "restarting",
        ServicePhase::Handover => "handing over",
        ServicePhase::Soaking => "on probation",
        ServicePhase::Stopping => "stopping",
        ServicePhase::Ended => "ended",
    }
}

fn generation_phase(phase: GenerationPhase) -> &'static str {
    match phase {
        GenerationPhase::Spawning => "spawning",
        GenerationPhase::Starting => "starting",
        GenerationPhase::Ready => "ready",
        GenerationPhase::Draining => "draining",
        GenerationPhase::Stopping => "stopping",
        GenerationPhase::Exited => "exited",
    }
}

/// Milliseconds in the unit that a person would choose.
pub(crate) fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match milliseconds {
        0..1000 => format!("{milliseconds} ms"),
        1000..10_000 => format!("{seconds}.{} s", milliseconds % 1000 / 100),
        10_000..120_000 => format!("{seconds} s"),
        120_000..7_200_000 => format!("{} min", seconds / 60),
        7_200_000..172_800_000 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Columns as wide as they need to be, two spaces apart, indented by two; no trailing spaces.
fn table<const COLUMNS: usize>(text: &mut String, rows: &[[String; COLUMNS]]) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let _ = write!(line, "  {cell:<width$}", width = width(column));
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

/// A sentence in lines that fit a plain terminal, indented by two.
fn wrap(text: &mut String, sentence: &str) {
    table::wrap(text, sentence, WIDTH);
}

#[cfg(test)]
mod tests {
    use super::*;
    use stayput_wire::{Evidence, ProcessStatus};

    fn listener(address: &str, port: u16, selected: bool) -> ListenerStatus {
        ListenerStatus {
            address: address.to_owned(),
            port,
            inode: 4_294_967_295,
            held: true,
            origin: ListenerOrigin::Adopted,
            selected,
            queue: Measured::Count(4096),
            evidence: Evidence { source: "sock_diag".to_owned(), age_ms: 0 },
        }
    }

    fn generation(id: u64, phase: GenerationPhase, selected: bool) -> GenerationStatus {
        GenerationStatus {
            id,
            pid: 4_194_304,
            phase,
            since_ms: 119_999,
            listeners: vec![listener("255.255.255.255", 65535, selected)],
            trap: TrapStatus::Active,
            holding: Holding::Adopt,
            connections: Measured::NotMeasured,
            last_exit: Some("exited with \u{1b}[31mstatus 1".to_owned()),
            notes: Vec::new(),
        }
    }

    fn instance() -> InstanceStatus {
        InstanceStatus {
            name: "web".to_owned(),
            guard: ProcessStatus { pid: 4_194_301 },
            keeper: ProcessStatus { pid: 4_194_302 },
            daemon: ProcessStatus { pid: 4_194_303 },
            services: vec![ServiceStatus {
                name: "web".to_owned(),
                target: Target::Up,
                phase: ServicePhase::Soaking,
                detail: "waiting for port 5000, held by pid 991 nginx ".repeat(4),
                restarts: 3,
                generations: vec![generation(104, GenerationPhase::Ready, true), generation(103, GenerationPhase::Draining, false)],
                held: vec![listener("::1", 5000, false)],
                ledger: Some(Ledger {
                    from: Some(103),
                    to: Some(104),
                    outcome: Outcome::Switched,
                    reason: None,
                    queued: Measured::Count(0),
                    drained: Measured::Count(12),
                    cut: Measured::NotMeasured,
                    idle_closed: Measured::Count(1),
                    notes: Vec::new(),
                    lost: Measured::Count(0),
                    gap_ms: Measured::Count(0),
                    listener_gap: false,
                    accepted: Measured::NotMeasured,
                    refused: Measured::NotMeasured,
                    canary: None,
                }),
                ..ServiceStatus::named("web")
            }],
            keeper_deaths: 1,
            daemon_deaths: 2,
            ..InstanceStatus::default()
        }
    }

    #[test]
    fn a_status_fits_a_terminal_and_holds_no_control_characters() {
        let text = status(&instance());
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{} columns: {line}", line.chars().count());
            assert!(!line.chars().any(char::is_control), "{line:?}");
            assert_eq!(line.trim_end(), line);
        }
        for part in ["web: on probation", "104", "draining", "[::1]:5000", "nobody", "not measured", "keeper 1x", "drained"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn durations() {
        for (milliseconds, text) in
            [(0, "0 ms"), (999, "999 ms"), (1310, "1.3 s"), (10_000, "10 s"), (119_999, "119 s"), (120_000, "2 min"), (7_200_000, "2 h")]
        {
            assert_eq!(duration(milliseconds), text);
        }
    }
}

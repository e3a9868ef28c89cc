//! The table of `stayput status`: a line per service, as wide as the terminal and no wider. Text that came from outside is made printable
//! here; what does not fit is shortened or left out as a column, never broken into two lines.

use std::fmt::Write as _;

use stayput_model::text::printable;
use stayput_wire::status::Fact;
use stayput_wire::{InstanceStatus, Measured, ServiceStatus, State, Truth};

use crate::words;

/// Width of a plain terminal.
pub(crate) const WIDTH: usize = 80;
/// Between two columns.
const GAP: usize = 2;
/// A name is not shortened below this, and neither is a list of ports.
const SHORTEST: usize = 12;

/// A column: its heading, whether it is a number, and who goes first where there is no room (0: never).
struct Column {
    title: &'static str,
    number: bool,
    goes: u8,
}

const COLUMNS: [Column; 10] = [
    Column { title: "SERVICE", number: false, goes: 0 },
    Column { title: "STATE", number: false, goes: 0 },
    Column { title: "PLAC", number: false, goes: 5 },
    Column { title: "PORTS", number: false, goes: 0 },
    Column { title: "NEW/OLD", number: true, goes: 6 },
    Column { title: "RST", number: true, goes: 4 },
    Column { title: "MEM", number: true, goes: 3 },
    Column { title: "CPU", number: true, goes: 2 },
    Column { title: "UP", number: true, goes: 7 },
    Column { title: "LAST EXIT", number: false, goes: 1 },
];
const NAME: usize = 0;
const STATE: usize = 1;
const PORTS: usize = 3;
const LAST_EXIT: usize = 9;
/// What the letters of the column mean.
const LEGEND: &str = "PLAC: its process lives, it listens, it accepts, its check is passed: y yes, n no, - not known";

/// An instance in lines of at most `width` characters; with colours if `colours`.
pub(crate) fn table(instance: &InstanceStatus, width: usize, colours: bool) -> String {
    let mut rows: Vec<Row> = instance.services.iter().map(Row::of).collect();
    let mut shown = [true; COLUMNS.len()];
    shown[LAST_EXIT] = rows.iter().any(|row| !row.cells[LAST_EXIT].is_empty());
    fit(&mut rows, &mut shown, width);
    let widths = widths(&rows);
    let mut text = String::new();
    line(&mut text, &COLUMNS.map(|column| column.title.to_owned()), &shown, &widths, None);
    for row in &rows {
        line(&mut text, &row.cells, &shown, &widths, colours.then(|| colour(row.state)).flatten());
    }
    if rows.is_empty() {
        let _ = writeln!(text, "{}: no service", instance.name);
    }
    for (service, row) in instance.services.iter().zip(&rows) {
        notes(&mut text, service, row, shown[LAST_EXIT], width);
    }
    if shown[2] && !rows.is_empty() {
        wrap(&mut text, LEGEND, width);
    }
    wrap(&mut text, &words::processes(instance), width);
    text
}

struct Row {
    state: State,
    /// The last exit in full, and the ports.
    exit: String,
    ports: Vec<String>,
    cells: [String; COLUMNS.len()],
}

impl Row {
    fn of(service: &ServiceStatus) -> Self {
        let exit = service.last_exit.as_ref().map(|exit| {
            let why = exit.why.as_deref().map(|why| format!(" ({})", printable(why))).unwrap_or_default();
            format!("{}{why}", printable(&exit.ended))
        });
        let connections = &service.connections;
        let old = if connections.old == Measured::Count(0) { String::new() } else { format!("/{}", count(connections.old)) };
        let is_up = !matches!(service.state, State::Stopped | State::Disabled | State::Done | State::Failed | State::GivenUp);
        let ports = ports(service);
        let measured = |shown: String| if is_up { shown } else { String::new() };
        let exit = exit.unwrap_or_default();
        Self {
            state: service.state,
            cells: [
                printable(&service.name).into_owned(),
                words::state(service.state).to_owned(),
                measured(plac(service)),
                ports.join(" "),
                measured(format!("{}{old}", count(connections.new))),
                service.restarts.to_string(),
                measured(bytes(service.memory)),
                measured(percent(service.cpu_permille)),
                service.uptime_ms.map(short_duration).unwrap_or_default(),
                exit.clone(),
            ],
            exit,
            ports,
        }
    }
}

/// Process, listening, accepting, check.
fn plac(service: &ServiceStatus) -> String {
    let letter = |fact: &Fact| match fact.is {
        Truth::Yes => 'y',
        Truth::No => 'n',
        Truth::Unknown => '-',
    };
    let facts = &service.facts;
    [&facts.process, &facts.listening, &facts.accepting, &facts.probe].into_iter().map(letter).collect()
}

/// Where it listens or is held, each once; `:8000` is port 8000 of all addresses.
fn ports(service: &ServiceStatus) -> Vec<String> {
    let listeners = service.generations.iter().flat_map(|generation| &generation.listeners).chain(&service.held);
    let mut shown: Vec<String> = Vec::new();
    for listener in listeners {
        let address = match listener.address.as_str() {
            "0.0.0.0" | "::" => String::new(),
            v6 if v6.contains(':') => format!("[{}]", printable(v6)),
            v4 => printable(v4).into_owned(),
        };
        let text = format!("{address}:{}", listener.port);
        if !shown.contains(&text) {
            shown.push(text);
        }
    }
    if shown.is_empty() {
        shown.extend(service.waiting.iter().map(|port| printable(&port.address).into_owned()));
    }
    shown
}

fn count(measured: Measured) -> String {
    match measured {
        Measured::Count(count) => count.to_string(),
        Measured::NotMeasured => "?".to_owned(),
    }
}

/// In at most five characters.
fn bytes(measured: Measured) -> String {
    let Measured::Count(bytes) = measured else { return "?".to_owned() };
    let mut unit = 0;
    let mut tenths = u128::from(bytes) * 10;
    while tenths >= 10_240 && unit < 4 {
        (tenths, unit) = (tenths / 1024, unit + 1);
    }
    let name = ["B", "K", "M", "G", "T"][unit];
    if unit > 0 && tenths < 100 { format!("{}.{}{name}", tenths / 10, tenths % 10) } else { format!("{}{name}", tenths / 10) }
}

fn percent(measured: Measured) -> String {
    match measured {
        Measured::Count(permille) if permille < 100 => format!("{}.{}%", permille / 10, permille % 10),
        Measured::Count(permille) => format!("{}%", permille / 10),
        Measured::NotMeasured => "?".to_owned(),
    }
}

/// As [`words::duration`], without the blank.
fn short_duration(milliseconds: u64) -> String {
    words::duration(milliseconds).replace(' ', "")
}

/// Shortens and leaves out until all fits.
fn fit(rows: &mut [Row], shown: &mut [bool; COLUMNS.len()], width: usize) {
    let total = |rows: &[Row], shown: &[bool; COLUMNS.len()]| {
        let widths = widths(rows);
        let columns = shown.iter().zip(widths).filter(|(shown, _)| **shown);
        columns.map(|(_, width)| width + GAP).sum::<usize>().saturating_sub(GAP)
    };
    // First what is long anyhow, then whole columns, then names.
    for (column, least) in [(NAME, 2 * SHORTEST), (PORTS, 2 * SHORTEST), (LAST_EXIT, SHORTEST), (PORTS, SHORTEST + 3)] {
        let over = total(rows, shown).saturating_sub(width);
        if shown[column] && over > 0 {
            shorten(rows, column, widths(rows)[column].saturating_sub(over).max(least));
        }
    }
    for turn in 1..=7 {
        if total(rows, shown) <= width {
            return;
        }
        if let Some(column) = COLUMNS.iter().position(|column| column.goes == turn) {
            shown[column] = false;
        }
    }
    for column in [PORTS, NAME, STATE] {
        let over = total(rows, shown).saturating_sub(width);
        shorten(rows, column, widths(rows)[column].saturating_sub(over).max(4));
    }
}

fn widths(rows: &[Row]) -> [usize; COLUMNS.len()] {
    std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row.cells[column].chars().count());
        cells.chain([COLUMNS[column].title.len()]).max().unwrap_or(0)
    })
}

/// Cells of this column have at most so many characters; the end of a name tells more than its middle.
fn shorten(rows: &mut [Row], column: usize, to: usize) {
    for row in rows {
        let cell = &mut row.cells[column];
        let length = cell.chars().count();
        if length <= to {
            continue;
        }
        let first = row.ports.first().filter(|_| column == PORTS && row.ports.len() > 1);
        if let Some(some) = first.map(|first| format!("{first} +{}", row.ports.len() - 1)).filter(|some| some.chars().count() <= to) {
            *cell = some;
            continue;
        }
        let end = if column == NAME { (to - 1) / 2 } else { 0 };
        let first: String = cell.chars().take(to - 1 - end).collect();
        let last: String = cell.chars().skip(length - end).collect();
        *cell = format!("{first}…{last}");
    }
}

fn line(
    text: &mut String,
    cells: &[String; COLUMNS.len()],
    shown: &[bool; COLUMNS.len()],
    widths: &[usize; COLUMNS.len()],
    colour: Option<u8>,
) {
    let mut line = String::new();
    for (index, cell) in cells.iter().enumerate().filter(|(index, _)| shown[*index]) {
        if index > 0 {
            line.push_str("  ");
        }
        let padding = " ".repeat(widths[index].saturating_sub(cell.chars().count()));
        let (before, after) = if COLUMNS[index].number { (padding.as_str(), "") } else { ("", padding.as_str()) };
        match colour.filter(|_| index == STATE) {
            Some(colour) => {
                let _ = write!(line, "{before}\u{1b}[{colour}m{cell}\u{1b}[0m{after}");
            }
            None => {
                let _ = write!(line, "{before}{cell}{after}");
            }
        }
    }
    let _ = writeln!(text, "{}", line.trim_end());
}

/// The fact behind a state that is not what it is to be, and how it ended if the table has no room for that.
fn notes(text: &mut String, service: &ServiceStatus, row: &Row, exit_shown: bool, width: usize) {
    let quiet =
        matches!(service.state, State::Running | State::Stopped | State::Disabled | State::Done | State::Scheduled | State::Working);
    let told = service.last_exit.as_ref().is_some_and(|exit| service.detail.contains(&exit.ended));
    let exit = Some(&row.exit).filter(|exit| !exit.is_empty() && !exit_shown && !quiet && !told);
    let mut facts: Vec<String> = Vec::new();
    if !quiet && !service.detail.is_empty() {
        facts.push(printable(&service.detail).into_owned());
    }
    if let Measured::Count(queued @ 1..) = service.connections.queued {
        facts.push(format!("{queued} wait to be accepted"));
    }
    if let Some(exit) = exit {
        facts.push(format!("last exit: {exit}"));
    }
    if !facts.is_empty() {
        wrap(text, &format!("{}: {}", printable(&service.name), facts.join("; ")), width);
    }
}

/// 32 green, 33 yellow, 31 red, 2 dim; `None`: as it is.
fn colour(state: State) -> Option<u8> {
    match state {
        State::Running | State::Working => Some(32),
        State::Starting | State::Restarting | State::Handover | State::Soaking | State::Stopping | State::WaitingFor => Some(33),
        State::WaitingForPort
        | State::BackingOff
        | State::Looping
        | State::GivenUp
        | State::Deaf
        | State::Unhealthy
        | State::NotListening
        | State::Wedged
        | State::Failed => Some(31),
        State::Stopped | State::Disabled | State::Done => Some(2),
        State::Scheduled => None,
    }
}

/// A sentence in lines of at most `width` characters, indented by two; a word that is longer than a line is broken.
pub(crate) fn wrap(text: &mut String, sentence: &str, width: usize) {
    let room = width.saturating_sub(2).max(10);
    let mut line = String::new();
    let mut length = 0;
    let mut put = |line: &mut String, length: &mut usize| {
        if !line.is_empty() {
            let _ = writeln!(text, "  {line}");
            line.clear();
            *length = 0;
        }
    };
    for word in sentence.split_whitespace() {
        let characters: Vec<char> = word.chars().collect();
        for part in characters.chunks(room) {
            if length > 0 && length + 1 + part.len() > room {
                put(&mut line, &mut length);
            }
            if length > 0 {
                line.push(' ');
                length += 1;
            }
            line.extend(part);
            length += part.len();
        }
    }
    put(&mut line, &mut length);
}

#[cfg(test)]
mod tests {
    use super::*;
    use stayput_wire::{Connections, LastExit};

    fn service(name: &str, state: State) -> ServiceStatus {
        ServiceStatus {
            state,
            detail: "waiting for port 5000, held by pid 991 nginx (LISTEN 0.0.0.0:5000, inode 4711)\u{1b}[2J".to_owned(),
            restarts: 1234,
            uptime_ms: Some(3_600_000 * 50),
            last_exit: Some(LastExit {
                generation: 1,
                ended: "was ended by signal KILL".to_owned(),
                status: 137,
                why: Some("the kernel killed it for want of memory".to_owned()),
                at_ms: None,
            }),
            connections: Connections { new: 123_456_u64.into(), old: 7.into(), queued: 3.into() },
            memory: Measured::Count(1 << 40),
            cpu_permille: Measured::Count(63_999),
            ..ServiceStatus::named(name)
        }
    }

    fn listener(address: &str, port: u16) -> stayput_wire::ListenerStatus {
        stayput_wire::ListenerStatus {
            address: address.to_owned(),
            port,
            inode: 1,
            held: true,
            origin: stayput_wire::ListenerOrigin::Held,
            selected: true,
            queue: Measured::Count(0),
            evidence: stayput_wire::Evidence { source: "sock_diag".to_owned(), age_ms: 0 },
        }
    }

    fn instance() -> InstanceStatus {
        let mut web = service("web", State::Running);
        web.held = vec![listener("0.0.0.0", 8000), listener("::", 8000), listener("2001:db8:1111:2222:3333:4444:5555:6666", 65535)];
        let long = service(&"a-name-that-somebody-thought-about-for-a-long-time".repeat(2)[..64], State::WaitingForPort);
        let hostile = service("x\u{1b}]0;owned\u{7}\u{202e}y", State::Looping);
        let stopped = ServiceStatus { state: State::Stopped, uptime_ms: None, last_exit: None, ..service("off", State::Stopped) };
        InstanceStatus { name: "shop".to_owned(), services: vec![web, long, hostile, stopped], ..InstanceStatus::default() }
    }

    #[test]
    fn it_fits_any_terminal_and_holds_no_control_characters() {
        for width in [40, 60, 80, 100, 132, 200] {
            let text = table(&instance(), width, false);
            for line in text.lines() {
                assert!(line.chars().count() <= width, "{} columns, not {width}: {line}", line.chars().count());
                assert!(!line.chars().any(char::is_control) && !line.contains('\u{202e}'), "{line:?}");
                assert_eq!(line.trim_end(), line);
            }
            assert!(text.contains("web  ") && text.contains("running"), "{text}");
            assert!(text.contains("held by pid 991 nginx"), "{width}: {text}");
        }
        let wide = table(&instance(), 200, false);
        assert!(wide.lines().next().unwrap().ends_with("LAST EXIT"), "{wide}");
        assert!(wide.contains("for want of memory"), "{wide}");
    }

    #[test]
    fn in_eighty_columns_an_ordinary_host_is_whole() {
        let mut services = vec![];
        for (name, state, port) in [("api", State::Running, 8001), ("db", State::Running, 5432), ("web", State::Soaking, 8000)] {
            let mut one = service(name, state);
            (one.held, one.restarts, one.detail) = (vec![listener("127.0.0.1", port)], 3, "a detail".to_owned());
            (one.memory, one.cpu_permille) = (Measured::Count(45 << 20), Measured::Count(21));
            (one.connections, one.last_exit) = (Connections { new: 12.into(), old: 0.into(), queued: 0.into() }, None);
            services.push(one);
        }
        let text = table(&InstanceStatus { name: "shop".to_owned(), services, ..InstanceStatus::default() }, 80, false);
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("SERVICE  STATE         PLAC  PORTS           NEW/OLD  RST  MEM   CPU  UP"), "{text}");
        assert_eq!(lines.next(), Some("api      running       ----  127.0.0.1:8001       12    3  45M  2.1%  2d"), "{text}");
        assert_eq!(lines.nth(2), Some("  web: a detail"), "{text}");
    }

    #[test]
    fn colours_are_of_the_state_alone() {
        let text = table(&instance(), 100, true);
        assert!(text.contains("\u{1b}[32mrunning\u{1b}[0m") && text.contains("\u{1b}[31m"), "{text:?}");
        let escapes = text.matches('\u{1b}').count();
        assert_eq!(escapes, 2 * 4, "{text:?}");
    }

    #[test]
    fn sizes() {
        for (count, text) in [(0, "0B"), (1023, "1023B"), (1024, "1.0K"), (10 << 10, "10K"), (1 << 20, "1.0M"), (1500 << 20, "1.4G")] {
            assert_eq!(bytes(Measured::Count(count)), text);
        }
        assert_eq!((percent(Measured::Count(5)), percent(Measured::Count(1600))), ("0.5%".to_owned(), "160%".to_owned()));
        assert_eq!(bytes(Measured::NotMeasured), "?");
    }

    #[test]
    fn a_long_word_is_broken() {
        let mut text = String::new();
        wrap(&mut text, &format!("a {} b", "x".repeat(30)), 22);
        assert_eq!(text, format!("  a\n  {}\n  {} b\n", "x".repeat(20), "x".repeat(10)));
    }
}

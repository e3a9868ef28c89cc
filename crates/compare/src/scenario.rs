//! One scenario: a port of its own, a server, clients, a watch, a log. This file owns what all have in common; each way to restart has a file.

pub(crate) mod causes;
pub(crate) mod command;
pub(crate) mod restart;
pub(crate) mod stale;
pub(crate) mod under;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant, SystemTime};

use stayput_kernel::bind_probe::{self, Attempt as Probe, Outcome as Answer};
use stayput_kernel::local_time::LocalTime;
use stayput_kernel::sock_diag::{Protocol, Query, SockDiag, State, States};
use stayput_load::{Exchange, Expect, Load, Outcome, Plan};

use crate::live::LiveClients;
use crate::process::{LOOK, Running};
use crate::result::{Check, Dot, Fate, Line, Process, Requests, Scenario, WAITED_MS};
use crate::story::{Reuse, Server};
use crate::watch::Watch;
use crate::{Cancel, Error, Place};

/// Requests a second in each scenario: a gap of 20 ms is seen, and a dozen scenarios at once leave the processors to the servers.
pub(crate) const RATE: u32 = 50;
/// What a Python program imports before it binds (0.3 to 0.6 s for Flask-SocketIO).
pub(crate) const BOOT: Duration = Duration::from_millis(400);
/// Before the restart is ordered: the time in which all is well.
const PEACE: Duration = Duration::from_millis(800);
/// Longer than any start takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What all scenarios share.
#[derive(Debug)]
pub(crate) struct Shared<'run> {
    pub(crate) place: &'run Place,
    pub(crate) cancel: &'run Cancel,
    pub(crate) quick: bool,
}

/// A scenario while it runs.
pub(crate) struct Stage<'run> {
    pub(crate) shared: &'run Shared<'run>,
    pub(crate) scenario: Scenario,
    pub(crate) start: Instant,
    pub(crate) ordered: Option<Instant>,
    load: Option<(Load, Duration)>,
    live: Option<LiveClients>,
    watch: Option<Watch>,
}

impl<'run> Stage<'run> {
    pub(crate) fn new(shared: &'run Shared<'run>, id: &str, title: &str, port: u16) -> Self {
        let start = Instant::now();
        let scenario = Scenario::new(id, title, port);
        Self { shared, scenario, start, ordered: None, load: None, live: None, watch: Some(Watch::start(port, start)) }
    }

    pub(crate) fn port(&self) -> u16 {
        self.scenario.port
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// Milliseconds since the restart was ordered.
    pub(crate) fn since_order_ms(&self) -> u64 {
        self.ordered.map_or(0, |ordered| ordered.elapsed().as_millis() as u64)
    }

    pub(crate) fn say(&mut self, text: impl Into<String>) {
        let time = LocalTime::at(SystemTime::now());
        let time = time.map_or_else(String::new, |time| format!("{:02}:{:02}:{:02}", time.hour, time.minute, time.second));
        self.scenario.log.push(Line { at_ms: self.now_ms(), time, text: text.into() });
    }

    /// Lets time pass; a Ctrl-C ends it.
    pub(crate) fn pause(&self, time: Duration) -> Result<(), Error> {
        self.shared.cancel.pause(time)
    }

    pub(crate) fn launch(&mut self, server: &Server, role: &'static str) -> Result<Running, Error> {
        let running = Running::story(self.shared.place, server)?;
        self.note_process(running.pid(), role);
        Ok(running)
    }

    pub(crate) fn note_process(&mut self, pid: u32, role: &'static str) {
        self.scenario.processes.push(Process { pid, role, from_ms: self.now_ms(), to_ms: None, end: None });
    }

    pub(crate) fn note_end(&mut self, pid: u32, end: Option<String>) {
        let now = self.now_ms();
        if let Some(process) = self.scenario.processes.iter_mut().find(|process| process.pid == pid && process.to_ms.is_none()) {
            (process.to_ms, process.end) = (Some(now), end);
        }
    }

    pub(crate) fn note_role(&mut self, pid: u32, role: &'static str) {
        if let Some(process) = self.scenario.processes.iter_mut().find(|process| process.pid == pid) {
            process.role = role;
        }
    }

    /// The old server, serving, with clients; returns after the time of peace.
    pub(crate) fn old(&mut self, server: &Server, timeout: Duration) -> Result<Running, Error> {
        let mut old = self.launch(server, "old")?;
        if !self.until_it_answers(&mut old, PATIENCE)? {
            return Err(Error::Server(format!("the story's server did not start: {}", old.last_words().unwrap_or_default())));
        }
        self.clients(timeout, true, Expect::Echo)?;
        Ok(old)
    }

    /// Starts the clients and gives them some time of peace. `timeout`: how long one waits for its answer.
    pub(crate) fn clients(&mut self, timeout: Duration, live: bool, expect: Expect) -> Result<(), Error> {
        if live {
            self.live = Some(LiveClients::start(self.port()));
        }
        let plan = Plan::port(self.port()).rate(f64::from(RATE)).timeout(timeout).duration(Duration::from_mins(3)).expect(expect).trace();
        let load = plan.start().map_err(Error::Load)?;
        self.load = Some((load, self.start.elapsed()));
        self.pause(PEACE)
    }

    pub(crate) fn order(&mut self) {
        self.ordered = Some(Instant::now());
        self.scenario.ordered_ms = self.now_ms();
    }

    /// False: it ended, or did not answer in time.
    pub(crate) fn until_it_answers(&self, running: &mut Running, deadline: Duration) -> Result<bool, Error> {
        let start = Instant::now();
        loop {
            if answers(self.port(), Some(running.pid())) {
                return Ok(true);
            }
            if running.ended().is_some() || start.elapsed() > deadline {
                return Ok(false);
            }
            self.pause(LOOK)?;
        }
    }

    /// The check of the story before: bind with SO_REUSEADDR, no listen.
    pub(crate) fn test_bind(&mut self, server: Reuse) -> bool {
        self.check("test-bind", can_bind(self.port(), true, false), server)
    }

    /// The check of the story after: is there a process that listens?
    pub(crate) fn live_process(&mut self, server: Reuse) -> bool {
        self.check("live-process", !somebody_listens(self.port()), server)
    }

    fn check(&mut self, kind: &'static str, said_free: bool, server: Reuse) -> bool {
        let was_free = self.is_free_for(server);
        self.scenario.checks.push(Check { at_ms: self.now_ms(), kind, said_free, was_free });
        said_free
    }

    /// What is true: the server's own bind, with its own options, asked of the kernel.
    pub(crate) fn is_free_for(&self, server: Reuse) -> bool {
        let (address, port) = server.at_bind();
        can_bind(self.port(), address, port)
    }

    /// What `stayput why` says in its first line.
    pub(crate) fn ask_why(&mut self) {
        let options = stayput_ports::Options { elsewhere: false, ..stayput_ports::Options::default() };
        let told = stayput_ports::inspect(&[self.port()], &options, |_| {});
        self.scenario.why = told.ok().and_then(|reports| reports.into_iter().next()).map(|report| {
            let mut text = report.summary.clone();
            let strays = report.holders.iter().filter_map(|holder| holder.process.stray.as_ref());
            for stray in strays.take(1) {
                text = format!("{text}; {stray}");
            }
            // The private directory, and that we hold a pipe to it, tell nobody anything.
            let place = self.shared.place.path("").display().to_string();
            text.replace(&place, "").replace(" --tied", "")
        });
    }

    /// Ends clients and watch, and counts. What happens to the servers afterwards is no part of the scenario.
    pub(crate) fn stop_clients(&mut self) -> Result<(), Error> {
        let ordered = self.ordered.unwrap_or(self.start);
        if let Some(live) = self.live.take() {
            self.scenario.live = live.finish(ordered);
        }
        if let Some((load, offset)) = self.load.take() {
            let report = load.stop().map_err(Error::Load)?;
            self.scenario.timeline = report.exchanges.iter().map(|exchange| dot(exchange, offset)).collect();
        }
        self.scenario.timeline.sort_by(|one, other| one.due_ms.total_cmp(&other.due_ms));
        self.scenario.requests = count(&self.scenario.timeline);
        self.scenario.outage_ms = outage(&self.scenario.timeline);
        if let Some(watch) = self.watch.take() {
            self.scenario.listeners = watch.listeners();
        }
        Ok(())
    }
}

fn dot(exchange: &Exchange, offset: Duration) -> Dot {
    let ms = |us: u64| Duration::from_micros(us).as_secs_f64() * 1000.0;
    let fate = match exchange.outcome {
        Outcome::Ok if exchange.took_us <= WAITED_MS * 1000 => Fate::Served,
        Outcome::Ok => Fate::Waited,
        Outcome::Refused => Fate::Refused,
        Outcome::ResetBeforeFirstByte | Outcome::ResetAfterFirstByte | Outcome::KeepAliveRace => Fate::Reset,
        Outcome::TimedOut => Fate::Hung,
        Outcome::WrongBody | Outcome::ConnectOther => Fate::Other,
    };
    let round = |ms: f64| (ms * 100.0).round() / 100.0;
    Dot {
        due_ms: round(ms(exchange.due_us) + offset.as_secs_f64() * 1000.0),
        took_ms: round(ms(exchange.took_us)),
        fate,
        pid: exchange.pid,
    }
}

/// Counts each request once.
fn count(dots: &[Dot]) -> Requests {
    let mut requests = Requests::default();
    for dot in dots {
        requests.total += 1;
        *match dot.fate {
            Fate::Served => &mut requests.served,
            Fate::Waited => &mut requests.waited,
            Fate::Refused => &mut requests.refused,
            Fate::Reset => &mut requests.reset,
            Fate::Hung => &mut requests.hung,
            Fate::Other => &mut requests.other,
        } += 1;
        if matches!(dot.fate, Fate::Served | Fate::Waited) {
            requests.longest_ms = requests.longest_ms.max(dot.took_ms.round() as u64);
        }
    }
    requests
}

/// The longest stretch of failed requests: from the first that failed to the next that did not, by when they were due. Zero: none failed.
fn outage(dots: &[Dot]) -> u64 {
    let (mut longest, mut since) = (0.0_f64, None::<f64>);
    for dot in dots {
        let failed = !matches!(dot.fate, Fate::Served | Fate::Waited);
        match (failed, since) {
            (true, None) => since = Some(dot.due_ms),
            (false, Some(from)) => {
                longest = longest.max(dot.due_ms - from);
                since = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
    }
    if let (Some(from), Some(last)) = (since, dots.last()) {
        longest = longest.max(last.due_ms - from);
    }
    longest.round() as u64
}

/// Whether a bind on 127.0.0.1 with these options works now. It is undone at once, and never listens.
pub(crate) fn can_bind(port: u16, reuseaddr: bool, reuseport: bool) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let probe = Probe { protocol: Protocol::Tcp, address, reuseaddr, reuseport, v6only: false, uid: None, listen: false };
    matches!(bind_probe::attempt(&probe).map(|answer| answer.outcome), Ok(Answer::Works))
}

/// Whether any process listens on the port.
pub(crate) fn somebody_listens(port: u16) -> bool {
    listeners(port) > 0
}

fn listeners(port: u16) -> usize {
    let mut count = 0;
    if let Ok(mut diag) = SockDiag::open() {
        let _ = diag.each(&Query::tcp(States::LISTEN).port(port), |socket| {
            count += usize::from(socket.local.port() == port && socket.state == State::Listen);
        });
    }
    count
}

/// One request, apart from the load: whether the port is answered, and if `pid` is given, by that process.
pub(crate) fn answers(port: u16, pid: Option<u32>) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), Duration::from_millis(200))?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        stream.write_all(b"GET /?n=0 HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut buffer = [0; 2048];
        let read = stream.read(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..read]).into_owned())
    };
    ask().is_ok_and(|text| text.starts_with("HTTP/1.") && pid.is_none_or(|pid| text.contains(&format!("\"pid\": {pid},"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot(due_ms: f64, took_ms: f64, fate: Fate) -> Dot {
        Dot { due_ms, took_ms, fate, pid: 1 }
    }

    #[test]
    fn every_request_is_counted_once() {
        let dots = [
            dot(0.0, 1.0, Fate::Served),
            dot(20.0, 250.4, Fate::Waited),
            dot(40.0, 0.1, Fate::Refused),
            dot(60.0, 0.1, Fate::Reset),
            dot(80.0, 900.0, Fate::Hung),
            dot(100.0, 3.0, Fate::Other),
        ];
        let counted = count(&dots);
        let parts = counted.served + counted.waited + counted.refused + counted.reset + counted.hung + counted.other;
        assert_eq!((counted.total, parts, counted.longest_ms, counted.lost()), (6, 6, 250, 4));
    }

    #[test]
    fn an_outage_ends_with_the_next_good_answer() {
        let refused = |due| dot(due, 0.1, Fate::Refused);
        let served = |due| dot(due, 1.0, Fate::Served);
        assert_eq!(outage(&[served(0.0), served(20.0)]), 0);
        assert_eq!(outage(&[served(0.0), refused(20.0), refused(40.0), served(60.0), refused(80.0), served(100.0)]), 40);
        assert_eq!(outage(&[served(0.0), refused(20.0), refused(40.0)]), 20, "an outage without an end lasts as long as it was watched");
    }
}

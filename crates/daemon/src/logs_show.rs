//! Lines of output for the console, and readiness by a line: read from the files that the pump writes, by a thread of its own.
//!
//! It is as slow as the console. Who is so far behind that nobody would read it all goes on at the end, and says how much was left out;
//! `stayput logs` has it.

use crate::console::Console;
use crate::logs::{console_line, show};
use crate::logs_disk::FromLogs;
use crate::say::{self, Mark};
use regex_lite::Regex;
use stayput_logs::track::{From, TrackReader};
use stayput_logs::{Bell, GapCause, Item, ServiceDir, Track, Waker};
use stayput_model::config::ReportStyle;
use stayput_model::event::{Event, GenerationId};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

/// Who is further behind than this goes on at the end.
const BEHIND: u64 = 4 << 20;
/// So much before it.
const LEAVE: u64 = 16 << 10;
/// Lines of one stream before the next one's turn.
const TURN: usize = 512;
/// While the console takes nothing it is looked at again after this.
const CONSOLE_TIME: Duration = Duration::from_millis(100);

/// One stream that is shown.
#[derive(Debug)]
pub(crate) struct Shown {
    reader: TrackReader,
    dir: Arc<ServiceDir>,
    generation: GenerationId,
    /// A line that matches means ready.
    ready: Option<Regex>,
    /// What is before this position was there when we came: it was shown by who was here before.
    from: u64,
    ended: bool,
}

impl Shown {
    pub(crate) fn new(dir: Arc<ServiceDir>, track: Track, generation: GenerationId, ready: Option<Regex>) -> Self {
        let entries = dir.entries().unwrap_or_default();
        let mut reader = TrackReader::new(Arc::clone(&dir), track, &entries);
        let mut end = TrackReader::new(Arc::clone(&dir), track, &entries);
        // What cannot be read cannot be shown either.
        let _ = end.begin(From::Last(0));
        let from = end.position();
        if ready.is_none() {
            reader = end;
        }
        Self { reader, dir, generation, ready, from, ended: false }
    }
}

#[derive(Debug)]
enum Order {
    Add(Box<Shown>),
    Ended(Arc<str>, Track),
    /// Answer when all that is there is shown.
    Finish(oneshot::Sender<()>),
}

/// The thread's handle.
#[derive(Debug)]
pub(crate) struct Show {
    orders: Sender<Order>,
    waker: Waker,
    heard: bool,
}

#[derive(Debug)]
struct Face {
    console: Console,
    style: ReportStyle,
    to: UnboundedSender<FromLogs>,
    /// Somebody may read standard output.
    heard: bool,
}

impl Show {
    pub(crate) fn start(bell: &Bell, console: Console, style: ReportStyle, to: UnboundedSender<FromLogs>) -> Self {
        let (orders, inbox) = channel();
        let face = Face { console, style, to, heard: is_heard() };
        let waker = bell.listen(|_| true);
        let (theirs, heard) = (waker.clone(), face.heard);
        let thread = std::thread::Builder::new().name("logs-show".to_owned()).stack_size(512 * 1024);
        // Without it there are no lines on the console; they are on disk.
        let _ = thread.spawn(move || Engine { inbox, waker: theirs, face, all: Vec::new(), finish: Vec::new() }.run());
        Self { orders, waker, heard }
    }

    /// Shows a stream from now on.
    pub(crate) fn add(&self, shown: Shown) {
        if self.heard || shown.ready.is_some() {
            self.order(Order::Add(Box::new(shown)));
        }
    }

    /// A stream is over.
    pub(crate) fn ended(&self, service: &Arc<str>, track: Track) {
        self.order(Order::Ended(Arc::clone(service), track));
    }

    /// Returns when all that is in the files is shown.
    pub(crate) fn finish(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.order(Order::Finish(sender));
        receiver
    }

    fn order(&self, order: Order) {
        // The thread ends only with the process.
        let _ = self.orders.send(order);
        self.waker.poke();
    }
}

/// Whether standard output leads anywhere: nobody has to read what goes to `/dev/null` (null(4): device 1, 3).
fn is_heard() -> bool {
    rustix::fs::fstat(rustix::stdio::stdout())
        .is_ok_and(|stat| (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) != (1, 3))
}

struct Engine {
    inbox: Receiver<Order>,
    waker: Waker,
    face: Face,
    all: Vec<Shown>,
    finish: Vec<oneshot::Sender<()>>,
}

impl Engine {
    fn run(mut self) {
        let mut within = None;
        loop {
            let news = self.waker.wait(within);
            self.take_orders();
            let mut more = false;
            let room = self.face.console.has_room();
            for shown in &mut self.all {
                if news.files {
                    shown.reader.add(&shown.dir.entries().unwrap_or_default());
                }
                more |= self.face.turn(shown, room);
            }
            self.all.retain(|shown| !shown.ended || shown.reader.behind() > 0);
            within = match (more, room) {
                (true, _) => Some(Duration::ZERO),
                (false, false) => Some(CONSOLE_TIME),
                (false, true) => {
                    for done in self.finish.drain(..) {
                        // Whoever asked may have given up.
                        let _ = done.send(());
                    }
                    None
                }
            };
        }
    }

    fn take_orders(&mut self) {
        for order in self.inbox.try_iter() {
            match order {
                Order::Add(shown) => self.all.push(*shown),
                Order::Ended(service, track) => {
                    let same = |shown: &&mut Shown| shown.reader.track() == track && *shown.reader.service() == service;
                    self.all.iter_mut().filter(same).for_each(|shown| shown.ended = true);
                }
                Order::Finish(done) => self.finish.push(done),
            }
        }
    }
}

impl Face {
    /// Shows some of a stream; true: there is more.
    fn turn(&self, shown: &mut Shown, room: bool) -> bool {
        if shown.ready.is_none() {
            if !self.heard || !room {
                return false;
            }
            if shown.reader.behind() > BEHIND {
                // What cannot be read is told as a gap.
                let _ = shown.reader.skip_to_end(LEAVE);
            }
        }
        for _ in 0..TURN {
            match shown.reader.next_item() {
                Ok(Some(item)) => self.item(shown, &item),
                Ok(None) => {
                    let rest = if shown.ended { shown.reader.rest() } else { None };
                    if let Some(rest) = rest {
                        self.item(shown, &rest);
                    }
                    return false;
                }
                Err(_) => return true,
            }
        }
        true
    }

    fn item(&self, shown: &mut Shown, item: &Item) {
        match item {
            Item::Line(line) => {
                let text = line.text();
                if let Some(pattern) = &shown.ready
                    && pattern.is_match(&show(&text, false))
                {
                    let evidence = format!("it printed a line that matches {pattern}");
                    // The reactor is gone only when the daemon ends.
                    let _ = self.to.send(FromLogs::World(Event::Ready { generation: shown.generation, evidence }));
                    shown.ready = None;
                }
                if self.heard && line.position >= shown.from {
                    let seconds = i64::try_from(line.at / 1_000_000_000).unwrap_or(i64::MAX);
                    let (hour, minute, second) = stayput_kernel::clock::local_hms_at(seconds);
                    let time = format!("{hour:02}:{minute:02}:{second:02}");
                    self.console.line(&console_line(self.style, &line.service, shown.generation, &text, &time));
                }
            }
            Item::Gap(gap) if self.heard => {
                let where_it_is = if gap.cause == GapCause::Skipped { "; stayput logs has them" } else { "" };
                let text = format!("{} bytes of its output are not shown: {}{where_it_is}", gap.bytes, gap.cause.words());
                self.console.line(&say::line(&gap.service, Mark::Trouble, &text, self.style));
            }
            Item::Gap(_) => {}
        }
    }
}

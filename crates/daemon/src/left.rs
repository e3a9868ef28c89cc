//! What an instance of this name left running whose guard, keeper and daemon were killed in one instant. Its ports are held beside it, so new
//! connections are ours; it finishes what it has, as any old generation does, and is ended. Nothing of it is taken up again: nobody has its output any more,
//! and whose children its processes are now is not for us to say.

use crate::connections::{Observer, Question};
use crate::link::{Asked, Link};
use crate::reactor::{Message, Reactor};
use crate::say::Mark;
use stayput_keeper::protocol::{Left, Reply, Request};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, sleep};

/// The number under which its connections are counted: no generation has it.
const LEFT: u64 = u64::MAX;
/// Between two looks at its connections and at its processes, which are nobody's children that could be waited for: at first, and at most.
const LOOK_FIRST: Duration = Duration::from_millis(20);
const LOOK_LONGEST: Duration = Duration::from_millis(500);
/// How long what was killed may take to be gone before it is said that it is not.
const KILLED_WITHIN: Duration = Duration::from_secs(2);
/// `SIGKILL`.
const KILL: i32 = 9;

/// How one is ended.
struct Stop {
    drain: Duration,
    grace: Duration,
    signal: i32,
}

impl Reactor {
    /// Ends it when it has finished; at the beginning of this life its ports are held for the services that are to have them.
    pub(crate) fn end_left(&mut self, left: Vec<Left>, fresh: bool) {
        for left in left {
            let config = self.world.services.get(&left.service).map(|service| &service.config);
            let stop = config.map_or(Stop { drain: Duration::ZERO, grace: Duration::from_secs(10), signal: 15 }, |config| Stop {
                drain: config.drain,
                grace: config.grace,
                signal: config.stop_signal,
            });
            if fresh && config.is_some_and(|config| !config.disabled) {
                for (address, _) in &left.listeners {
                    let hold = Request::Hold { service: left.service.clone(), address: *address };
                    self.link.ask(hold, Asked::Hold(left.service.clone(), *address));
                }
            }
            self.tell(&left.service, Mark::Trouble, &found(&left, stop.drain));
            let question = Question {
                generation: LEFT,
                addresses: left.listeners.iter().map(|(address, _)| *address).collect(),
                listeners: left.listeners.iter().map(|(_, inode)| *inode).collect(),
                roots: std::collections::BTreeMap::new(),
                outside: left.pids.clone(),
                guard: self.identity.guard,
                instance: self.identity.instance.clone(),
            };
            tokio::task::spawn_local(end(left, stop, question, Rc::clone(&self.link), self.to.clone()));
        }
    }
}

fn found(left: &Left, drain: Duration) -> String {
    let pids: Vec<String> = left.pids.iter().map(ToString::to_string).collect();
    format!(
        "generation {} of a life of this instance that was killed whole runs on (pid {}): it is ended when it has finished its connections, {drain:?} from now \
         at the latest",
        left.generation.0,
        pids.join(", ")
    )
}

async fn end(left: Left, stop: Stop, question: Question, link: Rc<Link>, to: UnboundedSender<Message>) {
    let cut = drained(&question, stop.drain).await;
    let signal = |signal| Request::SignalLeft { service: left.service.clone(), generation: left.generation, signal };
    let mut gone = !matches!(link.call(signal(stop.signal)).await, Some(Reply::Done)) || is_gone(&link, signal(0), stop.grace).await;
    if !gone {
        link.call(signal(KILL)).await;
        gone = is_gone(&link, signal(0), KILLED_WITHIN).await;
    }
    let generation = left.generation.0;
    let cut = if cut > 0 { format!("; connections of it that were in use and were cut: {cut}") } else { String::new() };
    let (mark, text) = if gone {
        (Mark::Plain, format!("generation {generation} of the killed life is ended{cut}"))
    } else {
        (Mark::Trouble, format!("generation {generation} of the killed life was killed, and is still there{cut}"))
    };
    // The reactor is gone only when the daemon ends.
    let _ = to.send(Message::Tell(left.service, mark, text));
}

/// Waits until it has only idle connections; how many are in use when the time is over.
async fn drained(question: &Question, within: Duration) -> u32 {
    let until = Instant::now() + within;
    let mut observer = Observer::open();
    let mut wait = LOOK_FIRST;
    loop {
        let report = match &mut observer {
            Ok(observer) => observer.look(question, false).ok(),
            Err(_) => None,
        };
        if report.is_some_and(|report| report.queued == 0 && report.open == report.idle) {
            return 0;
        }
        if Instant::now() >= until {
            // What could not be looked at is not counted.
            return report.map_or(0, |report| report.queued + report.open - report.idle);
        }
        sleep(wait.min(until.saturating_duration_since(Instant::now()))).await;
        wait = (wait * 2).min(LOOK_LONGEST);
    }
}

/// Whether nobody of it is left in time.
async fn is_gone(link: &Link, look: Request, within: Duration) -> bool {
    let until = Instant::now() + within;
    let mut wait = LOOK_FIRST;
    loop {
        match link.call(look.clone()).await {
            Some(Reply::Done) if Instant::now() < until => {}
            Some(Reply::Done) => return false,
            Some(_) | None => return true,
        }
        sleep(wait).await;
        wait = (wait * 2).min(LOOK_LONGEST);
    }
}

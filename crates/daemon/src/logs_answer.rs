//! Answers to requests for logs: each is read by a thread of its own, at the pace of who asked.

use crate::logs_disk::Disk;
use crate::reactor::Reactor;
use stayput_logs::{Grep, Item, Query, Reader, Services, Stream, Track, Waker, Which, base64};
use stayput_wire::pattern::{closest, is_glob};
use stayput_wire::{Answer, Failure, FailureKind, LogLine, LogsQuery, Reply};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Answers that wait to be written at most.
const WAITING: usize = 64;
const MS: u64 = 1_000_000;

impl Reactor {
    /// The lines that are asked for; they end with [`Reply::End`], or without a reply if they cannot be read any further.
    ///
    /// # Errors
    /// Why there are none.
    pub(crate) fn logs(&self, asked: LogsQuery) -> Result<Receiver<Answer>, Failure> {
        let Some(disk) = &self.disk else {
            let message = "the output of this instance is not kept on disk".to_owned();
            let hint = Some("stayput run shows it on its own standard output".to_owned());
            return Err(Failure { kind: FailureKind::Failed, message, hint });
        };
        let kept = disk.store.services().unwrap_or_default();
        let known = |name: &str| self.world.services.contains_key(name) || kept.iter().any(|kept| kept == name);
        if let Some(name) = asked.services.iter().find(|name| !is_glob(name) && !known(name)) {
            let all: Vec<String> = self.world.services.keys().cloned().chain(kept.clone()).collect();
            let hint = closest(name, &all).map(|closest| format!("did you mean {closest}?"));
            let message = format!("there is no service {name:?} in this instance, and no output of one");
            return Err(Failure { kind: FailureKind::UnknownService, message, hint });
        }
        let newest = |name: &String| {
            let service = self.world.services.get(name)?;
            Some((name.clone(), (disk.run, service.generations.keys().next_back()?.0)))
        };
        let present = self.world.services.keys().filter_map(newest).collect();
        let query = query(asked, present)?;
        answer(disk, query).map_err(|error| failed(format!("the thread that reads the logs: {error}")))
    }
}

fn failed(message: String) -> Failure {
    Failure { kind: FailureKind::Failed, message, hint: None }
}

fn query(asked: LogsQuery, present: BTreeMap<String, (u64, u64)>) -> Result<Query, Failure> {
    let wrong = |error| Failure { kind: FailureKind::BadRequest, message: format!("no regular expression: {error}"), hint: None };
    let generation = match (asked.previous, asked.generation) {
        (true, _) => Which::Previous,
        (false, Some(number)) => Which::Number(number),
        (false, None) => Which::All,
    };
    Ok(Query {
        services: services(asked.services),
        since: asked.since_ms.map(|ms| ms.saturating_mul(MS)),
        until: asked.until_ms.map(|ms| ms.saturating_mul(MS).saturating_add(MS - 1)),
        last: asked.lines.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX)),
        grep: asked.grep.as_deref().map(Grep::new).transpose().map_err(wrong)?,
        generation,
        present,
        stream: asked.stream.map(|stream| match stream {
            stayput_wire::Stream::Stdout => Stream::Stdout,
            stayput_wire::Stream::Stderr => Stream::Stderr,
        }),
        follow: asked.follow,
    })
}

/// The names and globs that were asked for; none: all.
fn services(patterns: Vec<String>) -> Services {
    if patterns.is_empty() {
        return Services::default();
    }
    Services::which(move |name| patterns.iter().any(|pattern| stayput_wire::pattern::matches(pattern, name)))
}

fn answer(disk: &Disk, query: Query) -> std::io::Result<Receiver<Answer>> {
    let (to, answers) = channel(WAITING);
    // Listen first, look then: nothing is missed in between.
    let wanted = query.clone();
    let waker = disk.bell.listen(move |service| wanted.wants_service(service));
    let (store, theirs, client) = (Arc::clone(&disk.store), waker.clone(), to.clone());
    std::thread::Builder::new().name("logs-read".to_owned()).stack_size(512 * 1024).spawn(move || {
        let reply = match Reader::new(store, query.clone()) {
            Ok(reader) => read(reader, query.follow, &theirs, &to),
            Err(error) => Some(Reply::Failed(failed(error.to_string()))),
        };
        if let Some(reply) = reply {
            // The client may be gone.
            let _ = to.blocking_send(Answer::Reply(reply));
        }
    })?;
    tokio::task::spawn_local(async move {
        client.closed().await;
        waker.close();
    });
    Ok(answers)
}

/// Reads to the end, or for ever; `None`: the client is gone.
fn read(mut reader: Reader, follow: bool, waker: &Waker, to: &Sender<Answer>) -> Option<Reply> {
    loop {
        match reader.next_item() {
            Ok(Some(item)) => to.blocking_send(of_item(item)).ok()?,
            Ok(None) if !follow => return Some(Reply::End {}),
            Ok(None) => {
                let news = waker.wait(None);
                if news.closed {
                    return None;
                }
                if let Err(error) = reader.refresh(&news) {
                    return Some(Reply::Failed(failed(error.to_string())));
                }
            }
            Err(error) => {
                let gap = Answer::LogGap { service: String::new(), dropped_bytes: None, why: error.to_string() };
                to.blocking_send(gap).ok()?;
            }
        }
    }
}

/// A line or a gap as it crosses the control socket.
pub fn of_item(item: Item) -> Answer {
    match item {
        Item::Line(line) => {
            let Track { run, generation, stream } = line.track;
            Answer::Log(LogLine {
                service: line.service.to_string(),
                generation,
                stream: match stream {
                    Stream::Stdout => stayput_wire::Stream::Stdout,
                    Stream::Stderr => stayput_wire::Stream::Stderr,
                },
                at_ms: line.at / MS,
                at_ns: u32::try_from(line.at % MS).unwrap_or_default(),
                text: line.text().into_owned(),
                bytes: std::str::from_utf8(&line.bytes).is_err().then(|| base64::encode(&line.bytes)),
                truncated: line.cut,
                position: format!("{run}-{generation}-{}-{}", stream.word(), line.position),
            })
        }
        Item::Gap(gap) => {
            Answer::LogGap { service: gap.service.to_string(), dropped_bytes: Some(gap.bytes), why: gap.cause.words().to_owned() }
        }
    }
}

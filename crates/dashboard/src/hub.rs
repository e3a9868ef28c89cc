//! What all pages see: one subscription to the daemon's events, and one status a second while somebody looks, for any number of
//! clients. Each message is made once, as the bytes that go out.
//!
//! Events are numbered by the daemon (`<boot>-<seq>`) and are never lost without a word: who comes back with the last number it saw gets
//! what it missed from the ring here or, if that does not reach back so far, from the daemon; else it is told `gap` or `reset`. A
//! status is a picture, not an event: it has no number, and only what changed since the one before is sent.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use serde_json::{Value, json};
use stayput_wire::{Answer, Cursor, EventRecord, InstanceStatus, Reply, Request, ServiceStatus};
use tokio::sync::{Notify, Semaphore, broadcast};

use crate::link::{Link, LinkError};

/// Events kept here. The daemon keeps more; this bounds our memory, and saves it the question for short breaks.
const RING: usize = 512;
/// Messages that a slow client may be behind before it is told that it missed some.
const BEHIND: usize = 256;
/// Questions to the daemon at once for what clients missed.
const QUESTIONS: usize = 4;
/// A picture is taken this often while somebody looks and nothing happens.
const PICTURE_EVERY: Duration = Duration::from_secs(1);
/// After an event it is taken this soon, so that several events at once make one picture.
const PICTURE_AFTER_EVENT: Duration = Duration::from_millis(15);
/// And never more often than this, nor for more than a quarter of the time.
const PICTURE_PAUSE: Duration = Duration::from_millis(80);
/// A picture that takes longer is given up.
const PICTURE_WITHIN: Duration = Duration::from_secs(10);
/// Between two tries to reach the daemon: first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A message to all clients.
#[derive(Debug)]
pub(crate) struct Frame {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its number, if it is an event of the daemon.
    pub(crate) cursor: Option<Cursor>,
    /// As a server-sent event, with the empty line at its end.
    pub(crate) sse: Bytes,
    /// The document in it.
    data: std::ops::Range<usize>,
}

impl Frame {
    pub(crate) fn new(name: &'static str, cursor: Option<Cursor>, document: &impl serde::Serialize) -> Self {
        let mut sse = Vec::with_capacity(256);
        if let Some(cursor) = cursor {
            sse.extend_from_slice(format!("id: {cursor}\n").as_bytes());
        }
        sse.extend_from_slice(format!("event: {name}\ndata: ").as_bytes());
        let start = sse.len();
        // JSON of serde_json has no line breaks, and these types have no way to fail.
        if serde_json::to_writer(&mut sse, document).is_err() {
            sse.truncate(start);
            sse.extend_from_slice(b"null");
        }
        let data = start..sse.len();
        sse.extend_from_slice(b"\n\n");
        Self { name, cursor, sse: Bytes::from(sse), data }
    }

    /// The document as JSON text.
    pub(crate) fn json(&self) -> &[u8] {
        &self.sse[self.data.clone()]
    }
}

/// Whether the daemon answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Upstream {
    /// Not asked yet.
    Unknown,
    /// It does.
    Up,
    /// It does not, since then (milliseconds since 1970), for this reason.
    Down(u64, String),
}

#[derive(Debug)]
struct Seen {
    upstream: Upstream,
    release: String,
    instance: String,
    /// The last event that was passed on.
    last: Option<Cursor>,
    ring: VecDeque<Arc<Frame>>,
    picture: Option<Picture>,
    operations: VecDeque<Arc<Value>>,
}

/// A status, and when it was taken.
#[derive(Debug, Clone)]
pub(crate) struct Picture {
    pub(crate) status: Arc<InstanceStatus>,
    pub(crate) at_ms: u64,
    pub(crate) taken: Instant,
}

impl Picture {
    /// The whole of it, for who comes new.
    pub(crate) fn frame(&self) -> Frame {
        let services: Vec<&ServiceStatus> = self.status.services.iter().collect();
        Frame::new("status", None, &document(&self.status, self.at_ms, true, &services, &[]))
    }
}

fn document(status: &InstanceStatus, at_ms: u64, full: bool, services: &[&ServiceStatus], gone: &[&str]) -> Value {
    let mut instance = json!(InstanceStatus { services: Vec::new(), ..status.clone() });
    if let Some(fields) = instance.as_object_mut() {
        fields.remove("services");
    }
    json!({ "at_ms": at_ms, "full": full, "instance": instance, "services": services, "gone": gone })
}

/// Whether an event is one that a client has seen that has seen everything up to `since`.
pub(crate) fn is_seen(frame: &Frame, since: Option<Cursor>) -> bool {
    frame.cursor.zip(since).is_some_and(|(cursor, since)| cursor.boot == since.boot && cursor.seq <= since.seq)
}

/// What a client starts with.
pub(crate) struct Start {
    /// The last event that there was.
    pub(crate) last: Option<Cursor>,
    /// Picture, and what was missed; in this order.
    pub(crate) frames: Vec<Arc<Frame>>,
    /// To be fetched from the daemon first: everything after the first and up to the second.
    pub(crate) fetch: Option<(Cursor, Option<Cursor>)>,
    /// What comes from now on.
    pub(crate) live: broadcast::Receiver<Arc<Frame>>,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Hub {
    control: PathBuf,
    seen: Mutex<Seen>,
    out: broadcast::Sender<Arc<Frame>>,
    watchers: AtomicUsize,
    wake: Notify,
    ended: tokio::sync::watch::Sender<bool>,
    /// Questions to the daemon for what somebody missed: all pages come back at once when we were away.
    pub(crate) questions: Semaphore,
}

/// Somebody who looks: while one lives, pictures are taken.
#[derive(Debug)]
pub(crate) struct Watcher(Arc<Hub>);

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Returns when this process ends.
pub(crate) async fn ended(ending: &mut tokio::sync::watch::Receiver<bool>) {
    // The sender lives as long as the hub does.
    let _ = ending.wait_for(|ended| *ended).await;
}

/// Milliseconds since 1970 (UTC).
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

impl Hub {
    pub(crate) fn new(control: PathBuf) -> Arc<Self> {
        let seen = Seen {
            upstream: Upstream::Unknown,
            release: String::new(),
            instance: String::new(),
            last: None,
            ring: VecDeque::new(),
            picture: None,
            operations: VecDeque::new(),
        };
        Arc::new(Self {
            control,
            seen: Mutex::new(seen),
            out: broadcast::channel(BEHIND).0,
            watchers: AtomicUsize::new(0),
            wake: Notify::new(),
            ended: tokio::sync::watch::channel(false).0,
            questions: Semaphore::new(QUESTIONS),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Path of the control socket.
    pub(crate) fn control(&self) -> &std::path::Path {
        &self.control
    }

    pub(crate) fn upstream(&self) -> Upstream {
        self.lock().upstream.clone()
    }

    /// Name of the instance and release of its daemon; empty before the first answer.
    pub(crate) fn who(&self) -> (String, String) {
        let seen = self.lock();
        (seen.instance.clone(), seen.release.clone())
    }

    /// Clients that look.
    pub(crate) fn watching(&self) -> usize {
        self.watchers.load(Ordering::Relaxed)
    }

    /// The last event that was passed on.
    pub(crate) fn last(&self) -> Option<Cursor> {
        self.lock().last
    }

    /// The last events that are kept here, oldest first.
    pub(crate) fn recent(&self, count: usize) -> Vec<EventRecord> {
        let seen = self.lock();
        let frames = seen.ring.iter().skip(seen.ring.len().saturating_sub(count));
        frames.filter_map(|frame| serde_json::from_slice(frame.json()).ok()).collect()
    }

    /// Returns when the daemon has answered or has not, at most after `limit`.
    pub(crate) async fn settled(&self, limit: Duration) {
        let mut live = self.out.subscribe();
        let settled = async {
            while self.upstream() == Upstream::Unknown && !matches!(live.recv().await, Err(broadcast::error::RecvError::Closed)) {}
        };
        let _ = tokio::time::timeout(limit, settled).await;
    }

    /// Counts a client in, until the result is dropped.
    pub(crate) fn watch(self: &Arc<Self>) -> Watcher {
        if self.watchers.fetch_add(1, Ordering::Relaxed) == 0 {
            self.wake.notify_one();
        }
        Watcher(Arc::clone(self))
    }

    /// Tells all streams that this process ends.
    pub(crate) fn end(&self) {
        let _ = self.ended.send(true);
    }

    /// For [`ended`].
    pub(crate) fn ending(&self) -> tokio::sync::watch::Receiver<bool> {
        self.ended.subscribe()
    }

    /// A picture not older than `age`: the last one, or a new one.
    pub(crate) async fn picture(&self, age: Duration) -> Result<Picture, LinkError> {
        if let Some(picture) = self.lock().picture.clone().filter(|picture| picture.taken.elapsed() <= age) {
            return Ok(picture);
        }
        let mut link = Link::connect(&self.control).await?;
        self.take(&mut link).await
    }

    /// Where a client begins that has seen everything up to `since`; `None`: it is new.
    pub(crate) fn start(&self, since: Option<Cursor>) -> Start {
        // One lock over the subscription and the look into the ring: an event is in exactly one of them.
        let seen = self.lock();
        let live = self.out.subscribe();
        let mut frames = Vec::new();
        if let Upstream::Down(..) = &seen.upstream {
            frames.push(Arc::new(upstream_frame(&seen.upstream)));
        }
        frames.extend(seen.picture.as_ref().map(|picture| Arc::new(picture.frame())));
        let mut fetch = None;
        match (since, seen.last) {
            // Somebody who is not new, and we are: the daemon knows what is between.
            (Some(since), None) => fetch = Some((since, None)),
            (Some(since), Some(last)) if since != last => {
                let first = seen.ring.front().and_then(|frame| frame.cursor);
                let reaches = first.is_some_and(|first| since.boot == first.boot && since.seq + 1 >= first.seq && since.seq <= last.seq);
                if reaches {
                    let missed = seen.ring.iter().filter(|frame| frame.cursor.is_some_and(|cursor| cursor.seq > since.seq));
                    frames.extend(missed.map(Arc::clone));
                } else {
                    fetch = Some((since, Some(last)));
                }
            }
            _ => {}
        }
        Start { last: seen.last, frames, fetch, live }
    }

    /// Sends a message that is no event of the daemon to all.
    pub(crate) fn tell(&self, frame: Frame) {
        // Nobody may be listening.
        let _ = self.out.send(Arc::new(frame));
    }

    /// Keeps and tells how an operation stands.
    pub(crate) fn operation(&self, document: Value) {
        self.tell(Frame::new("operation", None, &document));
        let mut seen = self.lock();
        seen.operations.retain(|known| known["id"] != document["id"]);
        seen.operations.push_back(Arc::new(document));
        while seen.operations.len() > 256 {
            seen.operations.pop_front();
        }
    }

    /// The operation with this value under this key.
    pub(crate) fn find_operation(&self, key: &str, value: &str) -> Option<Arc<Value>> {
        self.lock().operations.iter().rev().find(|known| known[key] == value).cloned()
    }

    /// Follows the daemon's events for ever.
    pub(crate) async fn follow(self: Arc<Self>) {
        let mut pause = RETRY.0;
        loop {
            let began = Instant::now();
            let Err(error) = self.follow_once().await;
            {
                let mut seen = self.lock();
                if !matches!(seen.upstream, Upstream::Down(..)) {
                    seen.upstream = Upstream::Down(now_ms(), error.to_string());
                    let _ = self.out.send(Arc::new(upstream_frame(&seen.upstream)));
                }
            }
            if began.elapsed() > RETRY.1 {
                pause = RETRY.0;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }

    async fn follow_once(&self) -> Result<std::convert::Infallible, LinkError> {
        let mut link = Link::connect(&self.control).await?;
        // At first all that the daemon has: who comes back after us finds it here, and does not have to ask for it alone.
        let since = self.lock().last;
        link.send(&Request::Events { since, follow: true, services: Vec::new() }).await?;
        {
            let mut seen = self.lock();
            (seen.instance, seen.release) = (link.instance.clone(), link.release.clone());
            let was = std::mem::replace(&mut seen.upstream, Upstream::Up);
            if was != Upstream::Up {
                let _ = self.out.send(Arc::new(upstream_frame(&Upstream::Up)));
            }
        }
        self.wake.notify_one();
        loop {
            match link.next().await? {
                Answer::Record(record) => self.happened(&record),
                Answer::Gap { missed } => self.tell(Frame::new("gap", None, &json!({ "missed": missed }))),
                Answer::Reset {} => {
                    let mut seen = self.lock();
                    seen.ring.clear();
                    seen.last = None;
                    let _ = self.out.send(Arc::new(Frame::new("reset", None, &json!({}))));
                }
                Answer::Reply(Reply::Failed(failure)) => return Err(LinkError::Failed(failure)),
                Answer::Reply(_) => return Err(LinkError::Closed),
                _ => {}
            }
        }
    }

    fn happened(&self, record: &EventRecord) {
        let frame = Arc::new(Frame::new("record", Some(record.cursor), record));
        let mut seen = self.lock();
        seen.last = Some(record.cursor);
        seen.ring.push_back(Arc::clone(&frame));
        if seen.ring.len() > RING {
            seen.ring.pop_front();
        }
        let _ = self.out.send(frame);
        drop(seen);
        self.wake.notify_one();
    }

    /// Takes pictures for ever, while somebody looks.
    pub(crate) async fn look(self: Arc<Self>) {
        let mut link = None;
        let mut cost = Duration::ZERO;
        let mut last = Instant::now();
        loop {
            let woken = tokio::time::timeout(PICTURE_EVERY, self.wake.notified()).await.is_ok();
            if self.watching() == 0 {
                // A picture that nobody asked for is not kept: the next client would be shown an old one.
                self.lock().picture = None;
                link = None;
                self.wake.notified().await;
                continue;
            }
            if woken {
                tokio::time::sleep(PICTURE_AFTER_EVENT).await;
            }
            let pause = PICTURE_PAUSE.max(cost * 4);
            tokio::time::sleep(pause.saturating_sub(last.elapsed())).await;
            last = Instant::now();
            if let Err(_gone) = self.look_once(&mut link).await {
                // The events' connection says what is wrong.
                link = None;
            }
            cost = last.elapsed();
            last = Instant::now();
        }
    }

    async fn look_once(&self, link: &mut Option<Link>) -> Result<(), LinkError> {
        let link = match link {
            Some(link) => link,
            None => link.insert(Link::connect(&self.control).await?),
        };
        self.take(link).await.map(drop)
    }

    async fn take(&self, link: &mut Link) -> Result<Picture, LinkError> {
        let Reply::Status(status) = link.ask(&Request::Status {}, Some(PICTURE_WITHIN)).await? else {
            return Err(LinkError::Unexpected("status"));
        };
        let picture = Picture { status: Arc::new(*status), at_ms: now_ms(), taken: Instant::now() };
        let mut seen = self.lock();
        let before = seen.picture.replace(picture.clone());
        if let Some(frame) = difference(before.as_ref(), &picture) {
            let _ = self.out.send(Arc::new(frame));
        }
        Ok(picture)
    }
}

fn upstream_frame(upstream: &Upstream) -> Frame {
    let document = match upstream {
        Upstream::Up => json!({ "state": "up" }),
        Upstream::Unknown => json!({ "state": "unknown" }),
        Upstream::Down(since_ms, why) => json!({ "state": "down", "since_ms": since_ms, "why": why }),
    };
    Frame::new("upstream", None, &document)
}

/// What of a picture is new. Always something: that the daemon was asked again is news, too.
fn difference(before: Option<&Picture>, now: &Picture) -> Option<Frame> {
    let Some(before) = before else { return Some(now.frame()) };
    if before.taken >= now.taken {
        return None;
    }
    let known: BTreeMap<&str, &ServiceStatus> = before.status.services.iter().map(|service| (service.name.as_str(), service)).collect();
    let changed: Vec<&ServiceStatus> = now
        .status
        .services
        .iter()
        .filter(|service| known.get(service.name.as_str()).is_none_or(|before| !is_same(before, service)))
        .collect();
    let here: std::collections::BTreeSet<&str> = now.status.services.iter().map(|service| service.name.as_str()).collect();
    let gone: Vec<&str> = known.keys().copied().filter(|name| !here.contains(name)).collect();
    Some(Frame::new("status", None, &document(&now.status, now.at_ms, false, &changed, &gone)))
}

/// Whether two pictures of a service show the same, times that only go on left out: the page counts them itself.
fn is_same(one: &ServiceStatus, other: &ServiceStatus) -> bool {
    still(one) == still(other)
}

fn still(service: &ServiceStatus) -> ServiceStatus {
    let mut still = service.clone();
    let facts = &mut still.facts;
    let all = [&mut facts.process, &mut facts.listening, &mut facts.accepting, &mut facts.probe, &mut facts.looping];
    let evidence = all.into_iter().filter_map(|fact| fact.evidence.as_mut()).chain(still.usage.as_mut());
    let evidence = evidence.chain(still.health.as_mut().and_then(|health| health.evidence.as_mut()));
    let listeners = still.held.iter_mut().chain(still.generations.iter_mut().flat_map(|generation| {
        generation.since_ms = 0;
        generation.listeners.iter_mut()
    }));
    for evidence in evidence.chain(listeners.map(|listener| &mut listener.evidence)) {
        evidence.age_ms = 0;
    }
    still.uptime_ms = still.uptime_ms.map(|_| 0);
    if let Some(next) = still.next.as_mut() {
        next.in_ms = 0;
    }
    still
}

//! Room for one more: when every place is taken, the connection that has kept its place for nothing for the longest time is hung up on: it asks for
//! nothing, or does not take what it asked for. Without this, whoever opens connections and says nothing, or reads nothing, would lock everybody else out.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Why a connection may have to make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Idle {
    /// It has not even said hello.
    BeforeHello,
    /// It has asked for nothing since its last answer.
    BetweenRequests,
    /// It does not read what it asked for.
    Unread,
}

impl Idle {
    /// For how long it is left alone all the same: a client says hello at once; one that is still alive asks, reads, or is content to be told that
    /// it has to come again.
    fn patience(self) -> Duration {
        match self {
            Self::BeforeHello => Duration::from_millis(100),
            Self::BetweenRequests | Self::Unread => Duration::from_secs(1),
        }
    }
}

/// While all places are taken and nobody may be hung up on yet, it is looked again after this time at the latest: somebody may have become idle.
const LOOK: Duration = Duration::from_millis(100);

/// A number of places, and the connections that may have to leave theirs, by the order in which they became idle.
#[derive(Debug)]
pub(super) struct Room {
    places: Arc<Semaphore>,
    idle: RefCell<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    all: BTreeMap<u64, Place>,
}

#[derive(Debug)]
struct Place {
    /// From then on it may be hung up on.
    due: Instant,
    go: Rc<Notify>,
}

/// A place in [`Room::idle`], for as long as somebody waits there.
struct Entry<'a> {
    room: &'a Room,
    key: u64,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.room.idle.borrow_mut().all.remove(&self.key);
    }
}

impl Room {
    pub(super) fn new(places: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), idle: RefCell::default() }
    }

    /// A place, as soon as there is one; `None`: the daemon ends.
    pub(super) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Some(place);
        }
        loop {
            // Who becomes idle meanwhile is seen at the next look; there is one only while all places are taken.
            let next_look = self.make(Instant::now());
            tokio::select! {
                biased;
                place = Arc::clone(&self.places).acquire_owned() => return place.ok(),
                () = tokio::time::sleep(next_look) => {}
            }
        }
    }

    /// A place if there is one before the idle of now would have to leave; `None`: those that are taken are in use.
    pub(super) async fn place_soon(&self) -> Option<OwnedSemaphorePermit> {
        let patience = Idle::Unread.patience() + LOOK;
        tokio::time::timeout(patience, self.place()).await.ok().flatten()
    }

    /// Tells the one that is due first to go, if it is due; gives the time until it is worth while to look again.
    fn make(&self, now: Instant) -> Duration {
        let mut waiting = self.idle.borrow_mut();
        let Some((key, due)) = waiting.all.iter().map(|(key, place)| (*key, place.due)).min_by_key(|(_, due)| *due) else {
            return LOOK;
        };
        if due > now {
            return (due - now).min(LOOK);
        }
        if let Some(place) = waiting.all.remove(&key) {
            place.go.notify_one();
        }
        LOOK
    }

    /// Returns when this connection, which is idle from now on, has to make room.
    pub(super) async fn is_needed(&self, idle: Idle) {
        let go = Rc::new(Notify::new());
        let due = Instant::now() + idle.patience();
        let entry = {
            let mut waiting = self.idle.borrow_mut();
            let key = waiting.next;
            waiting.next += 1;
            waiting.all.insert(key, Place { due, go: Rc::clone(&go) });
            Entry { room: self, key }
        };
        go.notified().await;
        drop(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn who_asks_for_nothing_or_reads_nothing_makes_room_and_who_said_hello_later() {
        for later in [Idle::BetweenRequests, Idle::Unread] {
            let room = Room::new(2);
            let (one, two) = (room.place().await.unwrap(), room.place().await.unwrap());
            let begin = Instant::now();
            let greeted = async {
                room.is_needed(later).await;
                drop(one);
                begin.elapsed()
            };
            let silent = async {
                room.is_needed(Idle::BeforeHello).await;
                drop(two);
                begin.elapsed()
            };
            let more = async {
                let third = room.place().await.unwrap();
                let fourth = room.place_soon().await.unwrap();
                drop((third, fourth));
            };
            let (greeted, silent, ()) = tokio::join!(greeted, silent, more);
            assert!((Idle::BeforeHello.patience()..later.patience()).contains(&silent), "{silent:?}");
            assert!((later.patience()..2 * later.patience()).contains(&greeted), "{greeted:?}");
            assert!(room.idle.borrow().all.is_empty());
        }
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn nobody_is_hung_up_on_while_there_is_room() {
        let room = Room::new(2);
        let _one = room.place().await.unwrap();
        let idle = tokio::time::timeout(Duration::from_hours(1), room.is_needed(Idle::BeforeHello)).await;
        assert!(idle.is_err());
        assert!(room.idle.borrow().all.is_empty(), "who is gone is forgotten");
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn places_that_are_in_use_stay_with_who_has_them() {
        let room = Room::new(1);
        let _busy = room.place().await.unwrap();
        let begin = Instant::now();
        assert!(room.place_soon().await.is_none());
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    }
}

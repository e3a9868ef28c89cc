//! Room for one more: when every place is taken, the connection that has asked for nothing for the longest time is hung up on. Without this, whoever
//! opens connections and says nothing would lock everybody else out.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Who has not even said hello may be hung up on after this time: a client says it at once.
const BEFORE_HELLO: Duration = Duration::from_millis(100);
/// Who has may be after this one: a client that is still alive asks, or is content to be told that it has to come again.
const BETWEEN_REQUESTS: Duration = Duration::from_secs(1);

/// The connections that wait for a request, by the order in which they began to.
#[derive(Debug, Default)]
pub(super) struct Room {
    idle: RefCell<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    all: BTreeMap<u64, Idle>,
}

#[derive(Debug)]
struct Idle {
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
    /// A place for a new connection; `None`: the daemon ends.
    pub(super) async fn place(&self, places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(places).try_acquire_owned() {
            return Some(place);
        }
        loop {
            // Who becomes idle meanwhile is seen at the next look; there is one only while all places are taken.
            let next_look = self.make(Instant::now());
            tokio::select! {
                biased;
                place = Arc::clone(places).acquire_owned() => return place.ok(),
                () = tokio::time::sleep(next_look) => {}
            }
        }
    }

    /// Tells the one that is due first to go, if it is due; gives the time until it is worth while to look again.
    fn make(&self, now: Instant) -> Duration {
        let mut waiting = self.idle.borrow_mut();
        let Some((key, due)) = waiting.all.iter().map(|(key, idle)| (*key, idle.due)).min_by_key(|(_, due)| *due) else {
            return BEFORE_HELLO;
        };
        if due > now {
            return (due - now).min(BEFORE_HELLO);
        }
        if let Some(idle) = waiting.all.remove(&key) {
            idle.go.notify_one();
        }
        BEFORE_HELLO
    }

    /// Returns when this connection, which waits for a request, has to make room.
    pub(super) async fn is_needed(&self, greeted: bool) {
        let go = Rc::new(Notify::new());
        let due = Instant::now() + if greeted { BETWEEN_REQUESTS } else { BEFORE_HELLO };
        let entry = {
            let mut waiting = self.idle.borrow_mut();
            let key = waiting.next;
            waiting.next += 1;
            waiting.all.insert(key, Idle { due, go: Rc::clone(&go) });
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
    async fn who_asks_for_nothing_makes_room_and_who_said_hello_later() {
        let room = Room::default();
        let places = Arc::new(Semaphore::new(2));
        let (one, two) = (room.place(&places).await.unwrap(), room.place(&places).await.unwrap());
        let begin = Instant::now();
        let greeted = async {
            room.is_needed(true).await;
            drop(one);
            begin.elapsed()
        };
        let silent = async {
            room.is_needed(false).await;
            drop(two);
            begin.elapsed()
        };
        let more = async {
            let third = room.place(&places).await.unwrap();
            let fourth = room.place(&places).await.unwrap();
            drop((third, fourth));
        };
        let (greeted, silent, ()) = tokio::join!(greeted, silent, more);
        assert!((BEFORE_HELLO..BETWEEN_REQUESTS).contains(&silent), "{silent:?}");
        assert!((BETWEEN_REQUESTS..2 * BETWEEN_REQUESTS).contains(&greeted), "{greeted:?}");
        assert!(room.idle.borrow().all.is_empty());
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn nobody_is_hung_up_on_while_there_is_room() {
        let room = Room::default();
        let places = Arc::new(Semaphore::new(2));
        let _one = room.place(&places).await.unwrap();
        let idle = tokio::time::timeout(Duration::from_hours(1), room.is_needed(false)).await;
        assert!(idle.is_err());
        assert!(room.idle.borrow().all.is_empty(), "who is gone is forgotten");
    }
}

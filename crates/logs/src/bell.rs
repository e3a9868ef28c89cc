//! Wakes those who follow logs in the process that writes them.
//!
//! It carries no data and no promise: whoever is woken looks at the files. While nobody follows, ringing costs one load.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Rung by the writer.
#[derive(Debug, Default, Clone)]
pub struct Bell {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    listeners: AtomicUsize,
    wakers: Mutex<Vec<Weak<Inner>>>,
}

/// What has happened since the last look.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct News {
    /// Of these services something was written, or dropped.
    pub services: BTreeSet<Arc<str>>,
    /// Segments came, went or ended.
    pub files: bool,
    /// [`Waker::close`] was called.
    pub closed: bool,
}

impl News {
    /// Whether there are any.
    pub fn any(&self) -> bool {
        !self.services.is_empty() || self.files || self.closed
    }
}

struct Inner {
    wants: Box<dyn Fn(&str) -> bool + Send + Sync>,
    news: Mutex<News>,
    changed: Condvar,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waker").field("news", &self.news).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the bell. It stops listening when it is dropped; clones are the same one.
#[derive(Debug, Clone)]
pub struct Waker {
    inner: Arc<Inner>,
    _listens: Arc<Listens>,
}

#[derive(Debug)]
struct Listens {
    bell: Bell,
}

impl Drop for Listens {
    fn drop(&mut self) {
        self.bell.shared.listeners.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Bell {
    /// Listens for services for which `wants` is true. Listen first and look at the files then: nothing is missed.
    pub fn listen(&self, wants: impl Fn(&str) -> bool + Send + Sync + 'static) -> Waker {
        let inner = Arc::new(Inner { wants: Box::new(wants), news: Mutex::default(), changed: Condvar::new() });
        let mut wakers = lock(&self.shared.wakers);
        wakers.retain(|waker| waker.strong_count() > 0);
        wakers.push(Arc::downgrade(&inner));
        self.shared.listeners.fetch_add(1, Ordering::AcqRel);
        Waker { inner, _listens: Arc::new(Listens { bell: self.clone() }) }
    }

    /// Bytes of this service were written; with `files`, a segment came, went or ended.
    pub fn ring(&self, service: &Arc<str>, files: bool) {
        if self.shared.listeners.load(Ordering::Acquire) == 0 {
            return;
        }
        let wakers = lock(&self.shared.wakers);
        for waker in wakers.iter().filter_map(Weak::upgrade).filter(|waker| (waker.wants)(service)) {
            waker.tell(|news| {
                if !news.services.contains(service) {
                    news.services.insert(Arc::clone(service));
                }
                news.files |= files;
            });
        }
    }
}

impl Inner {
    fn tell(&self, change: impl FnOnce(&mut News)) {
        change(&mut lock(&self.news));
        self.changed.notify_all();
    }
}

impl Waker {
    /// What has happened since the last look, at once.
    pub fn look(&self) -> News {
        std::mem::take(&mut lock(&self.inner.news))
    }

    /// Waits until something has happened, at most so long (`None`: as long as it takes).
    pub fn wait(&self, within: Option<Duration>) -> News {
        let until = within.map(|within| Instant::now() + within);
        let mut news = lock(&self.inner.news);
        while !news.any() {
            news = match until {
                None => self.inner.changed.wait(news).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break;
                    }
                    self.inner.changed.wait_timeout(news, left).map_or_else(|poisoned| poisoned.into_inner().0, |(news, _)| news)
                }
            };
        }
        std::mem::take(&mut news)
    }

    /// Wakes whoever waits with it, as if files had come.
    pub fn poke(&self) {
        self.inner.tell(|news| news.files = true);
    }

    /// Wakes whoever waits with it, to end: whoever was to get the lines is gone.
    pub fn close(&self) {
        self.inner.tell(|news| news.closed = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_who_want_are_woken() {
        let bell = Bell::default();
        let (web_name, api_name): (Arc<str>, Arc<str>) = ("web".into(), "api".into());
        bell.ring(&web_name, true);
        let web = bell.listen(|service| service == "web");
        let all = bell.listen(|_| true);
        assert_eq!(web.look(), News::default(), "what was before is in the files");
        bell.ring(&api_name, false);
        assert_eq!(web.wait(Some(Duration::ZERO)), News::default());
        assert_eq!(all.wait(None), News { services: [api_name].into(), ..News::default() });
        bell.ring(&web_name, true);
        assert_eq!(web.wait(None), News { services: [web_name].into(), files: true, closed: false });
        drop((web, all));
        assert_eq!(bell.shared.listeners.load(Ordering::Acquire), 0);
    }

    #[test]
    fn a_sleeper_is_woken_from_another_thread() {
        let bell = Bell::default();
        let waker = bell.listen(|_| true);
        let sleeper = waker.clone();
        let thread = std::thread::spawn(move || sleeper.wait(None));
        waker.close();
        assert!(thread.join().unwrap().closed);
    }
}

//! Where things are, so that one event costs the same in an instance of one service and of a thousand. All of it follows from the
//! services: it is not written down, and made anew after reading.

use crate::config::When;
use crate::event::{GenerationId, ListenerId};
use crate::mono::Mono;
use crate::service::{Service, Target};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What was last seen of one service.
#[derive(Debug, Clone, Default)]
struct Entry {
    generations: Vec<GenerationId>,
    listeners: Vec<ListenerId>,
    deadline: Option<Mono>,
    after: Vec<String>,
    reached: [bool; 3],
    /// It is down and nothing of it is left.
    quiet: bool,
    started: bool,
}

/// The index. Equal to any other: worlds are compared by what it follows from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    built: bool,
    entries: HashMap<String, Entry>,
    generations: HashMap<GenerationId, String>,
    listeners: HashMap<ListenerId, String>,
    deadlines: BTreeSet<(Mono, String)>,
    dependents: HashMap<String, BTreeSet<String>>,
    /// Services that are not quiet.
    live: usize,
    /// Services that never started a generation.
    unstarted: usize,
    /// Services that were changed since [`crate::World::take_changed`].
    pub(crate) changed: BTreeSet<String>,
    /// Services that this step has to look at.
    pub(crate) touched: BTreeSet<String>,
}

impl PartialEq for Index {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Index {}

impl Index {
    /// Makes it, if it was not made yet.
    pub(crate) fn build(&mut self, services: &BTreeMap<String, Service>) {
        if std::mem::replace(&mut self.built, true) {
            return;
        }
        for (name, service) in services {
            self.update(name, Some(service));
        }
        self.changed = services.keys().cloned().chain([String::new()]).collect();
    }

    pub(crate) fn is_built(&self) -> bool {
        self.built
    }

    /// The service is like this now; `None`: there is none of this name any more. True if it has come further than it was, or is no longer
    /// so far: those that wait for it are to be looked at.
    pub(crate) fn update(&mut self, name: &str, service: Option<&Service>) -> bool {
        let before = self.entries.remove(name);
        if let Some(before) = &before {
            before.generations.iter().for_each(|id| drop(self.generations.remove(id)));
            before.listeners.iter().for_each(|id| drop(self.listeners.remove(id)));
            if let Some(at) = before.deadline {
                self.deadlines.remove(&(at, name.to_owned()));
            }
            for other in &before.after {
                if let Some(dependents) = self.dependents.get_mut(other) {
                    dependents.remove(name);
                }
            }
            self.live -= usize::from(!before.quiet);
            self.unstarted -= usize::from(!before.started);
        }
        let Some(service) = service else { return true };
        let entry = Entry {
            generations: service.generations.keys().copied().collect(),
            listeners: service.listeners.keys().copied().collect(),
            deadline: service.next_deadline(),
            after: service.config.after.iter().map(|after| after.service.clone()).collect(),
            reached: [When::Started, When::Ready, When::Completed].map(|when| service.has_reached(when)),
            quiet: is_quiet(service),
            started: service.starts > 0,
        };
        self.generations.extend(entry.generations.iter().map(|id| (*id, name.to_owned())));
        self.listeners.extend(entry.listeners.iter().map(|id| (*id, name.to_owned())));
        self.deadlines.extend(entry.deadline.map(|at| (at, name.to_owned())));
        for other in &entry.after {
            self.dependents.entry(other.clone()).or_default().insert(name.to_owned());
        }
        self.live += usize::from(!entry.quiet);
        self.unstarted += usize::from(!entry.started);
        let news = before.is_none_or(|before| before.reached != entry.reached);
        self.entries.insert(name.to_owned(), entry);
        news
    }

    pub(crate) fn of_generation(&self, id: GenerationId) -> Option<&String> {
        self.generations.get(&id)
    }

    pub(crate) fn of_listener(&self, id: ListenerId) -> Option<&String> {
        self.listeners.get(&id)
    }

    pub(crate) fn next_deadline(&self) -> Option<Mono> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Those whose deadline has come.
    pub(crate) fn due(&self, now: Mono) -> impl Iterator<Item = &String> {
        self.deadlines.iter().take_while(move |(at, _)| *at <= now).map(|(_, name)| name)
    }

    /// Who starts after this one.
    pub(crate) fn dependents(&self, name: &str) -> impl Iterator<Item = &String> {
        self.dependents.get(name).into_iter().flatten()
    }

    /// Nothing of any service is left.
    pub(crate) fn all_quiet(&self) -> bool {
        self.live == 0
    }

    /// Every service was started at least once.
    pub(crate) fn all_started(&self) -> bool {
        self.unstarted == 0
    }
}

/// It is down, and nothing of it is left.
pub(crate) fn is_quiet(service: &Service) -> bool {
    service.target == Target::Down && service.generations.is_empty()
}

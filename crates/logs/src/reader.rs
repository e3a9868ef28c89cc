//! Reads several services, generations and streams as one, in the order of time.
//!
//! Order holds among what is there when it is read: while following, a line that comes later is given out later, whatever its time.

use crate::bell::News;
use crate::directory::{DirectoryError, Entry, ServiceDir, Store};
use crate::line::Item;
use crate::name::Track;
use crate::query::{Chosen, Query};
use crate::track::{From, TrackReader};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::io;
use std::sync::Arc;

/// Bytes of lines that are kept at most while the last ones are looked for; then there are fewer than were asked for.
const LAST_BYTES: usize = 32 << 20;

/// A reader of many tracks.
#[derive(Debug)]
pub struct Reader {
    store: Arc<Store>,
    query: Query,
    services: BTreeMap<Arc<str>, Service>,
    slots: Vec<Slot>,
    /// (time, number of the slot): which slot is next.
    order: BinaryHeap<Reverse<(u64, usize)>>,
    /// The last lines, found already.
    last: VecDeque<Item>,
    /// The search for the last lines is not done yet.
    to_find: Option<usize>,
    /// The run whose tracks may grow.
    run: Option<u64>,
}

#[derive(Debug)]
struct Service {
    dir: Arc<ServiceDir>,
    chosen: Chosen,
    seen: BTreeSet<Track>,
}

#[derive(Debug)]
struct Slot {
    /// `None`: it will not go on.
    reader: Option<TrackReader>,
    head: Option<Item>,
}

impl Reader {
    /// A reader of what is there; with [`Query::follow`], also of what comes.
    ///
    /// # Errors
    /// [`DirectoryError`] of the store. A service whose directory cannot be used is passed over by [`Reader::next_item`] with an error.
    pub fn new(store: Arc<Store>, query: Query) -> Result<Self, DirectoryError> {
        let to_find = query.last;
        let mut reader = Self {
            store,
            query,
            services: BTreeMap::new(),
            slots: Vec::new(),
            order: BinaryHeap::new(),
            last: VecDeque::new(),
            to_find,
            run: None,
        };
        reader.look_for_files(true)?;
        Ok(reader)
    }

    /// Whether any service of the query has logs.
    pub fn has_services(&self) -> bool {
        !self.services.is_empty()
    }

    /// The services that are read.
    pub fn services(&self) -> impl Iterator<Item = &Arc<str>> {
        self.services.keys()
    }

    /// The next line or gap; `None`: there is none now.
    ///
    /// # Errors
    /// Those of reading a file, which are told once; the next call goes on with what can be read.
    pub fn next_item(&mut self) -> io::Result<Option<Item>> {
        if let Some(count) = self.to_find.take() {
            self.find_last(count)?;
        }
        if let Some(item) = self.last.pop_front() {
            return Ok(Some(item));
        }
        loop {
            let Some(item) = self.next_of_all()? else { return Ok(None) };
            if self.query.wants(&item) {
                return Ok(Some(item));
            }
        }
    }

    /// What the bell has told: new lines of these services, new files.
    ///
    /// # Errors
    /// [`DirectoryError`] of the store.
    pub fn refresh(&mut self, news: &News) -> Result<(), DirectoryError> {
        if news.files {
            self.look_for_files(false)?;
        }
        let idle = self.slots.iter().enumerate().filter(|(_, slot)| {
            slot.head.is_none() && slot.reader.as_ref().is_some_and(|reader| news.files || news.services.contains(reader.service()))
        });
        let idle: Vec<usize> = idle.map(|(number, _)| number).collect();
        for number in idle {
            // Whether there is something shows when its turn comes, which is at once.
            self.order.push(Reverse((0, number)));
        }
        Ok(())
    }

    /// Looks at everything again, as if the bell had told of all.
    ///
    /// # Errors
    /// As [`Reader::refresh`].
    pub fn refresh_all(&mut self) -> Result<(), DirectoryError> {
        self.refresh(&News { services: self.services.keys().cloned().collect(), files: true, closed: false })
    }

    fn look_for_files(&mut self, first: bool) -> Result<(), DirectoryError> {
        self.run = self.store.run();
        for name in self.store.services()? {
            if !self.query.wants_service(&name) {
                continue;
            }
            if !self.services.contains_key(&*name) {
                let dir = Arc::new(self.store.service(&name, false)?);
                let service = Service { dir, chosen: Chosen::All, seen: BTreeSet::new() };
                self.services.insert(name.as_str().into(), service);
            }
            let Some(service) = self.services.get_mut(&*name) else { continue };
            let entries = service.dir.entries()?;
            if first {
                service.chosen = self.query.generation.choose(&entries, self.query.present.get(&name).copied());
            }
            self.look_at(&name, &entries);
        }
        Ok(())
    }

    fn look_at(&mut self, name: &str, entries: &[Entry]) {
        for group in entries.chunk_by(|one, other| one.name.track == other.name.track) {
            let Some(track) = group.first().map(|entry| entry.name.track) else { continue };
            let Some(service) = self.services.get_mut(name) else { continue };
            if !self.query.wants_track(track, service.chosen) {
                continue;
            }
            if service.seen.insert(track) {
                let reader = TrackReader::new(Arc::clone(&service.dir), track, group);
                let begins = reader.begins();
                if self.query.until.is_none_or(|until| reader.begins_before(until)) {
                    self.slots.push(Slot { reader: Some(reader), head: None });
                    self.order.push(Reverse((begins, self.slots.len() - 1)));
                }
            } else {
                let of_track = |reader: &&mut TrackReader| reader.track() == track && **reader.service() == *name;
                if let Some(reader) = self.slots.iter_mut().filter_map(|slot| slot.reader.as_mut()).find(of_track) {
                    reader.add(group);
                }
            }
        }
    }

    /// The next item of all tracks.
    fn next_of_all(&mut self) -> io::Result<Option<Item>> {
        while let Some(Reverse((_, number))) = self.order.pop() {
            let Some(slot) = self.slots.get_mut(number) else { continue };
            if let Some(item) = slot.head.take() {
                self.advance(number)?;
                return Ok(Some(item));
            }
            if let Some(since) = self.query.since
                && let Some(reader) = &mut slot.reader
                && reader.is_fresh()
            {
                reader.begin(From::Time(since))?;
            }
            self.advance(number)?;
        }
        Ok(None)
    }

    /// Gets the next item of a track ready.
    fn advance(&mut self, number: usize) -> io::Result<()> {
        let Some(slot) = self.slots.get_mut(number) else { return Ok(()) };
        let Some(reader) = &mut slot.reader else { return Ok(()) };
        let next = reader.next_item();
        let next = match next {
            Ok(None) if !self.query.follow => reader.rest(),
            Ok(next) => next,
            Err(error) => {
                // What comes behind the damage is tried when its turn comes, which is at once.
                self.order.push(Reverse((0, number)));
                let what = format!("the logs of {}, generation {}: {error}", reader.service(), reader.track().generation);
                return Err(io::Error::new(error.kind(), what));
            }
        };
        match next {
            // Times go back within a track with the clock alone, and then a segment begins: what comes after the end in this one is not wanted either.
            Some(item) if self.query.until.is_some_and(|until| item.at() > until) => {
                if reader.leave_newer(self.query.until.unwrap_or(u64::MAX))? {
                    return self.advance(number);
                }
                slot.reader = None;
            }
            Some(item) => {
                self.order.push(Reverse((item.at(), number)));
                slot.head = Some(item);
            }
            None if !self.query.follow || reader.is_over() || self.run.is_some_and(|run| reader.track().run != run) => slot.reader = None,
            None => {}
        }
        Ok(())
    }

    /// Finds the last lines of what is there.
    fn find_last(&mut self, count: usize) -> io::Result<()> {
        let mut last = Last { items: VecDeque::new(), lines: 0, bytes: 0, count };
        if self.query.since.is_none() && self.query.until.is_none() && self.query.grep.is_none() {
            self.find_last_quickly(&mut last)?;
        } else {
            while let Some(item) = self.next_of_all()? {
                if self.query.wants(&item) {
                    last.push(item);
                }
            }
        }
        self.last = last.items;
        Ok(())
    }

    /// From the end of each track, track by track: few files are open at a time.
    fn find_last_quickly(&mut self, last: &mut Last) -> io::Result<()> {
        let mut found = Vec::new();
        self.order.clear();
        for number in 0..self.slots.len() {
            if let Some(reader) = &mut self.slots[number].reader {
                reader.begin(From::Last(last.count))?;
            }
            self.order.push(Reverse((0, number)));
            let mut own = Last { items: VecDeque::new(), lines: 0, bytes: 0, count: last.count };
            while let Some(item) = self.next_of_all()? {
                own.push(item);
            }
            found.extend(own.items);
        }
        // Stable: within a track the order stays.
        found.sort_by_key(Item::at);
        for item in found {
            last.push(item);
        }
        Ok(())
    }
}

/// The last lines, with the gaps among them.
struct Last {
    items: VecDeque<Item>,
    lines: usize,
    bytes: usize,
    count: usize,
}

impl Last {
    fn push(&mut self, item: Item) {
        if let Item::Line(line) = &item {
            self.lines += 1;
            self.bytes += line.bytes.len() + size_of::<Item>();
        }
        self.items.push_back(item);
        while self.lines > self.count || self.bytes > LAST_BYTES || (self.lines == 0 && self.count == 0) {
            let Some(first) = self.items.pop_front() else { break };
            if let Item::Line(line) = first {
                self.lines -= 1;
                self.bytes -= line.bytes.len() + size_of::<Item>();
            }
        }
    }
}

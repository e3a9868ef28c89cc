//! What the keeper knows, written down so that a SIGKILL between any two instructions leaves the last commit and nothing else.
//!
//! A record has a key and bytes. A commit appends the records that changed behind those of the commits before it, and becomes valid
//! by one store: that of the *tail*. What is beyond the tail was never written, as far as a reader is concerned. When most of what is
//! written is outdated, the valid records are copied into the other half of the memory, and the copy becomes valid by one store as
//! well: that of the *half*. So a commit costs what changed, and the memory is bounded by what is valid.
//!
//! It owns the layout and the order of the stores; what a record means is its user's business.

use crate::records::Record;
use stayput_kernel::memory::SharedRegion;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

/// Most bytes of one half. Untouched pages cost nothing.
pub(crate) const HALF: usize = 64 << 20;
/// So many outdated bytes are worth no copy.
const SLACK: usize = 256 << 10;
/// Length of key, then length of value; this value length says that the record is dropped.
const HEADER: usize = 8;
const DROPPED: u32 = u32::MAX;

/// Where the journal is in the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Word: which half is valid, plus one; 0 before the first commit.
    pub(crate) active: usize,
    /// Words: length of what is written in each half.
    pub(crate) tails: [usize; 2],
    pub(crate) halves: [usize; 2],
    pub(crate) half: usize,
}

/// The memory; a trait so that a test can end it after any store.
pub(crate) trait Memory {
    fn load(&self, offset: usize) -> u64;
    /// After everything that was written before it.
    fn store(&self, offset: usize, value: u64);
    fn write(&self, offset: usize, bytes: &[u8]);
    fn read(&self, offset: usize, length: usize) -> Vec<u8>;
    /// These bytes are not needed any more.
    fn discard(&self, offset: usize, length: usize);
}

impl Memory for SharedRegion {
    fn load(&self, offset: usize) -> u64 {
        self.word(offset).load(Ordering::Acquire)
    }

    fn store(&self, offset: usize, value: u64) {
        self.word(offset).store(value, Ordering::Release);
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        SharedRegion::write(self, offset, bytes);
    }

    fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        SharedRegion::read(self, offset, length)
    }

    fn discard(&self, offset: usize, length: usize) {
        SharedRegion::discard(self, offset, length);
    }
}

/// A change of one record: its new bytes, or that it is dropped.
pub(crate) type Change = (Record, Option<Vec<u8>>);

/// Where the bytes of a record are in the valid half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// Of the header.
    at: usize,
    key: usize,
    value: usize,
}

impl Place {
    fn length(self) -> usize {
        HEADER + self.key + self.value
    }
}

/// The journal, as one process sees it. There is one writer at a time: the keeper.
#[derive(Debug)]
pub(crate) struct Journal<M = SharedRegion> {
    memory: M,
    layout: Layout,
    places: BTreeMap<Record, Place>,
    half: usize,
    tail: usize,
    /// Bytes of valid records.
    valid: usize,
}

impl<M: Memory> Journal<M> {
    /// Reads what the last commit left.
    ///
    /// # Errors
    /// The records are not ours to read: another version of this program wrote them.
    pub(crate) fn open(memory: M, layout: Layout) -> Result<Self, JournalError> {
        let half = memory.load(layout.active).saturating_sub(1) as usize;
        let tail = if memory.load(layout.active) == 0 { 0 } else { memory.load(*layout.tails.get(half).ok_or(JournalError::Damaged)?) };
        let mut journal = Self { memory, layout, places: BTreeMap::new(), half, tail: 0, valid: 0 };
        let tail = usize::try_from(tail).ok().filter(|tail| *tail <= layout.half).ok_or(JournalError::Damaged)?;
        while journal.tail < tail {
            let header = journal.read(journal.tail, HEADER);
            let number = |at: usize| header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes);
            let (key, value) = (number(0) as usize, number(4));
            let place = Place { at: journal.tail, key, value: if value == DROPPED { 0 } else { value as usize } };
            if place.at + place.length() > tail {
                return Err(JournalError::Damaged);
            }
            let record = postcard::from_bytes(&journal.read(place.at + HEADER, key)).map_err(JournalError::Codec)?;
            journal.note(record, place, value != DROPPED);
        }
        Ok(journal)
    }

    fn read(&self, at: usize, length: usize) -> Vec<u8> {
        self.memory.read(self.layout.halves[self.half] + at, length)
    }

    fn note(&mut self, record: Record, place: Place, kept: bool) {
        let before = if kept { self.places.insert(record, place) } else { self.places.remove(&record) };
        self.valid -= before.map_or(0, Place::length);
        self.valid += if kept { place.length() } else { 0 };
        self.tail = place.at + place.length();
    }

    /// The bytes of a record.
    pub(crate) fn get(&self, record: &Record) -> Option<Vec<u8>> {
        self.places.get(record).map(|place| self.read(place.at + HEADER + place.key, place.value))
    }

    /// All valid records in their order, with their bytes.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Record, Vec<u8>)> {
        self.places.iter().map(|(record, place)| (record, self.read(place.at + HEADER + place.key, place.value)))
    }

    /// Bytes that are not taken by valid records.
    pub(crate) fn room(&self) -> usize {
        self.layout.half - self.valid
    }

    /// Writes changes down: all of them are valid afterwards, or, if we are killed meanwhile, perhaps none.
    ///
    /// # Errors
    /// There is no room, even without what is outdated: nothing is changed.
    pub(crate) fn commit(&mut self, changes: &[Change]) -> Result<(), JournalError> {
        let mut bytes = Vec::new();
        let mut noted = Vec::with_capacity(changes.len());
        for (record, value) in changes {
            let key = postcard::to_stdvec(record).map_err(JournalError::Codec)?;
            let length = value.as_ref().map_or(0, Vec::len);
            noted.push((bytes.len(), key.len(), length));
            bytes.extend((key.len() as u32).to_le_bytes());
            bytes.extend(if value.is_some() { length as u32 } else { DROPPED }.to_le_bytes());
            bytes.extend(key);
            bytes.extend(value.iter().flatten());
        }
        if self.valid + bytes.len() > self.layout.half {
            return Err(JournalError::Full(bytes.len()));
        }
        if self.tail + bytes.len() > self.layout.half || self.tail > 2 * self.valid + SLACK {
            self.compact();
        }
        let start = self.tail;
        self.memory.write(self.layout.halves[self.half] + start, &bytes);
        self.memory.store(self.layout.tails[self.half], (start + bytes.len()) as u64);
        if self.memory.load(self.layout.active) == 0 {
            self.memory.store(self.layout.active, self.half as u64 + 1);
        }
        for ((record, value), (at, key, length)) in changes.iter().zip(noted) {
            self.note(record.clone(), Place { at: start + at, key, value: length }, value.is_some());
        }
        Ok(())
    }

    /// Copies what is valid into the other half, which is valid from then on.
    fn compact(&mut self) {
        let other = 1 - self.half;
        let mut tail = 0;
        for place in self.places.values_mut() {
            let bytes = self.memory.read(self.layout.halves[self.half] + place.at, place.length());
            self.memory.write(self.layout.halves[other] + tail, &bytes);
            place.at = tail;
            tail += bytes.len();
        }
        self.memory.store(self.layout.tails[other], tail as u64);
        self.memory.store(self.layout.active, other as u64 + 1);
        self.memory.discard(self.layout.halves[self.half], self.tail);
        (self.half, self.tail) = (other, tail);
    }
}

/// Why a journal could not be read or written.
#[derive(Debug)]
pub(crate) enum JournalError {
    Codec(postcard::Error),
    /// So many bytes more do not fit.
    Full(usize),
    Damaged,
}

impl std::fmt::Display for JournalError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Codec(error) => write!(f, "a record of the keeper's state does not decode: {error}"),
            Self::Full(length) => write!(f, "the keeper's state has no room for {length} bytes more"),
            Self::Damaged => f.write_str("the keeper's state was written by another program"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    const LAYOUT: Layout = Layout { active: 0, tails: [8, 16], halves: [32, 32 + SMALL], half: SMALL };
    const SMALL: usize = 600;

    #[derive(Debug, Clone)]
    enum Op {
        Store(usize, u64),
        Write(usize, Vec<u8>),
        Discard(usize, usize),
    }

    /// Memory that remembers how it came to be.
    #[derive(Debug, Clone, Default)]
    struct Remembering {
        bytes: Rc<RefCell<Vec<u8>>>,
        ops: Rc<RefCell<Vec<Op>>>,
    }

    impl Remembering {
        fn of(bytes: Vec<u8>) -> Self {
            Self { bytes: Rc::new(RefCell::new(bytes)), ops: Rc::default() }
        }

        fn new() -> Self {
            Self::of(vec![0; 32 + 2 * SMALL])
        }

        fn apply(&self, op: &Op) {
            let mut bytes = self.bytes.borrow_mut();
            match op {
                Op::Store(at, value) => bytes[*at..at + 8].copy_from_slice(&value.to_ne_bytes()),
                Op::Write(at, written) => bytes[*at..at + written.len()].copy_from_slice(written),
                Op::Discard(at, length) => bytes[*at..at + length].fill(0),
            }
            self.ops.borrow_mut().push(op.clone());
        }
    }

    impl Memory for Remembering {
        fn load(&self, offset: usize) -> u64 {
            u64::from_ne_bytes(self.bytes.borrow()[offset..offset + 8].try_into().expect("eight"))
        }

        fn store(&self, offset: usize, value: u64) {
            self.apply(&Op::Store(offset, value));
        }

        fn write(&self, offset: usize, bytes: &[u8]) {
            self.apply(&Op::Write(offset, bytes.to_vec()));
        }

        fn read(&self, offset: usize, length: usize) -> Vec<u8> {
            self.bytes.borrow()[offset..offset + length].to_vec()
        }

        fn discard(&self, offset: usize, length: usize) {
            self.apply(&Op::Discard(offset, length));
        }
    }

    type Content = BTreeMap<Record, Vec<u8>>;

    fn content(memory: &Remembering) -> Content {
        let journal = Journal::open(memory.clone(), LAYOUT).expect("readable at any moment");
        journal.all().map(|(record, bytes)| (record.clone(), bytes)).collect()
    }

    fn changed(mut content: Content, changes: &[Change]) -> Content {
        for (record, value) in changes {
            match value {
                Some(bytes) => drop(content.insert(record.clone(), bytes.clone())),
                None => drop(content.remove(record)),
            }
        }
        content
    }

    fn change() -> impl Strategy<Value = Change> {
        let record = prop_oneof![
            Just(Record::Root),
            (1_u64..6).prop_map(Record::Generation),
            (1_u64..4).prop_map(Record::Listener),
            "[a-c]{0,1}".prop_map(Record::Blob),
        ];
        (record, proptest::option::weighted(0.8, proptest::collection::vec(any::<u8>(), 0..40)))
    }

    proptest! {
        /// The kill at every instruction: whatever prefix of the stores, and of the bytes of a write, has happened, a successor
        /// finds the commit before or the commit itself.
        #[test]
        fn a_kill_at_any_instruction_leaves_a_whole_commit(
            commits in proptest::collection::vec(proptest::collection::vec(change(), 1..4), 1..40)
        ) {
            let memory = Remembering::new();
            let mut journal = Journal::open(memory.clone(), LAYOUT).expect("empty");
            let mut before = Content::new();
            for changes in commits {
                let start = memory.bytes.borrow().clone();
                memory.ops.borrow_mut().clear();
                let after = match journal.commit(&changes) {
                    Ok(()) => changed(before.clone(), &changes),
                    Err(_) => before.clone(),
                };
                let ops = memory.ops.borrow().clone();
                let killed = Remembering::of(start);
                for op in &ops {
                    if let Op::Write(at, bytes) = op {
                        for part in [1, bytes.len() / 2, bytes.len().saturating_sub(1)] {
                            let torn = Remembering::of(killed.bytes.borrow().clone());
                            torn.apply(&Op::Write(*at, bytes[..part.min(bytes.len())].to_vec()));
                            let found = content(&torn);
                            prop_assert!(found == before || found == after);
                        }
                    }
                    killed.apply(op);
                    let found = content(&killed);
                    prop_assert!(found == before || found == after, "after {op:?}: {found:?}");
                }
                prop_assert_eq!(&content(&memory), &after);
                // A successor goes on where this one was.
                journal = Journal::open(memory.clone(), LAYOUT).expect("readable");
                before = after;
            }
        }
    }

    #[test]
    fn what_is_outdated_makes_room_and_what_does_not_fit_changes_nothing() {
        let memory = Remembering::new();
        let mut journal = Journal::open(memory.clone(), LAYOUT).expect("empty");
        let large = |byte: u8| [(Record::Generation(1), Some(vec![byte; 200]))];
        for byte in 0..100 {
            journal.commit(&large(byte)).expect("there is room for one");
        }
        assert!(matches!(journal.commit(&[(Record::Generation(2), Some(vec![0; 500]))]), Err(JournalError::Full(_))));
        assert_eq!(journal.get(&Record::Generation(1)), Some(vec![99; 200]));
        assert_eq!(content(&memory), Content::from([(Record::Generation(1), vec![99; 200])]));
        assert!(journal.room() < SMALL - 200);
    }

    #[test]
    fn what_another_program_wrote_is_refused() {
        let memory = Remembering::new();
        memory.store(LAYOUT.active, 1);
        memory.store(LAYOUT.tails[0], 40);
        memory.write(LAYOUT.halves[0], &[0xff; 40]);
        assert!(Journal::open(memory.clone(), LAYOUT).is_err());
        memory.store(LAYOUT.active, 9);
        assert!(matches!(Journal::open(memory, LAYOUT), Err(JournalError::Damaged)));
    }
}

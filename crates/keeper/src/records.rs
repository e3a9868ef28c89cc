//! Collections that know which of their entries were touched since they were last written down.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Key of a record of the keeper's state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Record {
    /// All that has no record of its own.
    Root,
    Generation(u64),
    Listener(u64),
    Group(u64),
    /// Bytes of the brain's, under its key.
    Blob(String),
}

/// An entry with a number that no other of its kind ever has.
pub(crate) trait Entry: Serialize {
    fn number(&self) -> u64;
    fn record(number: u64) -> Record;
}

/// Entries by number. Every way to change one marks it as touched.
#[derive(Debug, Clone)]
pub(crate) struct Table<E> {
    entries: BTreeMap<u64, E>,
    touched: BTreeSet<u64>,
    version: u64,
}

impl<E> Default for Table<E> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), touched: BTreeSet::new(), version: 0 }
    }
}

impl<E: Entry> Table<E> {
    /// An entry that was read from where it is written down.
    pub(crate) fn restore(&mut self, entry: E) {
        self.entries.insert(entry.number(), entry);
    }

    pub(crate) fn get(&self, number: u64) -> Option<&E> {
        self.entries.get(&number)
    }

    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut E> {
        let entry = self.entries.get_mut(&number)?;
        self.touched.insert(number);
        self.version += 1;
        Some(entry)
    }

    pub(crate) fn push(&mut self, entry: E) {
        self.touched.insert(entry.number());
        self.version += 1;
        self.entries.insert(entry.number(), entry);
    }

    pub(crate) fn remove(&mut self, number: u64) -> Option<E> {
        let entry = self.entries.remove(&number)?;
        self.touched.insert(number);
        self.version += 1;
        Some(entry)
    }

    /// Another number after every change, as far as this process has seen them.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Takes out all of which this is true.
    pub(crate) fn extract(&mut self, is: impl Fn(&E) -> bool) -> Vec<E> {
        let numbers: Vec<u64> = self.entries.iter().filter(|(_, entry)| is(entry)).map(|(number, _)| *number).collect();
        numbers.into_iter().filter_map(|number| self.remove(number)).collect()
    }

    pub(crate) fn iter(&self) -> std::collections::btree_map::Values<'_, u64, E> {
        self.entries.values()
    }

    /// The touched ones in the form in which they are written down; from here on they are not touched any more.
    ///
    /// # Errors
    /// Postcard's: an entry that cannot be encoded.
    pub(crate) fn changes(&mut self) -> Result<Vec<crate::journal::Change>, postcard::Error> {
        let change = |number: u64| Ok((E::record(number), self.entries.get(&number).map(postcard::to_stdvec).transpose()?));
        std::mem::take(&mut self.touched).into_iter().map(change).collect()
    }
}

impl<'a, E: Entry> IntoIterator for &'a Table<E> {
    type Item = &'a E;
    type IntoIter = std::collections::btree_map::Values<'a, u64, E>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize)]
    struct Thing(u64, u8);

    impl Entry for Thing {
        fn number(&self) -> u64 {
            self.0
        }

        fn record(number: u64) -> Record {
            Record::Generation(number)
        }
    }

    #[test]
    fn only_what_was_touched_is_written_down() {
        let mut table = Table::default();
        table.restore(Thing(1, 10));
        table.restore(Thing(2, 20));
        assert_eq!((table.changes(), table.version()), (Ok(vec![]), 0));
        table.get_mut(2).expect("present").1 = 21;
        table.push(Thing(3, 30));
        assert_eq!(table.version(), 2);
        assert_eq!(table.extract(|thing| thing.1 == 10), [Thing(1, 10)]);
        let changes = table.changes().expect("encodes");
        let records: Vec<_> = changes.iter().map(|(record, value)| (record.clone(), value.is_some())).collect();
        assert_eq!(records, [(Record::Generation(1), false), (Record::Generation(2), true), (Record::Generation(3), true)]);
        assert_eq!(table.changes(), Ok(vec![]));
        assert_eq!(table.get_mut(9), None);
        assert_eq!(table.remove(9), None);
        assert_eq!(table.changes(), Ok(vec![]), "what is not there cannot be touched");
    }
}

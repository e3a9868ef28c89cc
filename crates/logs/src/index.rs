//! The index of a segment: times at offsets, gaps, and the end.
//!
//! A file of records of 16 bytes, appended in the order of the offsets. Two little-endian words: in the first the kind (the highest 8 bits) and the
//! offset in the segment (the lower 56), in the second what belongs to the kind:
//!
//! | kind | | second word |
//! |---|---|---|
//! | 0 | the bytes from here on were taken at this time | unix ns |
//! | 1 | here bytes are missing that could not be written; the record before says since when | how many |
//! | 2 | as 0, and the first byte of the segment goes on with a line that began in the segment before | unix ns |
//! | 3 | here the stream ended | unix ns |
//!
//! The count of a gap at the end is written anew in its place as it grows; nothing else is ever changed. Whatever is at the end and no whole
//! record, and records that make no sense, count as absent: a torn index costs times, never lines.

/// Bytes of a record.
pub const RECORD: usize = 16;
/// A segment whose index has so many bytes gets no more: the next one begins.
pub const INDEX_MAX: u64 = 1 << 20;

const KIND_SHIFT: u32 = 56;
const OFFSET_MASK: u64 = (1 << KIND_SHIFT) - 1;

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Where in the segment.
    pub offset: u64,
    /// What is there.
    pub what: What,
}

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The bytes from here on were taken at this time (unix ns).
    Time(u64),
    /// So many bytes are missing here.
    Gap(u64),
    /// As [`What::Time`]; the segment begins within a line.
    Continues(u64),
    /// The stream ended at this time (unix ns).
    End(u64),
}

impl Record {
    /// Its bytes. Offsets have 56 bits; a segment is never that long.
    pub fn encode(self) -> [u8; RECORD] {
        let (kind, value) = match self.what {
            What::Time(at) => (0_u64, at),
            What::Gap(bytes) => (1, bytes),
            What::Continues(at) => (2, at),
            What::End(at) => (3, at),
        };
        let mut bytes = [0; RECORD];
        let (first, second) = bytes.split_at_mut(8);
        first.copy_from_slice(&((kind << KIND_SHIFT) | (self.offset & OFFSET_MASK)).to_le_bytes());
        second.copy_from_slice(&value.to_le_bytes());
        bytes
    }

    /// The record in these bytes; `None` if they make no sense.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let first = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
        let value = u64::from_le_bytes(bytes.get(8..RECORD)?.try_into().ok()?);
        let what = match first >> KIND_SHIFT {
            0 => What::Time(value),
            1 => What::Gap(value),
            2 => What::Continues(value),
            3 => What::End(value),
            _ => return None,
        };
        Some(Self { offset: first & OFFSET_MASK, what })
    }

    /// Its time, if it has one.
    pub fn at(&self) -> Option<u64> {
        match self.what {
            What::Time(at) | What::Continues(at) | What::End(at) => Some(at),
            What::Gap(_) => None,
        }
    }
}

/// The index of a segment as far as it was read. It can be read on as the file grows.
#[derive(Debug, Default, Clone)]
pub struct Index {
    records: Vec<Record>,
    /// Bytes of the file that are in `records`, or were passed over.
    read: u64,
}

impl Index {
    /// The index in these bytes.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut index = Self::default();
        index.extend(bytes);
        index
    }

    /// Takes the bytes from [`Index::wants`] on; what is no whole record is left for the next time.
    pub fn extend(&mut self, bytes: &[u8]) {
        for record in bytes.chunks_exact(RECORD) {
            self.read += RECORD as u64;
            let Some(record) = Record::decode(record) else { continue };
            // Offsets never go back; a record that says so is damage.
            if self.records.last().is_none_or(|last| last.offset <= record.offset) {
                self.records.push(record);
            }
        }
    }

    /// Where in the file to read on. The last record is read again: a gap may have grown.
    pub fn wants(&mut self) -> u64 {
        if let Some(Record { what: What::Gap(_), .. }) = self.records.last() {
            self.records.pop();
            self.read -= RECORD as u64;
        }
        self.read
    }

    /// The records, by offset.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// When the first bytes were taken.
    pub fn first_time(&self) -> Option<u64> {
        self.records.iter().find_map(Record::at)
    }

    /// Whether the segment begins within a line.
    pub fn continues(&self) -> bool {
        matches!(self.records.first(), Some(Record { what: What::Continues(_), .. }))
    }

    /// The time of the byte at `offset`; `None`: no record says it.
    pub fn time_at(&self, offset: u64) -> Option<u64> {
        let upto = self.records.partition_point(|record| record.offset <= offset);
        self.records[..upto].iter().rev().find_map(|record| match record.what {
            What::Time(at) | What::Continues(at) => Some(at),
            What::Gap(_) | What::End(_) => None,
        })
    }

    /// From where on bytes may be as new as `since`: all before this offset is older.
    pub fn seek(&self, since: u64) -> u64 {
        // Times do not go back within a segment (the writer begins a new one when the clock does), so the last time at or before each
        // record tells on which side it is.
        let older = |at: usize| self.records[..=at].iter().rev().find_map(Record::at).is_none_or(|at| at < since);
        let (mut from, mut to) = (0, self.records.len());
        while from < to {
            let middle = usize::midpoint(from, to);
            if older(middle) { from = middle + 1 } else { to = middle }
        }
        // The bytes of the record before were all taken at its time, which is older; but a line may reach over the border. A time of which no bytes came
        // stands at the border itself, where one may begin.
        let border = self.records.get(from).map_or(u64::MAX, |record| record.offset);
        self.records[..from].iter().rev().map(|record| record.offset).find(|offset| *offset < border).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(records: &[Record]) -> Vec<u8> {
        records.iter().flat_map(|record| record.encode()).collect()
    }

    fn time(offset: u64, at: u64) -> Record {
        Record { offset, what: What::Time(at) }
    }

    #[test]
    fn a_gap_that_grew_is_read_again() {
        let gap = |bytes| Record { offset: 7, what: What::Gap(bytes) };
        let mut index = Index::parse(&bytes(&[time(0, 5), time(7, 6), gap(1)]));
        assert_eq!(index.records().last(), Some(&gap(1)));
        assert_eq!(index.wants(), 32);
        index.extend(&bytes(&[gap(100), time(7, 9)]));
        assert_eq!(index.records(), [time(0, 5), time(7, 6), gap(100), time(7, 9)]);
        assert_eq!((index.time_at(6), index.time_at(7)), (Some(5), Some(9)));
    }

    #[test]
    fn the_search_by_time_leaves_nothing_out() {
        let index = Index::parse(&bytes(&[time(0, 10), time(50, 20), time(90, 30)]));
        assert_eq!([0, 10, 11, 20, 25, 30, 31].map(|since| index.seek(since)), [0, 0, 0, 0, 50, 50, 90]);
        let empty = Index::parse(&bytes(&[time(0, 10), time(50, 20), time(50, 30)]));
        assert_eq!(empty.seek(25), 0, "a line that begins at 50 is not in the middle of one");
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_index(content in prop::collection::vec(any::<u8>(), 0..400), at: u64, offset: u64) {
            let mut index = Index::parse(&content);
            prop_assert!(index.records().is_sorted_by_key(|record| record.offset));
            let _ = (index.seek(at), index.time_at(offset), index.first_time(), index.continues());
            prop_assert!(index.wants() <= content.len() as u64);
        }

        #[test]
        fn records_come_back_however_the_end_is_torn(
            mut records in prop::collection::vec((0_u64..1 << 56, any::<u64>(), 0_u8..4), 0..20), torn in 0_usize..16,
        ) {
            records.sort_unstable();
            let records: Vec<Record> = records.into_iter().map(|(offset, value, kind)| {
                let what = match kind { 0 => What::Time(value), 1 => What::Gap(value), 2 => What::Continues(value), _ => What::End(value) };
                Record { offset, what }
            }).collect();
            let mut content = bytes(&records);
            content.extend_from_slice(&[0xff; 16][..torn]);
            let index = Index::parse(&content);
            prop_assert_eq!(index.records(), &records[..]);
        }

        #[test]
        fn what_is_left_out_by_time_is_older(steps in prop::collection::vec((0_u64..100, 0_u64..100), 1..50), since in 0_u64..5000) {
            let (mut offset, mut at, mut records) = (0, 0, Vec::new());
            for (bytes, ns) in steps {
                records.push(time(offset, at));
                offset += bytes;
                at += ns;
            }
            let index = Index::parse(&bytes(&records));
            for before in 0..index.seek(since) {
                prop_assert!(index.time_at(before).unwrap() < since, "{before} is left out");
            }
        }
    }
}

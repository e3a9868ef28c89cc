//! Reads one track: its segments one after the other, cut into lines, with the gaps between them.

use crate::directory::{Entry, ServiceDir};
use crate::index::{Index, What};
use crate::line::{Gap, GapCause, Item, LINE_MAX, Line};
use crate::name::{SegmentName, Track};
use crate::segment::Segment;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

/// Where to begin in a track.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// At the oldest byte that is there.
    Start,
    /// At the first line of this time (unix ns) or later.
    Time(u64),
    /// So many lines before the end of now.
    Last(usize),
}

/// A reader of one track.
#[derive(Debug)]
pub struct TrackReader {
    dir: Arc<ServiceDir>,
    track: Track,
    /// Segments to come, oldest first.
    coming: VecDeque<SegmentName>,
    segment: Option<Segment>,
    /// Where in the track the next byte is.
    position: u64,
    /// Records of the present segment's index that are dealt with.
    records: usize,
    /// Bytes of the gap at `records` that were told already; it may grow.
    told: u64,
    /// When the byte at `position` was taken, as far as it is known.
    at: u64,
    partial: Partial,
    /// Lines to be passed over.
    pass_over: usize,
    /// The first byte is within a line whose beginning is not wanted: pass over the rest of it.
    within: bool,
    /// Lines before this time are not wanted.
    since: u64,
    ready: VecDeque<Item>,
    ended: bool,
    fresh: bool,
    buffer: Vec<u8>,
}

/// The beginning of a line.
#[derive(Debug, Default)]
struct Partial {
    bytes: Vec<u8>,
    position: u64,
    at: u64,
}

impl TrackReader {
    /// A reader of these segments of a track, which are sorted.
    pub fn new(dir: Arc<ServiceDir>, track: Track, segments: &[Entry]) -> Self {
        let coming: VecDeque<SegmentName> = segments.iter().map(|entry| entry.name).filter(|name| name.track == track).collect();
        let position = coming.front().map_or(0, |first| first.base);
        Self {
            dir,
            track,
            coming,
            segment: None,
            position,
            records: 0,
            told: 0,
            at: track.run,
            partial: Partial::default(),
            pass_over: 0,
            within: false,
            since: 0,
            ready: VecDeque::new(),
            ended: false,
            fresh: true,
            buffer: Vec::new(),
        }
    }

    /// Which track.
    pub fn track(&self) -> Track {
        self.track
    }

    /// Its service.
    pub fn service(&self) -> &Arc<str> {
        &self.dir.service
    }

    /// When its first bytes that are there were taken (unix ns); if no index says it, when its run began.
    pub fn begins(&self) -> u64 {
        let first = self.coming.front().and_then(|first| head_of_index(&self.dir, *first));
        first.and_then(|index| index.first_time()).unwrap_or(self.track.run)
    }

    /// Whether any of it was taken by then: the clock may have gone back between segments.
    pub fn begins_before(&self, until: u64) -> bool {
        let begins =
            |name: &SegmentName| head_of_index(&self.dir, *name).and_then(|index| index.first_time()).is_some_and(|first| first <= until);
        self.begins() <= until || self.coming.iter().any(begins)
    }

    /// Begins there; to be called before anything is read.
    ///
    /// # Errors
    /// Those of reading the files.
    pub fn begin(&mut self, from: From) -> io::Result<()> {
        self.fresh = false;
        match from {
            From::Start => Ok(()),
            From::Time(since) => self.begin_at(since),
            From::Last(lines) => self.begin_before_the_end(lines),
        }
    }

    fn begin_at(&mut self, since: u64) -> io::Result<()> {
        self.since = since;
        // The last segment that begins before that time has its first line, unless one before it ends after that time: then the clock went back between them.
        while let (Some(first), Some(second)) = (self.coming.front().copied(), self.coming.get(1).copied())
            && head_of_index(&self.dir, second).and_then(|index| index.first_time()).is_some_and(|first| first < since)
            && last_time(&self.dir, first).is_none_or(|last| last < since)
        {
            self.coming.pop_front();
        }
        if let Some(first) = self.coming.front() {
            self.position = first.base;
        }
        if self.open_next()?
            && let Some(segment) = &mut self.segment
        {
            let offset = segment.index.seek(since);
            segment.skip_to(offset)?;
            self.position = segment.name.base + segment.offset();
            self.within = segment.offset() > 0 || segment.index.continues();
            self.settle_in();
        }
        Ok(())
    }

    /// The rest of the present segment is newer than `until`: goes on with the next one that begins before; that is one before which the clock went back.
    /// False: there is none.
    ///
    /// # Errors
    /// Those of reading the files.
    pub fn leave_newer(&mut self, until: u64) -> io::Result<bool> {
        let newer =
            |name: &SegmentName| head_of_index(&self.dir, *name).and_then(|index| index.first_time()).is_none_or(|first| first > until);
        while self.coming.front().is_some_and(newer) {
            self.coming.pop_front();
        }
        self.ready.clear();
        self.partial = Partial::default();
        self.segment = None;
        let found = self.open_next_quietly()?;
        if let Some(segment) = &self.segment {
            self.within = segment.index.continues();
        }
        Ok(found)
    }

    fn begin_before_the_end(&mut self, lines: usize) -> io::Result<()> {
        let mut missing = lines;
        for at in (0..self.coming.len()).rev() {
            let Some(mut segment) = Segment::open(&self.dir, self.coming[at])? else {
                // It was deleted a moment ago, so everything before it, too.
                self.coming.drain(..=at);
                break;
            };
            match find_last(&mut segment, missing, at + 1 == self.coming.len())? {
                Found::Offset(offset) => {
                    self.coming.drain(..at);
                    self.position = self.coming[0].base;
                    self.open_next()?;
                    if let Some(segment) = &mut self.segment {
                        segment.skip_to(offset)?;
                        self.position = segment.name.base + segment.offset();
                        self.settle_in();
                    }
                    return Ok(());
                }
                Found::PassOver(lines) => {
                    self.coming.drain(..at);
                    self.pass_over = lines;
                    break;
                }
                Found::Only(lines) => missing -= lines,
            }
        }
        if let Some(first) = self.coming.front() {
            self.position = first.base;
        }
        Ok(())
    }

    /// After a jump within a segment: what the index says of before is dealt with.
    fn settle_in(&mut self) {
        let Some(segment) = &self.segment else { return };
        let offset = segment.offset();
        self.records = segment.index.records().partition_point(|record| record.offset < offset);
        self.told = 0;
        if let Some(at) = segment.index.time_at(offset) {
            self.at = at;
        }
    }

    /// There are segments that were not there before.
    pub fn add(&mut self, segments: &[Entry]) {
        let newest = self.coming.back().copied().or(self.segment.as_ref().map(|segment| segment.name));
        let newer = |name: &SegmentName| newest.map_or(name.base >= self.position, |newest| name.base > newest.base);
        self.coming.extend(segments.iter().map(|entry| entry.name).filter(|name| name.track == self.track).filter(newer));
    }

    /// The next line or gap; `None`: there is none now.
    ///
    /// # Errors
    /// Those of reading the files; the next call goes on behind what cannot be read.
    pub fn next_item(&mut self) -> io::Result<Option<Item>> {
        self.fresh = false;
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(Some(item));
            }
            if self.segment.is_none() && !self.open_next()? {
                return Ok(None);
            }
            if !self.read_on()? && self.ready.is_empty() && !self.leave_segment() {
                return Ok(None);
            }
        }
    }

    /// The line that has no end (yet), if the stream is not to go on.
    pub fn rest(&mut self) -> Option<Item> {
        if self.partial.bytes.is_empty() {
            return None;
        }
        self.push_line(false);
        self.ready.pop_front()
    }

    /// Whether nothing was read yet.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Whether the writer has said that the stream is over, and all was read.
    pub fn is_over(&self) -> bool {
        self.ended && self.ready.is_empty() && self.coming.is_empty()
    }

    /// Goes on at the end: whoever reads is too far behind. What is passed over is told.
    ///
    /// # Errors
    /// Those of reading the files.
    pub fn skip_to_end(&mut self, leave: u64) -> io::Result<()> {
        if let Some(last) = self.coming.pop_back() {
            self.coming.clear();
            self.coming.push_back(last);
            self.segment = None;
            let before = self.position;
            if !self.open_next_quietly()? {
                return Ok(());
            }
            self.position = before;
        }
        let Some(segment) = &mut self.segment else { return Ok(()) };
        let Some(length) = segment.raw_length()? else { return Ok(()) };
        let target = segment.name.base + length.saturating_sub(leave);
        if target <= self.position {
            return Ok(());
        }
        segment.read_index();
        segment.skip_to(target - segment.name.base)?;
        let dropped: u64 = self.ready.drain(..).map(|item| if let Item::Line(line) = item { line.bytes.len() as u64 + 1 } else { 0 }).sum();
        let bytes = target - self.position + dropped + self.partial.bytes.len() as u64;
        self.partial = Partial::default();
        self.position = target;
        self.within = true;
        self.settle_in();
        self.push_gap(bytes, GapCause::Skipped);
        Ok(())
    }

    /// Where in the track it is.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes between here and the end of the newest segment.
    pub fn behind(&self) -> u64 {
        let end = match (self.coming.back(), &self.segment) {
            (Some(last), _) => last.base,
            (None, Some(segment)) => segment.name.base + segment.raw_length().ok().flatten().unwrap_or(0),
            (None, None) => 0,
        };
        end.saturating_sub(self.position)
    }

    fn open_next(&mut self) -> io::Result<bool> {
        let before = self.position;
        if !self.open_next_quietly()? {
            return Ok(false);
        }
        if self.position > before {
            self.cut_partial();
            self.push_gap(self.position - before, GapCause::Deleted);
        }
        Ok(true)
    }

    /// Opens the next segment that is still there.
    fn open_next_quietly(&mut self) -> io::Result<bool> {
        while let Some(name) = self.coming.pop_front() {
            let Some(segment) = Segment::open(&self.dir, name)? else { continue };
            self.position = self.position.max(name.base);
            self.segment = Some(segment);
            self.records = 0;
            self.told = 0;
            return Ok(true);
        }
        Ok(false)
    }

    /// Reads a piece of the present segment; false: there is nothing more in it now.
    fn read_on(&mut self) -> io::Result<bool> {
        let Some(segment) = &mut self.segment else { return Ok(false) };
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(CHUNK, 0);
        let from = segment.offset();
        let length = match segment.read(&mut buffer) {
            Ok(length) => length,
            Err(error) => {
                self.pass_over_damage();
                return Err(error);
            }
        };
        // The writer writes the index first: what was read has its times now.
        segment.read_index();
        self.take(from, &buffer[..length]);
        self.buffer = buffer;
        Ok(length > 0)
    }

    /// Cuts bytes that begin at `from` in the segment, with what the index says of them.
    fn take(&mut self, from: u64, bytes: &[u8]) {
        let end = from + bytes.len() as u64;
        let mut done = from;
        let index = self.segment.as_mut().map(|segment| std::mem::take(&mut segment.index)).unwrap_or_default();
        while let Some(record) = index.records().get(self.records).filter(|record| record.offset <= end) {
            let piece = &bytes[usize_of(done.max(from) - from)..usize_of(record.offset.max(done) - from)];
            self.cut(piece);
            done = done.max(record.offset);
            match record.what {
                What::Time(at) | What::Continues(at) => self.at = at,
                What::Gap(missing) => {
                    if missing > self.told {
                        self.cut_partial();
                        self.push_gap(missing - self.told, GapCause::NotWritten);
                        self.told = missing;
                    }
                    // The last one may still grow.
                    if self.records + 1 == index.records().len() {
                        break;
                    }
                    self.told = 0;
                }
                What::End(_) => {
                    self.push_rest();
                    self.ended = true;
                }
            }
            self.records += 1;
        }
        self.cut(&bytes[usize_of(done - from)..]);
        if let Some(segment) = &mut self.segment {
            segment.index = index;
        }
    }

    fn cut(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            if self.within {
                self.position += piece.len() as u64;
                self.within = !ended;
                continue;
            }
            for part in text.chunks(LINE_MAX) {
                if self.partial.bytes.len() + part.len() > LINE_MAX {
                    self.push_line(true);
                }
                if self.partial.bytes.is_empty() {
                    (self.partial.position, self.partial.at) = (self.position, self.at);
                }
                self.partial.bytes.extend_from_slice(part);
                self.position += part.len() as u64;
            }
            if ended {
                if self.partial.bytes.is_empty() {
                    (self.partial.position, self.partial.at) = (self.position, self.at);
                }
                if self.partial.bytes.last() == Some(&b'\r') {
                    self.partial.bytes.pop();
                }
                self.push_line(false);
                self.position += 1;
            }
        }
    }

    fn push_line(&mut self, cut: bool) {
        let Partial { bytes, position, at } = std::mem::take(&mut self.partial);
        if self.pass_over > 0 {
            // A line in pieces is one line.
            self.pass_over -= usize::from(!cut);
            return;
        }
        if at < self.since {
            return;
        }
        self.ready.push_back(Item::Line(Line { service: Arc::clone(&self.dir.service), track: self.track, at, position, bytes, cut }));
    }

    fn push_rest(&mut self) {
        if !self.partial.bytes.is_empty() {
            self.push_line(false);
        }
    }

    fn cut_partial(&mut self) {
        if !self.partial.bytes.is_empty() {
            self.push_line(true);
        }
    }

    fn push_gap(&mut self, bytes: u64, cause: GapCause) {
        if self.at >= self.since {
            self.ready.push_back(Item::Gap(Gap { service: Arc::clone(&self.dir.service), track: self.track, at: self.at, bytes, cause }));
        }
    }

    /// The rest of the segment cannot be read.
    fn pass_over_damage(&mut self) {
        self.cut_partial();
        let read = self.segment.take().map_or(0, |segment| segment.name.base + segment.offset());
        // The next segment says where it begins; without one nobody knows how much is missing.
        let next = self.coming.front().map_or(read, |next| next.base);
        self.push_gap(next.saturating_sub(self.position), GapCause::Unreadable);
        self.position = self.position.max(next);
    }

    /// Goes on to the next segment, if there is one.
    fn leave_segment(&mut self) -> bool {
        if self.coming.is_empty() {
            return false;
        }
        self.segment = None;
        true
    }
}

enum Found {
    /// The wanted lines begin at this offset.
    Offset(u64),
    /// They are in this segment, behind so many lines.
    PassOver(usize),
    /// There are only so many lines that begin in this segment.
    Only(usize),
}

/// Looks for the beginning of the last `lines` lines. In the newest segment, what comes after the last end of line is a line as well.
fn find_last(segment: &mut Segment, lines: usize, newest: bool) -> io::Result<Found> {
    if let Some(length) = segment.raw_length()? {
        if newest && lines == 0 {
            return Ok(Found::Offset(length));
        }
        return find_last_raw(segment, length, lines, newest);
    }
    let mut buffer = vec![0; CHUNK];
    let (mut count, mut last) = (0, b'\n');
    loop {
        let length = segment.read(&mut buffer)?;
        let Some(byte) = buffer[..length].last() else { break };
        last = *byte;
        count += buffer[..length].split(|byte| *byte == b'\n').count() - 1;
    }
    count += usize::from(newest && last != b'\n');
    Ok(if count > lines { Found::PassOver(count - lines) } else { Found::Only(count) })
}

fn find_last_raw(segment: &Segment, length: u64, lines: usize, newest: bool) -> io::Result<Found> {
    let mut buffer = vec![0; CHUNK];
    let mut end = length;
    let mut count = 0;
    while end > 0 {
        let from = end.saturating_sub(CHUNK as u64);
        let piece = &mut buffer[..usize_of(end - from)];
        let read = segment.read_at(piece, from)?;
        for at in (0..read).rev() {
            if piece[at] != b'\n' {
                // The line without an end.
                count += usize::from(newest && from + at as u64 + 1 == length);
                continue;
            }
            if count >= lines {
                return Ok(Found::Offset(from + at as u64 + 1));
            }
            count += 1;
        }
        end = from;
    }
    Ok(Found::Only(count))
}

/// The first records of a segment's index.
fn head_of_index(dir: &ServiceDir, name: SegmentName) -> Option<Index> {
    let file = dir.open(name, crate::name::FileKind::Index).ok()?;
    let mut head = [0; 4 * crate::index::RECORD];
    let length = rustix::io::retry_on_intr(|| rustix::io::pread(&file, &mut head, 0)).ok()?;
    Some(Index::parse(&head[..length]))
}

/// When the last bytes of a segment were taken, as far as its index says; the index is not read for that.
fn last_time(dir: &ServiceDir, name: SegmentName) -> Option<u64> {
    const RECORD: u64 = crate::index::RECORD as u64;
    let file = dir.open(name, crate::name::FileKind::Index).ok()?;
    let whole = rustix::fs::fstat(&file).ok()?.st_size.cast_unsigned() / RECORD;
    let mut tail = [0; 4 * crate::index::RECORD];
    let length = rustix::io::retry_on_intr(|| rustix::io::pread(&file, &mut tail, whole.saturating_sub(4) * RECORD)).ok()?;
    Index::parse(&tail[..length]).records().iter().rev().find_map(crate::index::Record::at)
}

fn usize_of(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

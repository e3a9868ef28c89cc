//! Writes one stream of one generation: from its pipe into segments, without a copy through our memory.

use crate::directory::ServiceDir;
use crate::index::{INDEX_MAX, RECORD, Record, What};
use crate::name::{FileKind, SegmentName, Track};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;
use rustix::pipe::SpliceFlags;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Times in the index are at least so far apart, in nanoseconds: a service that writes without pause would fill the disk with times.
const TIME_STEP: u64 = 1_000_000;
/// A clock that went back by more begins a new segment; by less, the time stands still for so long.
const CLOCK_SLACK: u64 = 1_000_000_000;
/// Bytes of the index for which there is room on the disk from its beginning: that the disk is full can be written down when it is.
const INDEX_ROOM: u64 = 4096;
/// After a failure to write, it is tried again after so long.
pub const RETRY: std::time::Duration = std::time::Duration::from_millis(200);
/// Bytes per read of what cannot be spliced.
const CHUNK: usize = 64 * 1024;

/// How a writer writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriterOptions {
    /// A segment of so many bytes is closed.
    pub segment: u64,
    /// What cannot be written stays in the pipe until it can, and the service waits; else it is dropped and counted.
    pub block: bool,
}

/// What came of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The pipe is empty.
    Empty,
    /// The budget is used up, and there may be more.
    More,
    /// The stream has ended.
    Ended,
    /// It cannot be written, and is not to be dropped: try again after [`RETRY`].
    Blocked,
}

/// What a turn did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// How it ended.
    pub turn: Turn,
    /// Bytes that were written.
    pub written: u64,
    /// Bytes that were dropped.
    pub dropped: u64,
    /// A segment was begun, closed or ended.
    pub files: bool,
    /// Trouble that began in this turn: this call failed.
    pub trouble: Option<(&'static str, Errno)>,
    /// Trouble that ended in this turn: so many bytes are missing.
    pub recovered: Option<u64>,
}

/// One stream of one generation.
#[derive(Debug)]
pub struct Writer {
    dir: Arc<ServiceDir>,
    track: Track,
    options: WriterOptions,
    /// Bytes of the track in the segments before.
    base: u64,
    segment: Option<Segment>,
    /// The last byte of the segment before, if there is one, was no end of line.
    within_line: bool,
    trouble: Option<Trouble>,
}

/// The segment that is written.
#[derive(Debug)]
struct Segment {
    size: u64,
    /// Bytes of the index; whole records.
    index: u64,
    last_time: u64,
    /// `None` while they are closed, because there are many.
    files: Option<Files>,
}

#[derive(Debug)]
struct Files {
    log: OwnedFd,
    index: OwnedFd,
}

/// Writing fails.
#[derive(Debug)]
struct Trouble {
    since: u64,
    tried: u64,
    dropped: u64,
    /// Where in the index the count stands, if it could be written.
    record: Option<u64>,
}

type Failed = (&'static str, Errno);

impl Writer {
    /// Goes on where the last writer of this track ended, or begins. Makes no file before there is something to write.
    ///
    /// # Errors
    /// The call that failed.
    pub fn open(dir: Arc<ServiceDir>, track: Track, options: WriterOptions) -> Result<Self, (&'static str, Errno)> {
        let entries = dir.entries().map_err(|error| match error {
            crate::DirectoryError::Call(call, _, error) => (call, error),
            _ => ("readdir", Errno::IO),
        })?;
        let newest = entries.into_iter().filter(|entry| entry.name.track == track).max_by_key(|entry| entry.name.base);
        let mut writer = Self { dir, track, options, base: 0, segment: None, within_line: false, trouble: None };
        if let Some(newest) = newest {
            writer.base = newest.name.base;
            if newest.packed {
                writer.base += crate::segment::packed_length(&writer.dir, newest.name)?;
            } else {
                writer.resume()?;
            }
        }
        Ok(writer)
    }

    /// The segment that is open, if there is one.
    pub fn current(&self) -> Option<SegmentName> {
        self.segment.as_ref().map(|_| self.name())
    }

    /// Which stream it writes.
    pub fn track(&self) -> Track {
        self.track
    }

    /// The directory that it writes into.
    pub fn directory(&self) -> &Arc<ServiceDir> {
        &self.dir
    }

    /// Whether it has files open.
    pub fn has_files(&self) -> bool {
        self.segment.as_ref().is_some_and(|segment| segment.files.is_some())
    }

    /// Closes its files; they are opened again when there is something to write.
    pub fn close_files(&mut self) {
        if let Some(segment) = &mut self.segment {
            segment.files = None;
        }
    }

    /// Writes differently from now on.
    pub fn set_options(&mut self, options: WriterOptions) {
        self.options = options;
    }

    fn name(&self) -> SegmentName {
        SegmentName { track: self.track, base: self.base }
    }

    /// Moves at most `budget` bytes from `pipe` (non-blocking). `now` in nanoseconds since 1970.
    pub fn turn(&mut self, pipe: impl AsFd, budget: u64, now: u64) -> Moved {
        let mut moved = Moved { turn: Turn::More, written: 0, dropped: 0, files: false, trouble: None, recovered: None };
        let pipe = pipe.as_fd();
        while moved.written + moved.dropped < budget {
            let left = budget - moved.written - moved.dropped;
            if let Some(trouble) = &self.trouble
                && now.saturating_sub(trouble.tried) < RETRY.as_nanos() as u64
                && now >= trouble.tried
            {
                match self.give_up(pipe, left, &mut moved) {
                    Some(turn) => {
                        moved.turn = turn;
                        break;
                    }
                    None => continue,
                }
            }
            match self.write(pipe, left, now, &mut moved) {
                Ok(None) => {}
                Ok(Some(turn)) => {
                    moved.turn = turn;
                    break;
                }
                Err(failed) => self.fail(failed, now, &mut moved),
            }
        }
        moved
    }

    /// Moves bytes into the segment; `None`: there may be more.
    fn write(&mut self, pipe: BorrowedFd<'_>, left: u64, now: u64, moved: &mut Moved) -> Result<Option<Turn>, Failed> {
        if let Some(turn) = self.make_room(pipe, now, moved)? {
            return Ok(Some(turn));
        }
        // In trouble the bytes go first: nobody knows whether this try succeeds, and each failed one would leave a time.
        if self.trouble.is_none() {
            self.stamp(now)?;
        }
        let Some(segment) = &mut self.segment else { return Err(("open", Errno::BADF)) };
        let Some(files) = &segment.files else { return Err(("open", Errno::BADF)) };
        let length = usize::try_from(left.min(self.options.segment.saturating_sub(segment.size)).max(1)).unwrap_or(usize::MAX);
        let mut offset = segment.size;
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        let mut lost = 0;
        let result = match rustix::pipe::splice(pipe, None, &files.log, Some(&mut offset), length, flags) {
            Err(Errno::INVAL) => copy(pipe, files.log.as_fd(), offset, length, &mut lost),
            result => result,
        };
        if lost > 0 {
            self.lose(lost, now, moved);
            return Ok(None);
        }
        match result {
            Ok(0) => {
                self.end(now, moved);
                Ok(Some(Turn::Ended))
            }
            Ok(bytes) => {
                segment.size += bytes as u64;
                moved.written += bytes as u64;
                if self.trouble.is_some() {
                    self.recover(bytes as u64, now, moved);
                }
                Ok(None)
            }
            // EIO of a pseudo-terminal: nobody has its other side any more.
            Err(Errno::IO) if rustix::termios::isatty(pipe) => {
                self.end(now, moved);
                Ok(Some(Turn::Ended))
            }
            Err(Errno::AGAIN) => Ok(Some(Turn::Empty)),
            Err(Errno::INTR) => Ok(None),
            // A limit on the size of files: a new file may be written.
            Err(Errno::FBIG) if segment.size > 0 => {
                self.close(moved);
                Ok(None)
            }
            Err(error) => Err(("splice", error)),
        }
    }

    /// A segment that is open and takes more. Makes a file only if there is something to write; what there is else is returned.
    fn make_room(&mut self, pipe: BorrowedFd<'_>, now: u64, moved: &mut Moved) -> Result<Option<Turn>, Failed> {
        let full = self.segment.as_ref().is_none_or(|segment| {
            let clock_went_back = segment.last_time > now.saturating_add(CLOCK_SLACK);
            segment.size >= self.options.segment || segment.index >= INDEX_MAX || (clock_went_back && segment.size > 0)
        });
        if full {
            let mut fds = [PollFd::from_borrowed_fd(pipe, PollFlags::IN)];
            rustix::event::poll(&mut fds, Some(&Timespec::default())).map_err(|error| ("poll", error))?;
            let there = fds[0].revents();
            if !there.contains(PollFlags::IN) {
                if there.intersects(PollFlags::HUP | PollFlags::ERR) {
                    self.end(now, moved);
                    return Ok(Some(Turn::Ended));
                }
                return Ok(Some(Turn::Empty));
            }
            self.close(moved);
            self.begin(now, moved)?;
        } else if !self.has_files() {
            self.resume()?;
        }
        Ok(None)
    }

    fn begin(&mut self, now: u64, moved: &mut Moved) -> Result<(), Failed> {
        let name = self.name();
        let create = OFlags::CREATE | OFlags::RDWR;
        let index = self.dir.open_with(name, FileKind::Index, create).map_err(|error| ("open", error))?;
        // Not every file system can; then that the disk is full is written down when it is over.
        let _ = rustix::fs::fallocate(&index, FallocateFlags::KEEP_SIZE, 0, INDEX_ROOM);
        drop(index);
        drop(self.dir.open_with(name, FileKind::Raw, create).map_err(|error| ("open", error))?);
        self.resume()?;
        moved.files = true;
        if let Some(segment) = &mut self.segment
            && self.within_line
            && segment.index == 0
        {
            segment.append(&[Record { offset: 0, what: What::Continues(now) }])?;
            segment.last_time = now;
        }
        Ok(())
    }

    /// Opens the files of the present segment again.
    fn resume(&mut self) -> Result<(), Failed> {
        let name = self.name();
        let log = self.dir.open_with(name, FileKind::Raw, OFlags::RDWR).map_err(|error| ("open", error))?;
        let index = self.dir.open_with(name, FileKind::Index, OFlags::RDWR | OFlags::CREATE).map_err(|error| ("open", error))?;
        let stat = |file: &OwnedFd| rustix::fs::fstat(file).map(|stat| stat.st_size.unsigned_abs()).map_err(|error| ("fstat", error));
        let (size, written) = (stat(&log)?, stat(&index)?);
        // A torn record at the end is written over.
        let whole = written - written % RECORD as u64;
        let last_two = whole.saturating_sub(2 * RECORD as u64);
        let mut bytes = [0; 2 * RECORD];
        let length = rustix::io::pread(&index, &mut bytes, last_two).map_err(|error| ("pread", error))?;
        let records: Vec<Record> = bytes[..length].chunks_exact(RECORD).filter_map(Record::decode).collect();
        let last_time = records.iter().rev().find_map(Record::at).unwrap_or(0);
        // Bytes were dropped to the end: if it goes on, that count goes on.
        if let (None, Some(Record { offset, what: What::Gap(dropped) })) = (&self.trouble, records.last())
            && *offset == size
        {
            let record = Some(whole - RECORD as u64);
            self.trouble = Some(Trouble { since: last_time, tried: 0, dropped: *dropped, record });
        }
        self.segment = Some(Segment { size, index: whole, last_time, files: Some(Files { log, index }) });
        Ok(())
    }

    /// Writes down the time of the bytes that come next.
    fn stamp(&mut self, now: u64) -> Result<(), Failed> {
        let Some(segment) = &mut self.segment else { return Ok(()) };
        if segment.index > 0 && now < segment.last_time.saturating_add(TIME_STEP) {
            return Ok(());
        }
        segment.append(&[Record { offset: segment.size, what: What::Time(now) }])?;
        segment.last_time = now;
        Ok(())
    }

    /// Closes the segment; the next bytes begin another.
    fn close(&mut self, moved: &mut Moved) {
        let Some(segment) = self.segment.take() else { return };
        if segment.size == 0 {
            let stem = self.name().stem();
            for kind in [FileKind::Raw, FileKind::Index] {
                // It is empty: if it stays, nothing is wrong but its being there.
                let _ = self.dir.unlink(&format!("{stem}{}", kind.ending()));
            }
        } else {
            let mut last = [b'\n'];
            if let Some(files) = &segment.files {
                let _ = rustix::io::pread(&files.log, &mut last, segment.size - 1);
            }
            self.within_line = last != *b"\n";
        }
        self.base += segment.size;
        moved.files = true;
    }

    /// The stream is over.
    fn end(&mut self, now: u64, moved: &mut Moved) {
        if let Some(trouble) = self.trouble.take() {
            self.note(&trouble);
            moved.recovered = Some(trouble.dropped);
        }
        if let Some(segment) = &mut self.segment {
            // Without it a reader waits for the rest of the last line, and nothing else is lost.
            let _ = segment.append(&[Record { offset: segment.size, what: What::End(now.max(segment.last_time)) }]);
        }
        self.close(moved);
    }

    fn fail(&mut self, failed: Failed, now: u64, moved: &mut Moved) {
        if let Some(trouble) = &mut self.trouble {
            trouble.tried = now;
        } else {
            moved.trouble = Some(failed);
            self.trouble = Some(Trouble { since: now, tried: now, dropped: 0, record: None });
        }
    }

    /// These bytes are out of the pipe and not in the file.
    fn lose(&mut self, bytes: u64, now: u64, moved: &mut Moved) {
        self.fail(("pwrite", Errno::NOSPC), now, moved);
        moved.dropped += bytes;
        if let Some(mut trouble) = self.trouble.take() {
            trouble.dropped += bytes;
            trouble.record = self.note(&trouble);
            self.trouble = Some(trouble);
        }
    }

    /// It cannot be written now: leaves it, or drops it. `None`: there may be more.
    fn give_up(&mut self, pipe: BorrowedFd<'_>, left: u64, moved: &mut Moved) -> Option<Turn> {
        if self.options.block {
            return Some(Turn::Blocked);
        }
        let turn = match drop_from(pipe, left) {
            Ok(0) => {
                let at = self.trouble.as_ref().map_or(0, |trouble| trouble.tried);
                self.end(at, moved);
                return Some(Turn::Ended);
            }
            Ok(bytes) => {
                moved.dropped += bytes as u64;
                if let Some(trouble) = &mut self.trouble {
                    trouble.dropped += bytes as u64;
                }
                None
            }
            Err(Errno::INTR) => None,
            Err(_) => Some(Turn::Empty),
        };
        if let Some(mut trouble) = self.trouble.take() {
            trouble.record = self.note(&trouble);
            self.trouble = Some(trouble);
        }
        turn
    }

    /// Writes down how much is missing, in its place; where that is, if it worked.
    fn note(&mut self, trouble: &Trouble) -> Option<u64> {
        let segment = self.segment.as_mut()?;
        if trouble.dropped == 0 {
            return None;
        }
        let gap = Record { offset: segment.size, what: What::Gap(trouble.dropped) };
        if let (Some(place), Some(files)) = (trouble.record, &segment.files) {
            // In its place there is room.
            let _ = rustix::io::pwrite(&files.index, &gap.encode(), place);
            return Some(place);
        }
        let since = Record { offset: segment.size, what: What::Time(trouble.since.max(segment.last_time)) };
        segment.append(&[since, gap]).ok()?;
        Some(segment.index - RECORD as u64)
    }

    /// It can be written again: `bytes` went into the segment before anything was written down.
    fn recover(&mut self, bytes: u64, now: u64, moved: &mut Moved) {
        let Some(trouble) = self.trouble.take() else { return };
        let Some(segment) = &mut self.segment else { return };
        segment.size -= bytes;
        self.note(&trouble);
        if let Some(segment) = &mut self.segment {
            if segment.append(&[Record { offset: segment.size, what: What::Time(now.max(segment.last_time)) }]).is_ok() {
                segment.last_time = now.max(segment.last_time);
            }
            segment.size += bytes;
        }
        moved.recovered = Some(trouble.dropped);
    }
}

impl Segment {
    /// Appends to the index, all or nothing.
    fn append(&mut self, records: &[Record]) -> Result<(), Failed> {
        let Some(files) = &self.files else { return Err(("write", Errno::BADF)) };
        let bytes: Vec<u8> = records.iter().flat_map(|record| record.encode()).collect();
        match rustix::io::pwrite(&files.index, &bytes, self.index) {
            Ok(written) if written == bytes.len() => {
                self.index += written as u64;
                Ok(())
            }
            Ok(_) => {
                // What is torn is no record; the next one is written over it.
                let _ = rustix::fs::ftruncate(&files.index, self.index);
                Err(("pwrite", Errno::NOSPC))
            }
            Err(error) => Err(("pwrite", error)),
        }
    }
}

/// For what cannot be spliced (a pseudo-terminal): through our memory. What was read and cannot be written is counted in `lost`, and none
/// of it counts as written.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, offset: u64, length: usize, lost: &mut u64) -> Result<usize, Errno> {
    let mut chunk = vec![0; length.min(CHUNK)];
    let read = rustix::io::read(from, &mut *chunk)?;
    let mut done = 0;
    while done < read {
        match rustix::io::pwrite(to, &chunk[done..read], offset + done as u64) {
            Ok(written) => done += written,
            Err(Errno::INTR) => {}
            Err(error) => {
                *lost = read as u64;
                return Err(error);
            }
        }
    }
    Ok(read)
}

/// Takes bytes from a pipe and leaves them to nobody.
fn drop_from(pipe: BorrowedFd<'_>, length: u64) -> Result<usize, Errno> {
    let mut chunk = vec![0; CHUNK];
    let length = usize::try_from(length).unwrap_or(CHUNK).min(CHUNK);
    rustix::io::read(pipe, &mut chunk[..length])
}

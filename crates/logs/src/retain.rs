//! What is kept: the limits of size and age, and the compression of closed segments.

use crate::directory::{DirectoryError, ServiceDir};
use crate::name::{FileKind, SegmentName};
use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::fs::{AtFlags, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::time::Duration;

/// Ending of a compressed file that is being written.
const UNFINISHED: &str = ".log.gz.new";
/// What is smaller gains nothing by being compressed: a file takes whole blocks of the disk.
const WORTHWHILE: u64 = 8 * 1024;
/// Segments of a service at most: one that crashes for ever with a few lines each time must not fill the disk with files.
const SEGMENTS_MAX: usize = 512;

/// How much of a service's output is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes on disk. Segments that are written count and stay.
    pub max_size: u64,
    /// Age at which a segment goes, counted from its last byte.
    pub max_age: Option<Duration>,
}

/// A segment and what it takes.
struct Kept {
    name: SegmentName,
    bytes: u64,
    /// Last byte (unix s).
    changed: i64,
}

/// Deletes the oldest segments beyond the limits, but none of `open`; how many. `now` in nanoseconds since 1970.
///
/// # Errors
/// [`DirectoryError::Call`].
pub fn apply(dir: &ServiceDir, limits: Limits, open: &BTreeSet<SegmentName>, now: u64) -> Result<usize, DirectoryError> {
    let mut kept = Vec::new();
    for entry in dir.entries()? {
        let kind = if entry.packed { FileKind::Packed } else { FileKind::Raw };
        let file = |kind: FileKind| format!("{}{}", entry.name.stem(), kind.ending());
        let stat = |kind| rustix::fs::statat(&dir.directory, file(kind), AtFlags::SYMLINK_NOFOLLOW);
        // What vanishes meanwhile was compressed: it counts the next time.
        let Ok(log) = stat(kind) else { continue };
        let index = stat(FileKind::Index).map_or(0, |stat| stat.st_size.unsigned_abs());
        kept.push(Kept { name: entry.name, bytes: log.st_size.unsigned_abs() + index, changed: log.st_mtime });
    }
    // By their last byte: of two generations that ran side by side neither is older than the other.
    kept.sort_by_key(|kept| (kept.changed, kept.name));
    let mut total: u64 = kept.iter().map(|kept| kept.bytes).sum();
    let (mut count, mut deleted) = (kept.len(), 0);
    let oldest = limits.max_age.map(|age| i64::try_from((now / 1_000_000_000).saturating_sub(age.as_secs())).unwrap_or(i64::MAX));
    for segment in kept {
        let too_old = oldest.is_some_and(|oldest| segment.changed < oldest);
        if open.contains(&segment.name) || !(total > limits.max_size || count > SEGMENTS_MAX || too_old) {
            continue;
        }
        delete(dir, segment.name);
        total -= segment.bytes;
        count -= 1;
        deleted += 1;
    }
    Ok(deleted)
}

fn delete(dir: &ServiceDir, name: SegmentName) {
    // The bytes first: an index without them is nothing, and the next round of cleaning takes it.
    for kind in [FileKind::Raw, FileKind::Packed, FileKind::Index] {
        let _ = dir.unlink(&format!("{}{}", name.stem(), kind.ending()));
    }
}

/// Compresses the segments that are raw, not `open`, and got their last byte `quiet` ago or earlier; how many, and whether there are raw
/// ones that are not quiet yet. Removes what a crash left behind.
///
/// # Errors
/// [`DirectoryError::Call`]. A segment that cannot be compressed stays as it is.
pub fn compress(
    dir: &ServiceDir,
    is_open: impl Fn(SegmentName) -> bool,
    quiet: Duration,
    now: u64,
) -> Result<(usize, bool), DirectoryError> {
    remove_leftovers(dir)?;
    let (mut done, mut more) = (0, false);
    for entry in dir.entries()?.into_iter().filter(|entry| !entry.packed && !is_open(entry.name)) {
        let Ok(raw) = dir.open(entry.name, FileKind::Raw) else { continue };
        let Ok(stat) = rustix::fs::fstat(&raw) else { continue };
        if stat.st_size.unsigned_abs() < WORTHWHILE {
            continue;
        }
        if stat.st_mtime.unsigned_abs() + quiet.as_secs() > now / 1_000_000_000 {
            more = true;
            continue;
        }
        let times = Timestamps {
            last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: 0 },
            last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: 0 },
        };
        if pack(dir, entry.name, File::from(raw), &times).is_ok() {
            done += 1;
        }
    }
    Ok((done, more))
}

fn pack(dir: &ServiceDir, name: SegmentName, mut raw: File, times: &Timestamps) -> io::Result<()> {
    let unfinished = format!("{}{UNFINISHED}", name.stem());
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let packed = rustix::fs::openat(&dir.directory, &*unfinished, flags, crate::directory::PRIVATE_FILE)?;
    let mut encoder = GzEncoder::new(io::BufWriter::new(File::from(packed)), Compression::fast());
    let written = (|| {
        io::copy(&mut raw, &mut encoder)?;
        let file = encoder.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        // Its age stays that of the bytes. And it has to be on the disk before the raw one goes.
        rustix::fs::futimens(&file, times)?;
        file.sync_data()?;
        // Deleted meanwhile by the limits: it must not come back.
        rustix::fs::statat(&dir.directory, format!("{}{}", name.stem(), FileKind::Raw.ending()), AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::renameat(&dir.directory, &*unfinished, &dir.directory, format!("{}{}", name.stem(), FileKind::Packed.ending()))?;
        io::Result::Ok(())
    })();
    match written {
        Ok(()) => Ok(dir.unlink(&format!("{}{}", name.stem(), FileKind::Raw.ending()))?),
        Err(error) => {
            let _ = dir.unlink(&unfinished);
            Err(error)
        }
    }
}

/// What a crash can leave: half a compressed file, a raw one beside its whole compressed one, an index without bytes.
fn remove_leftovers(dir: &ServiceDir) -> Result<(), DirectoryError> {
    let (mut unfinished, mut packed, mut raw) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    dir.each_file(|file, parsed| match parsed {
        Some((name, FileKind::Packed)) => drop(packed.insert(name)),
        Some((name, FileKind::Raw)) => drop(raw.insert(name)),
        None if file.ends_with(UNFINISHED) => unfinished.push(file.to_owned()),
        Some((_, FileKind::Index)) | None => {}
    })?;
    let doubled = raw.intersection(&packed).map(|name| format!("{}{}", name.stem(), FileKind::Raw.ending()));
    for file in unfinished.into_iter().chain(doubled) {
        match dir.unlink(&file) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(DirectoryError::Call("unlink", dir.path.join(file), error)),
        }
    }
    Ok(())
}

//! A segment opened for reading, raw or compressed.

use crate::directory::ServiceDir;
use crate::index::Index;
use crate::name::{FileKind, SegmentName};
use flate2::read::MultiGzDecoder;
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;

/// Bytes read from a compressed file at once.
const PACKED_CHUNK: usize = 32 * 1024;

/// An open segment.
pub struct Segment {
    /// Which.
    pub name: SegmentName,
    source: Source,
    /// Offset of the next byte.
    offset: u64,
    index_file: Option<OwnedFd>,
    /// Its index as far as it was read.
    pub index: Index,
}

enum Source {
    Raw(OwnedFd),
    Packed(Box<MultiGzDecoder<io::BufReader<File>>>),
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segment").field("name", &self.name).field("offset", &self.offset).finish_non_exhaustive()
    }
}

impl Segment {
    /// Opens it. `None`: it is gone.
    ///
    /// # Errors
    /// Those of `open(2)` but `ENOENT`.
    pub fn open(dir: &ServiceDir, name: SegmentName) -> io::Result<Option<Self>> {
        let source = match dir.open(name, FileKind::Raw) {
            Ok(file) => Source::Raw(file),
            Err(Errno::NOENT) => match dir.open(name, FileKind::Packed) {
                Ok(file) => Source::Packed(Box::new(unpack(file))),
                Err(Errno::NOENT) => return Ok(None),
                Err(error) => return Err(error.into()),
            },
            Err(error) => return Err(error.into()),
        };
        // Without an index there are no times; the lines are there all the same.
        let index_file = dir.open(name, FileKind::Index).ok();
        let mut segment = Self { name, source, offset: 0, index_file, index: Index::default() };
        segment.read_index();
        Ok(Some(segment))
    }

    /// Reads what the index has got meanwhile. To be called after the bytes that it is to say something about were read: the writer writes
    /// the index first.
    pub fn read_index(&mut self) {
        let Some(file) = &self.index_file else { return };
        let mut chunk = [0; 4096];
        loop {
            let from = self.index.wants();
            let Ok(length) = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut chunk, from)) else { return };
            self.index.extend(&chunk[..length]);
            if length < chunk.len() {
                return;
            }
        }
    }

    /// Offset of the next byte.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether it may still grow.
    pub fn is_raw(&self) -> bool {
        matches!(self.source, Source::Raw(_))
    }

    /// Length of a raw one now.
    ///
    /// # Errors
    /// Those of `fstat(2)`.
    pub fn raw_length(&self) -> io::Result<Option<u64>> {
        match &self.source {
            Source::Raw(file) => Ok(Some(rustix::fs::fstat(file)?.st_size.unsigned_abs())),
            Source::Packed(_) => Ok(None),
        }
    }

    /// Reads on; 0: there is nothing more now.
    ///
    /// # Errors
    /// Those of `pread(2)`; [`io::ErrorKind::InvalidData`] and the like if a compressed one is damaged.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = match &mut self.source {
            Source::Raw(file) => rustix::io::retry_on_intr(|| rustix::io::pread(&*file, &mut *buffer, self.offset))?,
            Source::Packed(decoder) => loop {
                match decoder.read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    result => break result?,
                }
            },
        };
        self.offset += length as u64;
        Ok(length)
    }

    /// Reads these bytes of a raw one, without moving.
    ///
    /// # Errors
    /// Those of `pread(2)`; [`io::ErrorKind::Unsupported`] if it is compressed.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match &self.source {
            Source::Raw(file) => Ok(rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut *buffer, offset))?),
            Source::Packed(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Goes on at `offset`, which is not before the present one if it is compressed.
    ///
    /// # Errors
    /// As [`Segment::read`].
    pub fn skip_to(&mut self, offset: u64) -> io::Result<()> {
        if let Source::Raw(_) = self.source {
            self.offset = offset;
            return Ok(());
        }
        let mut buffer = vec![0; 64 * 1024];
        while self.offset < offset {
            let left = usize::try_from(offset - self.offset).unwrap_or(usize::MAX).min(buffer.len());
            if self.read(&mut buffer[..left])? == 0 {
                break;
            }
        }
        Ok(())
    }
}

fn unpack(file: OwnedFd) -> MultiGzDecoder<io::BufReader<File>> {
    MultiGzDecoder::new(io::BufReader::with_capacity(PACKED_CHUNK, File::from(file)))
}

/// Length of a compressed segment when it is not. RFC 1952 puts it at the end, modulo 2^32; no segment is that long.
pub(crate) fn packed_length(dir: &ServiceDir, name: SegmentName) -> Result<u64, (&'static str, Errno)> {
    let file = dir.open(name, FileKind::Packed).map_err(|error| ("open", error))?;
    let size = rustix::fs::fstat(&file).map_err(|error| ("fstat", error))?.st_size.unsigned_abs();
    let mut last = [0; 4];
    let from = size.checked_sub(4).ok_or(("fstat", Errno::INVAL))?;
    rustix::io::pread(&file, &mut last, from).map_err(|error| ("pread", error))?;
    Ok(u64::from(u32::from_le_bytes(last)))
}

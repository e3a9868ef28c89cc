//! The few things that a configuration wants from the system, behind a trait: everything else in this crate is pure.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// What configurations are read from.
pub trait Files {
    /// The first `most` + 1 bytes of a regular file, and whose it is. Never blocks.
    ///
    /// # Errors
    /// Those of open(2) and read(2); [`io::ErrorKind::IsADirectory`] and [`io::ErrorKind::InvalidInput`] for what is no regular file.
    fn read(&self, path: &Path, most: usize) -> io::Result<(Vec<u8>, Facts)>;

    /// Whose it is; links are followed.
    ///
    /// # Errors
    /// Those of stat(2).
    fn facts(&self, path: &Path) -> io::Result<Facts>;

    /// The path without links, `.` and `..`.
    ///
    /// # Errors
    /// Those of realpath(3).
    fn canonical(&self, path: &Path) -> io::Result<PathBuf>;
}

/// Whose a file is, and who may write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// It is a directory.
    pub directory: bool,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permission bits, with the sticky bit.
    pub mode: u32,
}

/// The files of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path, most: usize) -> io::Result<(Vec<u8>, Facts)> {
        use rustix::fs::{FileType, Mode, OFlags};
        use std::io::Read as _;
        // Without NONBLOCK the open of a pipe waits for a writer.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = rustix::fs::open(path, flags, Mode::empty())?;
        let status = rustix::fs::fstat(&file)?;
        match FileType::from_raw_mode(status.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Err(io::ErrorKind::IsADirectory.into()),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")),
        }
        let mut bytes = Vec::new();
        std::fs::File::from(file).take(most as u64 + 1).read_to_end(&mut bytes)?;
        Ok((bytes, facts(&status)))
    }

    fn facts(&self, path: &Path) -> io::Result<Facts> {
        Ok(facts(&rustix::fs::stat(path)?))
    }

    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        std::fs::canonicalize(path)
    }
}

fn facts(status: &rustix::fs::Stat) -> Facts {
    Facts {
        directory: rustix::fs::FileType::from_raw_mode(status.st_mode).is_dir(),
        uid: status.st_uid,
        gid: status.st_gid,
        mode: status.st_mode & 0o7777,
    }
}

/// Files in memory, all of them root's and closed to others unless said otherwise; for tests and for what is not on the disk.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    files: BTreeMap<PathBuf, (Vec<u8>, Facts)>,
    facts: BTreeMap<PathBuf, Facts>,
}

impl Memory {
    /// What a file of root's has.
    const CLOSED: Facts = Facts { directory: false, uid: 0, gid: 0, mode: 0o644 };

    /// With one more file.
    #[must_use]
    pub fn with(mut self, path: impl Into<PathBuf>, content: impl Into<Vec<u8>>) -> Self {
        self.files.insert(path.into(), (content.into(), Self::CLOSED));
        self
    }

    /// With this owner and mode for a file that it has, or for a directory.
    #[must_use]
    pub fn owned(mut self, path: impl Into<PathBuf>, uid: u32, mode: u32) -> Self {
        let path = path.into();
        match self.files.get_mut(&path) {
            Some((_, facts)) => *facts = Facts { uid, mode, ..*facts },
            None => {
                self.facts.insert(path, Facts { directory: true, uid, gid: 0, mode });
            }
        }
        self
    }
}

impl Files for Memory {
    fn read(&self, path: &Path, most: usize) -> io::Result<(Vec<u8>, Facts)> {
        let Some((content, facts)) = self.files.get(path) else {
            let below = self.files.keys().any(|file| file.starts_with(path));
            return Err(if below { io::ErrorKind::IsADirectory } else { io::ErrorKind::NotFound }.into());
        };
        Ok((content.iter().take(most + 1).copied().collect(), *facts))
    }

    fn facts(&self, path: &Path) -> io::Result<Facts> {
        if let Some((_, facts)) = self.files.get(path) {
            return Ok(*facts);
        }
        let below = self.files.keys().any(|file| file.starts_with(path));
        let plain = below.then_some(Facts { directory: true, uid: 0, gid: 0, mode: 0o755 });
        self.facts.get(path).copied().or(plain).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        let mut clean = PathBuf::new();
        for part in path.components() {
            match part {
                std::path::Component::ParentDir => {
                    clean.pop();
                }
                std::path::Component::CurDir => {}
                part => clean.push(part),
            }
        }
        Ok(clean)
    }
}

//! The directories: made and opened without following links, ours alone and closed to others, or refused.

use crate::name::{FileKind, SegmentName, is_service};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const PRIVATE_DIRECTORY: Mode = Mode::RWXU;
pub(crate) const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::RDONLY).union(OFlags::CLOEXEC);
/// File in which the beginning of the present run stands.
const RUN: &str = "run";

/// Why a directory of logs cannot be used.
#[derive(Debug)]
pub enum DirectoryError {
    /// A call on this path failed.
    Call(&'static str, PathBuf, Errno),
    /// The path is not a directory of our own, closed to others: why.
    NotOurs(PathBuf, String),
    /// This cannot be the name of a service.
    Name(String),
}

impl std::fmt::Display for DirectoryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Call(call, path, error) => write!(f, "{call} {}: {error}", path.display()),
            Self::NotOurs(path, why) => write!(f, "{} is not a directory of our own: {why}", path.display()),
            Self::Name(name) => write!(f, "{name:?} cannot be the name of a service"),
        }
    }
}

impl std::error::Error for DirectoryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        if let Self::Call(_, _, error) = self { Some(error) } else { None }
    }
}

/// Where the logs of this user's instances are: `$XDG_STATE_HOME/stayput`, else for root `/var/log/stayput`, else
/// `~/.local/state/stayput`. `None`: there is no home directory either.
pub fn base() -> Option<PathBuf> {
    base_for(rustix::process::geteuid().is_root(), |name| std::env::var_os(name).map(PathBuf::from))
}

fn base_for(root: bool, variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    // The XDG specification: a path that is not absolute is to be ignored.
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    if let Some(state) = absolute("XDG_STATE_HOME") {
        return Some(state.join("stayput"));
    }
    if root { Some(PathBuf::from("/var/log/stayput")) } else { Some(absolute("HOME")?.join(".local/state/stayput")) }
}

/// Where the logs of an instance are unless its configuration says otherwise: `<base>/<instance>/logs`, for root `/var/log/stayput/<instance>`.
pub fn of_instance(instance: &str) -> Option<PathBuf> {
    let base = base()?;
    Some(if base == Path::new("/var/log/stayput") { base.join(instance) } else { base.join(instance).join("logs") })
}

/// The logs of an instance.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    directory: OwnedFd,
}

/// The logs of a service.
#[derive(Debug)]
pub struct ServiceDir {
    /// Name of the service.
    pub service: Arc<str>,
    /// Its path, for messages.
    pub path: PathBuf,
    pub(crate) directory: OwnedFd,
}

/// A segment as it lies there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Which segment.
    pub name: SegmentName,
    /// There is no raw file of it, only a compressed one.
    pub packed: bool,
}

impl Store {
    /// Opens it for writing; makes it and what is missing above it.
    ///
    /// # Errors
    /// [`DirectoryError`]; nothing is written into what is not ours.
    pub fn create(path: &Path) -> Result<Self, DirectoryError> {
        if let Some(parent) = path.parent() {
            make_all(parent)?;
        }
        match rustix::fs::mkdirat(rustix::fs::CWD, path, PRIVATE_DIRECTORY) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(DirectoryError::Call("mkdir", path.to_owned(), error)),
        }
        Self::open(path)
    }

    /// Opens it for reading.
    ///
    /// # Errors
    /// [`DirectoryError::Call`] with `NOENT`: there is none.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        if let Some(parent) = path.parent() {
            check_parent(parent)?;
        }
        Ok(Self { path: path.to_owned(), directory: open_directory(rustix::fs::CWD, path, path)? })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A run of the instance begins: what is written from now on belongs to it. `now` in nanoseconds since 1970.
    ///
    /// The time is kept in a file, so that a writer that comes later in the same run finds it ([`Store::run`]).
    ///
    /// # Errors
    /// [`DirectoryError::Call`] if it cannot be kept. Nothing of an earlier run is taken for it then.
    pub fn begin_run(&self, now: u64) -> Result<u64, DirectoryError> {
        let fail = |call, error| DirectoryError::Call(call, self.path.join(RUN), error);
        // Younger than any other, also if the clock was set back.
        let newest = self.services()?.into_iter().filter_map(|name| self.service(&name, false).ok()?.entries().ok()).flatten();
        let run = newest.map(|entry| entry.name.track.run + 1).max().map_or(now, |after| after.max(now));
        match rustix::fs::unlinkat(&self.directory, RUN, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(fail("unlink", error)),
        }
        let new = format!("{RUN}.new");
        let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, &*new, flags, PRIVATE_FILE).map_err(|error| fail("open", error))?;
        rustix::io::write(&file, format!("{run}\n").as_bytes()).map_err(|error| fail("write", error))?;
        rustix::fs::renameat(&self.directory, &*new, &self.directory, RUN).map_err(|error| fail("rename", error))?;
        Ok(run)
    }

    /// When the present run, or the last one, began; `None`: that is not known.
    pub fn run(&self) -> Option<u64> {
        let file = rustix::fs::openat(&self.directory, RUN, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut bytes = [0; 32];
        let length = rustix::io::read(&file, &mut bytes).ok()?;
        std::str::from_utf8(&bytes[..length]).ok()?.strip_suffix('\n')?.parse().ok()
    }

    /// The services that have logs, by name.
    ///
    /// # Errors
    /// [`DirectoryError::Call`].
    pub fn services(&self) -> Result<Vec<String>, DirectoryError> {
        let fail = |error| DirectoryError::Call("readdir", self.path.clone(), error);
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.directory).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            // Some file systems do not say what it is; opening it will.
            if is_service(name) && matches!(entry.file_type(), FileType::Directory | FileType::Unknown) {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The logs of a service; makes the directory if wanted.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub fn service(&self, name: &str, create: bool) -> Result<ServiceDir, DirectoryError> {
        if !is_service(name) {
            return Err(DirectoryError::Name(name.to_owned()));
        }
        let path = self.path.join(name);
        if create {
            match rustix::fs::mkdirat(&self.directory, name, PRIVATE_DIRECTORY) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(DirectoryError::Call("mkdir", path, error)),
            }
        }
        let directory = open_directory(&self.directory, Path::new(name), &path)?;
        Ok(ServiceDir { service: name.into(), path, directory })
    }
}

impl ServiceDir {
    /// Its segments, by name. A segment that is being compressed is there once.
    ///
    /// # Errors
    /// [`DirectoryError::Call`].
    pub fn entries(&self) -> Result<Vec<Entry>, DirectoryError> {
        let mut found: BTreeMap<SegmentName, bool> = BTreeMap::new();
        self.each_file(|_, parsed| {
            if let Some((name, kind)) = parsed {
                match kind {
                    FileKind::Raw => drop(found.insert(name, false)),
                    FileKind::Packed => drop(found.entry(name).or_insert(true)),
                    FileKind::Index => {}
                }
            }
        })?;
        Ok(found.into_iter().map(|(name, packed)| Entry { name, packed }).collect())
    }

    /// Calls `on` with each file's name and what it is.
    pub(crate) fn each_file(&self, mut on: impl FnMut(&str, Option<(SegmentName, FileKind)>)) -> Result<(), DirectoryError> {
        let fail = |error| DirectoryError::Call("readdir", self.path.clone(), error);
        for entry in rustix::fs::Dir::read_from(&self.directory).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            if let Ok(file) = entry.file_name().to_str() {
                on(file, FileKind::of(file));
            }
        }
        Ok(())
    }

    /// Opens a file of a segment for reading.
    pub(crate) fn open(&self, name: SegmentName, kind: FileKind) -> Result<OwnedFd, Errno> {
        self.open_with(name, kind, OFlags::RDONLY)
    }

    pub(crate) fn open_with(&self, name: SegmentName, kind: FileKind, flags: OFlags) -> Result<OwnedFd, Errno> {
        let file = format!("{}{}", name.stem(), kind.ending());
        rustix::fs::openat(&self.directory, file, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, PRIVATE_FILE)
    }

    pub(crate) fn unlink(&self, file: &str) -> Result<(), Errno> {
        rustix::fs::unlinkat(&self.directory, file, AtFlags::empty())
    }
}

/// Makes the directories that are missing, closed to others.
fn make_all(path: &Path) -> Result<(), DirectoryError> {
    match rustix::fs::mkdirat(rustix::fs::CWD, path, PRIVATE_DIRECTORY) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(Errno::NOENT) => {
            let Some(parent) = path.parent() else { return Err(DirectoryError::Call("mkdir", path.to_owned(), Errno::NOENT)) };
            make_all(parent)?;
            match rustix::fs::mkdirat(rustix::fs::CWD, path, PRIVATE_DIRECTORY) {
                Ok(()) | Err(Errno::EXIST) => Ok(()),
                Err(error) => Err(DirectoryError::Call("mkdir", path.to_owned(), error)),
            }
        }
        // A file system that may not be written says so for directories that are there, too.
        Err(_) if path.is_dir() => Ok(()),
        Err(error) => Err(DirectoryError::Call("mkdir", path.to_owned(), error)),
    }
}

/// Nobody but us and root may be able to rename what is in the parent: ours or root's, and not writable by others unless sticky.
fn check_parent(path: &Path) -> Result<(), DirectoryError> {
    let path = if path.as_os_str().as_bytes().is_empty() { Path::new(".") } else { path };
    let stat = rustix::fs::stat(path).map_err(|error| DirectoryError::Call("stat", path.to_owned(), error))?;
    if stat.st_uid != rustix::process::geteuid().as_raw() && stat.st_uid != 0 {
        return Err(DirectoryError::NotOurs(path.to_owned(), format!("it belongs to user id {}", stat.st_uid)));
    }
    if stat.st_mode & 0o022 != 0 && stat.st_mode & 0o1000 == 0 {
        return Err(DirectoryError::NotOurs(path.to_owned(), format!("others may write to it (mode {:04o})", stat.st_mode & 0o7777)));
    }
    Ok(())
}

fn open_directory(at: impl AsFd, name: &Path, path: &Path) -> Result<OwnedFd, DirectoryError> {
    let directory = rustix::fs::openat(at, name, DIRECTORY, Mode::empty()).map_err(|error| match error {
        // openat(2): a link with O_DIRECTORY | O_NOFOLLOW is ENOTDIR.
        Errno::NOTDIR | Errno::LOOP => DirectoryError::NotOurs(path.to_owned(), "it is a link or a file".to_owned()),
        error => DirectoryError::Call("open", path.to_owned(), error),
    })?;
    let stat = rustix::fs::fstat(&directory).map_err(|error| DirectoryError::Call("stat", path.to_owned(), error))?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(DirectoryError::NotOurs(path.to_owned(), format!("it belongs to user id {}", stat.st_uid)));
    }
    if stat.st_mode & 0o077 != 0 {
        let why = format!("others may enter it (mode {:04o}; chmod 700 closes it)", stat.st_mode & 0o7777);
        return Err(DirectoryError::NotOurs(path.to_owned(), why));
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    fn private() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o700)).tempdir().unwrap();
        let path = directory.path().join("state/web/logs");
        (directory, path)
    }

    #[test]
    fn where_logs_are() {
        let at = |root, state: Option<&str>, home: Option<&str>| {
            let variable = |name: &str| if name == "HOME" { home } else { state }.map(PathBuf::from);
            base_for(root, variable).map(|path| path.display().to_string())
        };
        assert_eq!(at(false, None, Some("/home/ann")).as_deref(), Some("/home/ann/.local/state/stayput"));
        assert_eq!(at(false, Some("/s"), Some("/home/ann")).as_deref(), Some("/s/stayput"));
        assert_eq!(at(false, Some("relative"), None), None);
        assert_eq!(at(true, None, Some("/root")).as_deref(), Some("/var/log/stayput"));
        assert_eq!(at(true, Some("/s"), None).as_deref(), Some("/s/stayput"));
    }

    #[test]
    fn what_is_made_is_closed_to_others() {
        let (_directory, path) = private();
        assert!(matches!(Store::open(&path), Err(DirectoryError::Call(_, _, Errno::NOENT))));
        let store = Store::create(&path).unwrap();
        store.service("web", true).unwrap();
        for made in [path.join("web"), path.clone(), path.parent().unwrap().to_owned()] {
            assert_eq!(std::fs::metadata(&made).unwrap().mode() & 0o7777, 0o700, "{}", made.display());
        }
        assert_eq!(store.services().unwrap(), ["web"]);
        assert!(matches!(store.service("../x", true), Err(DirectoryError::Name(_))));
    }

    #[test]
    fn links_and_open_doors_are_refused() {
        let (directory, path) = private();
        let elsewhere = directory.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        std::fs::set_permissions(&elsewhere, std::fs::Permissions::from_mode(0o700)).unwrap();
        let store = Store::create(&path).unwrap();
        symlink(&elsewhere, path.join("web")).unwrap();
        assert!(matches!(store.service("web", true), Err(DirectoryError::NotOurs(..))));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o750)).unwrap();
        assert!(matches!(Store::create(&path), Err(DirectoryError::NotOurs(..))));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::set_permissions(path.parent().unwrap(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(Store::create(&path), Err(DirectoryError::NotOurs(..))));
        assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0, "nothing was written through the link");
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused() {
        let (_directory, path) = private();
        let store = Store::create(&path).unwrap();
        drop(store.service("web", true).unwrap());
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(path.join("web"), Some(1001), None).unwrap();
            let error = store.service("web", true).unwrap_err();
            assert!(error.to_string().contains("belongs to user id 1001"), "{error}");
        } else {
            eprintln!("note: not root, so no directory could be given away");
        }
    }

    #[test]
    fn runs_are_counted_up_whatever_the_clock_says() {
        let (_directory, path) = private();
        let store = Store::create(&path).unwrap();
        assert_eq!(store.run(), None);
        assert_eq!(store.begin_run(100).unwrap(), 100);
        assert_eq!(store.run(), Some(100));
        let web = store.service("web", true).unwrap();
        std::fs::write(web.path.join("100-1-0-out.log"), "x").unwrap();
        assert_eq!(store.begin_run(50).unwrap(), 101);
        assert_eq!(store.run(), Some(101));
    }
}

//! Where a running instance can be found: one directory per instance with a lock and the control socket.
//!
//! ```text
//! <base>/            0700, ours
//! └─ web/            0700, ours; the name of the instance
//!    ├─ lock         held (flock) for the life of the instance; the guard's process id is written in it
//!    ├─ control.sock 0600, listening
//!    └─ dashboard.json 0600, if there is a dashboard: its tokens, and where it is
//! ```
//! The base is the first that applies: `$XDG_RUNTIME_DIR/stayput`; for root `/run/stayput`; else `/run/user/<uid>/stayput`, and
//! where there is no such directory `/tmp/stayput-<uid>`. For root an `XDG_RUNTIME_DIR` of `/run/user/0` does not count: it is
//! deleted when root logs out, and what root starts is meant to outlive that.
//!
//! Every level is opened without following links and must be ours and closed to others; somebody else's directory is refused, not
//! repaired. An instance lives exactly as long as its lock is held: the kernel releases it whatever way the holder dies, so a
//! directory without a lock holder is a leftover and is taken over.

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Name of the lock file.
pub const LOCK: &str = "lock";
/// Name of the control socket.
pub const CONTROL_SOCKET: &str = "control.sock";
/// Name of the file in which a dashboard keeps its tokens and says where it is.
pub const DASHBOARD: &str = "dashboard.json";
/// Name of the file in which the lives of an instance are told apart: it is there after one that was killed as a whole.
pub const LIVES: &str = "lives";
/// Longest name of an instance or service, in bytes: the socket's path must fit into `sun_path` (108 bytes, unix(7)).
pub const NAME_MAX: usize = 64;

const CONTROL_BACKLOG: i32 = 128;
const PRIVATE_DIRECTORY: Mode = Mode::RWXU;
const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Why a runtime directory cannot be used.
#[derive(Debug)]
pub enum RuntimeError {
    /// The name cannot be used, for this reason.
    Name(String, &'static str),
    /// A call on this path failed.
    Call(&'static str, PathBuf, Errno),
    /// The path is not a directory of our own, closed to others: why.
    NotOurs(PathBuf, String),
    /// An instance of this name runs; the process id of its guard, if it could be read.
    Running(String, Option<i32>),
    /// The path of the control socket is longer than a socket address can hold.
    PathTooLong(PathBuf),
}

impl std::fmt::Display for RuntimeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name, why) => write!(f, "{name:?} cannot be a name: {why}"),
            Self::Call(call, path, error) => write!(f, "{call} {}: {error}", path.display()),
            Self::NotOurs(path, why) => write!(f, "{} is not a directory of our own: {why}", path.display()),
            Self::Running(name, Some(pid)) => write!(f, "{name:?} is running already: its guard is pid {pid}"),
            Self::Running(name, None) => write!(f, "{name:?} is running already; its guard's pid is unreadable"),
            Self::PathTooLong(path) => write!(f, "{} is too long for a unix socket", path.display()),
        }
    }
}

impl std::error::Error for RuntimeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        if let Self::Call(_, _, error) = self { Some(error) } else { None }
    }
}

/// Checks the name of an instance or service: 1 to [`NAME_MAX`] of `A-Z a-z 0-9 _ . @ -`, not starting with a dot.
///
/// # Errors
/// [`RuntimeError::Name`].
pub fn check_name(name: &str) -> Result<(), RuntimeError> {
    let wrong = |why| Err(RuntimeError::Name(name.to_owned(), why));
    if name.is_empty() {
        return wrong("it is empty");
    }
    if name.len() > NAME_MAX {
        return wrong("it is longer than 64 bytes");
    }
    if name.starts_with('.') {
        return wrong("it starts with a dot");
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.@-".contains(&byte)) {
        return wrong("only A-Z a-z 0-9 _ . @ - are allowed");
    }
    Ok(())
}

/// Where the instances of this user are: see the module's head.
pub fn base() -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    base_for(uid, std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from), Path::new(&format!("/run/user/{uid}")).is_dir())
}

fn base_for(uid: u32, xdg: Option<PathBuf>, login_directory: bool) -> PathBuf {
    // The XDG specification: a path that is not absolute is to be ignored.
    let xdg = xdg.filter(|path| path.is_absolute()).filter(|path| uid != 0 || path != Path::new("/run/user/0"));
    match xdg {
        Some(directory) => directory.join("stayput"),
        None if uid == 0 => PathBuf::from("/run/stayput"),
        None if login_directory => PathBuf::from(format!("/run/user/{uid}/stayput")),
        None => PathBuf::from(format!("/tmp/stayput-{uid}")),
    }
}

/// The runtime directory of an instance that is ours: the lock is held as long as this lives.
#[derive(Debug)]
pub struct RuntimeDir {
    path: PathBuf,
    directory: OwnedFd,
    lock: OwnedFd,
}

impl RuntimeDir {
    /// Makes `<base>/<name>`, takes its lock, clears what a dead instance left there, and writes our process id into the lock file.
    ///
    /// # Errors
    /// [`RuntimeError::Running`] if the lock is held; the others as they say.
    pub fn create(base: &Path, name: &str) -> Result<Self, RuntimeError> {
        check_name(name)?;
        let parent = open_base(base, true)?.ok_or_else(|| RuntimeError::Call("open", base.to_owned(), Errno::NOENT))?;
        let path = base.join(name);
        loop {
            let directory = make_directory(&parent, Path::new(name), &path)?;
            let Some(lock) = take_lock(&directory, &path, name)? else { continue };
            // The last instance of this name may have removed the directory between our open and our flock.
            if !is_still_there(&parent, Path::new(name), &directory) || !is_still_there(&directory, Path::new(LOCK), &lock) {
                continue;
            }
            let runtime = Self { path, directory, lock };
            runtime.unlink(CONTROL_SOCKET)?;
            runtime.write_pid()?;
            return Ok(runtime);
        }
    }

    /// The directory's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path of the control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.path.join(CONTROL_SOCKET)
    }

    /// The file in which lives of the instance are told apart, for the guard. Read and write, close-on-exec.
    ///
    /// # Errors
    /// [`RuntimeError::Call`].
    pub fn lives(&self) -> Result<OwnedFd, RuntimeError> {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.directory, LIVES, flags, PRIVATE_FILE)
            .map_err(|error| RuntimeError::Call("open", self.path.join(LIVES), error))
    }

    /// The lock alone, for who keeps it while the instance lives. The instance exists until this and every duplicate of it are
    /// closed (flock(2)). Close-on-exec.
    pub fn into_lock(self) -> OwnedFd {
        self.lock
    }

    /// Makes the control socket: listening, non-blocking, close-on-exec, mode 0600.
    ///
    /// # Errors
    /// [`RuntimeError::PathTooLong`], [`RuntimeError::Call`].
    pub fn listen(&self) -> Result<OwnedFd, RuntimeError> {
        let path = self.control_socket();
        let fail = |call| {
            let path = path.clone();
            move |error| RuntimeError::Call(call, path, error)
        };
        let address = SocketAddrUnix::new(&path).map_err(|_| RuntimeError::PathTooLong(path.clone()))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(fail("socket"))?;
        rustix::net::bind(&socket, &address).map_err(fail("bind"))?;
        // Until here the directory alone keeps others out; it does so afterwards, too.
        rustix::fs::chmodat(&self.directory, CONTROL_SOCKET, PRIVATE_FILE, AtFlags::empty()).map_err(fail("chmod"))?;
        rustix::net::listen(&socket, CONTROL_BACKLOG).map_err(fail("listen"))?;
        Ok(socket)
    }

    /// Removes the directory, then lets the lock go: for an instance that does not come to be, or is over. What a kill leaves behind
    /// is taken over by the next instance of the name.
    ///
    /// # Errors
    /// [`RuntimeError::Call`].
    pub fn remove(self) -> Result<(), RuntimeError> {
        self.unlink(CONTROL_SOCKET)?;
        self.unlink(DASHBOARD)?;
        self.unlink(LIVES)?;
        self.unlink(LOCK)?;
        match rustix::fs::rmdir(&self.path) {
            // Not empty: the next instance of the name is quick, and has begun to use it.
            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => Ok(()),
            Err(error) => Err(RuntimeError::Call("rmdir", self.path.clone(), error)),
        }
    }

    fn unlink(&self, name: &str) -> Result<(), RuntimeError> {
        match rustix::fs::unlinkat(&self.directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(RuntimeError::Call("unlink", self.path.join(name), error)),
        }
    }

    fn write_pid(&self) -> Result<(), RuntimeError> {
        let fail = |call| move |error| RuntimeError::Call(call, self.path.join(LOCK), error);
        rustix::fs::ftruncate(&self.lock, 0).map_err(fail("ftruncate"))?;
        let mut file = std::fs::File::from(rustix::io::dup(&self.lock).map_err(fail("dup"))?);
        let written = writeln!(file, "{}", std::process::id());
        written.map_err(|error| fail("write")(Errno::from_io_error(&error).unwrap_or(Errno::IO)))
    }
}

/// An instance's directory, found by looking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Name of the instance.
    pub name: String,
    /// Path of its control socket.
    pub control_socket: PathBuf,
    /// Path of its lock.
    pub lock: PathBuf,
    /// Process id of its guard, as written in the lock.
    pub guard: Option<i32>,
}

impl Found {
    /// Whether its lock is still held.
    ///
    /// # Errors
    /// [`RuntimeError::Call`] if the lock cannot be looked at.
    pub fn is_running(&self) -> Result<bool, RuntimeError> {
        match rustix::fs::open(&self.lock, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(lock) => is_locked(&lock, &self.lock),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(RuntimeError::Call("open", self.lock.clone(), error)),
        }
    }

    /// Waits until its lock is held no more, at most so long; whether it ended. (A thread waits, for flock(2) has no deadline. One that waits in vain
    /// stays until the instance, or this process, ends.)
    ///
    /// # Errors
    /// As [`Found::is_running`]; or there is no thread to be had.
    pub fn wait_end(&self, within: Duration) -> Result<bool, RuntimeError> {
        let fail = |call, path: &Path| {
            let path = path.to_owned();
            move |error| RuntimeError::Call(call, path, error)
        };
        let lock = match rustix::fs::open(&self.lock, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(lock) => lock,
            Err(Errno::NOENT) => return Ok(true),
            Err(error) => return Err(fail("open", &self.lock)(error)),
        };
        if !is_locked(&lock, &self.lock)? {
            return Ok(true);
        }
        let (to, ended) = std::sync::mpsc::channel();
        let wait = move || {
            // Nobody hears it who has stopped waiting.
            let _ = to.send(rustix::io::retry_on_intr(|| rustix::fs::flock(&lock, FlockOperation::LockShared)));
        };
        let thread = std::thread::Builder::new().name("lock".to_owned()).spawn(wait);
        thread.map_err(|error| fail("clone", &self.lock)(Errno::from_io_error(&error).unwrap_or(Errno::AGAIN)))?;
        match ended.recv_timeout(within) {
            Ok(locked) => locked.map(|()| true).map_err(fail("flock", &self.lock)),
            Err(_) => Ok(false),
        }
    }
}

/// All instances under `base` whose lock is held, by name. Leftovers of dead ones are not listed.
///
/// # Errors
/// [`RuntimeError::NotOurs`] if the base is somebody else's; [`RuntimeError::Call`].
pub fn running(base: &Path) -> Result<Vec<Found>, RuntimeError> {
    let Some(directory) = open_base(base, false)? else { return Ok(Vec::new()) };
    let fail = |error| RuntimeError::Call("readdir", base.to_owned(), error);
    let mut found = Vec::new();
    for entry in rustix::fs::Dir::read_from(&directory).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if check_name(name).is_err() {
            continue;
        }
        let path = base.join(name);
        let lock_path = path.join(LOCK);
        let Ok(lock) = rustix::fs::open(&lock_path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()) else { continue };
        if is_locked(&lock, &lock_path)? {
            let control_socket = path.join(CONTROL_SOCKET);
            found.push(Found { name: name.to_owned(), control_socket, lock: lock_path, guard: read_pid(lock) });
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

fn open_base(base: &Path, create: bool) -> Result<Option<OwnedFd>, RuntimeError> {
    let (Some(parent_path), Some(name)) = (base.parent(), base.file_name()) else {
        return Err(RuntimeError::NotOurs(base.to_owned(), "it has no parent directory".to_owned()));
    };
    let parent = match rustix::fs::open(parent_path, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH, Mode::empty()) {
        Ok(parent) => parent,
        Err(Errno::NOENT) if !create => return Ok(None),
        Err(error) => return Err(RuntimeError::Call("open", parent_path.to_owned(), error)),
    };
    check_parent(&parent, parent_path)?;
    if create {
        return make_directory(&parent, Path::new(name), base).map(Some);
    }
    match open_directory(&parent, Path::new(name), base) {
        Err(RuntimeError::Call(_, _, Errno::NOENT)) => Ok(None),
        other => other.map(Some),
    }
}

/// Nobody but us and root may be able to rename what is in the parent of the base: ours or root's, and not writable by others
/// unless sticky.
fn check_parent(parent: &OwnedFd, path: &Path) -> Result<(), RuntimeError> {
    let stat = rustix::fs::fstat(parent).map_err(|error| RuntimeError::Call("stat", path.to_owned(), error))?;
    let ours = rustix::process::geteuid().as_raw();
    if stat.st_uid != ours && stat.st_uid != 0 {
        return Err(RuntimeError::NotOurs(path.to_owned(), format!("it belongs to user id {}", stat.st_uid)));
    }
    let others_write = stat.st_mode & 0o022 != 0;
    let sticky = stat.st_mode & 0o1000 != 0;
    if others_write && !sticky {
        return Err(RuntimeError::NotOurs(path.to_owned(), format!("others may write to it (mode {:04o})", stat.st_mode & 0o7777)));
    }
    Ok(())
}

fn make_directory(parent: &OwnedFd, name: &Path, path: &Path) -> Result<OwnedFd, RuntimeError> {
    match rustix::fs::mkdirat(parent, name, PRIVATE_DIRECTORY) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(RuntimeError::Call("mkdir", path.to_owned(), error)),
    }
    open_directory(parent, name, path)
}

fn open_directory(parent: &OwnedFd, name: &Path, path: &Path) -> Result<OwnedFd, RuntimeError> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(|error| match error {
        // openat(2): a link with O_DIRECTORY | O_NOFOLLOW is ENOTDIR.
        Errno::NOTDIR | Errno::LOOP => RuntimeError::NotOurs(path.to_owned(), "it is a link or a file".to_owned()),
        error => RuntimeError::Call("open", path.to_owned(), error),
    })?;
    let stat = rustix::fs::fstat(&directory).map_err(|error| RuntimeError::Call("stat", path.to_owned(), error))?;
    check_directory(&stat, rustix::process::geteuid().as_raw()).map_err(|why| RuntimeError::NotOurs(path.to_owned(), why))?;
    Ok(directory)
}

fn check_directory(stat: &Stat, ours: u32) -> Result<(), String> {
    if !FileType::from_raw_mode(stat.st_mode).is_dir() {
        return Err("it is not a directory".to_owned());
    }
    if stat.st_uid != ours {
        return Err(format!("it belongs to user id {}", stat.st_uid));
    }
    if stat.st_mode & 0o077 != 0 {
        return Err(format!("others may enter it (mode {:04o}; chmod 700 closes it)", stat.st_mode & 0o7777));
    }
    Ok(())
}

/// `None` if the directory vanished meanwhile.
fn take_lock(directory: &OwnedFd, path: &Path, name: &str) -> Result<Option<OwnedFd>, RuntimeError> {
    let lock_path = path.join(LOCK);
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let lock = match rustix::fs::openat(directory, LOCK, flags, PRIVATE_FILE) {
        Ok(lock) => lock,
        // The directory was removed after it was opened.
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(RuntimeError::Call("open", lock_path, error)),
    };
    // `status` looks whether a lock is held by taking it for a moment. That must not look like a running instance, and waiting
    // for a lock has no deadline of its own: so a few tries.
    for _ in 0..20 {
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(lock)),
            Err(Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(RuntimeError::Call("flock", lock_path, error)),
        }
    }
    Err(RuntimeError::Running(name.to_owned(), read_pid(lock)))
}

fn is_locked(lock: &OwnedFd, path: &Path) -> Result<bool, RuntimeError> {
    match rustix::fs::flock(lock, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(RuntimeError::Call("flock", path.to_owned(), error)),
    }
}

fn read_pid(lock: OwnedFd) -> Option<i32> {
    let mut text = String::new();
    std::fs::File::from(lock).take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok().filter(|&pid| pid > 0)
}

fn is_still_there(directory: impl AsFd, name: &Path, open: &OwnedFd) -> bool {
    let (Ok(there), Ok(open)) = (rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW), rustix::fs::fstat(open)) else {
        return false;
    };
    (there.st_dev, there.st_ino) == (open.st_dev, open.st_ino)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn private() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o700)).tempdir().unwrap();
        let base = directory.path().join("stayput");
        (directory, base)
    }

    #[test]
    fn names() {
        for good in ["web", "http.server", "a@b-c_d.9", "-x", &"x".repeat(64)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".hidden", "a/b", "a b", "é", "a\n", "a:b", &"x".repeat(65)] {
            assert!(matches!(check_name(bad), Err(RuntimeError::Name(..))), "{bad:?}");
        }
    }

    #[test]
    fn where_the_base_is() {
        let at = |uid, xdg: Option<&str>, login| base_for(uid, xdg.map(PathBuf::from), login).display().to_string();
        assert_eq!(at(1000, Some("/run/user/1000"), true), "/run/user/1000/stayput");
        assert_eq!(at(1000, None, true), "/run/user/1000/stayput");
        assert_eq!(at(1000, None, false), "/tmp/stayput-1000");
        assert_eq!(at(1000, Some("relative"), false), "/tmp/stayput-1000");
        assert_eq!(at(0, None, false), "/run/stayput");
        assert_eq!(at(0, Some("/run/user/0"), true), "/run/stayput");
        assert_eq!(at(0, Some("/elsewhere"), true), "/elsewhere/stayput");
    }

    #[test]
    fn one_instance_of_a_name_at_a_time() {
        let (_directory, base) = private();
        let web = RuntimeDir::create(&base, "web").unwrap();
        assert_eq!(std::fs::metadata(&base).unwrap().mode() & 0o7777, 0o700);
        assert_eq!(std::fs::metadata(web.path()).unwrap().mode() & 0o7777, 0o700);
        let error = RuntimeDir::create(&base, "web").unwrap_err();
        assert!(matches!(&error, RuntimeError::Running(_, Some(pid)) if *pid == std::process::id().cast_signed()), "{error}");
        let other = RuntimeDir::create(&base, "api").unwrap();
        let names: Vec<_> = running(&base).unwrap().into_iter().map(|found| found.name).collect();
        assert_eq!(names, ["api", "web"]);

        let found = running(&base).unwrap().pop().unwrap();
        let lock = web.into_lock();
        let shared = lock.try_clone().unwrap();
        drop(lock);
        assert!(found.is_running().unwrap(), "held until the last duplicate is closed");
        assert!(!found.wait_end(Duration::from_millis(10)).unwrap(), "it goes on");
        let (waits, patience) = (found.clone(), Duration::from_mins(1));
        let waiter = std::thread::spawn(move || waits.wait_end(patience).unwrap());
        drop(shared);
        assert!(waiter.join().unwrap(), "it ended");
        assert!(!found.is_running().unwrap() && found.wait_end(Duration::ZERO).unwrap());
        let path = other.path().to_owned();
        other.remove().unwrap();
        assert!(!path.exists());
        assert_eq!(running(&base).unwrap(), []);
    }

    #[test]
    fn leftovers_of_a_dead_instance_are_taken_over() {
        let (_directory, base) = private();
        let web = RuntimeDir::create(&base, "web").unwrap();
        let _socket = web.listen().unwrap();
        drop(web);
        assert!(base.join("web/control.sock").exists());
        let web = RuntimeDir::create(&base, "web").unwrap();
        assert!(!web.control_socket().exists());
        web.listen().unwrap();
        assert_eq!(std::fs::metadata(web.control_socket()).unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn what_is_open_to_others_or_a_link_is_refused() {
        let (directory, base) = private();
        std::fs::create_dir(&base).unwrap();
        std::fs::set_permissions(&base, std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = RuntimeDir::create(&base, "web").unwrap_err();
        assert!(matches!(&error, RuntimeError::NotOurs(path, _) if *path == base), "{error}");
        assert!(running(&base).is_err());

        std::fs::remove_dir(&base).unwrap();
        let elsewhere = directory.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        std::fs::set_permissions(&elsewhere, std::fs::Permissions::from_mode(0o700)).unwrap();
        symlink(&elsewhere, &base).unwrap();
        let error = RuntimeDir::create(&base, "web").unwrap_err();
        assert!(matches!(&error, RuntimeError::NotOurs(..)), "{error}");
        assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0, "nothing was written through the link");

        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        std::fs::remove_file(&base).unwrap();
        let error = RuntimeDir::create(&base, "web").unwrap_err();
        assert!(matches!(&error, RuntimeError::NotOurs(path, _) if path == directory.path()), "{error}");
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused() {
        let stat = rustix::fs::stat("/").unwrap();
        assert!(check_directory(&stat, stat.st_uid + 1).unwrap_err().contains("belongs to user id"));
        // The whole way, where the test may give a file away.
        let (_directory, base) = private();
        std::fs::create_dir(&base).unwrap();
        std::fs::set_permissions(&base, std::fs::Permissions::from_mode(0o700)).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&base, Some(1001), None).unwrap();
            let error = RuntimeDir::create(&base, "web").unwrap_err();
            assert!(error.to_string().contains("belongs to user id 1001"), "{error}");
        } else {
            eprintln!("note: not root, so only the rule was tested and not a directory that was given away");
        }
    }

    #[test]
    fn a_socket_path_that_does_not_fit_is_told() {
        let (directory, _) = private();
        let long = directory.path().join("x".repeat(60));
        std::fs::create_dir(&long).unwrap();
        std::fs::set_permissions(&long, std::fs::Permissions::from_mode(0o700)).unwrap();
        let web = RuntimeDir::create(&long.join("stayput"), &"n".repeat(64)).unwrap();
        assert!(matches!(web.listen(), Err(RuntimeError::PathTooLong(_))));
    }
}

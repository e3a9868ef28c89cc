//! Control groups, version 2: a directory that knows every process below it, however it forked. Source: Documentation/admin-guide/cgroup-v2.rst.
//!
//! It owns making, filling, listing, killing and removing one directory. It refuses to enable controllers: that would move other
//! people's processes.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// One cgroup directory of ours.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Cgroup {
    directory: PathBuf,
}

/// Where the version 2 hierarchy is mounted, from the text of `/proc/self/mountinfo`.
fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?.replace("\\040", " ");
        (after.split(' ').next()? == "cgroup2").then(|| PathBuf::from(point))
    })
}

/// The cgroup of a process, from the text of `/proc/PID/cgroup`.
fn own_path(cgroups: &str) -> Option<&str> {
    cgroups.lines().find_map(|line| line.strip_prefix("0::"))
}

/// The directory of the cgroup of this process.
fn own_directory() -> Result<PathBuf, Errno> {
    let read = |file: &str| std::fs::read_to_string(file).map_err(|error| errno_of(&error));
    let (mounts, own) = (read("/proc/self/mountinfo")?, read("/proc/self/cgroup")?);
    let (Some(mount), Some(own)) = (mount_point(&mounts), own_path(&own)) else { return Err(Errno::NOENT) };
    Ok(mount.join(own.trim_start_matches('/')))
}

impl Cgroup {
    /// Makes a directory below the cgroup of this process. It must not exist.
    ///
    /// # Errors
    /// `ENOENT`: no version 2 hierarchy is mounted. `EACCES`, `EROFS`: it is not ours to change.
    pub fn create(name: &str) -> Result<Self, Errno> {
        /// Ours, as it was found last: hosts have long lists of mounts, and a process is hardly ever moved.
        static OWN: Mutex<Option<PathBuf>> = Mutex::new(None);
        let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
        let make = |own: &Path| {
            let directory = own.join(name);
            rustix::fs::mkdir(&directory, Mode::from_raw_mode(0o755)).map(|()| Self { directory })
        };
        match own.as_deref().map(make) {
            None | Some(Err(Errno::NOENT)) => make(own.insert(own_directory()?)),
            Some(result) => result,
        }
    }

    /// A descriptor that a process writes `0` to in order to move itself in.
    ///
    /// # Errors
    /// Those of `open(2)`.
    pub fn door(&self) -> Result<OwnedFd, Errno> {
        rustix::fs::open(self.directory.join("cgroup.procs"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
    }

    /// All processes in it and below it; zombies are not listed.
    pub fn pids(&self) -> Vec<i32> {
        let mut pids = Vec::new();
        collect(&self.directory, &mut pids);
        pids
    }

    /// Kills all processes in it and below it, those that are being forked included (`cgroup.kill`, Linux 5.14).
    ///
    /// # Errors
    /// `ENOENT`: Linux before 5.14, or it is removed.
    pub fn kill(&self) -> Result<(), Errno> {
        std::fs::write(self.directory.join("cgroup.kill"), "1").map_err(|error| errno_of(&error))
    }

    /// Removes it, with the directories that its processes made below it.
    ///
    /// # Errors
    /// `EBUSY`: a process is left.
    pub fn remove(&self) -> Result<(), Errno> {
        remove(&self.directory)
    }
}

fn subdirectories(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

fn collect(directory: &Path, pids: &mut Vec<i32>) {
    let text = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    for below in subdirectories(directory) {
        collect(&below, pids);
    }
}

fn remove(directory: &Path) -> Result<(), Errno> {
    for below in subdirectories(directory) {
        remove(&below)?;
    }
    rustix::fs::rmdir(directory)
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_and_the_own_path_are_found() {
        let mounts = "24 1 0:21 / /proc rw - proc proc rw\n35 24 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(mounts), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_point("24 1 0:21 / /proc rw - proc proc rw\n"), None);
        assert_eq!(own_path("1:cpu:/\n0::/user.slice/one\n"), Some("/user.slice/one"));
        assert_eq!(own_path("1:cpu:/\n"), None);
    }

    #[test]
    fn what_is_inside_is_listed_and_killed() {
        let Ok(cgroup) = Cgroup::create(&format!("stayput-test-{}", std::process::id())) else {
            // Said aloud: this needs a version 2 hierarchy that we may change.
            println!("NOT RUN: no cgroup directory can be made here");
            return;
        };
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("spawn");
        std::fs::write(cgroup.directory.join("cgroup.procs"), child.id().to_string()).expect("move");
        assert_eq!(cgroup.pids(), [child.id() as i32]);
        assert_eq!(cgroup.remove(), Err(Errno::BUSY));
        cgroup.kill().expect("kill");
        child.wait().expect("wait");
        assert!(cgroup.pids().is_empty());
        cgroup.remove().expect("remove");
    }
}

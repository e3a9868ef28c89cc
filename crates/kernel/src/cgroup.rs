//! Control groups, version 2: a directory that knows every process below it, however it forked. Source: Documentation/admin-guide/cgroup-v2.rst.
//!
//! It owns making, filling, limiting, listing, killing and removing one directory. It refuses to move anybody: where a controller can only be
//! enabled after the processes of the directory above have left it, the limit is not set, and that is told.

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

    /// Sets a limit: the controller is asked for if it is not enabled for our directory, and the value written to the interface file
    /// (`memory.max`, `cpu.max`, `pids.max`).
    ///
    /// # Errors
    /// `ENOENT`: the controller is not there (not delegated, or in use by version 1). `EBUSY`: processes in the directory above forbid it.
    /// `EACCES`: not ours to change. `EINVAL`: not a value.
    pub fn limit(&self, file: &str, value: &str) -> Result<(), Errno> {
        let write = |path: PathBuf, text: &str| {
            let opened = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
            rustix::io::write(&opened, text.as_bytes()).map(|_| ())
        };
        let own = self.directory.join(file);
        if !own.exists() {
            let controller = file.split('.').next().unwrap_or_default();
            let above = self.directory.parent().ok_or(Errno::NOENT)?;
            let present = std::fs::read_to_string(above.join("cgroup.controllers")).map_err(|error| errno_of(&error))?;
            if !present.split_ascii_whitespace().any(|one| one == controller) {
                return Err(Errno::NOENT);
            }
            write(above.join("cgroup.subtree_control"), &format!("+{controller}"))?;
        }
        write(own, value)
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

/// Removes the cgroups below that of this process whose names begin so, with what is below them: what somebody who was killed left. One in which a
/// process is left stays.
pub fn sweep(prefix: &str) {
    let ours = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix));
    for directory in own_directory().iter().flat_map(|own| subdirectories(own)).filter(ours) {
        // Empty or not: nobody waits for it.
        let _ = remove(&directory);
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
    fn a_limit_is_written_where_its_controller_is() {
        let place = tempfile::tempdir().expect("directory");
        // What stands in for the kernel's files: here most controllers may be version 1's.
        let cgroup = Cgroup { directory: place.path().join("stayput-1") };
        std::fs::create_dir(&cgroup.directory).expect("directory");
        std::fs::write(place.path().join("cgroup.controllers"), "cpu pids\n").expect("write");
        std::fs::write(place.path().join("cgroup.subtree_control"), "").expect("write");
        std::fs::write(cgroup.directory.join("pids.max"), "").expect("write");
        assert_eq!(cgroup.limit("pids.max", "64"), Ok(()));
        assert_eq!(std::fs::read_to_string(cgroup.directory.join("pids.max")).expect("read"), "64");
        assert_eq!(cgroup.limit("memory.max", "1"), Err(Errno::NOENT), "no such controller");
        // With the kernel the file would be there now.
        assert_eq!(cgroup.limit("cpu.max", "50000 100000"), Err(Errno::NOENT));
        assert_eq!(std::fs::read_to_string(place.path().join("cgroup.subtree_control")).expect("read"), "+cpu");
    }

    /// A controller that version 2 has on this machine, whichever: the kernel takes the limit.
    #[test]
    fn the_kernel_takes_a_limit() {
        let file = [("pids", "pids.max"), ("hugetlb", "hugetlb.2MB.max"), ("memory", "memory.max")];
        let own = own_path(&std::fs::read_to_string("/proc/self/cgroup").expect("read")).map(str::to_owned);
        let mount = mount_point(&std::fs::read_to_string("/proc/self/mountinfo").expect("read"));
        let (Some(own), Some(mount)) = (own, mount) else { return println!("NOT RUN: no version 2 hierarchy") };
        let above = mount.join(own.trim_start_matches('/'));
        let present = std::fs::read_to_string(above.join("cgroup.controllers")).unwrap_or_default();
        let enabled = || std::fs::read_to_string(above.join("cgroup.subtree_control")).unwrap_or_default();
        let before = enabled();
        let Some((controller, file)) = file.iter().find(|(name, _)| present.split_ascii_whitespace().any(|one| one == *name)) else {
            return println!("NOT RUN: no controller is in version 2 here");
        };
        let Ok(cgroup) = Cgroup::create(&format!("stayput-limit-{}", std::process::id())) else {
            return println!("NOT RUN: no cgroup directory can be made here");
        };
        let limited = cgroup.limit(file, "4194304");
        let stands = std::fs::read_to_string(cgroup.directory.join(file)).unwrap_or_default();
        cgroup.remove().expect("remove");
        if enabled() != before {
            std::fs::write(above.join("cgroup.subtree_control"), format!("-{controller}")).expect("as it was");
        }
        match limited {
            Ok(()) => assert_eq!(stands.trim(), "4194304"),
            Err(error @ (Errno::BUSY | Errno::ACCESS | Errno::ROFS)) => println!("NOT RUN: {file}: {error}"),
            Err(error) => panic!("{file}: {error}"),
        }
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

//! Where we are, and what we may do: container, virtual machine, service manager, limits and rights.
//!
//! The first part reads files below a root that tests replace; what they say is shown as it is. The second part tries.

use super::{Child, Failure, Try, call, hear, say, unword, word, wrong};
use crate::cgroup::Cgroup;
use crate::process;
use rustix::io::Errno;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;

/// What the files say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// Release of the kernel, such as `6.18.44`, for people: nothing is concluded from it.
    pub release: String,
    /// The kernel is gVisor's.
    pub gvisor: bool,
    /// Windows Subsystem for Linux; true within: its network is mirrored.
    pub wsl: Option<bool>,
    /// Kind of container: `docker`, `podman`, `lxc`, or what its manager calls itself.
    pub container: Option<String>,
    /// systemd is the service manager (sd_booted(3)).
    pub systemd: bool,
    /// `kernel.yama.ptrace_scope`; `None` without Yama.
    pub ptrace_scope: Option<u32>,
    /// `net.ipv4.ip_unprivileged_port_start`.
    pub first_free_port: Option<u32>,
    /// `net.ipv4.tcp_abort_on_overflow`: a full queue refuses instead of staying silent.
    pub refuses_on_overflow: bool,
}

/// Reads it below a root: `/`.
pub fn place(root: &Path) -> Place {
    let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let there = |path: &str| root.join(path).exists();
    let sysctl = |name: &str| text(&format!("proc/sys/{name}")).trim().parse::<u32>().ok();
    let release = text("proc/sys/kernel/osrelease").trim().to_owned();
    let version = text("proc/sys/kernel/version") + &text("proc/version");
    let is_wsl = release.to_lowercase().contains("microsoft") || there("proc/sys/fs/binfmt_misc/WSLInterop") || there("run/WSL");
    Place {
        // pkg/sentry/kernel and pkg/abi/linux of gVisor: for years it called itself 4.4.0 of this day, now its name is in the release.
        gvisor: release.contains("gvisor") || (release == "4.4.0" && version.contains("Sun Jan 10 15:06:54 PST 2016")),
        // Mirrored networking brings an interface of this name.
        wsl: is_wsl.then(|| there("sys/class/net/loopback0")),
        container: container(&there, &text),
        systemd: there("run/systemd/system"),
        ptrace_scope: sysctl("kernel/yama/ptrace_scope"),
        first_free_port: sysctl("net/ipv4/ip_unprivileged_port_start"),
        refuses_on_overflow: sysctl("net/ipv4/tcp_abort_on_overflow").is_some_and(|value| value != 0),
        release,
    }
}

/// How container managers mark what they start (systemd.io/CONTAINER_INTERFACE, and Docker, which does not follow it).
fn container(there: &dyn Fn(&str) -> bool, text: &dyn Fn(&str) -> String) -> Option<String> {
    if there("run/.containerenv") {
        return Some("podman".to_owned());
    }
    if there(".dockerenv") {
        return Some("docker".to_owned());
    }
    let named = text("run/systemd/container");
    if !named.trim().is_empty() {
        return Some(named.trim().to_owned());
    }
    let environment = text("proc/1/environ");
    let variable = environment.split('\0').find_map(|entry| entry.strip_prefix("container=")).filter(|kind| !kind.is_empty());
    let kubernetes = || there("var/run/secrets/kubernetes.io").then(|| "kubernetes".to_owned());
    variable.map(str::to_owned).or_else(kubernetes)
}

/// Soft and hard limit of open files; `u64::MAX`: none.
pub fn open_files() -> (u64, u64) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX))
}

/// A port below 1024 can be bound: port 1 of a loopback address that nobody uses, for an instant, without listening.
///
/// # Errors
/// `EACCES`: it is not permitted.
pub fn low_port() -> Try {
    let nobodys = Ipv4Addr::new(127, 115, 112, 1);
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).map_err(call("socket"))?;
    match rustix::net::bind(&socket, &SocketAddr::from((nobodys, 1))) {
        // That somebody has it is found out after the right to it.
        Ok(()) | Err(Errno::ADDRINUSE) => Ok(()),
        Err(errno) => Err(Failure::Call { call: "bind to port 1 of a loopback address", errno }),
    }
}

/// A cgroup (v2) of our own can be made, a child enters it and is listed in it. It is removed again.
///
/// # Errors
/// There is no cgroup v2, or ours may not be changed.
pub fn cgroup() -> Try {
    let cgroup = Cgroup::create(&format!("stayput-doctor-{}", std::process::id())).map_err(call("mkdir in our cgroup"))?;
    let entered = enter(&cgroup);
    // Who was in it is gone, and leaves it a moment later; the kernel has an event for that, which is not worth its while here.
    let tries = (0..100).map(|_| {
        let removed = cgroup.remove();
        if removed == Err(Errno::BUSY) {
            let _ = rustix::event::poll(&mut [], Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 5_000_000 }));
        }
        removed
    });
    let removed = tries.into_iter().find(|removed| *removed != Err(Errno::BUSY)).unwrap_or(Err(Errno::BUSY));
    entered.and(removed.map_err(call("rmdir of a cgroup")))
}

fn enter(cgroup: &Cgroup) -> Try {
    let door = cgroup.door().map_err(call("open(cgroup.procs)"))?;
    let child = Child::start(|channel| {
        say(channel, [word(rustix::io::write(&door, b"0")), 0, 0, 0], None);
        let _ = hear(channel);
    })?;
    let ([entered, ..], _) = child.hear("entering a cgroup")?;
    unword(entered, "write(cgroup.procs)")?;
    if cgroup.pids() == [child.pid] { Ok(()) } else { wrong("a child entered a cgroup, and is not listed in it") }
}

/// Orphans below a subreaper become its children, and are reaped by it.
///
/// # Errors
/// What failed.
pub fn subreaper() -> Try {
    let child = Child::start(|channel| say(channel, [word(adopt()), 0, 0, 0], None))?;
    let ([adopted, ..], _) = child.hear("the orphan")?;
    unword(adopted, "prctl(PR_SET_CHILD_SUBREAPER)")
}

/// In a throw-away child: becomes a subreaper, lets a child of its child become an orphan, and waits for both.
fn adopt() -> Result<(), Errno> {
    process::become_subreaper()?;
    let (orphan, ours): (OwnedFd, OwnedFd) = rustix::pipe::pipe()?;
    if let process::Cloned::Child = process::clone()? {
        if let Ok(process::Cloned::Child) = process::clone() {
            // The orphan ends when its parent has: then the pipe below is closed by that parent, and by us.
            drop(ours);
            let _ = rustix::io::read(&orphan, &mut [0]);
            process::exit_now(7);
        }
        process::exit_now(0);
    }
    let mut ended = 0;
    let mut ours = Some(ours);
    while let Some((_, status)) = rustix::process::waitpid(None, rustix::process::WaitOptions::empty())? {
        ended += 1;
        if status.exit_status() == Some(7) {
            return Ok(());
        }
        // Only now, so that it is an orphan when it ends.
        ours = None;
        if ended > 2 {
            break;
        }
    }
    drop(ours);
    Err(Errno::CHILD)
}

/// This very program can be executed again by `/proc/self/exe`, with `/dev/null` as its input and output, as the guard does
/// for the daemon. It is asked for its version.
///
/// # Errors
/// What failed: a root without `/proc` or `/dev/null`.
pub fn itself() -> Try {
    let failed =
        |call: &'static str| move |error: std::io::Error| Failure::Call { call, errno: Errno::from_io_error(&error).unwrap_or(Errno::IO) };
    let null = || fs::OpenOptions::new().read(true).write(true).open("/dev/null").map_err(failed("open(/dev/null)"));
    let mut command = Command::new("/proc/self/exe");
    command.arg("--version").stdin(null()?).stdout(null()?).stderr(null()?);
    let status = command.status().map_err(failed("execve(/proc/self/exe)"))?;
    if status.success() { Ok(()) } else { wrong(format!("/proc/self/exe --version: {status}")) }
}

/// Whether programs can bind and listen by `io_uring`, past the filter.
///
/// # Errors
/// What failed, other than that there is no `io_uring` here.
pub fn uring_binds() -> Try<bool> {
    match crate::uring::supports(crate::uring::BIND) {
        Ok(supported) => Ok(supported),
        Err(Errno::NOSYS | Errno::PERM | Errno::ACCESS) => Ok(false),
        Err(errno) => Err(Failure::Call { call: "io_uring", errno }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary directory");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, text).expect("a file");
        }
        root
    }

    fn read(files: &[(&str, &str)]) -> Place {
        place(root(files).path())
    }

    #[test]
    fn an_empty_root_says_nothing() {
        assert_eq!(read(&[]), Place::default());
    }

    #[test]
    fn containers_are_told_by_their_marks() {
        let kind = |files: &[(&str, &str)]| read(files).container;
        assert_eq!(kind(&[(".dockerenv", "")]).as_deref(), Some("docker"));
        assert_eq!(kind(&[("run/.containerenv", "engine=\"podman-5\"")]).as_deref(), Some("podman"));
        assert_eq!(kind(&[("proc/1/environ", "PATH=/bin\0container=lxc\0")]).as_deref(), Some("lxc"));
        assert_eq!(kind(&[("run/systemd/container", "systemd-nspawn\n")]).as_deref(), Some("systemd-nspawn"));
        assert_eq!(kind(&[("var/run/secrets/kubernetes.io/token", "")]).as_deref(), Some("kubernetes"));
        assert_eq!(kind(&[("proc/1/environ", "container=\0")]), None);
    }

    #[test]
    fn other_kernels_are_told() {
        assert!(
            read(&[("proc/sys/kernel/osrelease", "4.4.0\n"), ("proc/version", "Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016")])
                .gvisor
        );
        assert!(read(&[("proc/sys/kernel/osrelease", "4.19.0-gvisor\n")]).gvisor);
        let wsl = ("proc/sys/kernel/osrelease", "5.15.153.1-microsoft-standard-WSL2\n");
        assert_eq!(read(&[wsl]).wsl, Some(false));
        assert_eq!(read(&[wsl, ("sys/class/net/loopback0/ifindex", "9")]).wsl, Some(true));
        let plain = read(&[("proc/sys/kernel/osrelease", "6.1.0-18-amd64\n"), ("proc/sys/kernel/yama/ptrace_scope", "1\n")]);
        assert_eq!((plain.gvisor, plain.wsl, plain.ptrace_scope), (false, None, Some(1)));
    }
}

//! Processes as /proc shows them: who carries a mark, what they cost, and ending them by pidfd so that no stranger is ever hit.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A live process (no zombie) that carries a mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// Its process id.
    pub pid: u32,
    /// Its command line, spaces between the words.
    pub command: String,
}

/// Every live process whose environment, command line or working directory contains `mark`: nginx, for one, writes its title over the first two.
/// Processes of other users are seen by root alone.
pub fn marked(mark: &str) -> Vec<Marked> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let own = std::process::id();
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != own)
        .filter_map(|pid| {
            let dir = format!("/proc/{pid}");
            let read = |name: &str| fs::read(Path::new(&dir).join(name)).unwrap_or_default();
            let (environment, command) = (read("environ"), read("cmdline"));
            let place = fs::read_link(Path::new(&dir).join("cwd")).unwrap_or_default();
            let is_marked = contains(&environment, mark.as_bytes())
                || contains(&command, mark.as_bytes())
                || contains(place.as_os_str().as_encoded_bytes(), mark.as_bytes());
            (is_marked && is_alive(pid)).then(|| Marked { pid, command: words(&command) })
        })
        .collect()
}

fn contains(bytes: &[u8], pattern: &[u8]) -> bool {
    bytes.windows(pattern.len()).any(|window| window == pattern)
}

fn words(command: &[u8]) -> String {
    String::from_utf8_lossy(command).replace('\0', " ").trim_end().to_owned()
}

/// The state letter of proc_pid_stat(5), or None when there is no such process.
pub fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may contain some itself.
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// Its parent; None when there is no such process.
pub fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Whether it runs: it is there, and neither a zombie nor dead.
pub fn is_alive(pid: u32) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Sends a signal through a pidfd. `false`: there is no such process, or it is not ours to signal.
pub fn signal(pid: u32, signal: Signal) -> bool {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
        .is_some_and(|pidfd| pidfd_send_signal(&pidfd, signal).is_ok())
}

/// Direct children, from /proc/PID/task/*/children (CONFIG_PROC_CHILDREN).
pub fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

/// Open file descriptors; None when they cannot be read.
pub fn open_fds(pid: u32) -> Option<usize> {
    Some(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count())
}

/// Proportional set size in KiB, from smaps_rollup; None when it cannot be read.
pub fn pss_kib(pid: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    field(&rollup, "Pss:")
}

/// Resident set size in KiB.
pub fn rss_kib(pid: u32) -> Option<u64> {
    field(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmRSS:")
}

/// Voluntary context switches of all its threads: how often it went to sleep, which is how often it was woken.
pub fn wake_ups(pid: u32) -> Option<u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    Some(
        tasks
            .flatten()
            .filter_map(|task| fs::read_to_string(task.path().join("status")).ok())
            .filter_map(|status| field(&status, "voluntary_ctxt_switches:"))
            .sum(),
    )
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    #[test]
    fn a_marked_process_is_found_signalled_and_gone() {
        let mark = format!("STAYPUT_TESTKIT=unit-{}", std::process::id());
        let (name, value) = mark.split_once('=').expect("a pair");
        let mut child = Command::new("sleep").arg("60").env(name, value).stdin(Stdio::null()).spawn().expect("sleep is everywhere");
        crate::wait::until_true("the mark", Duration::from_secs(5), || marked(&mark).iter().any(|found| found.command == "sleep 60"))
            .unwrap();
        assert!(children(std::process::id()).contains(&child.id()));
        assert!(signal(child.id(), Signal::KILL));
        crate::wait::until_true("its end", Duration::from_secs(5), || !is_alive(child.id())).unwrap();
        assert_eq!(marked(&mark), [], "a zombie is not alive");
        child.wait().unwrap();
        assert!(!signal(child.id(), Signal::KILL));
    }

    #[test]
    fn the_costs_of_this_process_can_be_read() {
        let own = std::process::id();
        assert!(pss_kib(own).unwrap() > 100);
        assert!(rss_kib(own).unwrap() > 100);
        assert!(open_fds(own).unwrap() > 3);
        assert!(wake_ups(own).is_some());
    }
}

//! What a generation's processes use: from its cgroup where there is one, else from `/proc` of its tree.

use stayput_kernel::procfs::Proc;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Clock ticks of `/proc/PID/stat` per second: `USER_HZ`, 100 on every architecture that we build for.
const TICKS: u64 = 100;
/// Names of the cgroups that the keeper makes begin with this.
const CGROUP: &str = "stayput-";

/// What some processes use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Usage {
    /// Memory in bytes; `None`: nobody could say.
    pub(crate) memory: Option<u64>,
    /// Processor time so far; `None`: nobody could say.
    pub(crate) cpu: Option<Duration>,
    /// How many there are; `None`: they could not be counted.
    pub(crate) processes: Option<u32>,
    /// It is the cgroup that says so, all of it.
    pub(crate) by_cgroup: bool,
}

impl Usage {
    /// Both together.
    pub(crate) fn and(self, other: Self) -> Self {
        let sum = |one: Option<u64>, other: Option<u64>| Some(one? + other?);
        Self {
            memory: sum(self.memory, other.memory),
            cpu: self.cpu.zip(other.cpu).map(|(one, other)| one.saturating_add(other)),
            processes: self.processes.zip(other.processes).map(|(one, other)| one + other),
            by_cgroup: self.by_cgroup && other.by_cgroup,
        }
    }

    /// Nothing, measured.
    pub(crate) fn nothing() -> Self {
        Self { memory: Some(0), cpu: Some(Duration::ZERO), processes: Some(0), by_cgroup: true }
    }

    /// Where the numbers come from.
    pub(crate) fn source(self) -> &'static str {
        if self.by_cgroup { "cgroup" } else { "procfs (resident memory; shared pages count for each process)" }
    }
}

/// The eyes for it. What does not change in a generation's life is remembered.
#[derive(Debug)]
pub(crate) struct Gauge {
    proc: Proc,
    page: u64,
    /// Where cgroups of version 2 are mounted.
    mount: Option<PathBuf>,
    /// Cgroup directories by main process and its start time.
    cgroups: HashMap<(i32, u64), Option<PathBuf>>,
}

/// The processes below the guard at one moment.
#[derive(Debug, Default)]
pub(crate) struct Family {
    children: BTreeMap<i32, Vec<i32>>,
}

impl Family {
    /// The process and all below it.
    fn below(&self, pid: i32) -> BTreeSet<i32> {
        let mut found = BTreeSet::from([pid]);
        let mut todo = vec![pid];
        while let Some(pid) = todo.pop() {
            for child in self.children.get(&pid).into_iter().flatten() {
                if found.insert(*child) {
                    todo.push(*child);
                }
            }
        }
        found
    }
}

impl Gauge {
    /// Opens `/proc`.
    pub(crate) fn open() -> Option<Self> {
        let proc = Proc::open().ok()?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Some(Self { proc, page: rustix::param::page_size() as u64, mount: mount_point(&mounts), cgroups: HashMap::new() })
    }

    /// Who is whose child now. Made once for all generations that have no cgroup.
    pub(crate) fn family(&self) -> Family {
        let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for pid in self.proc.pids().unwrap_or_default() {
            if let Ok(stat) = self.proc.stat(pid) {
                children.entry(stat.ppid).or_default().push(pid);
            }
        }
        Family { children }
    }

    /// What a generation uses whose main process is this one; it must live. `family` is asked for if there is no cgroup.
    pub(crate) fn look(&mut self, main: i32, family: &mut Option<Family>) -> Usage {
        if let Some(directory) = self.cgroup_of(main) {
            let usage = in_cgroup(&directory);
            if usage.memory.is_some() && usage.cpu.is_some() {
                return usage;
            }
            // Without its controller a cgroup does not know about memory, but it knows the processes.
            let pids = pids(&directory);
            if !pids.is_empty() {
                let summed = self.sum(&pids);
                return Usage { cpu: usage.cpu.or(summed.cpu), ..summed };
            }
        }
        if family.is_none() {
            *family = Some(self.family());
        }
        let pids = family.as_ref().map(|family| family.below(main)).unwrap_or_default();
        self.sum(&pids)
    }

    /// Where it looks.
    pub(crate) fn proc(&self) -> &Proc {
        &self.proc
    }

    /// What is in the cgroup that the keeper made for the generation with this main process; nothing if there is none.
    pub(crate) fn in_cgroup_of(&mut self, main: i32) -> BTreeSet<i32> {
        self.cgroup_of(main).map(|directory| pids(&directory)).unwrap_or_default()
    }

    /// Resident memory in bytes and processor time so far of one process.
    pub(crate) fn one(&self, pid: i32) -> (Option<u64>, Option<Duration>) {
        let read = |file: &str| self.proc.read_path(&format!("{pid}/{file}")).ok();
        let memory = read("statm").and_then(|statm| resident_pages(&statm)).map(|pages| pages * self.page);
        (memory, read("stat").and_then(|stat| cpu_ticks(&stat)).map(|ticks| Duration::from_millis(ticks * 1000 / TICKS)))
    }

    /// Its state letter in `/proc/PID/stat`, and its name.
    pub(crate) fn process(&self, pid: i32) -> Option<(char, String)> {
        use std::os::unix::ffi::OsStrExt as _;
        let stat = self.proc.stat(pid).ok()?;
        Some((stat.state, stayput_model::text::printable_bytes(stat.comm.as_bytes())))
    }

    fn cgroup_of(&mut self, main: i32) -> Option<PathBuf> {
        let started = self.proc.stat(main).ok()?.start_ticks;
        if self.cgroups.len() > 4096 {
            self.cgroups.clear();
        }
        if let Some(known) = self.cgroups.get(&(main, started)) {
            return known.clone();
        }
        let found = self.proc.cgroup(main).ok().flatten().and_then(|path| {
            let ours = path.file_name()?.to_str()?.starts_with(CGROUP);
            let directory = self.mount.as_ref()?.join(path.strip_prefix("/").unwrap_or(&path));
            (ours && directory.is_dir()).then_some(directory)
        });
        self.cgroups.insert((main, started), found.clone());
        found
    }

    /// The sum over processes; one that ended meanwhile uses nothing.
    fn sum(&self, pids: &BTreeSet<i32>) -> Usage {
        let (mut memory, mut cpu, mut processes) = (0, Duration::ZERO, 0);
        for (resident, used) in pids.iter().filter_map(|pid| {
            let (memory, cpu) = self.one(*pid);
            memory.zip(cpu)
        }) {
            memory += resident;
            cpu += used;
            processes += 1;
        }
        if processes == 0 {
            return Usage::default();
        }
        Usage { memory: Some(memory), cpu: Some(cpu), processes: Some(processes), by_cgroup: false }
    }
}

/// cgroup-v2.rst: `memory.current` in bytes, `usage_usec` of `cpu.stat`, `pids.current`; each is there if its controller is enabled,
/// `cpu.stat` always.
fn in_cgroup(directory: &Path) -> Usage {
    let read = |file: &str| std::fs::read_to_string(directory.join(file)).ok();
    let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
    let cpu = read("cpu.stat").and_then(|text| text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok()));
    let counted = || u32::try_from(pids(directory).len()).ok();
    Usage {
        memory: number("memory.current"),
        cpu: cpu.map(Duration::from_micros),
        processes: number("pids.current").and_then(|pids| u32::try_from(pids).ok()).or_else(counted),
        by_cgroup: true,
    }
}

fn pids(directory: &Path) -> BTreeSet<i32> {
    let text = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// proc_pid_statm(5): the second number is the resident set in pages.
fn resident_pages(statm: &[u8]) -> Option<u64> {
    std::str::from_utf8(statm).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// proc_pid_stat(5): fields 14 and 15 are user and system time. The name in parentheses may hold anything, so it is left out first.
fn cpu_ticks(stat: &[u8]) -> Option<u64> {
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?.replace("\\040", " ");
        (after.split(' ').next()? == "cgroup2").then(|| PathBuf::from(point))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_says_is_read() {
        assert_eq!(resident_pages(b"1000 250 80 1 0 200 0\n"), Some(250));
        let stat = b"42 (a ) (b) S 1 42 42 0 -1 4194560 100 0 0 0 7 5 0 0 20 0 1 0 100 0 0";
        assert_eq!(cpu_ticks(stat), Some(12));
        assert_eq!(cpu_ticks(b"nonsense"), None);
    }

    #[test]
    fn we_are_seen_ourselves() {
        let mut gauge = Gauge::open().unwrap();
        let us = rustix::process::getpid().as_raw_nonzero().get();
        let usage = gauge.look(us, &mut None);
        assert!(usage.memory.is_some_and(|bytes| bytes > 100_000), "{usage:?}");
        assert!(usage.processes.is_some_and(|count| count >= 1), "{usage:?}");
        assert_eq!(gauge.process(us).map(|(state, _)| state == 'R' || state == 'S'), Some(true));
        assert_eq!(gauge.look(i32::MAX, &mut None), Usage::default(), "nobody");
    }

    #[test]
    fn sums_are_known_only_if_both_are() {
        let one = Usage { memory: Some(1), cpu: Some(Duration::from_secs(1)), processes: Some(1), by_cgroup: true };
        let sum = one.and(Usage { memory: None, by_cgroup: false, ..one });
        assert_eq!((sum.memory, sum.cpu, sum.processes, sum.by_cgroup), (None, Some(Duration::from_secs(2)), Some(2), false));
        assert_eq!(one.and(Usage::nothing()), one);
    }
}

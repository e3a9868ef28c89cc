//! What a generation's processes use: from its cgroup where there is one, else from `/proc` of its tree.

use rustix::fs::{CWD, Mode, OFlags, openat};
use stayput_kernel::procfs::{Proc, Stat, USER_HZ};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
    cgroup2: Option<OwnedFd>,
    /// Cgroups, as paths below the mount, by main process and its start time.
    cgroups: HashMap<(i32, u64), Option<PathBuf>>,
}

/// The processes at one moment: each is read once, however many questions are asked about it.
#[derive(Debug, Default)]
pub(crate) struct Moment {
    stats: HashMap<i32, Option<Stat>>,
    /// Who is whose child; made when the first generation without a cgroup is looked at.
    children: Option<BTreeMap<i32, Vec<i32>>>,
}

/// So many processes are read by more than one thread: a thousand take ten milliseconds.
const MANY: usize = 128;
/// Threads that read them at most.
const READERS: usize = 4;

impl Moment {
    /// Reads those that were not read yet.
    fn read(&mut self, proc: &Proc, pids: impl IntoIterator<Item = i32>) {
        let new: Vec<i32> = pids.into_iter().filter(|pid| !self.stats.contains_key(pid)).collect();
        let readers = if new.len() < MANY { 1 } else { std::thread::available_parallelism().map_or(1, usize::from).min(READERS) };
        let read = |pids: &[i32]| pids.iter().map(|pid| (*pid, proc.stat(*pid).ok())).collect::<Vec<_>>();
        std::thread::scope(|scope| {
            let mut parts = new.chunks(new.len().div_ceil(readers).max(1));
            let ours = parts.next().unwrap_or_default();
            let others: Vec<_> = parts.map(|part| scope.spawn(|| read(part))).collect();
            self.stats.extend(read(ours));
            for other in others {
                // What nobody has read is read when it is asked for.
                self.stats.extend(other.join().unwrap_or_default());
            }
        });
    }

    fn stat(&mut self, proc: &Proc, pid: i32) -> Option<&Stat> {
        self.stats.entry(pid).or_insert_with(|| proc.stat(pid).ok()).as_ref()
    }

    /// The process and all below it.
    fn below(&mut self, proc: &Proc, pid: i32) -> BTreeSet<i32> {
        if self.children.is_none() {
            let pids = proc.pids().unwrap_or_default();
            self.read(proc, pids.iter().copied());
            let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
            for pid in pids {
                if let Some(stat) = self.stat(proc, pid) {
                    children.entry(stat.ppid).or_default().push(pid);
                }
            }
            self.children = Some(children);
        }
        let mut found = BTreeSet::from([pid]);
        let mut todo = vec![pid];
        while let Some(pid) = todo.pop() {
            for child in self.children.iter().filter_map(|children| children.get(&pid)).flatten() {
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
        let cgroup2 = mount_point(&mounts).and_then(|point| openat(CWD, &point, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok());
        Some(Self { proc, page: rustix::param::page_size() as u64, cgroup2, cgroups: HashMap::new() })
    }

    /// These processes now, and others once they are asked for.
    pub(crate) fn moment(&self, pids: impl IntoIterator<Item = i32>) -> Moment {
        let mut moment = Moment::default();
        moment.read(&self.proc, pids);
        moment
    }

    /// What a generation uses whose main process is this one; it must live.
    pub(crate) fn look(&mut self, main: i32, moment: &mut Moment) -> Usage {
        if let Some(cgroup) = self.cgroup_of(main, moment) {
            let usage = self.in_cgroup(&cgroup);
            if usage.memory.is_some() && usage.cpu.is_some() {
                return usage;
            }
            // Without its controller a cgroup does not know about memory, but it knows the processes.
            let pids = self.pids(&cgroup);
            if !pids.is_empty() {
                let summed = self.sum(&pids, moment);
                return Usage { cpu: usage.cpu.or(summed.cpu), ..summed };
            }
        }
        let pids = moment.below(&self.proc, main);
        self.sum(&pids, moment)
    }

    /// Where it looks.
    pub(crate) fn proc(&self) -> &Proc {
        &self.proc
    }

    /// What is in the cgroup that the keeper made for the generation with this main process; nothing if there is none.
    pub(crate) fn in_cgroup_of(&mut self, main: i32) -> BTreeSet<i32> {
        self.cgroup_of(main, &mut Moment::default()).map(|cgroup| self.pids(&cgroup)).unwrap_or_default()
    }

    /// Resident memory in bytes and processor time so far of one process.
    pub(crate) fn one(&self, stat: &Stat) -> (u64, Duration) {
        (stat.resident_pages * self.page, Duration::from_millis(stat.cpu_ticks.saturating_mul(1000 / USER_HZ)))
    }

    /// Its state letter in `/proc/PID/stat`, and its name.
    pub(crate) fn process(&self, pid: i32, moment: &mut Moment) -> Option<(char, String)> {
        use std::os::unix::ffi::OsStrExt as _;
        let stat = moment.stat(&self.proc, pid)?;
        Some((stat.state, stayput_model::text::printable_bytes(stat.comm.as_bytes())))
    }

    fn cgroup_of(&mut self, main: i32, moment: &mut Moment) -> Option<PathBuf> {
        let started = moment.stat(&self.proc, main)?.start_ticks;
        if self.cgroups.len() > 4096 {
            self.cgroups.clear();
        }
        if let Some(known) = self.cgroups.get(&(main, started)) {
            return known.clone();
        }
        let found = self.proc.cgroup(main).ok().flatten().and_then(|path| {
            let ours = path.file_name()?.to_str()?.starts_with(CGROUP);
            let below = path.strip_prefix("/").unwrap_or(&path).to_owned();
            // A cgroup namespace may show a path that is not below this mount.
            (ours && self.read(&below, "cgroup.procs").is_some()).then_some(below)
        });
        self.cgroups.insert((main, started), found.clone());
        found
    }

    /// The sum over processes; one that ended meanwhile uses nothing.
    fn sum(&self, pids: &BTreeSet<i32>, moment: &mut Moment) -> Usage {
        let mut sum = Usage { processes: Some(0), by_cgroup: false, ..Usage::nothing() };
        for pid in pids {
            if let Some(stat) = moment.stat(&self.proc, *pid) {
                let (memory, cpu) = self.one(stat);
                sum = sum.and(Usage { memory: Some(memory), cpu: Some(cpu), processes: Some(1), by_cgroup: false });
            }
        }
        if sum.processes == Some(0) { Usage::default() } else { sum }
    }

    /// cgroup-v2.rst: `memory.current` in bytes, `usage_usec` of `cpu.stat`, `pids.current`; each is there if its controller is enabled,
    /// `cpu.stat` always.
    fn in_cgroup(&self, cgroup: &Path) -> Usage {
        let number = |file: &str| self.read(cgroup, file)?.trim().parse::<u64>().ok();
        let Some(memory) = number("memory.current") else { return Usage { cpu: self.cpu_of(cgroup), ..Usage::default() } };
        let counted = || u32::try_from(self.pids(cgroup).len()).ok();
        Usage {
            memory: Some(memory),
            cpu: self.cpu_of(cgroup),
            processes: number("pids.current").and_then(|pids| u32::try_from(pids).ok()).or_else(counted),
            by_cgroup: true,
        }
    }

    fn cpu_of(&self, cgroup: &Path) -> Option<Duration> {
        let text = self.read(cgroup, "cpu.stat")?;
        text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok()).map(Duration::from_micros)
    }

    fn pids(&self, cgroup: &Path) -> BTreeSet<i32> {
        let text = self.read(cgroup, "cgroup.procs").unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    fn read(&self, cgroup: &Path, file: &str) -> Option<String> {
        let fd = openat(self.cgroup2.as_ref()?, cgroup.join(file), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut text = String::new();
        std::fs::File::from(fd).read_to_string(&mut text).ok()?;
        Some(text)
    }
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
    fn we_are_seen_ourselves() {
        let mut gauge = Gauge::open().unwrap();
        let us = rustix::process::getpid().as_raw_nonzero().get();
        let usage = gauge.look(us, &mut Moment::default());
        assert!(usage.memory.is_some_and(|bytes| bytes > 100_000), "{usage:?}");
        assert!(usage.processes.is_some_and(|count| count >= 1), "{usage:?}");
        assert_eq!(gauge.process(us, &mut Moment::default()).map(|(state, _)| state == 'R' || state == 'S'), Some(true));
        assert_eq!(gauge.look(i32::MAX, &mut Moment::default()), Usage::default(), "nobody");
    }

    #[test]
    fn sums_are_known_only_if_both_are() {
        let one = Usage { memory: Some(1), cpu: Some(Duration::from_secs(1)), processes: Some(1), by_cgroup: true };
        let sum = one.and(Usage { memory: None, by_cgroup: false, ..one });
        assert_eq!((sum.memory, sum.cpu, sum.processes, sum.by_cgroup), (None, Some(Duration::from_secs(2)), Some(2), false));
        assert_eq!(one.and(Usage::nothing()), one);
    }
}

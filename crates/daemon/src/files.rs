//! Files whose change restarts a service: directories are watched by inotify, changes are matched, and told when it has been quiet for a while.
//!
//! One inotify instance serves all services, for a user has only 128 of them. It watches directories, since a file that an editor writes anew and
//! renames has another inode each time. `plan` says which directories; a directory that comes, goes or moves makes the plan anew.

mod ignore;
mod plan;

use crate::reactor::{Message, Reactor};
use crate::say::Mark;
use crate::watch::watch;
use plan::{Globs, Plan};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use stayput_model::event::Event;
use stayput_model::text::printable_bytes;
use stayput_wire::WatchStatus;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

/// Changes that never end are told after so many times the debounce, and at least this.
const LONGEST_DEBOUNCES: u32 = 10;
const LONGEST: Duration = Duration::from_secs(2);
/// Changed paths that are told apart.
const APART: usize = 10_000;

/// All that is watched.
#[derive(Debug)]
pub(crate) struct Watcher {
    inotify: AsyncFd<OwnedFd>,
    state: RefCell<State>,
    /// A time to wait for has come or gone.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    services: BTreeMap<String, Watched>,
    directories: BTreeMap<i32, Directory>,
}

#[derive(Debug)]
struct Directory {
    path: PathBuf,
    services: BTreeSet<String>,
}

/// The files of one service.
#[derive(Debug)]
struct Watched {
    globs: Globs,
    debounce: Duration,
    plan: Plan,
    /// Watched for it.
    directories: BTreeSet<i32>,
    /// What cannot be watched, as it was told.
    problem: Option<String>,
    changes: Changes,
}

/// What has changed and was not told yet.
#[derive(Debug, Default)]
struct Changes {
    first: Option<PathBuf>,
    paths: BTreeSet<PathBuf>,
    /// When it is told, and at the latest.
    due: Option<(Instant, Instant)>,
}

impl Watcher {
    fn start(to: UnboundedSender<Message>) -> io::Result<Rc<Self>> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let inotify = watch(inotify, Interest::READABLE)?;
        let watcher = Rc::new(Self { inotify, state: RefCell::default(), changed: Notify::new() });
        tokio::task::spawn_local(Rc::clone(&watcher).run(to));
        Ok(watcher)
    }

    async fn run(self: Rc<Self>, to: UnboundedSender<Message>) {
        loop {
            let due = self.state.borrow().next_due();
            let wait = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                ready = self.inotify.readable() => {
                    let Ok(mut ready) = ready else { return };
                    let problems = self.read();
                    ready.clear_ready();
                    for (service, mark, text) in problems {
                        let _ = to.send(Message::Tell(service, mark, text));
                    }
                }
                () = self.changed.notified() => {}
                () = wait => {
                    for event in self.state.borrow_mut().due(Instant::now()) {
                        // The reactor is gone only when the daemon ends.
                        let _ = to.send(Message::World(event));
                    }
                }
            }
        }
    }

    /// Takes all that the kernel has to tell. What there is to say of a service comes back.
    fn read(&self) -> Vec<(String, Mark, String)> {
        let mut state = self.state.borrow_mut();
        let mut anew = BTreeSet::new();
        let mut buffer = [std::mem::MaybeUninit::uninit(); 16 * 1024];
        let mut reader = inotify::Reader::new(self.inotify.get_ref(), &mut buffer);
        while let Ok(event) = reader.next() {
            let name = event.file_name().map(|name| name.to_bytes().to_vec());
            state.note(event.wd(), event.events(), name, &mut anew);
        }
        let mut said = Vec::new();
        for service in anew {
            said.extend(self.plan_anew(&mut state, &service, true));
        }
        said
    }

    /// Watches what is to be watched now, no more and no less. `late`: what is in directories that are new by now has changed.
    fn plan_anew(&self, state: &mut State, name: &str, late: bool) -> Vec<(String, Mark, String)> {
        let Some(mut watched) = state.services.remove(name) else { return Vec::new() };
        let plan = Plan::make(&watched.globs);
        let mut refused: BTreeMap<i32, (usize, PathBuf)> = BTreeMap::new();
        let before = std::mem::take(&mut watched.directories);
        for path in plan.directories.iter().chain(&plan.waiting) {
            match inotify::add_watch(self.inotify.get_ref(), path, flags()) {
                Ok(number) => {
                    watched.directories.insert(number);
                    let directory = state.directories.entry(number);
                    let directory = directory.or_insert_with(|| Directory { path: path.clone(), services: BTreeSet::new() });
                    // A directory that was moved keeps its number.
                    directory.path.clone_from(path);
                    directory.services.insert(name.to_owned());
                    if late && !before.contains(&number) && plan.directories.contains(path) {
                        watched.note_all(path, &plan);
                    }
                }
                // It went between the look and the watch: its parent tells.
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => refused.entry(error.raw_os_error()).or_insert_with(|| (0, path.clone())).0 += 1,
            }
        }
        for number in before.difference(&watched.directories) {
            self.release(state, name, *number);
        }
        let mut said = Vec::new();
        let gone: Vec<&PathBuf> = plan.missing.iter().filter(|path| !late || !watched.plan.missing.contains(*path)).collect();
        let back: Vec<&PathBuf> = watched.plan.missing.iter().filter(|path| !plan.missing.contains(*path)).collect();
        for path in gone {
            let text = format!("{} is not there: its files are watched as soon as it is", shown(path));
            said.push((name.to_owned(), Mark::Trouble, text));
        }
        for path in back {
            said.push((name.to_owned(), Mark::Good, format!("{} is there: its files are watched", shown(path))));
        }
        let problem = complaint(&refused, plan.truncated);
        if let Some(problem) = problem.as_ref().filter(|problem| watched.problem.as_ref() != Some(problem)) {
            said.push((name.to_owned(), Mark::Trouble, problem.clone()));
        }
        (watched.problem, watched.plan) = (problem, plan);
        state.services.insert(name.to_owned(), watched);
        self.changed.notify_one();
        said
    }

    /// A service needs this directory no more.
    fn release(&self, state: &mut State, name: &str, number: i32) {
        let Some(directory) = state.directories.get_mut(&number) else { return };
        directory.services.remove(name);
        if directory.services.is_empty() {
            state.directories.remove(&number);
            // EINVAL: it is gone, and its watch with it.
            let _ = inotify::remove_watch(self.inotify.get_ref(), number);
        }
    }

    fn set(&self, name: &str, globs: Globs, debounce: Duration) -> Vec<(String, Mark, String)> {
        self.remove(name);
        let mut state = self.state.borrow_mut();
        let watched =
            Watched { globs, debounce, plan: Plan::default(), directories: BTreeSet::new(), problem: None, changes: Changes::default() };
        state.services.insert(name.to_owned(), watched);
        self.plan_anew(&mut state, name, false)
    }

    pub(crate) fn remove(&self, name: &str) {
        let mut state = self.state.borrow_mut();
        let Some(watched) = state.services.remove(name) else { return };
        for number in watched.directories {
            self.release(&mut state, name, number);
        }
        self.changed.notify_one();
    }

    /// How it stands with the files of a service.
    pub(crate) fn standing(&self, name: &str) -> Option<WatchStatus> {
        let state = self.state.borrow();
        let watched = state.services.get(name)?;
        let directories = watched
            .directories
            .iter()
            .filter(|number| state.directories.get(number).is_some_and(|it| watched.plan.directories.contains(&it.path)));
        let missing = watched.plan.missing.iter().map(|path| format!("{} is not there", shown(path)));
        let problems: Vec<String> = missing.chain(watched.problem.clone()).collect();
        Some(WatchStatus { directories: directories.count() as u64, problem: (!problems.is_empty()).then(|| problems.join("; ")) })
    }
}

/// What is of interest about a directory: files that were written and closed, came or went, and its own end.
fn flags() -> WatchFlags {
    WatchFlags::CLOSE_WRITE
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR
        | WatchFlags::EXCL_UNLINK
}

/// Why directories cannot be watched, and what helps.
fn complaint(refused: &BTreeMap<i32, (usize, PathBuf)>, truncated: bool) -> Option<String> {
    let limit = |name: &str| std::fs::read_to_string(format!("/proc/sys/fs/inotify/{name}")).ok().map(|limit| limit.trim().to_owned());
    let words = refused.iter().map(|(error, (count, path))| {
        let count = directories(*count as u64);
        if *error == Errno::NOSPC.raw_os_error() {
            let limit = limit("max_user_watches").map_or_else(String::new, |limit| format!(" ({limit})"));
            format!(
                "{count} cannot be watched: this user has as many watches as fs.inotify.max_user_watches allows{limit}; \
                 sudo sysctl fs.inotify.max_user_watches=524288, or watch fewer directories"
            )
        } else {
            format!("{count} cannot be watched ({}: {})", shown(path), io::Error::from_raw_os_error(*error))
        }
    });
    let deep = truncated.then(|| format!("more than {} directories match: the others are not watched", plan::MOST));
    let words: Vec<String> = words.chain(deep).collect();
    (!words.is_empty()).then(|| words.join("; "))
}

/// "1 directory", "2 directories".
pub(crate) fn directories(count: u64) -> String {
    if count == 1 { "1 directory".to_owned() } else { format!("{count} directories") }
}

fn shown(path: &Path) -> String {
    printable_bytes(path.as_os_str().as_bytes())
}

impl State {
    /// One event of the kernel.
    fn note(&mut self, number: i32, events: ReadFlags, name: Option<Vec<u8>>, anew: &mut BTreeSet<String>) {
        if events.contains(ReadFlags::QUEUE_OVERFLOW) {
            // What happened is lost; that something did is not.
            for (service, watched) in &mut self.services {
                watched.changes.add(watched.globs.root.clone(), watched.debounce);
                anew.insert(service.clone());
            }
            return;
        }
        let Some(directory) = self.directories.get(&number) else { return };
        let (path, services) = (directory.path.clone(), directory.services.clone());
        if events.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED | ReadFlags::UNMOUNT) {
            if events.contains(ReadFlags::IGNORED) {
                self.directories.remove(&number);
                for service in &services {
                    if let Some(watched) = self.services.get_mut(service) {
                        watched.directories.remove(&number);
                    }
                }
            }
            anew.extend(services);
            return;
        }
        let Some(name) = name else { return };
        let path = path.join(std::ffi::OsString::from_vec(name));
        let is_directory = events.contains(ReadFlags::ISDIR);
        for service in services {
            let Some(watched) = self.services.get_mut(&service) else { continue };
            // The rules themselves may have changed, and a directory has others in it.
            if watched.plan.hangs_on(&path, is_directory) || ignore::is_rules(&path) {
                anew.insert(service);
            }
            if !is_directory {
                watched.note(&path);
            }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.services.values().filter_map(|watched| watched.changes.due).map(|(due, latest)| due.min(latest)).min()
    }

    fn due(&mut self, now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        for (service, watched) in &mut self.services {
            if watched.changes.due.is_some_and(|(due, latest)| due.min(latest) <= now) {
                let changes = std::mem::take(&mut watched.changes);
                let first = changes.first.unwrap_or_default();
                let path = shown(first.strip_prefix(&watched.globs.root).unwrap_or(&first));
                let count = u32::try_from(changes.paths.len()).unwrap_or(u32::MAX);
                events.push(Event::FilesChanged { service: service.clone(), path, count });
            }
        }
        events
    }
}

impl Watched {
    /// A file changed: counts if it is one of those that are watched.
    fn note(&mut self, path: &Path) {
        if self.globs.is_watched(path) && !self.plan.rules.ignores(path, false) {
            self.changes.add(path.to_owned(), self.debounce);
        }
    }

    /// All that is in a directory that was not watched before.
    fn note_all(&mut self, directory: &Path, plan: &Plan) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| !kind.is_dir()) && self.globs.is_watched(&path) && !plan.rules.ignores(&path, false) {
                self.changes.add(path, self.debounce);
            }
        }
    }
}

impl Changes {
    fn add(&mut self, path: PathBuf, debounce: Duration) {
        let now = Instant::now();
        let latest = self.due.map_or_else(|| now + (debounce * LONGEST_DEBOUNCES).max(LONGEST), |(_, latest)| latest);
        self.due = Some((now + debounce, latest));
        self.first.get_or_insert_with(|| path.clone());
        if self.paths.len() < APART {
            self.paths.insert(path);
        }
    }
}

impl Reactor {
    /// Watches the files of a service, as its configuration says now.
    pub(crate) fn watch_files(&mut self, service: &str) {
        let Some(config) = self.world.services.get(service).map(|service| &service.config) else { return };
        let root = PathBuf::from(std::ffi::OsString::from_vec(config.cwd.clone()));
        let globs = Globs::new(root, &config.watch, &config.watch_ignore);
        let debounce = config.watch_debounce;
        if self.watcher.is_none() {
            match Watcher::start(self.to.clone()) {
                Ok(watcher) => self.watcher = Some(watcher),
                Err(error) => {
                    let helps = match error.raw_os_error().map(Errno::from_raw_os_error) {
                        Some(Errno::MFILE) => "; sudo sysctl fs.inotify.max_user_instances=1024, or fewer programs that watch",
                        _ => "",
                    };
                    return self.tell(service, Mark::Trouble, &format!("its files cannot be watched: inotify_init: {error}{helps}"));
                }
            }
        }
        let said = self.watcher.as_ref().map(|watcher| watcher.set(service, globs, debounce)).unwrap_or_default();
        for (service, mark, text) in said {
            self.tell(&service, mark, &text);
        }
    }
}

#[cfg(test)]
mod tests;

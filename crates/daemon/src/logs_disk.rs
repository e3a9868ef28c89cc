//! Output that is kept on disk: who writes it where, and what is read of it for failure reports. Nothing here reads a pipe: the pump's thread
//! moves what services write into files, and everybody else reads those.

use crate::console::Console;
use crate::logs::show;
use crate::logs_show::{Show, Shown};
use crate::reactor::{Message, Reactor};
use crate::say::Mark;
use stayput_keeper::protocol::DescriptorKind;
use stayput_logs::{Bell, Item, Limits, Policy, Pump, PumpEvent, Query, Reader, Services, Store, Stream, Track, Which};
use stayput_model::config::{LogPolicy, LogsConfig, Readiness, ReportStyle};
use stayput_model::event::{Event, GenerationId};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// The logs of the instance on disk.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) store: Arc<Store>,
    pub(crate) bell: Bell,
    /// When this run of the instance began.
    pub(crate) run: u64,
    pub(crate) pump: Pump,
    pub(crate) show: Show,
}

/// What the threads tell the reactor.
#[derive(Debug)]
pub(crate) enum FromLogs {
    /// The pump.
    Pump(PumpEvent),
    /// A line meant something.
    World(Event),
}

/// Where the output of a generation is.
#[derive(Debug, Clone)]
pub(crate) struct OnDisk {
    store: Arc<Store>,
    service: String,
    run: u64,
    generation: u64,
}

impl OnDisk {
    /// The last lines, printable. Nothing if they cannot be read: this is for reports of something else.
    pub(crate) fn last(&self, count: usize) -> Vec<String> {
        let query = Query {
            services: Services::one(&self.service),
            generation: Which::One { run: self.run, generation: self.generation },
            last: Some(count),
            ..Query::default()
        };
        let Ok(mut reader) = Reader::new(Arc::clone(&self.store), query) else { return Vec::new() };
        let items = std::iter::from_fn(|| reader.next_item().ok().flatten());
        items.filter_map(|item| if let Item::Line(line) = item { Some(show(&line.text(), false)) } else { None }).collect()
    }
}

impl Disk {
    /// Opens the logs; with `fresh` a new run of the instance begins.
    ///
    /// # Errors
    /// Why they cannot be used, as a sentence without a full stop.
    pub(crate) fn open(
        config: &LogsConfig,
        fresh: bool,
        console: Console,
        style: ReportStyle,
        to: UnboundedSender<FromLogs>,
    ) -> Result<Self, String> {
        let path = Path::new(std::ffi::OsStr::from_bytes(&config.directory));
        let store = Arc::new(Store::create(path).map_err(|error| error.to_string())?);
        let now = stayput_logs::pump::now();
        // A run that cannot be written down (the disk is full) is this daemon's alone: the next one begins another.
        let run = if fresh { None } else { store.run() }.unwrap_or_else(|| store.begin_run(now).unwrap_or(now));
        let bell = Bell::default();
        let show = Show::start(&bell, console, style, to.clone());
        let tell = move |event| {
            // The reactor is gone only when the daemon ends.
            let _ = to.send(FromLogs::Pump(event));
        };
        let pump = Pump::start(Arc::clone(&store), bell.clone(), tell).map_err(|error| format!("the thread that writes them: {error}"))?;
        Ok(Self { store, bell, run, pump, show })
    }
}

/// What becomes of a service's output.
fn policy(config: &LogsConfig, service: &LogPolicy) -> Policy {
    Policy {
        limits: Limits { max_size: service.max_size.unwrap_or(config.max_size), max_age: service.max_age.or(config.max_age) },
        segment: config.segment,
        block: service.block,
        compress: config.compress,
    }
}

impl Reactor {
    /// Opens the logs on disk if the configuration wants them. If they cannot be used, that is said, and output goes the way through
    /// memory: services run all the same.
    pub(crate) fn open_logs(&mut self, fresh: bool) {
        let Some(config) = &self.world.logs else { return };
        let (threads, mut from_threads) = unbounded_channel();
        match Disk::open(config, fresh, self.console.clone(), self.world.report, threads) {
            Ok(disk) => {
                self.disk = Some(disk);
                let to = self.to.clone();
                tokio::task::spawn_local(async move {
                    while let Some(message) = from_threads.recv().await {
                        // The reactor is gone only when the daemon ends.
                        let _ = to.send(match message {
                            FromLogs::Pump(event) => Message::Logs(event),
                            FromLogs::World(event) => Message::World(event),
                        });
                    }
                });
            }
            Err(why) => {
                let name = self.world.name.clone();
                self.tell(&name, Mark::Trouble, &format!("the output of services is not kept: {why}"));
            }
        }
    }

    /// Keeps a stream on disk; gives the pipe back if it cannot be.
    pub(crate) fn keep(&mut self, generation: GenerationId, kind: DescriptorKind, pipe: OwnedFd) -> Result<OnDisk, OwnedFd> {
        let stream = match kind {
            DescriptorKind::Output => Stream::Stdout,
            DescriptorKind::Error => Stream::Stderr,
            DescriptorKind::Notify => return Err(pipe),
        };
        let (Some(disk), Some(config), Some(service)) = (&mut self.disk, &self.world.logs, self.world.service_of(generation)) else {
            return Err(pipe);
        };
        let name = service.config.name.clone();
        let track = Track { run: disk.run, generation: generation.0, stream };
        let dir = match disk.store.service(&name, true) {
            Ok(dir) => Arc::new(dir),
            Err(error) => {
                self.tell(&name, Mark::Trouble, &format!("its output is not kept: {error}"));
                return Err(pipe);
            }
        };
        let ready = match &service.config.readiness {
            Readiness::Log { pattern } => regex_lite::Regex::new(pattern).ok(),
            Readiness::Accept | Readiness::Http { .. } | Readiness::Notify => None,
        };
        disk.show.add(Shown::new(dir, track, generation, ready));
        let policy = policy(config, &service.config.log);
        if let Err(error) = disk.pump.attach(&name, track, pipe, policy) {
            self.tell(&name, Mark::Trouble, &format!("its output is lost: {error}"));
        }
        let disk = self.disk.as_ref().map(|disk| (Arc::clone(&disk.store), disk.run));
        let Some((store, run)) = disk else { unreachable!("it was there a moment ago") };
        Ok(OnDisk { store, service: name, run, generation: generation.0 })
    }

    /// The configuration changed: what is written from now on is kept by it.
    pub(crate) fn apply_log_policies(&mut self) {
        let (Some(disk), Some(config)) = (&self.disk, &self.world.logs) else { return };
        for service in self.world.services.values() {
            disk.pump.set_policy(&service.config.name, policy(config, &service.config.log));
        }
    }

    /// Bytes written and dropped, by service; none where output is not kept on disk.
    pub(crate) fn logged_bytes(&mut self) -> BTreeMap<String, (u64, u64)> {
        let Some(disk) = &mut self.disk else { return BTreeMap::new() };
        let names = self.world.services.keys();
        let count = |name: &String| {
            let counters = disk.pump.counters(name);
            (name.clone(), (counters.written.load(Ordering::Relaxed), counters.dropped.load(Ordering::Relaxed)))
        };
        names.map(count).collect()
    }

    /// What the pump has to say.
    pub(crate) fn logs_told(&mut self, event: PumpEvent) {
        match event {
            PumpEvent::Ended(service, track) => {
                if let Some(disk) = &self.disk {
                    disk.show.ended(&service, track);
                    if track.run == disk.run {
                        self.output_ended(GenerationId(track.generation));
                    }
                }
            }
            PumpEvent::Trouble { service, track, call, error, block } => {
                let what = if block { "it waits until it can" } else { "it is dropped and counted" };
                let generation = track.generation;
                self.tell(
                    &service,
                    Mark::Trouble,
                    &format!("generation {generation}: its output cannot be written ({call}: {error}); {what}"),
                );
            }
            PumpEvent::Recovered { service, track, dropped } => {
                let generation = track.generation;
                let text = format!("generation {generation}: its output is written again; {dropped} bytes of it are missing");
                self.tell(&service, if dropped == 0 { Mark::Good } else { Mark::Trouble }, &text);
            }
        }
    }
}

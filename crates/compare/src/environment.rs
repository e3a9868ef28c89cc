//! Where it runs: read from the kernel, never guessed.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::Options;
use crate::result::Environment;
use crate::scenario::{BOOT, RATE, under};

pub(crate) fn environment(options: &Options) -> Environment {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let drain = under::drain(options.quick);
    let mut notes = vec![format!(
        "stayput ran with --soak {} ms and --drain {} ms instead of 10 s and 30 s, so that you need not wait for them",
        under::SOAK.as_millis(),
        drain.as_millis()
    )];
    if options.quick {
        notes.push("--quick: the wait for TIME_WAIT is cut after 5 s, and scenarios run beside each other".to_owned());
    }
    Environment {
        started_unix: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        took_ms: 0,
        mode: if options.quick { "quick" } else { "full" },
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        cpu: model.map_or_else(String::new, |(_, name)| name.trim().to_owned()),
        load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
        stayput: options.version.clone(),
        build: if cfg!(debug_assertions) { "debug" } else { "release" },
        uid: rustix::process::geteuid().as_raw(),
        address: "127.0.0.1",
        boot_ms: BOOT.as_millis() as u64,
        rate: RATE,
        command: (!options.command.is_empty()).then(|| options.command.iter().map(|word| word.to_string_lossy().into_owned()).collect()),
        notes,
    }
}

//! The processes of a service that has none: a main process with workers, one of them with things that could not be looked at.

use stayput_wire::{Evidence, GenerationStatus, ListenerOpen, Measured, ProcessFacts, Processes, ServiceStatus};

use super::now_ms;

/// Workers below each main process.
const WORKERS: i32 = 3;

fn one(service: &ServiceStatus, generation: &GenerationStatus, number: i32) -> ProcessFacts {
    let open = match generation.connections {
        Measured::Count(count) => count,
        Measured::NotMeasured => 0,
    };
    let seed = u64::from(number.unsigned_abs());
    let blind = service.name == "mail" && number == 2;
    let share = if number == 0 { 0 } else { (open + seed - 1) / u64::from(WORKERS.unsigned_abs()) };
    ProcessFacts {
        pid: generation.pid + number,
        parent: if number == 0 { 4711 } else { generation.pid },
        generation: generation.id,
        main: number == 0,
        command: if number == 0 { service.command.clone() } else { format!("{} --worker {number}", service.command) },
        user: (!blind).then(|| "www-data".to_owned()),
        state: if number == 1 { 'R' } else { 'S' },
        started_ms: Some(now_ms() - generation.since_ms - 1_000 * seed),
        threads: 1 + 3 * u32::from(number > 0),
        memory: Measured::Count(38_000_000 + 11_300_000 * seed),
        cpu_permille: if blind { Measured::NotMeasured } else { Measured::Count(4 + 29 * seed) },
        listeners: (!blind).then(|| {
            let told = |port: u16, inode| ListenerOpen { address: format!("127.0.0.1:{port}"), inode };
            generation.listeners.iter().map(|listener| told(listener.port, listener.inode)).collect()
        }),
        connections: if blind { Measured::NotMeasured } else { Measured::Count(share) },
    }
}

pub(super) fn of(service: &ServiceStatus) -> Processes {
    let all = service.generations.iter().flat_map(|generation| (0..=WORKERS).map(|number| one(service, generation, number)));
    Processes {
        service: service.name.clone(),
        processes: all.collect(),
        left_out: 0,
        evidence: Evidence { source: "procfs, sock_diag".to_owned(), age_ms: 0 },
    }
}

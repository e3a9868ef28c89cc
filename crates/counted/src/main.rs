//! What `cargo xtask bench instructions` counts the instructions of: `counted NAME` prepares a case and runs it once, `counted` lists the cases.
//!
//! Callgrind counts while a function of [`measured`] runs, and nothing else; so a count is the same on a busy machine and on an idle one, and a
//! regression is seen that no clock would show. What it prepares is what the benches of the crates measure.
#![expect(clippy::print_stdout, reason = "its list is its output")]

#[path = "../../kernel/benches/message/mod.rs"]
mod message;
#[path = "../../model/benches/play/mod.rs"]
mod play;

use std::hint::black_box;
use std::process::ExitCode;

use stayput_model::event::Event;
use stayput_wire::codec::{decode, encode};
use stayput_wire::status::ServiceStatus;

/// Longer than anything here.
const LIMIT: usize = 16 * 1024 * 1024;
/// Parsed at once: a single one is too little to count.
const SOCKETS: usize = 100;

/// What is counted. Not inlined: callgrind knows a function by its symbol.
mod measured {
    use super::{Event, LIMIT, SOCKETS, ServiceStatus, black_box, decode, encode, play};
    use stayput_model::mono::Mono;
    use stayput_model::world::World;

    #[inline(never)]
    pub(crate) fn tick(world: &mut World, now: Mono) {
        black_box(world.step(Event::Tick, now));
    }

    #[inline(never)]
    pub(crate) fn restart(world: &mut World, now: Mono) {
        black_box(play::play(world, Event::Restart { service: play::name(0) }, now));
    }

    #[inline(never)]
    pub(crate) fn encode_status(all: &[ServiceStatus]) -> Vec<u8> {
        encode(&all, LIMIT).unwrap_or_default()
    }

    #[inline(never)]
    pub(crate) fn decode_status(line: &[u8]) -> usize {
        decode::<Vec<ServiceStatus>>(line).map(|all| all.len()).unwrap_or_default()
    }

    #[inline(never)]
    pub(crate) fn parse_sockets(bytes: &[u8]) -> usize {
        (0..SOCKETS).filter(|_| black_box(stayput_kernel::sock_diag::parse_inet(black_box(bytes))).is_some()).count()
    }
}

fn services(count: usize) -> Vec<ServiceStatus> {
    (0..count).map(|number| ServiceStatus::named(&format!("service-{number}"))).collect()
}

type Case = (&'static str, fn() -> bool);

/// Each says whether what was counted did what it was to do.
const CASES: [Case; 7] = [
    ("world: a tick, 1 service", || tick(1)),
    ("world: a tick, 1000 services", || tick(1000)),
    ("world: a restart until the switch, 1 service", || restart(1)),
    ("world: a restart until the switch, 1000 services", || restart(1000)),
    ("codec: encode the status of 50 services", || measured::encode_status(&services(50)).len() > 1000),
    ("codec: decode the status of 50 services", || measured::decode_status(&encode(&services(50), LIMIT).unwrap_or_default()) == 50),
    ("sock_diag: parse 100 sockets", || measured::parse_sockets(&message::message()) == SOCKETS),
];

fn tick(services: usize) -> bool {
    let (mut world, now) = play::serving(services);
    measured::tick(&mut world, now);
    true
}

fn restart(services: usize) -> bool {
    let (mut world, now) = play::serving(services);
    measured::restart(&mut world, now);
    true
}

fn main() -> ExitCode {
    let Some(wanted) = std::env::args().nth(1) else {
        for (name, _) in CASES {
            println!("{name}");
        }
        return ExitCode::SUCCESS;
    };
    match CASES.iter().find(|(name, _)| *name == wanted) {
        Some((_, case)) if case() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

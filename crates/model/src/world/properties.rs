//! What holds whatever happens. The simulation checks after every single step; here are the dice.

use super::sim::{Sim, WEB, address};
use crate::Blob;
use crate::config::{RestartPolicy, StopStep};
use crate::event::{DrainReport, Event, ExitStatus, GenerationId, ListenerId, StopWay};
use crate::service::{EADDRINUSE, Target};
use proptest::prelude::*;
use std::time::Duration;

#[derive(Debug, Clone, Copy)]
enum Act {
    Deliver(u8),
    Pass(u64),
    Listen(u64, u16),
    Ready(u64),
    EndMain(u64, i32),
    EndOthers(u64),
    Fork(u64),
    BindRefused(u64, u16),
    Drain(u64, u32, u32),
    Restart,
    Canary(u16, Option<u64>),
    Decide(bool),
    Disobey(bool),
    Refuse,
    ExecFails(bool),
    Take(u16),
    Free(u16),
    Store,
    DaemonDies,
    Stale,
}

fn act() -> impl Strategy<Value = Act> {
    let port = 80_u16..82;
    // Which generation, counted back from the newest.
    let which = 0_u64..4;
    prop_oneof![
        12 => (1_u8..8).prop_map(Act::Deliver),
        4 => prop_oneof![0_u64..300, 900_u64..12_000, Just(31_000), Just(61_000)].prop_map(Act::Pass),
        6 => (which.clone(), port.clone()).prop_map(|(g, p)| Act::Listen(g, p)),
        6 => which.clone().prop_map(Act::Ready),
        3 => (which.clone(), 0_i32..2).prop_map(|(g, s)| Act::EndMain(g, s)),
        1 => which.clone().prop_map(Act::EndOthers),
        1 => which.clone().prop_map(Act::Fork),
        1 => (which.clone(), port.clone()).prop_map(|(g, p)| Act::BindRefused(g, p)),
        3 => (which, 0_u32..3, 0_u32..3).prop_map(|(g, open, idle)| Act::Drain(g, open, idle)),
        4 => Just(Act::Restart),
        4 => (1_u16..1000, proptest::option::of(0_u64..5_000)).prop_map(|(share, ms)| Act::Canary(share, ms)),
        1 => any::<bool>().prop_map(Act::Decide),
        1 => any::<bool>().prop_map(Act::Disobey),
        1 => Just(Act::Refuse),
        1 => any::<bool>().prop_map(Act::ExecFails),
        1 => port.clone().prop_map(Act::Take),
        1 => port.prop_map(Act::Free),
        2 => Just(Act::Store),
        1 => Just(Act::DaemonDies),
        1 => Just(Act::Stale),
    ]
}

fn stored(sim: &Sim) -> Blob {
    Blob::State(Box::new(sim.world.clone()))
}

/// Events about what is long forgotten, or never was.
fn stale_events(generation: GenerationId) -> Vec<Event> {
    vec![
        Event::Spawned { generation, pid: 1 },
        Event::Executed { generation, untrapped: Some(1) },
        Event::MainExited { generation, status: ExitStatus::Unknown },
        Event::TreeEmpty { generation },
        Event::Ready { generation, evidence: String::new() },
        Event::Steered { generation },
        Event::SteerFailed { generation, what: String::new() },
        Event::Released { generation, queued: Some(3) },
        Event::Snapshot { to: generation, old: None },
        Event::Drain { generation, report: DrainReport::default() },
        Event::BindRefused { generation, address: address(80), errno: EADDRINUSE },
        Event::ListenerGone { listener: ListenerId(u64::MAX) },
        Event::Restart { service: "nobody".to_owned() },
    ]
}

fn run(sim: &mut Sim, act: Act) {
    let newest = sim.service().starts;
    let which = |back: u64| GenerationId(newest.saturating_sub(back).max(1));
    match act {
        Act::Deliver(count) => {
            for _ in 0..count {
                if let Some(event) = sim.queue.pop_front() {
                    sim.step(event);
                }
            }
        }
        Act::Pass(ms) => {
            let end = sim.now.plus(Duration::from_millis(ms));
            while let Some(deadline) = sim.world.next_deadline().filter(|deadline| *deadline <= end) {
                sim.now = deadline;
                sim.step(Event::Tick);
            }
            sim.now = end;
            sim.step(Event::Tick);
        }
        Act::Listen(back, port) => sim.listen(which(back), port),
        Act::Ready(back) => {
            let generation = which(back);
            if sim.procs.get(&generation).is_some_and(|proc| proc.executed) {
                sim.step(Event::Ready { generation, evidence: "dice".to_owned() });
            }
        }
        Act::EndMain(back, status) => sim.end_main(which(back), ExitStatus::Exited(status)),
        Act::EndOthers(back) => sim.end_others(which(back)),
        Act::Fork(back) => {
            if let Some(proc) = sim.procs.get_mut(&which(back)).filter(|proc| proc.main_lives) {
                proc.others_live = true;
            }
        }
        Act::BindRefused(back, port) => {
            sim.step(Event::BindRefused { generation: which(back), address: address(port), errno: EADDRINUSE });
        }
        Act::Drain(back, open, idle) => {
            let report = DrainReport { queued: 0, open, idle: idle.min(open), busy: open - idle.min(open) };
            sim.step(Event::Drain { generation: which(back), report });
        }
        Act::Restart => sim.step(Event::Restart { service: WEB.to_owned() }),
        Act::Canary(share, ms) => {
            let time = ms.map(Duration::from_millis);
            sim.step(Event::Canary { service: WEB.to_owned(), share, time });
        }
        Act::Decide(switch) => sim.step(Event::Decide { service: WEB.to_owned(), switch }),
        Act::Disobey(disobey) => sim.obey = !disobey,
        Act::Refuse => sim.refuse = true,
        Act::ExecFails(fails) => sim.exec_errno = fails.then_some(13),
        Act::Take(port) => drop(sim.taken.insert(address(port))),
        Act::Free(port) => sim.free(port),
        Act::Store => {
            let blob = stored(sim);
            let parts = blob.parts();
            assert_eq!(Blob::decode(&parts), Ok(blob));
            let Ok(Blob::State(world)) = Blob::decode(&parts) else { unreachable!() };
            sim.world = *world;
        }
        Act::DaemonDies => sim.daemon_dies(),
        Act::Stale => {
            let before = sim.world.clone();
            for id in [GenerationId(u64::MAX), sim.forgotten.first().copied().unwrap_or(GenerationId(u64::MAX))] {
                for event in stale_events(id) {
                    let effects = sim.world.step(event.clone(), sim.now);
                    assert!(effects.is_empty() && sim.world == before, "{event:?} changed something: {effects:?}");
                }
            }
        }
    }
}

/// Everybody obeys again, the service is stopped, and time passes.
fn end(sim: &mut Sim) {
    sim.exec_errno = None;
    let grace = sim.service().config.longest_stop();
    sim.step(Event::Shutdown { way: StopWay::Gentle, signal: Some(15) });
    sim.deliver();
    sim.pass(grace);
    assert_eq!(sim.picture(), "down");
    assert!(sim.exit.is_some(), "it did not end");
    let left: Vec<_> = sim.procs.keys().filter(|id| !sim.forgotten.contains(id)).collect();
    assert!(left.is_empty(), "never forgotten: {left:?}");
    assert!(sim.world.next_deadline().is_none());
    assert_eq!(sim.service().target, Target::Down);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens(
        acts in prop::collection::vec(act(), 1..120),
        overlap in any::<bool>(),
        declared in any::<bool>(),
        policy in prop_oneof![3 => Just(RestartPolicy::Always), 1 => Just(RestartPolicy::OnFailure), 1 => Just(RestartPolicy::Never)],
        soak in prop_oneof![Just(0_u64), Just(10)],
        grace in prop_oneof![Just(0_u64), Just(10)],
        steps in prop::collection::vec(prop_oneof![Just(0_u64), Just(3)], 0..3),
    ) {
        let mut sim = Sim::new(|config| {
            config.overlap = overlap;
            config.restart = policy;
            config.soak = Duration::from_secs(soak);
            config.grace = Duration::from_secs(grace);
            config.stop = steps.iter().map(|wait| StopStep { signal: 2, wait: Duration::from_secs(*wait) }).collect();
            if declared {
                config.ports = vec![address(80)];
            }
        });
        for act in acts {
            if sim.exit.is_some() {
                break;
            }
            run(&mut sim, act);
        }
        if sim.exit.is_none() {
            end(&mut sim);
        }
    }
}

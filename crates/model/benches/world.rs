//! What one decision costs: `World::step`, with one service and with many. `cargo bench -p stayput-model`.

use std::net::SocketAddr;

use divan::{Bencher, black_box};
use stayput_model::config::{InstanceConfig, Mode, ReportStyle, ServiceConfig};
use stayput_model::event::{Effect, Event, ListenerFacts, ListenerId, Origin};
use stayput_model::mono::Mono;
use stayput_model::world::World;

const SERVICES: [usize; 3] = [1, 50, 1000];

fn main() {
    // What is measured below is a whole restart: order, spawned, executed, listening, ready, steered.
    let (mut world, now) = serving(1);
    assert_eq!(play(&mut world, Event::Restart { service: name(0) }, now), 6);
    divan::main();
}

fn name(number: usize) -> String {
    format!("service-{number}")
}

/// An instance whose services all serve.
fn serving(services: usize) -> (World, Mono) {
    let all = (0..services).map(|number| ServiceConfig::new(name(number), vec![b"server".to_vec()])).collect();
    let config = InstanceConfig { services: all, ..InstanceConfig::new("bench", Mode::Run, ReportStyle::Plain) };
    let (mut world, now) = (World::new(config, 1), Mono(1_000_000_000));
    for number in 0..services {
        play(&mut world, Event::Start { service: name(number) }, now);
    }
    (world, now)
}

/// Steps, and answers the effects as a keeper and well-behaved servers do. Gives the number of steps.
fn play(world: &mut World, event: Event, now: Mono) -> usize {
    let mut queue = std::collections::VecDeque::from([event]);
    let mut steps = 0;
    while let Some(event) = queue.pop_front() {
        steps += 1;
        for effect in world.step(event, now) {
            match effect {
                Effect::Spawn { service, generation } => {
                    queue.push_back(Event::Spawned { generation, pid: 1000 + generation.0 as i32 });
                    queue.push_back(Event::Executed { generation, untrapped: None });
                    let facts = ListenerFacts {
                        id: ListenerId(generation.0),
                        service,
                        owner: Some(generation),
                        last_owner: None,
                        address: SocketAddr::from(([127, 0, 0, 1], 8000)),
                        v6only: false,
                        inode: 1,
                        origin: Origin::Adopted,
                        selected: false,
                    };
                    queue.push_back(Event::Listener(facts));
                    queue.push_back(Event::Ready { generation, evidence: "accepted".to_owned() });
                }
                Effect::Steer { generation, .. } => queue.push_back(Event::Steered { generation }),
                _ => {}
            }
        }
    }
    steps
}

/// Nothing happens: what an instance at rest pays for each turn of its reactor.
#[divan::bench(args = SERVICES)]
fn a_tick(bencher: Bencher<'_, '_>, services: usize) {
    let (mut world, now) = serving(services);
    bencher.bench_local(move || black_box(world.step(Event::Tick, now)));
}

/// When the reactor has to wake up next.
#[divan::bench(args = SERVICES)]
fn the_next_deadline(bencher: Bencher<'_, '_>, services: usize) {
    let (world, _) = serving(services);
    bencher.bench_local(move || black_box(world.next_deadline()));
}

/// An order to restart, and every step until the new generation has the connections.
#[divan::bench(args = SERVICES)]
fn a_restart_until_the_switch(bencher: Bencher<'_, '_>, services: usize) {
    bencher
        .with_inputs(|| serving(services))
        .bench_local_values(|(mut world, now)| black_box(play(&mut world, Event::Restart { service: name(0) }, now)));
}

//! An instance whose services all serve, and a keeper that answers each effect as it should: what the benches of this crate and the counts of
//! instructions (`crates/counted`) measure.

use std::net::SocketAddr;

use stayput_model::config::{InstanceConfig, Mode, ReportStyle, ServiceConfig};
use stayput_model::event::{Effect, Event, ListenerFacts, ListenerId, Origin};
use stayput_model::mono::Mono;
use stayput_model::world::World;

/// The name of a service.
pub(crate) fn name(number: usize) -> String {
    format!("service-{number}")
}

/// An instance whose services all serve.
pub(crate) fn serving(services: usize) -> (World, Mono) {
    let all = (0..services).map(|number| ServiceConfig::new(name(number), vec![b"server".to_vec()])).collect();
    let config = InstanceConfig { services: all, ..InstanceConfig::new("bench", Mode::Run, ReportStyle::Plain) };
    let (mut world, now) = (World::new(config, 1), Mono(1_000_000_000));
    for number in 0..services {
        play(&mut world, Event::Start { service: name(number) }, now);
    }
    (world, now)
}

/// Steps, and answers the effects as a keeper and well-behaved servers do. Gives the number of steps.
pub(crate) fn play(world: &mut World, event: Event, now: Mono) -> usize {
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

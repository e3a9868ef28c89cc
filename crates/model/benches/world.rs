//! What one decision costs: `World::step`, with one service and with many. `cargo bench -p stayput-model`.

mod play;

use divan::{Bencher, black_box};
use play::{name, play, serving};
use stayput_model::event::Event;

const SERVICES: [usize; 3] = [1, 50, 1000];

fn main() {
    // What is measured below is a whole restart: order, spawned, executed, listening, ready, steered.
    let (mut world, now) = serving(1);
    assert_eq!(play(&mut world, Event::Restart { service: name(0) }, now), 6);
    divan::main();
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

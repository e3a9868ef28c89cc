//! What the plan of a restart costs. `cargo bench -p stayput-keeper`.

fn main() {
    divan::main();
}

#[divan::bench(args = [1, 8, 64])]
fn plan_a_restart_with_workers(workers: u64) -> usize {
    stayput_keeper::measure::plan_restart(divan::black_box(workers))
}

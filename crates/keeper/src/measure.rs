//! The pure parts that nobody outside needs, for the micro-benchmarks.

use crate::protocol::ListenerId;
use crate::steering::Order;

/// Plans a restart of a generation with `workers` listeners of its own: the new ones join, are selected, and the old ones leave. Gives the number of
/// steps that the kernel would be told.
pub fn plan_restart(workers: u64) -> usize {
    let mut order = Order::default();
    let mut steps = order.found(ListenerId(1)).len();
    for old in 2..=workers {
        steps += order.join_selected(ListenerId(old)).len();
    }
    let new: Vec<ListenerId> = (1..=workers).map(|number| ListenerId(workers + number)).collect();
    for listener in &new {
        steps += order.join(*listener).len();
    }
    steps += order.end_fillers().len() + order.select(&new).len();
    for old in (1..=workers).map(ListenerId) {
        while let Some((_, filler)) = order.filler(1) {
            steps += filler.len();
        }
        steps += order.begin_leave(old).len() + order.end_leave(old, None).len();
    }
    steps
}

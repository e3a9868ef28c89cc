//! Watches the connections of a generation that drains or is on probation.
//!
//! The kernel has no event for "this connection has been idle for a while" and none for "a process accepted", so this looks
//! again and again: 20 ms after the start, then ever more rarely.

use crate::connections::{Observer, Question};
use crate::reactor::Message;
use stayput_model::event::{Event, GenerationId};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

const FIRST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_millis(500);

/// How often to look at the end, if the generation has `within` left: a hundredth, so that the wait for the next look is never
/// what takes the time.
fn longest(within: Duration) -> Duration {
    (within / 100).clamp(FIRST, LONGEST)
}

/// Looks until it is called off. What could not be looked at is not reported: the drain then ends by its deadline.
pub(crate) async fn watch(question: Question, within: Duration, to: UnboundedSender<Message>) {
    let Ok(mut observer) = Observer::open() else { return };
    let mut wait = FIRST;
    let mut last = None;
    loop {
        if let Ok(report) = observer.look(&question, false)
            && last != Some(report)
        {
            last = Some(report);
            let event = Event::Drain { generation: GenerationId(question.generation), report };
            if to.send(Message::World(event)).is_err() {
                return;
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(longest(within));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_drain_is_watched_closely_and_a_long_one_is_not() {
        assert_eq!(longest(Duration::from_secs(1)), Duration::from_millis(20));
        assert_eq!(longest(Duration::from_secs(5)), Duration::from_millis(50));
        assert_eq!(longest(Duration::from_hours(1)), LONGEST);
    }
}

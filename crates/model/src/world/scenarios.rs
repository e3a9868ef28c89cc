//! What the product promises, told as stories.

use super::sim::{Sim, address};
use crate::config::{RestartPolicy, StopStep};
use crate::event::{DrainReport, Event, ExitStatus, GenerationId, Scope};
use crate::ledger::{Failure, Outcome};
use crate::notice::{StopReason, What};
use std::time::Duration;

fn sim() -> Sim {
    let mut sim = Sim::new(|_| ());
    sim.up(1).is("up 1:serving");
    sim
}

#[test]
fn a_planned_restart() {
    let mut sim = sim();
    sim.restart().is("up 1:serving 2:starting");
    sim.listens(2, 80).is("up 1:serving 2:starting");
    sim.is_ready(2).is("up 1:draining 2:soaking");
    // Drained at once, but it is the way back until the soak is over.
    sim.has_left(1, 0, 0).seconds(9).is("up 1:draining 2:soaking");
    sim.seconds(1).is("up 2:serving");
    let ledger = sim.service().ledgers.back().unwrap();
    assert_eq!((ledger.from, ledger.to), (Some(GenerationId(1)), Some(GenerationId(2))));
    assert_eq!(ledger.outcome, Outcome::Settled);
    assert_eq!(ledger.at_switch, Some(DrainReport { queued: 1, open: 5, idle: 0, busy: 2 }));
    assert_eq!((ledger.drained(), ledger.cut, ledger.gap), (Some(6), Some(0), Some(Duration::ZERO)));
}

#[test]
fn a_stop_takes_its_steps_while_something_is_left() {
    let steps = |config: &mut crate::config::ServiceConfig| {
        let step = |signal, seconds| StopStep { signal, wait: Duration::from_secs(seconds) };
        (config.stop_signal, config.grace, config.stop) = (2, Duration::from_secs(3), vec![step(15, 5), step(3, 1)]);
    };
    let mut stubborn = Sim::new(steps);
    stubborn.up(1).workers(1).obey = false;
    stubborn.ctrl_c().seconds(2);
    assert_eq!(stubborn.signals, [(GenerationId(1), 2, Scope::Main)]);
    stubborn.seconds(1);
    assert_eq!(stubborn.signals[1..], [(GenerationId(1), 15, Scope::Main)]);
    // What is left behind is asked by the signal of this step, not by the first one, and each later one reaches all of it.
    stubborn.end_main(GenerationId(1), ExitStatus::Exited(0));
    stubborn.deliver();
    assert_eq!(stubborn.signals[2..], [(GenerationId(1), 15, Scope::Tree)]);
    stubborn.daemon_dies();
    stubborn.seconds(5);
    assert_eq!(stubborn.signals[3..], [(GenerationId(1), 3, Scope::Tree)]);
    stubborn.is("down 1:stopping").seconds(1).is("down");
    assert_eq!(stubborn.signals[4..], [(GenerationId(1), 9, Scope::Tree)]);

    let mut obedient = Sim::new(steps);
    obedient.up(1).ctrl_c().is("down").seconds(60);
    assert_eq!(obedient.signals, [(GenerationId(1), 2, Scope::Main), (GenerationId(1), 2, Scope::Tree)]);
}

#[test]
fn a_drain_ends_by_evidence_of_idleness_or_by_its_deadline() {
    let mut idle = sim();
    idle.restart().up(2).has_left(1, 3, 1).seconds(15).is("up 1:draining 2:serving");
    idle.has_left(1, 2, 2).is("up 2:serving");
    let ledger = idle.service().ledgers.back().unwrap();
    assert_eq!((ledger.cut, ledger.idle_closed, ledger.drained()), (Some(0), Some(2), Some(4)));

    let mut late = sim();
    late.restart().up(2).has_left(1, 3, 1).seconds(29).is("up 1:draining 2:serving");
    late.seconds(1).is("up 2:serving").said(|what| matches!(what, What::StopSignal { why: StopReason::DrainDeadline, .. }));
    assert_eq!(late.service().ledgers.back().unwrap().cut, Some(2));
}

#[test]
fn not_ready_in_time() {
    let mut sim = sim();
    sim.restart().listens(2, 80).seconds(29).is("up 1:serving 2:starting");
    sim.seconds(1).is("up 1:serving");
    let outcome = &sim.service().ledgers.back().unwrap().outcome;
    assert!(matches!(outcome, Outcome::NotReady(Failure::TimedOut { listens: true, .. })), "{outcome:?}");
}

#[test]
fn a_first_start_that_takes_long_is_left_alone() {
    let mut sim = Sim::new(|_| ());
    sim.seconds(31).is("up 1:overdue").said(|what| matches!(what, What::Overdue { .. }));
    sim.seconds(3600).is("up 1:overdue").up(1).is("up 1:serving");
    let mut sim = Sim::new(|_| ());
    sim.seconds(31).restart().is("up 2:starting");
}

#[test]
fn dead_before_ready() {
    let mut sim = sim();
    sim.restart().dies(2, 1).is("up 1:serving");
    let outcome = &sim.service().ledgers.back().unwrap().outcome;
    let died = Failure::Died { status: ExitStatus::Exited(1), refused: Vec::new() };
    assert_eq!(*outcome, Outcome::NotReady(died));
}

#[test]
fn a_command_that_cannot_be_executed() {
    let mut first = Sim::new(|_| ());
    first.exec_errno = Some(2);
    // It was forked before it could be told.
    first.deliver();
    assert_eq!(first.exit, None);
    let mut first = Sim::new(|config| config.ports = vec![address(80)]);
    first.exec_errno = Some(2);
    first.deliver();
    first.is("down");
    assert_eq!(first.exit, Some(127));

    let mut later = sim();
    later.exec_errno = Some(13);
    later.restart().is("up 1:serving");
    assert!(matches!(later.service().ledgers.back().unwrap().outcome, Outcome::NotReady(Failure::Exec(_))));
}

#[test]
fn a_crash_after_a_good_run_is_followed_by_a_start_at_once_and_the_queue_is_handed_on() {
    let mut sim = sim();
    sim.seconds(20).dies(1, 3).is("up 1:gone 2:starting");
    sim.listens(2, 80).is("up 2:starting");
    sim.millis(500).is_ready(2).is("up 2:serving");
    let ledger = sim.service().ledgers.back().unwrap();
    assert_eq!((ledger.planned, &ledger.outcome), (false, &Outcome::Settled));
    assert_eq!(ledger.gap, Some(Duration::from_millis(500)));
    assert!(!ledger.released);
}

#[test]
fn a_crash_loop_backs_off_and_goes_on_with_one_ledger() {
    let mut sim = sim();
    sim.dies(1, 3).is("up backoff 1:gone").millis(121).is("up 1:gone 2:starting");
    sim.dies(2, 3).is("up backoff 1:gone").millis(100).is("up backoff 1:gone").millis(141).is("up 1:gone 3:starting");
    sim.listens(3, 80).dies(3, 3).is("up backoff 3:gone").millis(500).up(4).is("up 4:serving");
    assert_eq!(sim.service().ledgers.len(), 1);
    sim.seconds(10).dies(4, 3).is("up 4:gone 5:starting");
}

#[test]
fn a_crash_in_the_soak_goes_back() {
    let mut sim = sim();
    sim.restart().up(2).is("up 1:draining 2:soaking");
    sim.dies(2, 1).is("up 1:serving");
    let ledger = sim.service().ledgers.back().unwrap();
    assert!(matches!(ledger.outcome, Outcome::RolledBack(_)));
    assert_eq!(ledger.lost, None, "what it had accepted nobody could count");
    // Once back it is an ordinary generation, and old: its next crash is followed by a start at once.
    sim.seconds(60).is("up 1:serving").dies(1, 1).is("up 1:gone 3:starting");
}

#[test]
fn a_second_restart_during_the_soak() {
    let mut sim = sim();
    sim.restart().up(2).seconds(5).restart().up(3).is("up 1:draining 2:draining 3:soaking");
    // The way back is the one before.
    sim.dies(3, 1).is("up 1:draining 2:serving");
}

#[test]
fn a_crash_in_the_soak_while_a_third_is_starting() {
    let mut sim = sim();
    sim.restart().up(2).restart().is("up 1:draining 2:soaking 3:starting");
    sim.dies(2, 1).is("up 1:serving 3:starting").up(3).is("up 1:draining 3:soaking");
}

#[test]
fn a_crash_while_the_next_is_starting_steers_to_it_if_it_listens() {
    let mut sim = sim();
    sim.seconds(20).restart().listens(2, 80).dies(1, 1).is("up 2:starting");
    assert!(sim.listeners.values().all(|listener| listener.owner == Some(GenerationId(2)) && listener.selected));
    sim.is_ready(2).is("up 2:serving");
    let mut sim = self::sim();
    sim.seconds(20).restart().dies(1, 1).is("up 1:gone 2:starting").up(2).is("up 2:serving");
}

#[test]
fn the_fifth_draining_generation_ends_the_oldest() {
    let mut sim = sim();
    for n in 2..=5 {
        sim.restart().up(n);
    }
    sim.is("up 1:draining 2:draining 3:draining 4:draining 5:soaking").has_left(1, 9, 0);
    sim.restart().up(6).is("up 2:draining 3:draining 4:draining 5:draining 6:soaking");
    sim.said(|what| matches!(what, What::StopSignal { why: StopReason::TooMany, generation: GenerationId(1), .. }));
    assert_eq!(sim.service().ledgers.front().unwrap().cut, Some(9));
}

#[test]
fn without_overlap_connections_wait_while_the_old_one_finishes() {
    let mut sim = Sim::new(|config| config.overlap = false);
    sim.up(1).restart().is("up after-1 1:finishing").has_left(1, 2, 1).is("up after-1 1:finishing");
    sim.millis(700).has_left(1, 1, 1).is("up 2:starting").listens(2, 80).is_ready(2).is("up 2:serving");
    let ledger = sim.service().ledgers.back().unwrap();
    assert_eq!((&ledger.outcome, ledger.gap), (&Outcome::Settled, Some(Duration::from_millis(700))));
    // A connection that stays busy has five seconds.
    sim.restart().has_left(2, 1, 0).seconds(4).is("up after-2 2:finishing").seconds(1).is("up 3:starting");
}

#[test]
fn without_overlap_a_crash_meanwhile_only_hastens_the_successor() {
    let mut sim = Sim::new(|config| config.overlap = false);
    sim.up(1).restart().has_left(1, 1, 0).dies(1, 1).is("up 2:starting").up(2).is("up 2:serving");
}

#[test]
fn what_cannot_be_parked_or_steered_changes_nothing() {
    let mut park = Sim::new(|config| config.overlap = false);
    park.up(1);
    park.refuse = true;
    park.restart().is("up 1:serving");
    let mut steer = sim();
    steer.restart().listens(2, 80);
    steer.refuse = true;
    steer.is_ready(2).is("up 1:serving");
    assert!(matches!(steer.service().ledgers.back().unwrap().outcome, Outcome::NotReady(Failure::Steer(_))));
}

#[test]
fn a_taken_port_is_waited_for_and_burns_no_retry() {
    let mut sim = Sim::new(|_| ());
    sim.deliver();
    sim.taken.insert(address(80));
    sim.refused(1, 80).dies(1, 1).is("up hold").said(|what| matches!(what, What::PortTaken { .. }));
    sim.seconds(3600).is("up hold");
    assert_eq!(sim.service().backoff.failures(), 0);
    sim.free(80);
    sim.deliver();
    sim.is("up 2:starting").up(2).is("up 2:serving");
}

#[test]
fn a_port_that_is_refused_although_it_was_held_is_an_ordinary_failure() {
    let mut sim = Sim::new(|_| ());
    sim.deliver();
    sim.refused(1, 80).dies(1, 1).is("up 2:starting").refused(2, 80).dies(2, 1).is("up backoff");
}

#[test]
fn a_declared_port_is_held_before_the_first_start() {
    let mut sim = Sim::new(|config| config.ports = vec![address(80), address(81)]);
    sim.taken.insert(address(81));
    sim.deliver();
    sim.is("up 1:starting");
    let mut sim = Sim::new(|config| config.ports = vec![address(80)]);
    sim.deliver();
    sim.is("up 1:starting").up(1).is("up 1:serving");
    assert_eq!(sim.listeners.len(), 1, "the held socket was handed over");
}

#[test]
fn a_port_that_cannot_be_held_is_left_to_the_server() {
    let mut sim = Sim::new(|config| config.ports = vec![address(80)]);
    sim.queue.clear();
    sim.tell(Event::HoldWaits { service: "web".to_owned(), address: address(80), errno: 13 });
    sim.is("up 1:starting");
}

#[test]
fn after_the_hold_time_the_port_is_released() {
    let mut sim = Sim::new(|config| config.restart = RestartPolicy::Always);
    sim.up(1).seconds(20);
    sim.exec_errno = Some(13);
    sim.dies(1, 1).seconds(59);
    assert_eq!(sim.listeners.len(), 1, "{}", sim.picture());
    sim.seconds(1).said(|what| matches!(what, What::HoldOver { .. }));
    assert!(sim.listeners.is_empty());
    assert!(sim.service().ledgers.back().unwrap().released);
    sim.exec_errno = None;
    sim.seconds(40);
    let newest = sim.service().starts;
    sim.up(newest);
    assert_eq!(sim.service().ledgers.back().unwrap().gap, Some(Duration::from_secs(100)));
    assert!(sim.picture().ends_with("serving"), "{}", sim.picture());
}

#[test]
fn a_port_that_the_new_version_no_longer_has_is_held_for_the_hold_time_only() {
    let mut sim = sim();
    sim.listens(1, 81).restart().listens(2, 80).is_ready(2).is("up 1:serving 2:starting");
    sim.seconds(2).is("up 1:draining 2:soaking").has_left(1, 0, 0).seconds(10).is("up 1:gone 2:serving");
    sim.seconds(59).is("up 1:gone 2:serving").seconds(1).is("up 2:serving");
}

#[test]
fn stop_and_the_status_of_the_service() {
    let mut sim = sim();
    sim.ctrl_c().is("down");
    assert_eq!(sim.exit, Some(143));
    assert!(sim.listeners.is_empty());
    let mut sim = self::sim();
    sim.obey = false;
    sim.ctrl_c().is("down 1:stopping").seconds(9).is("down 1:stopping").seconds(1).is("down");
    assert_eq!(sim.exit, Some(137));
}

#[test]
fn a_second_ctrl_c_kills_at_once() {
    let mut sim = sim();
    sim.obey = false;
    sim.ctrl_c().is("down 1:stopping").ctrl_c().is("down");
    assert_eq!(sim.signals.last(), Some(&(GenerationId(1), 9, Scope::Tree)));
}

#[test]
fn stop_in_every_phase() {
    type Prepare = fn(&mut Sim);
    let phases: [(&str, Prepare); 12] = [
        ("up 1:spawning", |_| ()),
        ("up 1:starting", |sim| {
            sim.seconds(0);
        }),
        ("up 1:serving", |sim| {
            sim.up(1);
        }),
        ("up 1:serving 2:starting", |sim| {
            sim.up(1).restart();
        }),
        ("up 1:draining 2:soaking", |sim| {
            sim.up(1).restart().up(2);
        }),
        ("up backoff 1:gone", |sim| {
            sim.up(1).dies(1, 1);
        }),
        ("up backoff", |sim| {
            sim.seconds(0).dies(1, 1);
        }),
        ("up hold", |sim| {
            sim.deliver();
            sim.taken.insert(address(80));
            sim.refused(1, 80).dies(1, 1);
        }),
        ("up 1:orphaned 2:starting", |sim| {
            sim.up(1).seconds(20).workers(1).dies(1, 1);
        }),
        ("up 1:overdue", |sim| {
            sim.seconds(40);
        }),
        ("up 1:gone 2:starting", |sim| {
            sim.up(1).seconds(20).dies(1, 1);
        }),
        ("up 2:serving", |sim| {
            sim.up(1).restart().up(2).has_left(1, 0, 0).seconds(10);
        }),
    ];
    for (picture, prepare) in phases {
        for obey in [true, false] {
            let mut sim = Sim::new(|_| ());
            prepare(&mut sim);
            sim.is(picture);
            sim.obey = obey;
            sim.ctrl_c();
            sim.seconds(10);
            assert_eq!(sim.picture(), "down", "from {picture}");
            assert!(sim.exit.is_some(), "from {picture}");
            assert!(sim.procs.keys().all(|id| sim.forgotten.contains(id)), "from {picture}");
        }
    }
}

#[test]
fn policies() {
    let run = |policy, status| {
        let mut sim = Sim::new(|config| config.restart = policy);
        sim.up(1).seconds(20).dies(1, status);
        (sim.picture(), sim.exit)
    };
    assert_eq!(run(RestartPolicy::Always, 0), ("up 1:gone 2:starting".to_owned(), None));
    assert_eq!(run(RestartPolicy::OnFailure, 0), ("down".to_owned(), Some(0)));
    assert_eq!(run(RestartPolicy::OnFailure, 3), ("up 1:gone 2:starting".to_owned(), None));
    assert_eq!(run(RestartPolicy::Never, 3), ("down".to_owned(), Some(3)));
}

#[test]
fn workers_without_their_main_process_go_on_until_the_next_is_ready() {
    let mut sim = sim();
    sim.seconds(20).workers(1).dies(1, 1).is("up 1:orphaned 2:starting");
    sim.listens(2, 80).is_ready(2).is("up 1:draining 2:serving").has_left(1, 0, 0).is("up 2:serving");
    assert_eq!(sim.signals.last(), Some(&(GenerationId(1), 15, Scope::Tree)));
}

#[test]
fn a_server_that_makes_itself_a_daemon_is_followed() {
    let mut sim = Sim::new(|_| ());
    sim.deliver();
    sim.workers(1).dies(1, 0).is("up 1:starting").up(1).is("up 1:serving");
    sim.said(|what| matches!(what, What::WentToBackground { .. }));
    sim.seconds(20).workers_end(1).is("up 1:gone 2:starting");
}

#[test]
fn a_daemon_whose_parent_ends_just_after_the_switch_is_followed() {
    let mut sim = sim();
    sim.seconds(20).restart().workers(2).up(2).dies(2, 0).is("up 1:draining 2:soaking");
    sim.workers_end(2).is("up 1:serving");
    // Nobody is left: that is no daemon.
    sim.restart().up(3).dies(3, 0).is("up 1:serving");
}

#[test]
fn a_restart_that_is_asked_for_during_one_follows_it() {
    let mut sim = sim();
    sim.restart().restart().restart().is("up 1:serving 2:starting").up(2).is("up 1:draining 2:soaking 3:starting");
    sim.dies(3, 1).is("up 1:draining 2:soaking");
}

#[test]
fn a_daemon_that_dies_loses_nothing() {
    let mut sim = sim();
    sim.restart();
    sim.daemon_dies();
    sim.up(2).is("up 1:draining 2:soaking");
    // It ends while nobody looks.
    sim.end_main(GenerationId(2), ExitStatus::Exited(1));
    sim.daemon_dies();
    sim.deliver();
    sim.is("up 1:serving");
    // The request was never sent.
    sim.step(Event::Restart { service: "web".to_owned() });
    sim.procs.remove(&GenerationId(3));
    sim.daemon_dies();
    sim.deliver();
    sim.is("up 1:serving");
}

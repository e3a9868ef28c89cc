//! Stories of a switch in two steps.

use super::sim::Sim;
use crate::config::{Health, HealthCheck, InstanceConfig, Mode, ReportStyle, ServiceConfig};
use crate::event::{Event, GenerationId};
use crate::ledger::{Failure, Outcome};
use crate::notice::What;
use std::collections::BTreeSet;
use std::time::Duration;

fn sim() -> Sim {
    let mut sim = Sim::host(vec![ServiceConfig::new("web", vec![b"web".to_vec()])]);
    sim.serves("web", 80).seconds(20);
    sim
}

/// Generation 2 has 5 % of the connections.
fn begun(time: Option<u64>) -> Sim {
    let mut sim = sim();
    sim.tell(Event::Canary { service: "web".to_owned(), share: 50, time: time.map(Duration::from_secs) });
    sim.are("web: up 1:serving 2:starting").serves("web", 80).are("web: up 1:serving 2:canary");
    assert_eq!(sim.listeners.values().filter(|listener| listener.selected).count(), 2, "both take connections");
    sim.said(|what| matches!(what, What::Canary { generation: GenerationId(2), share: 50, .. }));
    sim
}

fn decide(sim: &mut Sim, switch: bool) -> &mut Sim {
    sim.tell(Event::Decide { service: "web".to_owned(), switch });
    sim
}

fn outcome(sim: &Sim) -> Outcome {
    sim.world.services["web"].ledgers.back().unwrap().outcome.clone()
}

#[test]
fn when_its_time_is_over_it_gets_all_of_them() {
    let mut sim = begun(Some(60));
    sim.seconds(59).are("web: up 1:serving 2:canary").seconds(1).are("web: up 1:draining 2:soaking").seconds(20);
    assert_eq!(outcome(&sim), Outcome::Settled);
    let ledger = sim.world.services["web"].ledgers.back().unwrap();
    let canary = ledger.canary.unwrap();
    assert_eq!(canary.ended.unwrap().since(canary.began.unwrap()), Duration::from_mins(1));
}

#[test]
fn one_that_stays_waits_for_a_decision() {
    let mut sim = begun(None);
    sim.seconds(100_000).are("web: up 1:serving 2:canary");
    decide(&mut sim, true).are("web: up 1:draining 2:soaking");
    // Nothing is left to decide.
    decide(&mut sim, false).are("web: up 1:draining 2:soaking");
}

#[test]
fn called_off_it_finishes_what_it_has_and_nothing_is_lost() {
    let mut sim = begun(Some(60));
    decide(&mut sim, false).are("web: up 1:serving 2:draining");
    assert_eq!(outcome(&sim), Outcome::RolledBack(Failure::CalledOff));
    let selected: Vec<_> = sim.listeners.values().filter(|listener| listener.selected).map(|listener| listener.owner).collect();
    assert_eq!(selected, [Some(GenerationId(1))]);
    sim.has_left(2, 0, 0).seconds(20).are("web: up 1:serving");
    let ledger = sim.world.services["web"].ledgers.back().unwrap();
    let had = ledger.at_switch.unwrap();
    assert_eq!((ledger.drained(), ledger.cut), (Some(had.open + had.queued), Some(0)), "what it had at that moment");
}

#[test]
fn one_that_dies_gives_all_back_at_once() {
    let mut sim = begun(Some(60));
    sim.dies(2, 1).are("web: up 1:serving");
    assert!(matches!(outcome(&sim), Outcome::RolledBack(Failure::Died { .. })));
    sim.said(|what| matches!(what, What::RolledBack { .. }));
    sim.seconds(100).are("web: up 1:serving");
}

#[test]
fn both_are_checked_and_one_that_is_sick_gives_all_back() {
    let mut sim = sim();
    let mut config = ServiceConfig::new("web", vec![b"web".to_vec()]);
    let (second, check) = (Duration::from_secs(1), HealthCheck::Tcp { port: None });
    config.health = Some(Health { check, every: second, timeout: second, failures: 2, start_after: Duration::ZERO });
    sim.tell(Event::Configure(Box::new(InstanceConfig {
        services: vec![config],
        ..InstanceConfig::new("host", Mode::Up, ReportStyle::Plain)
    })));
    sim.tell(Event::Canary { service: "web".to_owned(), share: 50, time: None });
    assert_eq!(sim.checked, BTreeSet::from([GenerationId(1)]), "one that has no share yet is judged by its readiness");
    sim.serves("web", 80).are("web: up 1:serving 2:canary");
    assert_eq!(sim.checked, BTreeSet::from([GenerationId(1), GenerationId(2)]));
    let fails = |sim: &mut Sim, generation| {
        sim.tell(Event::Health { generation: GenerationId(generation), passed: false, what: "503".to_owned() });
    };
    for _ in 0..5 {
        fails(&mut sim, 1);
    }
    sim.are("web: up 1:serving 2:canary");
    fails(&mut sim, 2);
    sim.are("web: up 1:serving 2:canary");
    fails(&mut sim, 2);
    sim.are("web: up 1:serving 2:draining");
    assert_eq!(outcome(&sim), Outcome::RolledBack(Failure::Unhealthy { failures: 2, last: "503".to_owned() }));
    assert_eq!(sim.checked, BTreeSet::from([GenerationId(1)]));
}

#[test]
fn the_old_one_may_die_meanwhile() {
    let mut sim = begun(None);
    sim.dies(1, 1).is_of("web", "up 2:serving");
}

#[test]
fn it_never_becomes_ready() {
    let mut sim = sim();
    sim.tell(Event::Canary { service: "web".to_owned(), share: 50, time: None });
    sim.seconds(40).are("web: up 1:serving");
    assert!(matches!(outcome(&sim), Outcome::NotReady(Failure::TimedOut { .. })));
}

#[test]
fn a_daemon_that_dies_forgets_neither_the_share_nor_its_time() {
    let mut sim = begun(Some(60));
    sim.seconds(30).daemon_dies();
    sim.are("web: up 1:serving 2:canary").seconds(30).are("web: up 1:draining 2:soaking");
}

#[test]
fn where_two_cannot_live_side_by_side_there_is_none() {
    let mut config = ServiceConfig::new("web", vec![b"web".to_vec()]);
    config.overlap = false;
    let mut sim = Sim::host(vec![config]);
    sim.tell(Event::Canary { service: "web".to_owned(), share: 50, time: None });
    sim.serves("web", 80).seconds(20);
    assert!(sim.world.services["web"].may_canary().unwrap_err().contains("overlap"));
    sim.tell(Event::Canary { service: "web".to_owned(), share: 50, time: None });
    sim.are("web: up 1:serving");
}

//! Stories of another configuration, health checks and watched files.

use super::hosts::service;
use super::sim::{Sim, address};
use crate::config::{Dashboard, Health, HealthCheck, InstanceConfig, Mode, ReportStyle, ServiceConfig};
use crate::event::{Event, GenerationId};
use crate::notice::What;
use std::time::Duration;

fn configure(sim: &mut Sim, services: Vec<ServiceConfig>) {
    let config = InstanceConfig { services, ..InstanceConfig::new("host", Mode::Up, ReportStyle::Plain) };
    sim.tell(Event::Configure(Box::new(config)));
}

fn web(change: impl FnOnce(&mut ServiceConfig)) -> ServiceConfig {
    service("web", |config| {
        config.ports = vec![address(80)];
        change(config);
    })
}

#[test]
fn what_is_new_starts_what_is_gone_finishes_and_nothing_else_is_touched() {
    let mut sim = Sim::host(vec![web(|_| ()), service("old", |_| ())]);
    sim.serves("web", 80).serves("old", 81);
    configure(&mut sim, vec![web(|_| ()), service("new", |_| ())]);
    sim.are("new: up 3:starting; old: down 1:draining; web: up 2:serving");
    configure(&mut sim, vec![web(|_| ()), service("new", |_| ())]);
    sim.are("new: up 3:starting; old: down 1:draining; web: up 2:serving");
    sim.has_left(1, 0, 0).are("new: up 3:starting; web: up 2:serving");
    assert_eq!(sim.exit, None);
}

#[test]
fn a_policy_is_changed_live_and_a_command_by_a_restart_once() {
    let mut sim = Sim::host(vec![web(|_| ())]);
    sim.serves("web", 80);
    let drain = |config: &mut ServiceConfig| config.drain = Duration::from_secs(1);
    configure(&mut sim, vec![web(drain)]);
    sim.are("web: up 1:serving").said(|what| matches!(what, What::Reconfigured { restart: false, .. }));
    for _ in 0..2 {
        configure(&mut sim, vec![web(|config| config.argv.push(b"-v".to_vec()))]);
        sim.are("web: up 1:serving 2:starting");
    }
    sim.serves("web", 80).seconds(100);
    sim.tell(Event::Rollback { service: "web".to_owned() });
    assert_eq!(sim.world.services["web"].config.argv.len(), 1);
    sim.is_of("web", "up 2:serving 3:starting");
}

#[test]
fn a_rollback_brings_back_the_environment_of_the_instance_too() {
    let mut sim = Sim::host(vec![web(|_| ())]);
    sim.serves("web", 80);
    let with = |sim: &mut Sim, variable: &[u8]| {
        let instance = InstanceConfig::new("host", Mode::Up, ReportStyle::Plain);
        let config = InstanceConfig { services: vec![web(|_| ())], env: vec![variable.to_vec()], ..instance };
        sim.tell(Event::Configure(Box::new(config)));
    };
    let has = |sim: &Sim| {
        let config = &sim.world.services["web"].config;
        config.environment(config.base(&sim.world.env))
    };
    with(&mut sim, b"ADDED=1");
    sim.are("web: up 1:serving 2:starting").serves("web", 80).seconds(100);
    assert_eq!(has(&sim), [b"ADDED=1"]);
    sim.tell(Event::Rollback { service: "web".to_owned() });
    assert_eq!(has(&sim), Vec::<Vec<u8>>::new());
    sim.serves("web", 80).seconds(100);
    // The file still says the other.
    with(&mut sim, b"ADDED=1");
    sim.is_of("web", "up 3:serving 4:starting");
    assert_eq!(has(&sim), [b"ADDED=1"]);
}

#[test]
fn a_port_moves_and_the_new_one_is_held_before_the_old_one_is_released() {
    let mut sim = Sim::host(vec![web(|_| ())]);
    sim.serves("web", 80);
    sim.taken.insert(address(90));
    let moved = || {
        web(|config| {
            config.ports = vec![address(90)];
            config.argv.push(b"90".to_vec());
        })
    };
    configure(&mut sim, vec![moved()]);
    sim.are("web: up hold 1:serving").seconds(100).are("web: up hold 1:serving");
    sim.free(90);
    sim.deliver();
    sim.are("web: up 1:serving 2:starting");
    assert_eq!(sim.listeners.len(), 2);
    sim.serves("web", 90).has_left(1, 0, 0).seconds(10).are("web: up 2:serving");
    assert_eq!(sim.listeners.values().map(|listener| listener.address).collect::<Vec<_>>(), [address(90)]);
}

#[test]
fn health_that_fails_so_often_in_a_row_is_a_restart() {
    let health = Health {
        check: HealthCheck::Tcp { port: None },
        every: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        failures: 2,
        start_after: Duration::ZERO,
    };
    let mut sim = Sim::host(vec![web(|config| config.health = Some(health))]);
    sim.serves("web", 80).seconds(20);
    assert!(sim.checked.contains(&GenerationId(1)));
    let fails = |sim: &mut Sim, passed| {
        sim.tell(Event::Health { generation: GenerationId(1), passed, what: "503".to_owned() });
    };
    for passed in [false, true, false] {
        fails(&mut sim, passed);
    }
    sim.are("web: up 1:serving");
    fails(&mut sim, false);
    sim.are("web: up 1:serving 2:starting").said(|what| matches!(what, What::Unhealthy { failures: 2, restart: true, .. }));
}

#[test]
fn changed_files_are_a_restart() {
    let mut sim = Sim::host(vec![web(|config| config.watch = vec!["**/*.py".to_owned()])]);
    sim.serves("web", 80);
    assert!(sim.watched.contains("web"));
    sim.tell(Event::FilesChanged { service: "web".to_owned(), path: "app.py".to_owned(), count: 1000 });
    sim.are("web: up 1:serving 2:starting").stop(&["web"]);
    assert!(sim.watched.is_empty());
}

/// An instance with a dashboard that is to be on port 5000 of 0.0.0.0.
fn with_dashboard(declared: bool, taken: &[u16], services: Vec<ServiceConfig>) -> Sim {
    let dashboard = Dashboard { listen: vec![address(5000)], declared, read_only: false };
    let mut config = InstanceConfig { services, ..InstanceConfig::new("host", Mode::Up, ReportStyle::Plain) };
    config.dashboard = Some(dashboard.clone());
    crate::dashboard::install(&mut config, b"/c", true, None);
    let mut sim = Sim::host(Vec::new());
    sim.world.dashboard = Some(dashboard);
    sim.taken = taken.iter().map(|port| address(*port)).collect();
    sim.tell(Event::Configure(Box::new(config)));
    sim
}

fn moved(sim: &Sim) -> Vec<(Option<String>, u16)> {
    let to = |what: &What| match what {
        What::GaveWay { service, to, .. } => Some((service.clone(), to.port())),
        _ => None,
    };
    sim.said.iter().filter_map(to).collect()
}

#[test]
fn the_dashboard_goes_on_to_the_first_port_that_nobody_has() {
    let mut sim = with_dashboard(false, &[5000, 5001], vec![]);
    assert_eq!(moved(&sim), [(None, 5001), (None, 5002)]);
    sim.serves("dashboard", 5002).are("dashboard: up 1:serving");
    assert!(sim.waiting.is_empty(), "{:?}", sim.waiting);
    // One that was told where to be waits there, as everybody does.
    let mut sim = with_dashboard(true, &[5000], vec![]);
    assert_eq!(moved(&sim), []);
    sim.are("dashboard: up hold").free(5000);
    sim.deliver();
    sim.are("dashboard: up 1:starting");
}

#[test]
fn the_dashboard_gives_way_to_a_service_that_binds_its_port_later() {
    for declared in [false, true] {
        let mut sim = with_dashboard(declared, &[], vec![service("web", |_| ())]);
        sim.serves("dashboard", 5000).seconds(2);
        let (web, first) = (sim.newest("web").0, sim.newest("dashboard").0);
        sim.listens(web, 5000).listens(web, 5000);
        assert_eq!(moved(&sim), [(Some("web".to_owned()), 5001)]);
        sim.ends("web", 98).is_of("web", "up hold");
        sim.serves("dashboard", 5001).seconds(1).has_left(first, 0, 0).seconds(2);
        sim.serves("web", 5000);
        let mut ports: Vec<u16> = sim.listeners.values().map(|listener| listener.address.port()).collect();
        ports.sort_unstable();
        assert_eq!((ports, moved(&sim).len()), (vec![5000, 5001], 1), "{}", sim.pictures());
    }
}

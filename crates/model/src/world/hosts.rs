//! Stories of several services: order, tasks, workers, limits.

use super::sim::{Sim, address};
use crate::config::{After, Kind, RestartPolicy, ServiceConfig, StartLimit, When};
use crate::event::{Effect, Event, GenerationId, StopWay};
use crate::notice::What;
use std::time::Duration;

pub(super) fn service(name: &str, change: impl FnOnce(&mut ServiceConfig)) -> ServiceConfig {
    let mut config = ServiceConfig::new(name, vec![name.as_bytes().to_vec()]);
    change(&mut config);
    config
}

pub(super) fn after(config: &mut ServiceConfig, service: &str, when: When) {
    config.after.push(After { service: service.to_owned(), when });
}

fn task(name: &str, schedule: Option<&str>) -> ServiceConfig {
    service(name, |config| {
        config.kind = Kind::Task { schedule: schedule.map(str::to_owned) };
        config.restart = RestartPolicy::Never;
    })
}

/// A database, a migration of it, and what needs both.
fn stack() -> Vec<ServiceConfig> {
    let mut migrate = task("migrate", None);
    after(&mut migrate, "db", When::Ready);
    vec![
        service("web", |config| {
            config.ports = vec![address(80)];
            after(config, "db", When::Ready);
            after(config, "migrate", When::Completed);
        }),
        service("db", |_| ()),
        migrate,
    ]
}

#[test]
fn each_starts_when_what_it_needs_is_there() {
    let mut sim = Sim::host(stack());
    sim.deliver();
    sim.are("db: up 1:starting; migrate: up after; web: up after");
    assert_eq!(sim.listeners.len(), 1, "its port is held from the beginning");
    sim.said(|what| matches!(what, What::WaitsFor { services } if services.len() == 2));
    sim.serves("db", 5432).are("db: up 1:serving; migrate: up 2:serving; web: up after");
    sim.ends("migrate", 0).are("db: up 1:serving; migrate: up; web: up 3:starting");
    sim.serves("web", 80).are("db: up 1:serving; migrate: up; web: up 3:serving");
    assert_eq!(sim.listeners.len(), 2, "the held socket was handed over");
}

#[test]
fn a_migration_that_fails_holds_up_who_needs_it_until_it_is_run_again() {
    let mut sim = Sim::host(stack());
    sim.serves("db", 5432).ends("migrate", 3).are("db: up 1:serving; migrate: up; web: up after");
    sim.said(|what| matches!(what, What::TaskFailed { .. })).seconds(3600);
    sim.start("migrate").ends("migrate", 0).is_of("web", "up 4:starting");
}

#[test]
fn what_is_started_only_waits_for_the_start() {
    let mut sim = Sim::host(vec![service("a", |_| ()), service("b", |config| after(config, "a", When::Started))]);
    // Nothing was delivered: its command does not run yet.
    sim.are("a: up 1:spawning; b: up after");
    sim.deliver();
    sim.are("a: up 1:starting; b: up 2:starting");
}

#[test]
fn a_port_is_held_no_wider_than_its_server_listens() {
    let mut sim = Sim::host(vec![service("web", |config| config.ports = vec![address(80)])]);
    let narrow = std::net::SocketAddr::from(([127, 0, 0, 1], 80));
    let held = |sim: &Sim| sim.listeners.values().filter(|l| l.owner.is_none()).map(|l| l.address).collect::<Vec<_>>();
    sim.deliver();
    assert_eq!(held(&sim), [address(80)], "nobody knows yet");
    sim.listens_narrow(1, 80).is_ready(1).are("web: up 1:serving");
    sim.stop(&["web"]).are("web: down").start("web").deliver();
    assert_eq!(held(&sim), [narrow]);
    // One that listens on all addresses after all is held as it was declared.
    sim.listens(2, 80).is_ready(2).are("web: up 2:serving");
    sim.stop(&["web"]).are("web: down").start("web").deliver();
    assert_eq!(held(&sim), [address(80)]);
}

#[test]
fn a_dependency_that_crashes_or_is_stopped_disturbs_nobody_who_runs() {
    let mut sim = Sim::host(stack());
    sim.serves("db", 5432).ends("migrate", 0).serves("web", 80).seconds(20);
    sim.ends("db", 1).are("db: up 1:gone 4:starting; migrate: up; web: up 3:serving");
    sim.serves("db", 5432).stop(&["db"]).are("db: down; migrate: up; web: up 3:serving");
    // But who starts anew waits for it, and says so.
    sim.stop(&["web"]).start("web").is_of("web", "up after").seconds(100).is_of("web", "up after");
    sim.start("db").serves("db", 5432).is_of("web", "up 6:starting");
}

#[test]
fn a_restart_after_a_crash_waits_for_nobody() {
    let mut sim = Sim::host(stack());
    sim.serves("db", 5432).ends("migrate", 0).serves("web", 80).seconds(20).stop(&["db"]);
    sim.ends("web", 1).is_of("web", "up 3:gone 4:starting");
}

#[test]
fn all_stop_in_the_reverse_order_and_in_parallel_where_nothing_is_said() {
    let mut services = stack();
    services.push(service("other", |_| ()));
    let mut sim = Sim::host(services);
    sim.serves("db", 5432).ends("migrate", 0).serves("web", 80).serves("other", 81);
    sim.obey = false;
    sim.ctrl_c().are("db: up 1:serving; migrate: down; other: down 2:stopping; web: down 4:stopping");
    sim.seconds(9).is_of("db", "up 1:serving").seconds(1).are("db: down 1:stopping; migrate: down; other: down; web: down");
    assert_eq!(sim.exit, None);
    sim.seconds(10).are("db: down; migrate: down; other: down; web: down");
    assert_eq!(sim.exit, Some(0));
}

#[test]
fn a_second_ctrl_c_waits_for_no_order() {
    let mut sim = Sim::host(stack());
    sim.serves("db", 5432).ends("migrate", 0).serves("web", 80);
    sim.obey = false;
    sim.ctrl_c().is_of("db", "up 1:serving").ctrl_c().are("db: down; migrate: down; web: down");
    assert_eq!(sim.exit, Some(0));
}

#[test]
fn some_are_stopped_in_their_order_and_the_instance_goes_on() {
    let mut sim = Sim::host(stack());
    sim.serves("db", 5432).ends("migrate", 0).serves("web", 80);
    sim.obey = false;
    sim.stop(&["db", "web"]).are("db: up 1:serving; migrate: up; web: down 3:stopping");
    // Whoever is started again meanwhile is in nobody's way.
    sim.start("web").is_of("db", "down 1:stopping").seconds(10).is_of("db", "down");
    sim.stop(&["web", "migrate"]).seconds(10).are("db: down; migrate: down; web: down");
    assert_eq!(sim.exit, None);
    assert_eq!(sim.world.next_deadline(), None);
    sim.tell(Event::Shutdown { way: StopWay::Gentle, signal: None });
    assert_eq!(sim.exit, Some(0));
}

#[test]
fn what_waits_in_a_circle_is_stopped_all_the_same() {
    let mut sim =
        Sim::host(vec![service("a", |config| after(config, "b", When::Started)), service("b", |config| after(config, "a", When::Started))]);
    sim.deliver();
    sim.are("a: up after; b: up after").ctrl_c().are("a: down; b: down");
    assert_eq!(sim.exit, Some(0));
}

#[test]
fn an_instance_without_services_goes_on_until_it_is_told() {
    let mut sim = Sim::host(Vec::new());
    sim.seconds(3600);
    assert_eq!(sim.exit, None);
    sim.ctrl_c();
    assert_eq!(sim.exit, Some(0));
}

#[test]
fn the_order_of_several_restarts() {
    let sim = Sim::host(stack());
    let names = ["web", "db", "migrate", "nobody"].map(str::to_owned);
    assert_eq!(sim.world.start_order(&names), [vec!["db".to_owned()], vec!["migrate".to_owned()], vec!["web".to_owned()]]);
}

#[test]
fn a_task_that_succeeds_is_complete_and_not_crashed() {
    let mut sim = Sim::host(vec![task("job", None)]);
    sim.seconds(100).are("job: up 1:serving").seconds(20).ends("job", 0).are("job: up");
    sim.said(|what| matches!(what, What::Completed { took, .. } if *took == Duration::from_mins(2)));
    assert!(
        !sim.said.iter().any(|what| matches!(what, What::Crashed { .. } | What::Ended { .. } | What::Overdue { .. })),
        "{:?}",
        sim.said
    );
    sim.seconds(3600).are("job: up");
    // What it left behind ends with it.
    sim.start("job").workers(2).ends("job", 0).are("job: up");
}

#[test]
fn a_task_that_fails_is_tried_again_if_it_is_to_be() {
    let mut job = task("job", None);
    job.restart = RestartPolicy::OnFailure;
    job.start_limit = Some(StartLimit { starts: 3, within: Duration::from_mins(1) });
    let mut sim = Sim::host(vec![job]);
    sim.ends("job", 1).are("job: up backoff").seconds(1).ends("job", 1).seconds(1).ends("job", 1).are("job: up gave-up");
    sim.seconds(3600).are("job: up gave-up").start("job").ends("job", 0).are("job: up");
}

#[test]
fn a_task_that_is_restarted_while_it_runs_is_stopped_first() {
    let mut sim = Sim::host(vec![task("job", None)]);
    sim.deliver();
    sim.obey = false;
    sim.tell(Event::Restart { service: "job".to_owned() });
    sim.are("job: up after-1 1:stopping").seconds(10).are("job: up 2:serving").ends("job", 0).are("job: up");
    sim.tell(Event::Restart { service: "job".to_owned() });
    sim.are("job: up 3:serving");
}

#[test]
fn a_command_that_is_not_there_is_told_of_a_task_too() {
    let mut sim = Sim::host(Vec::new());
    sim.exec_errno = Some(2);
    sim.tell(Event::Start { service: "nobody".to_owned() });
    let mut sim = Sim::host(vec![service("idle", |config| config.disabled = true), {
        let mut job = task("job", None);
        job.disabled = true;
        job
    }]);
    sim.exec_errno = Some(2);
    sim.start("job").is_of("job", "down").said(|what| matches!(what, What::Ended { .. }));
}

fn due(sim: &mut Sim, at_ms: u64) {
    sim.tell(Event::Due { service: "job".to_owned(), at_ms });
}

#[test]
fn a_scheduled_task_runs_when_it_is_due_and_a_run_that_goes_on_is_not_doubled() {
    let mut sim = Sim::host(vec![task("job", Some("*/5 * * * *"))]);
    sim.deliver();
    sim.are("job: up");
    assert!(matches!(&sim.schedules["job"], Effect::Schedule { after_ms: None, cron, .. } if cron == "*/5 * * * *"));
    sim.tell(Event::Scheduled { service: "job".to_owned(), at_ms: Some(1000) });
    assert_eq!(sim.world.services["job"].next_run_ms, Some(1000));
    due(&mut sim, 1000);
    sim.are("job: up 1:serving");
    assert!(matches!(&sim.schedules["job"], Effect::Schedule { after_ms: Some(1000), .. }), "the next time is asked for at once");
    due(&mut sim, 2000);
    sim.are("job: up 1:serving").said(|what| matches!(what, What::RunSkipped { generation: GenerationId(1), .. }));
    sim.ends("job", 0);
    // The same time twice is one run.
    due(&mut sim, 2000);
    sim.are("job: up");
    due(&mut sim, 3000);
    sim.ends("job", 4).are("job: up");
    // By hand at any time.
    sim.start("job").are("job: up 3:serving").stop(&["job"]).are("job: down");
    assert!(sim.schedules.is_empty(), "nobody waits for a time any more");
    due(&mut sim, 4000);
    sim.are("job: down").start("job").are("job: up");
    assert!(sim.schedules.contains_key("job"));
}

#[test]
fn a_run_that_cannot_be_started_ends_no_schedule() {
    let mut sim = Sim::host(vec![task("job", Some("@hourly"))]);
    sim.exec_errno = Some(2);
    due(&mut sim, 1000);
    sim.are("job: up").said(|what| matches!(what, What::NotReady { .. }));
    sim.exec_errno = None;
    due(&mut sim, 2000);
    sim.are("job: up 2:serving").ends("job", 0).are("job: up");
}

#[test]
fn a_clock_that_was_wrong_stops_no_schedule() {
    const HOUR: u64 = 3_600_000;
    let mut sim = Sim::host(vec![task("job", Some("0 3,4 * * 1-5"))]);
    due(&mut sim, 1000 * HOUR);
    sim.ends("job", 0);
    // Adjusted: what was run is not run again.
    due(&mut sim, 999 * HOUR);
    sim.are("job: up");
    assert!(matches!(&sim.schedules["job"], Effect::Schedule { .. }), "it is asked for again");
    // Put right.
    due(&mut sim, 10 * HOUR);
    sim.are("job: up 2:serving");
}

#[test]
fn what_runs_every_so_often_goes_on_by_the_new_time_when_the_clock_is_set_back() {
    const MINUTE: u64 = 60_000;
    for often in ["@hourly", "*/5 * * * *", "0 * * * *", "0-59/7 */2 * * *"] {
        let mut sim = Sim::host(vec![task("job", Some(often))]);
        due(&mut sim, 1000 * MINUTE);
        sim.ends("job", 0);
        // By a moment: that very minute was run.
        due(&mut sim, 1000 * MINUTE);
        sim.are("job: up");
        // By an hour: nobody is to wait for the hour to pass again.
        due(&mut sim, 940 * MINUTE);
        sim.are("job: up 2:serving");
    }
}

#[test]
fn a_daemon_that_dies_forgets_no_time() {
    let mut sim = Sim::host(vec![task("job", Some("@hourly"))]);
    sim.tell(Event::Scheduled { service: "job".to_owned(), at_ms: Some(7000) });
    sim.daemon_dies();
    assert!(matches!(&sim.schedules["job"], Effect::Schedule { expected_ms: Some(7000), .. }));
}

#[test]
fn a_worker_runs_although_it_never_listens() {
    let mut sim = Sim::host(vec![service("worker", |_| ()), service("b", |config| after(config, "worker", When::Ready))]);
    sim.seconds(9).are("b: up after; worker: up 1:starting");
    sim.seconds(1).are("b: up 2:starting; worker: up 1:serving").said(|what| matches!(what, What::Alive { .. }));
    // The next one is as good when it has lived for a moment; the old one goes at once.
    sim.tell(Event::Restart { service: "worker".to_owned() });
    sim.seconds(1).is_of("worker", "up 1:serving 3:starting").seconds(1).is_of("worker", "up 1:draining 3:serving");
    sim.has_left(1, 0, 0).is_of("worker", "up 3:serving");
    // One that dies at once changes nothing.
    sim.tell(Event::Restart { service: "worker".to_owned() });
    sim.ends("worker", 1).is_of("worker", "up 3:serving");
    // And a crash is a crash.
    sim.seconds(20).dies(3, 1).is_of("worker", "up 5:starting");
}

#[test]
fn a_server_that_is_slow_to_bind_is_no_worker_once_it_was_seen_to_listen() {
    let mut sim = Sim::host(vec![service("slow", |_| ())]);
    sim.seconds(12).are("slow: up 1:serving").listens(1, 80);
    assert!(sim.listeners.values().all(|listener| listener.selected));
    sim.tell(Event::Restart { service: "slow".to_owned() });
    sim.seconds(25).are("slow: up 1:serving 2:starting").serves("slow", 80).are("slow: up 1:draining 2:soaking");
    // One with a declared port neither.
    let mut sim = Sim::host(vec![service("declared", |config| config.ports = vec![address(80)])]);
    sim.seconds(29).are("declared: up 1:starting").seconds(1).are("declared: up 1:overdue");
}

#[test]
fn too_many_starts_are_given_up_until_a_person_says_so() {
    let limit = Some(StartLimit { starts: 3, within: Duration::from_secs(10) });
    let mut sim = Sim::host(vec![service("web", |config| config.start_limit = limit)]);
    sim.ends("web", 1).are("web: up backoff").seconds(1).ends("web", 1).seconds(1).ends("web", 1).are("web: up gave-up");
    sim.said(|what| matches!(what, What::GaveUp { starts: 3, .. })).seconds(3600).are("web: up gave-up");
    sim.tell(Event::Restart { service: "web".to_owned() });
    sim.are("web: up 4:starting").serves("web", 80).are("web: up 4:serving");
    // Starts that are far enough apart are no loop.
    for _ in 0..5 {
        sim.seconds(20).ends("web", 1).serves("web", 80);
    }
    sim.is_of("web", "up 9:serving");
    // `run` ends with its service.
    let mut sim = Sim::new(|config| config.start_limit = Some(StartLimit { starts: 1, within: Duration::from_secs(10) }));
    sim.dies(1, 7);
    assert_eq!(sim.exit, Some(7));
}

#[test]
fn what_is_disabled_starts_when_it_is_named() {
    let mut sim = Sim::host(vec![service("web", |config| config.disabled = true)]);
    sim.seconds(10).are("web: down").start("web").are("web: up 1:starting");
}

#[test]
fn only_what_changed_is_named() {
    let mut sim = Sim::host(stack());
    sim.deliver();
    sim.world.take_changed();
    sim.seconds(0);
    assert!(sim.world.take_changed().is_empty());
    sim.tell(Event::BindRefused { generation: GenerationId(1), address: address(9), errno: 98 });
    assert_eq!(sim.world.take_changed().into_iter().collect::<Vec<_>>(), ["db"]);
}

/// The cost of an event does not grow with the instance: a thousand services take as many looks per event as one.
#[test]
fn an_event_in_a_thousand_services_touches_one() {
    let services = (0..1000).map(|n| service(&format!("s{n:03}"), |_| ())).collect();
    let mut sim = Sim::host(services);
    sim.world.take_changed();
    sim.world.step(Event::BindRefused { generation: GenerationId(500), address: address(9), errno: 98 }, sim.now);
    assert_eq!(sim.world.take_changed().len(), 1);
}

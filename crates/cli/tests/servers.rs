//! P1 and P2 with many real servers, each as it comes: two planned restarts and two SIGKILLs of the main process under fresh connections. As an
//! ordinary user only, which is the harder case (no CAP_SYS_PTRACE, `no_new_privs`); `p1_*` and `p2_*` have both users.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use stayput_testkit::clients::{CLIENTS, Clients, Seen};
use stayput_testkit::env::{Running, TestEnv, User};
use stayput_testkit::further::Further;
use stayput_testkit::{process, wait};

const PATIENCE: Duration = Duration::from_secs(30);
const QUICK: &[&str] = &["--soak", "300ms"];
const KILLS: u64 = 2;

/// Everything but the current generation has ended. A kill within the soak, or beside one that drains, would be another test.
fn wait_alone(running: &mut Running<'_>) {
    running.wait_for("the end of the old generation", |service| {
        service["phase"] == "ready" && service["generations"].as_array().is_some_and(|all| all.len() == 1)
    });
}

fn planned(running: &mut Running<'_>, server: Further, port: u16) -> Seen {
    let load = Clients::start(server, port).unwrap();
    load.wait_ok(30).unwrap();
    for _ in 0..2 {
        let restart = running.restart_well();
        load.wait_ok(30).unwrap();
        let ledger = &restart.ledger;
        assert_eq!(ledger["listener_gap"], false, "{ledger}");
        assert!(matches!(ledger["cut"], Value::String(_)) || ledger["cut"] == 0, "fresh connections are all drained: {ledger}");
        wait_alone(running);
    }
    let seen = load.stop().unwrap();
    assert_eq!(seen.failed, 0, "a planned restart lost requests: {seen:#?}\n{}", running.log());
    seen
}

fn killed(running: &mut Running<'_>, server: Further, port: u16) -> Seen {
    let load = Clients::start(server, port).unwrap();
    for _ in 0..KILLS {
        load.wait_ok(20).unwrap();
        let victim = running.ready_pid();
        assert!(process::signal(victim, Signal::KILL));
        wait::until_true("the next generation", PATIENCE, || running.ready_pid() != victim).unwrap();
        load.wait_ok(20).unwrap();
        // The workers of a main process that was killed drain as its generation.
        wait_alone(running);
    }
    let seen = load.stop().unwrap();
    assert_eq!((seen.refused, seen.timed_out), (0, 0), "{seen:#?}\n{}", running.log());
    assert!(seen.failed <= KILLS * CLIENTS, "more than was in flight: {seen:#?}\n{}", running.log());
    seen
}

/// One run for all: restarts, kills, stop. [`Running::stop`] fails when a process is left.
fn stays(server: Further) {
    let env = TestEnv::new(env!("CARGO_BIN_EXE_stayput"), User::Ordinary);
    let port = env.port();
    let start = Instant::now();
    let mut running = env.run(server.name(), QUICK, &server.command(port, &env.path("scratch")));
    running.wait_ready();
    let restarts = planned(&mut running, server, port);
    let kills = killed(&mut running, server, port);
    running.stop();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "the port is given back");
    #[expect(clippy::print_stdout, reason = "what docs/SERVERS.md quotes; the harness shows it with --nocapture")]
    {
        println!(
            "{}: two planned restarts {} answered, 0 lost, longest gap {} ms; two SIGKILLs {} answered, 0 refused, {} lost of those in flight, \
         longest gap {} ms; {:.1} s in all",
            server.name(),
            restarts.ok,
            restarts.longest_gap_ms,
            kills.ok,
            kills.failed,
            kills.longest_gap_ms,
            start.elapsed().as_secs_f32()
        );
    }
}

macro_rules! servers {
    ($($name:ident: $server:ident)*) => {
        $(
            #[test]
            fn $name() {
                stays(Further::$server);
            }
        )*
    };
}

servers! {
    flask_socketio_with_gevent: SocketIoGevent
    flask_socketio_with_eventlet: SocketIoEventlet
    flask_debug_with_reloader: FlaskDebug
    django_runserver_with_reloader: Django
    gunicorn_gthread_with_two_workers: GunicornThreads
    gunicorn_reuse_port_with_two_workers: GunicornReusePort
    uvicorn_with_one_process: Uvicorn
    uvicorn_with_two_workers: UvicornWorkers
    granian_with_two_workers: Granian
    hypercorn: Hypercorn
    waitress: Waitress
    node_behind_a_shell: Shell
    node_behind_npm_run: Npm
    node_cluster_with_two_workers: NodeCluster
    node_cluster_with_a_shared_socket: NodeClusterShared
    vite: Vite
    nginx_with_two_workers: NginxWorkers
    nginx_with_a_socket_per_worker: NginxReusePort
    redis: Redis
    java_nio: JavaNio
    apache_which_defers_accept: Apache
    haproxy_master_and_worker: HaProxy
    php_with_two_workers: Php
    erlang: Erlang
    memcached: Memcached
}

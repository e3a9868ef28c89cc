//! P1 and P2 with many real servers, each as it comes: two planned restarts and two SIGKILLs of the main process under fresh connections. As an
//! ordinary user only, which is the harder case (no CAP_SYS_PTRACE, `no_new_privs`); `p1_*` and `p2_*` have both users.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use stayput_testkit::env::{Running, TestEnv, User};
use stayput_testkit::further::Further;
use stayput_testkit::load::{Load, Plan};
use stayput_testkit::{process, wait};

const PATIENCE: Duration = Duration::from_secs(30);
const QUICK: &[&str] = &["--soak", "300ms"];
/// So many clients with one request in flight each: a SIGKILL may cost no more than that.
const CLIENTS: u64 = 4;
const KILLS: u64 = 2;

/// What a load saw, of HTTP and of Redis alike.
#[derive(Debug, Default)]
struct Seen {
    ok: u64,
    refused: u64,
    timed_out: u64,
    /// All that was not answered, the two above included.
    failed: u64,
    longest_gap_ms: u64,
    /// The first failures in full.
    failures: Vec<String>,
}

/// A load that runs, with a fresh connection per request.
enum Clients {
    Http(Load),
    Redis(Ping),
}

impl Clients {
    fn start(server: Further, port: u16) -> Self {
        if server == Further::Redis {
            return Self::Redis(Ping::start(port));
        }
        let plan = Plan::port(port).clients(usize::try_from(CLIENTS).unwrap()).think(Duration::from_millis(5)).timeout(PATIENCE);
        Self::Http(plan.start().unwrap())
    }

    fn wait_ok(&self, more: u64) {
        match self {
            Self::Http(load) => load.wait_ok(more, PATIENCE).unwrap(),
            Self::Redis(ping) => ping.wait_ok(more),
        }
    }

    fn stop(self) -> Seen {
        match self {
            Self::Redis(ping) => ping.stop(),
            Self::Http(load) => {
                let report = load.stop().unwrap();
                Seen {
                    ok: report.counts.ok,
                    refused: report.counts.refused,
                    timed_out: report.counts.timed_out,
                    failed: report.counts.failed(),
                    longest_gap_ms: report.longest_gap_ms,
                    failures: report.failures.iter().map(|failure| format!("{failure:?}")).collect(),
                }
            }
        }
    }
}

/// Closed-loop clients that send PING on a fresh connection and want PONG.
struct Ping {
    stop: Arc<AtomicBool>,
    ok: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Seen>>,
}

impl Ping {
    fn start(port: u16) -> Self {
        let (stop, ok) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..CLIENTS).map(|_| {
            let (stop, ok) = (Arc::clone(&stop), Arc::clone(&ok));
            std::thread::spawn(move || Self::client(port, &stop, &ok))
        });
        Self { threads: threads.collect(), stop, ok }
    }

    fn client(port: u16, stop: &AtomicBool, ok: &AtomicU64) -> Seen {
        let (mut seen, mut last) = (Seen::default(), Instant::now());
        while !stop.load(Ordering::Relaxed) {
            match ping(port) {
                Ok(()) => {
                    seen.ok += 1;
                    ok.fetch_add(1, Ordering::Relaxed);
                    seen.longest_gap_ms = seen.longest_gap_ms.max(u64::try_from(last.elapsed().as_millis()).unwrap());
                    last = Instant::now();
                }
                Err(error) => {
                    seen.failed += 1;
                    seen.refused += u64::from(error.kind() == ErrorKind::ConnectionRefused);
                    seen.timed_out += u64::from(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
                    seen.failures.push(error.to_string());
                }
            }
            // The pace of the load, as `think` is for HTTP.
            std::thread::sleep(Duration::from_millis(5));
        }
        seen
    }

    fn wait_ok(&self, more: u64) {
        let goal = self.ok.load(Ordering::Relaxed) + more;
        wait::until_true("further answers to PING", PATIENCE, || self.ok.load(Ordering::Relaxed) >= goal).unwrap();
    }

    fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().unwrap()).fold(Seen::default(), |mut all, one| {
            all.ok += one.ok;
            all.refused += one.refused;
            all.timed_out += one.timed_out;
            all.failed += one.failed;
            // Of one client: the others may have been answered meanwhile.
            all.longest_gap_ms = all.longest_gap_ms.max(one.longest_gap_ms);
            all.failures.extend(one.failures);
            all
        })
    }
}

fn ping(port: u16) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"PING\r\n")?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer)?;
    if &answer == b"+PONG\r\n" { Ok(()) } else { Err(std::io::Error::other(format!("{answer:?}"))) }
}

/// Everything but the current generation has ended. A kill within the soak, or beside one that drains, would be another test.
fn wait_alone(running: &mut Running<'_>) {
    running.wait_for("the end of the old generation", |service| {
        service["phase"] == "ready" && service["generations"].as_array().is_some_and(|all| all.len() == 1)
    });
}

fn planned(running: &mut Running<'_>, server: Further, port: u16) -> Seen {
    let load = Clients::start(server, port);
    load.wait_ok(30);
    for _ in 0..2 {
        let restart = running.restart_well();
        load.wait_ok(30);
        let ledger = &restart.ledger;
        assert_eq!(ledger["listener_gap"], false, "{ledger}");
        assert!(matches!(ledger["cut"], Value::String(_)) || ledger["cut"] == 0, "fresh connections are all drained: {ledger}");
        wait_alone(running);
    }
    let seen = load.stop();
    assert_eq!(seen.failed, 0, "a planned restart lost requests: {seen:#?}\n{}", running.log());
    seen
}

fn killed(running: &mut Running<'_>, server: Further, port: u16) -> Seen {
    let load = Clients::start(server, port);
    for _ in 0..KILLS {
        load.wait_ok(20);
        let victim = running.ready_pid();
        assert!(process::signal(victim, Signal::KILL));
        wait::until_true("the next generation", PATIENCE, || running.ready_pid() != victim).unwrap();
        load.wait_ok(20);
        // The workers of a main process that was killed drain as its generation.
        wait_alone(running);
    }
    let seen = load.stop();
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
}

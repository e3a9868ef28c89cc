//! A whole stack from one file, as people run it: redis, a task, an API on gunicorn, a Flask-SocketIO dashboard, a cron job; and the same from a
//! Procfile. Under load it is restarted, reloaded, and loses parts of stayput itself; no request is refused or lost, and nothing is left in the end.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use stayput_testkit::env::{Host, TestEnv};
use stayput_testkit::load::{Load, Plan};
use stayput_testkit::server::Server;
use stayput_testkit::{assets, both_users, process, wait};

const PATIENCE: Duration = Duration::from_mins(1);
/// Longer than any of this: the load is stopped by the test.
const LONG: Duration = Duration::from_mins(10);

struct Ports {
    redis: u16,
    api: u16,
    dashboard: u16,
}

impl Ports {
    fn new(env: &TestEnv) -> Self {
        Self { redis: env.port(), api: env.port(), dashboard: env.port() }
    }

    /// Both web servers under load, each request counted once.
    fn load(&self) -> [Load; 2] {
        [self.api, self.dashboard].map(|port| Plan::port(port).rate(25.0).duration(LONG).timeout(Duration::from_secs(30)).start().unwrap())
    }

    fn redis_answers(&self) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.redis)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"PING\r\n").unwrap();
        let mut answer = [0; 7];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"+PONG\r\n");
    }
}

fn nothing_was_lost(load: [Load; 2]) {
    for load in load {
        let report = load.stop().unwrap();
        assert!(report.counts.ok > 0);
        report.assert_nothing_lost();
    }
}

fn redis(env: &TestEnv, port: u16) -> String {
    let program = assets::find_program("redis-server").expect("redis-server is not installed: run `cargo xtask setup`");
    format!("{} --bind 127.0.0.1 --port {port} --save '' --appendonly no --dir {}", program.display(), env.path("scratch").display())
}

fn toml(env: &TestEnv, ports: &Ports, of_the_api: &str) -> String {
    let log = env.path("scratch/migrations");
    format!(
        "\
[service.redis]
command = \"{}\"
overlap = false
soak = '0s'

[service.migrate]
kind = 'task'
shell = 'echo migrated >> {}'
after = ['redis']

[service.api]
command = {:?}
after = ['migrate']
soak = '200ms'
{of_the_api}

[service.web]
command = {:?}
after = ['api']
soak = '200ms'

[service.report]
kind = 'task'
schedule = '0 4 1 1 *'
shell = 'echo reported'
",
        redis(env, ports.redis),
        log.display(),
        env.server(Server::Gunicorn, ports.api),
        env.server(Server::FlaskSocketIo, ports.dashboard),
    )
}

/// When the present process of a service was started, in ticks since the boot (proc_pid_stat(5), field 22).
fn born(host: &Host<'_>, name: &str) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", host.pid(name))).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap()
}

/// Ends a part of stayput, and waits for the next.
fn lose(host: &Host<'_>, part: &str) {
    let before = host.part(part);
    process::signal(before, Signal::KILL);
    wait::until_true(part, PATIENCE, || host.part(part) != before).unwrap();
}

fn restart_all(host: &Host<'_>) -> Vec<String> {
    let document: Value = serde_json::from_str(&host.succeeds(&["restart", "--all", "--json"])).unwrap();
    let services = document["services"].as_array().unwrap_or_else(|| panic!("{document}"));
    services.iter().map(|service| service["name"].as_str().unwrap().to_owned()).collect()
}

both_users! {
fn a_stack_from_one_file_is_restarted_reloaded_and_wounded_without_losing_a_request(env) {
    let ports = Ports::new(env);
    let host = env.host(&toml(env, &ports, ""));
    // One after the other, each when the one before is ready or has ended well.
    assert!(born(&host, "redis") <= born(&host, "api") && born(&host, "api") <= born(&host, "web"));
    assert_eq!(std::fs::read_to_string(env.path("scratch/migrations")).unwrap(), "migrated\n");
    ports.redis_answers();
    let report = host.service("report");
    assert!(report["generations"].as_array().is_some_and(Vec::is_empty), "the cron job waits for its time: {report}");

    let load = ports.load();
    let order = restart_all(&host);
    let place = |name: &str| order.iter().position(|found| found == name).unwrap_or_else(|| panic!("no {name} in {order:?}"));
    assert!(place("redis") < place("api") && place("api") < place("web"), "{order:?}");
    // Meanwhile stayput loses its hands and its brain, one after the other, with a restart at work.
    for part in ["keeper", "daemon"] {
        let restart = std::thread::scope(|scope| {
            let working = scope.spawn(|| host.stayput(&["restart", "--all"]));
            lose(&host, part);
            working.join().unwrap()
        });
        // A daemon that is gone cannot answer for what it began; it is said, and the next order works.
        assert!(restart.code == Some(0) || (part == "daemon" && restart.err.contains("daemon")), "{part}: {restart:?}");
        // What the dead daemon had begun is carried on by the next one; until that is over another restart of the same service is refused.
        for name in ["redis", "api", "web"] {
            host.wait_for(name, "peace", |service| service["phase"] == "ready");
        }
        restart_all(&host);
    }
    let (api, dashboard) = (host.pid("api"), host.pid("web"));
    env.host_file(&toml(env, &ports, "env = { CHANGED = '1' }"));
    host.succeeds(&["reload"]);
    assert_ne!(host.pid("api"), api, "what changed is replaced");
    assert_eq!(host.pid("web"), dashboard, "and nothing else");
    nothing_was_lost(load);
    ports.redis_answers();
    assert_eq!(host.status()["services"].as_array().unwrap().len(), 5);
    host.down();
}

fn the_same_stack_from_a_procfile(env) {
    let ports = Ports::new(env);
    let words = |server: Server, port: u16| env.server(server, port).join(" ");
    env.file(".env", "FROM_THE_FILE=1\n");
    let procfile = env.file("Procfile", &format!(
        "redis: exec {}\napi: exec {}\nweb: exec {}\n",
        redis(env, ports.redis), words(Server::Gunicorn, ports.api), words(Server::FlaskSocketIo, ports.dashboard)
    ));
    let host = env.host_of_file(&procfile);
    ports.redis_answers();
    let environment = std::fs::read(format!("/proc/{}/environ", host.pid("api"))).unwrap();
    assert!(String::from_utf8_lossy(&environment).contains("FROM_THE_FILE=1"));
    let load = ports.load();
    let mut order = restart_all(&host);
    order.sort();
    assert!(["api", "web", "redis"].iter().all(|name| order.iter().any(|found| found == name)), "{order:?}");
    lose(&host, "keeper");
    lose(&host, "daemon");
    restart_all(&host);
    nothing_was_lost(load);
    ports.redis_answers();
    host.down();
}
}

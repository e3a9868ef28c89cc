//! Health checks of a service that serves: what fails is said with its evidence, what fails again and again is replaced, and while that happens it goes
//! on serving.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use stayput_testkit::env::{TestEnv, Upped};
use stayput_testkit::load::{Expect, Plan};
use stayput_testkit::{both_users, process, wait};

const PATIENCE: Duration = Duration::from_secs(30);

/// Answers everything, `/health` with 503 while the file of its own generation is there. So one that is started anew is well.
const SERVER: &str = "\
import http.server, os, sys
sick = 'sick-' + os.environ['STAYPUT_GENERATION']
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        well = self.path != '/health' or not os.path.exists(sick)
        body = os.environ['STAYPUT_GENERATION'].encode()
        self.send_response(200 if well else 503)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass
http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
";

fn config(port: u16, health: &str) -> String {
    format!(
        "\
name = 'checked'
dashboard = false
[service.web]
command = 'python3 server.py {port}'
soak = '100ms'
drain = '1s'
health = {health}
"
    )
}

fn up<'env>(env: &'env TestEnv, port: u16, health: &str) -> Upped<'env> {
    env.file("server.py", SERVER);
    env.up(&config(port, health))
}

/// Waits until a check was passed.
fn passes(upped: &Upped<'_>) -> String {
    let service = upped.wait_for("web", "a check that is passed", |service| service["health"]["passing"] == true);
    service["health"]["detail"].as_str().unwrap().to_owned()
}

both_users! {
fn what_fails_its_http_check_is_replaced_without_losing_a_request(env) {
    let port = env.port();
    let upped = up(env, port, "{ http = '/health', every = '100ms', timeout = '2s', failures = 3 }");
    assert_eq!(passes(&upped), format!("GET /health on 127.0.0.1:{port} was answered with 200"));
    let (sick, _) = upped.serving("web");
    let load = Plan::port(port).clients(2).duration(Duration::from_mins(1)).timeout(Duration::from_secs(5)).expect(Expect::AnyHttp).start().unwrap();
    env.file(&format!("sick-{sick}"), "");
    let event = upped.wait_event("web", "unhealthy");
    assert_eq!(event["data"]["failures"], 3, "{event}");
    let text = event["text"].as_str().unwrap();
    assert!(text.contains("GET /health") && text.contains("was answered with 503, 3 times in a row; it is restarted"), "{text}");
    let restarted = upped.wait_for("web", "another generation, well", |service| {
        let id = stayput_testkit::env::ready_generation(service).and_then(|generation| generation["id"].as_u64());
        id.is_some_and(|id| id > sick) && service["health"]["passing"] == true && service["state"] == "running"
    });
    assert_eq!(restarted["ledger"]["outcome"], "switched", "{restarted}");
    load.stop().unwrap().assert_nothing_lost();
    upped.down();
}

fn a_generation_with_a_share_that_fails_its_check_gives_all_back(env) {
    let port = env.port();
    let upped = up(env, port, "{ http = '/health', every = '50ms', timeout = '2s', failures = 3 }");
    passes(&upped);
    let (old, _) = upped.serving("web");
    env.file(&format!("sick-{}", old + 1), "");
    let load = Plan::port(port).clients(2).duration(Duration::from_mins(1)).timeout(Duration::from_secs(5)).expect(Expect::AnyHttp).start().unwrap();
    let said = env.cli(["restart", "web", "--canary", "50%", "--for", "50s"], Duration::from_secs(45));
    let err = String::from_utf8(said.stderr).unwrap();
    assert_eq!((said.status.code(), err.contains("the old generation has all connections again")), (Some(1), true), "{err}");
    assert!(err.contains("its health check failed 3 times: GET /health") && err.contains("was answered with 503"), "{err}");
    assert_eq!(upped.serving("web").0, old);
    assert_eq!(upped.service("web")["ledger"]["outcome"], "rolled-back");
    load.stop().unwrap().assert_nothing_lost();
    upped.down();
}

fn the_old_generation_is_not_blamed_for_one_that_shares_its_port(env) {
    let port = env.port();
    let upped = up(env, port, "{ http = '/health', every = '20ms', timeout = '2s', failures = 1000000 }");
    passes(&upped);
    let (old, _) = upped.serving("web");
    env.file(&format!("sick-{}", old + 1), "");
    let said = env.cli(["restart", "web", "--canary", "50%", "--stay"], PATIENCE);
    assert_eq!(said.status.code(), Some(0), "{}", String::from_utf8_lossy(&said.stderr));
    // Some twenty checks, of which the other one would get half if they went where connections go.
    for _ in 0..60 {
        let health = upped.service("web")["health"].clone();
        assert_eq!(health["passing"], true, "{health}");
    }
    let said = env.cli(["restart", "web", "--abort"], PATIENCE);
    assert_eq!(said.status.code(), Some(0), "{}", String::from_utf8_lossy(&said.stderr));
    upped.down();
}

fn what_does_not_accept_fails_its_tcp_check(env) {
    let port = env.port();
    let upped = up(env, port, "{ tcp = true, every = '100ms', timeout = '300ms', failures = 2 }");
    assert_eq!(passes(&upped), format!("a connection was accepted on 127.0.0.1:{port}"));
    let (before, pid) = upped.serving("web");
    assert!(process::signal(pid, rustix::process::Signal::STOP));
    let event = upped.wait_event("web", "unhealthy");
    assert!(event["text"].as_str().unwrap().contains("was not accepted within 300ms, 2 times in a row"), "{event}");
    wait::until_true("another generation", PATIENCE, || upped.serving("web").0 > before).unwrap();
    passes(&upped);
    process::signal(pid, rustix::process::Signal::CONT);
    upped.down();
}

fn a_failure_now_and_then_is_shown_and_restarts_nothing(env) {
    let port = env.port();
    let upped = up(env, port, "{ exec = 'sh check.sh', every = '100ms', timeout = '5s', failures = 1000000 }");
    let (before, _) = upped.serving("web");
    let missing = upped.wait_for("web", "a check that fails", |service| service["health"]["passing"] == false);
    assert!(missing["health"]["detail"].as_str().unwrap().starts_with("sh check.sh exited with status"), "{missing}");
    env.file("check.sh", "echo fine; echo disk is full >&2; exit 3");
    let full = upped.wait_for("web", "its words", |service| service["health"]["detail"].as_str().unwrap().contains("full"));
    assert_eq!(full["health"]["detail"], "sh check.sh exited with status 3: disk is full");
    assert_eq!(full["state"], "unhealthy");
    assert!(full["detail"].as_str().unwrap().contains("times in a row, since"), "{full}");
    // With the user, directory and environment of the service.
    env.file("check.sh", "test \"$HOME\" != '' && test -f server.py && id -u >whoami");
    assert_eq!(passes(&upped), "sh check.sh exited with status 0");
    let user = std::fs::read_to_string(env.path("scratch").join("whoami")).unwrap();
    let guard = std::fs::metadata(format!("/proc/{}", upped.part("guard"))).unwrap();
    assert_eq!(user.trim(), std::os::unix::fs::MetadataExt::uid(&guard).to_string());
    assert_eq!(upped.serving("web").0, before);
    assert_eq!(upped.service("web")["state"], "running");
    upped.down();
}

fn a_check_that_takes_too_long_is_killed_whole(env) {
    let port = env.port();
    env.file("check.sh", "echo $$ >>pids; setsid sh -c 'echo $$ >>pids; exec sleep 300' & sleep 300");
    let upped = up(env, port, "{ exec = 'sh check.sh', every = '1h', timeout = '500ms', failures = 1 }");
    let event = upped.wait_event("web", "unhealthy");
    let text = event["text"].as_str().unwrap();
    assert!(text.contains("sh check.sh ran for more than 500ms and was killed with all that it started"), "{text}");
    let pids = std::fs::read_to_string(env.path("scratch").join("pids")).unwrap();
    let first: Vec<u32> = pids.lines().take(2).map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(first.len(), 2, "{pids}");
    assert!(first.iter().all(|pid| !process::is_alive(*pid)), "{first:?}");
    upped.down();
}

fn a_daemon_that_dies_leaves_no_check_behind(env) {
    let port = env.port();
    env.file("check.sh", "echo $$ >>pids; exec sleep 300");
    let upped = up(env, port, "{ exec = 'sh check.sh', every = '100ms', timeout = '1h', failures = 1 }");
    let pids = || -> Vec<u32> {
        let text = std::fs::read_to_string(env.path("scratch").join("pids")).unwrap_or_default();
        text.lines().filter_map(|pid| pid.parse().ok()).collect()
    };
    wait::until_true("a check", PATIENCE, || pids().len() == 1).unwrap();
    let first = pids()[0];
    let (before, _) = upped.serving("web");
    assert!(process::signal(upped.part("daemon"), rustix::process::Signal::KILL));
    // The new one ends it, and checks anew.
    wait::until_true("the end of the check", PATIENCE, || !process::is_alive(first)).unwrap();
    wait::until_true("another check", PATIENCE, || pids().len() == 2).unwrap();
    assert_eq!(upped.serving("web").0, before, "the service was not touched");
    // One that nobody wants any more is ended, too.
    let second = pids()[1];
    upped.reload(&config(port, "{ tcp = true }"));
    wait::until_true("the end of the check", PATIENCE, || !process::is_alive(second)).unwrap();
    upped.down();
}
/// Where an anchor of ours has to be filled with a connection (an ordinary user's), that one waits for ever and is nobody's.
fn a_service_that_nobody_asks_is_not_called_deaf(env) {
    let port = env.port();
    let upped = up(env, port, "{ tcp = true, every = '1h' }");
    let service = upped.wait_for("web", "six quiet seconds", |service| service["uptime_ms"].as_u64() >= Some(6_000));
    assert_eq!(service["state"], "running", "{service}");
    assert_ne!(service["facts"]["accepting"]["is"], "no", "{service}");
    upped.down();
}
}

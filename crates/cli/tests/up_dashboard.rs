//! The dashboard that `up` starts: a service of the instance that is held and restarted like any other, and gives way to those of the
//! configuration.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead as _, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use stayput_testkit::env::{TestEnv, User, stayput, succeeds};
use stayput_testkit::load::{Expect, Plan};
use stayput_testkit::{both_users, process, wait};

const PATIENCE: Duration = Duration::from_secs(30);

fn services(env: &TestEnv) -> Vec<Value> {
    env.status().unwrap()["services"].as_array().unwrap().clone()
}

fn service(env: &TestEnv, name: &str) -> Value {
    let all = services(env);
    all.iter().find(|service| service["name"] == name).unwrap_or_else(|| panic!("no {name} in {all:?}")).clone()
}

fn serving(env: &TestEnv, name: &str) -> (u64, i32) {
    let seen = wait::until("a generation that serves", PATIENCE, || {
        let service = service(env, name);
        let ready = service["generations"].as_array().into_iter().flatten().find(|generation| generation["phase"] == "ready").cloned();
        ready.ok_or_else(|| service.to_string())
    });
    let generation = seen.unwrap_or_else(|why| panic!("{why}"));
    (generation["id"].as_u64().unwrap(), i32::try_from(generation["pid"].as_i64().unwrap()).unwrap())
}

/// The line in which `up -d` says where the dashboard is, and its port.
fn address(out: &str) -> (String, u16) {
    let line = out
        .lines()
        .find_map(|line| line.strip_prefix("dashboard: ").filter(|rest| rest.starts_with("http")))
        .unwrap_or_else(|| panic!("no address in {out}"));
    let url = line.split(' ').next().unwrap();
    let port = url.trim_end_matches('/').rsplit(':').next().unwrap().parse().unwrap();
    (url.to_owned(), port)
}

/// An answer to the bearer of the token: tests run as root, and the instance of an ordinary user is not root's.
fn get(env: &TestEnv, address: &str, path: &str) -> String {
    let link = stayput(env, &["dashboard", "--link"]).1;
    let token = link.trim().rsplit('=').next().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

both_users! {
fn it_is_a_service_whose_restarts_and_deaths_refuse_nobody(env) {
    let (web, port) = (env.port(), env.port());
    let config = format!("name = 'shop'\ndashboard = {{ listen = {port} }}\n[service.web]\ncommand = 'python3 -m http.server --bind 127.0.0.1 {web}'\n");
    env.file("stayput.toml", &config);
    let out = succeeds(env, &["up", "-d"]);
    assert!(out.contains("shop: 1 of 1 services are started"), "{out}");
    assert_eq!(address(&out), (format!("http://127.0.0.1:{port}/"), port));
    let link = succeeds(env, &["dashboard", "--link"]);
    assert!(link.starts_with(&format!("http://127.0.0.1:{port}/#token=")), "{link}");
    let all = services(env);
    assert_eq!(all.iter().map(|service| (service["name"].as_str().unwrap(), service["own"].as_bool().unwrap())).collect::<Vec<_>>(), [
        ("web", false),
        ("dashboard", true)
    ]);
    assert!(get(env, &format!("127.0.0.1:{port}"), "/api/v1/status").contains("\"shop\""));
    assert!(get(env, &format!("[::1]:{port}"), "/healthz").starts_with("HTTP/1.1 200"));

    // A pattern does not mean it, its name does; who is asked for by name is restarted, and nobody is refused meanwhile.
    let before = serving(env, "dashboard");
    succeeds(env, &["restart", "--all", "--no-wait"]);
    succeeds(env, &["stop", "*"]);
    assert_eq!(service(env, "web")["target"], "down");
    assert_eq!(serving(env, "dashboard"), before);
    let plan = Plan::port(port).path("/healthz").rate(200.0).duration(PATIENCE).expect(Expect::AnyHttp);
    let load = plan.start().unwrap();
    load.wait_ok(20, PATIENCE).unwrap();
    let out = succeeds(env, &["restart", "dashboard"]);
    assert!(out.contains("switched"), "{out}");
    let after = serving(env, "dashboard");
    assert!(after.0 > before.0, "{after:?}");
    process::signal(after.1.cast_unsigned(), Signal::KILL);
    wait::until_true("another generation", PATIENCE, || serving(env, "dashboard").0 > after.0).unwrap();
    load.wait_ok(50, PATIENCE).unwrap();
    let report = load.stop().unwrap();
    assert_eq!(report.counts.refused, 0, "{report:?}");
    // SIGKILL takes the requests with it that it had accepted, and nothing else.
    assert!(report.counts.failed() <= 4, "{report:?}");
    // The tokens are still those of before.
    assert_eq!(succeeds(env, &["dashboard", "--link"]), link);

    succeeds(env, &["stop", "dashboard"]);
    assert_eq!(service(env, "dashboard")["target"], "down");
    succeeds(env, &["start", "dashboard"]);
    succeeds(env, &["down"]);
    env.assert_nothing_left(PATIENCE);
}

fn a_service_that_declares_or_binds_its_port_has_it(env) {
    // An address of its own: the ports beside this one on 127.0.0.1 are those of other tests.
    let (ip, port) = ("127.0.7.1", env.port());
    let dashboard = format!("dashboard = {{ listen = '{ip}:{port}' }}\n");
    let web = |key: &str| format!("[service.web]\ncommand = 'python3 -m http.server --bind {ip} {port}'\n{key}\n");
    // Declared: the dashboard is elsewhere from the beginning. It has another name where its own is taken.
    let other = format!("[service.dashboard]\ncommand = 'python3 -m http.server --bind 127.0.0.1 {}'\n", env.port());
    env.file("stayput.toml", &format!("name = 'one'\n{dashboard}{}{other}", web(&format!("port = '{ip}:{port}'"))));
    let (_, elsewhere) = address(&succeeds(env, &["up", "-d"]));
    assert!(elsewhere > port, "{elsewhere}");
    serving(env, "stayput-dashboard");
    assert!(get(env, &format!("{ip}:{port}"), "/").contains("Directory listing"));
    succeeds(env, &["down"]);

    // Found out when it binds: the dashboard moves, says where, and the service gets its port without anybody's doing.
    env.file("stayput.toml", &format!("name = 'two'\n{dashboard}"));
    assert_eq!(address(&succeeds(env, &["up", "-d"])).1, port);
    env.file("stayput.toml", &format!("name = 'two'\n{dashboard}{}", web("")));
    succeeds(env, &["reload", "--no-wait"]);
    serving(env, "web");
    assert!(get(env, &format!("{ip}:{port}"), "/").contains("Directory listing"));
    let said = succeeds(env, &["events", "dashboard"]);
    let moved = said.split(&format!("it leaves {ip}:{port}, because web wants it, and is on ")).nth(1);
    let moved = moved.and_then(|rest| rest.lines().next()).unwrap_or_else(|| panic!("{said}"));
    let link = succeeds(env, &["dashboard", "--link"]);
    assert!(link.starts_with(moved), "{link}");
    assert_eq!(succeeds(env, &["plan"]), "nothing changes\n", "where it went is no change of the file");
    succeeds(env, &["down"]);
    env.assert_nothing_left(PATIENCE);
}

fn without_a_configuration_it_is_alone_and_takes_one_up(env) {
    let out = succeeds(env, &["up", "-d"]);
    assert!(out.contains("there is no service yet"), "{out}");
    let (_, port) = address(&out);
    let page = get(env, &format!("127.0.0.1:{port}"), "/plain");
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    let (code, _, err) = stayput(env, &["reload"]);
    assert_eq!((code, err.contains("there is no such file")), (Some(2), true), "{err}");
    let web = env.port();
    env.file("stayput.toml", &format!("[service.web]\ncommand = 'python3 -m http.server --bind 127.0.0.1 {web}'\n"));
    let out = succeeds(env, &["reload"]);
    assert!(out.contains("web: is added"), "{out}");
    serving(env, "web");
    succeeds(env, &["down"]);
    env.assert_nothing_left(PATIENCE);
}

fn what_a_procfile_tells_its_processes_is_left_to_them(env) {
    env.file("Procfile", "web: exec python3 -m http.server --bind 127.0.0.1 $PORT\n");
    let first = env.port();
    env.file(".env", &format!("PORT={first}\n"));
    let (_, port) = address(&succeeds(env, &["up", "-d"]));
    assert_ne!(port, first);
    assert!(get(env, &format!("127.0.0.1:{first}"), "/").contains("Directory listing"));
    succeeds(env, &["down"]);
    // Both begin at 5000 when nobody says otherwise: what a process is told is left to it from the beginning.
    env.file(".env", "");
    env.file("Procfile", "web: exec sleep 1000\n");
    let mut front = env.command(["up"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufReader::new(front.stdout.take().unwrap()).lines();
    let said = lines.find_map(|line| Some(line.unwrap().split_once("listening on http://127.0.0.1:")?.1.to_owned())).unwrap();
    assert!(said.trim_end_matches('/').parse::<u16>().unwrap() > 5000, "{said}");
    succeeds(env, &["down"]);
    assert!(front.wait().unwrap().success());
    env.file("stayput.toml", &format!("dashboard = false\n[service.web]\ncommand = 'python3 -m http.server --bind 127.0.0.1 {first}'\n"));
    let out = succeeds(env, &["up", "-d"]);
    assert!(!out.contains("dashboard"), "{out}");
    assert_eq!(services(env).len(), 1);
    succeeds(env, &["down"]);
    env.assert_nothing_left(PATIENCE);
}
}

#[test]
fn a_host_without_ipv6_has_a_dashboard() {
    if !User::Root.is_possible() {
        println!("NOT RUN: a network of its own needs root");
        return;
    }
    let env = TestEnv::new(env!("CARGO_BIN_EXE_stayput"), User::Root);
    let inside = |arguments: &str| {
        // Both are done in the same namespace, which lives as long as the instance does.
        let script = format!(
            "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; ip link set lo up || exit 9; {0} up -d && {0} status --json; {0} {arguments}",
            env!("CARGO_BIN_EXE_stayput")
        );
        let mut command: Command = env.as_user(std::path::Path::new("/usr/bin/unshare"), ["--net", "sh", "-c", &script]);
        let Output { status, stdout, stderr } = command.output().unwrap();
        (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    };
    let (code, out, err) = inside("down");
    assert_eq!(code, Some(0), "{out}{err}");
    assert_eq!(address(&out).0, "http://127.0.0.1:5000/", "in a network of its own nobody has it");
    assert!(!out.contains("\"::1\""), "{out}");
    env.assert_nothing_left(PATIENCE);
}

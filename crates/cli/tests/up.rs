//! An instance of several services from its first start to its end, as a person drives it: real servers, a real configuration.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use stayput_testkit::env::{TestEnv, stayput, succeeds};
use stayput_testkit::{both_users, wait};

const PATIENCE: Duration = Duration::from_secs(30);

fn config(api: u16, web: u16, extra: &str) -> String {
    format!(
        "\
name = 'shop'

[service.api]
command = 'python3 -m http.server --bind 127.0.0.1 {api}'
soak = '100ms'
{extra}

[service.web]
command = 'python3 -m http.server --bind 127.0.0.1 {web}'
after = ['api']
soak = '100ms'
"
    )
}

fn service(env: &TestEnv, name: &str) -> Value {
    let status = env.status().unwrap();
    let services = status["services"].as_array().unwrap();
    services.iter().find(|service| service["name"] == name).unwrap_or_else(|| panic!("no {name} in {status}")).clone()
}

/// The newest generation.
fn generation(env: &TestEnv, name: &str) -> u64 {
    let service = service(env, name);
    let generations = service["generations"].as_array().unwrap();
    generations.iter().map(|generation| generation["id"].as_u64().unwrap()).max().unwrap_or_else(|| panic!("no generation: {service}"))
}

fn answers(port: u16) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
}

both_users! {
fn an_instance_is_driven_from_its_file(env) {
    let (api, web) = (env.port(), env.port());
    env.file("stayput.toml", &config(api, web, ""));
    let out = succeeds(env, &["up", "-d"]);
    assert!(out.contains("shop: 2 of 2 services are started"), "{out}");
    answers(api);
    answers(web);
    let (first_api, first_web) = (generation(env, "api"), generation(env, "web"));

    // A broken edit: nothing changes, and the mistake is shown where it is.
    env.file("stayput.toml", &config(api, web, "drain = 'soon'"));
    for command in ["plan", "reload"] {
        let (code, _, err) = stayput(env, &[command]);
        assert_eq!(code, Some(2), "{err}");
        assert!(err.contains("drain = 'soon'"), "{err}");
    }
    assert_eq!((generation(env, "api"), generation(env, "web")), (first_api, first_web));

    // Policy: in force without a restart. A variable: a new generation of this service alone, and its value is in no answer.
    env.file("stayput.toml", &config(api, web, "drain = '5s'"));
    assert!(succeeds(env, &["plan"]).contains("api: goes on"), "a policy needs no restart");
    succeeds(env, &["reload"]);
    assert_eq!(succeeds(env, &["plan"]), "nothing changes\n");
    assert_eq!(generation(env, "api"), first_api);
    env.file("stayput.toml", &config(api, web, "drain = '5s'\nenv = { TOKEN = 'hunter2' }"));
    let plan = succeeds(env, &["plan", "--json"]);
    assert!(plan.contains("env.TOKEN") && !plan.contains("hunter2"), "{plan}");
    let out = succeeds(env, &["reload"]);
    assert!(out.contains("api: is restarted") && out.contains("switched"), "{out}");
    assert!(generation(env, "api") > first_api);
    assert_eq!(generation(env, "web"), first_web);
    answers(api);
    answers(web);

    // The same daemon's events and counters; a signal that ends a server is a crash, and its port stays.
    let events = succeeds(env, &["events", "api", "--json"]);
    let kinds: Vec<String> =
        events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["kind"].as_str().unwrap().to_owned()).collect();
    assert!(kinds.iter().any(|kind| kind == "switched"), "{events}");
    assert!(succeeds(env, &["metrics"]).contains("# TYPE "), "metrics");
    let before = generation(env, "web");
    assert!(succeeds(env, &["signal", "KILL", "we*"]).contains(&format!("web: sent to generation {before}")), "a signal");
    answers(web);
    assert!(generation(env, "web") > before);
    let (code, _, err) = stayput(env, &["signal", "HUP", "wbe"]);
    assert_eq!((code, err.contains("did you mean web?")), (Some(2), true), "{err}");
    assert!(succeeds(env, &["start", "api"]).contains("api: started"), "it runs already");

    // One by its name, some by a glob, one of the instance that is named first; what nobody has is refused and nothing is done.
    let (before_api, before_web) = (generation(env, "api"), generation(env, "web"));
    succeeds(env, &["restart", "api"]);
    assert_eq!((generation(env, "api") > before_api, generation(env, "web")), (true, before_web));
    let before_api = generation(env, "api");
    assert!(succeeds(env, &["restart", "we*"]).contains("web: restart of generation"), "a glob");
    assert_eq!((generation(env, "api"), generation(env, "web") > before_web), (before_api, true));
    let (code, _, err) = stayput(env, &["restart", "api", "wbe"]);
    assert_eq!((code, err.contains("did you mean web?")), (Some(2), true), "{err}");
    assert_eq!(generation(env, "api"), before_api);
    let (code, _, err) = stayput(env, &["stop", "shpo", "--all"]);
    assert_eq!((code, err.contains("the instance that runs is shop")), (Some(2), true), "{err}");
    let all: Value = serde_json::from_str(&succeeds(env, &["restart", "--all", "--json"])).unwrap();
    let order: Vec<&str> = all["services"].as_array().unwrap().iter().map(|service| service["name"].as_str().unwrap()).collect();
    assert_eq!(order, ["api", "web"], "dependencies first");
    let (code, _, err) = stayput(env, &["restart", "shop"]);
    assert_eq!((code, err.contains("say which")), (Some(2), true), "{err}");

    // One stops, and the other and the instance go on.
    let out = succeeds(env, &["stop", "shop", "web"]);
    assert!(out.contains("web: stopped; its main process"), "{out}");
    assert_eq!(service(env, "web")["target"], "down");
    answers(api);
    let out = succeeds(env, &["start", "web"]);
    assert!(out.contains("web: started"), "{out}");
    answers(web);

    succeeds(env, &["down"]);
    wait::until_true("the end of the servers", PATIENCE, || TcpStream::connect(("127.0.0.1", web)).is_err()).unwrap();
    env.assert_nothing_left(PATIENCE);
}
}

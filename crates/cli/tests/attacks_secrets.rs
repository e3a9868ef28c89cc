//! Values of environment variables are secrets: they are in the environment of the service that was given them, and nowhere that stayput shows,
//! answers, writes or keeps on disk. Nor is what a command line gives away: its processes have it, and nobody is told.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;

use stayput_testkit::env::{Host, TestEnv};
use stayput_testkit::{both_users, process};
use stayput_wire::{Reply, Request};

/// One value for each way in which a secret gets to a service. All of them contain this.
const CANARY: &str = "kanarienvogel";

fn config(env: &TestEnv, port: u16, extra: &str) -> String {
    let dies = format!("echo of-no-secret; exec {} ", env.misbehave("crash-before-ready", port)[0]);
    format!(
        "\
env = {{ SHARED = '{CANARY}-shared' }}
[service.web]
command = {:?}
soak = '0s'
env = {{ TOKEN = '{CANARY}-inline' }}
env-file = 'secrets.env'
{extra}
[service.dies]
shell = '{dies} crash-before-ready --port {} --tag {}'
env = {{ TOKEN = '{CANARY}-of-the-dead' }}
",
        env.misbehave("trivial", port),
        env.port(),
        env.path("").display(),
    )
}

/// Every regular file below, whole.
fn files(place: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(place).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files(&entry.path(), found);
        } else if kind.is_file() {
            found.push((entry.path().display().to_string(), std::fs::read(entry.path()).unwrap()));
        }
    }
}

/// All that can be asked for and read, each with its name.
fn everything(env: &TestEnv, host: &Host<'_>) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let commands: &[&[&str]] = &[
        &["status"],
        &["status", "--json"],
        &["events"],
        &["events", "--json"],
        &["metrics"],
        &["logs"],
        &["logs", "--json"],
        &["plan"],
        &["plan", "--json"],
        &["restart", "web", "--json"],
        &["ports", "--json"],
        &["doctor", "--json"],
    ];
    for arguments in commands {
        let said = host.stayput(arguments);
        assert!(!said.out.is_empty(), "{arguments:?} says nothing: {}", said.err);
        all.push((format!("{arguments:?}"), [said.out, said.err].concat().into_bytes()));
    }
    for request in
        [Request::Config { service: Some("web".to_owned()) }, Request::Reload { wait: true }, Request::Status {}, Request::Plan {}]
    {
        let reply = host.ask(&request);
        assert!(!matches!(reply, Reply::Failed(_)), "{request:?}: {reply:?}");
        all.push((format!("{request:?}"), serde_json::to_vec(&reply).unwrap()));
    }
    let before = all.len();
    for place in ["run", "home"] {
        files(&env.path(place), &mut all);
    }
    let kept = |(_, bytes): &(String, Vec<u8>)| bytes.windows(12).any(|window| window == b"of-no-secret");
    assert!(all[before..].iter().any(kept), "the files with its output are among those that are searched");
    for part in ["guard", "keeper", "daemon"] {
        for file in ["cmdline", "environ", "comm"] {
            let path = format!("/proc/{}/{file}", host.part(part));
            all.push((path.clone(), std::fs::read(&path).unwrap()));
        }
    }
    all
}

fn is_nowhere(what: &str, all: Vec<(String, Vec<u8>)>) {
    for (name, bytes) in all {
        let found = bytes.windows(CANARY.len()).position(|window| window == CANARY.as_bytes());
        assert_eq!(found, None, "{what}: {name} tells a secret: {}", String::from_utf8_lossy(&bytes));
    }
}

both_users! {
fn a_secret_in_the_environment_is_in_no_answer_and_in_no_file(env) {
    env.file("secrets.env", &format!("PASSWORD={CANARY}-file\n"));
    let port = env.port();
    let (host, said) = env.host_somehow(&config(env, port, ""), &[]);
    assert_eq!(said.code, Some(1), "one of them crashes: {}{}", said.out, said.err);
    is_nowhere("up", vec![("up".to_owned(), [said.out, said.err].concat().into_bytes())]);
    // They were given to the service, or this test looks for nothing.
    let environment = std::fs::read(format!("/proc/{}/environ", host.pid("web"))).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    for value in ["shared", "inline", "file"] {
        assert!(environment.contains(&format!("{CANARY}-{value}")), "{environment}");
    }
    host.wait_for("dies", "a few crashes", |service| service["restarts"].as_u64() >= Some(2));
    is_nowhere("as it was started", everything(env, &host));

    // New values, which a plan and a reload speak of.
    let rewritten = config(env, port, "").replace("-inline", "-inline-2").replace("-shared", "-shared-2");
    env.host_file(&rewritten);
    env.file("secrets.env", &format!("PASSWORD={CANARY}-file-2\n"));
    let plan = host.succeeds(&["plan"]);
    assert!(plan.contains("env.TOKEN") && plan.contains("env.PASSWORD") && plan.contains("env.SHARED"), "{plan}");
    is_nowhere("while a change is pending", everything(env, &host));
    assert!(String::from_utf8_lossy(&std::fs::read(format!("/proc/{}/environ", host.pid("web"))).unwrap()).contains("-inline-2"));

    // A file with mistakes, beside and in the values.
    for broken in [format!("env.OTHER = ['{CANARY}-list']"), format!("env.OTHER = '{CANARY}-open"), "env-file = 'broken.env'".to_owned()] {
        env.file("broken.env", &format!("PASSWORD {CANARY}-no-sign\n=\n"));
        let text = config(env, port, "").replace("env-file = 'secrets.env'", &broken).replace("env = { TOKEN", "env = { OLD");
        env.host_file(&text);
        let reply = host.ask(&Request::Reload { wait: true });
        let Reply::Reloaded { plan, .. } = &reply else { panic!("{reply:?}") };
        assert!(!plan.errors.is_empty(), "{broken}: {reply:?}");
        is_nowhere(&broken, vec![("the reply".to_owned(), serde_json::to_vec(&reply).unwrap())]);
    }

    // The next daemon is told all by the keeper.
    env.host_file(&rewritten);
    let before = host.part("daemon");
    process::signal(before, rustix::process::Signal::KILL);
    stayput_testkit::wait::until_true("another daemon", std::time::Duration::from_secs(20), || host.part("daemon") != before).unwrap();
    is_nowhere("after the death of a daemon", everything(env, &host));
    let said = host.succeeds(&["down"]);
    is_nowhere("down", vec![("down".to_owned(), said.into_bytes())]);
    env.assert_nothing_left(std::time::Duration::from_secs(30));
    let mut left = Vec::new();
    files(&env.path("home"), &mut left);
    is_nowhere("at the end", left);
}
}

const SERVER: &str = "\
import http.server, sys
class Silent(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(200), self.end_headers()
    def log_message(self, *_): pass
print('of-no-secret', flush=True)
http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Silent).serve_forever()
";

/// A service with a secret in each place of its command line that people put one, and what is none at the end.
fn on_the_command_line(env: &TestEnv, port: u16, of: &str) -> String {
    let server = env.file("server.py", SERVER).display().to_string();
    let (option, url) = (format!("{CANARY}-{of}-option"), format!("postgres://app:{CANARY}-{of}-url@db/shop?token={CANARY}-{of}-query"));
    let assigned = format!("DB_PASSWORD={CANARY}-{of}-assigned with a blank");
    let header = format!("Authorization: Bearer {CANARY}-{of}-header");
    let port = port.to_string();
    let argv = ["/usr/bin/python3", &server, &port, "--password", &option, &url, &assigned, "-H", &header, "and-what-is-none"];
    format!("[service.web]\ncommand = {argv:?}\nsoak = '0s'\nready = 'http:/?token={CANARY}-{of}-asked'\n")
}

both_users! {
fn a_secret_on_a_command_line_is_told_to_nobody(env) {
    let port = env.port();
    let (host, said) = env.host_somehow(&on_the_command_line(env, port, "first"), &[]);
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    is_nowhere("up", vec![("up".to_owned(), [said.out, said.err].concat().into_bytes())]);
    // It has them, or this test looks for nothing.
    let given = std::fs::read(format!("/proc/{}/cmdline", host.pid("web"))).unwrap();
    for place in ["option", "url", "query", "assigned", "header"] {
        assert!(String::from_utf8_lossy(&given).contains(&format!("{CANARY}-first-{place}")), "{place}");
    }
    let looks = |when: &str| {
        is_nowhere(when, everything(env, &host));
        let said = host.stayput(&["why", &port.to_string(), "--json"]);
        let processes = serde_json::to_string(&host.ask(&Request::Processes { service: Some("web".to_owned()) })).unwrap();
        for (name, text) in [("why", said.out + &said.err), ("processes", processes)] {
            assert!(text.contains("and-what-is-none") && text.contains("--password ***"), "{name} shows the rest: {text}");
            is_nowhere(when, vec![(name.to_owned(), text.into_bytes())]);
        }
    };
    looks("as it was started");
    env.host_file(&on_the_command_line(env, port, "second"));
    let plan = host.succeeds(&["plan"]);
    assert!(plan.contains("(another secret)"), "{plan}");
    looks("while a change is pending");
    // A mistake in its very line.
    env.host_file(&on_the_command_line(env, port, "third").replace("\"and-what-is-none\"", "5"));
    let said = host.stayput(&["reload"]);
    assert_eq!(said.code, Some(2), "{}{}", said.out, said.err);
    assert!((said.out.clone() + &said.err).contains("Authorization: ***"), "the line is shown: {}{}", said.out, said.err);
    is_nowhere("a mistake", vec![("reload".to_owned(), [said.out, said.err].concat().into_bytes())]);
    host.succeeds(&["down"]);
    env.assert_nothing_left(std::time::Duration::from_secs(30));
}
}

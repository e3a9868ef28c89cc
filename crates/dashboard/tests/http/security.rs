//! Each row of the security list: what a stranger may try, and that it is refused.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{SOON, serve};
use stayput_dashboard::{Audit, Certificate, Options, Tokens};
use stayput_testkit::fake_control::{FakeControl, Scene};

/// Every address that there is, as a request would say it, with the need for a token.
const LOOK: &[&str] = &[
    "/api/v1/me",
    "/api/v1/status",
    "/api/v1/services",
    "/api/v1/services/web",
    "/api/v1/services/web/config",
    "/api/v1/services/web/processes",
    "/api/v1/ports",
    "/api/v1/events",
    "/api/v1/stream",
    "/api/v1/logs",
    "/api/v1/logs/stream",
    "/api/v1/logs/download",
    "/api/v1/history",
    "/api/v1/plan",
    "/api/v1/operations/1",
];
const READ: &[&str] = &["/plain", "/metrics"];
const OPEN: &[&str] = &["/", "/s/web", "/app.js", "/app.css", "/icon.svg", "/healthz", "/readyz", "/api/v1/openapi.json"];
const ACT: &[(&str, &str)] = &[
    ("/api/v1/services/web/start", "{}"),
    ("/api/v1/services/web/stop", "{}"),
    ("/api/v1/services/web/restart", "{}"),
    ("/api/v1/services/web/rollback", "{}"),
    ("/api/v1/services/web/decide", r#"{"switch":true}"#),
    ("/api/v1/services/web/signal", r#"{"signal":"HUP"}"#),
    ("/api/v1/reload", "{}"),
    ("/api/v1/ports/hold", r#"{"address":"5001"}"#),
    ("/api/v1/ports/release", r#"{"address":"5001"}"#),
];

fn everywhere() -> impl Iterator<Item = &'static str> {
    let others = ["/socket.io/?EIO=4&transport=polling", "/nothing", "/index.html"];
    LOOK.iter().chain(READ).chain(OPEN).copied().chain(ACT.iter().map(|(path, _)| *path)).chain(others)
}

#[test]
fn names_that_are_not_ours_are_refused_everywhere() {
    let served = serve(Scene::Ten, |_| ());
    let (name, value) = served.bearer();
    for path in everywhere() {
        for host in ["evil.example", "127.0.0.1.evil.example:5000", "localhost.evil.example", "192.0.2.1", "[::2]:80", ""] {
            let answer = served.get(path, &[("Host", host), ("X-Stayput", "1"), (name, &value)]);
            assert_eq!(answer.status, 403, "{path} for {host:?}");
            assert!(!answer.body.contains("web"), "{path} for {host:?}: {}", answer.body);
        }
    }
}

#[test]
fn pages_of_other_origins_are_refused_everywhere() {
    let served = serve(Scene::Ten, |_| ());
    let (name, value) = served.bearer();
    let other_port = format!("http://127.0.0.1:{}", served.address.port().wrapping_add(1));
    for path in everywhere() {
        for origin in ["null", "http://evil.example", "http://127.0.0.1", &other_port] {
            let headers = [("Origin", origin), ("X-Stayput", "1"), (name, value.as_str())];
            assert_eq!(served.get(path, &headers).status, 403, "{path} from {origin}");
            assert_eq!(served.post(path, &headers, "{}").status, 403, "POST {path} from {origin}");
        }
        for site in ["cross-site", "same-site"] {
            let headers = [("Sec-Fetch-Site", site), ("Sec-Fetch-Mode", "no-cors"), ("X-Stayput", "1"), (name, value.as_str())];
            assert_eq!(served.get(path, &headers).status, 403, "{path} from a {site} page");
        }
    }
    let own = format!("http://{}", served.address);
    assert_eq!(served.get("/api/v1/me", &[("Origin", &own), ("X-Stayput", "1")]).status, 200);
    // A link from elsewhere may lead to the page; there is no data in it.
    assert_eq!(served.get("/s/web", &[("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate")]).status, 200);
}

#[test]
fn no_data_and_no_action_without_a_token() {
    let served = serve(Scene::Ten, |options| options.same_user = false);
    for path in LOOK.iter().chain(READ) {
        for headers in [&[][..], &[("X-Stayput", "1")], &[("Authorization", "Bearer x")], &[("Authorization", "Basic eDp5")]] {
            let answer = served.get(path, headers);
            // After many wrong tokens they are not even looked at.
            assert!([401, 429].contains(&answer.status), "{path} with {headers:?}: {}", answer.status);
            assert!(!answer.body.contains("api"), "{path}: {}", answer.body);
        }
    }
    for (path, body) in ACT {
        let answer = served.post(path, &[("X-Stayput", "1"), ("Content-Type", "application/json")], body);
        assert_eq!(answer.status, 401, "{path}");
    }
    for path in OPEN {
        assert_eq!(served.get(path, &[]).status, 200, "{path}");
    }
    assert_eq!(served.fake.requests(), []);
}

#[test]
fn our_own_user_may_look_and_not_act() {
    let served = serve(Scene::Ten, |_| ());
    for path in LOOK.iter().filter(|path| !path.contains("stream") && !path.contains("operations")) {
        assert_eq!(served.look(path).status, 200, "{path}");
        assert_eq!(served.get(path, &[]).status, 401, "{path} without our header");
        for proxy in ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"] {
            assert_eq!(served.get(path, &[("X-Stayput", "1"), (proxy, "127.0.0.1")]).status, 401, "{path} through {proxy}");
        }
    }
    for path in READ {
        assert_eq!(served.get(path, &[]).status, 200, "{path}");
    }
    for (path, body) in ACT {
        let answer = served.post(path, &[("X-Stayput", "1"), ("Content-Type", "application/json")], body);
        assert_eq!(answer.status, 401, "{path}");
    }
    assert_eq!(served.fake.requests(), []);
}

#[test]
fn other_users_of_the_machine_may_not_even_look() {
    let served = serve(Scene::Ten, |_| ());
    if !rustix::process::geteuid().is_root() {
        eprintln!("note: not root, so no other user could be played; the rule itself is tested in owner.rs");
        return;
    }
    let script = "import sys,http.client as h;c=h.HTTPConnection('127.0.0.1',int(sys.argv[1]));\
        c.request('GET','/api/v1/status',headers={'X-Stayput':'1'});print(c.getresponse().status)";
    let status = |uid: u32| {
        let output = Command::new("/usr/bin/python3")
            .args(["-c", script, &served.address.port().to_string()])
            .current_dir("/")
            .uid(uid)
            .gid(uid)
            .output();
        let output = output.unwrap();
        String::from_utf8_lossy(&output.stdout)
            .trim()
            .parse::<u16>()
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
    };
    assert_eq!(status(0), 200, "the same user");
    assert_eq!(status(65_534), 401, "somebody else");
}

#[test]
fn nothing_is_changed_by_anything_but_a_right_post() {
    let served = serve(Scene::Ten, |_| ());
    let tokens = served.tokens();
    let (operate, view) = (format!("Bearer {}", tokens.operate), format!("Bearer {}", tokens.view));
    let json = ("Content-Type", "application/json");
    let ours = ("X-Stayput", "1");
    for (path, body) in ACT {
        let right = [json, ours, ("Authorization", operate.as_str())];
        for method in ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            assert_eq!(served.send(method, path, &right, body).status, 405, "{method} {path}");
        }
        assert_eq!(served.post(path, &[json, ours, ("Authorization", &view)], body).status, 403, "{path} with the token that looks");
        assert_eq!(served.post(path, &[json, ("Authorization", &operate)], body).status, 403, "{path} without our header");
        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
            let answer = served.post(path, &[("Content-Type", kind), ours, ("Authorization", &operate)], body);
            assert_eq!(answer.status, 415, "{path} as {kind}");
        }
        let cross = [json, ours, ("Authorization", operate.as_str()), ("Sec-Fetch-Site", "same-site")];
        assert_eq!(served.post(path, &cross, body).status, 403, "{path} from another port of this host");
        assert_eq!(served.post(path, &right, "not json").status, 400, "{path}");
        assert_eq!(served.post(path, &right, r#"{"command":"rm"}"#).status, 400, "{path} with an unknown field");
    }
    for path in ["/api/v1/services/web/exec", "/api/v1/services/web/__proto__", "/api/v1/services/web/Restart"] {
        assert_eq!(served.act(path, "{}").status, 404, "{path}");
    }
    assert_eq!(served.act("/api/v1/services/web/signal", r#"{"signal":"KILL"}"#).status, 400);
    assert_eq!(served.fake.requests(), [], "nothing reached the daemon");
    for (path, body) in ACT {
        let answer = served.act(path, body);
        assert_eq!(answer.status, 202, "{path}: {}", answer.body);
        assert_eq!(answer.json()["by"]["role"], "operate");
    }
}

#[test]
fn read_only_is_kept_by_the_server() {
    let served = serve(Scene::Ten, |options| options.read_only = true);
    for (path, body) in ACT {
        let answer = served.act(path, body);
        assert_eq!((answer.status, answer.json()["error"]["kind"].as_str()), (403, Some("read-only")), "{path}");
    }
    let (name, value) = served.bearer();
    let me = served.get("/api/v1/me", &[("X-Stayput", "1"), (name, &value)]).json();
    assert_eq!((me["role"].as_str(), me["read_only"].as_bool()), (Some("view"), Some(true)));
    assert_eq!(served.fake.requests(), []);
}

#[test]
fn every_answer_is_strict() {
    let served = serve(Scene::Ten, |_| ());
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'self'; form-action 'none'; \
        frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";
    for path in everywhere().filter(|path| !path.contains("stream")) {
        for host in [served.address.to_string(), "evil.example".to_owned()] {
            let answer = served.get(path, &[("Host", &host), ("X-Stayput", "1")]);
            assert_eq!(answer.header("content-security-policy"), Some(policy), "{path}");
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
            assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{path}");
            assert_eq!(answer.header("x-frame-options"), Some("DENY"), "{path}");
            assert!(answer.header("cache-control").is_some_and(|value| value.contains("no-")), "{path}");
            let head = answer.head.to_ascii_lowercase();
            assert!(!head.contains("access-control-") && !head.contains("set-cookie") && !head.contains("\r\nserver:"), "{path}: {head}");
        }
    }
    let preflight =
        [("Origin", "http://evil.example"), ("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "x-stayput")];
    assert_eq!(served.send("OPTIONS", "/api/v1/reload", &preflight, "").status, 403);
}

#[test]
fn guesses_are_slowed_and_the_right_token_is_not() {
    let served = serve(Scene::Ten, |_| ());
    let answers: Vec<u16> = (0..40).map(|_| served.get("/api/v1/me", &[("Authorization", "Bearer guess")]).status).collect();
    assert!(answers.contains(&429), "{answers:?}");
    let (name, value) = served.bearer();
    assert_eq!(served.get("/api/v1/me", &[(name, &value)]).status, 200);
}

#[test]
fn a_replaced_token_ends_streams_and_opens_nothing() {
    let served = serve(Scene::Ten, |_| ());
    let old = served.tokens();
    let bearer = format!("Bearer {}", old.view);
    let mut streams = ["/api/v1/stream", "/api/v1/logs/stream?services=web"].map(|path| served.follow(path, &[("Authorization", &bearer)]));
    streams[0].until("hello");
    streams[1].until("lines");
    Tokens::draw().unwrap().write(&served.directory.path().join("dashboard.json")).unwrap();
    assert_eq!(served.get("/api/v1/me", &[("Authorization", &bearer)]).status, 401);
    for stream in &mut streams {
        stream.until("denied");
        while stream.next().is_some() {}
    }
}

/// By the description, which is tested to name every route that there is: one that is added without a rule is found here.
#[test]
fn every_route_needs_its_role() {
    let served = serve(Scene::Ten, |options| options.same_user = false);
    let view = format!("Bearer {}", served.tokens().view);
    let document: serde_json::Value = serde_json::from_str(stayput_dashboard::openapi::DOCUMENT).unwrap();
    let (mut looks, mut acts) = (0, 0);
    for (path, item) in document["paths"].as_object().unwrap() {
        let asked = path.replace("{service}", "web").replace("{action}", "stop").replace("{operation}", "1");
        if ["/healthz", "/readyz", "/api/v1/openapi.json"].contains(&path.as_str()) {
            assert_eq!(served.get(&asked, &[]).status, 200, "{path} is open");
        } else if item["get"].is_object() {
            assert_eq!(served.get(&asked, &[("X-Stayput", "1")]).status, 401, "GET {path} without a token");
            looks += 1;
        } else {
            let headers = [("X-Stayput", "1"), ("Content-Type", "application/json")];
            assert_eq!(served.post(&asked, &headers, "{}").status, 401, "POST {path} without a token");
            let looking = [headers[0], headers[1], ("Authorization", view.as_str())];
            assert_eq!(served.post(&asked, &looking, "{}").status, 403, "POST {path} with the token that looks");
            acts += 1;
        }
    }
    assert!(looks >= 15 && acts >= 4, "{looks} {acts}");
    assert_eq!(served.fake.requests(), []);
}

#[test]
fn slow_and_greedy_clients_are_bounded() {
    let served = serve(Scene::Ten, |_| ());
    let begun = Instant::now();
    let mut slow: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(served.address).unwrap()).collect();
    for stream in &mut slow {
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: loc").unwrap();
    }
    assert_eq!(served.get("/healthz", &[]).status, 200, "others are served meanwhile");
    let long = "x".repeat(64 * 1024);
    assert!([400, 414, 431].contains(&served.get(&format!("/{long}"), &[]).status));
    assert!([400, 431].contains(&served.get("/healthz", &[("X-Long", &long)]).status));
    assert_eq!(served.act("/api/v1/reload", &format!("{{\"x\":\"{long}\"}}")).status, 413);
    let mut rest = Vec::new();
    for mut stream in slow {
        rest.clear();
        // Closed, by an end or by a reset.
        let _ = stream.read_to_end(&mut rest);
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(15), "half a request was waited for {took:?}");
}

#[test]
fn nothing_that_steers_a_terminal_leaves_here() {
    let served = serve(Scene::Hostile, |_| ());
    let pieces = served.look("/api/v1/logs").json();
    let pieces = pieces["lines"].as_array().unwrap().iter().flat_map(|line| line["x"].as_array().unwrap());
    let logs = pieces.map(|piece| piece[0].as_str().unwrap()).collect::<String>();
    assert!(logs.contains("<img src=x onerror=alert(1)>"), "{logs}");
    for (path, answer) in
        ["/api/v1/logs/download", "/plain"].map(|path| (path, served.look(path).body)).into_iter().chain([("/api/v1/logs", logs)])
    {
        let bad = answer
            .chars()
            .find(|c| (c.is_control() && !matches!(c, '\n' | '\r')) || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'));
        assert_eq!(bad, None, "{path}");
    }
    let html = served.get("/plain", &[("Accept", "text/html")]);
    assert!(html.body.contains("&lt;img") && !html.body.contains("<img") && !html.body.contains("<script"), "{}", html.body);
    assert_eq!(served.look("/api/v1/logs/download").header("content-type"), Some("text/plain; charset=utf-8"));
    let odd = served.look("/api/v1/logs/download?services=..%2F..%2Fetc%22%0d%0aX:%20y");
    let named = odd.header("content-disposition").unwrap_or_default();
    assert!(!named.contains('/') && named.matches('"').count() == 2, "{named}");
}

/// A certificate for `localhost` that signs itself, in a directory.
fn certificate() -> (tempfile::TempDir, Certificate) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (chain, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    std::fs::write(&chain, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    (directory, Certificate { chain, key })
}

#[test]
fn with_a_certificate_nothing_is_said_in_the_clear() {
    let (directory, certificate) = certificate();
    let (address, _fake, _kept) = start_tls(certificate.clone());
    let curl = |arguments: &[&str]| {
        let output = Command::new("curl").args(["-sS", "-m", "5", "--cacert"]).arg(&certificate.chain).args(arguments).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status.success())
    };
    let url = |path: &str| format!("https://localhost:{}{path}", address.port());
    assert_eq!(curl(&[&url("/healthz")]), ("ok\n".to_owned(), true));
    assert!(curl(&["-H", "X-Stayput: 1", &url("/api/v1/me")]).0.contains("\"view\""));
    let origin = |scheme: &str| {
        curl(&["-o", "/dev/null", "-w", "%{http_code}", "-H", &format!("Origin: {scheme}://localhost:{}", address.port()), &url("/")]).0
    };
    assert_eq!((origin("https"), origin("http")), ("200".to_owned(), "403".to_owned()));
    assert!(!curl(&[&format!("http://localhost:{}/healthz", address.port())]).1, "plain HTTP is no answer");
    std::fs::set_permissions(&certificate.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut options = Options::new(directory.path().join("control.sock"));
    options.tls = Some(certificate);
    let error = stayput_dashboard::run(options, Audit::new(|_| ())).unwrap_err();
    assert!(error.is_bad_input() && error.to_string().contains("others may read"), "{error}");
}

/// As [`serve`], which speaks plain HTTP to what it starts.
fn start_tls(certificate: Certificate) -> (std::net::SocketAddr, FakeControl, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let control = directory.path().join("control.sock");
    let fake = FakeControl::start(&control, Scene::Ten).unwrap();
    let mut options = Options::new(control);
    options.listen = vec!["127.0.0.1:0".parse().unwrap()];
    options.tls = Some(certificate);
    let (said, hears) = std::sync::mpsc::channel();
    std::thread::spawn(move || stayput_dashboard::run(options, Audit::new(move |line| drop(said.send(line.to_owned())))).unwrap());
    let line = hears.recv_timeout(SOON).unwrap();
    let address = line.split("https://").nth(1).unwrap().trim_end_matches('/').parse().unwrap();
    (address, fake, directory)
}

#[test]
fn the_token_is_not_said_anywhere_else() {
    let served = serve(Scene::Ten, |_| ());
    let tokens = served.tokens();
    for path in everywhere().filter(|path| !path.contains("stream")) {
        let answer = served.look(path);
        for token in [&tokens.operate, &tokens.view] {
            assert!(!answer.body.contains(token.as_str()) && !answer.head.contains(token.as_str()), "{path}");
        }
    }
}

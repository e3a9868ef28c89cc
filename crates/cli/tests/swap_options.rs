//! What a server sets of its socket before it binds is true of the socket that is put in its place: after a crash and, as far as that can be seen at
//! all, where nobody may look at its own.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use stayput_testkit::below::{self, EPERM, without};
use stayput_testkit::env::TestEnv;
use stayput_testkit::load::Plan;
use stayput_testkit::{both_users, python, wait};

const PATIENCE: Duration = Duration::from_secs(30);

/// What is set of a listener alone, and the value that the kernel says then.
const OF_LISTENERS: &str = "defer=(6, 9, 7), fastopen=(6, 23, 16), maxseg=(6, 2, 1000), rcvbuf=(1, 8, 65536), sndbuf=(1, 7, 65536)";
/// What its connections inherit.
const OF_CONNECTIONS: &str = "keepalive=(1, 9, 1), idle=(6, 4, 77), interval=(6, 5, 7), count=(6, 6, 3), nodelay=(6, 1, 1), patience=(6, 18, 9000), \
                              service=(0, 1, 16), synchronisations=(6, 7, 3)";

/// Sets them before the bind, and writes down what it finds set as soon as it listens: it looks, because no event tells a thread of another's `listen`.
const SET_AND_LOOK: &str = r#"
import fcntl, time
options = dict(OPTIONS)
for level, name, value in options.values(): server.setsockopt(level, name, value)
def look():
    while not server.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN): time.sleep(0.005)
    found = {word: server.getsockopt(level, name) for word, (level, name, _) in options.items()}
    found["blocks"] = not fcntl.fcntl(server, fcntl.F_GETFL) & os.O_NONBLOCK
    found["inherited"] = not fcntl.fcntl(server, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    place = PLACE + os.environ["STAYPUT_GENERATION"]
    with open(place + ".new", "w") as file: json.dump(found, file)
    os.rename(place + ".new", place)
threading.Thread(target=look, daemon=True).start()
"#;

fn set_and_look(env: &TestEnv, options: &str) -> String {
    let place = env.path("scratch").join("options-").display().to_string();
    SET_AND_LOOK.replace("OPTIONS", options).replace("PLACE", &format!("{place:?}"))
}

/// What the generation found.
fn found(env: &TestEnv, generation: u64) -> Value {
    let place = env.path("scratch").join(format!("options-{generation}"));
    wait::until("what it found set", PATIENCE, || {
        let text = std::fs::read(&place).map_err(|error| error.to_string())?;
        serde_json::from_slice(&text).map_err(|error| error.to_string())
    })
    .unwrap()
}

/// `inherited`: without close-on-exec.
fn wanted(words: &[(&str, i64)], blocks: bool, inherited: bool) -> Value {
    let flags = [("blocks".to_owned(), json!(blocks)), ("inherited".to_owned(), json!(inherited))];
    words.iter().map(|(word, value)| ((*word).to_owned(), json!(value))).chain(flags).collect()
}

/// Not blocking (Python waits by itself), and open in what it executes.
const FLAGS: &str = "server.settimeout(300)\nserver.set_inheritable(True)\n";

/// The kernel doubles a buffer's size.
const LISTENERS: [(&str, i64); 5] = [("defer", 7), ("fastopen", 16), ("maxseg", 1000), ("rcvbuf", 131_072), ("sndbuf", 131_072)];
const CONNECTIONS: [(&str, i64); 8] = [
    ("keepalive", 1),
    ("idle", 77),
    ("interval", 7),
    ("count", 3),
    ("nodelay", 1),
    ("patience", 9000),
    ("service", 16),
    ("synchronisations", 3),
];

both_users! {
    fn the_socket_of_a_dead_generation_has_the_options_of_the_next(env) {
        let port = env.port();
        let prepare = FLAGS.to_owned() + &set_and_look(env, &format!("{OF_LISTENERS}, {OF_CONNECTIONS}"));
        let mut running = env.run("web", &[], &python::server(env, "\"127.0.0.1\"", &prepare, port));
        running.wait_ready();
        assert_eq!(found(env, 1), wanted(&[&LISTENERS[..], &CONNECTIONS[..]].concat(), false, true));
        // The next sets other things, and none of those that are gone stays.
        let prepare = set_and_look(env, "keepalive=(1, 9, 0), idle=(6, 4, 88), defer=(6, 9, 0), nodelay=(6, 1, 0), service=(0, 1, 0)");
        python::server(env, "\"127.0.0.1\"", &prepare, port);
        running.kill_service();
        assert_eq!(found(env, 2), wanted(&[("keepalive", 0), ("idle", 88), ("defer", 0), ("nodelay", 0), ("service", 0)], true, false));
        let service = running.wait_ready();
        assert_eq!(service["generations"][0]["listeners"][0]["origin"], "swapped", "{service:#}");
        // And back: what is held blocks, the next does not.
        let prepare = FLAGS.to_owned() + &set_and_look(env, OF_LISTENERS);
        python::server(env, "\"127.0.0.1\"", &prepare, port);
        running.kill_service();
        assert_eq!(found(env, 3), wanted(&LISTENERS, false, true));
        running.wait_ready();
        running.stop();
    }
}

fn blind(test: impl Fn(&TestEnv)) {
    below::each_user(Path::new(env!("CARGO_BIN_EXE_stayput")), &without(&[("pidfd_getfd", None, EPERM)]), test);
}

/// As Node, Go and Java listen by default, in a container with Docker's profile: `[::]`, and IPv4 as well.
#[test]
fn a_wildcard_of_both_families_is_held_where_nobody_may_look() {
    blind(|env| {
        let port = env.port();
        let both = "server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)";
        let mut running = env.run("web", &["--soak", "300ms"], &python::server(env, "\"::\"", both, port));
        let ready = running.wait_ready();
        assert_eq!(ready["generations"][0]["holding"], "swap", "{ready:#}");
        let load = Plan::port(port).rate(100.0).start().unwrap();
        load.wait_ok(30, PATIENCE).unwrap();
        running.restart_well();
        load.wait_ok(30, PATIENCE).unwrap();
        load.stop().unwrap().assert_nothing_lost();
        running.stop();
    });
}

/// Never wider than it asked for.
#[test]
fn ipv6_alone_stays_alone_where_nobody_may_look() {
    blind(|env| {
        let port = env.port();
        let alone = "server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)";
        let mut running = env.run("web", &["--soak", "300ms"], &python::server(env, "\"::\"", alone, port));
        let ready = running.wait_ready();
        assert_eq!(ready["generations"][0]["holding"], "swap", "{ready:#}");
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "it does not listen there");
        TcpStream::connect(("::1", port)).unwrap();
        running.stop();
    });
}

/// Those of listeners are seen as they are set. Those of connections are not, and `docs/LIMITS.md` says so.
#[test]
fn options_of_listeners_are_kept_where_nobody_may_look() {
    blind(|env| {
        let port = env.port();
        let prepare = FLAGS.to_owned() + &set_and_look(env, OF_LISTENERS);
        let mut running = env.run("web", &[], &python::server(env, "\"127.0.0.1\"", &prepare, port));
        let ready = running.wait_ready();
        assert_eq!(ready["generations"][0]["holding"], "swap", "{ready:#}");
        assert_eq!(found(env, 1), wanted(&LISTENERS, false, true));
        running.kill_service();
        assert_eq!(found(env, 2), wanted(&LISTENERS, false, true), "what is held was set as well");
        running.stop();
    });
}

/// Ours would take connections from everywhere.
#[test]
fn one_that_binds_to_a_device_is_not_held_where_nobody_may_look() {
    blind(|env| {
        let port = env.port();
        let device = "server.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'lo')";
        let mut running = env.run("web", &[], &python::server(env, "\"127.0.0.1\"", device, port));
        running.wait_answer(port);
        let ready = running.wait_ready();
        assert!(ready.to_string().contains(r#""holding":"plain""#), "{ready:#}");
        running.stop();
    });
}

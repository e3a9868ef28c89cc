//! Listeners that are not as others: what they do, and that they are held, steered and probed all the same.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use stayput_testkit::env::TestEnv;
use stayput_testkit::load::Plan;
use stayput_testkit::{both_users, wait};

const PATIENCE: Duration = Duration::from_secs(30);

/// A threaded HTTP server, whose socket `prepare` changes before it binds; it prints who was accepted and asked nothing.
const SERVER: &str = r#"
import json, os, socket, sys, threading, urllib.parse
host, port = HOST, int(sys.argv[1])
server = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
PREPARE
server.bind((host, port))
server.listen(128)
def converse(peer):
    with peer:
        data = b""
        while b"\r\n\r\n" not in data.lstrip(b"\r\n"):
            more = peer.recv(4096)
            if not more: return
            data += more
        target = data.split()[1].decode()
        n = urllib.parse.parse_qs(urllib.parse.urlparse(target).query).get("n", [""])[0]
        body = json.dumps({"pid": os.getpid(), "generation": os.environ["STAYPUT_GENERATION"], "n": n}).encode()
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
while True:
    peer, _ = server.accept()
    threading.Thread(target=converse, args=(peer,), daemon=True).start()
"#;

fn server(env: &TestEnv, host: &str, prepare: &str, port: u16) -> Vec<String> {
    let source = SERVER.replace("HOST", host).replace("PREPARE", prepare);
    vec!["python3".to_owned(), env.file("server.py", &source).display().to_string(), port.to_string()]
}

both_users! {
    /// As Apache's: to the kernel a connection is half open until it has brought data, so nobody could ever be seen accepting a silent one.
    fn a_server_that_defers_accept_becomes_ready_and_is_restarted(env) {
        let port = env.port();
        let defer = "server.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 60)";
        let options = ["--soak", "300ms", "--ready-timeout", "10s"];
        let mut running = env.run("web", &options, &server(env, "\"127.0.0.1\"", defer, port));
        let ready = running.wait_ready();
        assert!(running.log().contains("a probe connection was accepted"), "{ready}\n{}", running.log());
        let load = Plan::port(port).start().unwrap();
        load.wait_ok(50, PATIENCE).unwrap();
        for _ in 0..2 {
            running.restart_well();
            load.wait_ok(50, PATIENCE).unwrap();
        }
        load.stop().unwrap().assert_nothing_lost();
        running.stop();
    }

    /// Wider, narrower, another family: connections cannot be steered between unequal addresses of a port, so the old one goes first, and
    /// nobody is refused or reset meanwhile: connection requests are repeated until the new one listens.
    fn a_new_address_goes_without_overlap_and_loses_nobody(env) {
        let port = env.port();
        let place = env.file("place", "127.0.0.1");
        let read = format!("open({:?}).read()", place.display().to_string());
        let dual = "if host == '::': server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)";
        let mut running = env.run("web", &["--soak", "300ms"], &server(env, &read, dual, port));
        running.wait_ready();
        for (old, new) in [("127.0.0.1", "0.0.0.0"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "::")] {
            let load = Plan::port(port).timeout(PATIENCE).start().unwrap();
            load.wait_ok(50, PATIENCE).unwrap();
            env.file("place", new);
            let restart = running.restart_well();
            let notes = restart.ledger["notes"].to_string();
            let at = |host: &str| SocketAddr::new(host.parse().unwrap(), port).to_string();
            assert!(notes.contains("without overlap") && notes.contains(&at(old)) && notes.contains(&at(new)), "{:#}", restart.ledger);
            assert_eq!(restart.ledger["listener_gap"], false, "{:#}", restart.ledger);
            load.wait_ok(50, PATIENCE).unwrap();
            load.stop().unwrap().assert_nothing_lost();
            let service = running.wait_for("one listener, the new one", |service| {
                service["generations"].as_array().is_some_and(|all| all.len() == 1)
            });
            let listeners = &service["generations"][0]["listeners"];
            assert!(listeners.as_array().is_some_and(|all| all.len() == 1) && listeners[0]["address"] == new, "{service:#}");
        }
        running.stop();
    }

    /// The other port is named at the switch, and the one that was left closes when the old generation has drained.
    fn a_port_that_moves_is_named_and_let_go(env) {
        let (old, new) = (env.port(), env.port());
        let place = env.file("place", &old.to_string());
        let read = format!("port = int(open({:?}).read())", place.display().to_string());
        let mut running = env.run("web", &["--soak", "300ms"], &server(env, "\"127.0.0.1\"", &read, 0));
        running.wait_ready();
        env.file("place", &new.to_string());
        let load = Plan::port(old).start().unwrap();
        load.wait_ok(20, PATIENCE).unwrap();
        let restart = running.restart_well();
        let notes = restart.ledger["notes"].to_string();
        assert!(notes.contains(&format!("listens on 127.0.0.1:{new} instead of 127.0.0.1:{old}")), "{:#}", restart.ledger);
        load.stop().unwrap();
        running.wait_for("the end of the old generation", |service| service["generations"].as_array().is_some_and(|all| all.len() == 1));
        wait::until_true("the end of the old port", PATIENCE, || TcpStream::connect(("127.0.0.1", old)).is_err()).unwrap();
        let report = Plan::port(new).duration(Duration::from_millis(200)).run().unwrap();
        report.assert_nothing_lost();
        running.stop();
    }

    /// A bare `--port` holds all addresses; the server's own decides. What waited on ours cannot be given to it: it is reset, and counted.
    fn a_hold_wider_than_the_server_is_let_go_and_its_losses_are_counted(env) {
        let port = env.port();
        let go = env.path("scratch").join("go");
        let wait = format!("import time\nwhile not os.path.exists({:?}): time.sleep(0.01)", go.display().to_string());
        let mut running = env.run("web", &["--port", &port.to_string()], &server(env, "\"127.0.0.1\"", &wait, port));
        let early = wait::until("the hold", PATIENCE, || TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())).unwrap();
        running.wait_for("the start", |service| service["generations"].as_array().is_some_and(|all| all.len() == 1));
        env.file("go", "");
        let ready = running.wait_ready();
        let notes = ready["generations"][0]["notes"].to_string();
        let wanted = format!("1 waiting connection reset: they waited on 0.0.0.0:{port}, and it listens on 127.0.0.1:{port}");
        assert!(notes.contains(&wanted) && notes.contains(&format!("--port 127.0.0.1:{port}")), "{ready:#}");
        assert_eq!(ready["generations"][0]["listeners"][0]["address"], "127.0.0.1", "{ready:#}");
        assert_eq!(ready["held"].as_array().map(Vec::len), Some(0), "no wider hold is left: {ready:#}");
        drop(early);
        running.stop();
    }
}

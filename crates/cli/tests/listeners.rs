//! Listeners that are not as others: what they do, and that they are held, steered and probed all the same.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use stayput_testkit::both_users;
use stayput_testkit::env::TestEnv;
use stayput_testkit::load::Plan;

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
}

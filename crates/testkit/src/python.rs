//! A server in Python whose socket a test prepares: for what no real server does on demand.

use crate::env::TestEnv;

/// A threaded HTTP server, whose socket `PREPARE` changes before it binds; it prints who was accepted and asked nothing.
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

/// Its command line. `host` is an expression of Python; `prepare` is lines of it that are executed before `server.bind((host, port))`.
pub fn server(env: &TestEnv, host: &str, prepare: &str, port: u16) -> Vec<String> {
    let source = SERVER.replace("HOST", host).replace("PREPARE", prepare);
    vec!["python3".to_owned(), env.file("server.py", &source).display().to_string(), port.to_string()]
}

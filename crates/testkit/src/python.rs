//! A server in Python whose socket a test prepares: for what no real server does on demand.

use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use crate::env::TestEnv;
use crate::wait;

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

/// A fifo at which a server of the story waits before it goes on.
#[derive(Debug)]
pub struct Gate {
    path: PathBuf,
}

impl Gate {
    /// Makes it, as the user of the test.
    ///
    /// # Panics
    /// When `mkfifo` fails.
    pub fn new(env: &TestEnv) -> Self {
        let path = env.path("scratch").join("gate");
        let made = env.as_user("mkfifo".as_ref(), [&path]).status();
        assert!(made.as_ref().is_ok_and(std::process::ExitStatus::success), "mkfifo: {made:?}");
        Self { path }
    }

    /// The Python that waits at it.
    pub fn wait(&self) -> String {
        format!("open({:?}).read()", self.path.display().to_string())
    }

    /// Lets the one that waits go on, as soon as one does. fifo(7): a writer that does not wait is let in when there is a reader.
    ///
    /// # Panics
    /// When nobody comes to wait in time.
    pub fn open(&self, patience: Duration) {
        let writer = || rustix::fs::open(&self.path, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()).map_err(|error| error.to_string());
        drop(wait::until("a server at the gate", patience, writer).unwrap_or_else(|error| panic!("{error}")));
    }
}

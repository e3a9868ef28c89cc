//! `stayput dashboard` as a command: what it refuses, and the address that it prints.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output, Stdio};

use stayput_testkit::fake_control::{FakeControl, Scene};
use stayput_wire::runtime::RuntimeDir;

/// A runtime directory with an instance `shop` that a fake daemon answers for.
struct Instance {
    directory: tempfile::TempDir,
    _runtime: RuntimeDir,
}

impl Instance {
    fn start() -> Self {
        let directory = tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o700)).tempdir().unwrap();
        let runtime = RuntimeDir::create(&directory.path().join("stayput"), "shop").unwrap();
        FakeControl::start(&runtime.control_socket(), Scene::Ten).unwrap();
        Self { directory, _runtime: runtime }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stayput"));
        command.arg("dashboard").args(arguments).env("XDG_RUNTIME_DIR", self.directory.path()).env_remove("STAYPUT_CONTROL");
        command
    }

    fn said(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    }

    /// A dashboard that serves, and the line in which it says where.
    fn serve(&self, arguments: &[&str]) -> (Served, String) {
        let mut child = self.command(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (Served(child), line.trim().to_owned())
    }
}

struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_would_show_it_to_others_is_refused_unless_it_is_said() {
    let instance = Instance::start();
    for address in ["0.0.0.0:5000", "[::]:5000", "192.0.2.1"] {
        let (status, out, err) = instance.said(&["--listen", address]);
        assert_eq!((status, out.as_str()), (Some(2), ""), "{err}");
        assert!(err.contains("other machines could reach") && err.contains("--remote"), "{err}");
    }
    let (status, _, err) = instance.said(&["--base-path", "/a b"]);
    assert_eq!(status, Some(2), "{err}");
    let (status, _, err) = instance.said(&["nobody"]);
    assert_eq!(status, Some(2), "{err}");
}

#[test]
fn a_link_opens_it_and_a_new_one_closes_the_old() {
    let instance = Instance::start();
    let (status, _, err) = instance.said(&["--link"]);
    assert_eq!((status, err.contains("no dashboard")), (Some(1), true), "{err}");
    let (_served, line) = instance.serve(&["--listen", "127.0.0.1:0"]);
    let url = line.strip_prefix("listening on ").unwrap();
    let link = |arguments: &[&str]| {
        let (status, out, err) = instance.said(arguments);
        assert_eq!(status, Some(0), "{err}");
        let (page, token) = out.trim().split_once("#token=").unwrap();
        assert_eq!(page, url);
        token.to_owned()
    };
    let (operate, view) = (link(&["--link"]), link(&["shop", "--link", "--view"]));
    assert!(operate != view && operate.len() == view.len());
    let status = |token: &str| {
        let address = url.trim_start_matches("http://").trim_end_matches('/');
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let request = format!("GET /api/v1/me HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
        std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        (answer[9..12].to_owned(), answer.contains("\"operate\""))
    };
    assert_eq!(status(&operate), ("200".to_owned(), true));
    assert_eq!(status(&view), ("200".to_owned(), false));
    let renewed = link(&["--link", "--new-token"]);
    assert_eq!(status(&operate).0, "401");
    assert_eq!(status(&renewed), ("200".to_owned(), true));
    let file = instance.directory.path().join("stayput/shop/dashboard.json");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_taken_port_is_named_with_what_to_do() {
    let instance = Instance::start();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let (status, _, err) = instance.said(&["--listen", &format!("127.0.0.1:{port}")]);
    assert_eq!(status, Some(1), "{err}");
    assert!(err.contains(&format!("bind 127.0.0.1:{port}")) && err.contains(&format!("stayput why {port}")), "{err}");
}

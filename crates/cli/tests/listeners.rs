//! Listeners that are not as others: what they do, and that they are held, steered and probed all the same.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on fails; one that cannot run says so")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use stayput_testkit::load::Plan;
use stayput_testkit::python::{Gate, server};
use stayput_testkit::{both_users, wait};

const PATIENCE: Duration = Duration::from_secs(30);

/// Lets Python bind and listen by `io_uring` (io_uring_setup(2); `IORING_OP_BIND` 56 and `IORING_OP_LISTEN` 57, linux/io_uring.h).
const BY_RING: &str = r#"
import ctypes, mmap, struct
libc = ctypes.CDLL(None, use_errno=True)
params = ctypes.create_string_buffer(120)
ring = libc.syscall(425, 4, params)
assert ring >= 0, os.strerror(ctypes.get_errno())
sq, cq, entries = struct.unpack_from("=7I", params, 40), struct.unpack_from("=6I", params, 80), struct.unpack_from("=2I", params, 0)
rings = mmap.mmap(ring, max(sq[6] + 4 * entries[0], cq[5] + 16 * entries[1]))
sqes = mmap.mmap(ring, 64 * entries[0], offset=0x10000000)
class ByRing:
    done = 0
    def __init__(self, own): self.own = own
    def call(self, opcode, address, length, offset):
        sqes[0:64] = struct.pack("=BBHiQQI", opcode, 0, 0, self.own.fileno(), offset, address, length).ljust(64, b"\0")
        struct.pack_into("=I", rings, sq[6] + 4 * (self.done & (entries[0] - 1)), 0)
        struct.pack_into("=I", rings, sq[1], self.done + 1)
        assert libc.syscall(426, ring, 1, 1, 1, None, 0) == 1, os.strerror(ctypes.get_errno())
        result = struct.unpack_from("=Qi", rings, cq[5] + 16 * (self.done & (entries[1] - 1)))[1]
        self.done += 1
        if result < 0: raise OSError(-result, os.strerror(-result))
    def bind(self, name):
        raw = struct.pack("=H", socket.AF_INET) + struct.pack(">H", name[1]) + socket.inet_aton(name[0]) + bytes(8)
        raw = ctypes.create_string_buffer(raw, 16)
        self.call(56, ctypes.addressof(raw), 0, 16)
    def listen(self, backlog): self.call(57, 0, backlog, 0)
    def accept(self): return self.own.accept()
server = ByRing(server)
"#;

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
        let gate = Gate::new(env);
        let mut running = env.run("web", &["--port", &port.to_string()], &server(env, "\"127.0.0.1\"", &gate.wait(), port));
        let early = wait::until("the hold", PATIENCE, || TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())).unwrap();
        running.wait_for("the start", |service| service["generations"].as_array().is_some_and(|all| all.len() == 1));
        gate.open(PATIENCE);
        let ready = running.wait_ready();
        let notes = ready["generations"][0]["notes"].to_string();
        let wanted = format!("1 waiting connection reset: they waited on 0.0.0.0:{port}, and it listens on 127.0.0.1:{port}");
        assert!(notes.contains(&wanted) && notes.contains(&format!("--port 127.0.0.1:{port}")), "{ready:#}");
        assert_eq!(ready["generations"][0]["listeners"][0]["address"], "127.0.0.1", "{ready:#}");
        assert_eq!(ready["held"].as_array().map(Vec::len), Some(0), "no wider hold is left: {ready:#}");
        drop(early);
        running.stop();
    }

    /// What the server was seen to listen on is where its port is held from then on: the next one is given it, with who waits there.
    fn a_later_hold_is_as_narrow_as_the_server(env) {
        let port = env.port();
        let gate = Gate::new(env);
        let second = format!("if os.environ['STAYPUT_GENERATION'] != '1': {}", gate.wait());
        let command = server(env, "\"127.0.0.1\"", &second, port);
        let host = env.host(&format!("[service.web]\ncommand = {command:?}\nport = {port}\n"));
        host.succeeds(&["stop", "web"]);
        let starting = std::thread::scope(|scope| {
            let start = scope.spawn(|| host.succeeds(&["start", "web"]));
            let service = host.wait_for("web", "the hold", |service| service["held"].as_array().is_some_and(|held| !held.is_empty()));
            let held = service["held"].to_string();
            let mut early = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let wider = TcpStream::connect(("127.0.0.2", port));
            gate.open(PATIENCE);
            early.set_read_timeout(Some(PATIENCE)).unwrap();
            early.write_all(b"GET /?n=1 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            let mut answer = String::new();
            early.read_to_string(&mut answer).unwrap();
            start.join().unwrap();
            (held, wider.is_err(), answer)
        });
        let (held, narrow, answer) = starting;
        assert!(narrow && held.contains("127.0.0.1"), "{held}");
        assert!(answer.starts_with("HTTP/1.1 200"), "who waited is served: {answer:?}");
        let service = host.service("web");
        assert_eq!(service["generations"][0]["listeners"][0]["origin"], "swapped", "{service:#}");
        host.down();
    }

    /// The kernel lets every process of the same user share a port that generations share. It gets nothing while it is in their group, and is named.
    fn a_stranger_on_the_port_is_named(env) {
        let port = env.port();
        let mut running = env.run("web", &["--soak", "300ms"], &server(env, "\"127.0.0.1\"", "", port));
        running.wait_ready();
        let script = format!(
            "import socket, sys\ns = socket.socket()\ns.setsockopt(1, socket.SO_REUSEPORT, 1)\ns.bind((\"127.0.0.1\", {port}))\ns.listen()\n\
             print(\"there\", flush=True)\nsys.stdin.read()"
        );
        let mut stranger = env.as_user("python3".as_ref(), ["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut there = [0; 5];
        stranger.stdout.as_mut().unwrap().read_exact(&mut there).unwrap();
        let load = Plan::port(port).start().unwrap();
        running.restart_well();
        load.wait_ok(50, PATIENCE).unwrap();
        load.stop().unwrap().assert_nothing_lost();
        let named = format!("pid {} ", stranger.id());
        let where_ = format!(", which is not of this service, listens on 127.0.0.1:{port} as well");
        let told = |log: &str| log.lines().any(|line| line.contains(&named) && line.contains(&where_));
        wait::until_true("his name", PATIENCE, || told(&running.log())).unwrap_or_else(|why| panic!("{why}\n{}", running.log()));
        drop(stranger.stdin.take());
        stranger.wait().unwrap();
        running.stop();
    }

    /// What `io_uring` binds passes no filter: it is found, named in the status, and restarted like any service whose ports are not held.
    fn a_bind_by_io_uring_is_found_and_said(env) {
        if stayput_kernel::uring::supports(stayput_kernel::uring::BIND) != Ok(true) {
            println!("NOT RUN: this kernel's io_uring does not bind (Linux 6.11 does), or there is none here");
            return;
        }
        let port = env.port();
        let mut running = env.run("web", &["--soak", "300ms"], &server(env, "\"127.0.0.1\"", BY_RING, port));
        let service = running.wait_for("the socket that is not held", |service| {
            service["generations"][0]["notes"].to_string().contains(&format!("127.0.0.1:{port} is not held: it was bound by io_uring"))
        });
        assert_eq!(service["generations"][0]["holding"], "plain", "{service:#}");
        assert!(service["generations"][0]["trap"].to_string().contains("io_uring"), "{service:#}");
        let first = running.ready_pid();
        let restart = running.restart(&[]);
        assert_eq!((restart.code, restart.text("outcome")), (Some(0), "switched"), "{restart:#?}\n{}", running.log());
        assert_ne!(running.ready_pid(), first);
        running.wait_answer(port);
        running.stop();
    }
}

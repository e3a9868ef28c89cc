//! Generations whose binds cannot be caught and that take passed sockets. Each scenario's generations run below another filter with a
//! listener, as in a nested stayput, so that theirs is refused with `EBUSY`.

use crate::brain::{Brain, DEADLINE, SERVER, answer, answers, executed, free_address, kill, spec};
use rustix::io::Errno;
use stayput_keeper::protocol::{Event, ExitStatus, GenerationId, Origin, Request, SpawnSpec, Trap};
use std::io::Read;
use std::net::{SocketAddr, TcpStream};

const PASSED: Trap = Trap::Environment { errno: Errno::BUSY.raw_os_error() };
const PLAIN: Trap = Trap::Unavailable { errno: Errno::BUSY.raw_os_error() };

/// Takes its socket from systemd's variables.
const TAKER: &str = "
import os, socket
assert os.environ['LISTEN_FDS'] == '1' and os.environ['LISTEN_PID'] == str(os.getpid()), os.environ
server = socket.socket(fileno=3)
print('listening', flush=True)
while True:
    peer, _ = server.accept()
    peer.sendall(os.environ['STAYPUT_GENERATION'].encode())
    peer.close()
";

fn taker(id: u64, address: SocketAddr) -> SpawnSpec {
    SpawnSpec { declared: vec![address], pass_sockets: true, ..spec(id, &["python3", "-c", TAKER]) }
}

fn steer(brain: &mut Brain, id: u64) {
    brain.done(Request::Steer { service: "web".into(), generation: GenerationId(id), share: None });
}

/// A restart, a killed keeper and a crash, without a single bind to catch.
pub(crate) fn takes_sockets(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    brain.done(Request::Hold { service: "web".into(), address });
    brain.start(taker(1, address));
    assert_eq!(brain.listening(1).origin, Origin::Passed);
    assert_eq!(brain.wait("execution", executed(1)), PASSED);
    steer(brain, 1);
    assert_eq!(answers(address, 20), ["1"]);
    let pid = brain.start(taker(2, address));
    assert_eq!(brain.line(2), "listening");
    assert_eq!(answers(address, 50), ["1"], "the new one has a socket of its own and gets nothing on it yet");
    steer(brain, 2);
    assert_eq!(answers(address, 50), ["2"]);
    brain.done(Request::Signal { generation: GenerationId(1), signal: 15, scope: stayput_keeper::protocol::Scope::Main });
    brain.tree_empty(1);
    brain.done(Request::Release { generation: GenerationId(1) });
    brain.done(Request::Forget { generation: GenerationId(1) });
    assert_eq!(answers(address, 50), ["2"]);
    kill(brain.look().keeper_pid);
    assert_eq!(answers(address, 20), ["2"]);
    kill(pid);
    assert_eq!(brain.main_exited(2), ExitStatus::Signalled(9));
    brain.tree_empty(2);
    let mut waiting: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(address).expect("queued, not refused")).collect();
    brain.start(taker(3, address));
    assert_eq!(brain.wait("execution", executed(3)), PASSED);
    assert_eq!(brain.line(3), "listening");
    for stream in &mut waiting {
        stream.set_read_timeout(Some(DEADLINE)).expect("set");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("served after all");
        assert_eq!(text, "3");
    }
    assert_eq!(brain.look().listeners.len(), 1);
}

/// One that binds by itself fails once, and is not offered anything again.
pub(crate) fn takes_no_sockets(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    brain.done(Request::Hold { service: "web".into(), address });
    let server = |id| SpawnSpec {
        declared: vec![address],
        pass_sockets: true,
        ..spec(id, &["python3", "-c", SERVER, host, "AF_INET", &address.port().to_string()])
    };
    brain.start(server(1));
    assert_eq!(brain.wait("execution", executed(1)), PASSED);
    assert_eq!(brain.main_exited(1), ExitStatus::Exited(1), "its port is taken: by us");
    brain.tree_empty(1);
    brain.start(server(2));
    assert_eq!(brain.wait("execution", executed(2)), PLAIN);
    assert_eq!(brain.line(2), "listening");
    assert_eq!(answer(address), "2");
}

/// `{fd}` in the command gets a socket even where binds can be caught; without a declared port nothing is started.
pub(crate) fn names_sockets(brain: &mut Brain, host: &str) {
    let address = free_address(host);
    let script = TAKER.replace("fileno=3", "fileno=int(__import__('sys').argv[1])");
    let argv = ["python3", "-c", &script, "{fd}"];
    for id in [1, 2] {
        brain.start(SpawnSpec { declared: vec![address], ..spec(id, &argv) });
        assert_eq!(brain.listening(id).origin, Origin::Passed);
        assert_eq!(brain.wait("execution", executed(id)), Trap::Active);
        steer(brain, id);
        assert_eq!(answers(address, 20), [id.to_string()]);
    }
    let nothing = Request::Spawn(Box::new(spec(3, &argv)));
    let (reply, _) = brain.ask(nothing);
    assert!(matches!(&reply, stayput_keeper::protocol::Reply::Failed { what, .. } if what.contains("{fd}")), "{reply:?}");
    let taken = std::net::TcpListener::bind((host, 0)).expect("bind").local_addr().expect("address");
    let stranger = std::net::TcpListener::bind(taken).expect("bind");
    brain.start(SpawnSpec { declared: vec![taken], ..spec(4, &argv) });
    let failed = brain.wait("failure", |event| match event {
        Event::ExecFailed { stage, errno, .. } => Some((*stage, *errno)),
        _ => None,
    });
    assert_eq!(failed, (stayput_keeper::protocol::ExecStage::Filter, Errno::ADDRINUSE.raw_os_error()));
    drop(stranger);
}

//! Every state of a port, made for real in a network namespace; our verdict beside what a real bind() and listen() get.
//!
//! Each cell is checked three times: the full answer (rule and probe) must be the truth; the rule alone must never
//! contradict it; and the rule, told the options that nobody can read from TIME_WAIT, must be the truth by itself.
#![expect(clippy::unwrap_used, reason = "helpers of tests: what fails here fails the test")]

mod common;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

use common::{
    ALL, BOTH, Flags, NONE, RA, RP, Truth, any, bound, connect, connection, fill, listener, local, read_eof, really, set, socket, until,
};
use rustix::net::{SocketFlags, SocketType, sockopt};
use stayput_kernel::sock_diag::{Family, Protocol, Query, SockDiag, State, States};
use stayput_ports::bind::{Server, Transport};
use stayput_ports::facts::{Fact, ReuseFlags};
use stayput_ports::verdict::{Surroundings, judge};
use stayput_ports::{Options, Outcome, Report, inspect};

/// What keeps a state alive.
type Keep = Vec<OwnedFd>;

/// One existing state: makes it for options on a port of its own choice, near the one offered.
struct Row {
    name: &'static str,
    flags: &'static [Flags],
    make: fn(u16, Flags) -> (u16, Keep),
    /// The options that the sockets have in the end, if they differ from the row's.
    ends_with: fn(Flags) -> Flags,
}

const fn row(name: &'static str, flags: &'static [Flags], make: fn(u16, Flags) -> (u16, Keep)) -> Row {
    Row { name, flags, make, ends_with: |flags| flags }
}

fn states(port: u16) -> Vec<State> {
    let mut diag = SockDiag::open().unwrap();
    let mut found = Vec::new();
    for family in Family::ALL {
        diag.each(&Query::new(family, Protocol::Tcp, States::ALL).port(port), |socket| found.push(socket.state)).unwrap();
    }
    found
}

fn settle(port: u16, state: State) {
    until(&format!("{state:?} alone on {port}"), || states(port) == [state]);
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::new(any(), port)
}

fn time_wait(port: u16, listening: Flags, accepted: Option<Flags>) -> (u16, Keep) {
    let (listener, server, client) = connection(port, listening);
    if let Some(flags) = accepted {
        set(&server, flags);
    }
    drop(server);
    read_eof(&client);
    drop((client, listener));
    settle(port, State::TimeWait);
    (port, Vec::new())
}

/// A connection that goes out from a port: (its port, our end, peer's end, peer's listener).
fn outgoing(near: u16, flags: Flags, bind_first: bool) -> (u16, OwnedFd, OwnedFd, OwnedFd) {
    let far = near + 20_000;
    let listener = listener(SocketAddr::new(local(), far), RA, 8);
    let fd = socket(local(), SocketType::STREAM, flags, false);
    if bind_first {
        rustix::net::bind(&fd, &SocketAddr::new(local(), 0)).unwrap();
    }
    rustix::net::connect(&fd, &SocketAddr::new(local(), far)).unwrap();
    let peer = rustix::net::acceptfrom_with(&listener, SocketFlags::CLOEXEC).unwrap().0;
    let port = SocketAddr::try_from(rustix::net::getsockname(&fd).unwrap()).unwrap().port();
    (port, fd, peer, listener)
}

fn rows() -> Vec<Row> {
    vec![
        row("LISTEN", &ALL, |port, flags| (port, vec![listener(at(port), flags, 8)])),
        row("LISTEN on 127.0.0.2", &ALL, |port, flags| (port, vec![listener(SocketAddr::new([127, 0, 0, 2].into(), port), flags, 8)])),
        row("LISTEN, accept queue full", &[RA], |port, flags| {
            let mut keep = vec![listener(at(port), flags, 1)];
            for _ in 0..2 {
                keep.push(connect(port));
            }
            (port, keep)
        }),
        row("bound, not listening", &ALL, |port, flags| (port, vec![bound(at(port), flags)])),
        row("TIME_WAIT", &ALL, |port, flags| time_wait(port, flags, None)),
        Row {
            ends_with: |_| RA,
            ..row("TIME_WAIT, RA set after bind", &[NONE], |port, _| {
                let fd = bound(at(port), NONE);
                set(&fd, RA);
                rustix::net::listen(&fd, 8).unwrap();
                let client = connect(port);
                let server = rustix::net::acceptfrom_with(&fd, SocketFlags::CLOEXEC).unwrap().0;
                drop(server);
                read_eof(&client);
                drop((client, fd));
                settle(port, State::TimeWait);
                (port, Vec::new())
            })
        },
        Row { ends_with: |_| RA, ..row("TIME_WAIT, RA only on the accepted", &[NONE], |port, flags| time_wait(port, flags, Some(RA))) },
        Row { ends_with: |_| NONE, ..row("TIME_WAIT, accepted cleared RA", &[RA], |port, flags| time_wait(port, flags, Some(NONE))) },
        row("FIN_WAIT1 orphan", &ALL, |port, flags| {
            let (listener, server, client) = connection(port, flags);
            fill(&server);
            drop((server, listener));
            settle(port, State::FinWait1);
            (port, vec![client])
        }),
        row("FIN_WAIT2 orphan", &ALL, |port, flags| {
            let (listener, server, client) = connection(port, flags);
            drop((server, listener));
            settle(port, State::FinWait2);
            (port, vec![client])
        }),
        row("FIN_WAIT2, owned", &ALL, |port, flags| {
            let (listener, server, client) = connection(port, flags);
            rustix::net::shutdown(&server, rustix::net::Shutdown::Write).unwrap();
            drop(listener);
            settle(port, State::FinWait2);
            (port, vec![server, client])
        }),
        row("CLOSE_WAIT", &ALL, |port, flags| {
            let (listener, server, client) = connection(port, flags);
            drop((client, listener));
            settle(port, State::CloseWait);
            (port, vec![server])
        }),
        row("LAST_ACK orphan", &ALL, |port, flags| {
            let (listener, server, client) = connection(port, flags);
            fill(&server);
            rustix::net::shutdown(&client, rustix::net::Shutdown::Write).unwrap();
            drop(listener);
            settle(port, State::CloseWait);
            drop(server);
            settle(port, State::LastAck);
            (port, vec![client])
        }),
        row("ESTABLISHED, listener gone", &ALL, |port, flags| {
            let (listener, server, client) = connection(port, flags);
            drop(listener);
            settle(port, State::Established);
            (port, vec![server, client])
        }),
        row("LISTEN and ESTABLISHED", &ALL, |port, flags| {
            let (listener, server, client) = connection(port, flags);
            (port, vec![listener, server, client])
        }),
        row("un-accepted, listener closed", &ALL, |port, flags| {
            let fd = listener(at(port), flags, 8);
            let client = connect(port);
            drop(fd);
            until("an empty port", || states(port).is_empty());
            (port, vec![client])
        }),
        row("outgoing ESTABLISHED, port by connect", &[NONE, RA], |port, flags| {
            let (port, fd, peer, listener) = outgoing(port, flags, false);
            (port, vec![fd, peer, listener])
        }),
        row("outgoing ESTABLISHED, bind(ip, 0)", &[NONE, RA], |port, flags| {
            let (port, fd, peer, listener) = outgoing(port, flags, true);
            (port, vec![fd, peer, listener])
        }),
        row("outgoing TIME_WAIT", &[NONE, RA], |port, flags| {
            let (port, fd, peer, listener) = outgoing(port, flags, false);
            drop(fd);
            read_eof(&peer);
            drop((peer, listener));
            settle(port, State::TimeWait);
            (port, Vec::new())
        }),
        row("LISTEN in flight between processes", &[RA], |port, flags| (port, in_flight(listener(at(port), flags, 8)))),
        row("nothing", &[NONE], |port, _| (port, Vec::new())),
    ]
}

/// Sends an fd into a socket pair and closes it: only the queue has it.
fn in_flight(fd: OwnedFd) -> Keep {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg, socketpair};
    let (a, b) = socketpair(rustix::net::AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut buffer = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    assert!(buffer.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(&a, &[std::io::IoSlice::new(b"x")], &mut buffer, SendFlags::empty()).unwrap();
    drop(fd);
    vec![a, b]
}

/// The new servers: four combinations of options on six addresses, as `uid`.
fn servers(uid: u32) -> Vec<Server> {
    let addresses: [(IpAddr, bool); 6] = [
        (any(), false),
        (local(), false),
        ([127, 0, 0, 2].into(), false),
        ("::".parse().unwrap(), false),
        ("::".parse().unwrap(), true),
        ("::1".parse().unwrap(), false),
    ];
    let server =
        |(address, v6only), Flags { ra, rp }| Server { transport: Transport::Tcp, address, reuseaddr: ra, reuseport: rp, v6only, uid };
    addresses.into_iter().flat_map(|address| ALL.map(|flags| server(address, flags))).collect()
}

fn look(port: u16, servers: &[Server], probe: bool) -> Report {
    let options = Options { servers: servers.to_vec(), probe, elsewhere: false };
    inspect(&[port], &options, |_| {}).unwrap().remove(0)
}

fn truth(port: u16, server: &Server) -> Truth {
    let kind = if server.transport == Transport::Udp { SocketType::DGRAM } else { SocketType::STREAM };
    let flags = Flags { ra: server.reuseaddr, rp: server.reuseport };
    really(SocketAddr::new(server.address, port), kind, flags, server.v6only, server.uid)
}

/// Compares all servers on one port; returns the number of cells and the text of a line per row.
fn compare(name: &str, port: u16, servers: &[Server], ends_with: Flags, mistakes: &mut Vec<String>) -> String {
    let full = look(port, servers, true);
    let rule = look(port, servers, false);
    // The rule with the options that the kernel shows to nobody.
    let mut told = rule.sockets.clone();
    for socket in told.iter_mut().filter(|socket| socket.flags.value().is_none()) {
        let value = ReuseFlags { reuseaddr: ends_with.ra, reuseport: ends_with.rp };
        socket.flags = Fact::Known { value, source: "the test" };
    }
    let around = Surroundings { unprivileged_start: 1024, may_bind_low: true, address_error: None };
    let mut cells = String::new();
    for (index, server) in servers.iter().enumerate() {
        let truth = truth(port, server);
        let works = truth == Truth::Works;
        cells.push(if works { 'o' } else { 'x' });
        let expected = if works { Outcome::Free } else { Outcome::Taken };
        let mut wrong = |what: &str, said: Outcome| {
            mistakes.push(format!("{name}: {} -> {truth:?}, but {what} says {said:?}", full.verdicts[index].server));
        };
        if full.verdicts[index].outcome != expected {
            wrong("the verdict", full.verdicts[index].outcome);
        }
        if rule.verdicts[index].outcome != expected && rule.verdicts[index].outcome != Outcome::Unknown {
            wrong("the rule", rule.verdicts[index].outcome);
        }
        let by_rule = judge(server, port, &told, &around);
        if by_rule.outcome != expected {
            wrong("the rule with all options", by_rule.outcome);
        }
    }
    cells
}

#[test]
fn verdicts_are_what_the_kernel_does() {
    let mut mistakes = Vec::new();
    let mut cells = 0;
    let ran = common::in_namespace(|| {
        println!("{:<42} {:<6} new: none RA RP RA+RP on 0.0.0.0, 127.0.0.1, 127.0.0.2, [::], [::] v6only, [::1]", "existing", "old");
        let mut port = 7000;
        for row in rows() {
            for flags in row.flags {
                port += 1;
                let (port, keep) = (row.make)(port, *flags);
                let line = compare(row.name, port, &servers(0), (row.ends_with)(*flags), &mut mistakes);
                cells += line.len();
                println!("{:<42} {:<6} {}", row.name, flags.name(), spaced(&line));
                drop(keep);
            }
        }
    });
    assert!(mistakes.is_empty(), "{} of {cells} cells are wrong:\n{}", mistakes.len(), mistakes.join("\n"));
    if ran {
        println!("{cells} cells, all as the kernel does");
        assert!(cells > 1000);
    }
}

fn spaced(cells: &str) -> String {
    cells.as_bytes().chunks(4).map(|chunk| String::from_utf8_lossy(chunk).into_owned()).collect::<Vec<_>>().join(" ")
}

#[test]
fn another_user_and_every_address() {
    let mut mistakes = Vec::new();
    let mut cells = 0;
    common::in_namespace(|| {
        let mut port = 9000;
        for row in
            rows().iter().filter(|row| ["LISTEN", "bound, not listening", "TIME_WAIT", "ESTABLISHED, listener gone"].contains(&row.name))
        {
            for flags in row.flags {
                port += 1;
                let (port, keep) = (row.make)(port, *flags);
                let line = compare(&format!("{} of another user", row.name), port, &servers(65534), *flags, &mut mistakes);
                cells += line.len();
                println!("{:<42} {:<6} {}", format!("{} (uid 0), new uid 65534", row.name), flags.name(), spaced(&line));
                drop(keep);
            }
        }
        for (address, v6only) in
            [("0.0.0.0", false), ("127.0.0.1", false), ("::", false), ("::", true), ("::1", false), ("::ffff:127.0.0.1", false)]
        {
            for flags in ALL {
                port += 1;
                let ip: IpAddr = address.parse().unwrap();
                let fd = socket(ip, SocketType::STREAM, flags, v6only);
                rustix::net::bind(&fd, &SocketAddr::new(ip, port)).unwrap();
                rustix::net::listen(&fd, 8).unwrap();
                let name = format!("LISTEN [{address}]{}", if v6only { " v6only" } else { "" });
                let line = compare(&name, port, &servers(0), flags, &mut mistakes);
                cells += line.len();
                println!("{name:<42} {:<6} {}", flags.name(), spaced(&line));
            }
        }
    });
    assert!(mistakes.is_empty(), "{} of {cells} cells are wrong:\n{}", mistakes.len(), mistakes.join("\n"));
}

#[test]
fn udp_has_a_rule_of_its_own() {
    let mut mistakes = Vec::new();
    common::in_namespace(|| {
        let mut port = 9500;
        for uid in [0, 65534] {
            let udp: Vec<Server> = servers(uid).into_iter().map(|server| Server { transport: Transport::Udp, ..server }).collect();
            for flags in ALL {
                port += 1;
                let fd = socket(any(), SocketType::DGRAM, flags, false);
                rustix::net::bind(&fd, &at(port)).unwrap();
                let line = compare("UDP", port, &udp, flags, &mut mistakes);
                println!("{:<42} {:<6} {}", format!("UDP (uid 0), new UDP of uid {uid}"), flags.name(), spaced(&line));
                let tcp = compare("UDP beside TCP", port, &servers(uid), flags, &mut mistakes);
                assert!(tcp.bytes().all(|cell| cell == b'o'), "TCP and UDP do not conflict: {tcp}");
            }
        }
    });
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

#[test]
fn the_second_listen_of_two_bound_sockets_fails() {
    common::in_namespace(|| {
        let (first, second) = (bound(at(9700), RA), bound(at(9700), RA));
        let usual = [Server::usual(any(), 0)];
        let report = look(9700, &usual, true);
        // A third may bind, and the report says what can go wrong. A probe must not have listened.
        assert_eq!(report.outcome(), Outcome::Free);
        assert!(report.notes.iter().any(|note| note.contains("listens first")), "{:?}", report.notes);
        rustix::net::listen(&first, 8).unwrap();
        assert_eq!(rustix::net::listen(&second, 8), Err(rustix::io::Errno::ADDRINUSE));
        assert_eq!(look(9700, &usual, true).outcome(), Outcome::Taken);
    });
}

/// PORTS.md's checkers' table: what the usual checks say, beside ours.
#[test]
fn beside_the_usual_checks() {
    let names = [
        "LISTEN",
        "LISTEN on 127.0.0.2",
        "LISTEN, accept queue full",
        "bound, not listening",
        "TIME_WAIT",
        "FIN_WAIT2 orphan",
        "outgoing ESTABLISHED, port by connect",
        "outgoing TIME_WAIT",
        "LISTEN in flight between processes",
        "nothing",
    ];
    common::in_namespace(|| {
        println!("{:<40} {:<5} | lsof | ss -ltn | connect | plain bind | stayput | truth with RA, without", "state", "old");
        let mut port = 9800;
        for name in names {
            let row = rows().into_iter().find(|row| row.name == name).unwrap();
            for flags in row.flags.iter().filter(|flags| **flags == NONE || **flags == RA) {
                port += 1;
                let (port, keep) = (row.make)(port, *flags);
                let busy = |busy: Option<bool>| busy.map_or("-", |busy| if busy { "busy" } else { "free" });
                let plain = really(SocketAddr::new(any(), port), SocketType::STREAM, NONE, false, 0) != Truth::Works;
                let with = really(SocketAddr::new(any(), port), SocketType::STREAM, RA, false, 0) != Truth::Works;
                let (lsof, ss, connects) = (lsof(port), ss(port), connects(port));
                let options = Options { elsewhere: false, ..Options::default() };
                let ours = inspect(&[port], &options, |_| {}).unwrap().remove(0);
                let said: Vec<bool> = ours.verdicts.iter().take(2).map(|verdict| verdict.outcome == Outcome::Taken).collect();
                println!(
                    "{name:<40} {:<5} | {} | {} | {} | {} | {}, {} | {}, {}",
                    flags.name(),
                    busy(lsof),
                    busy(ss),
                    busy(Some(connects)),
                    busy(Some(plain)),
                    busy(Some(said[0])),
                    busy(Some(said[1])),
                    busy(Some(with)),
                    busy(Some(plain)),
                );
                assert_eq!(said, [with, plain], "{name} {}: {ours:#?}", flags.name());
                drop(keep);
            }
        }
    });
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn lsof(port: u16) -> Option<bool> {
    output("lsof", &["-ti", &format!(":{port}")]).map(|text| !text.trim().is_empty())
}

fn ss(port: u16) -> Option<bool> {
    output("ss", &["-Hltn", &format!("sport = :{port}")]).map(|text| !text.trim().is_empty())
}

/// A connect() that is not answered at once counts as refused, as it does for the scripts that do this.
fn connects(port: u16) -> bool {
    let address = SocketAddr::new(local(), port);
    std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_millis(100)).is_ok()
}

#[test]
fn options_are_read_through_the_owner() {
    common::in_namespace(|| {
        for (index, flags) in ALL.into_iter().enumerate() {
            let port = 9900 + index as u16;
            let fd = listener(at(port), flags, 8);
            let report = look(port, &servers(0), false);
            let read = report.sockets[0].flags.value().copied();
            assert_eq!(read, Some(ReuseFlags { reuseaddr: flags.ra, reuseport: flags.rp }));
            assert_eq!(sockopt::socket_reuseport(&fd), Ok(flags.rp));
        }
        // The four names are used by other rows.
        assert_eq!([NONE, RA, RP, BOTH], ALL);
    });
}

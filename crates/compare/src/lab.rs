//! The rule behind the story, measured in milliseconds: connections that the server closed first stand in TIME_WAIT with the options of the *old*
//! server; which new binds do they stop?

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, accept, bind, listen, socket_with, sockopt};

use crate::result::{Lab, LabRow};
use crate::scenario::can_bind;
use crate::watch::time_wait_left;

const COLUMNS: [&str; 4] = ["none", "SO_REUSEADDR", "SO_REUSEPORT", "both"];

/// What the old server does.
#[derive(Debug, Clone, Copy)]
struct Old {
    name: &'static str,
    before_bind: (bool, bool),
    after_listen: (bool, bool),
}

const ROWS: [Old; 4] = [
    Old { name: "none", before_bind: (false, false), after_listen: (false, false) },
    Old { name: "SO_REUSEADDR before bind", before_bind: (true, false), after_listen: (true, false) },
    Old { name: "SO_REUSEADDR and SO_REUSEPORT before bind", before_bind: (true, true), after_listen: (true, true) },
    Old { name: "SO_REUSEADDR after bind", before_bind: (false, false), after_listen: (true, false) },
];

/// Measures it on the ports given, one per row.
pub(crate) fn lab(ports: &[u16]) -> Lab {
    let mut lab = Lab { columns: COLUMNS, rows: Vec::new(), trouble: None };
    for (old, port) in ROWS.iter().zip(ports) {
        match row(old, *port) {
            Ok(row) => lab.rows.push(row),
            Err(errno) => lab.trouble = Some(format!("{}: {errno}", old.name)),
        }
    }
    lab
}

fn row(old: &Old, port: u16) -> Result<LabRow, Errno> {
    leave_time_wait(old, port)?;
    let works = [(false, false), (true, false), (false, true), (true, true)].map(|(address, shared)| can_bind(port, address, shared));
    Ok(LabRow { old: old.name, works, check_said_free: can_bind(port, true, false) })
}

fn leave_time_wait(old: &Old, port: u16) -> Result<(), Errno> {
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let listener = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set(&listener, old.before_bind)?;
    bind(&listener, &address)?;
    listen(&listener, 8)?;
    set(&listener, old.after_listen)?;
    let io = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let mut client = TcpStream::connect(address).map_err(io)?;
    client.set_read_timeout(Some(Duration::from_secs(2))).map_err(io)?;
    // The server closes first; the client sees it and closes.
    drop(accept(&listener)?);
    let _ = client.read(&mut [0]);
    drop(client);
    drop(listener);
    let start = Instant::now();
    while time_wait_left(port).is_none() {
        if start.elapsed() > Duration::from_secs(2) {
            return Err(Errno::TIMEDOUT);
        }
        // The last packets are on their way through the loopback device; TIME_WAIT has no event.
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn set(socket: &OwnedFd, (address, port): (bool, bool)) -> Result<(), Errno> {
    sockopt::set_socket_reuseaddr(socket, address)?;
    sockopt::set_socket_reuseport(socket, port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_servers_options_decide() {
        let ports: Vec<u16> = (0..4).map(|_| free()).collect();
        let lab = lab(&ports);
        assert_eq!(lab.trouble, None);
        let works: Vec<[bool; 4]> = lab.rows.iter().map(|row| row.works).collect();
        // TIME_WAIT against none, SO_REUSEADDR, SO_REUSEPORT, both.
        let rule = [[false, false, false, false], [false, true, false, true], [false, true, true, true], [false, true, false, true]];
        assert_eq!(works, rule);
    }

    fn free() -> u16 {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("its address").port()
    }
}

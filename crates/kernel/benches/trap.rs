//! What it costs a server that another answers its `bind` and `listen`: the system calls that the keeper makes for them, without what it writes
//! down. `cargo bench -p stayput-kernel --bench trap`.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Once;
use std::sync::mpsc;

use divan::{Bencher, black_box};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use stayput_kernel::memory::{self, SharedRegion};
use stayput_kernel::seccomp::{self, Answer, Call, Notification};
use stayput_kernel::{process, socket};

fn main() {
    divan::main();
}

fn free() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("its address")
}

/// What a server does at its start.
fn listen_on(address: SocketAddr) -> OwnedFd {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("socket");
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true).expect("SO_REUSEADDR");
    rustix::net::bind(&socket, &address).expect("bind");
    rustix::net::listen(&socket, 128).expect("listen");
    socket
}

/// By itself. Its name puts it before the other: from there on this thread's calls are caught.
#[divan::bench]
fn bind_and_listen_alone(bencher: Bencher<'_, '_>) {
    let address = free();
    bencher.bench_local(move || black_box(listen_on(address)));
}

/// The same calls, caught: a duplicate of the socket, the address out of the server's memory, `SO_REUSEPORT`, `bind`; and again for `listen`.
#[divan::bench]
fn bind_and_listen_caught(bencher: Bencher<'_, '_>) {
    static CAUGHT: Once = Once::new();
    let address = free();
    CAUGHT.call_once(|| {
        let (give, take) = mpsc::channel();
        // Before the filter, which its thread would inherit.
        std::thread::spawn(move || answer_all(&take.recv().expect("the filter's descriptor")));
        give.send(seccomp::install(seccomp::Catch::Listeners).expect("a filter")).expect("it waits");
    });
    bencher.bench_local(move || black_box(listen_on(address)));
}

fn answer_all(calls: &OwnedFd) {
    let region = SharedRegion::new(4096).expect("mmap");
    let own = std::process::id() as i32;
    let pidfd = process::pidfd(own).expect("a pidfd");
    loop {
        match seccomp::receive(calls, region, 0) {
            Ok(Some(call)) => {
                let result = carry_out(calls, &call, own, &pidfd);
                seccomp::answer(calls, call.id, result.map_or_else(Answer::Error, |()| Answer::Success)).expect("it waits");
            }
            Ok(None) | Err(Errno::INTR | Errno::NOENT) => {}
            Err(error) => panic!("receive: {error}"),
        }
    }
}

fn carry_out(calls: &OwnedFd, call: &Notification, own: i32, pidfd: &OwnedFd) -> Result<(), Errno> {
    let socket = process::duplicate(pidfd, call.arguments[0] as i32)?;
    if call.call == Call::Listen {
        return rustix::net::listen(&socket, call.arguments[1] as i32);
    }
    let mut address = [0_u8; socket::ADDRESS_MAX];
    let length = (call.arguments[2] as usize).min(address.len());
    memory::read_process(own, call.arguments[1], &mut address[..length])?;
    assert!(seccomp::id_valid(calls, call.id) && socket::parse_address(&address[..length]).is_some(), "a bind to an address");
    socket::set_reuse(&socket, true)?;
    socket::bind_raw(&socket, &address[..length])
}

//! What the switch between two generations costs the kernel. `cargo bench -p stayput-kernel --bench steering`.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;

use divan::{Bencher, black_box};
use stayput_kernel::reuseport::{Selection, select};
use stayput_kernel::socket::{self, Key};

fn main() {
    divan::main();
}

/// Two listeners on one port, as two generations have them.
fn group() -> ([OwnedFd; 2], SocketAddr) {
    let bound = |address: SocketAddr| {
        let listener = socket::bound(&Key::new(address, false), true).expect("bind with SO_REUSEPORT");
        rustix::net::listen(&listener, 64).expect("listen");
        listener
    };
    let old = bound(SocketAddr::from(([127, 0, 0, 1], 0)));
    let address = socket::address(&old).expect("its address");
    ([old, bound(address)], address)
}

fn to(index: u32) -> Selection {
    Selection { route: None, targets: vec![index], share: None }
}

/// Replacing the program: from here on every new connection goes elsewhere.
#[divan::bench]
fn flip(bencher: Bencher<'_, '_>) {
    let ([old, _new], _) = group();
    let mut index = 0;
    bencher.bench_local(move || {
        index = 1 - index;
        select(&old, &to(index)).expect("a program");
    });
}

/// A flip, and the first connection that the other one gets: it is accepted there, or this fails.
#[divan::bench(sample_count = 50, sample_size = 20)]
fn flip_and_accept_at_the_other(bencher: Bencher<'_, '_>) {
    let (listeners, address) = group();
    for listener in &listeners {
        rustix::io::ioctl_fionbio(listener, true).expect("non-blocking");
    }
    let mut index = 0;
    bencher.bench_local(move || {
        index = 1 - index;
        select(&listeners[0], &to(index as u32)).expect("a program");
        let client = TcpStream::connect(address).expect("a connection");
        black_box((client, rustix::net::accept(&listeners[index]).expect("the connection is here")))
    });
}

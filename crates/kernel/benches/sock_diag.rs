//! What the kernel's list of sockets costs to ask for and to read. `cargo bench -p stayput-kernel`.

mod message;

use std::net::{TcpListener, TcpStream};

use divan::{Bencher, black_box};
use message::message;
use stayput_kernel::sock_diag::{Query, SockDiag, States, parse_inet};

fn main() {
    divan::main();
}

#[divan::bench]
fn parse_one_socket(bencher: Bencher<'_, '_>) {
    let bytes = message();
    assert_eq!(parse_inet(&bytes).map(|socket| (socket.local.port(), socket.inode)), Some((5000, 4711)));
    bencher.bench_local(move || black_box(parse_inet(black_box(&bytes))));
}

/// The whole question about one port: a request, the kernel's walk, the answer.
#[divan::bench]
fn ask_for_the_listeners_of_a_port(bencher: Bencher<'_, '_>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let query = Query::tcp(States::LISTEN).port(listener.local_addr().expect("its address").port());
    let mut diag = SockDiag::open().expect("sock_diag");
    bencher.bench_local(move || black_box(diag.sockets(&query).expect("an answer").0.len()));
}

/// The drain observer's question, with 400 connections.
#[divan::bench(sample_count = 30)]
fn list_400_connections_of_a_port(bencher: Bencher<'_, '_>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let pairs: Vec<_> = (0..400)
        .map(|_| {
            let client = TcpStream::connect(address).expect("a connection");
            (client, listener.accept().expect("its other end"))
        })
        .collect();
    let query = Query::tcp(States::CONNECTIONS).port(address.port());
    let mut diag = SockDiag::open().expect("sock_diag");
    bencher.bench_local(|| black_box(diag.sockets(&query).expect("an answer").0.len()));
    drop(pairs);
}

// A server without any dependency, for the proof that the static binary runs in an empty root: it listens on 127.0.0.1:PORT, answers the
// first connection that sends something, and ends. Compiled by `cargo xtask dist` with plain rustc.
use std::io::{Read, Write};

fn main() -> std::io::Result<()> {
    let port = std::env::args().nth(1).expect("a port").parse::<u16>().expect("a port");
    let listener = std::net::TcpListener::bind(("127.0.0.1", port))?;
    println!("listening");
    loop {
        let (mut peer, _) = listener.accept()?;
        let mut byte = [0];
        // A probe connects and says nothing.
        if peer.read(&mut byte).unwrap_or(0) == 1 {
            peer.write_all(b"served from an empty root\n")?;
            return Ok(());
        }
    }
}

//! What a document on the control socket costs. `cargo bench -p stayput-wire`.

use divan::{Bencher, black_box};
use stayput_wire::codec::{LineBuffer, decode, encode};
use stayput_wire::status::ServiceStatus;

const LIMIT: usize = 16 * 1024 * 1024;

fn main() {
    divan::main();
}

fn services(count: usize) -> Vec<ServiceStatus> {
    (0..count).map(|number| ServiceStatus::named(&format!("service-{number}"))).collect()
}

#[divan::bench(args = [1, 50, 1000])]
fn encode_the_status_of(bencher: Bencher<'_, '_>, count: usize) {
    let all = services(count);
    bencher.bench_local(move || black_box(encode(&all, LIMIT).expect("it fits")));
}

#[divan::bench(args = [1, 50, 1000])]
fn decode_the_status_of(bencher: Bencher<'_, '_>, count: usize) {
    let line = encode(&services(count), LIMIT).expect("it fits");
    bencher.bench_local(move || black_box(decode::<Vec<ServiceStatus>>(&line).expect("it is what was encoded")));
}

/// A line that comes in pieces of 4 KiB, as reads from a socket do.
#[divan::bench]
fn find_a_line_of_1_mib_in_pieces(bencher: Bencher<'_, '_>) {
    let mut bytes = vec![b'x'; 1024 * 1024];
    bytes.push(b'\n');
    bencher.bench_local(move || {
        let mut lines = LineBuffer::new(LIMIT);
        for piece in bytes.chunks(4096) {
            lines.push(piece);
            if let Ok(Some(line)) = lines.next_line() {
                return black_box(line.len());
            }
        }
        0
    });
}

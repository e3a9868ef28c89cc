//! What the kernel says of one socket: for the benches of this crate and the counts of instructions (`crates/counted`).

/// `struct inet_diag_msg` of a listener on 127.0.0.1:5000 without attributes (linux/inet_diag.h).
pub(crate) fn message() -> Vec<u8> {
    let mut bytes = vec![2, 10, 0, 0];
    bytes.extend(5000_u16.to_be_bytes());
    bytes.extend([0; 2]);
    bytes.extend([127, 0, 0, 1]);
    bytes.extend([0; 12 + 16 + 4]);
    bytes.extend([7; 8]);
    bytes.extend([0; 4]);
    bytes.extend(1_u32.to_ne_bytes());
    bytes.extend(128_u32.to_ne_bytes());
    bytes.extend(1000_u32.to_ne_bytes());
    bytes.extend(4711_u32.to_ne_bytes());
    bytes
}

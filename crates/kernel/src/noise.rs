//! What the parsers promise of any bytes whatever, as functions that panic where a promise is broken. Called by the property
//! tests below in every test run, and by the fuzz targets in `fuzz/`, which go on for as long as one lets them.

use crate::netlink::{Attributes, Messages};
use crate::{procfs, sock_diag};

/// Bytes as they could come from a netlink socket: framing, then the payloads of sock_diag, then these without a frame.
pub fn netlink(bytes: &[u8]) {
    let mut total = 0;
    for message in Messages::new(bytes) {
        total += message.payload.len() + 16;
        payload(message.payload);
    }
    assert!(total <= bytes.len(), "messages do not overlap");
    payload(bytes);
    // The families that the parsers know, so that they get beyond the first byte.
    for family in [1, 2, 10] {
        let mut framed = bytes.to_vec();
        if let Some(first) = framed.first_mut() {
            *first = family;
        }
        payload(&framed);
    }
}

fn payload(bytes: &[u8]) {
    let total: usize = Attributes::new(bytes).map(|(_, value)| value.len() + 4).sum();
    assert!(total <= bytes.len(), "attributes do not overlap");
    if let Some(socket) = sock_diag::parse_inet(bytes) {
        assert_eq!(sock_diag::encode_exact(&socket).len(), sock_diag::REQUEST, "a socket can be named to the kernel");
        assert!(socket.local.is_ipv4() == (socket.family == sock_diag::Family::V4), "the address is of the socket's family");
    }
    if let Some(socket) = sock_diag::parse_unix(bytes) {
        assert!(socket.name.is_none_or(|name| name.len() <= bytes.len()), "no name is made up");
    }
}

/// Bytes as they could stand in a file of /proc, names and links chosen by strangers included.
pub fn procfs(bytes: &[u8]) {
    if let Some(stat) = procfs::parse_stat(bytes) {
        assert!(stat.comm.len() < bytes.len(), "the name is a part of the line");
    }
    let _ = procfs::parse_status(bytes);
    let strings = procfs::split_nul(bytes);
    let total: usize = strings.iter().map(|string| string.len()).sum();
    assert!(total <= bytes.len(), "no string is made up");
    assert!(procfs::uring_sockets(bytes).len() <= bytes.len(), "a socket takes a line");
    let _ = (procfs::unix_scm_fds(bytes), procfs::socket_inode(bytes));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn netlink_parsers_keep_their_promises(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            super::netlink(&bytes);
        }

        /// Frames whose lengths are right more often than chance would have it.
        #[test]
        fn framed_noise_does_so_too(parts in proptest::collection::vec((0_u16..24, proptest::collection::vec(any::<u8>(), 0..160)), 0..4)) {
            let mut bytes = Vec::new();
            for (kind, payload) in parts {
                bytes.extend_from_slice(&(payload.len() as u32 + 16).to_ne_bytes());
                bytes.extend_from_slice(&kind.to_ne_bytes());
                bytes.extend_from_slice(&[0; 10]);
                bytes.extend_from_slice(&payload);
                bytes.resize(bytes.len().next_multiple_of(4), 0);
            }
            super::netlink(&bytes);
        }

        #[test]
        fn proc_parsers_keep_their_promises(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            super::procfs(&bytes);
        }

        /// Words and numbers as the kernel writes them, in any order.
        #[test]
        fn likely_texts_do_so_too(words in proptest::collection::vec(
            prop::sample::select(vec!["Tgid:", "PPid:", "Uid:", "Gid:", "CapEff:", "TracerPid:", "UserFiles:", "scm_fds:", "socket:[", "]", "(", ")",
                "S", "1", "-1", "99999999999999999999", "\n", "\t", " ", "\0", "    0: socket:[7]"]), 0..80))
        {
            super::procfs(words.concat().as_bytes());
        }
    }
}

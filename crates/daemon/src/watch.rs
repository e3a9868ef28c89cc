//! Descriptors that the runtime watches.

use stayput_keeper::client::KeeperClient;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A value that owns one descriptor for as long as it lives, and always the same one.
pub(crate) trait Owner: AsRawFd {}

impl Owner for OwnedFd {}
impl Owner for Channel {}

/// The keeper's socket in the clothes that the runtime wants.
#[derive(Debug)]
pub(crate) struct Channel(pub(crate) KeeperClient);

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        std::os::fd::AsFd::as_fd(&self.0).as_raw_fd()
    }
}

/// Watches a descriptor.
#[expect(
    deprecated,
    reason = "it is unsound for types whose descriptor changes or is closed early, which `Owner` rules out; its replacement is an unsafe \
              function, and unsafe code lives in the kernel crate"
)]
pub(crate) fn watch<T: Owner>(owner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(owner, interest)
}

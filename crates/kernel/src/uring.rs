//! Which operations this kernel's `io_uring` knows: `bind` and `listen` made by it pass no seccomp filter.
//!
//! Source: io_uring_setup(2), io_uring_register(2) (`IORING_REGISTER_PROBE`), linux/io_uring.h.

use crate::memory::errno;
use rustix::io::Errno;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `IORING_OP_BIND`, Linux 6.11.
pub const BIND: u8 = 56;

const REGISTER_PROBE: libc::c_uint = 8;
const OP_SUPPORTED: u16 = 1;
/// `struct io_uring_probe`: 16 bytes, then 8 for each operation.
const HEADER: usize = 16;
const OPERATIONS: usize = 256;

/// Whether an operation is known.
///
/// # Errors
/// `ENOSYS`, `EPERM`: no `io_uring` here, or none for us.
pub fn supports(operation: u8) -> Result<bool, Errno> {
    let mut parameters = [0_u32; 30]; // struct io_uring_params: 120 bytes
    // SAFETY: the kernel reads and writes 120 bytes of `parameters`, its size.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) };
    if ring < 0 {
        return Err(errno());
    }
    // SAFETY: a new descriptor that nobody else owns.
    let ring = unsafe { OwnedFd::from_raw_fd(ring as i32) };
    let mut probe = [0_u64; (HEADER + 8 * OPERATIONS) / 8];
    // SAFETY: `probe` has room for the header and `OPERATIONS` entries, which is what the kernel is told.
    let result = unsafe { libc::syscall(libc::SYS_io_uring_register, ring.as_raw_fd(), REGISTER_PROBE, probe.as_mut_ptr(), OPERATIONS) };
    if result < 0 {
        return Err(errno());
    }
    // struct io_uring_probe_op: op u8, reserved u8, flags u16, reserved u32.
    let entry = probe[HEADER / 8 + usize::from(operation)].to_ne_bytes();
    Ok(u16::from_ne_bytes([entry[2], entry[3]]) & OP_SUPPORTED != 0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_ring_that_can_be_made_knows_nop_and_no_operation_that_does_not_exist() {
        match super::supports(0) {
            Ok(nop) => {
                assert!(nop);
                assert_eq!(super::supports(255), Ok(false));
            }
            Err(errno) => println!("NOT RUN: no io_uring here: {errno}"),
        }
    }
}

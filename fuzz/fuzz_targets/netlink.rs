//! The framing of netlink and the replies of sock_diag: `cargo +nightly fuzz run netlink`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stayput_kernel::noise::netlink(bytes));

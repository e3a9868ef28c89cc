//! The texts of /proc: `cargo +nightly fuzz run procfs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stayput_kernel::noise::procfs(bytes));

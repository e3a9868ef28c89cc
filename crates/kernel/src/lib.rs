//! Safe, typed access to the Linux interfaces that stayput stands on: one file per interface, all `unsafe` code of the project.

#[cfg(not(target_os = "linux"))]
compile_error!("stayput holds ports with Linux system calls (seccomp, pidfd, sock_diag): it builds on Linux only");

pub mod arch;
pub mod clock;
pub mod memory;
pub mod process;
pub mod reuseport;
pub mod seccomp;
pub mod socket;
pub mod spawn;
pub mod table;

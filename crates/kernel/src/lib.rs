//! Safe, typed access to the Linux interfaces that stayput stands on: one file per interface, all `unsafe` code of the project.

#[cfg(not(target_os = "linux"))]
compile_error!("stayput holds ports with Linux system calls (seccomp, pidfd, sock_diag): it builds on Linux only");

// Holding: what the guard and the keeper do with processes and sockets.
pub mod arch;
pub mod cgroup;
pub mod clock;
pub mod credentials;
pub mod epoll;
pub mod limits;
pub mod memory;
pub mod options;
pub mod process;
pub mod reuseport;
pub mod seccomp;
pub mod socket;
pub mod spawn;
pub mod table;

// Knowing: what the kernel says about sockets and processes.
pub mod bind_probe;
pub mod kcmp;
pub mod local_time;
pub mod netlink;
pub mod noise;
pub mod probe;
pub mod procfs;
pub mod sock_diag;
pub mod uring;

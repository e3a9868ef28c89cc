//! Safe, typed access to the Linux interfaces that stayput stands on: one file per interface, all `unsafe` code of the project.
#[cfg(not(target_os = "linux"))]
compile_error!(
    "stayput holds ports with Linux system calls (seccomp, pidfd, sock_diag): it builds on Linux only"
);

// What the kernel knows about sockets and processes (port truth).
pub mod netlink;
pub mod procfs;
pub mod sock_diag;

//! What lies below `stayput` on another host: calls that are refused there, by a container's profile or because the kernel is older. A small program
//! installs a filter and becomes `stayput`; what that starts is under the same filter.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::env::{TestEnv, User};
use crate::load::Plan;

/// Refuses some calls with an error, and becomes stayput. A rule: call, number of an argument or none, what of it has to be set, error number.
const WITHOUT: &str = r"#!/usr/bin/env python3
import ctypes, os, platform, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
numbers = {
    'x86_64': dict(ioctl=16, socket=41, ptrace=101, process_vm_readv=310, process_vm_writev=311, kcmp=312, seccomp=317),
    'aarch64': dict(ioctl=29, socket=198, ptrace=117, process_vm_readv=270, process_vm_writev=271, kcmp=272, seccomp=277),
}[platform.machine()] | dict(pidfd_open=434, close_range=436, pidfd_getfd=438)
code = b''
for name, argument, bits, error in RULES:
    refuse = struct.pack('=HBBI', 6, 0, 0, 0x50000 | error)
    check = b''
    if argument is not None:
        # Load its lower half, keep the bits, compare.
        check = struct.pack('=HBBI', 0x20, 0, 0, 16 + 8 * argument) + struct.pack('=HBBI', 0x54, 0, 0, bits)
        check += struct.pack('=HBBI', 0x15, 0, 1, bits)
    code += struct.pack('=HBBI', 0x20, 0, 0, 0) + struct.pack('=HBBI', 0x15, 0, len(check + refuse) // 8, numbers[name]) + check + refuse
code += struct.pack('=HBBI', 6, 0, 0, 0x7fff0000)
code = ctypes.create_string_buffer(code, len(code))
program = ctypes.create_string_buffer(struct.pack('@HP', len(code) // 8, ctypes.addressof(code)))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.syscall(numbers['seccomp'], 1, 0, program) == 0, os.strerror(ctypes.get_errno())
os.execv(REAL, sys.argv)
";

/// `EPERM`: what profiles say.
pub const EPERM: i32 = 1;
/// `EINVAL`: what a kernel says of a flag or a request that it does not know.
pub const EINVAL: i32 = 22;
/// `ENOSYS`: what a kernel says of a call that it does not know.
pub const ENOSYS: i32 = 38;

/// A call that is refused: its name; the number of an argument and which of its bits have to be set for it, or always; the error number.
pub type Rule<'a> = (&'a str, Option<(u32, u32)>, i32);

/// The program that refuses these.
pub fn without(rules: &[Rule<'_>]) -> String {
    let rule = |(name, argument, error): &Rule<'_>| match argument {
        None => format!("('{name}', None, 0, {error})"),
        Some((argument, bits)) => format!("('{name}', {argument}, {bits}, {error})"),
    };
    WITHOUT.replace("RULES", &format!("[{}]", rules.iter().map(rule).collect::<Vec<_>>().join(", ")))
}

/// A directory with a program in the place of stayput; `REAL` in its source becomes the path of the real one, as a quoted string.
fn place(stayput: &Path, source: &str) -> (tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir().expect("a temporary directory");
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755)).expect("open to other users");
    let program = place.path().join("stayput");
    std::fs::write(&program, source.replace("REAL", &format!("{:?}", stayput.display().to_string()))).expect("the program");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("executable");
    symlink(stayput.with_file_name("misbehave"), place.path().join("misbehave")).expect("a link");
    (place, program)
}

/// Plays a test with that program in the place of stayput, as root where that is possible, and as an ordinary user.
///
/// # Panics
/// When the program cannot be written.
pub fn each_user(stayput: &Path, source: &str, test: impl Fn(&TestEnv)) {
    let (_place, program) = place(stayput, source);
    for user in [User::Root, User::Ordinary].into_iter().filter(|user| user.is_possible()) {
        test(&TestEnv::new(&program, user));
    }
}

/// A held port, two restarts and a crash under load: nothing is lost in the restarts, nobody refused after the crash, and status says how it is held.
///
/// # Panics
/// When it is not so.
pub fn keeps_its_port(env: &TestEnv, command: &[String], port: u16, holding: &str) {
    const PATIENCE: Duration = Duration::from_secs(30);
    let declared = format!("127.0.0.1:{port}");
    let mut running = env.run("web", &["--port", &declared, "--soak", "300ms"], command);
    running.wait_answer(port);
    let ready = running.wait_ready();
    assert_eq!(ready["generations"][0]["holding"], holding, "{ready:#}\n{}", running.log());
    let load = Plan::port(port).rate(100.0).start().expect("load");
    load.wait_ok(30, PATIENCE).expect("answers before the restarts");
    for _ in 0..2 {
        running.restart_well();
        load.wait_ok(30, PATIENCE).expect("answers after a restart");
    }
    load.stop().expect("a report").assert_nothing_lost();
    let crashing = Plan::port(port).clients(2).timeout(PATIENCE).start().expect("load");
    crashing.wait_ok(20, PATIENCE).expect("answers before the crash");
    running.kill_service();
    crashing.wait_ok(20, PATIENCE).expect("answers after the crash");
    let report = crashing.stop().expect("a report");
    assert_eq!((report.counts.refused, report.counts.timed_out), (0, 0), "{report:#?}\n{}", running.log());
    running.stop();
}

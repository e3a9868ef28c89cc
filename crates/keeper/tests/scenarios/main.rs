//! The keeper and the guard with real processes and sockets. Each scenario is an instance of its own: this program becomes the
//! guard, and executes itself again as the brain, which plays the scenario and ends the instance with 0 or 1.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a test program that reports")]

mod brain;
mod dying;
mod handing;
mod passing;
mod users;

use brain::{Brain, DEADLINE, NOBODY, brain_of_headless};
use dying::{
    daemons_without_marks, exec_stages, forks_and_ends, guard_does_errands, guard_killed, keeper_killed, may_not_look, may_not_see,
    no_daemon_can_be_started, no_leaks, not_ours, whole_tree,
};
use handing::{
    bound_and_left, calls_of_32_bits, closes_and_binds_again, closes_and_goes_on, crash, epoll_before_bind, handover, held_before_start,
    mptcp, parked, probes_elsewhere, shuts_down, stranger_in_the_group, stranger_on_one_address, taken, workers,
};
use stayput_keeper::guard::{self, Start};
use stayput_keeper::protocol::{Request, ToKeeper};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, ExitCode};
use std::time::Instant;

use passing::{names_sockets, takes_no_sockets, takes_sockets};
use users::{own_user, privileged_ports, stages, talks};

type Scenario = (&'static str, fn(&mut Brain, &str), &'static str);

const SCENARIOS: [Scenario; 37] = [
    ("handover", handover, "127.0.0.1"),
    ("handover6", handover, "::1"),
    ("crash", crash, "127.0.0.1"),
    ("crash6", crash, "::1"),
    ("held", held_before_start, "127.0.0.1"),
    ("taken", taken, "127.0.0.1"),
    ("keeper-killed", keeper_killed, "127.0.0.1"),
    ("guard-killed", guard_killed, "127.0.0.1"),
    ("guard-does-errands", guard_does_errands, "127.0.0.1"),
    ("parked", parked, "127.0.0.1"),
    ("no-leaks", no_leaks, ""),
    ("whole-tree", whole_tree, ""),
    ("forks-and-ends", forks_and_ends, "127.0.0.1"),
    ("daemons-without-marks", daemons_without_marks, "127.0.0.1"),
    ("not-ours", not_ours, ""),
    ("exec-stages", exec_stages, ""),
    ("probes-elsewhere", probes_elsewhere, "127.0.0.1"),
    ("epoll-before-bind", epoll_before_bind, "127.0.0.1"),
    ("may-not-look", may_not_look, "127.0.0.1"),
    ("may-not-see", may_not_see, "127.0.0.1"),
    ("no-daemon", no_daemon_can_be_started, "127.0.0.1"),
    ("workers", workers, "127.0.0.1"),
    ("bound-and-left", bound_and_left, "127.0.0.1"),
    ("closes-and-goes-on", closes_and_goes_on, "127.0.0.1"),
    ("stranger-in-the-group", stranger_in_the_group, "127.0.0.1"),
    ("shuts-down", shuts_down, "127.0.0.1"),
    ("stranger-on-one-address", stranger_on_one_address, "0.0.0.0"),
    ("mptcp", mptcp, "127.0.0.1"),
    ("calls-of-32-bits", calls_of_32_bits, "127.0.0.1"),
    ("closes-and-binds-again", closes_and_binds_again, "127.0.0.1"),
    ("nested-takes-sockets", takes_sockets, "127.0.0.1"),
    ("nested-takes-no-sockets", takes_no_sockets, "127.0.0.1"),
    ("names-sockets", names_sockets, "127.0.0.1"),
    ("user-own", own_user, "127.0.0.1"),
    ("user-stages", stages, ""),
    ("user-talks", talks, ""),
    ("user-privileged", privileged_ports, "127.0.0.1"),
];

/// Whose rights keeper and services have.
const ROOT: &str = "root";
const SERVICE: &str = "root with services of an ordinary user";
/// What a container's root is, without the rights to reach into others and to configure networks; services are an ordinary user's.
const CONTAINED: &str = "a container's root";
/// What must work there too.
const IN_CONTAINERS: [&str; 6] = ["handover", "handover6", "crash", "held", "keeper-killed", "user-own"];
const ORDINARY: &str = "an ordinary user";

fn be_brain(name: &str) -> ExitCode {
    if let Ok(guard) = std::fs::read_to_string(brain_of_headless()) {
        let guard = rustix::process::Pid::from_raw(guard.parse().expect("a pid")).expect("a pid");
        rustix::process::kill_process(guard, rustix::process::Signal::TERM).expect("stop");
        return ExitCode::FAILURE;
    }
    let channel = stayput_kernel::spawn::inherited(3).expect("channel");
    let (_, scenario, host) = SCENARIOS.iter().find(|(known, _, _)| *known == name).expect("a scenario");
    let mut brain = Brain::new(channel);
    let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scenario(&mut brain, host))).is_ok();
    brain.seq += 1;
    let exit = ToKeeper { seq: brain.seq, request: Request::Exit { status: u8::from(!passed) } };
    brain.keeper.send(&exit, &[]).expect("send");
    ExitCode::SUCCESS
}

fn be_guard(name: &str) -> ExitCode {
    let directory = std::path::PathBuf::from(std::env::var_os("SCENARIO_DIRECTORY").expect("set by the driver"));
    std::fs::create_dir(&directory).expect("directory");
    if std::env::var_os("SCENARIO_CONTAINED").is_some() {
        // CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_NET_ADMIN
        stayput_kernel::credentials::give_up(&[19, 21, 12]).expect("root may");
    }
    if name.starts_with("nested-") {
        // The one place of a listener is taken for all that is started here.
        let above = stayput_kernel::seccomp::rehearse(&[], true).expect("a filter").expect("a listener");
        // Where no keeper sweeps it away.
        rustix::stdio::dup2_stdin(above).expect("dup2");
    }
    let control: OwnedFd = std::os::unix::net::UnixListener::bind(directory.join("control.sock")).expect("bind").into();
    let lock = control.as_fd().try_clone_to_owned().expect("dup");
    let daemon_argv = ["scenarios", "--brain", name].map(|argument| argument.as_bytes().to_vec()).to_vec();
    let start = Start {
        instance: name.into(),
        directory,
        blob: Vec::new(),
        control,
        lock,
        lives: None,
        inherited: Vec::new(),
        stored: Vec::new(),
        daemon_argv,
    };
    ExitCode::from(guard::run(start).expect("guard"))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("--brain") => return be_brain(&arguments[2]),
        Some("--guard") => return be_guard(&arguments[2]),
        _ => {}
    }
    let filter = arguments.get(1).filter(|argument| !argument.starts_with('-')).cloned().unwrap_or_default();
    let chosen: Vec<&Scenario> = SCENARIOS.iter().filter(|(name, _, _)| name.contains(filter.as_str())).collect();
    let (mut passed, mut failed) = (0, 0);
    let root = rustix::process::getuid().is_root();
    if !root {
        println!("NOT RUN as root: this is an ordinary user");
    }
    let ordinary = Ordinary::new();
    for user in [root.then_some(ROOT), root.then_some(SERVICE), root.then_some(CONTAINED), Some(ORDINARY)].into_iter().flatten() {
        for (name, _, _) in &chosen {
            if user == CONTAINED && !IN_CONTAINERS.contains(name) {
                continue;
            }
            if name.starts_with("user-") && user == ORDINARY {
                println!("scenario {name} NOT RUN as {user}: it needs the right to change user");
                continue;
            }
            let started = Instant::now();
            let directory = ordinary.directory.join(format!("{name}-{}", user.replace(' ', "-")));
            let mut command = Command::new(&ordinary.program);
            command.args(["--guard", name]).env("SCENARIO_DIRECTORY", &directory);
            if user == CONTAINED {
                command.env("SCENARIO_CONTAINED", "yes");
            }
            if user == SERVICE || user == CONTAINED {
                command.env("SCENARIO_SERVICE_USER", "nobody").env("TMPDIR", &ordinary.directory);
            }
            if root && user == ORDINARY {
                use std::os::unix::process::CommandExt;
                command.uid(NOBODY).gid(NOBODY).env("PATH", "/usr/bin:/bin").env("TMPDIR", &ordinary.directory);
            }
            let status = command.status().expect("run");
            // A killed guard cannot return a status: its keeper's successor ends the instance.
            let good = match *name {
                "guard-killed" => finished_without_guard(&directory),
                "no-daemon" => status.code() == Some(128 + 15),
                _ => status.success(),
            };
            println!("scenario {name} as {user} ... {} ({:.2?})", if good { "ok" } else { "FAILED" }, started.elapsed());
            if good { passed += 1 } else { failed += 1 }
        }
    }
    let _ = std::fs::remove_dir_all(&ordinary.directory);
    let _ = std::io::stdout().flush();
    println!("\ntest result: {}. {passed} passed; {failed} failed", if failed == 0 { "ok" } else { "FAILED" });
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A place, and this program in it, that another user can reach too.
struct Ordinary {
    directory: std::path::PathBuf,
    program: std::path::PathBuf,
}

impl Ordinary {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let directory = std::env::temp_dir().join(format!("stayput-scenarios-{}", std::process::id()));
        std::fs::create_dir(&directory).expect("directory");
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777)).expect("mode");
        let program = directory.join("scenarios");
        std::fs::copy(std::env::current_exe().expect("own path"), &program).expect("copy");
        Self { directory, program }
    }
}

/// The instance's directory goes away when the last guard ends it.
fn finished_without_guard(directory: &std::path::Path) -> bool {
    let deadline = Instant::now() + DEADLINE;
    while directory.exists() {
        if Instant::now() > deadline {
            eprintln!("the instance did not end");
            return false;
        }
        std::thread::yield_now();
    }
    true
}

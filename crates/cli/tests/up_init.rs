//! What `stayput up` owes to what started it: as process 1 of a container, and to a service manager.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use stayput_testkit::env::{TestEnv, User};
use stayput_testkit::load::Plan;
use stayput_testkit::{both_users, process, wait};

const PATIENCE: Duration = Duration::from_secs(30);

fn config(env: &TestEnv, port: u16, extra: &str) -> String {
    let words: Vec<String> = env.misbehave("trivial", port).iter().map(|word| format!("'{word}'")).collect();
    format!(
        "name = 'first'\ndashboard = false\n[service.web]\ncommand = [{}]\nport = '127.0.0.1:{port}'\nsoak = '100ms'\n{extra}\n",
        words.join(", ")
    )
}

/// `stayput` with these arguments as process 1 of a namespace of its own.
fn as_process_1(env: &TestEnv, arguments: &[&str]) -> Child {
    let stayput = env.command::<&str>([]).get_program().to_owned();
    let mut words = vec!["--pid", "--fork", "--mount-proc", "--kill-child"];
    if env.user() == User::Ordinary {
        words.extend(["--user", "--map-current-user"]);
    }
    let mut command = env.as_user(Path::new("unshare"), &words);
    command.arg(stayput).args(arguments);
    spawn(env, command)
}

fn spawn(env: &TestEnv, mut command: Command) -> Child {
    let log = std::fs::File::create(env.path("up.log")).unwrap();
    command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null()).spawn().unwrap()
}

fn log(env: &TestEnv) -> String {
    std::fs::read_to_string(env.path("up.log")).unwrap_or_default()
}

fn exit_code(env: &TestEnv, child: &mut Child) -> Option<i32> {
    let ended = wait::until("its end", PATIENCE, || child.try_wait().map_err(|error| error.to_string())?.ok_or_else(|| "runs".to_owned()));
    ended.unwrap_or_else(|why| panic!("{why}\n{}", log(env))).code()
}

/// All processes below this one, zombies among them.
fn below(pid: u32) -> Vec<u32> {
    let mut found = process::children(pid);
    let mut at = 0;
    while at < found.len() {
        found.extend(process::children(found[at]));
        at += 1;
    }
    found
}

/// What a manager was told, as it comes.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    fn new(env: &TestEnv) -> Self {
        let path = env.path("manager");
        let socket = UnixDatagram::bind(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, heard: Vec::new() }
    }

    /// Waits for a message with this line, and gives what came after it in the line.
    fn hears(&mut self, line: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            let length = self.socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{line}: {error}; heard {:#?}", self.heard));
            let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
            self.heard.push(message.clone());
            if let Some(rest) = message.lines().find_map(|said| said.strip_prefix(line)) {
                return rest.to_owned();
            }
        }
    }
}

both_users! {
fn as_process_1_it_reaps_passes_on_and_ends_in_order(env) {
    let port = env.port();
    // Twenty orphans that end at once, and then it stays.
    let orphans = "[service.orphans]\nready = 'log:^done$'\nshell = 'for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sh -c \"sleep 0.05 &\"; done; echo done; exec sleep 300'";
    env.file("stayput.toml", &config(env, port, orphans));
    let mut unshare = as_process_1(env, &["up"]);
    let outside = unshare.id();
    let mut upped = env.upped();
    // From outside nobody is spoken to, so what it says on its standard output has to do.
    let mut says = |words: &[&str]| {
        wait::until(&format!("{words:?}"), PATIENCE, || match unshare.try_wait() {
            Ok(Some(status)) => Err(format!("it ended with {status}: {}", log(env))),
            _ if words.iter().all(|words| log(env).contains(words)) => Ok(()),
            _ => Err(log(env)),
        })
        .unwrap_or_else(|why| panic!("{why}"));
    };
    says(&["[web] ✓ generation 2 has the connections", "[orphans] ✓ generation 1 is ready"]);
    let init = process::children(outside)[0];
    let status = std::fs::read_to_string(format!("/proc/{init}/status")).unwrap();
    assert!(status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1")), "{status}");
    let zombies = || below(init).into_iter().filter(|pid| process::state(*pid) == Some('Z')).collect::<Vec<_>>();
    wait::until("no zombie", PATIENCE, || if zombies().is_empty() { Ok(()) } else { Err(format!("{:?}", zombies())) }).unwrap();
    // A crash is got over.
    let is_server = |pid: &u32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains("misbehave"));
    let server = below(init).into_iter().find(is_server).unwrap();
    assert!(process::signal(server, Signal::KILL));
    says(&["[web] ! generation 2 was ended by signal KILL", "[web] ✓ generation 3 has the connections"]);
    assert!(process::signal(init, Signal::TERM));
    assert_eq!(exit_code(env, &mut unshare), Some(0), "{}", log(env));
    assert!(log(env).contains("SIGTERM sent to generation"), "in order: {}", log(env));
    upped.note_end();
    env.assert_nothing_left(PATIENCE);
    // Ended by its service, it has its status.
    let mut unshare = as_process_1(env, &["run", "--restart", "never", "--", "sh", "-c", "exit 7"]);
    assert_eq!(exit_code(env, &mut unshare), Some(7), "{}", log(env));
}

fn a_service_manager_is_told(env) {
    let port = env.port();
    env.file("stayput.toml", &config(env, port, ""));
    let mut manager = Manager::new(env);
    let mut command = env.command(["up"]);
    command.env("NOTIFY_SOCKET", env.path("manager")).env("WATCHDOG_USEC", "400000");
    let mut child = spawn(env, command);
    let mut upped = env.upped();

    assert_eq!(manager.hears("READY=1"), "");
    // When it said so, it was so.
    assert_eq!(upped.service("web")["state"], "running");
    let main = manager.heard.last().unwrap().lines().find_map(|line| line.strip_prefix("MAINPID=")).unwrap().parse::<u32>().unwrap();
    assert_eq!(main, child.id());
    assert_eq!(manager.hears("STATUS="), "1 service is up");
    manager.hears("WATCHDOG=1");
    manager.hears("WATCHDOG=1");
    // The service speaks to nobody's manager.
    let (_, pid) = upped.serving("web");
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment).into_owned();
    assert!(!environment.contains("NOTIFY_SOCKET=") && !environment.contains("WATCHDOG_USEC="), "{environment}");

    upped.succeeds(&["stop", "web"]);
    assert_eq!(manager.hears("STATUS="), "0 services are up");
    upped.succeeds(&["start", "web"]);
    assert_eq!(manager.hears("STATUS=1 service"), " is up");

    upped.reload(&config(env, port, "env = { NEW = '1' }"));
    assert_eq!(manager.hears("RELOADING=1"), "");
    assert!(manager.heard.last().unwrap().contains("\nMONOTONIC_USEC="), "{:?}", manager.heard);
    assert_eq!(manager.hears("READY=1"), "");

    // A daemon that is started anew says again what is so, and the watchdog goes on.
    process::signal(upped.part("daemon"), Signal::KILL);
    assert_eq!(manager.hears("READY=1"), "");
    manager.hears("WATCHDOG=1");
    // Another process stands for the instance.
    assert!(process::signal(main, Signal::KILL));
    child.wait().unwrap();
    let next: u32 = manager.hears("MAINPID=").parse().unwrap();
    assert_ne!(next, main);
    assert_eq!(upped.part("guard"), next);
    let (before, _) = upped.serving("web");
    process::signal(next, Signal::TERM);
    assert_eq!(manager.hears("STOPPING=1"), "");
    wait::until_true("the end of the server", PATIENCE, || !process::is_alive(next)).unwrap();
    assert!(before > 0);
    upped.note_end();
    env.assert_nothing_left(PATIENCE);
}
fn sockets_that_it_is_started_with_are_held_and_steered(env) {
    let port = env.port();
    let config = |drain: &str| {
        let declared = format!("drain = '{drain}'");
        config(env, port, &declared)
    };
    env.file("stayput.toml", &config("1s"));
    // As systemd does it with ReusePort=yes: bound, listening, its process id and the number of sockets in the environment.
    let passer = "\
import os, socket, sys
passed = socket.socket()
passed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
passed.bind(('127.0.0.1', int(sys.argv[1])))
passed.listen(64)
early = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
os.dup2(passed.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))
print('inode', os.fstat(3).st_ino, flush=True)
os.execv(sys.argv[2], sys.argv[2:])
";
    let stayput = env.command::<&str>([]).get_program().to_owned();
    let mut command = env.as_user(Path::new("python3"), ["-c", passer, &port.to_string()]);
    command.arg(stayput).arg("up");
    let mut child = spawn(env, command);
    let mut upped = env.upped();
    let (first, pid) = wait::until("it", PATIENCE, || {
        upped.status()?;
        Ok(upped.serving("web"))
    })
    .unwrap_or_else(|why| panic!("{why}\n{}", log(env)));
    let inode = log(env).lines().find_map(|line| line.strip_prefix("inode ")?.parse::<u64>().ok()).unwrap();
    let service = upped.service("web");
    let listener = &stayput_testkit::env::ready_generation(&service).unwrap()["listeners"][0];
    assert_eq!((listener["inode"].as_u64(), &listener["origin"]), (Some(inode), &"swapped".into()), "{service}");
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("LISTEN_"), "no service was meant");

    // Restarts beside it, a crash, and a stop with a start: nothing is refused.
    let load = Plan::port(port).clients(4).duration(Duration::from_mins(1)).timeout(Duration::from_secs(10)).start().unwrap();
    load.wait_ok(50, PATIENCE).unwrap();
    upped.succeeds(&["restart", "web"]);
    upped.succeeds(&["restart", "web"]);
    load.wait_ok(50, PATIENCE).unwrap();
    load.stop().unwrap().assert_nothing_lost();
    assert!(upped.serving("web").0 > first);
    upped.succeeds(&["stop", "web"]);
    upped.succeeds(&["start", "web"]);
    let load = Plan::port(port).clients(1).duration(Duration::from_mins(1)).timeout(Duration::from_secs(10)).start().unwrap();
    load.wait_ok(50, PATIENCE).unwrap();
    load.stop().unwrap().assert_nothing_lost();
    process::signal(child.id(), Signal::TERM);
    assert_eq!(exit_code(env, &mut child), Some(0), "{}", log(env));
    upped.note_end();
    env.assert_nothing_left(PATIENCE);
}
}

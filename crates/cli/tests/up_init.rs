//! What `stayput up` owes to what started it: as process 1 of a container, and to a service manager.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use stayput_testkit::env::{TestEnv, User};
use stayput_testkit::{both_users, process, wait};

const PATIENCE: Duration = Duration::from_secs(30);

fn config(env: &TestEnv, port: u16, extra: &str) -> String {
    let words: Vec<String> = env.misbehave("trivial", port).iter().map(|word| format!("'{word}'")).collect();
    format!("name = 'first'\n[service.web]\ncommand = [{}]\nport = '127.0.0.1:{port}'\nsoak = '100ms'\n{extra}\n", words.join(", "))
}

/// `stayput` with these arguments as process 1 of a namespace of its own.
fn as_process_1(env: &TestEnv, arguments: &[&str]) -> Child {
    let stayput = env.command::<&str>([]).get_program().to_owned();
    let mut words = vec!["--pid", "--fork", "--mount-proc", "--kill-child"];
    if env.user() == User::Ordinary {
        words.extend(["--user", "--map-root-user"]);
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
    let mut upped = env.upped();
    wait::until("both services", PATIENCE, || {
        if let Ok(Some(status)) = unshare.try_wait() {
            panic!("it ended with {status}\n{}", log(env));
        }
        let status = upped.status()?;
        let services = status["services"].as_array().into_iter().flatten();
        let up = services.filter(|service| service["state"] == "running").count();
        if up == 2 { Ok(()) } else { Err(status.to_string()) }
    })
    .unwrap_or_else(|why| panic!("{why}\n{}", log(env)));
    assert_eq!(upped.status().unwrap()["guard"]["pid"], 1);
    let init = process::children(unshare.id())[0];
    let zombies = || below(init).into_iter().filter(|pid| process::state(*pid) == Some('Z')).collect::<Vec<_>>();
    wait::until("no zombie", PATIENCE, || if zombies().is_empty() { Ok(()) } else { Err(format!("{:?}", zombies())) }).unwrap();
    // A crash is got over by one that is nobody's child but ours.
    let (before, _) = upped.serving("web");
    upped.succeeds(&["signal", "KILL", "web"]);
    wait::until_true("another generation", PATIENCE, || upped.serving("web").0 > before).unwrap();
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
    // Never listens, so it is up ten seconds later: it is not what is waited for, being not there yet.
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
}

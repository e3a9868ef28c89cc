//! Under systemd itself, as the first process of namespaces of its own, with the unit of `dist/`. It needs root, and a cgroup of version 2 to be made below
//! one's own; without root it says so, and whatever else is missing is a failure.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use stayput_testkit::env::{TestEnv, User};
use stayput_testkit::{process, wait};

const PATIENCE: Duration = Duration::from_mins(1);
const UNIT: &str = include_str!("../../../dist/stayput.service");

/// Its file systems are its own, or cannot be written: it is to change nothing of this machine. Arguments: the directory of the test, systemd.
const BOOT: &str = r#"
set -e
echo $$ >"$3/cgroup.procs"
exec unshare --pid --fork --kill-child --mount --mount-proc --cgroup --uts --ipc sh -c '
    set -e
    mount --make-rprivate /
    mount --bind "$1" "$1"
    mount -o remount,bind,ro /
    mount --bind /proc/sys /proc/sys
    mount -o remount,bind,ro /proc/sys
    mount -t tmpfs tmpfs /run
    mount -t tmpfs tmpfs /var/log
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    exec env -i container=other SYSTEMD_UNIT_PATH="$1/units" PATH="$PATH" "$2" --system --log-target=null --show-status=no --unit=default.target
' sh "$1" "$2"
"#;

struct Machine<'env> {
    env: &'env TestEnv,
    child: Child,
    init: u32,
    cgroup: PathBuf,
}

impl<'env> Machine<'env> {
    /// Boots it, with the unit as it is delivered but for the paths of the program and its configuration.
    fn boot(env: &'env TestEnv) -> Self {
        let (dir, cgroup) =
            (env.path(""), own_cgroup().join(format!("stayput-test-{}-{:?}", std::process::id(), std::thread::current().id())));
        std::fs::create_dir(env.path("units")).unwrap();
        for target in ["default", "sysinit", "basic", "shutdown", "network-online"] {
            std::fs::write(env.path(&format!("units/{target}.target")), format!("[Unit]\nDescription={target}\n")).unwrap();
        }
        let stayput = env.command::<&str>([]).get_program().to_str().unwrap().to_owned();
        let config = env.path("scratch/stayput.toml").display().to_string();
        // The watchdog hears of us every half of its time.
        let unit = UNIT.replace("/usr/local/bin/stayput", &stayput).replace("/etc/stayput/stayput.toml", &config);
        let unit = unit.replace("WatchdogSec=30", "WatchdogSec=2");
        assert!(unit.contains(&format!("ExecStart={stayput} up -f {config}\n")), "{unit}");
        std::fs::write(env.path("units/stayput.service"), unit).unwrap();
        let systemd = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"].into_iter().find(|path| Path::new(path).exists());
        let systemd = systemd.expect("systemd (Debian: apt-get install systemd; cargo xtask setup does)");
        std::fs::create_dir(&cgroup).unwrap_or_else(|error| panic!("a cgroup of version 2 at {}: {error}", cgroup.display()));
        let log = std::fs::File::create(env.path("systemd.log")).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", BOOT, "sh"]).args([&dir, Path::new(systemd), &cgroup]);
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let mut machine = Self { env, child, init: 0, cgroup };
        wait::until("systemd", PATIENCE, || {
            if let Some(status) = machine.child.try_wait().unwrap() {
                panic!("{status}: {}", std::fs::read_to_string(env.path("systemd.log")).unwrap());
            }
            machine.init = process::children(machine.child.id()).first().copied().ok_or("no child of unshare")?;
            let output = machine.systemctl(&["is-system-running"]);
            if output.stdout == b"running\n" { Ok(()) } else { Err(format!("{output:?}")) }
        })
        .unwrap();
        machine
    }

    fn inside(&self, program: &str, arguments: &[&str]) -> Output {
        let init = self.init.to_string();
        Command::new("nsenter").args(["--target", &init, "--all", program]).args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    fn systemctl(&self, arguments: &[&str]) -> Output {
        self.inside("systemctl", arguments)
    }

    fn does(&self, arguments: &[&str]) {
        let output = self.systemctl(arguments);
        assert!(output.status.success(), "systemctl {arguments:?}: {}\n{}", String::from_utf8_lossy(&output.stderr), self.shown());
    }

    /// The properties of the unit.
    fn unit(&self) -> BTreeMap<String, String> {
        let output = self.systemctl(&["show", "stayput.service"]);
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn shown(&self) -> String {
        let wanted = ["ActiveState", "SubState", "Result", "MainPID", "StatusText", "NRestarts", "NFileDescriptorStore"];
        format!("{:?}", self.unit().into_iter().filter(|(name, _)| wanted.contains(&name.as_str())).collect::<Vec<_>>())
    }

    fn waits_for(&self, what: &str, is: impl Fn(&BTreeMap<String, String>) -> bool) {
        let seen = wait::until(what, PATIENCE, || if is(&self.unit()) { Ok(()) } else { Err(self.shown()) });
        seen.unwrap_or_else(|why| panic!("{why}"));
    }

    fn is_up(&self) {
        self.waits_for("the unit is up", |unit| unit["ActiveState"] == "active" && unit["StatusText"] == "1 service is up");
    }

    /// Processes in the unit's cgroup, as seen from here.
    fn members(&self) -> Vec<u32> {
        let list = self.cgroup.join("system.slice/stayput.service/cgroup.procs");
        std::fs::read_to_string(list).unwrap_or_default().lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// The one that serves, when there is no other any more.
    fn server(&self) -> u32 {
        let serves =
            |pid: &u32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.windows(9).any(|part| part == b"misbehave"));
        let one = wait::until("one server", PATIENCE, || match self.everybody().into_iter().filter(serves).collect::<Vec<_>>()[..] {
            [one] => Ok(one),
            ref all => Err(format!("{all:?}")),
        });
        one.unwrap_or_else(|why| panic!("{why}: {}", self.shown()))
    }

    /// Also in the cgroups of generations below that of the unit.
    fn everybody(&self) -> Vec<u32> {
        let mut found = self.members();
        let mut open = vec![self.cgroup.join("system.slice/stayput.service")];
        while let Some(place) = open.pop() {
            for entry in std::fs::read_dir(place).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
                let list = std::fs::read_to_string(entry.path().join("cgroup.procs")).unwrap_or_default();
                found.extend(list.lines().filter_map(|line| line.parse::<u32>().ok()));
                open.push(entry.path());
            }
        }
        found
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        // Its end is that of the first process, and that of all in its namespace.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let gone = wait::until_true("the end of all", PATIENCE, || self.env.left().is_empty() && remove(&self.cgroup));
        assert!(gone.is_ok() || std::thread::panicking(), "something is left in {}", self.cgroup.display());
    }
}

/// A cgroup is removed with `rmdir`, from below.
fn remove(cgroup: &Path) -> bool {
    for entry in std::fs::read_dir(cgroup).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        remove(&entry.path());
    }
    std::fs::remove_dir(cgroup).is_ok() || !cgroup.exists()
}

/// Where the hierarchy of version 2 has this process.
fn own_cgroup() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let at = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let place = words.next()?;
        (words.next()? == "cgroup2").then_some(place)
    });
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let below = own.lines().find_map(|line| line.strip_prefix("0::/")).expect("a cgroup of version 2");
    Path::new(at.expect("cgroup2 is mounted")).join(below)
}

fn config(env: &TestEnv, port: u16, extra: &str) {
    let words: Vec<String> = env.misbehave("trivial", port).iter().map(|word| format!("'{word}'")).collect();
    let text = format!(
        "name = 'main'\ndashboard = false\n[service.web]\ncommand = [{}]\nport = '127.0.0.1:{port}'\nsoak = '100ms'\n{extra}\n",
        words.join(", ")
    );
    env.file("stayput.toml", &text);
}

fn request(port: u16) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    Ok(stream)
}

fn answer(mut stream: TcpStream) -> String {
    let mut text = String::new();
    // What is cut short is seen in the text.
    let _ = stream.read_to_string(&mut text);
    text
}

/// Sets it, however the test ends: a thread waits for it.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// As root, or not at all.
#[expect(clippy::print_stdout, reason = "what was not tried is said aloud")]
fn with_systemd(test: impl FnOnce(&TestEnv, &Machine<'_>, u16)) {
    if !User::Root.is_possible() {
        println!("NOT RUN: systemd as a first process needs root");
        return;
    }
    let env = TestEnv::new(env!("CARGO_BIN_EXE_stayput"), User::Root);
    let port = env.port();
    config(&env, port, "");
    let machine = Machine::boot(&env);
    machine.does(&["start", "stayput"]);
    machine.is_up();
    test(&env, &machine, port);
}

#[test]
fn the_unit_starts_reloads_keeps_its_watchdog_and_stops() {
    with_systemd(|env, machine, port| {
        let unit = machine.unit();
        assert_eq!(
            (unit["Type"].as_str(), unit["KillMode"].as_str(), unit["FileDescriptorStoreMax"].as_str()),
            ("notify", "process", "4096")
        );
        assert_eq!(unit["NFileDescriptorStore"], "1", "the port is in the store: {}", machine.shown());
        assert!(answer(request(port).unwrap()).contains("200 OK"));
        // It is the service that has the port, and neither systemd, which keeps a duplicate, nor the unit.
        let why = machine.inside(env.command::<&str>([]).get_program().to_str().unwrap(), &["why", &port.to_string()]);
        let why = String::from_utf8(why.stdout).unwrap();
        assert!(why.contains("stayput service web") && !why.contains("systemctl"), "{why}");
        let server = machine.server();
        config(env, port, "env = { NEW = '1' }");
        machine.does(&["reload", "stayput"]);
        machine.is_up();
        assert_ne!(machine.server(), server, "the reload was done when systemctl came back");
        // The daemon's word comes again and again.
        let heard = machine.unit()["WatchdogTimestampMonotonic"].clone();
        machine.waits_for("the watchdog", |unit| unit["WatchdogTimestampMonotonic"] != heard);
        machine.does(&["stop", "stayput"]);
        let unit = machine.unit();
        assert_eq!((unit["ActiveState"].as_str(), unit["Result"].as_str()), ("inactive", "success"));
        assert_eq!(machine.everybody(), Vec::<u32>::new());
        assert!(request(port).is_err(), "stopped is closed, in the store too");
    });
}

#[test]
fn a_killed_main_process_is_replaced_and_the_unit_goes_on() {
    with_systemd(|_, machine, port| {
        let server = machine.server();
        machine.does(&["kill", "--kill-who=main", "--signal=KILL", "stayput"]);
        machine.waits_for("another main process", |unit| {
            unit["NRestarts"] != "0" && unit["ActiveState"] == "active" && unit["SubState"] == "running" && unit["MainPID"] != "0"
        });
        assert_eq!(machine.server(), server, "nobody touched it");
        assert!(answer(request(port).unwrap()).contains("200 OK"));
        // It is the unit's again: a stop ends all of it.
        machine.does(&["stop", "stayput"]);
        assert_eq!(machine.everybody(), Vec::<u32>::new());
        assert_eq!(machine.unit()["Result"], "success");
    });
}

#[test]
fn the_watchdog_ends_a_wedged_daemon_and_nothing_else() {
    with_systemd(|_, machine, port| {
        let server = machine.server();
        let daemon = || {
            let is = |pid: &u32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"stayput\0__daemon\0");
            machine.everybody().into_iter().find(is)
        };
        let wedged = daemon().unwrap();
        assert!(process::signal(wedged, Signal::STOP));
        machine.waits_for("another daemon", |unit| {
            unit["NRestarts"] != "0" && unit["SubState"] == "running" && daemon().is_some_and(|daemon| daemon != wedged)
        });
        machine.is_up();
        assert_eq!(machine.server(), server, "nobody touched it");
        assert!(answer(request(port).unwrap()).contains("200 OK"));
        machine.does(&["stop", "stayput"]);
        assert_eq!(machine.everybody(), Vec::<u32>::new());
    });
}

#[test]
fn nobody_is_refused_while_the_unit_is_restarted_or_killed_whole() {
    with_systemd(|_, machine, port| {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                let mut asked = 0;
                while !done.load(Ordering::SeqCst) {
                    // Reset, if its server ends; refused, never.
                    answer(request(port).unwrap_or_else(|error| panic!("request {asked}: {error}")));
                    asked += 1;
                }
                asked
            });
            let finish = Finish(&done);
            let main = machine.unit()["MainPID"].clone();
            machine.does(&["restart", "stayput"]);
            machine.is_up();
            assert_ne!(machine.unit()["MainPID"], main);
            assert!(answer(request(port).unwrap()).contains("200 OK"));
            // All of it at once, by the kernel. systemd starts it again (Restart=on-failure).
            machine.does(&["kill", "--kill-who=all", "--signal=KILL", "stayput"]);
            machine.waits_for("another start", |unit| unit["NRestarts"] == "1");
            machine.is_up();
            assert!(answer(request(port).unwrap()).contains("200 OK"));
            drop(finish);
            assert!(client.join().unwrap() > 0);
        });
        machine.does(&["stop", "stayput"]);
        assert!(request(port).is_err());
    });
}

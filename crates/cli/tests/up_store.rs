//! The descriptor store of a service manager: what was held is there again after the end of everything that is stayput's. The manager is played by a
//! program that keeps what it is given, as systemd does with `FileDescriptorStoreMax=`, and starts stayput with it (`LISTEN_FDS`).
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use stayput_testkit::env::TestEnv;
use stayput_testkit::{both_users, process, wait};

const PATIENCE: Duration = Duration::from_secs(30);

/// Says what happens, a line each; starts stayput at each line that it reads.
const MANAGER: &str = "\
import array, os, select, socket, sys
limit, path, command = sys.argv[1], sys.argv[2], sys.argv[3:]
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(path)
store, children = {}, {}
def say(*words):
    print(*words, flush=True)
def start():
    pid = os.fork()
    if pid == 0:
        pairs = [(name, descriptor) for name, held in store.items() for descriptor in held]
        high = [os.dup2(descriptor, 500 + at) for at, (_, descriptor) in enumerate(pairs)]
        for at, descriptor in enumerate(high):
            os.dup2(descriptor, 3 + at)
        os.closerange(3 + len(high), 1000)
        os.environ.update(NOTIFY_SOCKET=path, FDSTORE=limit)
        if pairs:
            os.environ.update(LISTEN_FDS=str(len(pairs)), LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES=':'.join(name for name, _ in pairs))
        os.execv(command[0], command)
    children[os.pidfd_open(pid)] = pid
    say('started', pid)
def hear():
    text, descriptors, _, _ = socket.recv_fds(notify, 4096, 8)
    said = dict(line.split('=', 1) for line in text.decode().splitlines())
    name = said.get('FDNAME', '')
    if 'FDSTORE' in said:
        known = [os.fstat(held).st_ino for all in store.values() for held in all]
        for descriptor in descriptors:
            if os.fstat(descriptor).st_ino in known:
                os.close(descriptor)
            elif len(known) >= int(limit):
                say('full', name)
            else:
                store.setdefault(name, []).append(descriptor)
                say('stored', name, 'FDPOLL=' + said.get('FDPOLL', ''))
    if 'FDSTOREREMOVE' in said:
        for descriptor in store.pop(name, []):
            os.close(descriptor)
            say('dropped', name)
while True:
    for ready in select.select([0, notify, *children], [], [])[0]:
        if ready == 0:
            if not sys.stdin.readline():
                sys.exit()
            start()
        elif ready == notify:
            hear()
        else:
            _, status = os.waitpid(children.pop(ready), 0)
            os.close(ready)
            say('ended', os.waitstatus_to_exitcode(status))
";

struct Manager {
    child: Child,
    orders: ChildStdin,
    says: Receiver<String>,
    heard: Vec<String>,
}

impl Manager {
    fn new(env: &TestEnv, limit: usize) -> Self {
        let stayput = env.command::<&str>([]).get_program().to_owned();
        let place = env.path("scratch").join("manager");
        let mut command = env.as_user(Path::new("python3"), ["-c", MANAGER, &limit.to_string(), place.to_str().unwrap()]);
        let log = std::fs::File::create(env.path("up.log")).unwrap();
        let mut child = command.arg(stayput).arg("up").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let (to, says) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| to.send(line)));
        Self { orders: child.stdin.take().unwrap(), child, says, heard: Vec::new() }
    }

    /// Starts stayput with all that is in the store.
    fn start(&mut self) {
        self.orders.write_all(b"start\n").unwrap();
        self.hears("started ");
    }

    /// Waits for a line that begins so, and gives its rest. (What stayput itself says comes the same way.)
    fn hears(&mut self, line: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let said = self.says.recv_timeout(left).unwrap_or_else(|error| panic!("{line}: {error}; heard {:#?}", self.heard));
            self.heard.push(said.clone());
            if let Some(rest) = said.strip_prefix(line) {
                return rest.to_owned();
            }
        }
    }

    /// SIGKILL for all that is stayput's and its services', none of which may see another's end.
    fn kill_all(&mut self, env: &TestEnv) {
        let ours = || env.left().into_iter().filter(|found| found.pid != self.child.id()).collect::<Vec<_>>();
        for signal in [Signal::STOP, Signal::KILL] {
            for found in ours() {
                process::signal(found.pid, signal);
            }
        }
        wait::until_true("the end of all", PATIENCE, || ours().is_empty()).unwrap();
        assert_eq!(self.hears("ended "), "-9");
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request under way.
struct Client(TcpStream);

impl Client {
    fn new(port: u16) -> std::io::Result<Self> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        Ok(Self(stream))
    }

    fn answer(mut self) -> std::io::Result<String> {
        let mut answer = String::new();
        self.0.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

fn asks(port: u16) -> String {
    Client::new(port).and_then(Client::answer).unwrap_or_else(|error| panic!("{error}"))
}

fn service(env: &TestEnv, name: &str, port: u16, extra: &str) -> String {
    let words: Vec<String> = env.misbehave("trivial", port).iter().map(|word| format!("'{word}'")).collect();
    format!("[service.{name}]\ncommand = [{}]\nsoak = '100ms'\ndrain = '1s'\n{extra}\n", words.join(", "))
}

fn file(env: &TestEnv, services: &[String]) {
    env.file("stayput.toml", &format!("name = 'first'\ndashboard = false\n{}", services.concat()));
}

fn listener(service: &serde_json::Value) -> (u64, String) {
    let listener = &stayput_testkit::env::ready_generation(service).unwrap()["listeners"][0];
    (listener["inode"].as_u64().unwrap(), listener["origin"].as_str().unwrap().to_owned())
}

both_users! {
fn killed_whole_and_started_again_it_answers_whoever_connected_meanwhile(env) {
    let (web, api) = (env.port(), env.port());
    let declared = format!("port = '127.0.0.1:{web}'");
    // One port is declared, one is known from its server alone.
    file(env, &[service(env, "web", web, &declared), service(env, "api", api, "")]);
    let mut manager = Manager::new(env, 8);
    manager.start();
    let upped = env.upped();
    let is_up = |name: &str| wait::until(name, PATIENCE, || upped.status().map(|_| upped.serving(name))).unwrap();
    let before = ["web", "api"].map(|name| {
        is_up(name);
        listener(&upped.service(name))
    });
    let mut kept = [manager.hears("stored "), manager.hears("stored ")];
    kept.sort();
    assert_eq!(kept, [format!("stayput-api-{} FDPOLL=0", before[1].0), format!("stayput-web-{} FDPOLL=0", before[0].0)]);

    manager.kill_all(env);
    let waiting = [web, web, api, api].map(|port| Client::new(port).unwrap());
    manager.start();
    for (at, client) in waiting.into_iter().enumerate() {
        let answer = client.answer().unwrap_or_else(|error| panic!("{at}: {error}\n{:#?}", manager.heard));
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{at}: {answer}");
    }
    for (name, (inode, _)) in ["web", "api"].into_iter().zip(&before) {
        let (_, pid) = is_up(name);
        assert_eq!(listener(&upped.service(name)), (*inode, "swapped".to_owned()), "{name} has the very socket");
        let said = upped.events_of(name, "message");
        assert!(said.iter().any(|event| event["text"].as_str().unwrap().contains("was kept by the service manager")), "{said:?}");
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
        let environment = String::from_utf8_lossy(&environment).into_owned();
        assert!(!environment.contains("LISTEN_") && !environment.contains("FDSTORE"), "no service was meant: {environment}");
    }

    // It goes on as ever: a restart keeps the next generation's socket and drops the old one's, a stop drops the port.
    upped.succeeds(&["restart", "web"]);
    let (after, _) = listener(&upped.service("web"));
    assert_ne!(after, before[0].0);
    assert_eq!(manager.hears("stored stayput-web-"), format!("{after} FDPOLL=0"));
    assert_eq!(manager.hears("dropped "), format!("stayput-web-{}", before[0].0));
    assert!(asks(web).contains("200 OK"));
    upped.succeeds(&["stop", "api"]);
    assert_eq!(manager.hears("dropped "), format!("stayput-api-{}", before[1].0));
    assert!(Client::new(api).is_err(), "stopped is closed");

    // What the configuration has no more is nobody's, whoever has its name or its port now.
    manager.kill_all(env);
    file(env, &[service(env, "other", api, &declared.replace(&web.to_string(), &api.to_string()))]);
    manager.start();
    assert_eq!(manager.hears("dropped "), format!("stayput-web-{after}"));
    is_up("other");
    assert!(Client::new(web).is_err(), "closed");
    assert!(asks(api).contains("200 OK"));
    let log = std::fs::read_to_string(env.path("up.log")).unwrap();
    assert!(log.contains(&format!("the socket on 127.0.0.1:{web} that was kept for web is closed")), "{log}");
    manager.kill_all(env);
    let mut upped = upped;
    upped.note_end();
    drop(manager);
    env.assert_nothing_left(PATIENCE);
}

fn a_restart_of_the_unit_refuses_nobody(env) {
    let port = env.port();
    // Kept where its server was seen to listen, which is narrower than what is declared.
    file(env, &[service(env, "web", port, &format!("port = {port}"))]);
    // Room for one: the old one has to go before the new one comes.
    let mut manager = Manager::new(env, 1);
    manager.start();
    let mut upped = env.upped();
    wait::until("it", PATIENCE, || upped.status().map(|_| upped.serving("web"))).unwrap();
    upped.succeeds(&["restart", "web"]);
    let (inode, _) = listener(&upped.service("web"));
    assert_eq!(manager.hears(&format!("stored stayput-web-{inode} ")), "FDPOLL=0");

    // As `systemctl restart` does it: asked to stop, it leaves in the store what is there.
    process::signal(upped.part("guard"), Signal::TERM);
    assert_eq!(manager.hears("ended "), "0");
    let waiting = [port; 8].map(|port| Client::new(port).unwrap());
    manager.start();
    for client in waiting {
        assert!(client.answer().unwrap().starts_with("HTTP/1.1 200 OK"));
    }
    assert_eq!(listener(&upped.service("web")), (inode, "swapped".to_owned()));
    assert!(!manager.heard.iter().any(|said| said.starts_with("full") || said.starts_with(&format!("dropped stayput-web-{inode}"))));
    process::signal(upped.part("guard"), Signal::TERM);
    assert_eq!(manager.hears("ended "), "0");
    upped.note_end();
    drop(manager);
    env.assert_nothing_left(PATIENCE);
}
}

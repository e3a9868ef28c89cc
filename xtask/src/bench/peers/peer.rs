//! Those who keep a server running, each started and told to restart in its own words, around the one server of this bench.

use std::cell::{Cell, RefCell};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output};
use std::time::Duration;

use rustix::process::Signal;
use stayput_testkit::env::TestEnv;
use stayput_testkit::{assets, process, wait};

use super::super::contestant::{self, bench_program, quoted, spawn};
use super::install::Tools;

/// Longer than anything here takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Stayput,
    Script,
    Supervisord,
    SupervisordFcgi,
    Circus,
    GunicornHup,
    GunicornUsr2,
    Uvicorn,
    Pm2Fork,
    Pm2Cluster,
    Runit,
    S6,
    ServerStarter,
    Systemfd,
    Horust,
    Servicrab,
}

/// Who was looked for, and cannot take part, and why.
pub(super) const ABSENT: [(&str, &str); 8] = [
    ("honcho 2.0.0, foreman", "no restart: when one process ends, all are ended"),
    (
        "systemd-socket-activate",
        "it becomes the program at the first connection: nothing is left that could restart it, and the socket goes with the process",
    ),
    ("systemd .socket units", "systemd is not the first process here"),
    ("einhorn, multibinder", "Ruby gems; neither Debian, PyPI, npm nor crates.io has them"),
    ("process-compose, overmind, ochinchina/supervisord", "Go programs that Debian, PyPI, npm and crates.io do not have"),
    ("socketmaster, tableflip, ecdysis", "libraries or sources for other languages: the server would have to be rewritten"),
    ("dinit, zinit, immortal", "not packaged for this Debian"),
    ("puma, unicorn", "servers for Ruby programs: another server than this bench's"),
];

impl Peer {
    pub(super) const ALL: [Self; 16] = [
        Self::Stayput,
        Self::Script,
        Self::Supervisord,
        Self::SupervisordFcgi,
        Self::Circus,
        Self::GunicornHup,
        Self::GunicornUsr2,
        Self::Uvicorn,
        Self::Pm2Fork,
        Self::Pm2Cluster,
        Self::Runit,
        Self::S6,
        Self::ServerStarter,
        Self::Systemfd,
        Self::Horust,
        Self::Servicrab,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Stayput => "stayput",
            Self::Script => "shell loop",
            Self::Supervisord => "supervisord 4.3.0 [program]",
            Self::SupervisordFcgi => "supervisord 4.3.0 [fcgi-program]",
            Self::Circus => "circus 0.19.0 sockets",
            Self::GunicornHup => "gunicorn 27.0.1 HUP",
            Self::GunicornUsr2 => "gunicorn 27.0.1 USR2",
            Self::Uvicorn => "uvicorn 0.54.0, 2 workers",
            Self::Pm2Fork => "pm2 7.0.4 restart",
            Self::Pm2Cluster => "pm2 7.0.4 cluster reload",
            Self::Runit => "runit 2.1.2",
            Self::S6 => "s6-supervise 2.11",
            Self::ServerStarter => "Server::Starter 0.35",
            Self::Systemfd => "systemfd 0.4.6 + shell loop",
            Self::Horust => "Horust 0.1.14",
            Self::Servicrab => "servicrab 1.0.0",
        }
    }

    /// What has to be installed for it.
    pub(super) fn needs(self) -> Option<&'static str> {
        match self {
            Self::Pm2Fork | Self::Pm2Cluster => Some("pm2"),
            Self::Runit => Some("runit"),
            Self::S6 => Some("s6"),
            Self::ServerStarter => Some("libserver-starter-perl"),
            Self::Systemfd => Some("systemfd"),
            Self::Horust => Some("horust"),
            Self::Servicrab => Some("servicrab"),
            _ => None,
        }
    }

    /// The order to restart, as its user would give it.
    pub(super) fn order(self) -> &'static str {
        match self {
            Self::Stayput => "stayput restart web",
            Self::Script | Self::Systemfd => "kill -TERM of the server",
            Self::Supervisord => "supervisorctl restart web",
            Self::SupervisordFcgi => "supervisorctl restart web:*",
            Self::Circus => "circusctl restart web --waiting",
            Self::GunicornHup => "kill -HUP of the master",
            Self::GunicornUsr2 => "kill -USR2, wait for the new master, kill -QUIT the old",
            Self::Uvicorn => "kill -HUP of the parent",
            Self::Pm2Fork => "pm2 restart web",
            Self::Pm2Cluster => "pm2 reload web",
            Self::Runit => "sv restart web",
            Self::S6 => "s6-svc -r web",
            Self::ServerStarter => "kill -HUP of start_server",
            Self::Horust => "kill -TERM of the server (it has no restart)",
            Self::Servicrab => "servicrab restart web",
        }
    }

    /// Starts it around the server on `port`.
    pub(super) fn start<'env>(self, env: &'env TestEnv, tools: &'env Tools, port: u16) -> Result<Rig<'env>, String> {
        let rig = Rig { peer: self, env, tools, port, child: RefCell::new(None), master: Cell::new(0), daemon: RefCell::new(None) };
        rig.launch()?;
        Ok(rig)
    }
}

/// A server under a peer.
pub(super) struct Rig<'env> {
    pub(super) peer: Peer,
    env: &'env TestEnv,
    tools: &'env Tools,
    port: u16,
    /// What was started and stays in the foreground.
    child: RefCell<Option<Child>>,
    /// gunicorn's master changes with USR2.
    master: Cell<u32>,
    /// Where a daemon that put itself into the background says its pid.
    daemon: RefCell<Option<PathBuf>>,
}

impl Rig<'_> {
    /// Starts the supervisor; also a second time, after it was killed.
    pub(super) fn launch(&self) -> Result<(), String> {
        let (env, tools, port) = (self.env, self.tools, self.port);
        let python = assets::dir().join("venv/bin/python").display().to_string();
        let server = |more: &[&str]| -> Vec<String> {
            let mut words = vec![python.clone(), tools.path("programs/peer_server.py"), "--port".to_owned(), port.to_string()];
            words.extend(["--starts".to_owned(), self.starts_file().display().to_string()]);
            words.extend(more.iter().map(|word| (*word).to_owned()));
            words
        };
        let bare = server(&[]);
        let child = match self.peer {
            Peer::Stayput => {
                let words = ["run", "--name", "web", "--soak", "200ms", "--"].map(str::to_owned).into_iter().chain(bare);
                self.foreground(env.command(words))?
            }
            Peer::Script => contestant::script(env, &bare)?.0,
            Peer::Supervisord => contestant::supervisord(env, "[program:web]", &bare.join(" "))?.0,
            Peer::SupervisordFcgi => {
                let section = format!("[fcgi-program:web]\nsocket=tcp://127.0.0.1:{port}");
                contestant::supervisord(env, &section, &server(&["--fd", "0"]).join(" "))?.0
            }
            Peer::Circus => contestant::circus(env, port, &quoted(&server(&["--fd", "$(circus.sockets.web)"])))?.0,
            Peer::GunicornHup | Peer::GunicornUsr2 => {
                let gunicorn = assets::dir().join("venv/bin/gunicorn").display().to_string();
                let (bind, place) = (format!("127.0.0.1:{port}"), tools.path("programs"));
                let words = ["--workers", "2", "--bind", &bind, "--chdir", &place, "peer_app:wsgi"];
                self.foreground(env.as_user(gunicorn.as_ref(), words))?
            }
            Peer::Uvicorn => {
                let uvicorn = assets::dir().join("venv/bin/uvicorn").display().to_string();
                let (number, place) = (port.to_string(), tools.path("programs"));
                let words = ["--workers", "2", "--port", &number, "--log-level", "warning", "--app-dir", &place, "peer_app:asgi"];
                self.foreground(env.as_user(uvicorn.as_ref(), words))?
            }
            Peer::Pm2Fork | Peer::Pm2Cluster => return self.pm2_start(&python),
            Peer::Runit => {
                let place = self.service_directory("sv/web", &bare)?;
                self.foreground(env.as_user(tools.path("root/usr/bin/runsv").as_ref(), [place]))?
            }
            Peer::S6 => {
                let place = self.service_directory("scan/web", &bare)?;
                // Not by s6-svscan, which has the place of s6-supervise built in.
                let mut command = env.as_user(tools.path("root/usr/bin/s6-supervise").as_ref(), [place]);
                command.env("LD_LIBRARY_PATH", tools.libraries());
                self.foreground(command)?
            }
            Peer::ServerStarter => {
                let listen = format!("127.0.0.1:{port}");
                let starter = tools.path("root/usr/bin/start_server");
                let words = ["--port", &listen, "--"].map(str::to_owned).into_iter().chain(bare);
                let mut command = env.as_user("/usr/bin/perl".as_ref(), [starter].into_iter().chain(words));
                command.env("PERL5LIB", tools.path("root/usr/share/perl5"));
                self.foreground(command)?
            }
            Peer::Systemfd => {
                let pid_file = env.file("server.pid", "");
                let text = format!("#!/bin/sh\nwhile :; do\n{} &\necho $! > {}\nwait $!\ndone\n", bare.join(" "), pid_file.display());
                let script = self.script("loop.sh", &text)?;
                let socket = format!("tcp::127.0.0.1:{port}");
                self.foreground(env.as_user(tools.path("cargo/bin/systemfd").as_ref(), ["--no-pid", "-q", "-s", &socket, "--", &script]))?
            }
            Peer::Horust => {
                let text = format!(
                    "command = \"{}\"\n[restart]\nstrategy = \"always\"\nbackoff = \"0s\"\n[environment]\nkeep-env = true\n",
                    bare.join(" ")
                );
                let file = env.file("web.toml", &text).display().to_string();
                let sockets = env.path("scratch").display().to_string();
                let words = ["--services-path", &file, "--uds-folder-path", &sockets];
                self.foreground(env.as_user(tools.path("cargo/bin/horust").as_ref(), words))?
            }
            Peer::Servicrab => {
                let config = self.servicrab_config(&bare);
                self.foreground(env.as_user(tools.path("cargo/bin/servicrab").as_ref(), ["daemon", "--config", &config]))?
            }
        };
        self.master.set(child.id());
        // A child that was there before is the one that was killed.
        if let Some(mut killed) = self.child.replace(Some(child)) {
            let _ = killed.wait();
        }
        Ok(())
    }

    fn foreground(&self, mut command: Command) -> Result<Child, String> {
        command.env("PEER_STARTS", self.starts_file());
        spawn(command)
    }

    /// One line per start of the server.
    fn starts_file(&self) -> PathBuf {
        let path = self.env.path("scratch").join("starts");
        if path.exists() { path } else { self.env.file("starts", "") }
    }

    /// How often the server was started so far.
    pub(super) fn starts(&self) -> usize {
        std::fs::read_to_string(self.starts_file()).unwrap_or_default().lines().count()
    }

    fn script(&self, name: &str, text: &str) -> Result<String, String> {
        let path = self.env.file(name, text);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).map_err(|error| error.to_string())?;
        Ok(path.display().to_string())
    }

    /// As runit and s6 want it: a directory with a `run`.
    fn service_directory(&self, name: &str, server: &[String]) -> Result<String, String> {
        let dir = self.env.path("scratch").join(name);
        let made = self.env.as_user("mkdir".as_ref(), ["-p", &dir.display().to_string()]).status();
        made.map_err(|error| error.to_string())?;
        let text = format!("#!/bin/sh\nexec {}\n", server.join(" "));
        self.script(&format!("{name}/run"), &text)?;
        Ok(dir.display().to_string())
    }

    fn servicrab_config(&self, server: &[String]) -> String {
        let words: Vec<String> = server.iter().map(|word| format!("{word:?}")).collect();
        let text = format!(
            "version = 1\n[project]\nname = \"web\"\n[services.web]\ncommand = [{}]\nrestart = \"always\"\nrestart_delay = \"100ms\"\nmax_restarts = 1000\n",
            words.join(", ")
        );
        self.env.file("servicrab.toml", &text).display().to_string()
    }

    fn pm2(&self, words: &[&str]) -> Result<Output, String> {
        let home = self.env.path("scratch").join("pm2");
        let program = self.tools.path("npm/node_modules/pm2/bin/pm2");
        let node = assets::find_program("node").ok_or("node is not installed")?;
        let mut command = self.env.as_user(&node, [program.as_str()].into_iter().chain(words.iter().copied()));
        command.env("PM2_HOME", &home).env("PEER_STARTS", self.starts_file()).env("PEER_PORT", self.port.to_string());
        let output = command.output().map_err(|error| error.to_string())?;
        if output.status.success() { Ok(output) } else { Err(format!("pm2 {words:?}: {}", String::from_utf8_lossy(&output.stderr).trim())) }
    }

    fn pm2_start(&self, python: &str) -> Result<(), String> {
        let (port, starts) = (self.port.to_string(), self.starts_file().display().to_string());
        self.daemon.replace(Some(self.env.path("scratch").join("pm2/pm2.pid")));
        if self.peer == Peer::Pm2Fork {
            let server = self.tools.path("programs/peer_server.py");
            self.pm2(&["start", &server, "--interpreter", python, "--name", "web", "--", "--port", &port, "--starts", &starts])?;
        } else {
            let text = format!(
                "{{\"apps\": [{{\"name\": \"web\", \"script\": \"{}\", \"exec_mode\": \"cluster\", \"instances\": 2, \"wait_ready\": true, \"listen_timeout\": 5000}}]}}",
                self.tools.path("programs/peer_server.js")
            );
            let file = self.env.file("web.json", &text).display().to_string();
            self.pm2(&["start", &file])?;
        }
        Ok(())
    }

    /// The process that supervises.
    pub(super) fn supervisor(&self) -> Result<u32, String> {
        if let Some(file) = self.daemon.borrow().as_ref() {
            let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
            return text.trim().parse().map_err(|_| format!("no pid in {text:?}"));
        }
        if self.peer == Peer::GunicornUsr2 {
            return Ok(self.master.get());
        }
        self.child.borrow().as_ref().map(Child::id).ok_or_else(|| "nothing was started".to_owned())
    }

    /// What it ended with, if it has ended.
    pub(super) fn ended(&self) -> Option<String> {
        let mut child = self.child.borrow_mut();
        child.as_mut()?.try_wait().ok().flatten().map(|status| status.to_string())
    }

    /// Gives the order, and returns when the peer says that it is done (or at once, if it does not say).
    pub(super) fn restart(&self, worker: u32) -> Result<(), String> {
        let told = |command: Command| self.told(command);
        let to_supervisor = |signal| {
            let pid = self.supervisor()?;
            if process::signal(pid, signal) { Ok(()) } else { Err(format!("the supervisor (pid {pid}) is gone")) }
        };
        match self.peer {
            Peer::Stayput => told(self.env.command(["restart", "web"])),
            Peer::Script | Peer::Systemfd | Peer::Horust => {
                process::signal(worker, Signal::TERM);
                wait::until_true("the end of the server", PATIENCE, || !process::is_alive(worker))
            }
            Peer::Supervisord | Peer::SupervisordFcgi => {
                let config = self.env.path("scratch").join("supervisord.conf").display().to_string();
                let what = if self.peer == Peer::Supervisord { "web" } else { "web:*" };
                told(self.env.as_user(bench_program("supervisorctl").as_ref(), ["-c", &config, "restart", what]))
            }
            Peer::Circus => {
                let endpoint = format!("ipc://{}/circus.sock", self.env.path("scratch").display());
                let words = ["--endpoint", &endpoint, "--timeout", "30", "restart", "web", "--waiting"];
                told(self.env.as_user(bench_program("circusctl").as_ref(), words))
            }
            Peer::GunicornHup | Peer::Uvicorn | Peer::ServerStarter => to_supervisor(Signal::HUP),
            Peer::GunicornUsr2 => self.usr2(),
            Peer::Pm2Fork => self.pm2(&["restart", "web"]).map(drop),
            Peer::Pm2Cluster => self.pm2(&["reload", "web"]).map(drop),
            Peer::Runit => {
                let place = self.env.path("scratch").join("sv/web").display().to_string();
                told(self.env.as_user(self.tools.path("root/usr/bin/sv").as_ref(), ["-w", "20", "restart", &place]))
            }
            Peer::S6 => {
                let place = self.env.path("scratch").join("scan/web").display().to_string();
                let mut command = self.env.as_user(self.tools.path("root/usr/bin/s6-svc").as_ref(), ["-r", &place]);
                command
                    .env("PATH", format!("{}:/usr/bin:/bin", self.tools.path("root/usr/bin")))
                    .env("LD_LIBRARY_PATH", self.tools.libraries());
                told(command)
            }
            Peer::Servicrab => {
                let config = self.env.path("scratch").join("servicrab.toml").display().to_string();
                told(self.env.as_user(self.tools.path("cargo/bin/servicrab").as_ref(), ["restart", "--config", &config, "web"]))
            }
        }
    }

    fn told(&self, mut command: Command) -> Result<(), String> {
        let output = command.output().map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let text = format!("{}{}", out.trim(), err.trim());
        Err(format!("{}: {}", self.peer.order(), text.lines().last().unwrap_or("it said nothing")))
    }

    /// The new master is a child of the old one; when its workers answer, the old one may go.
    fn usr2(&self) -> Result<(), String> {
        let old = self.master.get();
        let before = process::children(old);
        if !process::signal(old, Signal::USR2) {
            return Err("the master is gone".to_owned());
        }
        let new = wait::until("the new master", PATIENCE, || {
            let new = process::children(old).into_iter().find(|pid| !before.contains(pid)).ok_or("none")?;
            if process::children(new).len() >= 2 { Ok(new) } else { Err("without workers".to_owned()) }
        })?;
        // Its workers import for half a second; gunicorn does not say when they are done, so its manual has a person look.
        std::thread::sleep(Duration::from_secs(1));
        process::signal(old, Signal::QUIT);
        self.master.set(new);
        wait::until_true("the end of the old master", PATIENCE, || !process::is_alive(old))?;
        // The new one looks once a second whether its parent is gone; until then it ignores a further USR2.
        std::thread::sleep(Duration::from_millis(1500));
        Ok(())
    }

    /// Ends it as its user would, and gives what is left behind 5 s later.
    pub(super) fn stop(&self) -> Vec<String> {
        if self.daemon.borrow().is_some() {
            let _ = self.pm2(&["kill"]);
        } else if self.peer == Peer::Stayput {
            // Who stands for the instance may be another process than the one that was started.
            let _ = self.told(self.env.command(["stop", "web"]));
        } else if let Ok(pid) = self.supervisor() {
            // The manuals' ways to end it: runsv and s6-supervise take TERM as "and your service too".
            process::signal(pid, Signal::TERM);
        }
        let gone = || self.reap() && self.env.left().is_empty();
        let _ = wait::until_true("its end", Duration::from_secs(5), gone);
        // The names of programs and files, without the places of this checkout.
        let short = |command: &str| command.split(' ').map(|word| word.rsplit('/').next().unwrap_or(word)).collect::<Vec<_>>().join(" ");
        self.env.left().iter().map(|each| short(&each.command).chars().take(80).collect()).collect()
    }

    /// Takes the exit status of the child, so that it is no zombie.
    fn reap(&self) -> bool {
        self.ended();
        true
    }
}

impl Drop for Rig<'_> {
    fn drop(&mut self) {
        self.env.kill_left();
        if let Some(mut child) = self.child.borrow_mut().take() {
            let _ = child.wait();
        }
    }
}

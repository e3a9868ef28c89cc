//! Those who restart a server: stayput, a shell loop, supervisord and circus. Each is started in its own way, told to restart in its own words, and
//! measured from outside by the same load.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use stayput_testkit::env::{Running, TestEnv};
use stayput_testkit::server::Server;
use stayput_testkit::{assets, process, wait};

/// Longer than any restart here takes.
const PATIENCE: Duration = Duration::from_mins(1);

/// Who restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Contestant {
    Stayput,
    Script,
    Supervisord,
    SupervisordFcgi,
    Circus,
}

impl Contestant {
    pub(super) const ALL: [Self; 5] = [Self::Stayput, Self::Script, Self::Supervisord, Self::SupervisordFcgi, Self::Circus];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Stayput => "stayput",
            Self::Script => "stop-start script",
            Self::Supervisord => "supervisord [program]",
            Self::SupervisordFcgi => "supervisord [fcgi-program]",
            Self::Circus => "circus sockets",
        }
    }

    /// The server's command line when it is handed a listening socket as this descriptor; None: it cannot take one without a change of its code.
    fn with_descriptor(env: &TestEnv, server: Server, port: u16, descriptor: &str) -> Option<Vec<String>> {
        let mut words = env.server(server, port);
        match server {
            Server::Gunicorn => {
                let bind = words.iter().position(|word| word == "--bind")? + 1;
                words[bind] = format!("fd://{descriptor}");
                Some(words)
            }
            // Werkzeug reads the descriptor only when it believes to be its reloader's child.
            Server::FlaskSocketIo => {
                let line = format!("WERKZEUG_RUN_MAIN=true WERKZEUG_SERVER_FD={descriptor} exec {}", words.join(" "));
                Some(vec!["sh".to_owned(), "-c".to_owned(), line])
            }
            Server::HttpServer | Server::Uvicorn | Server::Node | Server::Go | Server::Nginx => None,
        }
    }

    /// Starts the server under this contestant. `Ok(None)`: it cannot run this server.
    pub(super) fn start<'env>(self, env: &'env TestEnv, server: Server, port: u16, drain: &str) -> Result<Option<Rig<'env>>, String> {
        let bare = env.server(server, port);
        let kind = match self {
            Self::Stayput => Kind::Stayput(env.run("web", &["--soak", "200ms", "--drain", drain], &bare)),
            Self::Script => {
                let (child, pid_file) = script(env, &bare)?;
                Kind::Script(child, pid_file)
            }
            Self::Supervisord => Kind::daemon(supervisord(env, "[program:web]", &bare.join(" "))?),
            Self::SupervisordFcgi => {
                let Some(words) = Self::with_descriptor(env, server, port, "0") else { return Ok(None) };
                let command = quoted(&words);
                Kind::daemon(supervisord(env, &format!("[fcgi-program:web]\nsocket=tcp://127.0.0.1:{port}"), &command)?)
            }
            Self::Circus => {
                let Some(words) = Self::with_descriptor(env, server, port, "$(circus.sockets.web)") else { return Ok(None) };
                Kind::daemon(circus(env, port, &quoted(&words))?)
            }
        };
        Ok(Some(Rig { env, kind }))
    }
}

/// A server under a contestant.
pub(super) struct Rig<'env> {
    env: &'env TestEnv,
    kind: Kind<'env>,
}

enum Kind<'env> {
    Stayput(Running<'env>),
    /// The loop, and the file with the pid of the server.
    Script(Child, PathBuf),
    /// The daemon, and the command that restarts.
    Daemon(Child, Vec<String>),
}

impl Kind<'_> {
    fn daemon((child, restart): (Child, Vec<String>)) -> Self {
        Self::Daemon(child, restart)
    }
}

impl Rig<'_> {
    /// Restarts as its user would, and returns when the contestant says that it is done.
    pub(super) fn restart(&self) -> Result<(), String> {
        match &self.kind {
            Kind::Stayput(running) => {
                let restart = running.restart(&[]);
                if restart.code == Some(0) { Ok(()) } else { Err(format!("{restart:?}\n{}", running.log())) }
            }
            Kind::Script(_, pid_file) => {
                let text = std::fs::read_to_string(pid_file).map_err(|error| error.to_string())?;
                let pid = text.trim().parse().map_err(|_| format!("no pid in {text:?}"))?;
                process::signal(pid, Signal::TERM);
                wait::until_true("the end of the server", PATIENCE, || !process::is_alive(pid))
            }
            Kind::Daemon(_, words) => {
                let output = self.env.as_user(words[0].as_ref(), &words[1..]).output().map_err(|error| error.to_string())?;
                if output.status.success() { Ok(()) } else { Err(format!("{words:?}: {output:?}")) }
            }
        }
    }
}

impl Drop for Rig<'_> {
    fn drop(&mut self) {
        self.env.kill_left();
        if let Kind::Script(child, _) | Kind::Daemon(child, _) = &mut self.kind {
            let _ = child.wait();
        }
    }
}

pub(super) fn quoted(words: &[String]) -> String {
    let quote = |word: &String| if word.contains(' ') { format!("'{word}'") } else { word.clone() };
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

pub(super) fn spawn(mut command: Command) -> Result<Child, String> {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().map_err(|error| format!("cannot start {command:?}: {error}"))
}

/// What many have: a loop that starts the server again when it has ended; a restart is a TERM to the server.
pub(super) fn script(env: &TestEnv, server: &[String]) -> Result<(Child, PathBuf), String> {
    let pid_file = env.file("server.pid", "");
    let text = format!("#!/bin/sh\nwhile :; do\n{} &\necho $! > {}\nwait $!\ndone\n", server.join(" "), pid_file.display());
    let path = env.file("loop.sh", &text);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).map_err(|error| error.to_string())?;
    Ok((spawn(env.as_user(&path, [""; 0]))?, pid_file))
}

pub(super) fn bench_program(name: &str) -> String {
    assets::dir().join("venv-bench/bin").join(name).display().to_string()
}

pub(super) fn supervisord(env: &TestEnv, section: &str, command: &str) -> Result<(Child, Vec<String>), String> {
    let dir = env.path("scratch");
    let dir = dir.display();
    let text = format!(
        "[supervisord]
nodaemon=true
logfile={dir}/supervisord.log
pidfile={dir}/supervisord.pid
childlogdir={dir}
[unix_http_server]
file={dir}/supervisor.sock
[supervisorctl]
serverurl=unix://{dir}/supervisor.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
{section}
command={}
autorestart=true
startretries=100
",
        command.replace('%', "%%")
    );
    let config = env.file("supervisord.conf", &text).display().to_string();
    let child = spawn(env.as_user(bench_program("supervisord").as_ref(), ["-c", &config]))?;
    let control = bench_program("supervisorctl");
    let restart = [control.as_str(), "-c", &config, "restart", if section.contains("fcgi") { "web:*" } else { "web" }];
    Ok((child, restart.map(str::to_owned).to_vec()))
}

pub(super) fn circus(env: &TestEnv, port: u16, command: &str) -> Result<(Child, Vec<String>), String> {
    let dir = env.path("scratch");
    let dir = dir.display();
    let endpoint = format!("ipc://{dir}/circus.sock");
    let text = format!(
        "[circus]
endpoint = {endpoint}
pubsub_endpoint = ipc://{dir}/circus-events.sock
[watcher:web]
cmd = {command}
use_sockets = True
copy_env = True
[socket:web]
host = 127.0.0.1
port = {port}
"
    );
    let config = env.file("circus.ini", &text).display().to_string();
    let child = spawn(env.as_user(bench_program("circusd").as_ref(), [&config]))?;
    let control = bench_program("circusctl");
    let restart = [control.as_str(), "--endpoint", &endpoint, "--timeout", "30", "restart", "web", "--waiting"];
    Ok((child, restart.map(str::to_owned).to_vec()))
}

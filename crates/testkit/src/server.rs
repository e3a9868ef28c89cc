//! The real servers and how each is started on a port. None knows anything of stayput; each answers `GET /` with its pid, its generation and the
//! request's `n`.

use std::path::{Path, PathBuf};

use crate::assets;

/// A real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// Python's own, threaded.
    HttpServer,
    /// Flask-SocketIO in threading mode.
    FlaskSocketIo,
    /// gunicorn with two workers.
    Gunicorn,
    /// uvicorn, one process.
    Uvicorn,
    /// Node's http.
    Node,
    /// A static Go binary.
    Go,
    /// nginx with a master and one worker.
    Nginx,
}

impl Server {
    /// All of them.
    pub const ALL: [Self; 7] = [Self::HttpServer, Self::FlaskSocketIo, Self::Gunicorn, Self::Uvicorn, Self::Node, Self::Go, Self::Nginx];

    /// A name for people and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::HttpServer => "http.server",
            Self::FlaskSocketIo => "Flask-SocketIO",
            Self::Gunicorn => "gunicorn",
            Self::Uvicorn => "uvicorn",
            Self::Node => "node",
            Self::Go => "go",
            Self::Nginx => "nginx",
        }
    }

    /// The command line on 127.0.0.1:`port`. `scratch` is a directory that the server's user can write.
    ///
    /// # Panics
    /// When the servers are not set up (`cargo xtask setup`), or nginx' configuration cannot be written.
    pub fn command(self, port: u16, scratch: &Path) -> Vec<String> {
        let dir = assets::dir();
        let set_up = |path: PathBuf| {
            assert!(path.exists(), "{} is missing, so {} cannot be started: run `cargo xtask setup`", path.display(), self.name());
            path.display().to_string()
        };
        let installed = |program: &str| {
            assets::find_program(program)
                .unwrap_or_else(|| panic!("{program} is not installed: run `cargo xtask setup`"))
                .display()
                .to_string()
        };
        let source = |name: &str| set_up(dir.join("servers").join(name));
        let in_venv = |name: &str| set_up(dir.join("venv/bin").join(name));
        let number = port.to_string();
        let app_dir = dir.join("servers").display().to_string();
        let words: Vec<String> = match self {
            Self::HttpServer => vec![in_venv("python"), source("http_server.py"), "--port".into(), number],
            Self::FlaskSocketIo => vec![in_venv("python"), source("flask_socketio_app.py"), "--port".into(), number],
            Self::Gunicorn => ["--workers", "2", "--bind", &format!("127.0.0.1:{port}"), "--chdir", &app_dir, "gunicorn_app:app"]
                .iter()
                .fold(vec![in_venv("gunicorn")], push),
            Self::Uvicorn => ["--port", &number, "--log-level", "warning", "--app-dir", &app_dir, "uvicorn_app:app"]
                .iter()
                .fold(vec![in_venv("uvicorn")], push),
            Self::Node => vec![installed("node"), source("server.js"), "--port".into(), number],
            Self::Go => vec![set_up(dir.join("go-server")), "-port".into(), number],
            Self::Nginx => Self::nginx(port, scratch, NginxListen::OneWorker),
        };
        words
    }

    /// nginx' command line with its workers listening as told.
    pub(crate) fn nginx(port: u16, scratch: &Path, listen: NginxListen) -> Vec<String> {
        let program = assets::find_program("nginx").expect("nginx is not installed: run `cargo xtask setup`");
        let (prefix, config) = (scratch.display().to_string(), nginx_config(port, scratch, listen));
        ["-p", &prefix, "-e", "stderr", "-c", &config].iter().fold(vec![program.display().to_string()], push)
    }
}

/// How nginx' workers come to their sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NginxListen {
    /// One worker with the master's socket.
    OneWorker,
    /// Two workers with the master's socket.
    Inherited,
    /// Two workers with a socket each (`listen ... reuseport`).
    PerWorker,
}

fn push(mut words: Vec<String>, word: &&str) -> Vec<String> {
    words.push((*word).to_owned());
    words
}

/// As small as it gets; every path is in `scratch`, because the packaged defaults belong to root.
fn nginx_config(port: u16, scratch: &Path, listen: NginxListen) -> String {
    let (workers, option) = match listen {
        NginxListen::OneWorker => (1, ""),
        NginxListen::Inherited => (2, ""),
        NginxListen::PerWorker => (2, " reuseport"),
    };
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let dir = scratch.display();
    let temporary =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|name| format!("{name}_temp_path {dir}/nginx-{name};")).join("\n");
    let text = format!(
        "{user}
daemon off;
worker_processes {workers};
pid {dir}/nginx-{port}.pid;
events {{ worker_connections 512; }}
http {{
access_log off;
{temporary}
default_type application/json;
server {{
listen 127.0.0.1:{port}{option};
location / {{ return 200 '{{\"pid\": $pid, \"generation\": \"\", \"n\": \"$arg_n\"}}'; }}
}}
}}
"
    );
    let path = scratch.join(format!("nginx-{port}.conf"));
    std::fs::write(&path, text).expect("nginx' configuration in the scratch directory");
    path.display().to_string()
}

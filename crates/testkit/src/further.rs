//! Further real servers, each of which comes to its listening socket in its own way: by a parent that binds for its workers, by one socket per worker,
//! behind a wrapper, under a reloader. `server` has the seven on which the promises are tested in full.

use std::path::{Path, PathBuf};

use crate::assets;
use crate::server::{NginxListen, Server};

/// A real server and the way it listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Further {
    /// Flask-SocketIO on gevent: one process, one non-blocking listener.
    SocketIoGevent,
    /// Flask-SocketIO on eventlet.
    SocketIoEventlet,
    /// Flask's development server with its reloader: the parent binds, its child accepts.
    FlaskDebug,
    /// Django's development server with its reloader: the child binds.
    Django,
    /// gunicorn with threads: the parent binds, two workers accept.
    GunicornThreads,
    /// gunicorn with one `SO_REUSEPORT` socket per worker.
    GunicornReusePort,
    /// uvicorn, one process.
    Uvicorn,
    /// uvicorn with two workers: the parent binds, the workers listen.
    UvicornWorkers,
    /// Granian with two workers.
    Granian,
    /// Hypercorn.
    Hypercorn,
    /// Waitress.
    Waitress,
    /// `sh -c` and a command behind the server, so that the shell stays.
    Shell,
    /// `npm run`: npm, a shell, Node.
    Npm,
    /// Node's cluster: the primary accepts and hands connections to two workers.
    NodeCluster,
    /// Node's cluster without its scheduler: the workers accept on one shared socket.
    NodeClusterShared,
    /// Vite's development server, which listens on the wildcard addresses first, to see whether its port is free. `--strictPort`: without it the new
    /// one goes to another port when it sees the old one.
    Vite,
    /// nginx with two workers on one inherited socket.
    NginxWorkers,
    /// nginx with `listen ... reuseport`: one socket per worker.
    NginxReusePort,
    /// Redis. It answers PING, not HTTP.
    Redis,
    /// Java's NIO, started from its source file.
    JavaNio,
    /// Apache with its event workers. Its listener defers accept: a connection is nobody's until data came.
    Apache,
    /// HAProxy as master and worker: sockets with `SO_REUSEPORT`, which is its default.
    HaProxy,
    /// PHP's own server with two workers, which the main process forks after it listens.
    Php,
    /// The Erlang VM, which opens sockets in a driver of its own.
    Erlang,
    /// memcached: one thread accepts for the others. It does not speak HTTP.
    Memcached,
}

impl Further {
    /// All of them.
    pub const ALL: [Self; 25] = [
        Self::SocketIoGevent,
        Self::SocketIoEventlet,
        Self::FlaskDebug,
        Self::Django,
        Self::GunicornThreads,
        Self::GunicornReusePort,
        Self::Uvicorn,
        Self::UvicornWorkers,
        Self::Granian,
        Self::Hypercorn,
        Self::Waitress,
        Self::Shell,
        Self::Npm,
        Self::NodeCluster,
        Self::NodeClusterShared,
        Self::Vite,
        Self::NginxWorkers,
        Self::NginxReusePort,
        Self::Redis,
        Self::JavaNio,
        Self::Apache,
        Self::HaProxy,
        Self::Php,
        Self::Erlang,
        Self::Memcached,
    ];

    /// Whether it is another process than the main one that answers: a worker, a reloader's child, the server behind a wrapper.
    pub fn worker_answers(self) -> bool {
        !matches!(
            self,
            Self::SocketIoGevent
                | Self::SocketIoEventlet
                | Self::Uvicorn
                | Self::Waitress
                | Self::Vite
                | Self::Redis
                | Self::JavaNio
                | Self::Erlang
                | Self::Memcached
        )
    }

    /// A name for people and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::SocketIoGevent => "socketio-gevent",
            Self::SocketIoEventlet => "socketio-eventlet",
            Self::FlaskDebug => "flask-debug",
            Self::Django => "django",
            Self::GunicornThreads => "gunicorn-gthread",
            Self::GunicornReusePort => "gunicorn-reuse-port",
            Self::Uvicorn => "uvicorn",
            Self::UvicornWorkers => "uvicorn-workers",
            Self::Granian => "granian",
            Self::Hypercorn => "hypercorn",
            Self::Waitress => "waitress",
            Self::Shell => "sh",
            Self::Npm => "npm",
            Self::NodeCluster => "node-cluster",
            Self::NodeClusterShared => "node-cluster-shared",
            Self::Vite => "vite",
            Self::NginxWorkers => "nginx-workers",
            Self::NginxReusePort => "nginx-reuseport",
            Self::Redis => "redis",
            Self::JavaNio => "java-nio",
            Self::Apache => "apache",
            Self::HaProxy => "haproxy",
            Self::Php => "php",
            Self::Erlang => "erlang",
            Self::Memcached => "memcached",
        }
    }

    /// The command line on 127.0.0.1:`port`. `scratch` is a directory that the server's user can write.
    ///
    /// # Panics
    /// When the servers are not set up (`cargo xtask setup`), or a configuration cannot be written.
    pub fn command(self, port: u16, scratch: &Path) -> Vec<String> {
        let at = Place { server: self, port: port.to_string(), address: format!("127.0.0.1:{port}"), scratch };
        match self {
            Self::NginxWorkers => Server::nginx(port, scratch, NginxListen::Inherited),
            Self::NginxReusePort => Server::nginx(port, scratch, NginxListen::PerWorker),
            Self::Uvicorn => Server::Uvicorn.command(port, scratch),
            Self::Shell => words(&["sh", "-c", &format!("{}; true", Server::Node.command(port, scratch).join(" "))]),
            Self::Npm | Self::Vite | Self::NodeCluster | Self::NodeClusterShared => at.node(),
            Self::Redis | Self::JavaNio | Self::Memcached | Self::Erlang | Self::Php => at.other(),
            Self::HaProxy => at.haproxy(),
            Self::Apache => at.apache(),
            _ => at.python(),
        }
    }
}

/// What Debian builds apart.
const APACHE_MODULES: [&str; 3] = ["mpm_event", "authz_core", "lua"];

/// Where a server is to run.
struct Place<'a> {
    server: Further,
    port: String,
    address: String,
    scratch: &'a Path,
}

impl Place<'_> {
    fn set_up(&self, path: &Path) -> String {
        assert!(path.exists(), "{} is missing, so {} cannot be started: run `cargo xtask setup`", path.display(), self.server.name());
        path.display().to_string()
    }

    fn source(&self, name: &str) -> String {
        self.set_up(&assets::dir().join("servers").join(name))
    }

    fn in_venv(&self, name: &str) -> String {
        self.set_up(&assets::dir().join("venv/bin").join(name))
    }

    fn python(&self) -> Vec<String> {
        let (port, address) = (self.port.as_str(), self.address.as_str());
        let apps = assets::dir().join("servers").display().to_string();
        // Not every server can be told where its application is.
        let path = format!("PYTHONPATH={apps}");
        let gunicorn = |options: &[&str]| {
            let program = self.in_venv("gunicorn");
            let fixed = ["--workers", "2", "--bind", address, "--chdir", &apps, "gunicorn_app:app"];
            words(&[&[program.as_str()], options, &fixed].concat())
        };
        let green =
            |mode: &str| words(&[&self.in_venv("python"), &self.source("flask_socketio_green_app.py"), "--mode", mode, "--port", port]);
        match self.server {
            Further::SocketIoGevent => green("gevent"),
            Further::SocketIoEventlet => green("eventlet"),
            Further::FlaskDebug => words(&[&self.in_venv("python"), &self.source("flask_debug_app.py"), "--port", port]),
            Further::Django => words(&[&self.in_venv("python"), &self.source("django_app.py"), "runserver", address]),
            Further::GunicornThreads => gunicorn(&["--worker-class", "gthread", "--threads", "4"]),
            Further::GunicornReusePort => gunicorn(&["--reuse-port"]),
            Further::UvicornWorkers => {
                let uvicorn = self.in_venv("uvicorn");
                words(&[&uvicorn, "--workers", "2", "--port", port, "--log-level", "warning", "--app-dir", &apps, "uvicorn_app:app"])
            }
            Further::Granian => {
                let granian = self.in_venv("granian");
                words(&[
                    &granian,
                    "--interface",
                    "asgi",
                    "--workers",
                    "2",
                    "--host",
                    "127.0.0.1",
                    "--port",
                    port,
                    "--working-dir",
                    &apps,
                    "uvicorn_app:app",
                ])
            }
            Further::Hypercorn => words(&["env", &path, &self.in_venv("hypercorn"), "--bind", address, "uvicorn_app:app"]),
            _ => words(&["env", &path, &self.in_venv("waitress-serve"), "--listen", address, "gunicorn_app:app"]),
        }
    }

    fn node(&self) -> Vec<String> {
        let port = self.port.as_str();
        let cluster = || [self.installed("node"), self.source("cluster.js"), "--port".to_owned(), port.to_owned()];
        match self.server {
            Further::Npm => {
                let package = PathBuf::from(self.source("package.json"));
                let dir = package.parent().unwrap_or(&package).display().to_string();
                // It would ask its registry for a newer npm.
                let quiet = ["--update-notifier=false", "--prefix"];
                words(&[&self.installed("npm"), quiet[0], quiet[1], &dir, "run", "serve", "--", "--port", port])
            }
            Further::Vite => {
                let (vite, config) = (self.source("node_modules/vite/bin/vite.js"), self.source("vite.config.mjs"));
                // The other loader writes beside the configuration.
                let load = ["--configLoader", "native", "--config"];
                words(&[
                    &self.installed("node"),
                    &vite,
                    load[0],
                    load[1],
                    load[2],
                    &config,
                    "--host",
                    "127.0.0.1",
                    "--port",
                    port,
                    "--strictPort",
                ])
            }
            Further::NodeClusterShared => {
                ["env".to_owned(), "NODE_CLUSTER_SCHED_POLICY=none".to_owned()].into_iter().chain(cluster()).collect()
            }
            _ => cluster().to_vec(),
        }
    }

    fn other(&self) -> Vec<String> {
        let (port, dir) = (self.port.as_str(), self.scratch.display().to_string());
        match self.server {
            Further::Redis => {
                let redis = self.installed("redis-server");
                // Nothing is kept: two of them at once must not share a file.
                words(&[&redis, "--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", &dir])
            }
            Further::Memcached => {
                // It insists on a name if it is root.
                words(&[&self.installed("memcached"), "-u", "root", "-l", "127.0.0.1", "-p", port, "-U", "0"])
            }
            Further::Erlang => words(&[&self.installed("escript"), &self.source("echo.escript"), port]),
            Further::Php => {
                words(&["env", "PHP_CLI_SERVER_WORKERS=2", &self.installed("php"), "-S", &self.address, &self.source("answer.php")])
            }
            _ => words(&[&self.installed("java"), "-XX:TieredStopAtLevel=1", &self.source("NioServer.java"), "--port", port]),
        }
    }

    /// Its pid file is one per generation: an Apache that finds the file of another that lives ends, whatever port it has.
    fn apache(&self) -> Vec<String> {
        let (address, dir) = (&self.address, self.scratch.display());
        let modules = APACHE_MODULES.map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so")).join("\n");
        let script = self.source("answer.lua");
        let text = format!(
            "ServerRoot {dir}
ServerName 127.0.0.1
DefaultRuntimeDir {dir}
PidFile {dir}/apache-${{STAYPUT_GENERATION}}.pid
ErrorLog /dev/stderr
LogLevel warn
{modules}
Mutex file:{dir} default
Listen {address}
AcceptFilter http data
StartServers 2
ServerLimit 4
ThreadsPerChild 8
MaxRequestWorkers 32
LuaMapHandler ^/ {script}
"
        );
        let path = self.scratch.join(format!("apache-{}.conf", self.port));
        std::fs::write(&path, text).expect("Apache's configuration in the scratch directory");
        words(&[&self.installed("apache2"), "-DFOREGROUND", "-f", &path.display().to_string()])
    }

    fn haproxy(&self) -> Vec<String> {
        let text = format!(
            "defaults
mode http
timeout client 30s
timeout connect 5s
timeout server 30s
frontend here
bind {}
http-request return status 200 content-type application/json lf-string '{{\"pid\": %pid, \"generation\": \"\", \"n\": \"%[url_param(n)]\"}}'
",
            self.address
        );
        let path = self.scratch.join(format!("haproxy-{}.cfg", self.port));
        std::fs::write(&path, text).expect("HAProxy's configuration in the scratch directory");
        words(&[&self.installed("haproxy"), "-W", "-f", &path.display().to_string()])
    }

    fn installed(&self, program: &str) -> String {
        assets::find_program(program)
            .unwrap_or_else(|| panic!("{program} is not installed, so {} cannot be started: run `cargo xtask setup`", self.server.name()))
            .display()
            .to_string()
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

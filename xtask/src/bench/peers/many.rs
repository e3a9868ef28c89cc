//! A peer with many services at once, for what it weighs: trivial servers, each on a port of its own.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command};

use stayput_testkit::assets;
use stayput_testkit::env::TestEnv;

use super::super::contestant::{bench_program, spawn};
use super::install::Tools;
use super::peer::Peer;

/// The started peers: for those that keep one service each, one per service.
pub(super) struct Many<'env> {
    env: &'env TestEnv,
    children: Vec<Child>,
}

impl Drop for Many<'_> {
    fn drop(&mut self) {
        self.env.kill_left();
        for child in &mut self.children {
            let _ = child.wait();
        }
    }
}

impl Peer {
    /// Starts it with a trivial server on each port; `None`: it is not for that.
    pub(super) fn start_many<'env>(self, env: &'env TestEnv, tools: &Tools, ports: &[u16]) -> Result<Option<Many<'env>>, String> {
        let mut many = Many { env, children: Vec::new() };
        let words = |port: u16| env.misbehave("trivial", port);
        let dir = env.path("scratch").display().to_string();
        match self {
            Self::Stayput => {
                for port in ports {
                    let name = format!("web{port}");
                    let line = ["run", "--name", &name, "--"].map(str::to_owned).into_iter().chain(words(*port));
                    many.children.push(spawn(env.command(line))?);
                }
            }
            Self::Supervisord => {
                let mut text = format!(
                    "[supervisord]\nnodaemon=true\nlogfile={dir}/supervisord.log\npidfile={dir}/supervisord.pid\nchildlogdir={dir}\n"
                );
                for port in ports {
                    let _ = write!(text, "[program:web{port}]\ncommand={}\n", words(*port).join(" ").replace('%', "%%"));
                }
                let config = env.file("many.conf", &text).display().to_string();
                many.children.push(spawn(env.as_user(bench_program("supervisord").as_ref(), ["-c", &config]))?);
            }
            Self::Circus => {
                let mut text = format!("[circus]\nendpoint = ipc://{dir}/circus.sock\npubsub_endpoint = ipc://{dir}/circus-events.sock\n");
                for port in ports {
                    let _ = write!(text, "[watcher:web{port}]\ncmd = {}\ncopy_env = True\n", words(*port).join(" "));
                }
                let config = env.file("many.ini", &text).display().to_string();
                many.children.push(spawn(env.as_user(bench_program("circusd").as_ref(), [&config]))?);
            }
            Self::Pm2Fork => {
                let apps: Vec<String> = ports.iter().map(|port| app(&words(*port), *port)).collect();
                let file = env.file("many.json", &format!("{{\"apps\": [{}]}}", apps.join(","))).display().to_string();
                let node = assets::find_program("node").ok_or("node is not installed")?;
                let mut command = env.as_user(&node, [tools.path("npm/node_modules/pm2/bin/pm2"), "start".to_owned(), file]);
                command.env("PM2_HOME", env.path("scratch").join("pm2"));
                finished(command)?;
            }
            Self::Runit | Self::S6 => {
                for port in ports {
                    let place = env.path("scratch").join(format!("scan/web{port}"));
                    finished(env.as_user("mkdir".as_ref(), ["-p", &place.display().to_string()]))?;
                    let run = env.file(&format!("scan/web{port}/run"), &format!("#!/bin/sh\nexec {}\n", words(*port).join(" ")));
                    std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o755)).map_err(|error| error.to_string())?;
                }
                if self == Self::Runit {
                    let mut command = env.as_user(tools.path("root/usr/bin/runsvdir").as_ref(), [format!("{dir}/scan")]);
                    command.env("PATH", format!("{}:/usr/bin:/bin", tools.path("root/usr/bin")));
                    many.children.push(spawn(command)?);
                } else {
                    for port in ports {
                        let place = format!("{dir}/scan/web{port}");
                        let mut command = env.as_user(tools.path("root/usr/bin/s6-supervise").as_ref(), [place]);
                        command.env("LD_LIBRARY_PATH", tools.libraries());
                        many.children.push(spawn(command)?);
                    }
                }
            }
            Self::Horust => {
                finished(env.as_user("mkdir".as_ref(), ["-p", &format!("{dir}/services")]))?;
                for port in ports {
                    let text = format!("command = \"{}\"\n[environment]\nkeep-env = true\n", words(*port).join(" "));
                    env.file(&format!("services/web{port}.toml"), &text);
                }
                let services = format!("{dir}/services");
                let line = ["--services-path", &services, "--uds-folder-path", &dir];
                many.children.push(spawn(env.as_user(tools.path("cargo/bin/horust").as_ref(), line))?);
            }
            Self::Servicrab => {
                let mut text = "version = 1\n[project]\nname = \"many\"\n".to_owned();
                for port in ports {
                    let words: Vec<String> = words(*port).iter().map(|word| format!("{word:?}")).collect();
                    let _ = write!(text, "[services.web{port}]\ncommand = [{}]\n", words.join(", "));
                }
                let config = env.file("servicrab.toml", &text).display().to_string();
                let line = ["daemon", "--config", &config];
                many.children.push(spawn(env.as_user(tools.path("cargo/bin/servicrab").as_ref(), line))?);
            }
            Self::Script
            | Self::SupervisordFcgi
            | Self::GunicornHup
            | Self::GunicornUsr2
            | Self::Uvicorn
            | Self::Pm2Cluster
            | Self::ServerStarter
            | Self::Systemfd => return Ok(None),
        }
        Ok(Some(many))
    }
}

fn app(words: &[String], port: u16) -> String {
    let arguments: Vec<String> = words.iter().skip(1).map(|word| format!("{word:?}")).collect();
    let program = words.first().map_or("", String::as_str);
    format!("{{\"name\": \"web{port}\", \"script\": {program:?}, \"interpreter\": \"none\", \"args\": [{}]}}", arguments.join(","))
}

fn finished(mut command: Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())) }
}

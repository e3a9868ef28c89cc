//! The start of as many services under those who can be had, and what they weigh then: supervisord, circus, runit and pm2.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use stayput_testkit::env::TestEnv;
use stayput_testkit::{assets, process};

use super::super::contestant::{bench_program, spawn};
use super::super::peers::Tools;
use super::Bench;
use super::trials::Roll;

/// pm2 starts one after the other, each in half a second or so: a hundred tell enough.
const OF_PM2: usize = 100;

/// One supervisor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Other {
    pub(super) name: String,
    pub(super) services: usize,
    pub(super) start_ms: f64,
    /// Of its own processes, services not counted.
    pub(super) pss_kib: u64,
    /// Of the same, over 10 s in which nothing happens.
    pub(super) wake_ups: u64,
}

/// Each of them, and who is not there and why.
pub(super) fn measure(bench: &Bench, tools: &Tools) -> (Vec<Other>, Vec<(String, String)>) {
    let (mut others, mut absent) = (Vec::new(), Vec::new());
    for name in ["supervisord", "circus", "runit", "pm2"] {
        if let Some(why) = tools.missing.get(name) {
            absent.push((name.to_owned(), why.clone()));
            continue;
        }
        match one(bench, tools, name) {
            Ok(other) => {
                println!("{other:?}");
                others.push(other);
            }
            Err(why) => absent.push((name.to_owned(), why)),
        }
    }
    (others, absent)
}

fn one(bench: &Bench, tools: &Tools, name: &str) -> Result<Other, String> {
    let env = bench.env();
    let services = if name == "pm2" { OF_PM2.min(bench.options.services) } else { bench.options.services };
    let mut roll = Roll::new(&env)?;
    let command = prepare(&env, tools, name, services, &roll.line())?;
    let begin = Instant::now();
    let mut child = spawn(command)?;
    let all = roll.wait(services);
    let start_ms = begin.elapsed().as_secs_f64() * 1e3;
    // It has other things to do for a while after a start.
    std::thread::sleep(Duration::from_secs(5));
    let own: Vec<u32> = env.left().into_iter().filter(|one| !one.command.starts_with("sleep ")).map(|one| one.pid).collect();
    let pss_kib = own.iter().filter_map(|pid| process::pss_kib(*pid)).sum();
    let woken = || own.iter().filter_map(|pid| process::wake_ups(*pid)).sum::<u64>();
    let before = woken();
    std::thread::sleep(Duration::from_secs(10));
    let wake_ups = woken().saturating_sub(before);
    env.kill_left();
    let _ = child.wait();
    all.map(|()| Other { name: name.to_owned(), services, start_ms, pss_kib, wake_ups })
}

/// Its configuration of so many services, and the command that starts them.
fn prepare(env: &TestEnv, tools: &Tools, name: &str, services: usize, line: &str) -> Result<Command, String> {
    let dir = env.path("scratch").display().to_string();
    let mut text = String::new();
    // Writing into a String cannot fail.
    match name {
        "supervisord" => {
            let _ = write!(
                text,
                "[supervisord]\nnodaemon=true\nlogfile={dir}/supervisord.log\npidfile={dir}/supervisord.pid\nchildlogdir={dir}\nminfds=8192\n"
            );
            for number in 0..services {
                let _ = write!(text, "[program:s{number}]\ncommand=/bin/sh -c \"{line}\"\n");
            }
            let config = env.file("many.conf", &text).display().to_string();
            Ok(env.as_user(bench_program("supervisord").as_ref(), ["-c", &config]))
        }
        "circus" => {
            let _ = write!(text, "[circus]\nendpoint = ipc://{dir}/circus.sock\npubsub_endpoint = ipc://{dir}/circus-events.sock\n");
            for number in 0..services {
                let _ = write!(text, "[watcher:s{number}]\ncmd = /bin/sh -c \"{line}\"\ncopy_env = True\n");
            }
            let config = env.file("many.ini", &text).display().to_string();
            Ok(env.as_user(bench_program("circusd").as_ref(), [&config]))
        }
        "runit" => {
            for number in 0..services {
                let place = env.path("scratch").join(format!("scan/s{number}"));
                let made = env.as_user("mkdir".as_ref(), ["-p", &place.display().to_string()]).status();
                made.map_err(|error| error.to_string())?;
                let run = env.file(&format!("scan/s{number}/run"), &format!("#!/bin/sh\n{line}\n"));
                std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o755)).map_err(|error| error.to_string())?;
            }
            let mut command = env.as_user(tools.path("root/usr/bin/runsvdir").as_ref(), [format!("{dir}/scan")]);
            command.env("PATH", format!("{}:/usr/bin:/bin", tools.path("root/usr/bin")));
            Ok(command)
        }
        _ => {
            let script = env.file("one.sh", &format!("#!/bin/sh\n{line}\n")).display().to_string();
            let app = |number: usize| format!("{{\"name\": \"s{number}\", \"script\": \"{script}\", \"interpreter\": \"/bin/sh\"}}");
            let apps: Vec<String> = (0..services).map(app).collect();
            let file = env.file("many.json", &format!("{{\"apps\": [{}]}}", apps.join(","))).display().to_string();
            let node = assets::find_program("node").ok_or("node is not installed")?;
            let mut command = env.as_user(&node, [tools.path("npm/node_modules/pm2/bin/pm2"), "start".to_owned(), file]);
            command.env("PM2_HOME", env.path("scratch").join("pm2"));
            Ok(command)
        }
    }
}

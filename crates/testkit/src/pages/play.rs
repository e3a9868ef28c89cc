//! Playing a page: its files and commands one after the other, as somebody at a shell would, in a [`TestEnv`] of its own.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::{Block, Mark, PORTS, blocks, renumbered, shows};
use crate::env::TestEnv;
use crate::{assets, wait};

/// Longer than any command of a page takes on a machine that plays all pages at once.
const PATIENCE: Duration = Duration::from_mins(2);

/// A block that runs beside the others, as in a second terminal.
struct Terminal {
    line: usize,
    child: Child,
    output: PathBuf,
}

/// One page on its way.
struct Play<'env> {
    env: &'env TestEnv,
    /// Ports as they stand in the page, and those that stand in for them here.
    ports: Vec<(u16, u16)>,
    path: std::ffi::OsString,
    terminals: Vec<Terminal>,
    /// What the last block wrote.
    said: String,
}

/// Plays the page. Gives how many blocks were run.
///
/// # Errors
/// The first block that did not do what it says: its line, and all that is known.
pub fn play(page: &str, env: &TestEnv) -> Result<usize, String> {
    let blocks = blocks(page)?;
    let text: String = blocks.iter().map(|block| block.text.as_str()).collect();
    let is_used = |port: &&u16| text.contains(&port.to_string()) || blocks.iter().any(|block| block.mark == Mark::Serve(**port));
    let ports = PORTS.iter().filter(is_used).map(|port| (*port, env.port())).collect();
    let mut play = Play { env, ports, path: path(env)?, terminals: Vec::new(), said: String::new() };
    let mut count = 0;
    for block in &blocks {
        let text = renumbered(&block.text, &play.ports);
        count += usize::from(matches!(block.mark, Mark::Run(_) | Mark::Serve(_)));
        play.block(block, &text).map_err(|why| format!("line {}: {why}{}", block.line, play.others()))?;
    }
    play.end()?;
    Ok(count)
}

/// The programs under test first, then those that set-up installed.
fn path(env: &TestEnv) -> Result<std::ffi::OsString, String> {
    let bin = env.path("bin");
    let stayput = PathBuf::from(env.command([""; 0]).get_program());
    std::fs::create_dir(&bin).and_then(|()| std::os::unix::fs::symlink(stayput, bin.join("stayput"))).map_err(|error| error.to_string())?;
    let own = std::env::var_os("PATH").unwrap_or_default();
    let after = ["/usr/sbin".into(), "/sbin".into()];
    let all = [bin, assets::dir().join("venv/bin")].into_iter().chain(std::env::split_paths(&own)).chain(after);
    std::env::join_paths(all).map_err(|error| error.to_string())
}

impl Play<'_> {
    fn block(&mut self, block: &Block, text: &str) -> Result<(), String> {
        match &block.mark {
            Mark::File(name) => {
                self.env.file(name, text);
                Ok(())
            }
            Mark::Output => shows(&self.said, text).map_err(|why| format!("{why}\n--- the output\n{}", self.said)),
            Mark::NotRun(_) => Ok(()),
            Mark::Run(status) => self.run(block.line, text, *status),
            Mark::Serve(port) => self.serve(block.line, text, *port),
        }
    }

    fn shell(&self, line: usize, text: &str) -> Result<(Command, PathBuf), String> {
        let output = self.env.path(&format!("block-{line}.txt"));
        let file = std::fs::File::create(&output).map_err(|error| error.to_string())?;
        let mut command = self.env.as_user(Path::new("/bin/bash"), ["-euo", "pipefail", "-c", text]);
        command
            .env("PATH", &self.path)
            .env("NODE_PATH", assets::dir().join("servers/node_modules"))
            .env("GOCACHE", self.env.path("home").join("go"))
            .stdout(file.try_clone().map_err(|error| error.to_string())?)
            .stderr(file)
            .process_group(0);
        Ok((command, output))
    }

    fn run(&mut self, line: usize, text: &str, expected: i32) -> Result<(), String> {
        let (mut command, output) = self.shell(line, text)?;
        let mut child = command.spawn().map_err(|error| format!("bash: {error}"))?;
        let ended = wait::until("the end of the block", PATIENCE, || {
            child.try_wait().map_err(|error| error.to_string())?.ok_or_else(|| "it runs".to_owned())
        });
        if ended.is_err() {
            interrupt(&mut child, Signal::KILL);
        }
        self.said = read(&output);
        match ended {
            Ok(status) if status.code() == Some(expected) => Ok(()),
            Ok(status) => Err(format!("{status}, not exit status {expected}, of\n{text}--- its output\n{}", self.said)),
            Err(why) => Err(format!("{why}, which is\n{text}--- its output\n{}", self.said)),
        }
    }

    fn serve(&mut self, line: usize, text: &str, port: u16) -> Result<(), String> {
        let (mut command, output) = self.shell(line, text)?;
        let child = command.spawn().map_err(|error| format!("bash: {error}"))?;
        self.terminals.push(Terminal { line, child, output: output.clone() });
        let here = self.ports.iter().find(|(from, _)| *from == port).map_or(port, |(_, to)| *to).to_string();
        // A held port takes connections before anybody accepts them: this asks for a process that does.
        let waited = self.env.cli(["wait", &here, "--accepting", "--timeout", "100s"], PATIENCE);
        if !waited.status.success() {
            return Err(format!("nobody accepts on port {port} (here {here}): {}", String::from_utf8_lossy(&waited.stderr)));
        }
        if text.contains("stayput run") || text.contains("stayput up") {
            self.settled()?;
        }
        self.said = read(&output);
        Ok(())
    }

    /// Until every service that is to be up is ready: accepting is not yet "chosen to serve".
    fn settled(&self) -> Result<(), String> {
        wait::until("services that are ready", PATIENCE, || {
            let status = self.env.status()?;
            let services = || status["services"].as_array().into_iter().flatten();
            let waits = services().any(|service| service["target"] == "up" && service["phase"] != "ready");
            if waits || services().count() == 0 { Err(status.to_string()) } else { Ok(()) }
        })
    }

    /// What the other terminals show, for a failure.
    fn others(&self) -> String {
        let one = |terminal: &Terminal| format!("\n--- the terminal of line {}\n{}", terminal.line, read(&terminal.output));
        self.terminals.iter().map(one).collect()
    }

    /// Ctrl-C in each terminal, and nothing left.
    fn end(&mut self) -> Result<(), String> {
        let shown = self.others();
        while let Some(mut terminal) = self.terminals.pop() {
            if terminal.child.try_wait().is_ok_and(|ended| ended.is_none()) {
                interrupt(&mut terminal.child, Signal::INT);
            }
            wait::until(&format!("the end of the terminal of line {}", terminal.line), PATIENCE, || {
                terminal.child.try_wait().map_err(|error| error.to_string())?.map(drop).ok_or_else(|| format!("it runs{shown}"))
            })?;
        }
        wait::until("the end of every process of the page", Duration::from_secs(10), || match self.env.left() {
            left if left.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        })
    }
}

/// As a terminal does: the whole foreground group.
fn interrupt(child: &mut Child, signal: Signal) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, signal);
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

//! One `stayput run` under test: its status as others see it, its restarts, its end.

use std::fs::File;
use std::process::{Child, ExitStatus};
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::TestEnv;
use crate::load::Plan;
use crate::{process, wait};

/// Longer than anything takes on a busy machine; a test that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// How `stayput restart` ended.
#[derive(Debug, Clone)]
pub struct Restart {
    /// Its exit status.
    pub code: Option<i32>,
    /// The ledger that it printed with `--json`; null when it printed none.
    pub ledger: Value,
    /// The last lines of the new generation's output that it quoted.
    pub last_output: String,
    /// Its stderr.
    pub stderr: String,
}

impl Restart {
    /// A field of the ledger as text, for example `outcome`.
    pub fn text(&self, field: &str) -> &str {
        self.ledger[field].as_str().unwrap_or_default()
    }
}

/// A `stayput run` that was started; killed with all its processes when dropped.
#[derive(Debug)]
pub struct Running<'env> {
    env: &'env TestEnv,
    child: Child,
    name: String,
    ended: Option<ExitStatus>,
}

impl<'env> Running<'env> {
    pub(super) fn start(env: &'env TestEnv, name: &str, options: &[&str], command: &[String]) -> Self {
        let log = env.path(&format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log).expect("a log in the private directory");
        let arguments =
            ["run", "--name", name].into_iter().chain(options.iter().copied()).chain(["--"]).chain(command.iter().map(String::as_str));
        let child = env
            .command(arguments)
            .stdout(output.try_clone().expect("a second descriptor of the log"))
            .stderr(output)
            .spawn()
            .expect("the stayput binary can be started");
        env.running.fetch_add(1, Ordering::SeqCst);
        Self { env, child, name: name.to_owned(), ended: None }
    }

    /// The guard's process id: that of `stayput run` itself.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it and its service printed.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.env.path(&format!("{}.log", self.name))).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// This run's instance in `stayput status --json`.
    ///
    /// # Errors
    /// There is none, or no status: what was seen instead.
    pub fn instance(&self) -> Result<Value, String> {
        let status = self.env.status()?;
        let found = status["instances"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|instance| instance["name"] == self.name.as_str() || instance["guard"]["pid"] == self.pid());
        found.cloned().ok_or_else(|| format!("no instance {} in {status}", self.name))
    }

    /// This run's only service.
    ///
    /// # Errors
    /// There is none: what was seen instead.
    pub fn service(&self) -> Result<Value, String> {
        let instance = self.instance()?;
        let service = instance["services"].get(0).cloned();
        service.ok_or_else(|| format!("no service in {instance}"))
    }

    /// Waits until the service is as `is` wants it, and gives it.
    ///
    /// # Panics
    /// When it is not in time, or the run has ended: with the status last seen and the log.
    pub fn wait_for(&mut self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let seen = wait::until(what, PATIENCE, || {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("stayput run has ended with {status}"));
            }
            let service = self.service()?;
            if is(&service) { Ok(service) } else { Err(service.to_string()) }
        });
        seen.unwrap_or_else(|why| panic!("{why}\n--- log of {}\n{}", self.name, self.log()))
    }

    /// Waits until the service is ready, and gives it.
    ///
    /// # Panics
    /// As [`Running::wait_for`].
    pub fn wait_ready(&mut self) -> Value {
        self.wait_for("readiness", |service| service["phase"] == "ready")
    }

    /// Waits until a request to the port is answered well.
    ///
    /// # Panics
    /// When none is in time: with the log.
    pub fn wait_answer(&self, port: u16) {
        let once = Plan::port(port).clients(1).duration(Duration::from_millis(1)).timeout(Duration::from_secs(2));
        wait::until("an answer", PATIENCE, || match once.run() {
            Ok(report) if report.counts.ok > 0 => Ok(()),
            Ok(report) => Err(format!("{:?}", report.failures)),
            Err(error) => Err(error.to_string()),
        })
        .unwrap_or_else(|why| panic!("{why}\n--- log of {}\n{}", self.name, self.log()));
    }

    /// The process id at `path` of the instance: `guard`, `keeper` or `daemon`.
    ///
    /// # Panics
    /// When status does not tell.
    pub fn part(&self, part: &str) -> u32 {
        let instance = wait::until(part, PATIENCE, || {
            let instance = self.instance()?;
            if instance[part]["pid"].is_u64() { Ok(instance) } else { Err(instance.to_string()) }
        })
        .unwrap_or_else(|why| panic!("{why}\n--- log of {}\n{}", self.name, self.log()));
        instance[part]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default()
    }

    /// The process id of the generation that takes the traffic.
    ///
    /// # Panics
    /// When no generation is ready.
    pub fn ready_pid(&mut self) -> u32 {
        let service = self.wait_ready();
        ready_generation(&service)
            .and_then(|generation| generation["pid"].as_u64())
            .and_then(|pid| u32::try_from(pid).ok())
            .unwrap_or_else(|| panic!("no ready generation in {service}"))
    }

    /// SIGKILLs the main process of the service, and waits until the next generation is ready.
    ///
    /// # Panics
    /// When none is ready in time.
    pub fn kill_service(&mut self) {
        let victim = self.ready_pid();
        assert!(process::signal(victim, Signal::KILL), "process {victim} of {} can be killed", self.name);
        wait::until_true("the next generation", PATIENCE, || self.ready_pid() != victim)
            .unwrap_or_else(|why| panic!("{why}\n--- log of {}\n{}", self.name, self.log()));
    }

    /// `stayput restart NAME --json` with further options, to its end.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn restart(&self, options: &[&str]) -> Restart {
        let arguments = ["restart", &self.name, "--json"].into_iter().chain(options.iter().copied());
        let output = self.env.cli(arguments, Duration::from_secs(90));
        let document: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        let lines = document["last_output"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let last_output = lines.collect::<Vec<_>>().join("\n");
        Restart { code: output.status.code(), ledger: document, last_output, stderr: String::from_utf8_lossy(&output.stderr).into_owned() }
    }

    /// As [`Running::restart`], and it must have switched.
    ///
    /// # Panics
    /// When the outcome is another: with all that is known.
    pub fn restart_well(&self) -> Restart {
        let restart = self.restart(&[]);
        assert!(restart.code == Some(0) && restart.text("outcome") == "switched", "{restart:#?}\n--- log of {}\n{}", self.name, self.log());
        restart
    }

    /// Sends a signal to `stayput run` itself.
    pub fn signal(&self, signal: Signal) {
        process::signal(self.child.id(), signal);
    }

    /// Waits until `stayput run` has ended.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        let ended = wait::until("the end of stayput run", deadline, || {
            self.child.try_wait().map_err(|error| error.to_string())?.ok_or_else(|| "runs".to_owned())
        });
        match ended {
            Ok(status) => {
                self.note_end(status);
                status
            }
            Err(why) => panic!("{why}\n--- log of {}\n{}", self.name, self.log()),
        }
    }

    /// SIGTERM, its end, and nothing left.
    ///
    /// # Panics
    /// When it does not end, or something is left.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        let status = self.wait_exit(PATIENCE);
        if self.env.running.load(Ordering::SeqCst) == 0 {
            self.env.assert_nothing_left(Duration::from_secs(2));
        }
        status
    }

    fn note_end(&mut self, status: ExitStatus) {
        if self.ended.replace(status).is_none() {
            self.env.running.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let start = log.len().saturating_sub(4000);
            let tail = log.get(start..).unwrap_or(&log);
            #[expect(clippy::print_stderr, reason = "the harness captures it and shows it with the failure")]
            {
                eprintln!("--- log of {}\n{tail}", self.name);
            }
        }
        if self.ended.is_none() {
            // The environment kills the rest by its mark; it still counts this run as running, so that what is left is no failure of its own.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The generation of a service's status that takes the traffic.
pub fn ready_generation(service: &Value) -> Option<&Value> {
    service["generations"].as_array()?.iter().find(|generation| generation["phase"] == "ready")
}

//! One `stayput up -d` under test: its services as others see them, its events, its end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;

use super::TestEnv;
use crate::wait;

/// Longer than anything takes on a busy machine; a test that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A `stayput up -d` that was started.
#[derive(Debug)]
pub struct Upped<'env> {
    env: &'env TestEnv,
    ended: bool,
}

impl<'env> Upped<'env> {
    pub(super) fn start(env: &'env TestEnv, config: &str) -> Self {
        env.file("stayput.toml", config);
        let upped = Self::started(env);
        upped.succeeds(&["up", "-d"]);
        upped
    }

    pub(super) fn started(env: &'env TestEnv) -> Self {
        env.running.fetch_add(1, Ordering::SeqCst);
        Self { env, ended: false }
    }

    /// Runs `stayput` with these arguments; what it printed.
    ///
    /// # Panics
    /// When it fails: with all that it said.
    pub fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.env.cli(arguments, PATIENCE);
        let (out, err) = (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "stayput {arguments:?}: {}\n{out}{err}", output.status);
        out
    }

    /// Writes another configuration and applies it.
    ///
    /// # Panics
    /// When the reload fails.
    pub fn reload(&self, config: &str) -> String {
        self.env.file("stayput.toml", config);
        self.succeeds(&["reload"])
    }

    /// The instance in `stayput status --json`.
    ///
    /// # Errors
    /// It does not answer: what was seen instead.
    pub fn status(&self) -> Result<Value, String> {
        self.env.status()
    }

    /// The process id of `guard`, `keeper` or `daemon`.
    ///
    /// # Panics
    /// When status does not tell.
    pub fn part(&self, part: &str) -> u32 {
        let pid = wait::until(part, PATIENCE, || self.status().and_then(|status| status[part]["pid"].as_u64().ok_or(status.to_string())));
        pid.ok().and_then(|pid| u32::try_from(pid).ok()).unwrap_or_else(|| panic!("no process id of the {part}"))
    }

    /// Waits until a service is as `is` wants it, and gives it.
    ///
    /// # Panics
    /// When it is not in time: with the status last seen and the events.
    pub fn wait_for(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let seen = wait::until(what, PATIENCE, || {
            let status = self.status()?;
            let service = status["services"].as_array().into_iter().flatten().find(|service| service["name"] == name);
            let service = service.ok_or_else(|| format!("no {name} in {status}"))?;
            if is(service) { Ok(service.clone()) } else { Err(service.to_string()) }
        });
        seen.unwrap_or_else(|why| panic!("{why}\nevents:\n{}", self.texts()))
    }

    /// A service as it is now.
    ///
    /// # Panics
    /// When status does not tell.
    pub fn service(&self, name: &str) -> Value {
        self.wait_for(name, "its status", |_| true)
    }

    /// The generation that has the connections, and its main process.
    ///
    /// # Panics
    /// When none has them in time.
    pub fn serving(&self, name: &str) -> (u64, u32) {
        let service = self.wait_for(name, "a generation that serves", |service| super::ready_generation(service).is_some());
        let generation = super::ready_generation(&service).unwrap_or(&Value::Null);
        let pid = generation["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        (generation["id"].as_u64().unwrap_or_default(), pid.unwrap_or_default())
    }

    /// What has happened so far, oldest first.
    pub fn events(&self) -> Vec<Value> {
        let output = self.env.cli(["events", "--json"], PATIENCE);
        String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn texts(&self) -> String {
        let line = |event: &Value| format!("{} {} {}", event["service"], event["kind"], event["text"]);
        self.events().iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// Events of this kind and service.
    pub fn events_of(&self, service: &str, kind: &str) -> Vec<Value> {
        self.events().into_iter().filter(|event| event["service"] == service && event["kind"] == kind).collect()
    }

    /// Waits for an event of this kind and service, and gives the first.
    ///
    /// # Panics
    /// When there is none in time: with all that happened instead.
    pub fn wait_event(&self, service: &str, kind: &str) -> Value {
        let seen = wait::until(&format!("{kind} of {service}"), PATIENCE, || {
            self.events_of(service, kind).into_iter().next().ok_or_else(|| "nothing of the kind".to_owned())
        });
        seen.unwrap_or_else(|why| panic!("{why}\nevents:\n{}", self.texts()))
    }

    /// `stayput down`, and nothing left.
    ///
    /// # Panics
    /// When it fails, or something is left.
    pub fn down(mut self) {
        self.succeeds(&["down"]);
        self.note_end();
        self.env.assert_nothing_left(PATIENCE);
    }

    /// The instance has ended by other means.
    pub fn note_end(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.env.running.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

//! Health checks of the generation that serves, and of one that has a share: when the next one is due, what it asks, and what it came to. Each runs in a task of its own, so
//! none delays another or the reactor, and a generation never has two at once. What follows from the result is the world's.
//!
//! A command of a check is started by the keeper, as a process tree of its own ([`crate::commands`]): it has the user, directory and environment of
//! its service, and is ended whole.

use crate::commands::Told;
use crate::link::Link;
use crate::reactor::{Message, Reactor};
use crate::readiness;
use crate::say;
use crate::translate::to_keeper;
use stayput_keeper::protocol;
use stayput_model::config::{Health, HealthCheck};
use stayput_model::event::{Event, ExitStatus, GenerationId};
use stayput_model::service::Service;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

/// How long what was killed may take to be gone before the result is told all the same. The keeper goes on waiting for it.
const KILLED_WITHIN: Duration = Duration::from_secs(2);

/// The checks of one generation.
#[derive(Debug)]
pub(crate) struct Checking {
    /// The check that goes on, or the wait for the next one.
    task: AbortHandle,
    /// The command that it runs.
    command: Option<protocol::GenerationId>,
}

/// One check with all that it needs.
enum Attempt {
    Http { listeners: Vec<(SocketAddr, bool)>, path: String, host: Option<String> },
    Tcp { listeners: Vec<(SocketAddr, bool)> },
    Exec { shown: String, command: protocol::GenerationId, told: UnboundedReceiver<Told> },
}

impl Reactor {
    /// Checks it from now on.
    pub(crate) fn start_health(&mut self, generation: GenerationId) {
        self.stop_health(generation);
        let health = self.world.service_of(generation).and_then(|service| service.config.health.as_ref());
        let Some(first) = health.map(|health| health.start_after) else { return };
        let to = self.to.clone();
        let task = tokio::task::spawn_local(async move {
            sleep(first).await;
            let _ = to.send(Message::CheckHealth(generation));
        });
        self.checkings.insert(generation, Checking { task: task.abort_handle(), command: None });
    }

    /// Nobody wants to know any more: a command that runs is ended, whole.
    pub(crate) fn stop_health(&mut self, generation: GenerationId) {
        let Some(checking) = self.checkings.remove(&generation) else { return };
        checking.task.abort();
        if let Some(command) = checking.command {
            self.end_command(command);
        }
    }

    /// Its next check is due.
    pub(crate) fn check_health(&mut self, generation: GenerationId) {
        if !self.checkings.contains_key(&generation) {
            return;
        }
        let Some(service) = self.world.service_of(generation) else { return };
        let Some(health) = service.config.health.clone() else { return };
        let (attempt, command) = match &health.check {
            HealthCheck::Http { path, host, port } => {
                let mut listeners = listeners(service, generation, *port);
                listeners.truncate(1);
                (Attempt::Http { listeners, path: path.clone(), host: host.clone() }, None)
            }
            HealthCheck::Tcp { port } => (Attempt::Tcp { listeners: listeners(service, generation, *port) }, None),
            HealthCheck::Exec { argv } => {
                let service = service.config.name.clone();
                let (command, told) = self.run_command(&service, argv);
                (Attempt::Exec { shown: say::command(argv), command, told }, Some(command))
            }
        };
        let task = tokio::task::spawn_local(check(attempt, health, generation, Rc::clone(&self.link), self.to.clone()));
        self.checkings.insert(generation, Checking { task: task.abort_handle(), command });
    }
}

/// Where it is asked: its listeners on this port, or all, those of the declared ports in their order first. One whose binds are not caught is
/// asked where it is declared. With each, whether all that connects there comes to it anyway: not while another generation has a share.
fn listeners(service: &Service, generation: GenerationId, port: Option<u16>) -> Vec<(SocketAddr, bool)> {
    let wanted = |address: &SocketAddr| port.is_none_or(|port| address.port() == port);
    let place = |address: &SocketAddr| service.config.ports.iter().position(|declared| declared.port() == address.port());
    let shared = |address: SocketAddr| {
        service.listeners.values().any(|other| other.selected && other.address == address && other.owner != Some(generation))
    };
    let mut listeners: Vec<(SocketAddr, bool)> = service
        .listeners
        .values()
        .filter(|listener| listener.owner == Some(generation) && wanted(&listener.address))
        .map(|listener| (listener.address, listener.selected && !shared(listener.address)))
        .collect();
    listeners.sort_by_key(|(address, _)| (place(address).unwrap_or(usize::MAX), *address));
    listeners.dedup_by_key(|(address, _)| *address);
    if listeners.is_empty() && !service.listeners.values().any(|listener| listener.owner == Some(generation)) {
        listeners.extend(service.config.ports.iter().filter(|address| wanted(address)).map(|address| (*address, true)));
    }
    listeners
}

async fn check(attempt: Attempt, health: Health, generation: GenerationId, link: Rc<Link>, to: UnboundedSender<Message>) {
    let result = run(attempt, &health, generation, &link, &to).await;
    let (passed, what) = match result {
        Ok(what) => (true, what),
        Err(what) => (false, what),
    };
    // The reactor is gone only when the daemon ends.
    let _ = to.send(Message::World(Event::Health { generation, passed, what }));
    sleep(health.every).await;
    let _ = to.send(Message::CheckHealth(generation));
}

async fn run(
    attempt: Attempt,
    health: &Health,
    generation: GenerationId,
    link: &Link,
    to: &UnboundedSender<Message>,
) -> Result<String, String> {
    let (id, limit) = (to_keeper(generation), health.timeout);
    match attempt {
        Attempt::Http { listeners, path, host } => {
            let (address, selected) = listeners.first().copied().ok_or_else(nowhere)?;
            readiness::http(id, address, selected, &path, host.as_deref(), limit, link).await
        }
        Attempt::Tcp { listeners } => {
            let mut accepted = Vec::new();
            for (address, selected) in listeners {
                let accept = readiness::accept(id, address, selected, link, to);
                let late = |_| Err(format!("a connection to {address} was not accepted within {limit:?}"));
                accepted.push(timeout(limit, accept).await.unwrap_or_else(late)?);
            }
            if accepted.is_empty() { Err(nowhere()) } else { Ok(format!("a connection was accepted on {}", accepted.join(", "))) }
        }
        Attempt::Exec { shown, command, told } => exec(&shown, command, told, limit, link).await,
    }
}

fn nowhere() -> String {
    "there is no listener to ask".to_owned()
}

/// The command, to its end and at most for its time.
async fn exec(
    shown: &str,
    command: protocol::GenerationId,
    mut told: UnboundedReceiver<Told>,
    limit: Duration,
    link: &Link,
) -> Result<String, String> {
    let mut output = crate::commands::Output::default();
    let ended = timeout(limit, async {
        while let Some(what) = told.recv().await {
            match what {
                Told::Spawned(descriptors) => output.read(descriptors),
                Told::Failed(what) => return Err(format!("{shown} could not be run: {what}")),
                Told::Exited(status) => return Ok(status),
                Told::Empty => return Ok(ExitStatus::Unknown),
            }
        }
        Err(format!("{shown} could not be run: the daemon ends"))
    })
    .await;
    match ended {
        Ok(Ok(ExitStatus::Exited(0))) => Ok(format!("{shown} exited with status 0")),
        Ok(Ok(status)) => Err(format!("{shown} {}{}", say::ended(status), output.last_line())),
        Ok(Err(what)) => Err(what),
        Err(_) => {
            crate::commands::kill(command, link);
            let gone = async { while !matches!(told.recv().await, Some(Told::Empty) | None) {} };
            let killed = timeout(KILLED_WITHIN, gone).await.is_ok();
            let how = if killed { "was killed with all that it started" } else { "was killed, and is still there" };
            Err(format!("{shown} ran for more than {limit:?} and {how}{}", output.last_line()))
        }
    }
}

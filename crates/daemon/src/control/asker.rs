//! Who asks for what: each request that is to change something is an event before it is done, so that everybody who follows the events
//! sees who did what. Refuses: deciding whether they may; whoever reaches the control socket may do all of it.

use super::Answers;
use crate::events::News;
use crate::reactor::Reactor;
use stayput_model::text::{printable, printable_bytes};
use stayput_wire::Level;
use stayput_wire::peer::Peer;

/// Characters of what a client says of itself that are kept.
const LONGEST: usize = 120;

/// Who is at the other end of a connection.
#[derive(Debug)]
pub(super) struct Asker {
    peer: Peer,
    /// On whose behalf, in the client's words.
    by: Option<String>,
}

impl Asker {
    pub(super) fn new(peer: Peer, by: Option<String>) -> Self {
        let by = by.map(|by| printable(&by).chars().take(LONGEST).collect::<String>()).filter(|by| !by.trim().is_empty());
        Self { peer, by }
    }

    /// As the end of a sentence. What the client says stands first; what the kernel says of it stands in parentheses.
    fn words(&self) -> String {
        let Peer { uid, pid } = self.peer;
        let who = self.by.clone().unwrap_or_else(|| {
            // It may be gone: then its number has to do.
            let name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
            if name.is_empty() { "a program".to_owned() } else { printable_bytes(name.trim_ascii_end()) }
        });
        format!("{who} (pid {pid}, uid {uid})")
    }
}

impl Reactor {
    /// Tells who asked for `what`, of each of the services, or of the instance if there is none. Called when the request is known to make sense
    /// and nothing is done yet: the events of what it does follow it. `more` goes on after `what` in the sentence.
    pub(super) fn requested(&self, what: &str, more: &str, services: &[String], answers: &Answers) {
        let asker = &answers.asker;
        let text = format!("{what}{} requested by {}", printable(more), asker.words());
        let data = serde_json::json!({ "by": asker.by, "uid": asker.peer.uid, "pid": asker.peer.pid });
        let news = |service: Option<&String>| News {
            service: service.cloned(),
            kind: format!("{what}-requested"),
            generation: service.and_then(|name| self.world.services.get(name)?.serving()).map(|generation| generation.0),
            level: Level::Info,
            text: text.clone(),
            data: data.clone(),
        };
        if services.is_empty() {
            self.events.push(news(None));
        }
        for service in services {
            self.events.push(news(Some(service)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_speaks_and_the_kernel_vouches() {
        let us = rustix::process::getpid().as_raw_nonzero().get();
        let peer = Peer { uid: 1000, pid: us };
        let words = |by: Option<&str>| Asker::new(peer, by.map(str::to_owned)).words();
        assert_eq!(words(Some("dashboard: operate from 127.0.0.1")), format!("dashboard: operate from 127.0.0.1 (pid {us}, uid 1000)"));
        let own = words(None);
        assert!(own.ends_with(&format!(" (pid {us}, uid 1000)")) && !own.starts_with("a program"), "{own}");
        assert_eq!(words(Some(" ")), own, "nothing said is nothing");
        let hostile = words(Some(&format!("\u{1b}[31m\nroot{}", "x".repeat(1000))));
        assert!(!hostile.contains(['\u{1b}', '\n']) && hostile.chars().count() < 200, "{hostile}");
        let nobody = Asker::new(Peer { uid: 0, pid: i32::MAX }, None).words();
        assert_eq!(nobody, format!("a program (pid {}, uid 0)", i32::MAX));
    }
}

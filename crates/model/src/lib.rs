//! The pure core of stayput: what a service is and what happens next.
//!
//! No input, output, clock or runtime lives here. [`World::step`] takes one [`Event`] and the time, and answers with
//! [`Effect`]s; [`World::next_deadline`] is the one timer that it needs. Everything that is true of an instance beyond what the
//! kernel knows is in [`World`], which can be written down ([`Blob`]) and read again at any moment without a difference.

pub mod backoff;
pub mod blob;
pub mod config;
pub mod dashboard;
pub mod event;
pub mod generation;
pub mod host;
pub mod ledger;
pub mod mono;
pub mod notice;
pub mod plan;
pub mod reconcile;
pub mod secrets;
pub mod service;
pub mod text;
pub mod world;

pub use blob::Blob;
pub use config::{InstanceConfig, ServiceConfig};
pub use event::{Effect, Event, ExitStatus, GenerationId, ListenerFacts, ListenerId, Scope};
pub use mono::Mono;
pub use notice::Notice;
pub use world::World;

//! The guard and the keeper: they hold every socket and spawn every service.
//!
//! [`protocol`] is what the brain (the daemon) may ask of the keeper and what the keeper tells it; [`client`] speaks it.
//! The keeper decides nothing about *when*: it catches `bind` and `listen`, holds, steers, spawns, signals and reaps as told.

mod blind;
mod catch;
pub mod client;
mod errand;
mod exits;
mod groups;
pub mod guard;
mod holds;
mod journal;
mod keeper;
mod left;
mod life;
pub mod measure;
mod options;
mod passing;
pub mod protocol;
mod records;
mod rights;
mod serve;
mod spawn;
mod state;
mod steering;
pub mod store;
mod strangers;
mod tree;
mod unheld;

//! Misbehaving servers, a load client that accounts for every connection, and a test environment.

pub mod assets;
pub mod below;
pub mod clients;
pub mod env;
pub mod fake_control;
pub mod further;
pub mod pages;
pub mod port;
pub mod process;
pub mod python;
pub mod reference;
pub mod server;
pub mod wait;

/// The load client, which the product's `compare` uses as well.
pub use stayput_load as load;

//! Misbehaving servers, a load client that accounts for every connection, and a test environment.

pub mod assets;
pub mod env;
pub mod further;
pub mod load;
pub mod port;
pub mod process;
pub mod server;
pub mod wait;

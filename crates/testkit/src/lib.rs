//! Misbehaving servers, a load client that accounts for every connection, and a test environment.

pub mod assets;
pub mod load;

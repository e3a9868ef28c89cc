//! The pure core of stayput: what a service is and what happens next.

pub mod backoff;
pub mod blob;
pub mod config;
pub mod mono;
pub mod text;

pub use blob::Blob;
pub use config::{InstanceConfig, ServiceConfig};
pub use mono::Mono;

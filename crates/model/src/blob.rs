//! The bytes that the keeper keeps for the brain: one version byte, then the postcard encoding of [`Blob`].

use crate::config::InstanceConfig;
use crate::world::World;
use serde::{Deserialize, Serialize};

/// Version of the encoding. A daemon that reads another one cannot carry on from it, and says so.
pub const VERSION: u8 = 1;

/// What an instance was started with, or what the last daemon left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Blob {
    /// Nothing ran yet.
    Start(Box<InstanceConfig>),
    /// It runs.
    State(Box<World>),
}

/// Why bytes are no blob of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlobError {
    /// There are no bytes.
    Empty,
    /// Another version wrote them.
    Version(u8),
    /// They do not decode.
    Decode(postcard::Error),
}

impl std::fmt::Display for BlobError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => f.write_str("the kept state is empty"),
            Self::Version(version) => write!(f, "the kept state has version {version}, this program reads {VERSION}"),
            Self::Decode(error) => write!(f, "the kept state does not decode: {error}"),
        }
    }
}

impl std::error::Error for BlobError {}

impl Blob {
    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        // The model has no map with keys that postcard could refuse, and a Vec takes any length: this cannot fail.
        postcard::to_extend(self, vec![VERSION]).unwrap_or_default()
    }

    /// The blob again.
    ///
    /// # Errors
    /// [`BlobError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, BlobError> {
        match bytes.split_first() {
            None => Err(BlobError::Empty),
            Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(BlobError::Decode),
            Some((&version, _)) => Err(BlobError::Version(version)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Mode, ReportStyle, ServiceConfig};

    #[test]
    fn what_is_no_blob_is_refused() {
        assert_eq!(Blob::decode(&[]), Err(BlobError::Empty));
        assert_eq!(Blob::decode(&[9, 0]), Err(BlobError::Version(9)));
        assert!(matches!(Blob::decode(&[VERSION, 77]), Err(BlobError::Decode(_))));
        let config = InstanceConfig {
            services: vec![ServiceConfig::new("web", vec![b"true".to_vec()])],
            ..InstanceConfig::new("web", Mode::Run, ReportStyle::Plain)
        };
        let blob = Blob::Start(Box::new(config));
        assert_eq!(Blob::decode(&blob.encode()), Ok(blob));
    }
}

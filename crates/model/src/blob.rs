//! The bytes that the keeper keeps for the brain, in parts: one of the instance, one per service, so that what did not change is not
//! written again. Each part is one version byte, then a postcard encoding.

use crate::config::InstanceConfig;
use crate::service::Service;
use crate::world::World;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the encoding. A daemon that reads another one cannot carry on from it, and says so.
pub const VERSION: u8 = 3;
/// Key of the instance's part. A service's key is its name, which is never empty.
pub const INSTANCE: &str = "";

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

fn encode(value: &impl Serialize) -> Vec<u8> {
    // The model has no map with keys that postcard could refuse, and a Vec takes any length: this cannot fail.
    postcard::to_extend(value, vec![VERSION]).unwrap_or_default()
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, BlobError> {
    match bytes.split_first() {
        None => Err(BlobError::Empty),
        Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(BlobError::Decode),
        Some((&version, _)) => Err(BlobError::Version(version)),
    }
}

/// The part of the world that is no service's.
pub fn instance_part(world: &World) -> Vec<u8> {
    /// [`Blob::State`] as postcard writes it: the variant's number, then the world.
    #[derive(Serialize)]
    enum Borrowed<'a> {
        #[expect(dead_code, reason = "keeps the number of the variant after it")]
        Start(()),
        State(&'a World),
    }
    encode(&Borrowed::State(world))
}

/// The part of one service.
pub fn service_part(service: &Service) -> Vec<u8> {
    encode(service)
}

impl Blob {
    /// The instance's part. Of a [`Blob::Start`] this is the whole.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Start(_) => encode(self),
            Self::State(world) => instance_part(world),
        }
    }

    /// All parts with their keys, the instance's first.
    pub fn parts(&self) -> Vec<(String, Vec<u8>)> {
        let mut parts = vec![(INSTANCE.to_owned(), self.encode())];
        if let Self::State(world) = self {
            parts.extend(world.services.iter().map(|(name, service)| (name.clone(), service_part(service))));
        }
        parts
    }

    /// The blob again, from its parts in any order.
    ///
    /// # Errors
    /// [`BlobError`].
    pub fn decode(parts: &[(String, Vec<u8>)]) -> Result<Self, BlobError> {
        let (instance, services): (Vec<_>, Vec<_>) = parts.iter().partition(|(key, _)| key == INSTANCE);
        let mut blob = decode::<Self>(instance.first().map_or(&[], |(_, bytes)| bytes))?;
        if let Self::State(world) = &mut blob {
            let service = |(name, bytes): &(String, Vec<u8>)| Ok((name.clone(), decode::<Service>(bytes)?));
            world.services = services.into_iter().map(service).collect::<Result<BTreeMap<_, _>, _>>()?;
        }
        Ok(blob)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Mode, ReportStyle, ServiceConfig};

    fn config() -> InstanceConfig {
        let service = |name: &str| ServiceConfig::new(name, vec![b"true".to_vec()]);
        InstanceConfig { services: vec![service("web"), service("worker")], ..InstanceConfig::new("web", Mode::Run, ReportStyle::Plain) }
    }

    #[test]
    fn what_is_no_blob_is_refused() {
        let instance = |bytes: &[u8]| [(INSTANCE.to_owned(), bytes.to_vec())];
        assert_eq!(Blob::decode(&[]), Err(BlobError::Empty));
        assert_eq!(Blob::decode(&instance(&[])), Err(BlobError::Empty));
        assert_eq!(Blob::decode(&instance(&[9, 0])), Err(BlobError::Version(9)));
        assert!(matches!(Blob::decode(&instance(&[VERSION, 77])), Err(BlobError::Decode(_))));
        let blob = Blob::Start(Box::new(config()));
        assert_eq!(Blob::decode(&instance(&blob.encode())), Ok(blob));
    }

    #[test]
    fn the_parts_are_the_whole_in_any_order() {
        let blob = Blob::State(Box::new(World::new(config(), 7)));
        let mut parts = blob.parts();
        assert_eq!(parts.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["", "web", "worker"]);
        parts.reverse();
        assert_eq!(Blob::decode(&parts), Ok(blob));
        parts[0].1 = vec![VERSION];
        assert!(matches!(Blob::decode(&parts), Err(BlobError::Decode(_))), "a service's part counts as well");
    }
}

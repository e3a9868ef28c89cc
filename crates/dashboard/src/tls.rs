//! TLS, if a certificate is given: rustls, with the certificate and its key from PEM files. They are read once, when the dashboard starts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The two files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The certificate and those that lead to a known one, in this order.
    pub chain: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Why TLS cannot be spoken.
#[derive(Debug)]
pub enum TlsError {
    /// The file cannot be read, or there is nothing of that kind in it.
    File(PathBuf, String),
    /// The key is one that others may read.
    Open(PathBuf),
    /// Certificate and key do not fit, or are of a kind that is not known.
    Config(String),
}

impl std::fmt::Display for TlsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path, why) => write!(f, "{}: {why}", path.display()),
            Self::Open(path) => write!(f, "others may read the private key {} (chmod 600 closes it)", path.display()),
            Self::Config(why) => write!(f, "the certificate cannot be used: {why}"),
        }
    }
}

impl std::error::Error for TlsError {}

/// Speaks TLS with these files.
pub(crate) fn acceptor(certificate: &Certificate) -> Result<TlsAcceptor, TlsError> {
    use std::os::unix::fs::MetadataExt as _;
    let Certificate { chain, key } = certificate;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error: tokio_rustls::rustls::pki_types::pem::Error| TlsError::File(path, error.to_string())
    };
    let certificates = CertificateDer::pem_file_iter(chain).map_err(failed(chain))?;
    let certificates = certificates.collect::<Result<Vec<_>, _>>().map_err(failed(chain))?;
    if certificates.is_empty() {
        return Err(TlsError::File(chain.clone(), "there is no certificate in it".to_owned()));
    }
    let metadata = std::fs::metadata(key).map_err(|error| TlsError::File(key.clone(), error.to_string()))?;
    if metadata.mode() & 0o007 != 0 {
        return Err(TlsError::Open(key.clone()));
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(failed(key))?;
    let wrong = |error: tokio_rustls::rustls::Error| TlsError::Config(error.to_string());
    let config =
        ServerConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions().map_err(wrong)?;
    let mut config = config.with_no_client_auth().with_single_cert(certificates, secret).map_err(wrong)?;
    // HTTP/1.1 alone.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

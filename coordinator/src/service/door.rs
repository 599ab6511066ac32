//! What a coordinator asks of those who connect, made from the files of its credentials.

use super::access::Access;
use super::certificate::Holder;
use super::reload::Reloaded;
use super::reviews::Reviews;
use super::tokens::Tokens;
use ::kubernetes::Cluster;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use std::sync::Arc;
use std::time::SystemTime;
use thiserror::Error;
use wire::credentials::{self, ALPN, Folder, provider};

/// The protocol that is negotiated for the web port.
const HTTP_1: &[u8] = b"http/1.1";

/// Credentials with which no coordinator can be started.
#[derive(Debug, Error)]
pub enum Error {
    /// A file of the folder cannot be used.
    #[error(transparent)]
    Credentials(#[from] credentials::Error),
    /// Nobody would be asked for anything.
    #[error(
        "credentials: `{0}` has neither `ca.crt` nor `tokens`, so everybody who connects could do everything\n\
         hint: `coordinator certs` makes certificates, `coordinator token` makes tokens"
    )]
    Open(String),
}

/// Encryption and access control of a coordinator's ports.
#[derive(Clone)]
pub struct Door {
    pub(super) access: Arc<Access>,
    pub(super) grpc: Option<Arc<Reloaded<ServerConfig>>>,
    /// The same certificate for the web port, which asks for no client certificate.
    pub(crate) web: Option<Arc<Reloaded<ServerConfig>>>,
    folder: Option<Folder>,
}

impl Door {
    /// Neither encryption nor credentials.
    pub fn open() -> Self {
        Self {
            access: Arc::new(Access::new(false, None, None)),
            grpc: None,
            web: None,
            folder: None,
        }
    }

    /// What the files of a folder say: encryption with `tls.crt` and `tls.key`, client certificates of the authorities
    /// in `ca.crt`, the tokens in `tokens`. The files may change later, but none may be added or deleted.
    ///
    /// # Errors
    /// [`enum@Error`].
    pub fn with(folder: Folder) -> Result<Self, Error> {
        Self::with_reviews(folder, None)
    }

    /// The same, with a cluster that vouches for the tokens of its pods.
    ///
    /// # Errors
    /// [`enum@Error`].
    pub fn with_reviews(folder: Folder, cluster: Option<Cluster>) -> Result<Self, Error> {
        folder.check()?;
        let encrypted = folder.identity()?.is_some();
        let certificates = encrypted && folder.authorities()?.is_some();
        let list = folder.file("tokens");
        let tokens = if list.exists() {
            let path = list.clone();
            Some(Reloaded::new(vec![list], move || Tokens::read(&path))?)
        } else {
            None
        };
        let access = Access::new(certificates, tokens, cluster.map(Reviews::new));
        if access.is_open() {
            return Err(Error::Open(folder.path().display().to_string()));
        }
        let files: Vec<_> = ["tls.crt", "tls.key", "ca.crt"].map(|name| folder.file(name)).into();
        let configured = |certificates, protocol: &'static [u8]| {
            let folder = folder.clone();
            let make = move || configure(&folder, certificates, protocol);
            Reloaded::new(files.clone(), make).map(Arc::new)
        };
        let (grpc, web) = match encrypted {
            true => (Some(configured(certificates, ALPN)?), Some(configured(false, HTTP_1)?)),
            false => (None, None),
        };
        Ok(Self { access: Arc::new(access), grpc, web, folder: Some(folder) })
    }

    /// Whether connections are encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.grpc.is_some()
    }

    /// The credentials that clients need, in words.
    pub fn wanted(&self) -> &'static str {
        self.access.wanted()
    }

    /// When this coordinator's own certificate expires; `None` if it has none.
    pub(crate) fn expires(&self) -> Option<SystemTime> {
        // An unreadable file is reported when a connection needs it.
        let (chain, _) = self.folder.as_ref()?.identity().ok()??;
        Some(Holder::read(chain.first()?).ok()?.expires)
    }
}

/// The server's side of TLS, from the files of a folder.
fn configure(
    folder: &Folder,
    certificates: bool,
    protocol: &[u8],
) -> Result<ServerConfig, credentials::Error> {
    let unusable =
        |source| credentials::Error::Unusable { folder: folder.path().to_owned(), source };
    let missing = |name| credentials::Error::Malformed {
        path: folder.file(name),
        reason: "is missing".to_owned(),
    };
    let (chain, key) = folder.identity()?.ok_or_else(|| missing("tls.crt"))?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?;
    let builder = if certificates {
        let roots = Arc::new(folder.authorities()?.ok_or_else(|| missing("ca.crt"))?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
        let verifier = verifier.map_err(|error| credentials::Error::Malformed {
            path: folder.file("ca.crt"),
            reason: format!("cannot verify clients: {error}"),
        })?;
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_single_cert(chain, key).map_err(unusable)?;
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(config)
}

//! Certificates and tokens: how a process proves who it is, and whose certificates it accepts.
//!
//! They are files of one folder. Its names are those of a Kubernetes TLS Secret, so that a mounted Secret is such a
//! folder, whether an operator, cert-manager or `coordinator certs` has made it:
//!
//! ```text
//! tls.crt, tls.key    the certificate chain and the private key of this process
//! ca.crt              the authorities that have issued the certificates of others
//! token               the token that a client sends
//! tokens              the tokens that a coordinator accepts, as hashes
//! ```
//!
//! Clients read the files again for every connection, and a coordinator whenever they have changed. Certificates and
//! tokens are therefore renewed by replacing files.

use crate::address;
use rustls::client::WantsClientCert;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use rustls_platform_verifier::Verifier;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Uri;

/// The protocol that gRPC negotiates in TLS.
pub const ALPN: &[u8] = b"h2";

/// Why credentials cannot be used.
#[derive(Debug, Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("credentials: `{path}` cannot be read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// A file does not contain what its name says.
    #[error("credentials: `{path}` {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate and a private key do not belong together, or TLS cannot use them.
    #[error("credentials: `{folder}` cannot be used for TLS")]
    Unusable {
        /// The folder.
        folder: PathBuf,
        /// The reason.
        source: rustls::Error,
    },
    /// The URL is not encrypted, and it is not clear that this is meant.
    #[error("`{url}` is not encrypted\nhint: {hint}")]
    Plain {
        /// The URL.
        url: String,
        /// How to encrypt it, or to allow it.
        hint: &'static str,
    },
}

/// A certificate chain with its private key.
pub type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The algorithms of all TLS connections.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// A folder with certificates, keys and tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder at `path`, whose files are read later.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Checks that it exists. A missing file means something, but a missing folder is a mistake.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn check(&self) -> Result<(), Error> {
        if self.0.is_dir() {
            return Ok(());
        }
        Err(Error::Malformed { path: self.0.clone(), reason: "is not a folder".into() })
    }

    /// The path of one of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The certificate and the key in `tls.crt` and `tls.key`; `None` if neither file exists.
    ///
    /// # Errors
    /// [`Error::Unreadable`], [`Error::Malformed`].
    pub fn identity(&self) -> Result<Option<Identity>, Error> {
        let Some(chain) = self.certificates("tls.crt")? else { return Ok(None) };
        let path = self.file("tls.key");
        let Some(text) = read(&path)? else {
            let reason = "is missing, but `tls.crt` exists".to_owned();
            return Err(Error::Malformed { path, reason });
        };
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| {
            Error::Malformed { path, reason: format!("has no private key in PEM form: {error}") }
        })?;
        Ok(Some((chain, key)))
    }

    /// The authorities in `ca.crt`; `None` if the file does not exist.
    ///
    /// # Errors
    /// [`Error::Unreadable`], [`Error::Malformed`].
    pub fn authorities(&self) -> Result<Option<RootCertStore>, Error> {
        let Some(certificates) = self.certificates("ca.crt")? else { return Ok(None) };
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate).map_err(|error| Error::Malformed {
                path: self.file("ca.crt"),
                reason: format!("has a certificate that is not an authority's: {error}"),
            })?;
        }
        Ok(Some(roots))
    }

    /// The token in `token`; `None` if the file does not exist.
    ///
    /// # Errors
    /// [`Error::Unreadable`], [`Error::Malformed`].
    pub fn token(&self) -> Result<Option<String>, Error> {
        let path = self.file("token");
        let Some(text) = read(&path)? else { return Ok(None) };
        match text.trim() {
            "" => Err(Error::Malformed { path, reason: "is empty".into() }),
            token => Ok(Some(token.to_owned())),
        }
    }

    fn certificates(&self, name: &str) -> Result<Option<Vec<CertificateDer<'static>>>, Error> {
        let path = self.file(name);
        let Some(text) = read(&path)? else { return Ok(None) };
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        match read {
            Ok(certificates) if !certificates.is_empty() => Ok(Some(certificates)),
            Ok(_) => {
                let reason = "has no certificate in PEM form".into();
                Err(Error::Malformed { path, reason })
            }
            Err(error) => {
                let reason = format!("has a certificate that cannot be read: {error}");
                Err(Error::Malformed { path, reason })
            }
        }
    }
}

/// The text of a file; `None` if it does not exist.
fn read(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Unreadable { path: path.to_owned(), source }),
    }
}

/// How a client proves who it is, and which coordinators it trusts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    folder: Option<Folder>,
    /// Whether unencrypted connections to other hosts are allowed.
    insecure: bool,
    /// Whether gradients may be sent to other hosts unencrypted.
    trust_network: bool,
}

impl Credentials {
    /// The credentials in a folder, if one is given.
    pub fn new(folder: Option<PathBuf>, insecure: bool) -> Self {
        Self { folder: folder.map(Folder), insecure, trust_network: false }
    }

    /// Allows workers to send gradients to other hosts unencrypted.
    #[must_use]
    pub fn trusting_the_network(self, trust_network: bool) -> Self {
        Self { trust_network, ..self }
    }

    /// Whether workers may send gradients to other hosts unencrypted.
    pub fn trust_network(&self) -> bool {
        self.trust_network || self.insecure
    }

    /// Credentials for a coordinator of this host that asks for none.
    pub fn none() -> Self {
        Self::default()
    }

    /// The arguments with which another program of Muster gets the same credentials.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        if let Some(Folder(path)) = &self.folder {
            arguments.extend(["--credentials".to_owned(), path.to_string_lossy().into_owned()]);
        }
        if self.insecure {
            arguments.push("--insecure".to_owned());
        }
        if self.trust_network {
            arguments.push("--trust-network".to_owned());
        }
        arguments
    }

    /// The token to send, read again from its file. Called first for every connection.
    pub(crate) fn token(&self) -> Result<Option<MetadataValue<Ascii>>, Error> {
        let Some(folder) = &self.folder else { return Ok(None) };
        folder.check()?;
        let Some(token) = folder.token()? else { return Ok(None) };
        let parsed = format!("Bearer {token}").parse::<MetadataValue<Ascii>>();
        let mut value = parsed.map_err(|_| Error::Malformed {
            path: folder.file("token"),
            reason: "has characters that a token cannot have".into(),
        })?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// The settings of a TLS connection, with certificates that are read again from their files.
    pub(crate) fn tls(&self) -> Result<ClientConfig, Error> {
        let provider = provider();
        let folder = self.folder.clone().unwrap_or(Folder(PathBuf::new()));
        let unusable = |source| Error::Unusable { folder: folder.path().to_owned(), source };
        let (authorities, identity) = match &self.folder {
            Some(folder) => (folder.authorities()?, folder.identity()?),
            None => (None, None),
        };
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?;
        let builder: ConfigBuilder<_, WantsClientCert> = match authorities {
            Some(roots) => builder.with_root_certificates(roots),
            // The operating system's authorities, for a coordinator behind a public name.
            None => {
                let verifier = Arc::new(Verifier::new(provider).map_err(unusable)?);
                builder.dangerous().with_custom_certificate_verifier(verifier)
            }
        };
        let mut config = match identity {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(unusable)?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }

    /// Checks that a connection to an unencrypted address is meant: on the loopback without credentials, or with
    /// `--insecure`.
    pub(crate) fn allow_plain(&self, uri: &Uri) -> Result<(), Error> {
        if self.insecure {
            return Ok(());
        }
        let hint = if self.folder.is_some() {
            "write https://, or --insecure to send these credentials unencrypted"
        } else if address::is_loopback(uri) {
            return Ok(());
        } else {
            "write https://, or --insecure if everybody in this network may read and change everything"
        };
        Err(Error::Plain { url: uri.to_string(), hint })
    }
}

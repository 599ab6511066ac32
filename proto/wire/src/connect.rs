//! Connects to a coordinator, and finds the successor of a coordinator that was replaced.
//!
//! All clients connect here, so that credentials, timeouts, the detection of dead peers and error messages are the
//! same everywhere.

use crate::address;
use crate::credentials::{self, Credentials};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError};
use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::io::AsyncBufReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};
use tower::{Service, ServiceExt, service_fn};

/// The metadata key for the address of a successor, in the error that ends a worker's stream when another coordinator
/// has taken over.
pub const SUCCESSOR: &str = "muster-coordinator";

/// The metadata key of a client's token, which follows the word `Bearer`.
pub const AUTHORIZATION: &str = "authorization";

/// How long to wait for the coordinator's first bytes.
const FIRST_BYTES: Duration = Duration::from_secs(2);

/// A connection to a coordinator, on which every request carries the client's token.
pub type Connection = InterceptedService<Channel, Bearer>;

/// Timeouts of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long connecting may take.
    pub connect: Duration,
    /// The interval of keep-alive pings, and the time within which each must be answered. If `None`, a dead peer is
    /// only detected by the caller's own deadline.
    pub keep_alive: Option<Duration>,
}

impl Options {
    /// Options for a request that is answered immediately. The caller sets a deadline.
    pub const QUESTION: Self = Self { connect: Duration::from_secs(5), keep_alive: None };

    /// Options for a stream, on which a live peer may be silent for a long time.
    pub const STREAM: Self =
        Self { connect: Duration::from_secs(5), keep_alive: Some(Duration::from_secs(5)) };
}

/// Why connecting failed.
#[derive(Debug, Error)]
pub enum Unconnected {
    /// The URL is invalid.
    #[error("`{url}` is not of the form https://host:port or http://host:port")]
    Malformed {
        /// The URL as given.
        url: String,
        /// The parser's error.
        source: tonic::transport::Error,
    },
    /// The client's credentials cannot be used, or it has none for this URL.
    #[error(transparent)]
    Credentials(#[from] credentials::Error),
    /// One side does not accept the certificate of the other one.
    #[error("no secure connection to the coordinator at `{url}`\nhint: {hint}")]
    Untrusted {
        /// The URL as given.
        url: String,
        /// What to do.
        hint: &'static str,
        /// The transport's error.
        source: tonic::transport::Error,
    },
    /// No connection could be made.
    #[error(
        "no coordinator answers at `{url}`\n\
         hint: start one with `coordinator serve`, or name it with --coordinator"
    )]
    Unreachable {
        /// The URL as given.
        url: String,
        /// The transport's error.
        source: tonic::transport::Error,
    },
}

impl Unconnected {
    /// The error for a log that names the URL, and whose reader needs no hint to start a coordinator.
    pub fn brief(self) -> Box<dyn StdError + Send + Sync> {
        match self {
            Self::Unreachable { source, .. } => source.into(),
            other => other.into(),
        }
    }
}

/// Adds the client's token to requests.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert(AUTHORIZATION, token.clone());
        }
        Ok(request)
    }
}

/// Connects to the coordinator at `url`.
///
/// # Errors
/// [`Unconnected`] if the URL is invalid, the credentials do not suffice, or no connection can be made.
pub async fn channel(
    url: &str,
    credentials: &Credentials,
    options: Options,
) -> Result<Connection, Unconnected> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|source| Unconnected::Malformed { url: url.to_owned(), source })?
        .connect_timeout(options.connect);
    let endpoint = match options.keep_alive {
        Some(pause) => endpoint.http2_keep_alive_interval(pause).keep_alive_timeout(pause),
        None => endpoint,
    };
    let bearer = Bearer(credentials.token()?);
    let connected = if address::is_encrypted(endpoint.uri()) {
        let tls = TlsConnector::from(Arc::new(credentials.tls()?));
        endpoint.connect_with_connector(service_fn(move |uri| encrypted(uri, tls.clone()))).await
    } else {
        credentials.allow_plain(endpoint.uri())?;
        endpoint.connect_with_connector(tcp()).await
    };
    let channel = connected.map_err(|source| {
        let url = url.to_owned();
        match hint(&source) {
            Some(hint) => Unconnected::Untrusted { url, hint, source },
            None => Unconnected::Unreachable { url, source },
        }
    })?;
    Ok(InterceptedService::new(channel, bearer))
}

type Failure = Box<dyn StdError + Send + Sync>;

/// Opens TCP connections, and tries all addresses of a host.
fn tcp() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector
}

/// Opens a TLS connection to the host and the port of `uri`.
async fn encrypted(uri: Uri, tls: TlsConnector) -> Result<TokioIo<TlsStream<TcpStream>>, Failure> {
    let name = ServerName::try_from(address::host(&uri).to_owned())?;
    let connection = tcp().ready().await?.call(uri).await?;
    let mut stream = tls.connect(name, connection.into_inner()).await?;
    // The coordinator checks the client's certificate after the handshake, and sends its first bytes after that.
    // Waiting for them makes its refusal an error of connecting, with the reason.
    // A proxy in between may wait for the client's first bytes, though.
    if let Ok(Err(error)) = timeout(FIRST_BYTES, stream.fill_buf()).await {
        return Err(error.into());
    }
    Ok(TokioIo::new(stream))
}

/// What to do about an error, if one side did not accept the certificate of the other one.
pub fn hint(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    Some(match tls_error(error)? {
        rustls::Error::InvalidCertificate(reason) => match reason {
            CertificateError::UnknownIssuer => {
                "the coordinator's certificate is not from an authority in `ca.crt` of --credentials"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the coordinator's certificate is for other names; `coordinator certs` adds names with --host"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the coordinator's certificate has expired; renew it, for example with `coordinator certs`"
            }
            _ => "the coordinator's certificate is not valid",
        },
        rustls::Error::AlertReceived(alert) => hint_of_alert(*alert),
        rustls::Error::InvalidMessage(_) => {
            "the coordinator may not use TLS; then its URL begins with http://"
        }
        _ => return None,
    })
}

/// What to do about an alert from the coordinator.
fn hint_of_alert(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CertificateRequired => {
            "the coordinator accepts only clients with a certificate; name its folder with --credentials"
        }
        AlertDescription::CertificateExpired => {
            "this client's certificate has expired; renew it, for example with `coordinator certs`"
        }
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "this client's certificate is not from an authority that the coordinator accepts"
        }
        _ => "the coordinator did not accept the connection",
    }
}

/// The error of TLS among the causes of an error.
fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // The source of an I/O error is the source of the error that it wraps.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(found) = wrapped.and_then(|wrapped| wrapped.downcast_ref()) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// The address of the coordinator that replaced the one that sent `status`, if it names one.
pub fn successor(status: &Status) -> Option<String> {
    Some(status.metadata().get(SUCCESSOR)?.to_str().ok()?.to_owned())
}

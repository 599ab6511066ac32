//! The listener: connections with or without TLS, and restarts on the same port.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::http::handle::handle;
use crate::state::Shared;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// A certificate for HTTPS.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The certificate chain, in DER.
    pub chain: Vec<Vec<u8>>,
    /// The private key, in DER: PKCS #8, PKCS #1 or SEC 1.
    pub key: Vec<u8>,
    /// The certificate of the authority that clients are to trust, in PEM.
    pub authority_pem: String,
}

/// A running listener. Dropping it closes the port and all connections.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Opens a port and serves the state on it.
    ///
    /// # Errors
    /// The port is taken, or the certificate cannot be used.
    pub(crate) fn start(
        shared: Arc<Shared>,
        address: SocketAddr,
        tls: Option<&Tls>,
    ) -> io::Result<Self> {
        let acceptor = tls.map(acceptor).transpose()?;
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A restarted server must get its port back while old connections are in TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        Ok(Self { address, task: tokio::spawn(accept(shared, listener, acceptor)) })
    }

    /// Closes the port and all connections, and waits until they are closed.
    pub(crate) async fn stop(mut self) {
        self.task.abort();
        // The task was aborted, which is what its end reports.
        let _ = (&mut self.task).await;
    }
}

fn acceptor(tls: &Tls) -> io::Result<TlsAcceptor> {
    let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidInput, error);
    let chain = tls.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let key =
        PrivateKeyDer::try_from(tls.key.clone()).map_err(|error| invalid(error.to_owned()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| invalid(error.to_string()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Accepts connections; the set of their tasks ends them when this task is aborted.
async fn accept(shared: Arc<Shared>, listener: TcpListener, acceptor: Option<TlsAcceptor>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                // Small answers must not wait for more data.
                let _ = stream.set_nodelay(true);
                let (shared, acceptor) = (shared.clone(), acceptor.clone());
                connections.spawn(async move {
                    match acceptor {
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(shared, stream).await;
                            }
                        }
                        None => serve(shared, stream).await,
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(shared: Arc<Shared>, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let service = service_fn(move |request| handle(shared.clone(), request));
    // A connection that breaks is the client's affair, or a fault that the test asked for.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

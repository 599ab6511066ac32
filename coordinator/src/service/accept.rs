//! Accepts connections: TLS, and the limits that keep strangers from using up the coordinator's connections.
//!
//! A connection is a *newcomer* until its first request that is allowed. A newcomer has [`TRIAL`] to make one, and
//! when there are more than [`NEWCOMERS`] of them, the oldest is closed. Idle connections, unfinished handshakes and
//! slow clients therefore cost neither workers nor users their connections. A connection is also closed when its
//! client's certificate expires.

use super::certificate::Holder;
use super::reload::Reloaded;
use rustls::ServerConfig;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Sleep, sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// How long a connection may take until its first request that is allowed.
const TRIAL: Duration = Duration::from_secs(10);
/// Number of connections that can be open without such a request.
const NEWCOMERS: usize = 1024;
/// Number of connections that can be open.
const CONNECTIONS: usize = 16_384;
/// Number of accepted connections that can wait for the server.
const READY: usize = 256;
/// The pause after an error of the listener, such as a lack of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Where a request comes from.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    /// The client's certificate, if the coordinator asks for one.
    pub(crate) certificate: Option<Arc<Holder>>,
    pub(crate) proof: Proof,
}

/// Whether a connection has made a request that is allowed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proof(Arc<AtomicBool>);

impl Proof {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// An accepted connection.
pub(crate) struct Accepted {
    stream: Stream,
    origin: Origin,
    /// `None` once the connection has proved itself.
    trial: Option<Trial>,
    expires: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

enum Stream {
    Plain(TcpStream),
    Encrypted(Box<TlsStream<TcpStream>>),
}

/// The time in which a newcomer must prove itself. It also ends if there are too many newcomers.
struct Trial {
    proof: Proof,
    over: Pin<Box<Sleep>>,
    evicted: oneshot::Receiver<()>,
}

/// Connections that have not proved themselves, oldest first.
#[derive(Clone, Default)]
struct Newcomers(Arc<Mutex<VecDeque<Newcomer>>>);

struct Newcomer {
    proof: Proof,
    /// Closes the connection when it is dropped.
    evict: oneshot::Sender<()>,
}

/// Accepts connections until the receiver is dropped.
pub(crate) fn accept(
    listener: TcpListener,
    tls: Option<Arc<Reloaded<ServerConfig>>>,
) -> mpsc::Receiver<Accepted> {
    let (ready, accepted) = mpsc::channel(READY);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let newcomers = Newcomers::default();
    tokio::spawn(async move {
        loop {
            let place =
                places.clone().acquire_owned().await.expect("the semaphore is never closed");
            let (stream, address) = tokio::select! {
                connection = listener.accept() => match connection {
                    Ok(connection) => connection,
                    Err(error) => {
                        tracing::warn!(%error, "a connection cannot be accepted");
                        sleep(PAUSE).await;
                        continue;
                    }
                },
                () = ready.closed() => return,
            };
            // An error means that the connection is gone already.
            let _ = stream.set_nodelay(true);
            let (tls, ready, trial) = (tls.clone(), ready.clone(), newcomers.begin());
            tokio::spawn(async move {
                match shake_hands(stream, address, tls, trial, place).await {
                    // The server may have ended.
                    Ok(accepted) => drop(ready.send(accepted).await),
                    Err(error) => tracing::debug!(%address, %error, "a connection was refused"),
                }
            });
        }
    });
    accepted
}

async fn shake_hands(
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<Arc<Reloaded<ServerConfig>>>,
    mut trial: Trial,
    place: OwnedSemaphorePermit,
) -> io::Result<Accepted> {
    let mut certificate = None;
    let stream = match tls {
        None => Stream::Plain(stream),
        Some(tls) => {
            let acceptor = TlsAcceptor::from(tls.current());
            let stream = tokio::select! {
                stream = acceptor.accept(stream) => stream?,
                error = trial.failed() => return Err(error),
            };
            let chain = stream.get_ref().1.peer_certificates();
            if let Some(first) = chain.and_then(|chain| chain.first()) {
                let holder = Holder::read(first).map_err(io::Error::other)?;
                certificate = Some(Arc::new(holder));
            }
            Stream::Encrypted(Box::new(stream))
        }
    };
    let expires = certificate.as_ref().map(|holder| Box::pin(sleep(holder.remaining())));
    let origin = Origin { address, certificate, proof: trial.proof.clone() };
    Ok(Accepted { stream, origin, trial: Some(trial), expires, _place: place })
}

impl Newcomers {
    /// Adds a newcomer, and closes the oldest one if there are too many.
    fn begin(&self) -> Trial {
        let proof = Proof::default();
        let (evict, evicted) = oneshot::channel();
        let mut list = self.0.lock().expect("nothing panics while it holds the lock");
        if list.len() >= NEWCOMERS {
            list.retain(|newcomer| !newcomer.proof.is_set() && !newcomer.evict.is_closed());
        }
        if list.len() >= NEWCOMERS {
            list.pop_front();
        }
        list.push_back(Newcomer { proof: proof.clone(), evict });
        Trial { proof, over: Box::pin(sleep(TRIAL)), evicted }
    }
}

impl Trial {
    /// Resolves when the connection has not proved itself in time.
    async fn failed(&mut self) -> io::Error {
        std::future::poll_fn(|context| self.poll_failed(context)).await
    }

    fn poll_failed(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        if self.over.as_mut().poll(context).is_ready() {
            let reason = "it has made no request that is allowed";
            return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, reason));
        }
        Pin::new(&mut self.evicted)
            .poll(context)
            .map(|_| io::Error::new(io::ErrorKind::TimedOut, "there are too many new connections"))
    }
}

impl Accepted {
    /// The address of the peer.
    pub(crate) fn address(&self) -> SocketAddr {
        self.origin.address
    }

    /// Returns an error if the connection may no longer be used.
    fn poll_ended(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        if self.origin.proof.is_set() {
            self.trial = None;
        }
        if let Some(trial) = &mut self.trial
            && let Poll::Ready(error) = trial.poll_failed(context)
        {
            return Poll::Ready(error);
        }
        match &mut self.expires {
            Some(expires) => expires.as_mut().poll(context).map(|()| {
                io::Error::new(io::ErrorKind::TimedOut, "the client's certificate has expired")
            }),
            None => Poll::Pending,
        }
    }
}

impl Connected for Accepted {
    type ConnectInfo = Origin;

    fn connect_info(&self) -> Origin {
        self.origin.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(error) = self.poll_ended(context) {
            return Poll::Ready(Err(error));
        }
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Encrypted(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Encrypted(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Encrypted(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Encrypted(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

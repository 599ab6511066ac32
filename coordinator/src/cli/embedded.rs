//! A coordinator inside this process, on the loopback, for `run`, `plan` and `inspect`.

use super::{Blame, Exit, Refusal};
use crate::runtime::handle::{Handle, Stopped};
use crate::runtime::{self, Runtime};
use crate::service::{self, Door};
use anyhow::{Context, anyhow};
use std::net::SocketAddr;
use std::time::Duration;
use storage::Storage;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};

/// How long the end of a command waits for background work in storage.
const SETTLE_TIME: Duration = Duration::from_secs(10);

/// Binds a port on the loopback without listening; 0 is any free port.
pub(super) fn reserve(port: u16) -> Result<TcpSocket, Refusal> {
    super::reserve(SocketAddr::from(([127, 0, 0, 1], port))).map_err(|error| busy(port, error))
}

/// Starts to listen on a bound port.
pub(super) fn listen(socket: TcpSocket) -> Result<TcpListener, Refusal> {
    let port = socket.local_addr().map_or(0, |address| address.port());
    socket.listen(super::BACKLOG).map_err(|error| busy(port, error))
}

fn busy(port: u16, error: std::io::Error) -> Refusal {
    let error = anyhow::Error::from(error).context(format!(
        "cannot listen on port {port} of the loopback\nhint: leave --port out to use any free port"
    ));
    Refusal { exit: Exit::User, error }
}

/// The URL of a coordinator that listens there, for this host.
pub(super) fn url(listener: &TcpListener) -> Result<String, Refusal> {
    let address = listener.local_addr().blame(Exit::Infrastructure)?;
    Ok(format!("http://{address}"))
}

/// Opens a spec's output, and checks that it answers.
pub(super) async fn output(spec: &proto::spec::Spec) -> Result<Storage, Refusal> {
    let storage = Storage::open(&spec.output().to_string())
        .context("output\nhint: name a folder that this user can write to")
        .blame(Exit::User)?;
    super::probe(&storage, "output").await?;
    Ok(storage)
}

/// A running coordinator and its server.
pub(super) struct Embedded {
    pub(super) handle: Handle,
    /// The URL for its workers.
    pub(super) url: String,
    coordinator: JoinHandle<Result<(), runtime::Error>>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    /// Shuts down the server when dropped.
    _shutdown: oneshot::Sender<()>,
}

impl Embedded {
    /// Starts `runtime`, and a server for its workers at `listener`.
    pub(super) fn start(
        runtime: Runtime,
        handle: Handle,
        listener: TcpListener,
    ) -> Result<Self, Refusal> {
        let url = url(&listener)?;
        Ok(Self::start_at(url, Door::open(), runtime, handle, listener))
    }

    /// The same for workers that reach it at `url`, if `door` lets them in.
    pub(super) fn start_at(
        url: String,
        door: Door,
        runtime: Runtime,
        handle: Handle,
        listener: TcpListener,
    ) -> Self {
        let (shutdown, shut) = oneshot::channel::<()>();
        let server = tokio::spawn(service::serve(listener, door, handle.clone(), async {
            // The sender is dropped to shut down.
            let _ = shut.await;
        }));
        let coordinator = tokio::spawn(runtime.run());
        Self { handle, url, coordinator, server, _shutdown: shutdown }
    }

    /// Returns the outcome of `work`, or the coordinator's error if it stops meanwhile: work that waits for its answer
    /// only learns that it has stopped.
    pub(super) async fn work<T>(
        &mut self,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        tokio::select! {
            outcome = work => match outcome {
                Err(refusal) if refusal.error.is::<Stopped>() => {}
                outcome => return outcome,
            },
            error = self.stopped() => return Err(error).blame(Exit::Infrastructure),
        }
        Err(self.stopped().await).blame(Exit::Infrastructure)
    }

    /// Waits until the coordinator stops by itself, which is always an error, and returns the reason.
    pub(super) async fn stopped(&mut self) -> anyhow::Error {
        match (&mut self.coordinator).await {
            Ok(Err(error)) => error.into(),
            Ok(Ok(())) | Err(JoinError { .. }) => {
                anyhow!("the coordinator stopped; its log says why")
            }
        }
    }

    /// Closes the coordinator, which dismisses its workers once no run is left.
    pub(super) async fn close(&self) {
        // The coordinator may have stopped by itself.
        let _ = self.handle.close().await;
    }

    /// Waits until background work in storage is done, such as the deletion of old checkpoints.
    pub(super) async fn settled(&self) {
        // After a timeout, the next checkpoint of the run or `checkpoint prune` deletes what is left.
        let _ = tokio::time::timeout(SETTLE_TIME, self.handle.settled()).await;
    }

    /// Stops the server.
    pub(super) fn end(self) {
        self.server.abort();
    }
}

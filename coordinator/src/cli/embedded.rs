//! A coordinator inside this process, on the loopback: what `run`, `plan` and `inspect` work with.

use super::{Blame, Exit, Refusal};
use crate::runtime::handle::{Handle, Stopped};
use crate::runtime::{self, Runtime};
use crate::service;
use anyhow::{Context, anyhow};
use std::net::SocketAddr;
use std::time::Duration;
use storage::Storage;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};

/// For work in storage that a run has left.
const FAREWELL: Duration = Duration::from_secs(10);

/// A port on the loopback, where nobody is answered yet; 0 is a free one.
pub(super) fn reserve(port: u16) -> Result<TcpSocket, Refusal> {
    super::reserve(SocketAddr::from(([127, 0, 0, 1], port))).map_err(|error| busy(port, error))
}

/// Begins to answer there.
pub(super) fn listen(socket: TcpSocket) -> Result<TcpListener, Refusal> {
    let port = socket.local_addr().map_or(0, |address| address.port());
    socket.listen(super::BACKLOG).map_err(|error| busy(port, error))
}

fn busy(port: u16, error: std::io::Error) -> Refusal {
    let error = anyhow::Error::from(error).context(format!(
        "port {port} on the loopback cannot be listened on\nhint: leave --port out for a free one"
    ));
    Refusal { exit: Exit::User, error }
}

/// Where a coordinator that listens there is found from this host.
pub(super) fn url(listener: &TcpListener) -> Result<String, Refusal> {
    let address = listener.local_addr().blame(Exit::Infrastructure)?;
    Ok(format!("http://{address}"))
}

/// The place that a spec's output names, which answers and can be written to.
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
    /// Where its workers find it.
    pub(super) url: String,
    coordinator: JoinHandle<Result<(), runtime::Error>>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    /// Dropped, it shuts the server.
    _shutdown: oneshot::Sender<()>,
}

impl Embedded {
    /// Starts `runtime`, whose workers come to `listener`.
    pub(super) fn start(
        runtime: Runtime,
        handle: Handle,
        listener: TcpListener,
    ) -> Result<Self, Refusal> {
        let url = url(&listener)?;
        let (shutdown, shut) = oneshot::channel::<()>();
        let server = tokio::spawn(service::serve(listener, handle.clone(), async {
            // Dropped or sent, it is time.
            let _ = shut.await;
        }));
        Ok(Self {
            handle,
            url,
            coordinator: tokio::spawn(runtime.run()),
            server,
            _shutdown: shutdown,
        })
    }

    /// What `work` with it comes to; if it stops by itself meanwhile, why it did. Who waits for its answer learns only
    /// that there will be none.
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

    /// Done when the coordinator stops by itself, which it never should; says why.
    pub(super) async fn stopped(&mut self) -> anyhow::Error {
        match (&mut self.coordinator).await {
            Ok(Err(error)) => error.into(),
            Ok(Ok(())) | Err(JoinError { .. }) => {
                anyhow!("the coordinator stopped; its log says why")
            }
        }
    }

    /// Ends it: workers are dismissed once nothing is left to do.
    pub(super) async fn close(&self) {
        // It may have stopped by itself.
        let _ = self.handle.close().await;
    }

    /// Waits for what it still has to do in storage: old checkpoints go, if their store lets them.
    pub(super) async fn settled(&self) {
        // What stays behind goes with the run's next checkpoint, or with `checkpoint prune`.
        let _ = tokio::time::timeout(FAREWELL, self.handle.settled()).await;
    }

    /// Takes the server away.
    pub(super) fn end(self) {
        self.server.abort();
    }
}

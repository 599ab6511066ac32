//! Workers' streams: reports in, directives out.

use super::access::Caller;
use super::{Reply, Sent, Service, caller, replaced};
use crate::core::Stream;
use crate::runtime::handle::Handle;
use proto::protocol::Report;
use std::sync::atomic::Ordering;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use wire::workers_server::Workers;

/// Number of directives that can wait for a worker to read them.
const DIRECTIVES: usize = 16;

#[tonic::async_trait]
impl Workers for Service {
    type SessionStream = Sent<wire::Directive>;

    async fn session(
        &self,
        request: Request<tonic::Streaming<wire::Report>>,
    ) -> Reply<Self::SessionStream> {
        let stream = Stream(self.streams.fetch_add(1, Ordering::Relaxed));
        let caller = caller(&request)?;
        let (sender, receiver) = mpsc::channel(DIRECTIVES);
        let attached = self.handle.attach(stream, sender).await;
        attached.map_err(|e| self.gone(e))?;
        let (refuse, mut refused) = oneshot::channel();
        let handle = self.handle.clone();
        let reports = request.into_inner();
        tokio::spawn(async move {
            if let Err(status) = receive(reports, stream, &caller, &handle).await {
                // The worker may be gone.
                let _ = refuse.send(status);
            }
            // The coordinator may have stopped in the meantime.
            let _ = handle.hangup(stream).await;
        });
        let directives = ReceiverStream::new(receiver).map(|d| Ok(wire::Directive::from(d)));
        let handle = self.handle.clone();
        // Why the stream has ended.
        let reason = tokio_stream::once(()).filter_map(move |()| {
            let refused = refused.try_recv().ok();
            refused.or_else(|| replaced(&handle)).map(Err)
        });
        Ok(Response::new(Box::pin(directives.chain(reason))))
    }
}

/// Passes on the reports of a worker until its stream ends.
///
/// # Errors
/// The status for a worker that is not allowed to join, or that sends an invalid report.
async fn receive(
    mut reports: tonic::Streaming<wire::Report>,
    stream: Stream,
    caller: &Caller,
    handle: &Handle,
) -> Result<(), Status> {
    // An error means that the connection broke.
    while let Ok(Some(report)) = reports.message().await {
        let report = Report::try_from(report).map_err(|error| {
            tracing::warn!(%error, "a worker sent an invalid message");
            Status::invalid_argument(error.to_string())
        })?;
        if let Report::Hello(hello) = &report {
            let worker = hello.worker.as_str();
            caller.check_worker(worker).inspect_err(|status| {
                let why = status.message();
                tracing::warn!(worker, caller = caller.name, why, "refused a worker");
            })?;
        }
        if handle.reported(stream, report).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

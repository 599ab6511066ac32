//! The gRPC services: they convert wire types to domain types and call the runtime.
//!
//! ```text
//! connection --> accept ---------------> access -------------------> the services of this module
//!                TLS, limits             what the caller may do
//!                  ^                       ^           ^
//!                door: files             certificate  tokens
//! ```

mod accept;
mod access;
pub(crate) mod certificate;
mod door;
pub(crate) mod grants;
mod reload;
mod reviews;
mod session;
pub(crate) mod tokens;

pub(crate) use accept::{Accepted, accept};
pub use door::{Door, Error};

use crate::core::{SourceFigures, WorkerStatus};
use crate::data::sources;
use crate::runtime::feed::Stamped;
use crate::runtime::handle::{Handle, Overview, Seen, Stopped};
use access::Caller;
use axum::middleware::from_fn_with_state;
use proto::event::Failure;
use proto::id::RunId;
use proto::spec::Spec;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream as Streaming, StreamExt};
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status};
use wire::connect::SUCCESSOR;
use wire::runs_server::{Runs, RunsServer};
use wire::workers_server::WorkersServer;

/// Maximum size of a request or a report.
const MESSAGE_BYTES: usize = 4 << 20;
/// Maximum number of concurrent requests on one connection.
const REQUESTS: u32 = 128;
/// Maximum size of a request's headers.
const HEADER_BYTES: u32 = 16 << 10;
/// Number of notices that can wait for a watcher to read them.
const NOTICES: usize = 256;

type Reply<T> = Result<Response<T>, Status>;
type Sent<T> = Pin<Box<dyn Streaming<Item = Result<T, Status>> + Send>>;

struct Service {
    handle: Handle,
    streams: Arc<AtomicU64>,
}

/// Serves those whom `door` lets in, until `shutdown` completes.
///
/// # Errors
/// An error of the server as a whole.
pub async fn serve(
    listener: TcpListener,
    door: Door,
    handle: Handle,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let streams = Arc::new(AtomicU64::new(1));
    let service = || Service { handle: handle.clone(), streams: streams.clone() };
    let runs = RunsServer::new(service()).max_decoding_message_size(MESSAGE_BYTES);
    let workers = WorkersServer::new(service()).max_decoding_message_size(MESSAGE_BYTES);
    let (health, health_server) = tonic_health::server::health_reporter();
    health.set_serving::<RunsServer<Service>>().await;
    health.set_serving::<WorkersServer<Service>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(wire::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors are valid");
    let services = Routes::new(runs)
        .add_service(workers)
        .add_service(health_server)
        .add_service(reflection)
        .into_axum_router();
    let guarded = services.layer(from_fn_with_state(door.access, access::guard));
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .http2_max_header_list_size(HEADER_BYTES)
        .max_concurrent_streams(REQUESTS)
        .add_routes(Routes::from(guarded))
        .serve_with_incoming_shutdown(
            ReceiverStream::new(accept(listener, door.grpc)).map(Ok::<_, std::io::Error>),
            shutdown,
        )
        .await
}

impl Service {
    /// The answer once this coordinator has stopped. It names the successor, if there is one.
    fn gone(&self, error: Stopped) -> Status {
        replaced(&self.handle).unwrap_or_else(|| Status::unavailable(error.to_string()))
    }

    /// Checks that the caller may change a run. An unknown run is left to the caller's request.
    async fn check_change(&self, caller: &Caller, run: &RunId) -> Result<(), Status> {
        let overview = self.handle.overview().await.map_err(|e| self.gone(e))?;
        match overview.runs.iter().find(|seen| seen.status.run == *run) {
            Some(seen) => caller.check_change(seen.status.submitter.as_deref()),
            None => Ok(()),
        }
    }
}

/// The party that makes a request, as the guard has found out.
fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request
        .extensions()
        .get()
        .cloned()
        .ok_or_else(|| Status::internal("the request was not checked"))
}

/// The error that names the coordinator that has replaced this one; `None` if none has.
fn replaced(handle: &Handle) -> Option<Status> {
    let successor = handle.successor()?.parse().ok()?;
    let mut metadata = MetadataMap::new();
    metadata.insert(SUCCESSOR, successor);
    let message = "another coordinator has replaced this one";
    Some(Status::with_metadata(Code::Unavailable, message, metadata))
}

#[tonic::async_trait]
impl Runs for Service {
    async fn submit(&self, request: Request<wire::SubmitRequest>) -> Reply<wire::SubmitReply> {
        let by = caller(&request)?.name;
        let wire::SubmitRequest { spec_yaml, idempotency_key } = request.into_inner();
        if !(1..=128).contains(&idempotency_key.len()) {
            let n = idempotency_key.len();
            return Err(Status::invalid_argument(format!(
                "`idempotency_key` must have 1 to 128 bytes, has {n}"
            )));
        }
        let spec = Spec::from_resolved(&spec_yaml)
            .map_err(|e| Status::invalid_argument(format!("`spec_yaml`: {e}")))?;
        let spec = sources::pin(spec).await.map_err(|fault| match fault.kind {
            Failure::User | Failure::Data => Status::invalid_argument(fault.message),
            Failure::Infrastructure => Status::unavailable(fault.message),
        })?;
        let run = self.handle.submit(spec, idempotency_key, by).await.map_err(|e| self.gone(e))?;
        let run = run.map_err(Status::failed_precondition)?.to_string();
        Ok(Response::new(wire::SubmitReply { run, attempt: 1 }))
    }

    async fn resume(&self, request: Request<wire::ResumeRequest>) -> Reply<wire::SubmitReply> {
        let caller = caller(&request)?;
        let wire::ResumeRequest { run, spec_yaml } = request.into_inner();
        let run = RunId::new(run);
        self.check_change(&caller, &run).await?;
        let spec_yaml = (!spec_yaml.is_empty()).then_some(spec_yaml);
        let resumed = self.handle.resume(run, spec_yaml, caller.name).await;
        let resumed = resumed.map_err(|e| self.gone(e))?;
        let (run, attempt) = resumed.map_err(Status::failed_precondition)?;
        Ok(Response::new(wire::SubmitReply { run: run.to_string(), attempt }))
    }

    async fn list(&self, _: Request<wire::ListRequest>) -> Reply<wire::ListReply> {
        let overview = self.handle.overview().await.map_err(|e| self.gone(e))?;
        let runs = overview.runs.iter().map(|run| to_wire(run, &overview)).collect();
        let workers = overview.workers.iter().map(|w| worker(w, &overview)).collect();
        Ok(Response::new(wire::ListReply { runs, workers }))
    }

    async fn status(&self, request: Request<wire::StatusRequest>) -> Reply<wire::RunStatus> {
        let run = RunId::new(request.into_inner().run);
        let overview = self.handle.overview().await.map_err(|e| self.gone(e))?;
        let found = overview.runs.iter().find(|seen| seen.status.run == run);
        found.map(|seen| Response::new(to_wire(seen, &overview))).ok_or_else(|| unknown(&run))
    }

    type WatchStream = Sent<wire::Notice>;

    async fn watch(&self, request: Request<wire::WatchRequest>) -> Reply<Self::WatchStream> {
        let wire::WatchRequest { run, after_ms } = request.into_inner();
        let run = RunId::new(run);
        let watch = self.handle.watch(run.clone(), after_ms).await.map_err(|e| self.gone(e))?;
        let watch = watch.map_err(Status::failed_precondition)?;
        let mut watch = watch.ok_or_else(|| unknown(&run))?;
        let (sender, receiver) = mpsc::channel(NOTICES);
        let handle = self.handle.clone();
        tokio::spawn(async move {
            // After an end, more notices follow if the run was resumed.
            let over = watch.past.last().is_some_and(|last| last.notice.last());
            for notice in watch.past {
                if sender.send(Ok(to_json(&notice))).await.is_err() {
                    return;
                }
            }
            if over && watch.now.is_empty() {
                return;
            }
            loop {
                let notice = match watch.now.recv().await {
                    Ok(notice) => notice,
                    Err(broadcast::error::RecvError::Lagged(_)) => continue,
                    Err(broadcast::error::RecvError::Closed) => break,
                };
                let sent = sender.send(Ok(to_json(&notice))).await;
                if sent.is_err() || notice.notice.last() {
                    return;
                }
            }
            if let Some(status) = replaced(&handle) {
                // The watcher may have disconnected.
                let _ = sender.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn cancel(&self, request: Request<wire::CancelRequest>) -> Reply<wire::CancelReply> {
        let caller = caller(&request)?;
        let run = RunId::new(request.into_inner().run);
        self.check_change(&caller, &run).await?;
        let answer = self.handle.cancel(run.clone(), caller.name).await;
        let answer = answer.map_err(|e| self.gone(e))?;
        answer.map_err(Status::not_found)?;
        let overview = self.handle.overview().await.map_err(|e| self.gone(e))?;
        let phase = overview.runs.iter().find(|seen| seen.status.run == run);
        let phase = phase.map_or("cancelled", |seen| seen.status.phase).to_owned();
        Ok(Response::new(wire::CancelReply { phase }))
    }

    async fn holds(&self, request: Request<wire::HoldsRequest>) -> Reply<wire::HoldsReply> {
        let run = request.into_inner().run;
        let run = (!run.is_empty()).then(|| RunId::new(run));
        let token = self.handle.holds(run).await.map_err(|e| self.gone(e))?.unwrap_or_default();
        Ok(Response::new(wire::HoldsReply { token }))
    }
}

fn to_json(notice: &Stamped) -> wire::Notice {
    wire::Notice { json: serde_json::to_string(notice).expect("notices are JSON") }
}

fn unknown(run: &RunId) -> Status {
    Status::not_found(format!("there is no run `{run}`"))
}

fn source_loss((name, figures): (String, SourceFigures)) -> wire::SourceLoss {
    let SourceFigures { loss, trained_tokens } = figures;
    wire::SourceLoss { name, loss, trained_tokens }
}

fn to_wire(seen: &Seen, overview: &Overview) -> wire::RunStatus {
    let status = seen.status.clone();
    let incident = status.last_incident;
    let since = |at: Duration| overview.began_ms + millis(at);
    wire::RunStatus {
        run: status.run.to_string(),
        name: status.name,
        phase: status.phase.into(),
        detail: status.detail,
        generation: status.generation.0,
        lineage: status.lineage.0,
        step: status.step,
        steps: status.steps,
        workers: status.workers.iter().map(ToString::to_string).collect(),
        checkpoint_step: status.checkpoint_step.unwrap_or(0),
        model: status.model.unwrap_or_default(),
        loss: status.loss,
        sources: status.sources.into_iter().map(source_loss).collect(),
        attempt: status.attempt,
        submitted_ms: seen.submitted_ms,
        tokens_per_second: status.tokens_per_second.unwrap_or(0.0),
        eta_ms: status.eta.map_or(0, millis),
        last_incident_ms: incident.as_ref().and_then(|i| i.at).map_or(0, since),
        last_incident: incident.map(|i| i.message).unwrap_or_default(),
        troubled: status.troubled.iter().map(|w| worker(w, overview)).collect(),
        submitter: status.submitter.unwrap_or_default(),
    }
}

fn worker(status: &WorkerStatus, overview: &Overview) -> wire::WorkerStatus {
    let retry_in = |at: Duration| millis(at.saturating_sub(overview.now)).max(1);
    wire::WorkerStatus {
        worker: status.worker.to_string(),
        state: status.state.into(),
        run: status.run.as_ref().map(ToString::to_string).unwrap_or_default(),
        rank: status.rank,
        trouble: status.trouble.clone().unwrap_or_default(),
        retry_in_ms: status.retry_at.map_or(0, retry_in),
        ring: status.ring.clone(),
    }
}

fn millis(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
}

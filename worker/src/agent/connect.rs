//! The stream to the coordinator: opens it, reopens it when it ends, and follows the coordinator to a new address.

use super::{Event, REPORTS};
use proto::id::WorkerId;
use proto::protocol::{Directive, Duty};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use wire::connect::{self, Options};
use wire::credentials::Credentials;
use wire::workers_client::WorkersClient;

/// The longest pause between two attempts to reach the coordinator.
const RECONNECT: Duration = Duration::from_secs(1);
/// The pause after the coordinator has refused this worker's credentials, which somebody must renew first.
const REFUSED: Duration = Duration::from_secs(5);
/// Number of reasons for a missing connection that are remembered, so that each is logged once.
const DISTINCT: usize = 16;

/// Keeps a stream to the coordinator open.
pub(super) struct Connection {
    /// The slot of this worker.
    pub(super) slot: WorkerId,
    /// The coordinator's URL when this process started.
    pub(super) coordinator: String,
    pub(super) credentials: Credentials,
    /// Receives the sending end of each new stream.
    pub(super) connected: mpsc::Sender<mpsc::Sender<wire::Report>>,
    /// Receives the directives, and the end of each stream.
    pub(super) events: mpsc::Sender<Event>,
    /// Receives the URL of each coordinator that replaced the previous one.
    pub(super) moved: watch::Sender<String>,
}

/// How a stream ended.
enum Ending {
    /// The agent has ended, so no stream is needed any more.
    AgentGone,
    /// The coordinator does not accept this worker yet, for this reason.
    NotNow(String),
    /// The coordinator at this URL has replaced the one that was asked.
    Moved(String),
    /// The coordinator does not accept this worker's credentials, for this reason.
    Refused(String),
    /// The stream broke. `heard` is whether the coordinator had sent a directive on it.
    Broken { heard: bool, error: Error },
}

type Error = Box<dyn std::error::Error + Send + Sync>;

impl Connection {
    /// Opens one stream after another and hands each to the agent, until the agent ends. After a move, the
    /// successor's address and the original one are tried in turn whenever a connection breaks.
    pub(super) async fn keep_open(self) {
        let slot = &self.slot;
        let mut logged = BTreeSet::new();
        let (mut here, mut there) = (self.coordinator.clone(), self.coordinator.clone());
        loop {
            match self.session(&here).await {
                Ending::AgentGone => return,
                Ending::NotNow(reason) => {
                    if is_new(&mut logged, &reason) {
                        tracing::warn!(
                            %slot,
                            coordinator = here,
                            reason,
                            "the coordinator does not accept this worker yet; retrying"
                        );
                    }
                }
                Ending::Refused(why) => {
                    if is_new(&mut logged, &why) {
                        let coordinator = &here;
                        tracing::error!(%slot, coordinator, why, "credentials refused; retrying");
                    }
                    tokio::time::sleep(REFUSED).await;
                }
                Ending::Moved(successor) => {
                    tracing::info!(
                        %slot,
                        coordinator = here,
                        successor,
                        "moving to another coordinator"
                    );
                    self.moved.send_replace(successor.clone());
                    (here, there) = (successor, self.coordinator.clone());
                }
                Ending::Broken { heard: true, error } => {
                    logged.clear();
                    let why = proto::error::chain(&*error);
                    tracing::info!(%slot, coordinator = here, why, "lost the connection");
                    std::mem::swap(&mut here, &mut there);
                }
                Ending::Broken { heard: false, error } => {
                    let why = proto::error::chain(&*error);
                    if is_new(&mut logged, &why) {
                        let coordinator = &here;
                        tracing::warn!(%slot, coordinator, why, "cannot connect; retrying");
                    }
                    std::mem::swap(&mut here, &mut there);
                }
            }
            pause().await;
        }
    }

    /// Opens one stream and follows it to its end.
    async fn session(&self, coordinator: &str) -> Ending {
        let channel = match connect::channel(coordinator, &self.credentials, Options::STREAM).await
        {
            Ok(channel) => channel,
            Err(error) => return Ending::of(error.brief(), false),
        };
        let (reports, outgoing) = mpsc::channel(REPORTS);
        if self.connected.send(reports).await.is_err() {
            return Ending::AgentGone;
        }
        let mut heard = false;
        let followed = self.follow(coordinator, channel, outgoing, &mut heard).await;
        // The agent may have ended meanwhile.
        let _ = self.events.send(Event::Disconnected).await;
        followed.unwrap_or_else(|error| Ending::of(error, heard))
    }

    /// Passes on the coordinator's directives until the stream ends.
    async fn follow(
        &self,
        coordinator: &str,
        channel: connect::Connection,
        outgoing: mpsc::Receiver<wire::Report>,
        heard: &mut bool,
    ) -> Result<Ending, Error> {
        let mut client = WorkersClient::new(channel);
        let mut directives = client.session(ReceiverStream::new(outgoing)).await?.into_inner();
        while let Some(directive) = directives.message().await? {
            let directive = Directive::try_from(directive)?;
            if let Duty::NotNow { reason } = directive.duty {
                return Ok(Ending::NotNow(reason));
            }
            if !std::mem::replace(heard, true) {
                tracing::info!(slot = %self.slot, coordinator, "connected");
            }
            if self.events.send(Event::Directed(directive)).await.is_err() {
                return Ok(Ending::AgentGone);
            }
        }
        Err("the coordinator ended the stream".into())
    }
}

impl Ending {
    fn of(error: Error, heard: bool) -> Self {
        if let Some(status) = error.downcast_ref::<Status>() {
            if let Some(url) = connect::successor(status) {
                return Self::Moved(url);
            }
            if let Code::Unauthenticated | Code::PermissionDenied = status.code() {
                return Self::Refused(status.message().to_owned());
            }
        }
        Self::Broken { heard, error }
    }
}

/// Waits between two attempts. The pause is jittered, so that a whole pool does not reconnect at the same moment.
pub(crate) async fn pause() {
    let jitter = u64::from_str_radix(&proto::id::unique()[..4], 16).unwrap_or(0) % 512;
    tokio::time::sleep(RECONNECT / 2 + Duration::from_millis(jitter)).await;
}

/// Whether `text` has not been logged recently.
fn is_new(logged: &mut BTreeSet<String>, text: &str) -> bool {
    if logged.len() >= DISTINCT {
        logged.clear();
    }
    logged.insert(text.to_owned())
}

//! The stream to the coordinator: opened, followed wherever the coordinator has moved, opened again when it ends.

use super::{Event, REPORTS};
use proto::id::WorkerId;
use proto::protocol::{Directive, Duty};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use wire::connect::{self, Options};
use wire::workers_client::WorkersClient;

/// The longest wait between two attempts to reach the coordinator.
const RECONNECT: Duration = Duration::from_secs(1);
/// Reasons for being without a coordinator that are remembered, so that each is said once.
const DISTINCT: usize = 16;

/// What keeps a stream open.
pub(super) struct Connection {
    /// Whose it is.
    pub(super) slot: WorkerId,
    /// Where the coordinator is, or was when this process began.
    pub(super) coordinator: String,
    /// Gets the sending end of each new stream.
    pub(super) connected: mpsc::Sender<mpsc::Sender<wire::Report>>,
    /// Gets the directives.
    pub(super) events: mpsc::Sender<Event>,
    /// Gets the place to which the coordinator has moved.
    pub(super) moved: watch::Sender<String>,
}

/// How a stream ended.
enum Ending {
    /// Nobody here needs another.
    AgentGone,
    /// The coordinator does not want this worker yet, for this reason.
    NotNow(String),
    /// Another coordinator has its place: this one.
    Moved(String),
    /// Otherwise, after the coordinator had spoken or before.
    Broken { heard: bool, error: Error },
}

type Error = Box<dyn std::error::Error + Send + Sync>;

impl Connection {
    /// Hands over one stream after the other. Where another coordinator has the place of the one, the stream goes
    /// there; if nobody answers at the one, the other is tried in turn.
    pub(super) async fn keep_open(self) {
        let slot = &self.slot;
        let mut said = BTreeSet::new();
        let (mut here, mut there) = (self.coordinator.clone(), self.coordinator.clone());
        loop {
            match self.session(&here).await {
                Ending::AgentGone => return,
                Ending::NotNow(reason) => {
                    if is_new(&mut said, &reason) {
                        tracing::warn!(
                            %slot,
                            coordinator = here,
                            reason,
                            "the coordinator does not take this worker yet; trying again"
                        );
                    }
                }
                Ending::Moved(successor) => {
                    tracing::info!(
                        %slot,
                        coordinator = here,
                        successor,
                        "going over to another coordinator"
                    );
                    self.moved.send_replace(successor.clone());
                    (here, there) = (successor, self.coordinator.clone());
                }
                Ending::Broken { heard: true, error } => {
                    said.clear();
                    let why = proto::error::chain(&*error);
                    tracing::info!(%slot, coordinator = here, why, "lost the connection");
                    std::mem::swap(&mut here, &mut there);
                }
                Ending::Broken { heard: false, error } => {
                    let why = proto::error::chain(&*error);
                    if is_new(&mut said, &why) {
                        let coordinator = &here;
                        tracing::warn!(%slot, coordinator, why, "no connection; trying again");
                    }
                    std::mem::swap(&mut here, &mut there);
                }
            }
            pause().await;
        }
    }

    /// One stream, from its opening to its end.
    async fn session(&self, coordinator: &str) -> Ending {
        let channel = match connect::channel(coordinator, Options::STREAM).await {
            Ok(channel) => channel,
            Err(error) => return Ending::of(error.into_source().into(), false),
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

    /// Passes on what the coordinator directs, until the stream ends.
    async fn follow(
        &self,
        coordinator: &str,
        channel: Channel,
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
        match error.downcast_ref().and_then(connect::successor) {
            Some(url) => Self::Moved(url),
            None => Self::Broken { heard, error },
        }
    }
}

/// Between two attempts. Jittered, so that a whole pool does not come back in one moment.
pub(crate) async fn pause() {
    let jitter = u64::from_str_radix(&proto::id::unique()[..4], 16).unwrap_or(0) % 512;
    tokio::time::sleep(RECONNECT / 2 + Duration::from_millis(jitter)).await;
}

/// Whether something is to be said: it has not been, of late.
fn is_new(said: &mut BTreeSet<String>, text: &str) -> bool {
    if said.len() >= DISTINCT {
        said.clear();
    }
    said.insert(text.to_owned())
}

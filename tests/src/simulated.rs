//! A simulated worker: it sends a hello and beats, and ignores its duties.

use anyhow::{Context, Result};
use proto::id::{Incarnation, WorkerId};
use proto::protocol::{Hello, Phase, Report};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval_at};
use tokio_stream::wrappers::ReceiverStream;
use wire::connect::{self, Connection, Options};
use wire::credentials::Credentials;
use wire::workers_client::WorkersClient;

/// The settings of a simulated worker.
pub struct Simulated {
    /// Name of the worker.
    pub name: String,
    /// The address that it gives for its peers.
    pub ring: String,
    /// Reports that follow the hello.
    pub reports: Vec<Report>,
    /// The time between two beats; `None` follows the directives.
    pub beat: Option<Duration>,
    /// The time before the first beat.
    pub delay: Duration,
}

impl Simulated {
    /// The hello of a worker with this name and ring address.
    pub fn hello(name: &str, ring: &str) -> Report {
        Report::Hello(Hello {
            protocol: proto::PROTOCOL,
            worker: WorkerId::new(name),
            incarnation: Incarnation::new(proto::id::unique()),
            device: "cpu".into(),
            threads: 1,
            ring: ring.into(),
            attachment: None,
            last_end: None,
        })
    }

    /// Opens the worker's stream. The worker beats until the task is aborted or the stream ends.
    ///
    /// # Errors
    /// The coordinator does not accept the stream.
    pub async fn connect(self, channel: Connection) -> Result<JoinHandle<()>> {
        let Self { name, ring, reports: more, beat, delay } = self;
        let (reports, outgoing) = mpsc::channel::<wire::Report>(1 + more.len());
        let hello = Self::hello(&name, &ring);
        for report in std::iter::once(hello).chain(more) {
            reports.send(report.into()).await?;
        }
        let session = WorkersClient::new(channel).session(ReceiverStream::new(outgoing)).await;
        let mut directives = session.context("a stream")?.into_inner();
        Ok(tokio::spawn(async move {
            let mut interval = beat.unwrap_or(Duration::from_millis(500));
            let mut beats = interval_at(Instant::now() + delay, interval);
            loop {
                tokio::select! {
                    _ = beats.tick() => {
                        let beat = Report::Beat { step: 0, phase: Phase::Idle, collective: 0 };
                        if reports.send(beat.into()).await.is_err() {
                            return;
                        }
                    }
                    directive = directives.message() => match directive {
                        Ok(Some(directive)) if beat.is_none() => {
                            let directed = Duration::from_millis(directive.beat_ms);
                            if std::mem::replace(&mut interval, directed) != directed {
                                beats = interval_at(Instant::now() + directed, directed);
                            }
                        }
                        Ok(Some(_)) => {}
                        Ok(None) | Err(_) => return,
                    },
                }
            }
        }))
    }
}

/// A connection to the coordinator at `url`.
///
/// # Errors
/// No connection can be made.
pub async fn channel(url: &str, credentials: &Credentials) -> Result<Connection> {
    Ok(connect::channel(url, credentials, Options::STREAM).await?)
}

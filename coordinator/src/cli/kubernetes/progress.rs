//! Reports a run's progress to Kubeflow Trainer, which shows it in the status of the TrainJob.
//!
//! Trainer (from 2.2, with the feature gate `TrainJobStatus`) sets variables in the pods of a TrainJob: a URL, and the
//! files of an authority and of a token. Both files are renewed while the pod runs, so they are read for each report.
//! A report that fails costs a warning, and never the run.

use crate::cli::{Exit, follow};
use crate::core::Notice;
use crate::runtime::feed::Watch;
use anyhow::{Context, ensure};
use chrono::{SecondsFormat, Utc};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Certificate, Client};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// The shortest time between two reports.
const EVERY: Duration = Duration::from_secs(5);
/// How long a report may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Where reports go.
pub(super) struct Trainer {
    url: String,
    authority: PathBuf,
    token: PathBuf,
}

/// What is known of the run.
#[derive(Clone, Debug, Default, PartialEq)]
struct Known {
    step: u64,
    steps: u64,
    loss: Option<f64>,
    learning_rate: Option<f64>,
    eval_loss: Option<f64>,
    remaining: Option<Duration>,
}

impl Trainer {
    /// The server that the environment names, if it names one.
    pub(super) fn from_env() -> Option<Self> {
        let variable = |name: &str| {
            let value = std::env::var(format!("KUBEFLOW_TRAINER_SERVER_{name}")).ok();
            value.filter(|value| !value.is_empty())
        };
        let [url, authority, token] = ["URL", "CA_CERT", "TOKEN"].map(variable);
        let trainer = Self { url: url?, authority: authority?.into(), token: token?.into() };
        // The TLS library of the process, unless a store has set it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Some(trainer)
    }

    /// Reports what `watch` shows until the run ends, and the end.
    pub(super) async fn report(self, mut watch: Watch) {
        let mut known = Known::default();
        let mut reported = known.clone();
        let mut pace = None;
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for past in std::mem::take(&mut watch.past) {
            known.note(&past.notice, &mut pace);
        }
        loop {
            tokio::select! {
                notice = watch.now.recv() => match notice {
                    Ok(notice) => {
                        known.note(&notice.notice, &mut pace);
                        match follow::end(&notice.notice) {
                            Some(Ok(Exit::Done)) => return self.post(&known, true).await,
                            Some(_) => return,
                            None => {}
                        }
                    }
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
                _ = ticks.tick(), if known != reported => {
                    self.post(&known, false).await;
                    reported = known.clone();
                }
            }
        }
    }

    /// Makes one report; a failure is logged.
    async fn post(&self, known: &Known, is_done: bool) {
        if let Err(error) = self.try_post(&known.status(is_done)).await {
            tracing::warn!(
                error = format!("{error:#}"),
                "Kubeflow Trainer got no report of progress"
            );
        }
    }

    async fn try_post(&self, status: &Value) -> anyhow::Result<()> {
        let read = async |path: &PathBuf| {
            let text = tokio::fs::read(path).await;
            text.with_context(|| path.display().to_string())
        };
        let authority = Certificate::from_pem(&read(&self.authority).await?)?;
        let token = String::from_utf8(read(&self.token).await?)?;
        let client = Client::builder().timeout(TIMEOUT).add_root_certificate(authority).build()?;
        let request = client.post(&self.url).header(CONTENT_TYPE, "application/json");
        let request = request.header(AUTHORIZATION, format!("Bearer {}", token.trim()));
        let answer = request.body(json!({ "trainerStatus": status }).to_string()).send().await?;
        ensure!(answer.status().is_success(), "{}", answer.status());
        Ok(())
    }
}

impl Known {
    /// Notes what a notice says. `pace` is the first step that was seen, and when.
    fn note(&mut self, notice: &Notice, pace: &mut Option<(u64, Instant)>) {
        match notice {
            Notice::Step { step, steps, loss, lr, .. } => {
                let now = Instant::now();
                let (first, began) = *pace.get_or_insert((*step, now));
                let each = (now - began)
                    .checked_div(u32::try_from(step.saturating_sub(first)).unwrap_or(0));
                let left = u32::try_from(steps.saturating_sub(*step)).unwrap_or(u32::MAX);
                self.remaining = each.map(|each| each.saturating_mul(left));
                (self.step, self.steps) = (*step, *steps);
                (self.loss, self.learning_rate) = (Some(*loss), Some(*lr));
            }
            Notice::Eval { loss, .. } => self.eval_loss = Some(*loss),
            // A generation may begin with earlier steps, at another pace.
            Notice::Generation { .. } => *pace = None,
            _ => {}
        }
    }

    /// The status as Trainer defines it. A run that has not succeeded has less than 100 percent.
    fn status(&self, is_done: bool) -> Value {
        let percentage = match is_done {
            true => 100,
            false => (100 * self.step).checked_div(self.steps).unwrap_or(0).min(99),
        };
        let metric = |name: &str, value: Option<f64>| {
            value
                .filter(|value| value.is_finite())
                .map(|value| json!({ "name": name, "value": value.to_string() }))
        };
        let metrics = [
            metric("loss", self.loss),
            metric("learning_rate", self.learning_rate),
            metric("eval_loss", self.eval_loss),
        ];
        let mut status = json!({
            "progressPercentage": percentage,
            "metrics": metrics.into_iter().flatten().collect::<Vec<_>>(),
            "lastUpdatedTime": Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
        });
        let remaining = if is_done { Some(Duration::ZERO) } else { self.remaining };
        if let Some(remaining) = remaining {
            status["estimatedRemainingSeconds"] = json!(remaining.as_secs());
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_run_that_has_succeeded_is_complete() {
        let known = Known { step: 40, steps: 40, loss: Some(0.25), ..Known::default() };
        let status = known.status(false);
        assert_eq!(status["progressPercentage"], 99);
        assert_eq!(status["metrics"], json!([{ "name": "loss", "value": "0.25" }]));
        assert!(status.get("estimatedRemainingSeconds").is_none());
        let status = known.status(true);
        assert_eq!(
            (&status["progressPercentage"], &status["estimatedRemainingSeconds"]),
            (&json!(100), &json!(0))
        );
        assert_eq!(Known::default().status(false)["progressPercentage"], 0);
        let strange = Known { loss: Some(f64::NAN), ..known };
        assert_eq!(strange.status(false)["metrics"], json!([]));
    }
}

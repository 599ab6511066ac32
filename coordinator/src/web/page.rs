//! The page of metrics, made anew for every scrape.
//!
//! Names follow Prometheus' conventions: base units in the names, and `_total` at the end of counters. Every series of
//! a run has the label `run`; `docs/metrics.md` describes all of them.

use super::figures::{Metrics, OfRun, Times};
use crate::core::Loss;
use crate::runtime::handle::{Overview, Seen};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;
use proto::id::RunId;
use std::collections::BTreeMap;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// The format of the page.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;

/// The page for the current figures. `expires` is the end of the coordinator's certificate.
pub(super) fn render(
    metrics: &Metrics,
    overview: &Overview,
    expires: Option<SystemTime>,
) -> String {
    let page = Page { metrics: metrics.clone(), overview: overview.clone(), expires };
    let mut registry = Registry::with_prefix("muster");
    registry.register_collector(Box::new(page));
    let mut text = String::new();
    encode(&mut text, &registry).expect("a string can be written to");
    text
}

#[derive(Debug)]
struct Page {
    metrics: Metrics,
    overview: Overview,
    expires: Option<SystemTime>,
}

impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out(encoder);
        self.coordinator(&mut out)?;
        self.workers(&mut out)?;
        self.status_of_runs(&mut out)?;
        self.figures_of_runs(&mut out)
    }
}

impl Page {
    fn coordinator(&self, out: &mut Out<'_>) -> fmt::Result {
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        out.gauge("build", "The version of this coordinator; always 1.", [(version, 1.0)])?;
        let began = self.overview.began_ms as f64 / 1000.0;
        out.gauge("start_time_seconds", "When this coordinator started.", [(vec![], began)])?;
        let waited = self.overview.storage_wait.as_secs_f64();
        let help = "How long a journal entry has been waiting for the store.";
        out.gauge("storage_wait_seconds", help, [(vec![], waited)])?;
        let expires = self.expires.map(|at| at.duration_since(UNIX_EPOCH).unwrap_or_default());
        let series = expires.map(|at| (vec![], at.as_secs_f64()));
        let help = "When the coordinator's certificate expires, in seconds since 1970.";
        out.gauge("certificate_expiry_timestamp_seconds", help, series)
    }

    fn workers(&self, out: &mut Out<'_>) -> fmt::Result {
        let mut states: BTreeMap<_, f64> = WORKER_STATES.map(|state| (state, 0.0)).into();
        for worker in &self.overview.workers {
            *states.entry(worker.state).or_default() += 1.0;
        }
        let series = states.into_iter().map(|(state, n)| (vec![("state", state.to_owned())], n));
        out.gauge("workers", "Workers by what they are doing.", series)?;
        let troubled = self.overview.workers.iter().filter(|w| w.trouble.is_some()).count();
        let help = "Workers that are not used for now, because something is wrong with them.";
        out.gauge("workers_troubled", help, [(vec![], troubled as f64)])?;
        let lost = Loss::ALL.map(|loss| {
            let count = self.overview.losses.of(loss).workers as f64;
            (vec![("reason", loss.name().to_owned())], count)
        });
        out.counter("workers_lost", "Workers that were lost. `silent` are missed leases.", lost)?;
        let silence = Loss::ALL.map(|loss| {
            let silence = self.overview.losses.of(loss).silence.as_secs_f64();
            (vec![("reason", loss.name().to_owned())], silence)
        });
        let help = "Sum of the times from a worker's last message to the moment when it was lost.";
        out.counter("workers_lost_detect_seconds", help, silence)?;
        self.ranks(out)
    }

    fn ranks(&self, out: &mut Out<'_>) -> fmt::Result {
        let figures = self.metrics.figures();
        let mut series = Vec::new();
        for worker in &self.overview.workers {
            let (Some(run), Some(rank)) = (&worker.run, worker.rank) else { continue };
            let Some(Times { compute, reduce_wait }) = figures.workers.get(&worker.worker) else {
                continue;
            };
            for (phase, time) in [("compute", compute), ("reduce_wait", reduce_wait)] {
                let labels = vec![
                    ("run", run.to_string()),
                    ("rank", rank.to_string()),
                    ("worker", worker.worker.to_string()),
                    ("phase", phase.to_owned()),
                ];
                series.push((labels, time.as_secs_f64()));
            }
        }
        out.gauge("rank_step_seconds", "Times of each rank in its last step.", series)
    }

    fn status_of_runs(&self, out: &mut Out<'_>) -> fmt::Result {
        let mut phases: BTreeMap<_, f64> = RUN_PHASES.map(|phase| (phase, 0.0)).into();
        for seen in &self.overview.runs {
            *phases.entry(seen.status.phase).or_default() += 1.0;
        }
        let series = phases.into_iter().map(|(phase, n)| (vec![("phase", phase.to_owned())], n));
        out.gauge("runs", "Runs by phase.", series)?;
        let live: Vec<_> = {
            let figures = self.metrics.figures();
            let runs = self.overview.runs.iter();
            runs.filter(|seen| is_live(seen) || figures.runs.contains_key(&seen.status.run))
                .collect()
        };
        let value = |f: fn(&Seen) -> Option<f64>| {
            live.iter().filter_map(move |seen| Some((of(&seen.status.run), f(seen)?)))
        };
        let help = "The number of the current membership.";
        out.gauge("run_generation", help, value(|s| Some(s.status.generation.0 as f64)))?;
        let help = "Rises when a run goes back to an earlier state.";
        out.gauge("run_lineage", help, value(|s| Some(s.status.lineage.0 as f64)))?;
        let help = "Steps committed.";
        out.gauge("run_step", help, value(|s| Some(s.status.step as f64)))?;
        let help = "Steps planned.";
        out.gauge("run_planned_steps", help, value(|s| Some(s.status.steps as f64)))?;
        let help = "Steps in the newest checkpoint.";
        let step = |s: &Seen| Some(s.status.checkpoint_step.unwrap_or(0) as f64);
        out.gauge("run_checkpoint_step", help, value(step))?;
        out.gauge("run_loss", "Loss of the last step.", value(|s| s.status.loss))?;
        let help = "Tokens per second over the last steps, without stalls.";
        out.gauge("run_tokens_per_second", help, value(|s| s.status.tokens_per_second))?;
        let help = "Time until the last step at the current rate.";
        let eta = |s: &Seen| s.status.eta.map(|eta| eta.as_secs_f64());
        out.gauge("run_eta_seconds", help, value(eta))?;
        let help = "1 while the run trains.";
        let training = |s: &Seen| Some(f64::from(u8::from(s.status.phase == "training")));
        out.gauge("run_training", help, value(training))
    }

    fn figures_of_runs(&self, out: &mut Out<'_>) -> fmt::Result {
        let figures = self.metrics.figures();
        let runs = &figures.runs;
        let value = |f: fn(&OfRun) -> f64| runs.iter().map(move |(id, run)| (of(id), f(run)));
        out.gauge("run_world_size", "Number of ranks.", value(|r| r.world_size as f64))?;
        let help = "Gradient norm of the last step, before clipping.";
        out.gauge("run_grad_norm", help, value(|r| r.grad_norm))?;
        out.gauge(
            "run_learning_rate",
            "Learning rate of the last step.",
            value(|r| r.learning_rate),
        )?;
        let losses = runs.iter().filter_map(|(id, run)| Some((of(id), run.eval_loss?)));
        out.gauge("run_eval_loss", "The last held-out loss.", losses)?;
        out.counter("run_steps", "Steps committed, repeated ones too.", value(|r| r.steps as f64))?;
        let help = "Steps that were skipped, because their gradient was not finite.";
        out.counter("run_skipped_steps", help, value(|r| r.skipped as f64))?;
        let help = "Steps that had to be repeated after a loss.";
        out.counter("run_redone_steps", help, value(|r| r.redone as f64))?;
        out.counter("run_samples", "Samples in committed steps.", value(|r| r.samples as f64))?;
        out.counter("run_tokens", "Tokens in committed steps.", value(|r| r.tokens as f64))?;
        let help = "Tokens in committed steps that count in the loss.";
        out.counter("run_trained_tokens", help, value(|r| r.trained_tokens as f64))?;
        out.counter("run_incidents", "Incidents.", value(|r| r.incidents as f64))?;
        out.counter("run_regroups", "Memberships after the first.", value(|r| r.regroups as f64))?;
        out.counter("run_checkpoints", "Checkpoints committed.", value(|r| r.checkpoints as f64))?;
        let help = "Size of the last checkpoint.";
        out.gauge("run_checkpoint_bytes", help, value(|r| r.checkpoint_bytes as f64))?;
        let records = runs.iter().flat_map(|(id, run)| {
            run.records.iter().map(|(outcome, records)| {
                let mut labels = of(id);
                labels.push(("outcome", (*outcome).to_owned()));
                (labels, *records as f64)
            })
        });
        out.gauge("run_records", "Records of the receipt, by what became of them.", records)?;
        let times = runs.iter().flat_map(|(id, run)| {
            [("compute", &run.compute), ("reduce_wait", &run.reduce_wait)].map(|(phase, times)| {
                let mut labels = of(id);
                labels.push(("phase", phase.to_owned()));
                (labels, times)
            })
        });
        let help = "Time of the slowest rank in a step, by phase.";
        out.histogram("run_step_seconds", help, times)?;
        let help = "Time from the loss of a member to the next committed step.";
        out.histogram(
            "run_regroup_seconds",
            help,
            runs.iter().map(|(id, r)| (of(id), &r.regroup)),
        )?;
        let help = "How long a rank's training stood still for a checkpoint.";
        let pauses = runs.iter().map(|(id, run)| (of(id), &run.checkpoint_pause));
        out.histogram("run_checkpoint_pause_seconds", help, pauses)
    }
}

/// The phases that a run can be in; see [`crate::core::Status`].
const RUN_PHASES: [&str; 11] = [
    "queued",
    "preparing",
    "gathering",
    "training",
    "finishing",
    "paused",
    "cancelled",
    "failed",
    "succeeded",
    "lost",
    "unreadable",
];
/// The states that a worker can be in; see [`crate::core::WorkerStatus`].
const WORKER_STATES: [&str; 8] =
    ["idle", "preparing", "loading", "ready", "training", "leaving", "waiting", "disconnected"];

fn is_live(seen: &Seen) -> bool {
    matches!(seen.status.phase, "queued" | "preparing" | "gathering" | "training" | "finishing")
}

fn of(run: &RunId) -> Labels {
    vec![("run", run.to_string())]
}

/// Writes metrics, each with all of its series.
struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in series {
            ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn counter(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in series {
            ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn histogram<'h>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels, &'h Histogram)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, Histogram::TYPE)?;
        for (labels, times) in series {
            times.encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

//! The figures of a run in advance: those of the plan, and those that follow from a measured step.

use super::advice;
use super::mixture::{self, Mixed};
use super::preview::Preview;
use proto::cost::{Cost, Memory, bytes};
use proto::plan::EpochSummary;
use proto::spec::{SaveDtype, Spec};
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// The figures of a run. `Display` is for people, and the serialized fields are for programs.
#[derive(Serialize)]
pub(super) struct Outlook {
    name: String,
    records: u64,
    dropped: u64,
    samples: u64,
    held_out: u64,
    packs_per_epoch: u64,
    max_tokens: u32,
    /// The share of the packs' capacity that is filled.
    density: f64,
    epochs: usize,
    steps: u64,
    steps_per_epoch: u64,
    packs_per_step: f64,
    samples_per_step: f64,
    tokens_per_step: f64,
    trained_tokens_per_step: f64,
    tokens: u64,
    checkpoints: u64,
    /// The mixture, in the spec's order.
    sources: Vec<Mixed>,
    warnings: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) measured: Option<Measured>,
}

/// Estimates from a measured step.
#[derive(Serialize)]
pub(super) struct Measured {
    workers: u32,
    memory_bytes_per_worker: u64,
    tokens_per_second: f64,
    eta_seconds: f64,
    model_bytes: u64,
    checkpoint_bytes: u64,
    /// The measurement.
    #[serde(flatten)]
    cost: Cost,
}

impl Outlook {
    /// The figures that need no measurement.
    pub(super) fn new(preview: &Preview) -> Self {
        let Preview { spec, receipt, plan, sources, warnings, .. } = preview;
        let planned_steps = (plan.steps_per_epoch * plan.epochs.len() as u64).max(1);
        let per_step = |of: fn(&EpochSummary) -> f64| -> f64 {
            plan.epochs.iter().map(of).sum::<f64>() / planned_steps as f64
        };
        let tokens_per_step = per_step(|epoch| epoch.tokens as f64);
        let total = receipt.total();
        let mut warnings = warnings.clone();
        warnings.extend(mixture::unseen(sources, plan.epochs.len()));
        warnings.extend(advice::few_steps(plan.steps));
        Self {
            name: spec.name().to_owned(),
            records: total.read,
            dropped: total.dropped_records(),
            samples: plan.samples - plan.held_out,
            held_out: plan.held_out,
            packs_per_epoch: plan.packs_per_epoch,
            max_tokens: plan.max_tokens,
            density: plan.density(),
            epochs: plan.epochs.len(),
            steps: plan.steps,
            steps_per_epoch: plan.steps_per_epoch,
            packs_per_step: ratio(plan.packs_per_epoch, plan.steps_per_epoch),
            samples_per_step: per_step(|epoch| epoch.samples as f64),
            tokens_per_step,
            trained_tokens_per_step: per_step(|epoch| epoch.weight),
            tokens: (tokens_per_step * plan.steps as f64).round() as u64,
            checkpoints: plan.steps.div_ceil(spec.checkpoint().every),
            sources: sources.clone(),
            warnings,
            measured: None,
        }
    }
}

impl Measured {
    /// Estimates for `workers` processes on this machine.
    pub(super) fn new(cost: Cost, spec: &Spec, outlook: &Outlook, workers: u32) -> Self {
        // The slowest worker is the one with the most packs; the others wait for it.
        let packs = (outlook.packs_per_step / f64::from(workers)).ceil();
        let tokens = packs * outlook.tokens_per_step / outlook.packs_per_step;
        let compute = cost.micro_batch_seconds * tokens / cost.micro_batch_tokens as f64;
        let step_seconds = compute + cost.update_seconds;
        let model_bytes = cost.parameters * save_bytes(spec, &cost);
        // Masters and both moments, in f32.
        let checkpoint_bytes = model_bytes + cost.parameters * 12;
        Self {
            workers,
            memory_bytes_per_worker: cost.predicted.total(),
            tokens_per_second: outlook.tokens_per_step / step_seconds,
            eta_seconds: step_seconds * outlook.steps as f64,
            model_bytes,
            checkpoint_bytes,
            cost,
        }
    }
}

fn save_bytes(spec: &Spec, cost: &Cost) -> u64 {
    match spec.model().save_dtype {
        None => cost.bytes_per_parameter,
        Some(SaveDtype::F32) => 4,
        Some(SaveDtype::Bf16 | SaveDtype::F16) => 2,
    }
}

impl fmt::Display for Outlook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let o = self;
        writeln!(
            f,
            "  data        {} records: {} dropped; {} samples to train on, {} held out",
            o.records, o.dropped, o.samples, o.held_out
        )?;
        writeln!(
            f,
            "  an epoch    {} packs of up to {} tokens, {:.1} % full; {} steps",
            o.packs_per_epoch,
            o.max_tokens,
            o.density * 100.0,
            o.steps_per_epoch
        )?;
        writeln!(
            f,
            "  a step      {:.1} packs, {:.1} samples, {:.0} tokens, {:.0} of them trained",
            o.packs_per_step, o.samples_per_step, o.tokens_per_step, o.trained_tokens_per_step
        )?;
        let epochs = counted(o.epochs as u64, "epoch");
        writeln!(f, "  in all      {} steps of {epochs}; {} tokens", o.steps, o.tokens)?;
        if let Some(measured) = &o.measured {
            write!(f, "{measured}")?;
            writeln!(f, "; {} in the run", counted(o.checkpoints, "checkpoint"))?;
        }
        mixture::table(&o.sources).iter().try_for_each(|line| writeln!(f, "{line}"))?;
        o.warnings.iter().try_for_each(|warning| writeln!(f, "warning: {warning}"))
    }
}

/// Ends with the size of a checkpoint and without a line break: [`Outlook`] adds the number of checkpoints.
impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  time        about {} with {} on this machine, {:.0} tokens/s",
            duration(self.eta_seconds),
            counted(self.workers.into(), "worker"),
            self.tokens_per_second
        )?;
        writeln!(
            f,
            "              from the fastest of {} micro-batches of {} tokens; other overhead not included",
            self.cost.micro_batches, self.cost.micro_batch_tokens
        )?;
        let Memory { snapshot, .. } = self.cost.predicted;
        writeln!(
            f,
            "  memory      {} for each worker: {}",
            bytes(self.memory_bytes_per_worker),
            self.cost.predicted
        )?;
        writeln!(
            f,
            "              predicted; without a checkpoint {}, and {} were measured",
            bytes(self.memory_bytes_per_worker - snapshot),
            bytes(self.cost.peak_bytes)
        )?;
        write!(
            f,
            "  checkpoint  {}, of which {} are the model",
            bytes(self.checkpoint_bytes),
            bytes(self.model_bytes)
        )
    }
}

pub(super) fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// Formats a count with its noun: `1 epoch`, `3 epochs`.
fn counted(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// Formats a duration in its two largest units, such as `2 h 5 min`.
pub(super) fn duration(seconds: f64) -> String {
    let all = Duration::from_secs_f64(seconds.clamp(0.0, 1e9)).as_secs();
    match (all / 86400, all / 3600 % 24, all / 60 % 60, all % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, _, _) => format!("{d} d {h} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_counts_are_readable() {
        let durations = [4.2, 125.0, 7_500.0, 100_000.0].map(duration);
        assert_eq!(durations, ["4 s", "2 min 5 s", "2 h 5 min", "1 d 3 h"]);
        assert_eq!([counted(1, "epoch"), counted(2, "epoch")], ["1 epoch", "2 epochs"]);
    }

    fn cost() -> Cost {
        Cost {
            parameters: 10,
            bytes_per_parameter: 2,
            micro_batches: 3,
            micro_batch_tokens: 100,
            micro_batch_seconds: 1.0,
            update_seconds: 0.5,
            peak_bytes: 7,
            predicted: Memory { parameters: 40, snapshot: 47, ..Memory::default() },
        }
    }

    #[test]
    fn a_step_lasts_as_long_as_its_fullest_worker() {
        let preview = Preview::example();
        let outlook = Outlook::new(&preview);
        // With 16 packs on 3 workers, one worker has 6 packs.
        let measured = Measured::new(cost(), &preview.spec, &outlook, 3);
        assert_eq!(measured.eta_seconds, 65.0);
        assert_eq!((measured.model_bytes, measured.checkpoint_bytes), (20, 140));
        assert_eq!(measured.memory_bytes_per_worker, 40 + 47);
    }

    #[test]
    fn an_outlook_shows_its_measurement_and_its_warnings() {
        let preview = Preview::example();
        let mut outlook = Outlook::new(&preview);
        outlook.measured = Some(Measured::new(cost(), &preview.spec, &outlook, 1));
        let expected = "  \
  data        0 records: 0 dropped; 320 samples to train on, 10 held out
  an epoch    160 packs of up to 100 tokens, 100.0 % full; 10 steps
  a step      16.0 packs, 32.0 samples, 1600 tokens, 400 of them trained
  in all      10 steps of 1 epoch; 16000 tokens
  time        about 2 min 45 s with 1 worker on this machine, 97 tokens/s
              from the fastest of 3 micro-batches of 100 tokens; other overhead not included
  memory      87 B for each worker: parameters 40 B, a checkpoint 47 B
              predicted; without a checkpoint 40 B, and 7 B were measured
  checkpoint  140 B, of which 20 B are the model; 1 checkpoint in the run
source    samples  trained tokens  repeat  share of an epoch
/d.jsonl      320            4000   0.500  100.0 %
warning: 50.0 % of /d.jsonl is never seen; more `train.epochs`, or more of this source, shows more
warning: fewer than 50 steps change a model little; a smaller `train.global_batch` gives more steps
";
        assert_eq!(outlook.to_string(), expected);
    }
}

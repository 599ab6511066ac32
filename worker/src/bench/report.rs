//! What a measurement found, as a table or as JSON.

use crate::device::cuda::Counts;
use proto::cost::{Memory, bytes};
use serde::Serialize;
use std::fmt;

/// A measurement, an estimate, or both.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) model: String,
    pub(super) parameters: u64,
    pub(super) dtype: String,
    /// Tokens of a pack, and of each of its documents.
    pub(super) sequence: u32,
    pub(super) document: u32,
    /// Packs of a micro-batch, and micro-batches of a step.
    pub(super) micro_batch: u32,
    pub(super) accumulate: u32,
    pub(super) recompute: String,
    pub(super) world: usize,
    /// Tokens of a step of all ranks.
    pub(super) tokens_per_step: u64,
    /// Floating-point operations of the model per token, forward and backward.
    pub(super) flops_per_token: f64,
    /// The predicted memory of a rank.
    pub(super) predicted: Memory,
    pub(super) measured: Option<Measured>,
    pub(super) estimate: Option<Estimate>,
}

/// What was measured.
#[derive(Clone, Serialize)]
pub(super) struct Measured {
    pub(super) device: String,
    /// Whether the device is a stand-in for a GPU, whose times mean nothing.
    pub(super) simulated: bool,
    /// Compute threads of a rank.
    pub(super) threads: usize,
    pub(super) steps: usize,
    /// The median step, the fastest and the slowest.
    pub(super) seconds_per_step: f64,
    pub(super) fastest: f64,
    pub(super) slowest: f64,
    pub(super) tokens_per_second: f64,
    /// Those of the model, per rank; recomputation does not count.
    pub(super) flops_per_second: f64,
    /// The share of the device's peak, if that is known.
    pub(super) mfu: Option<f64>,
    /// Memory of a rank at its peak.
    pub(super) peak_bytes: u64,
    /// What a step asks of a GPU.
    pub(super) per_step: Option<Counts>,
    pub(super) phases: Vec<Phase>,
}

/// A part of one step, on the first rank.
#[derive(Clone, Serialize)]
pub(super) struct Phase {
    pub(super) name: String,
    pub(super) seconds: f64,
}

/// What one rank would take on a GPU if every kernel reached the GPU's peak.
#[derive(Serialize)]
pub(super) struct Estimate {
    pub(super) gpu: &'static str,
    pub(super) seconds_per_step: f64,
    pub(super) tokens_per_second: f64,
    pub(super) mfu: f64,
    /// Calls of kernels per step, and the bytes that they move.
    pub(super) kernels: u64,
    pub(super) bytes: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, dtype, sequence, document, micro_batch, accumulate, .. } = self;
        let millions = self.parameters as f64 / 1e6;
        writeln!(f, "model      {model}, {millions:.1}M parameters, {dtype}")?;
        writeln!(
            f,
            "step       {accumulate} x {micro_batch} packs of {sequence} tokens per rank, documents of {document}, \
             recompute {}",
            self.recompute
        )?;
        writeln!(f, "memory     {} predicted: {}", bytes(self.predicted.total()), self.predicted)?;
        if let Some(measured) = &self.measured {
            measured.show(self.world, f)?;
        }
        if let Some(estimate) = &self.estimate {
            estimate.show(f)?;
        }
        Ok(())
    }
}

impl Measured {
    fn show(&self, world: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, threads, steps, seconds_per_step, fastest, slowest, .. } = self;
        let ranks = if world == 1 { "1 rank".to_owned() } else { format!("{world} ranks") };
        writeln!(f, "\ndevice     {device}, {ranks}, {threads} threads each")?;
        if self.simulated {
            writeln!(
                f,
                "           a stand-in for a GPU: its times and speeds mean nothing, its counts do"
            )?;
        }
        writeln!(
            f,
            "time       {} per step; {} to {} in {steps} steps",
            seconds(*seconds_per_step),
            seconds(*fastest),
            seconds(*slowest)
        )?;
        let rate = self.tokens_per_second;
        let each = if world == 1 {
            String::new()
        } else {
            format!(", {:.0} per rank", rate / world as f64)
        };
        writeln!(f, "speed      {rate:.0} tokens/s{each}")?;
        let mfu = match self.mfu {
            Some(mfu) => format!("MFU {:.1} %", mfu * 100.0),
            None => "MFU unknown: --peak-tflops says what the device can do".to_owned(),
        };
        if !self.simulated {
            writeln!(f, "arithmetic {:.3} TFLOP/s per rank, {mfu}", self.flops_per_second / 1e12)?;
        }
        writeln!(f, "peak       {} per rank", bytes(self.peak_bytes))?;
        if let Some(Counts { launches, products, waits, allocations }) = self.per_step {
            writeln!(
                f,
                "GPU        {launches} kernels and {products} matrix products launched per step, {waits} waits, \
                 {allocations} allocations"
            )?;
        }
        writeln!(f, "\nphase of a step on the first rank          time   share")?;
        let whole: f64 = self.phases.iter().map(|phase| phase.seconds).sum();
        for Phase { name, seconds: time } in &self.phases {
            writeln!(f, "{name:36} {:>10}  {:4.1} %", seconds(*time), time / whole * 100.0)?;
        }
        Ok(())
    }
}

impl Estimate {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gpu, seconds_per_step, tokens_per_second, mfu, kernels, bytes: moved } = self;
        writeln!(
            f,
            "\nestimate   one {gpu}: at least {} per step, at most {tokens_per_second:.0} tokens/s and MFU {:.1} %",
            seconds(*seconds_per_step),
            mfu * 100.0
        )?;
        writeln!(
            f,
            "           from the peaks in the data sheet and {kernels} kernels that move {}; not measured",
            bytes(*moved as u64)
        )
    }
}

/// A time with four digits.
fn seconds(time: f64) -> String {
    if time < 1e-3 {
        format!("{:.1} µs", time * 1e6)
    } else if time < 1.0 {
        format!("{:.2} ms", time * 1e3)
    } else {
        format!("{time:.3} s")
    }
}

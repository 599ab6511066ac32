//! The cost of a step on one worker: measured by `worker measure`, used by `coordinator plan`.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Measurements from training a few micro-batches of random tokens, which are as large as those of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Number of parameters of the model.
    pub parameters: u64,
    /// Bytes per parameter in the model's files.
    pub bytes_per_parameter: u64,
    /// Number of micro-batches that were timed. The fastest one counts.
    pub micro_batches: u64,
    /// Tokens per micro-batch.
    pub micro_batch_tokens: u64,
    /// Time for forward and backward of one micro-batch.
    pub micro_batch_seconds: f64,
    /// Time for the optimizer's part of a step.
    pub update_seconds: f64,
    /// Peak memory of the process.
    pub peak_bytes: u64,
    /// The predicted memory of a worker of the run. Unlike the measured peak, it includes a checkpoint.
    pub predicted: Memory,
}

/// The memory of a worker in training, by part, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The program itself.
    pub process: u64,
    /// Parameters in f32.
    pub parameters: u64,
    /// Copies of them in bf16.
    pub rounded: u64,
    /// Both moments of the optimizer, in f32.
    pub moments: u64,
    /// The sums of gradients, in f32.
    pub gradients: u64,
    /// Activations, their gradients and what the arithmetic takes for a moment, at their peak.
    pub activations: u64,
    /// The worker's part of a checkpoint while it is stored.
    pub snapshot: u64,
}

impl Memory {
    /// The sum of all parts.
    pub fn total(&self) -> u64 {
        let Self { process, parameters, rounded, moments, gradients, activations, snapshot } = self;
        process + parameters + rounded + moments + gradients + activations + snapshot
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { process, parameters, rounded, moments, gradients, activations, snapshot } =
            *self;
        let parts = [
            ("parameters", parameters),
            ("copies of them in bf16", rounded),
            ("moments", moments),
            ("gradients", gradients),
            ("activations", activations),
            ("a checkpoint", snapshot),
            ("the program", process),
        ];
        let parts = parts.iter().filter(|(_, bytes)| *bytes > 0);
        let parts: Vec<_> = parts.map(|(name, n)| format!("{name} {}", bytes(*n))).collect();
        f.write_str(&parts.join(", "))
    }
}

/// A size in decimal units, such as `1.8 GB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [(&str, f64); 4] = [("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    let n = n as f64;
    let unit = UNITS.iter().find(|(_, size)| n >= *size);
    unit.map_or_else(|| format!("{n} B"), |(name, size)| format!("{:.1} {name}", n / size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        assert_eq!([bytes(999), bytes(1_600_000_000)], ["999 B", "1.6 GB"]);
        let memory = Memory { parameters: 2000, snapshot: 3, ..Memory::default() };
        assert_eq!(memory.to_string(), "parameters 2.0 kB, a checkpoint 3 B");
        assert_eq!(memory.total(), 2003);
    }
}

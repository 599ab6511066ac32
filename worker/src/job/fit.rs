//! How a run's micro-batches go through the model: as many packs at a time as fit in memory, and nothing computed
//! twice unless memory is short.

use crate::available::{self, Available, Limit};
use crate::device::{Device, Dtype, cuda};
use crate::model::Config;
use crate::ops::Recompute;
use crate::replica::{MicroBatch, Saved, Setup};
use crate::session::Trouble;
use proto::cost::{Memory, bytes};
use proto::protocol::Cause;
use proto::spec::{self, Spec};

/// Tokens in a micro-batch if the spec sets no size: enough for the matrix products to be efficient on a CPU.
const TOKENS: u32 = 2048;
/// Those on a GPU, on which a small model would otherwise spend its time launching kernels.
const TOKENS_ON_GPU: u32 = 16_384;

/// The share of the available memory that a prediction may fill, in percent. With transparent huge pages, the peak of
/// a process was up to 7 % above the prediction for models of 135 million parameters and more, and 11 % for one of 20
/// million.
const FILLED: u64 = 85;

/// What a prediction for a GPU leaves free: inputs, results, and what the driver itself takes.
const GPU_LEFT: u64 = 256 << 20;

/// Shorter packs are not suggested.
const SHORTEST: usize = 128;

/// How micro-batches go through the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Packs of a micro-batch.
    pub packs: usize,
    /// What is computed twice.
    pub recompute: Recompute,
}

/// All ways that `spec` allows, the fastest first. Smaller micro-batches cost less than computing layers twice. A GPU
/// refuses memory that it does not have, so `of_gpu` an explicit size is only where the choice begins.
fn ways(spec: &Spec, of_gpu: bool) -> Vec<Fit> {
    let train = spec.train();
    let halves =
        |most| std::iter::successors(Some(most), |packs| (*packs > 1).then(|| packs / 2)).collect();
    let packs: Vec<u32> = match train.micro_batch {
        spec::MicroBatch::Packs(packs) if of_gpu => halves(packs),
        spec::MicroBatch::Packs(packs) => vec![packs],
        spec::MicroBatch::Auto => {
            let tokens = if of_gpu { TOKENS_ON_GPU } else { TOKENS };
            halves((tokens / spec.data().max_tokens).clamp(1, train.global_batch))
        }
    };
    let each = |settings: &[Recompute]| -> Vec<Fit> {
        let of = |packs: u32| {
            settings.iter().map(move |&recompute| Fit { packs: packs as usize, recompute })
        };
        packs.iter().copied().flat_map(of).collect()
    };
    match train.recompute {
        spec::Recompute::Off => each(&[Recompute::Off]),
        spec::Recompute::Light => each(&[Recompute::Light]),
        spec::Recompute::On => each(&[Recompute::On]),
        spec::Recompute::Auto => {
            [each(&[Recompute::Off, Recompute::Light]), each(&[Recompute::On])].concat()
        }
    }
}

/// A way that does not fit, and the memory that it would need.
type TooLarge = (Fit, Memory);

/// Chooses the fastest of `ways` whose memory, according to `memory`, `fits`. If the spec leaves a single way, it
/// is chosen in any case with `keeps_single`. Otherwise, if none fits, returns the one that needs least.
///
/// # Errors
/// Those of `memory`.
fn choose<E>(
    ways: &[Fit],
    keeps_single: bool,
    mut fits: impl FnMut(&Memory) -> bool,
    mut memory: impl FnMut(Fit) -> Result<Memory, E>,
) -> Result<Result<(Fit, Memory), TooLarge>, E> {
    let mut smallest: Option<TooLarge> = None;
    for &way in ways {
        let needed = memory(way)?;
        if fits(&needed) || ways.len() == 1 && keeps_single {
            return Ok(Ok((way, needed)));
        }
        if smallest.is_none_or(|(_, least)| needed.total() < least.total()) {
            smallest = Some((way, needed));
        }
    }
    Ok(Err(smallest.expect("there is at least one way")))
}

/// The chosen way, its memory, and the memory that is available.
pub struct Chosen {
    /// The way.
    pub fit: Fit,
    pub(super) memory: Memory,
    available: Available,
}

impl Chosen {
    /// Warns if the spec leaves no choice, and what it asks for needs more memory than there is.
    pub fn warn_if_too_large(&self) {
        let Self { memory, available, .. } = self;
        if !fits(memory, available) {
            tracing::warn!(
                needed = bytes(memory.total()),
                available = bytes(available.bytes),
                "the system may kill this worker: `train.micro_batch` and `train.recompute` ask for more memory than \
                 there is"
            );
        }
    }
}

/// What the memory of a run's ranks depends on.
#[derive(Clone, Copy)]
pub struct Sizing<'a> {
    /// The spec.
    pub spec: &'a Spec,
    /// The model's configuration.
    pub config: &'a Config,
    /// The device of this rank.
    pub device: &'a Device,
    /// Number of ranks, and how checkpoints are stored; `None` if that is not known yet.
    pub checkpoints: Option<(usize, Saved)>,
    /// Number of ranks that share this host.
    pub on_host: u64,
    /// Bytes of the program itself.
    pub process: u64,
    /// Bytes of activations for which a GPU had no memory before; `u64::MAX` if it always had enough.
    pub refused: u64,
}

impl Sizing<'_> {
    /// Chooses the fastest way that fits in the memory that this rank may use.
    ///
    /// # Errors
    /// [`Cause::Model`] if nothing fits, with what would.
    pub fn fit(&self) -> Result<Chosen, Trouble> {
        let available = self.available();
        self.choose(&available, |memory| fits(memory, &available))
    }

    /// As [`Self::fit`], and reserves a GPU's memory for activations; what it has no memory for does not fit. Other
    /// errors are kept for [`Device::check`].
    ///
    /// # Errors
    /// Those of [`Self::fit`].
    pub fn reserve(&self) -> Result<Chosen, Trouble> {
        let Device::Cuda(gpu) = self.device else { return self.fit() };
        let available = self.available();
        self.choose(&available, |memory| {
            if memory.activations >= self.refused || !fits(memory, &available) {
                return false;
            }
            match gpu.reserve(memory.activations) {
                Ok(()) => true,
                Err(error @ cuda::Error::OutOfMemory { .. }) => {
                    tracing::warn!(%error, "a smaller micro-batch is tried");
                    false
                }
                Err(error) => {
                    gpu.fail(error);
                    true
                }
            }
        })
    }

    /// The memory that this rank may use.
    fn available(&self) -> Available {
        let available = match self.device {
            Device::Cuda(gpu) => gpu
                .usable()
                .map_err(anyhow::Error::from)
                .map(|[usable, total]| Available { bytes: usable, limit: Limit::Gpu(total) }),
            Device::Host | Device::Rehearsal(_) => available::memory(self.on_host),
        };
        available.unwrap_or_else(|error| {
            tracing::warn!(error = format!("{error:#}"), "the memory of this host is not known");
            Available { bytes: u64::MAX, limit: Limit::Host }
        })
    }

    /// All ways that the spec allows. On a GPU, micro-batches have a fixed size, so they are not larger than a rank's
    /// share of a step.
    fn ways(&self) -> Vec<Fit> {
        let mut ways = ways(self.spec, self.of_gpu());
        if let (true, Some((world, _))) = (self.of_gpu(), self.checkpoints) {
            let share = (self.spec.train().global_batch as usize).div_ceil(world);
            ways.iter_mut().for_each(|way| way.packs = way.packs.min(share));
            ways.dedup();
        }
        ways
    }

    fn of_gpu(&self) -> bool {
        matches!(self.device, Device::Cuda(_))
    }

    fn choose(
        &self,
        available: &Available,
        fits: impl FnMut(&Memory) -> bool,
    ) -> Result<Chosen, Trouble> {
        let available = available.clone();
        let of_gpu = self.of_gpu();
        match choose(&self.ways(), !of_gpu, fits, |fit| self.memory(fit))? {
            Ok((fit, memory)) => Ok(Chosen { fit, memory, available }),
            Err((fit, memory)) => {
                let text = self.too_large(fit, memory, &available)?;
                Err(Trouble::new(Cause::Model, text))
            }
        }
    }

    /// Predicts the memory of a rank whose packs are full.
    fn memory(&self, fit: Fit) -> Result<Memory, Trouble> {
        self.memory_with(fit, self.dtype(), self.spec.data().max_tokens as usize)
    }

    fn memory_with(&self, fit: Fit, dtype: Dtype, length: usize) -> Result<Memory, Trouble> {
        let vocabulary = self.config.vocab_size;
        let micro_batch = MicroBatch::synthetic(fit.packs, length, length - 1, vocabulary);
        let recipe = super::recipe(self.spec, fit.recompute);
        let (config, device) = (self.config, self.device);
        // The host's memory is not what a GPU lacks.
        let checkpoints = self.checkpoints.filter(|_| !self.of_gpu());
        let process = if self.of_gpu() { 0 } else { self.process };
        let setup = Setup { config, dtype, recipe, device, checkpoints };
        let memory = setup.memory(micro_batch);
        let memory = memory.map_err(|e| Trouble::new(Cause::Internal, proto::error::chain(&e)))?;
        Ok(Memory { process, ..memory })
    }

    /// Explains that nothing fits, and what would.
    fn too_large(
        &self,
        fit: Fit,
        memory: Memory,
        available: &Available,
    ) -> Result<String, Trouble> {
        let sharing = match self.on_host {
            1 => "the only worker on this host".to_owned(),
            _ if self.of_gpu() => "each worker".to_owned(),
            ranks => format!("each of the {ranks} workers on this host"),
        };
        let would = self.remedies(fit, available)?;
        let hint = match &would[..] {
            [] if self.of_gpu() => "use a smaller model, or a GPU with more memory".to_owned(),
            [] => "use a smaller model, or a host with more memory".to_owned(),
            would => would.join("; or "),
        };
        Ok(format!(
            "a worker needs {}, even with `train.micro_batch: {}` and `train.recompute: {}`, but {sharing} may use {} \
             ({}): {memory}\nhint: {hint}",
            bytes(memory.total()),
            fit.packs,
            name(fit.recompute),
            bytes(usable(available)),
            available.limit,
        ))
    }

    /// Changes that would make the run fit, each by itself, with the memory that a worker would then need.
    fn remedies(&self, fit: Fit, available: &Available) -> Result<Vec<String>, Trouble> {
        let length = self.spec.data().max_tokens as usize;
        let mut would = Vec::new();
        if self.spec.model().dtype == spec::Dtype::F32 {
            let memory = self.memory_with(fit, Dtype::Bf16, length)?;
            if fits(&memory, available) {
                would.push(format!("`model.dtype: bf16` needs {}", bytes(memory.total())));
            }
        }
        for shorter in std::iter::successors(Some(length / 2), |n| Some(n / 2)) {
            if shorter < SHORTEST {
                break;
            }
            let memory = self.memory_with(fit, self.dtype(), shorter)?;
            if fits(&memory, available) {
                let needed = bytes(memory.total());
                would.push(format!("`data.max_tokens: {shorter}` needs {needed}"));
                break;
            }
        }
        let fewest = if self.of_gpu() { self.on_host } else { 1 };
        for fewer in (fewest..self.on_host).rev() {
            // Each of them stores a larger part of a checkpoint.
            let checkpoints = self.checkpoints.map(|(world, saved)| {
                (world.saturating_sub((self.on_host - fewer) as usize).max(1), saved)
            });
            let memory = Self { checkpoints, ..*self }.memory(fit)?;
            let bytes_each = available.bytes / fewer * self.on_host;
            if fits(&memory, &Available { bytes: bytes_each, ..available.clone() }) {
                let needed = bytes(memory.total());
                would.push(match fewer {
                    1 => format!("a single worker on this host needs {needed}"),
                    _ => format!("{fewer} workers on this host need {needed} each"),
                });
                break;
            }
        }
        Ok(would)
    }

    fn dtype(&self) -> Dtype {
        match self.spec.model().dtype {
            spec::Dtype::F32 => Dtype::F32,
            spec::Dtype::Bf16 => Dtype::Bf16,
        }
    }
}

/// The part of the available memory that predictions may fill.
fn usable(available: &Available) -> u64 {
    match available.limit {
        Limit::Gpu(_) => available.bytes.saturating_sub(GPU_LEFT),
        Limit::Host | Limit::Group(_) => available.bytes / 100 * FILLED,
    }
}

fn fits(memory: &Memory, available: &Available) -> bool {
    memory.total() <= usable(available)
}

/// The setting's name in a spec.
fn name(recompute: Recompute) -> &'static str {
    match recompute {
        Recompute::Off => "off",
        Recompute::Light => "light",
        Recompute::On => "on",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(packs: usize, recompute: Recompute) -> Fit {
        Fit { packs, recompute }
    }

    fn ways_of(train: &str) -> Vec<Fit> {
        let data = "{train: [{source: /d.jsonl, format: alpaca}], max_tokens: 512}";
        let yaml =
            format!("name: n\nmodel: {{base: /b}}\ndata: {data}\ntrain: {{{train}}}\noutput: /o\n");
        ways(&Spec::from_resolved(&yaml).expect("a sound spec"), false)
    }

    #[test]
    fn smaller_micro_batches_are_tried_before_whole_layers_are_computed_twice() {
        use Recompute::{Light, Off, On};
        let cheap = [(4, Off), (4, Light), (2, Off), (2, Light), (1, Off), (1, Light)];
        let all = cheap.into_iter().chain([(4, On), (2, On), (1, On)]);
        let all: Vec<_> = all.map(|(packs, recompute)| way(packs, recompute)).collect();
        assert_eq!(ways_of("global_batch: 16"), all);
        assert_eq!(ways_of("global_batch: 2, recompute: on"), [way(2, On), way(1, On)]);
        assert_eq!(ways_of("micro_batch: 3, recompute: light"), [way(3, Light)]);
        assert_eq!(ways_of("micro_batch: 3"), [way(3, Off), way(3, Light), way(3, On)]);
    }

    #[test]
    fn the_first_way_that_fits_is_chosen() {
        use Recompute::{Off, On};
        let memory = |fit: Fit| {
            let activations = if fit.recompute == On { 10_000 } else { 100_000 } * fit.packs as u64;
            Ok::<_, ()>(Memory { parameters: 800_000, activations, ..Memory::default() })
        };
        let chosen = |train: &str, bytes| {
            let available = Available { bytes, limit: Limit::Host };
            let fits = |memory: &Memory| super::fits(memory, &available);
            choose(&ways_of(train), true, fits, memory).unwrap()
        };
        let fits = |packs, recompute| {
            let fit = way(packs, recompute);
            Ok((fit, memory(fit).unwrap()))
        };
        assert_eq!(chosen("global_batch: 16", 1_420_000), fits(4, Off));
        assert_eq!(chosen("global_batch: 16", 1_410_000), fits(2, Off));
        assert_eq!(chosen("global_batch: 16", 1_060_000), fits(1, Off));
        assert_eq!(chosen("global_batch: 16", 1_050_000), fits(4, On));
        let least = way(1, On);
        assert_eq!(chosen("global_batch: 16", 800_000), Err((least, memory(least).unwrap())));
        let asked = way(3, Off);
        assert_eq!(
            chosen("micro_batch: 3, recompute: off", 800_000),
            Ok((asked, memory(asked).unwrap()))
        );
    }
}

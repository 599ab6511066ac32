//! How a run's micro-batches go through the model: as many packs at a time as fit in memory, and nothing computed
//! twice unless memory is short.

use crate::available::{self, Available};
use crate::device::Dtype;
use crate::model::Config;
use crate::ops::Recompute;
use crate::replica::{MicroBatch, Saved, Setup};
use crate::session::Trouble;
use proto::cost::{Memory, bytes};
use proto::protocol::Cause;
use proto::spec::{self, Spec};

/// Tokens in a micro-batch if the spec sets no size: enough for the matrix products to be efficient.
const TOKENS: u32 = 2048;

/// The share of the available memory that a prediction may fill, in percent. With transparent huge pages, the peak of
/// a process was up to 7 % above the prediction for models of 135 million parameters and more, and 11 % for one of 20
/// million.
const FILLED: u64 = 85;

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

/// All ways that `spec` allows, the fastest first. Smaller micro-batches cost less than computing layers twice.
fn ways(spec: &Spec) -> Vec<Fit> {
    let train = spec.train();
    let packs = match train.micro_batch {
        spec::MicroBatch::Packs(packs) => vec![packs],
        spec::MicroBatch::Auto => {
            let most = (TOKENS / spec.data().max_tokens).clamp(1, train.global_batch);
            std::iter::successors(Some(most), |packs| (*packs > 1).then(|| packs / 2)).collect()
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

/// Chooses the fastest of `ways` whose memory, according to `memory`, is available. If the spec leaves a single way, it
/// is chosen in any case. Otherwise, if none fits, returns the one that needs least.
///
/// # Errors
/// Those of `memory`.
fn choose<E>(
    ways: &[Fit],
    available: u64,
    mut memory: impl FnMut(Fit) -> Result<Memory, E>,
) -> Result<Result<(Fit, Memory), TooLarge>, E> {
    let mut smallest: Option<TooLarge> = None;
    for &way in ways {
        let needed = memory(way)?;
        if ways.len() == 1 || fits(&needed, available) {
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
    memory: Memory,
    available: Available,
}

impl Chosen {
    /// Warns if the spec leaves no choice, and what it asks for needs more memory than there is.
    pub fn warn_if_too_large(&self) {
        let Self { memory, available, .. } = self;
        if !fits(memory, available.bytes) {
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
    /// Number of ranks, and how checkpoints are stored; `None` if that is not known yet.
    pub checkpoints: Option<(usize, Saved)>,
    /// Number of ranks that share this host.
    pub on_host: u64,
    /// Bytes of the program itself.
    pub process: u64,
}

impl Sizing<'_> {
    /// Chooses the fastest way that fits in the memory that this rank may use.
    ///
    /// # Errors
    /// [`Cause::Model`] if nothing fits, with what would.
    pub fn fit(&self) -> Result<Chosen, Trouble> {
        let available = available::memory(self.on_host).unwrap_or_else(|error| {
            tracing::warn!(error = format!("{error:#}"), "the memory of this host is not known");
            Available { bytes: u64::MAX, limit: available::Limit::Host }
        });
        match choose(&ways(self.spec), available.bytes, |fit| self.memory(fit))? {
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
        let setup = Setup { config: self.config, dtype, recipe, checkpoints: self.checkpoints };
        let memory = setup.memory(micro_batch);
        let memory = memory.map_err(|e| Trouble::new(Cause::Internal, proto::error::chain(&e)))?;
        Ok(Memory { process: self.process, ..memory })
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
            ranks => format!("each of the {ranks} workers on this host"),
        };
        let would = self.remedies(fit, available)?;
        let hint = match &would[..] {
            [] => "use a smaller model, or a host with more memory".to_owned(),
            would => would.join("; or "),
        };
        Ok(format!(
            "a worker needs {}, even with `train.micro_batch: {}` and `train.recompute: {}`, but {sharing} may use {} \
             ({}): {memory}\nhint: {hint}",
            bytes(memory.total()),
            fit.packs,
            name(fit.recompute),
            bytes(usable(available.bytes)),
            available.limit,
        ))
    }

    /// Changes that would make the run fit, each by itself, with the memory that a worker would then need.
    fn remedies(&self, fit: Fit, available: &Available) -> Result<Vec<String>, Trouble> {
        let length = self.spec.data().max_tokens as usize;
        let mut would = Vec::new();
        if self.spec.model().dtype == spec::Dtype::F32 {
            let memory = self.memory_with(fit, Dtype::Bf16, length)?;
            if fits(&memory, available.bytes) {
                would.push(format!("`model.dtype: bf16` needs {}", bytes(memory.total())));
            }
        }
        for shorter in std::iter::successors(Some(length / 2), |n| Some(n / 2)) {
            if shorter < SHORTEST {
                break;
            }
            let memory = self.memory_with(fit, self.dtype(), shorter)?;
            if fits(&memory, available.bytes) {
                let needed = bytes(memory.total());
                would.push(format!("`data.max_tokens: {shorter}` needs {needed}"));
                break;
            }
        }
        for fewer in (1..self.on_host).rev() {
            // Each of them stores a larger part of a checkpoint.
            let checkpoints = self.checkpoints.map(|(world, saved)| {
                (world.saturating_sub((self.on_host - fewer) as usize).max(1), saved)
            });
            let memory = Self { checkpoints, ..*self }.memory(fit)?;
            if fits(&memory, available.bytes / fewer * self.on_host) {
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
fn usable(available: u64) -> u64 {
    available / 100 * FILLED
}

fn fits(memory: &Memory, available: u64) -> bool {
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
        ways(&Spec::from_resolved(&yaml).expect("a sound spec"))
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
        let chosen = |train: &str, available| choose(&ways_of(train), available, memory).unwrap();
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

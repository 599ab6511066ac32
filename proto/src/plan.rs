//! The plan: decides what every step trains on, before the first step runs.
//!
//! ```text
//! samples without held-out and excluded --mix--> samples of an epoch --best fit, shuffle--> packs --cut--> steps
//! ```
//!
//! A plan is a pure function of the samples' lengths, weights and hashes and of a few options. It depends neither
//! on the workers nor on time. An epoch of P packs has S = ceil(P / global batch) steps of floor(P / S) or ceil(P /
//! S) packs, so its last step is not smaller than the others. P and S are equal in every epoch. Planning needs 12
//! bytes of memory per sample and 8 per pack, in addition to the 16 bytes of each sample's [`Meta`].

mod check;
mod chunk;
mod consumed;
mod error;
mod holdout;
mod mixture;
mod pack;
pub mod random;
pub mod schedule;
mod share;
mod summary;

use std::collections::BTreeMap;
use std::ops::Range;

pub use chunk::{Chunk, Error as ChunkError, Pack, Step, VERSION};
pub use consumed::Consumed;
pub use error::Error;
pub use holdout::held_out;
pub use mixture::{Amount, SourceSummary};
pub use pack::Packs;
pub use share::share;
pub use summary::{Epoch as EpochSummary, Summary};

use mixture::Mixed;
use random::Random;

/// The maximum number of steps in a chunk.
pub const MAX_STEPS_PER_CHUNK: u64 = 256;
/// The approximate maximum number of samples in a chunk, about 4 MiB. A chunk has at least one step in any case.
pub const SAMPLES_PER_CHUNK: u64 = 1 << 20;

// Keys of the independent random streams that are derived from a seed.
const STREAM_EPOCH: u64 = 1;
const STREAM_SOURCE: u64 = 2;

/// What a plan needs to know about a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Meta {
    /// Number of tokens.
    pub length: u32,
    /// Sum of the target weights.
    pub weight: f32,
    /// Hash of the content.
    pub hash: u64,
}

/// What a plan needs to know about a source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Source {
    /// Number of samples. They follow those of the sources before it.
    pub samples: u32,
    /// How much of it an epoch uses: a repeat of at most 100, or a share if all sources have one.
    pub amount: Amount,
    /// The share that is held out, 0 to 0.5.
    pub holdout: f64,
}

/// What a plan needs to know about a run. Every number except the seed is at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The length of a pack.
    pub max_tokens: u32,
    /// Packs per step.
    pub global_batch: u32,
    /// Number of epochs.
    pub epochs: u32,
    /// The maximum number of steps of the run.
    pub max_steps: Option<u64>,
    /// The seed of the random order.
    pub seed: u64,
}

/// The plan of a run. Its epochs are computed on request, one at a time and in any order.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    samples: &'a [Meta],
    sources: &'a [Source],
    options: Options,
    held_out: Vec<u32>,
    /// Samples that are held out or excluded. Like all lists of ids, ascending.
    left_out: Vec<u32>,
    /// The amount of each source, indexed by source.
    mixed: Vec<Mixed>,
    epochs: Vec<EpochSummary>,
    packs: u32,
}

/// An epoch's packs, in the order in which they are trained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// The epoch's number, from 0.
    pub index: u32,
    /// Its packs.
    pub packs: Packs,
}

impl<'a> Plan<'a> {
    /// Plans a run over `samples`, which are ordered by source. A sample's index is its id.
    ///
    /// # Errors
    /// Options that are out of bounds, a sample that does not fit, or nothing to train on. The user can fix all of
    /// these.
    pub fn new(
        samples: &'a [Meta],
        sources: &'a [Source],
        options: Options,
    ) -> Result<Plan<'a>, Error> {
        Plan::without(&[], samples, sources, options)
    }

    /// Plans a run like [`new`](Self::new), but without the `excluded` samples, whose ids must be ascending. They are
    /// neither trained nor evaluated.
    ///
    /// The held-out samples are chosen before any sample is excluded, so that exclusion never moves a held-out sample
    /// into training.
    ///
    /// # Errors
    /// The errors of [`new`](Self::new).
    pub fn without(
        excluded: &[u32],
        samples: &'a [Meta],
        sources: &'a [Source],
        options: Options,
    ) -> Result<Plan<'a>, Error> {
        check::check(samples, sources, &options)?;
        let mut held_out = held_out(samples, sources);
        let mut left_out = [&held_out, excluded].concat();
        left_out.sort_unstable();
        left_out.dedup();
        held_out.retain(|id| excluded.binary_search(id).is_err());
        let mut plan = Plan {
            samples,
            sources,
            options,
            held_out,
            left_out,
            mixed: Vec::new(),
            epochs: Vec::new(),
            packs: 0,
        };
        let trainable = |range| plan.trainable(range);
        plan.mixed = mixture::mix(samples, sources, options.epochs, options.seed, trainable)?;
        // Epochs with the same samples are counted once. Unless a repeat is a fraction, all epochs are the same.
        let mut counted = BTreeMap::new();
        for epoch in 0..options.epochs {
            let (summary, packs) = *match counted.entry(plan.slices(epoch)) {
                std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::btree_map::Entry::Vacant(new) => new.insert(plan.count(epoch)?),
            };
            plan.epochs.push(summary);
            plan.packs = plan.packs.max(packs);
        }
        plan.check_epochs()?;
        Ok(plan)
    }

    /// The ids of the held-out samples, ascending.
    pub fn held_out(&self) -> &[u32] {
        &self.held_out
    }

    /// S, the number of steps of a complete epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        u64::from(self.packs).div_ceil(u64::from(self.options.global_batch))
    }

    /// T, the number of steps of the run.
    pub fn steps(&self) -> u64 {
        let planned = self.steps_per_epoch() * u64::from(self.options.epochs);
        self.options.max_steps.map_or(planned, |most| most.min(planned))
    }

    /// The number of epochs that the run begins: all, unless `max_steps` ends the run earlier.
    pub fn epochs(&self) -> u32 {
        self.steps().div_ceil(self.steps_per_epoch()) as u32
    }

    /// The packs of an epoch, which depend only on the plan's input and the epoch's index.
    pub fn epoch(&self, index: u32) -> Epoch {
        let mut random = Random::new(&[self.options.seed, STREAM_EPOCH, index.into()]);
        let order = pack::Order { random: Some(&mut random), packs: self.packs };
        let length = |id| self.length(id);
        let samples = self.members(index);
        Epoch { index, packs: pack::best_fit(samples, length, self.options.max_tokens, order) }
    }

    /// The packs of the held-out samples, in an order that does not depend on the seed.
    pub fn evaluation(&self) -> Packs {
        self.pack_all(self.held_out.clone())
    }

    /// Packs any samples for evaluation, each once.
    pub fn pack_all(&self, samples: Vec<u32>) -> Packs {
        let order = pack::Order { random: None, packs: 0 };
        pack::best_fit(samples, |id| self.length(id), self.options.max_tokens, order)
    }

    /// The range of an epoch's packs on which the epoch's step `step`, counted from 0, trains.
    pub fn step_packs(&self, epoch: &Epoch, step: u64) -> Range<usize> {
        let (packs, steps) = (epoch.packs.len() as u64, self.steps_per_epoch());
        (step * packs / steps) as usize..((step + 1) * packs / steps) as usize
    }

    /// The steps of an epoch that the run reaches, in chunks.
    pub fn chunks<'p>(&'p self, epoch: &'p Epoch) -> impl Iterator<Item = Chunk> + 'p {
        let first = u64::from(epoch.index) * self.steps_per_epoch();
        let reached = self.steps().saturating_sub(first).min(self.steps_per_epoch());
        let size = self.steps_per_chunk();
        (0..reached).step_by(size as usize).map(move |start| {
            let steps = start..(start + size).min(reached);
            Chunk {
                epoch: epoch.index,
                first_step: first + start,
                steps: steps.map(|step| self.step(epoch, step)).collect(),
            }
        })
    }

    /// The plan without its packs: totals and options.
    pub fn summary(&self) -> Summary {
        Summary {
            version: VERSION,
            samples: self.samples.len() as u64,
            held_out: self.held_out.len() as u64,
            eval_packs: self.evaluation().len() as u64,
            max_tokens: self.options.max_tokens,
            global_batch: self.options.global_batch,
            steps: self.steps(),
            steps_per_epoch: self.steps_per_epoch(),
            packs_per_epoch: self.packs.into(),
            steps_per_chunk: self.steps_per_chunk(),
            epochs: self.epochs.clone(),
            sources: mixture::summaries(&self.mixed),
        }
    }

    fn steps_per_chunk(&self) -> u64 {
        let samples = self.epochs.iter().map(|epoch| epoch.samples).max().unwrap_or(1);
        let samples_per_step = samples.div_ceil(self.steps_per_epoch()).max(1);
        (SAMPLES_PER_CHUNK / samples_per_step).clamp(1, MAX_STEPS_PER_CHUNK)
    }

    fn step(&self, epoch: &Epoch, step: u64) -> Step {
        let packs = self.step_packs(epoch, step).map(|index| self.pack(epoch.packs.pack(index)));
        let packs: Vec<Pack> = packs.collect();
        let samples = packs.iter().flat_map(|pack| &pack.samples);
        Step { weight: samples.map(|&id| f64::from(self.samples[id as usize].weight)).sum(), packs }
    }

    fn pack(&self, samples: &[u32]) -> Pack {
        let lengths = || samples.iter().map(|&id| self.length(id));
        Pack {
            tokens: lengths().sum(),
            squares: lengths().map(|length| u64::from(length).pow(2)).sum(),
            samples: samples.to_vec(),
        }
    }

    fn length(&self, id: u32) -> u32 {
        self.samples[id as usize].length
    }

    /// The ids of the source's samples that are trained on, ascending.
    fn trainable(&self, range: Range<usize>) -> Vec<u32> {
        let (start, end) = (range.start as u32, range.end as u32);
        let from = self.left_out.partition_point(|&id| id < start);
        let mut left_out = self.left_out[from..].iter().peekable();
        let ids = (start..end).filter(|id| left_out.next_if(|left| *left == id).is_none());
        ids.collect()
    }

    /// What an epoch uses of each source: the first of its trainable samples, and how many follow, repeated
    /// cyclically.
    fn slices(&self, epoch: u32) -> Vec<(u128, u128)> {
        self.mixed.iter().map(|mixed| mixed.slice(epoch)).collect()
    }

    /// The ids of an epoch's samples, each as often as the epoch uses it.
    fn members(&self, epoch: u32) -> Vec<u32> {
        let mut members = Vec::new();
        let slices = self.slices(epoch);
        for (index, (range, _)) in ranges(self.sources).enumerate() {
            let (start, len) = slices[index];
            let mut ids = self.trainable(range);
            let samples = ids.len() as u128;
            if members.is_empty() && (start, len) == (0, samples) {
                members = ids;
                continue;
            }
            if len % samples.max(1) != 0 {
                mixture::shuffle(&mut ids, self.options.seed, index);
            }
            members.reserve_exact(len as usize);
            let (start, len) = (start as usize, len as usize);
            members.extend(ids.iter().cycle().skip(start).take(len));
        }
        members
    }

    /// The totals of an epoch, and its number of packs.
    fn count(&self, epoch: u32) -> Result<(EpochSummary, u32), Error> {
        let members: u128 = self.slices(epoch).iter().map(|(_, len)| len).sum();
        if members > u128::from(u32::MAX) {
            return Err(Error::TooManySamples(members as u64));
        }
        let mut by_length = vec![0u32; self.options.max_tokens as usize + 1];
        let mut summary = EpochSummary { samples: members as u64, tokens: 0, weight: 0.0 };
        for id in self.members(epoch) {
            let sample = &self.samples[id as usize];
            by_length[sample.length as usize] += 1;
            summary.tokens += u64::from(sample.length);
            summary.weight += f64::from(sample.weight);
        }
        Ok((summary, pack::count(&by_length)))
    }

    /// Checks that every epoch has at least one sample for each of its steps.
    fn check_epochs(&self) -> Result<(), Error> {
        let steps = self.steps_per_epoch();
        if steps == 0 {
            return Err(Error::Nothing { samples: self.samples.len() as u64 });
        }
        for (epoch, summary) in (0..).zip(&self.epochs) {
            if summary.samples < steps {
                return Err(Error::EpochTooSmall { epoch, samples: summary.samples, steps });
            }
        }
        Ok(())
    }
}

/// The sources with the ranges of their samples.
fn ranges(sources: &[Source]) -> impl Iterator<Item = (Range<usize>, &Source)> {
    sources.iter().scan(0, |start, source| {
        let end = *start + source.samples as usize;
        let range = *start..end;
        *start = end;
        Some((range, source))
    })
}

#[cfg(test)]
mod tests;

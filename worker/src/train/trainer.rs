//! The state of a training, and the step that changes it. The arithmetic, in order:
//!
//! ```text
//! gradients of sum(w * nll), f32, summed over this rank's micro-batches
//!   -> summed over ranks by bucket, while the last backward still runs
//!   -> control reduction: its completion commits the step
//!   -> / W(s), global norm, clip, AdamW          nothing of this can fail, and all of it is bit-equal on every rank
//! ```

use super::Divergence;
use super::batch::{Batch, MicroBatch, Sums};
use super::buckets::{Buckets, Layout, Piece};
use crate::collective::{self, Collective};
use crate::model::{self, Model};
use crate::ops::optimizer::{AdamW, Update, clip_factor, square_norm};
use crate::ops::{self, ParamId, Tape, Target};
use proto::protocol::SourceSum;
use std::time::{Duration, Instant};
use thiserror::Error;

/// Why a training does not begin, or a step was not committed.
#[derive(Debug, Error)]
pub enum Error {
    /// The ranks do not begin with the same state, or not with the one that was recorded.
    #[error(transparent)]
    Diverged(#[from] Divergence),
    /// A peer was lost, or the collective was aborted.
    #[error(transparent)]
    Collective(#[from] collective::Error),
    /// The model refused the batch.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// An operation refused its operands.
    #[error(transparent)]
    Ops(#[from] ops::Error),
    /// The ranks do not see the same plan or the same data.
    #[error("step {step}: the ranks' weights add up to {got}, the plan says {planned}")]
    Plan {
        /// The step.
        step: u64,
        /// What the ranks had.
        got: f64,
        /// What the plan has.
        planned: f64,
    },
    /// Three steps in a row had no finite gradient.
    #[error(
        "the gradient was not finite in {0} steps in a row\n\
         hint: lower `train.learning_rate`, or look at the samples that the receipt names"
    )]
    NonFinite(u32),
}

/// Steps in a row without a finite gradient that fail the run.
const NON_FINITE_LIMIT: u32 = 3;

/// How updates are made: the same for the whole run.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// The optimizer.
    pub adamw: AdamW,
    /// Of tensors with two or more dimensions.
    pub weight_decay: f64,
    /// The norm that gradients are clipped to.
    pub clip_norm: f64,
    /// Layers keep only their input and run twice.
    pub recompute: bool,
    /// Elements of a gradient bucket, about; a matrix of more has several.
    pub bucket_elements: usize,
}

/// What a committed step did.
#[derive(Clone, Debug)]
pub struct Committed {
    /// sum(w * nll) / W(s) over the global batch.
    pub loss: f64,
    /// Before clipping.
    pub grad_norm: f64,
    /// The update was made.
    pub applied: bool,
    /// Some rank wants all to stop now.
    pub stop: bool,
    /// This rank's share of the loss, by source: over all ranks and sources they add up to it.
    pub sources: Vec<SourceSum>,
    /// Time in forward and backward.
    pub compute: Duration,
    /// Time waiting for reductions after the last backward.
    pub reduce_wait: Duration,
}

/// A model in training: one replica.
pub struct Trainer {
    pub(crate) model: Model,
    pub(crate) m: Vec<Vec<f32>>,
    pub(crate) v: Vec<Vec<f32>>,
    /// Updates applied: what bias correction counts.
    pub(crate) updates: u64,
    recipe: Recipe,
    layout: Layout,
    buckets: Vec<Vec<f32>>,
    non_finite: u32,
}

impl Trainer {
    /// A training that begins with `model`.
    pub fn new(model: Model, recipe: Recipe) -> Self {
        let parameters = model.parameters();
        let moments = || -> Vec<Vec<f32>> {
            let trained = |p| {
                if parameters.trainable(p) { parameters.elements(p) } else { 0 }
            };
            parameters.ids().map(|p| vec![0.0; trained(p)]).collect()
        };
        let layout = Layout::new(parameters, recipe.bucket_elements);
        let (m, v, buckets) = (moments(), moments(), layout.allocate());
        Self { m, v, updates: 0, recipe, layout, buckets, non_finite: 0, model }
    }

    /// The model as it is now.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Takes one optimizer step on the global batch, of which `batch` is this rank's share.
    ///
    /// # Errors
    /// Before the commit: parameters and moments are what they were.
    pub fn step(
        &mut self,
        collective: &mut dyn Collective,
        batch: &Batch,
        learning_rate: f64,
        wants_stop: bool,
    ) -> Result<Committed, Error> {
        let mut buckets = std::mem::take(&mut self.buckets);
        if buckets.is_empty() {
            buckets = self.layout.allocate();
        }
        buckets.iter_mut().for_each(|b| b.fill(0.0));
        let mut sink = Buckets::new(&self.layout, collective, buckets);

        let began = Instant::now();
        let (mut loss_sum, mut sums) = (0.0, Sums::default());
        for (i, micro_batch) in batch.micro_batches.iter().enumerate() {
            if i + 1 == batch.micro_batches.len() {
                sink.last_micro_batch();
            }
            let recompute = self.recipe.recompute;
            loss_sum += backward(&self.model, micro_batch, recompute, &mut sink, &mut sums)?;
        }
        let compute = began.elapsed();
        sink.launch_rest();

        let mut control = [f64::from(u8::from(wants_stop)), loss_sum, batch.weight];
        sink.collective().control(&mut control)?;
        let buckets = sink.wait()?;
        let reduce_wait = began.elapsed() - compute;
        let [stops, loss_sum, weight] = control;
        if (weight - batch.planned_weight).abs() > 1e-6 * batch.planned_weight.max(1.0) {
            let (step, planned) = (batch.step, batch.planned_weight);
            return Err(Error::Plan { step, got: weight, planned });
        }

        let grad_norm = self.update(&buckets, weight, learning_rate);
        self.buckets = buckets;
        let applied = grad_norm.is_finite();
        self.non_finite = if applied { 0 } else { self.non_finite + 1 };
        if self.non_finite >= NON_FINITE_LIMIT {
            return Err(Error::NonFinite(self.non_finite));
        }
        Ok(Committed {
            loss: loss_sum / weight,
            grad_norm,
            applied,
            stop: stops > 0.0,
            sources: sums.into_vec(),
            compute,
            reduce_wait,
        })
    }

    /// Applies summed gradients; returns their norm, and leaves everything as it was if that is not finite.
    fn update(&mut self, buckets: &[Vec<f32>], weight: f64, lr: f64) -> f64 {
        let squares: f64 = buckets.iter().map(|b| square_norm(b)).sum();
        let norm = squares.sqrt() / weight;
        if !norm.is_finite() {
            return norm;
        }
        self.updates += 1;
        let gradient_scale = clip_factor(norm, self.recipe.clip_norm) / weight;
        for p in self.model.parameters().ids() {
            let pieces = self.layout.pieces(p);
            let matrix = self.model.parameters().shape(p).len() >= 2;
            let update = Update {
                count: self.updates,
                lr,
                weight_decay: if matrix { self.recipe.weight_decay } else { 0.0 },
                gradient_scale,
            };
            let (m, v) = (&mut self.m[p.0], &mut self.v[p.0]);
            let adamw = self.recipe.adamw;
            self.model.parameters_mut().write(p, |w| {
                for Piece { elements, bucket, range } in pieces {
                    let (g, at) = (&buckets[*bucket][range.clone()], || elements.clone());
                    adamw.update(&update, &mut w[at()], g, &mut m[at()], &mut v[at()]);
                }
            });
        }
        norm
    }

    /// sum(w * nll) over the targets of a micro-batch.
    ///
    /// # Errors
    /// If the model refuses the batch.
    pub fn loss_sum(&self, micro_batch: &MicroBatch) -> Result<f64, Error> {
        let tape = Tape::inference(self.model.parameters());
        let MicroBatch { tokens, documents, targets, .. } = micro_batch;
        Ok(self.model.loss(&tape, tokens, documents, targets, false)?.value()?)
    }

    /// Every parameter with its elements.
    pub(crate) fn ids(&self) -> impl Iterator<Item = ParamId> + use<> {
        self.model.parameters().ids()
    }
}

/// Forward and backward of one micro-batch; gradients are added up in `sink`, losses by source in `sums`.
fn backward(
    model: &Model,
    micro_batch: &MicroBatch,
    recompute: bool,
    sink: &mut Buckets<'_>,
    sums: &mut Sums,
) -> Result<f64, Error> {
    let tape = Tape::training(model.parameters());
    let MicroBatch { tokens, documents, sources, targets } = micro_batch;
    let loss = model.loss(&tape, tokens, documents, targets, recompute)?;
    let ends: Vec<_> = documents.iter().map(|rows| rows.end).collect();
    let mut show = |target: &Target, loss| {
        let document = ends.partition_point(|end| *end <= target.row as usize);
        sums.add(sources[document], target, loss);
    };
    Ok(tape.backward_showing(loss, sink, &mut show)?)
}

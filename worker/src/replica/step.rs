//! The training step, which changes a state by one update. The arithmetic, in order:
//!
//! ```text
//! gradients of sum(w * nll), f32, summed over this rank's micro-batches
//!   -> rounded if they are reduced in bf16
//!   -> all-reduced per bucket, while the last backward still runs
//!   -> losses and the norm are read                the only wait for the device
//!   -> control reduction, whose completion commits the step
//!   -> / W(s), global norm, clip, AdamW          bit-equal on every rank; if a GPU fails here, its rank is lost, and
//!                                                what it reads from now on is not used
//! ```

use super::State;
use super::batch::{Batch, MicroBatch};
use super::buckets::{Buckets, Layout, Piece};
use super::error::Error;
use super::objective::sft::{self, Sums};
use super::optimizer::{AdamW, Update, clip_factor};
use crate::collective::Collective;
use crate::device::{Buffer, Device, Dtype};
use crate::model::Model;
use crate::ops::{Losses, Recompute, Tape};
use proto::protocol::StepDone;
use std::borrow::Cow;
use std::time::Instant;

/// Number of consecutive steps without a finite gradient after which the run fails.
const NON_FINITE_LIMIT: u32 = 3;

/// How updates are computed; constant for the whole run.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// The optimizer.
    pub adamw: AdamW,
    /// Weight decay of tensors with two or more dimensions.
    pub weight_decay: f64,
    /// The maximum gradient norm, to which gradients are clipped.
    pub clip_norm: f64,
    /// What is computed twice, to save memory.
    pub recompute: Recompute,
    /// The type in which gradients are summed between ranks: f32 or bf16.
    pub reduce_dtype: Dtype,
    /// Approximate number of elements of a gradient bucket; a larger matrix has several buckets.
    pub bucket_elements: usize,
}

/// The result of a committed step.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Statistics of the step.
    pub done: StepDone,
    /// Whether any rank wants all ranks to stop now.
    pub stop: bool,
}

/// Takes training steps. It holds everything that a step needs besides the state, and is created again for every
/// membership.
pub struct Trainer {
    recipe: Recipe,
    layout: Layout,
    /// The buckets of the last step; `None` if it was not committed.
    buckets: Option<Vec<Buffer>>,
    non_finite: u32,
}

impl Trainer {
    /// A trainer for a state with the same parameters as `state`.
    pub fn new(state: &State, recipe: Recipe) -> Self {
        let layout = Layout::new(state.model().parameters(), recipe.bucket_elements);
        Self { recipe, layout, buckets: None, non_finite: 0 }
    }

    /// Bytes of the gradients that a step sums.
    pub(super) fn gradient_bytes(&self) -> u64 {
        self.layout.bytes()
    }

    /// Takes one optimizer step on the global batch; `batch` is this rank's share.
    ///
    /// # Errors
    /// An error leaves the state as it was before the step.
    pub fn step(
        &mut self,
        state: &mut State,
        collective: &mut dyn Collective,
        batch: &Batch,
        wants_stop: bool,
    ) -> Result<Committed, Error> {
        let buckets = self.cleared_buckets(state);
        let kernels = state.model().parameters().kernels().as_ref();
        let mut sink =
            Buckets::new(&self.layout, kernels, self.recipe.reduce_dtype, collective, buckets);
        let began = Instant::now();
        let mut losses = Vec::with_capacity(batch.micro_batches.len());
        for (i, micro_batch) in batch.micro_batches.iter().enumerate() {
            if i + 1 == batch.micro_batches.len() {
                sink.last_micro_batch();
            }
            let recompute = self.recipe.recompute;
            losses.push(backward(state.model(), micro_batch, recompute, &mut sink)?);
        }
        let mut compute = began.elapsed();
        sink.launch_rest();

        let buckets = sink.wait()?;
        let device = state.model().parameters().kernels().device();
        let squares = squares(state, &buckets);
        let chunks = losses.iter().flat_map(Losses::chunks);
        // The only wait for the device in a step.
        let mut read = device.read_all(chunks.chain([&squares]));
        device.check()?;
        if let Device::Cuda(_) = device {
            // Until now, work was only launched. Sums that other work does not hide count as computing.
            compute = began.elapsed();
        }
        let squares: f64 = read.pop().expect("one for each bucket").iter().sum();
        let (loss_sum, sums) = sums(&batch.micro_batches, &losses, read);
        let mut control = [f64::from(u8::from(wants_stop)), loss_sum, batch.weight];
        collective.control(&mut control)?;
        let reduce_wait = began.elapsed() - compute;
        let [stops, loss_sum, weight] = control;
        if (weight - batch.planned_weight).abs() > 1e-6 * batch.planned_weight.max(1.0) {
            let (step, planned) = (batch.step, batch.planned_weight);
            return Err(Error::Plan { step, got: weight, planned });
        }

        let grad_norm = squares.sqrt() / weight;
        self.update(state, &buckets, (grad_norm, weight), batch.learning_rate);
        self.buckets = Some(buckets);
        let applied = grad_norm.is_finite();
        self.non_finite = if applied { 0 } else { self.non_finite + 1 };
        if self.non_finite >= NON_FINITE_LIMIT {
            return Err(Error::NonFinite(self.non_finite));
        }
        let done = StepDone {
            step: batch.step,
            loss: loss_sum / weight,
            learning_rate: batch.learning_rate,
            grad_norm,
            applied,
            samples: batch.samples,
            samples_digest: batch.samples_digest,
            tokens: batch.tokens(),
            trained_tokens: batch.trained_tokens(),
            compute,
            reduce_wait,
            sources: sums.into_vec(),
        };
        Ok(Committed { done, stop: stops > 0.0 })
    }

    /// Zeroed buckets: those of the last step if it was committed, else new ones.
    fn cleared_buckets(&mut self, state: &State) -> Vec<Buffer> {
        let kernels = state.model().parameters().kernels();
        match self.buckets.take() {
            None => self.layout.allocate(kernels.device()),
            Some(mut buckets) => {
                buckets.iter_mut().for_each(|bucket| kernels.clear(bucket.all_mut()));
                buckets
            }
        }
    }

    /// Applies the summed gradients, whose mean has this norm. If it is not finite, the state is left unchanged.
    fn update(&self, state: &mut State, buckets: &[Buffer], (norm, weight): (f64, f64), lr: f64) {
        if !norm.is_finite() {
            return;
        }
        let _span = tracing::trace_span!("optimizer").entered();
        let kernels = state.model().parameters().kernels().clone();
        state.set_updates(state.updates() + 1);
        let gradient_scale = clip_factor(norm, self.recipe.clip_norm) / weight;
        for p in state.ids() {
            let matrix = state.model().parameters().shape(p).len() >= 2;
            let weight_decay = if matrix { self.recipe.weight_decay } else { 0.0 };
            let count = state.updates();
            let update = Update { count, lr, weight_decay, gradient_scale };
            let factors = self.recipe.adamw.step(&update);
            let (mut parts, mut rounded) = state.updated(p);
            for Piece { elements, bucket, range } in self.layout.pieces(p) {
                let windows = parts.each_mut().map(|part| part.window_mut(elements.clone()));
                let rounded = rounded.as_mut().map(|rounded| rounded.window_mut(elements.clone()));
                let g = buckets[*bucket].window(range.clone());
                kernels.adamw(windows, rounded, g, &factors);
            }
        }
    }
}

/// Runs the forward and backward of one micro-batch; gradients are accumulated in `sink`.
fn backward(
    model: &Model,
    micro_batch: &MicroBatch,
    recompute: Recompute,
    sink: &mut Buckets<'_>,
) -> Result<Losses, Error> {
    let tape = Tape::recomputing(model.parameters(), recompute);
    let loss = sft::loss(model, &tape, micro_batch)?;
    Ok(tape.backward(loss, sink)?)
}

/// The sum of the squares of each bucket, on the device.
fn squares(state: &State, buckets: &[Buffer]) -> Buffer {
    let kernels = state.model().parameters().kernels();
    let mut squares = kernels.device().take(Dtype::F64, buckets.len());
    for (i, bucket) in buckets.iter().enumerate() {
        kernels.sum_squares(squares.window_mut(i..i + 1), bucket.all());
    }
    squares
}

/// The total loss of a step, and the sums per source; `read` has the losses of all micro-batches.
fn sums(micro_batches: &[MicroBatch], losses: &[Losses], read: Vec<Cow<'_, [f64]>>) -> (f64, Sums) {
    let mut sums = Sums::default();
    let mut loss_sum = 0.0;
    let mut read = read.into_iter();
    for (micro_batch, losses) in micro_batches.iter().zip(losses) {
        let ends: Vec<_> = micro_batch.documents.iter().map(|rows| rows.end).collect();
        let own = read.by_ref().take(losses.chunks().len());
        loss_sum += losses.sum(own, |target, loss| {
            let document = ends.partition_point(|end| *end <= target.row as usize);
            sums.add(micro_batch.sources[document], target, loss);
        });
    }
    (loss_sum, sums)
}

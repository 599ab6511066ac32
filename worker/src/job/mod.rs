//! What every worker needs of a run in memory: its spec, the plan, the prepared samples, the base.
//!
//! Loading is async and finishes before the worker becomes a member; the training thread then only reads. Faults in
//! the data or the base are found here, before any rank waits in a collective.

mod base;
mod companions;
mod fit;
mod mapped;
mod restorable;
mod samples;

use crate::available;
use crate::device::{self, Device, cuda};
use crate::inputs::{self, access, parse, template};
use crate::kernels::Kernels;
use crate::model::{Config, Dtype, Model};
use crate::ops::Recompute;
use crate::replica::optimizer::AdamW;
use crate::replica::{
    BUCKET_ELEMENTS, Batch, MicroBatch, PartFile, Recipe, Saved, Snapshot, State, digest,
};
use crate::session::Trouble;
use bytes::Bytes;
use companions::Companion;
pub use fit::{Fit, Sizing};
use proto::error::chain;
use proto::manifest::Checkpoint;
use proto::plan::{Consumed, Pack, schedule, share};
use proto::protocol::{Cause, Load, Train};
use proto::receipt::Skipped;
use proto::spec::{EvalEvery, EvalOn, ReduceDtype, Spec};
pub use restorable::Restorable;
use samples::{Plan, Samples};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use storage::Storage;

/// The estimated cost of attention per pair of tokens, and of everything else per token, used to share packs evenly.
const COST_PER_TOKEN: u64 = 4096;
const COST_PER_PAIR: u64 = 1;

/// A run that is ready to be trained.
pub struct Job {
    spec: Spec,
    load: Load,
    storage: Storage,
    plan: Plan,
    samples: Samples,
    base: PathBuf,
    /// Number of token ids that samples may contain: the base's, and those that the chat template adds.
    vocabulary: usize,
    base_digest: String,
    /// The training state while no membership uses it.
    state: Mutex<Option<Kept>>,
    save_dtype: Dtype,
    companions: Vec<Companion>,
    kernels: Arc<dyn Kernels>,
    /// Bytes of this process before it read the base.
    process: u64,
    /// Bytes of activations that the last membership planned with.
    planned: AtomicU64,
    /// As [`Sizing::refused`].
    refused: AtomicU64,
}

/// A training state between two memberships.
enum Kept {
    /// The base, read while loading, so that a fault in it is found early.
    Base(State),
    /// The state that a membership left, possibly incomplete. A checkpoint can be restored into it, since that
    /// replaces everything that is trained.
    Used(State),
}

impl Job {
    /// Loads the run into memory, to be trained with `kernels`.
    ///
    /// # Errors
    /// [`Cause::Model`] for the base, [`Cause::Data`] for a source or the prepared data, [`Cause::Storage`].
    pub async fn load(load: Load, kernels: Arc<dyn Kernels>) -> Result<Self, Trouble> {
        let spec = parse(&load.spec_yaml)?;
        refuse_plaintext(&spec, kernels.device())?;
        let storage = access::open_output(&spec).await?;
        let plan = Plan::fetch(&storage, &load).await?;
        let samples = Samples::fetch(&storage, &load.fingerprint).await?;
        access::check_sources(&spec).await?;
        access::check_base(&spec).await?;
        let (base, template) = (inputs::base(&spec).await?, template(&spec).await?);
        // Where the system does not say, the program counts as nothing.
        let process = available::resident().unwrap_or(0);
        refuse_if_too_large(&spec, &base, kernels.device(), process)?;
        let read = tokio::task::spawn_blocking({
            let (base, spec, kernels) = (base.clone(), spec.clone(), kernels.clone());
            move || {
                let (model, dtype, companions) = base::read(&base, &spec, template, kernels)?;
                Ok((digest::of_base(&model).to_string(), model, dtype, companions))
            }
        });
        let (base_digest, model, save_dtype, companions) = read.await.map_err(|_| {
            Trouble::new(Cause::Internal, "reading the base model panicked; the log says where")
        })??;
        let vocabulary = model.config().vocab_size;
        let state = State::new(model);
        kernels.device().check().map_err(|error| match error {
            cuda::Error::OutOfMemory { .. } => {
                Trouble::new(Cause::Model, format!("the model does not fit on the device: {error}"))
            }
            _ => Trouble::new(Cause::Internal, error.to_string()),
        })?;
        Ok(Self {
            companions,
            kernels,
            process,
            planned: AtomicU64::new(u64::MAX),
            refused: AtomicU64::new(u64::MAX),
            base_digest,
            vocabulary,
            state: Mutex::new(Some(Kept::Base(state))),
            spec,
            load,
            storage,
            plan,
            samples,
            base,
            save_dtype,
        })
    }

    /// Starts fetching the checkpoint that `train` begins with; `None` if it begins with the base.
    ///
    /// # Errors
    /// [`Cause::Checkpoint`] if it differs from what was committed, [`Cause::Storage`].
    pub async fn restorable(&self, train: &Train) -> Result<Option<Restorable>, Trouble> {
        Restorable::open(&self.storage, train, &self.load.plan_digest).await
    }

    /// The state that a membership begins with: the base, or any state if a checkpoint will be restored into it.
    ///
    /// # Errors
    /// [`Cause::Model`] if the base has to be read again and can no longer be read.
    pub fn take_state(&self, to_restore: bool) -> Result<State, Trouble> {
        let kept = self.state.lock().expect("held only to swap").take();
        match kept {
            Some(Kept::Base(state)) => return Ok(state),
            Some(Kept::Used(state)) if to_restore => return Ok(state),
            // Frees its memory for the base.
            kept => drop(kept),
        }
        Ok(State::new(base::read_model(
            &self.base,
            &self.spec,
            self.vocabulary,
            self.kernels.clone(),
        )?))
    }

    /// Keeps the state that a membership leaves for the next membership.
    pub fn keep_state(&self, state: State) {
        *self.state.lock().expect("held only to swap") = Some(Kept::Used(state));
    }

    /// How the optimizer updates the state.
    pub fn recipe(&self, recompute: Recompute) -> Recipe {
        recipe(&self.spec, recompute)
    }

    /// The model that a run of `spec` begins with, for these kernels, and how its files are written; this process has
    /// `process` bytes.
    ///
    /// # Errors
    /// [`Cause::Model`] for the base, [`Cause::Storage`] if its store fails.
    pub async fn blueprint(
        spec: &Spec,
        process: u64,
        kernels: Arc<dyn Kernels>,
    ) -> Result<(Model, Saved), Trouble> {
        let base = inputs::base(spec).await?;
        refuse_if_too_large(spec, &base, kernels.device(), process)?;
        let (model, dtype, _) = base::read(&base, spec, template(spec).await?, kernels)?;
        Ok((model, Saved { dtype, file_bytes: spec.model().max_shard_bytes }))
    }

    /// How micro-batches go through `model` on this rank, which is one of `world` and shares its host with `on_host`
    /// of them, itself included.
    ///
    /// # Errors
    /// Those of [`Sizing::reserve`].
    pub fn fit(&self, model: &Model, world: usize, on_host: u64) -> Result<Fit, Trouble> {
        let checkpoints = Some((world, self.saved()));
        let (spec, config, process) = (&self.spec, model.config(), self.process);
        let device = self.kernels.device();
        let refused = self.refused.load(Ordering::Relaxed);
        let sizing = Sizing { spec, config, device, checkpoints, on_host, process, refused };
        let chosen = sizing.reserve()?;
        chosen.warn_if_too_large();
        self.planned.store(chosen.memory.activations, Ordering::Relaxed);
        Ok(chosen.fit)
    }

    /// Notes that the GPU had no memory in the middle of a step. The next membership then plans with less.
    pub fn ran_out_of_memory(&self) {
        self.refused.store(self.planned.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// The device that computes.
    pub fn device(&self) -> &Device {
        self.kernels.device()
    }

    /// The digest of the state that training begins with.
    pub fn base_digest(&self) -> &str {
        &self.base_digest
    }

    /// The run's output.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Number of planned steps.
    pub fn steps(&self) -> u64 {
        self.plan.summary.steps
    }

    /// The dtype and the maximum size of the model's files.
    pub fn saved(&self) -> Saved {
        Saved { dtype: self.save_dtype, file_bytes: self.spec.model().max_shard_bytes }
    }

    /// Whether gradients are encrypted between ranks.
    pub fn encrypts_gradients(&self) -> bool {
        self.spec.ring().encrypt
    }

    /// The learning rate of step `step`, counted from 0.
    fn learning_rate(&self, step: u64) -> f64 {
        schedule::learning_rate(step, self.steps(), &self.spec.train().schedule())
    }

    /// Whether a checkpoint is due after `step` steps.
    pub fn checkpoint_due(&self, step: u64) -> bool {
        step.is_multiple_of(self.spec.checkpoint().every)
    }

    /// How long storing a checkpoint is retried while the storage fails.
    pub fn storage_patience(&self) -> Duration {
        self.spec.checkpoint().storage_patience
    }

    /// Whether the held-out loss is measured after `step` steps.
    pub fn evaluation_due(&self, step: u64, at_checkpoint: bool) -> bool {
        let due = match self.spec.data().eval.every {
            EvalEvery::Checkpoint => at_checkpoint,
            EvalEvery::Steps(every) => step.is_multiple_of(every) || step == self.steps(),
        };
        due && !matches!(self.spec.data().eval.on, EvalOn::Nothing)
    }

    /// A rank's share of step `step`, in micro-batches of up to `most` packs. It depends on the plan, the rank and
    /// the world size only.
    ///
    /// # Errors
    /// [`Cause::Internal`] for a step or a sample that does not exist, [`Cause::Data`] for a damaged sample.
    pub fn batch(
        &self,
        step: u64,
        (rank, world): (usize, usize),
        most: usize,
    ) -> Result<Batch, Trouble> {
        let (epoch, planned) = self.plan.step(step)?;
        let mut consumed = Consumed::default();
        let mut micro_batches = Vec::new();
        for packs in share_of(&planned.packs, (rank, world), most) {
            for pack in &packs {
                consumed.add_all(epoch, &pack.samples);
            }
            micro_batches.push(self.micro_batch(packs, most)?);
        }
        Ok(Batch {
            step,
            weight: micro_batches.iter().map(MicroBatch::weight).sum(),
            micro_batches,
            learning_rate: self.learning_rate(step),
            planned_weight: planned.weight,
            samples: consumed.samples,
            samples_digest: consumed.digest,
        })
    }

    /// The samples of step `step` on all ranks, by file and line, for the receipt of a skipped step.
    ///
    /// # Errors
    /// As [`Self::batch`].
    pub fn skipped(&self, step: u64) -> Result<Skipped, Trouble> {
        let (_, planned) = self.plan.step(step)?;
        let mut ids: Vec<_> = planned.samples().collect();
        ids.sort_unstable();
        ids.dedup();
        let names = ids.into_iter().map(|id| self.samples.origin(id)).collect::<Result<_, _>>()?;
        Ok(Skipped::new(step + 1, names))
    }

    /// A rank's share of the held-out packs, by source, in micro-batches of up to `most` packs.
    ///
    /// # Errors
    /// [`Cause::Internal`] for a sample that does not exist, [`Cause::Data`] for a damaged one.
    pub fn held_out(
        &self,
        (rank, world): (usize, usize),
        most: usize,
    ) -> Result<Vec<(u32, MicroBatch)>, Trouble> {
        let mut micro_batches = Vec::new();
        for (source, planned) in (0..).zip(&self.plan.held_out) {
            for packs in share_of(&planned.packs, (rank, world), most) {
                micro_batches.push((source, self.micro_batch(packs, most)?));
            }
        }
        Ok(micro_batches)
    }

    /// The samples of `packs`, of which there are up to `most`. A GPU gets the same number of tokens every time.
    fn micro_batch(&self, packs: Vec<&Pack>, most: usize) -> Result<MicroBatch, Trouble> {
        let micro_batch = self.samples.micro_batch(packs.into_iter())?;
        let Device::Cuda(_) = self.kernels.device() else { return Ok(micro_batch) };
        let length = self.spec.data().max_tokens as usize;
        Ok(micro_batch.padded(most * length, length))
    }

    /// On rank 0, adds the files that complete the model folder: configuration, tokenizer, templates.
    pub fn with_companions(&self, mut snapshot: Snapshot, rank: usize) -> Snapshot {
        if rank == 0 {
            let part = |(name, body): &Companion| PartFile {
                key: format!("{}/{name}", Checkpoint::MODEL),
                body: Bytes::from(body.clone()),
                tensors: Vec::new(),
            };
            snapshot.files.extend(self.companions.iter().map(part));
        }
        snapshot
    }
}

/// Refuses a model that this device could not train by itself, before it is read.
/// Refuses to train without encryption if the spec asks for it.
fn refuse_plaintext(spec: &Spec, device: &Device) -> Result<(), Trouble> {
    let on_gpu = match device {
        Device::Cuda(_) => true,
        Device::Host | Device::Rehearsal(_) => false,
    };
    if !on_gpu || !spec.ring().encrypt || spec.workers().max == 1 {
        return Ok(());
    }
    let message = "ring.encrypt: NCCL, which sums the gradients of GPUs, cannot encrypt\n\
                   hint: leave it out, and encrypt the network between the hosts by other means";
    Err(Trouble::new(Cause::Model, message))
}

fn refuse_if_too_large(
    spec: &Spec,
    base: &Path,
    device: &Device,
    process: u64,
) -> Result<(), Trouble> {
    let config = Config::read(base).map_err(|e| Trouble::new(Cause::Model, chain(&e)))?;
    let (config, checkpoints, refused) = (&config, None, u64::MAX);
    let sizing = Sizing { spec, config, device, checkpoints, on_host: 1, process, refused };
    sizing.fit().map(|_| ())
}

/// A rank's share of `packs`, in groups of up to `size`.
fn share_of(packs: &[Pack], (rank, world): (usize, usize), size: usize) -> Vec<Vec<&Pack>> {
    let costs: Vec<_> = packs.iter().map(|p| p.cost(COST_PER_TOKEN, COST_PER_PAIR)).collect();
    let mine = share(&costs, world).swap_remove(rank);
    mine.chunks(size).map(|m| m.iter().map(|i| &packs[*i]).collect()).collect()
}

/// How the optimizer updates the model of a run of `spec`.
pub fn recipe(spec: &Spec, recompute: Recompute) -> Recipe {
    let train = spec.train();
    let [beta1, beta2] = train.optimizer.betas;
    Recipe {
        adamw: AdamW { beta1, beta2, eps: train.optimizer.eps },
        weight_decay: train.optimizer.weight_decay,
        clip_norm: train.clip_norm,
        recompute,
        reduce_dtype: match train.reduce_dtype {
            ReduceDtype::F32 => device::Dtype::F32,
            ReduceDtype::Bf16 => device::Dtype::Bf16,
        },
        bucket_elements: BUCKET_ELEMENTS,
    }
}

//! Start here: one membership of a run, from the first handshake to the last step.
//!
//! ```text
//! join      connect the ring of this generation
//! begin     restore the checkpoint that the coordinator names, or take the base model; all ranks verify equal state
//! fit       all ranks agree on micro-batches that fit in the memory of each of them
//! steps     every rank takes the same steps; the control reduction commits a step
//!           at a checkpoint: snapshot (uploaded in the background; skipped while the storage fails), held-out loss
//! leave     after the last step, or after a step in which a rank asked to stop
//! ```
//!
//! This thread computes and never awaits. Its reports go through one bounded channel to the agent; its instructions
//! arrive through [`Controls`]. Any failure before a commit leaves the state as it was before the step.

use crate::collective::{self, Collective, Listener, NcclError, Paired, Ring};
use crate::controls::{Controls, ThreadReport};
use crate::device::{Device, cuda};
use crate::job::{Fit, Job, Restorable};
use crate::ops::Recompute;
use crate::replica::objective::sft;
use crate::replica::{
    self, Committed, Digest, Origin, RestoreError, State, Trainer, Vacancy, agree, digest, restore,
    snapshot,
};
use crate::session::Trouble;
use proto::protocol::{Cause, Phase, SourceSum, Train};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long a collective may make no progress before this rank gives it up by itself.
const PATIENCE: Duration = Duration::from_secs(600);

/// Why a membership ended early.
#[derive(Debug)]
pub enum Broken {
    /// It was aborted from outside.
    Aborted,
    /// It failed after this number of committed steps, for this reason.
    Failed(u64, Trouble),
}

/// The training thread's connections to its process.
pub struct Outside<'a> {
    /// Where the previous rank of the ring connects.
    pub listener: &'a Listener,
    /// The thread's instructions, and where it publishes its progress.
    pub controls: &'a Controls,
    /// Receives the thread's reports.
    pub report: &'a mut dyn FnMut(ThreadReport),
    /// Whether NCCL may send gradients to other hosts, which it does without encryption.
    pub trusts_network: bool,
}

/// Trains under `duty` until the run is done or a stop is agreed on; returns the steps committed.
///
/// # Errors
/// [`Broken`] if the membership ended before that.
pub fn run<'a>(
    duty: &'a Train,
    job: &'a Job,
    from: Option<Restorable>,
    outside: Outside<'a>,
) -> Result<u64, Broken> {
    let mut member = Member::join(duty, job, outside)?;
    member.at(Phase::Loading);
    let mut state = job.take_state(from.is_some()).map_err(|t| member.failed(t))?;
    let ended = member.begin(&mut state, from).and_then(|()| member.steps(&mut state));
    if ended.is_err() {
        // The next membership restores into this memory. After an end that was agreed on there is none.
        job.keep_state(state);
    }
    ended.map(|()| member.step)
}

/// One rank in one membership.
struct Member<'a> {
    duty: &'a Train,
    job: &'a Job,
    outside: Outside<'a>,
    collective: Box<dyn Collective>,
    /// Steps committed.
    step: u64,
}

impl<'a> Member<'a> {
    fn join(duty: &'a Train, job: &'a Job, outside: Outside<'a>) -> Result<Self, Broken> {
        let membership = collective::Membership {
            run: duty.load.run.to_string(),
            generation: duty.generation.0,
            rank: duty.rank as usize,
            addresses: duty.members.clone(),
            key: duty.ring_key,
            encrypt: job.encrypts_gradients(),
        };
        // A dead peer closes its sockets, and a silent one loses its lease: either way the coordinator aborts this
        // membership. What remains is a coordinator that is away, and then waiting costs less than regrouping.
        let options = collective::Options { stall: PATIENCE, ..Default::default() };
        let abort = outside.controls.abort.clone();
        let trusted = outside.trusts_network;
        let connect = || -> Result<Box<dyn Collective>, collective::Error> {
            let ring = Ring::connect(outside.listener, &membership, &options, abort)?;
            match job.device() {
                Device::Cuda(_) if !trusted && duty.on_host() < duty.members.len() => {
                    Err(NcclError::Plaintext.into())
                }
                Device::Cuda(gpu) => Ok(Box::new(Paired::new(ring, gpu.clone())?)),
                Device::Host | Device::Rehearsal(_) => Ok(Box::new(ring)),
            }
        };
        let collective = connect().map_err(|e| broken(0, e.into()))?;
        Ok(Self { duty, job, outside, collective, step: 0 })
    }

    /// Brings `state` to where training begins, and verifies that all ranks hold the same state.
    fn begin(&mut self, state: &mut State, from: Option<Restorable>) -> Result<(), Broken> {
        let (origin, recorded) = match from {
            Some(from) => {
                let digest = from.digest;
                self.restore(state, from)?;
                (Origin::Checkpoint, digest)
            }
            None => (Origin::Base, self.recorded()?),
        };
        let digest = state.digest();
        self.check_device()?;
        // This also waits for the rank that takes longest to read its base model.
        agree(&mut *self.collective, digest, origin, recorded).map_err(|e| self.broken(e))?;
        let configuration = digest::of_configuration(state.model());
        agree(&mut *self.collective, configuration, Origin::Configuration, None)
            .map_err(|e| self.broken(e))
    }

    fn restore(&mut self, state: &mut State, mut from: Restorable) -> Result<(), Broken> {
        let mine = std::iter::from_fn(|| from.mine.blocking_recv());
        let mine = mine.map(|fetched| fetched.map_err(|trouble| Broken::Failed(0, trouble)));
        restore(state, &mut *self.collective, &from.state, mine)?;
        self.step = from.step;
        Ok(())
    }

    /// The digest of the run's base model, if the coordinator has recorded one.
    fn recorded(&self) -> Result<Option<Digest>, Broken> {
        let recorded = self.duty.base_digest.as_ref().map(|digest| digest.parse()).transpose();
        recorded.map_err(|e| {
            let message = format!("recorded digest of the base model: {e}");
            self.failed(Trouble::new(Cause::Internal, message))
        })
    }

    fn steps(&mut self, state: &mut State) -> Result<(), Broken> {
        let Fit { packs, recompute } = self.fit(state)?;
        let mut trainer = Trainer::new(state, self.job.recipe(recompute));
        if self.duty.evaluate_first {
            self.evaluate(state, packs)?;
        }
        while self.step < self.job.steps() {
            let stop = self.take_step(&mut trainer, state, packs)?;
            let last = self.step == self.job.steps();
            let due = self.job.checkpoint_due(self.step);
            if last || stop || due {
                self.save(state, last || stop)?;
            }
            if self.job.evaluation_due(self.step, last || due) {
                self.evaluate(state, packs)?;
            }
            if stop {
                break;
            }
        }
        self.at(Phase::Idle);
        Ok(())
    }

    /// Chooses how micro-batches go through the model: as is necessary for the rank with the least memory.
    fn fit(&mut self, state: &State) -> Result<Fit, Broken> {
        const SETTINGS: [Recompute; 3] = [Recompute::Off, Recompute::Light, Recompute::On];
        let (rank, world) = self.place();
        let on_host = self.duty.on_host() as u64;
        let fit = self.job.fit(state.model(), world, on_host).map_err(|t| self.failed(t))?;
        // Each rank adds its own choice to zeros.
        let mut all = vec![0.0; 2 * world];
        all[rank] = fit.packs as f64;
        all[world + rank] = fit.recompute as u8 as f64;
        self.collective.control(&mut all).map_err(|e| self.broken(e.into()))?;
        let packs = all[..world].iter().fold(f64::INFINITY, |least, packs| least.min(*packs));
        let recompute = all[world..].iter().fold(0.0, |most: f64, setting| most.max(*setting));
        let fit = Fit { packs: packs as usize, recompute: SETTINGS[recompute as usize] };
        if rank == 0 {
            let Fit { packs, recompute } = fit;
            tracing::info!(packs, ?recompute, "chose the micro-batches");
        }
        Ok(fit)
    }

    /// Takes the next step; returns whether any rank wants all ranks to stop after it.
    fn take_step(
        &mut self,
        trainer: &mut Trainer,
        state: &mut State,
        packs: usize,
    ) -> Result<bool, Broken> {
        self.at(Phase::Computing);
        let batch = self.job.batch(self.step, self.place(), packs).map_err(|t| self.failed(t))?;
        let wants_stop = self.outside.controls.stop.load(Ordering::Relaxed);
        let committed = trainer.step(state, &mut *self.collective, &batch, wants_stop);
        let finite = match &committed {
            Ok(committed) => committed.done.applied,
            Err(error) => !matches!(error, replica::Error::NonFinite(_)),
        };
        if !finite {
            let skipped = self.job.skipped(self.step).map_err(|t| self.failed(t))?;
            (self.outside.report)(ThreadReport::Skipped(skipped));
        }
        let Committed { done, stop } = committed.map_err(|e| self.broken(e))?;
        (self.outside.report)(ThreadReport::Stepped(done));
        self.step += 1;
        Ok(stop)
    }

    /// Takes a snapshot of this rank's part of a checkpoint. With `must` (the checkpoint that a run ends with or
    /// resumes from), it waits for a free buffer; otherwise the checkpoint is skipped while the storage fails.
    fn save(&mut self, state: &State, must: bool) -> Result<(), Broken> {
        self.at(Phase::Saving);
        let began = Instant::now();
        let controls = self.outside.controls;
        if !must && !all_have_room(controls, &mut *self.collective, self.step)? {
            if self.collective.rank() == 0 {
                let (run, step) = (self.duty.load.run.to_string(), self.step);
                tracing::warn!(run, step, "checkpoint skipped because the storage fails");
            }
            return Ok(());
        }
        let room = controls.room.reserve(&controls.abort).ok_or(Broken::Aborted)?;
        let taken = snapshot(state, self.step, self.place(), self.job.saved(), room);
        self.check_device()?;
        let mut taken = self.job.with_companions(taken, self.collective.rank());
        taken.pause = began.elapsed();
        (self.outside.report)(ThreadReport::Snapshot(taken));
        Ok(())
    }

    /// Computes this rank's share of the held-out loss, per source.
    fn evaluate(&mut self, state: &State, packs: usize) -> Result<(), Broken> {
        self.at(Phase::Evaluating);
        let mut sums = Vec::new();
        let held_out = self.job.held_out(self.place(), packs).map_err(|t| self.failed(t))?;
        for (source, micro_batch) in held_out {
            if self.outside.controls.abort.is_aborted() {
                return Err(Broken::Aborted);
            }
            let loss_sum = sft::evaluate(state.model(), &micro_batch);
            let loss_sum = loss_sum.map_err(|e| self.broken(e.into()))?;
            let (weight, trained_tokens) = (micro_batch.weight(), micro_batch.targets.len() as u64);
            sums.push(SourceSum { source, loss_sum, weight, trained_tokens });
        }
        self.check_device()?;
        (self.outside.report)(ThreadReport::Evaluated(self.step, sums));
        Ok(())
    }

    /// Fails if the device has failed, and with it what was read since.
    fn check_device(&self) -> Result<(), Broken> {
        self.job.device().check().map_err(|e| self.broken(e.into()))
    }

    fn place(&self) -> (usize, usize) {
        (self.collective.rank(), self.collective.world_size())
    }

    /// Publishes what the thread is doing.
    fn at(&self, phase: Phase) {
        self.outside.controls.gauges.at(self.step, phase, &*self.collective);
    }

    fn failed(&self, trouble: Trouble) -> Broken {
        Broken::Failed(self.step, trouble)
    }

    fn broken(&self, error: replica::Error) -> Broken {
        if let replica::Error::Device(cuda::Error::OutOfMemory { .. }) = error {
            self.job.ran_out_of_memory();
        }
        broken(self.step, error)
    }
}

/// Whether a snapshot can be taken on every rank. All ranks get the same answer, since a checkpoint consists of all
/// ranks' parts or none.
///
/// A slow upload is waited for. A failing one is not, so that training continues while the storage is away.
fn all_have_room(
    controls: &Controls,
    collective: &mut dyn Collective,
    step: u64,
) -> Result<bool, Broken> {
    let vacancy = controls.room.vacancy(&controls.abort).ok_or(Broken::Aborted)?;
    let mut in_trouble = [f64::from(u8::from(vacancy == Vacancy::InTrouble))];
    collective.control(&mut in_trouble).map_err(|e| broken(step, e.into()))?;
    Ok(in_trouble == [0.0])
}

impl From<RestoreError> for Broken {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::Collective(error) => broken(0, error.into()),
            RestoreError::Format { .. } | RestoreError::Shape { .. } | RestoreError::Missing(_) => {
                Self::Failed(0, Trouble::new(Cause::Checkpoint, proto::error::chain(&error)))
            }
        }
    }
}

fn broken(step: u64, error: replica::Error) -> Broken {
    let cause = match &error {
        replica::Error::Collective(collective::Error::Aborted) => return Broken::Aborted,
        replica::Error::Collective(_) => Cause::Peer,
        replica::Error::Model(_)
        | replica::Error::Ops(_)
        | replica::Error::Device(_)
        | replica::Error::Plan { .. } => Cause::Internal,
        replica::Error::NonFinite(_) => Cause::Data,
        replica::Error::Diverged(_) => Cause::Diverged,
    };
    let accusation = match &error {
        replica::Error::Collective(error) => error.accusation(),
        replica::Error::Model(_)
        | replica::Error::Ops(_)
        | replica::Error::Device(_)
        | replica::Error::Plan { .. }
        | replica::Error::NonFinite(_)
        | replica::Error::Diverged(_) => None,
    };
    let message = proto::error::chain(&error);
    Broken::Failed(step, Trouble { accusation, ..Trouble::new(cause, message) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::{AbortHandle, InProcess};
    use crate::replica::Room;
    use std::sync::Arc;

    /// Each rank's answer from `all_have_room`, after `occupy` has prepared its buffer. What `occupy` returns is kept
    /// until the answer is there.
    fn ask<T>(world: usize, occupy: impl Fn(usize, &Room) -> T + Sync) -> Vec<bool> {
        let rank = |mut collective: InProcess| {
            let controls = Controls {
                abort: collective.abort_handle(),
                stop: Arc::default(),
                room: Room::default(),
                gauges: Arc::default(),
            };
            let _occupied = occupy(collective.rank(), &controls.room);
            all_have_room(&controls, &mut collective, 1).expect("no rank leaves")
        };
        std::thread::scope(|scope| {
            let ranks = InProcess::world(world, Duration::from_secs(60)).into_iter();
            let threads: Vec<_> = ranks.map(|c| scope.spawn(|| rank(c))).collect();
            threads.into_iter().map(|t| t.join().expect("a rank")).collect()
        })
    }

    #[test]
    fn all_ranks_skip_a_checkpoint_if_one_cannot_store_the_previous_one() {
        for world in 1..4 {
            assert_eq!(ask(world, |_, _| ()), vec![true; world]);
            let answers = ask(world, |rank, room| {
                let reserved = room.reserve(&AbortHandle::new()).filter(|_| rank + 1 == world);
                if let Some(reserved) = &reserved {
                    reserved.file_failing(true);
                }
                reserved
            });
            assert_eq!(answers, vec![false; world]);
        }
    }

    #[test]
    fn all_ranks_wait_for_a_slow_upload() {
        let (waits, waited) = std::sync::mpsc::channel();
        let answers = ask(3, |rank, room| {
            let reserved = room.reserve(&AbortHandle::new()).expect("it is free");
            if rank != 1 {
                return;
            }
            let waits = waits.clone();
            std::thread::spawn(move || {
                waits.send(()).expect("the test waits");
                drop(reserved);
            });
        });
        assert_eq!(answers, [true; 3]);
        assert!(
            waited.try_recv().is_ok(),
            "the upload must finish before any rank gets its answer"
        );
    }
}

//! THE PAGE: one membership of a run, from the first handshake to the last step. Read this first.
//!
//! ```text
//! join      the ring of this generation
//! restore   the checkpoint that the coordinator names, or the base
//! agree     all ranks prove that they hold the same state
//! steps     each the same on every rank; its control reduction is the commit
//! at every checkpoint: a snapshot, whose upload runs behind, unless the storage fails; the held-out loss
//! leave     after the last step, or after the step in which somebody asked for a stop
//! ```
//!
//! This thread computes and never awaits. What it has to say goes through one bounded channel to the agent; what it is
//! told comes through [`Controls`]. Whatever breaks before a commit leaves the state as it was before the step.

use crate::checkpoint::{self, Room, Snapshot, Vacancy, restore};
use crate::collective::{self, AbortHandle, Collective, Listener, Ring};
use crate::job::{Job, Restorable};
use crate::session::Trouble;
use crate::train::{self, Digest, Origin, Trainer};
use proto::protocol::{Cause, Phase, SourceSum, StepDone, Train};
use proto::receipt::Skipped;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a collective may stand still before this rank gives it up by itself.
const PATIENCE: Duration = Duration::from_secs(600);

/// What the training thread says.
pub enum Said {
    /// A step was committed.
    Stepped(StepDone),
    /// A committed step changed nothing: its samples, of all ranks.
    Skipped(Skipped),
    /// This rank's share of the held-out set, after so many steps.
    Evaluated(u64, Vec<SourceSum>),
    /// This rank's part of a checkpoint, to be stored.
    Snapshot(Snapshot),
}

/// What the training thread is told, and what can be seen of it from outside.
#[derive(Clone)]
pub struct Controls {
    /// Ends it now.
    pub abort: AbortHandle,
    /// Lets it stop after the current step.
    pub stop: Arc<AtomicBool>,
    /// Where a snapshot waits to be stored.
    pub room: Room,
    /// Where it is.
    pub gauges: Arc<Gauges>,
}

/// Where a training thread is: written by it, read by the beats.
#[derive(Default)]
pub struct Gauges(Mutex<Gauge>);

/// One reading of the [`Gauges`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauge {
    /// Steps committed.
    pub step: u64,
    /// What the thread is at.
    pub phase: Phase,
    /// Number of its present or last collective.
    pub collective: u64,
}

impl Gauges {
    /// What they show now.
    pub fn read(&self) -> Gauge {
        *self.0.lock().expect("held only to copy")
    }

    fn at(&self, step: u64, phase: Phase, collective: &dyn Collective) {
        let collective = collective.calls();
        *self.0.lock().expect("held only to copy") = Gauge { step, phase, collective };
    }
}

/// Why a membership ended early.
#[derive(Debug)]
pub enum Broken {
    /// It was aborted from outside.
    Aborted,
    /// After so many committed steps, for this reason.
    Failed(u64, Trouble),
}

/// Trains under `duty` until the run is done or a stop is agreed on; returns the steps committed.
///
/// # Errors
/// [`Broken`] where the membership ended before that.
pub fn run(
    duty: &Train,
    job: &Job,
    from: Option<Restorable>,
    listener: &Listener,
    controls: &Controls,
    say: &mut dyn FnMut(Said),
) -> Result<u64, Broken> {
    let mut collective = join(duty, listener, controls)?;
    let (rank, world) = (collective.rank(), collective.world_size());
    let gauges = &controls.gauges;

    gauges.at(0, Phase::Loading, &collective);
    let mut trainer = job.start().map_err(|t| Broken::Failed(0, t))?;
    let (mut step, origin, recorded) = match from {
        Some(from) => {
            let recorded = from.digest;
            (restored(from, &mut trainer, &mut collective)?, Origin::Checkpoint, recorded)
        }
        None => (0, Origin::Base, recorded(duty)?),
    };
    let steps = job.steps();
    // It also waits for the rank that takes longest to read its base.
    train::agree(&mut collective, trainer.digest(), origin, recorded)
        .map_err(|e| broken(step, e))?;
    let configuration = train::digest::of_configuration(trainer.model());
    train::agree(&mut collective, configuration, Origin::Configuration, None)
        .map_err(|e| broken(step, e))?;

    if duty.evaluate_first {
        gauges.at(step, Phase::Evaluating, &collective);
        say(Said::Evaluated(step, evaluate(&trainer, job, rank, world, controls, step)?));
    }
    while step < steps {
        gauges.at(step, Phase::Computing, &collective);
        let batch = job.batch(step, rank, world).map_err(|t| Broken::Failed(step, t))?;
        let learning_rate = job.learning_rate(step);
        let wants_stop = controls.stop.load(Ordering::Relaxed);
        let done = trainer.step(&mut collective, &batch, learning_rate, wants_stop);
        let finite = match &done {
            Ok(done) => done.applied,
            Err(error) => !matches!(error, train::Error::NonFinite(_)),
        };
        if !finite {
            say(Said::Skipped(job.skipped(step).map_err(|t| Broken::Failed(step, t))?));
        }
        let done = done.map_err(|e| broken(step, e))?;
        say(Said::Stepped(StepDone {
            step,
            loss: done.loss,
            learning_rate,
            grad_norm: done.grad_norm,
            applied: done.applied,
            samples: batch.samples,
            samples_digest: batch.samples_digest,
            tokens: batch.tokens(),
            trained_tokens: batch.trained_tokens(),
            compute: done.compute,
            reduce_wait: done.reduce_wait,
            sources: done.sources,
        }));
        step += 1;
        let leave = step == steps || done.stop;
        let due = job.checkpoint_due(step);
        if leave || due {
            gauges.at(step, Phase::Saving, &collective);
            // What a run ends with, or goes on from, is waited for.
            if leave || all_have_room(controls, &mut collective, step)? {
                let room = controls.room.reserve(&controls.abort).ok_or(Broken::Aborted)?;
                let place = (rank, world);
                let snapshot = checkpoint::snapshot(&trainer, step, place, job.saved(), room);
                say(Said::Snapshot(job.with_companions(snapshot, rank)));
            } else if rank == 0 {
                let run = duty.load.run.to_string();
                tracing::warn!(run, step, "a checkpoint is left out, since the storage fails");
            }
        }
        if job.evaluation_due(step, step == steps || due) {
            gauges.at(step, Phase::Evaluating, &collective);
            say(Said::Evaluated(step, evaluate(&trainer, job, rank, world, controls, step)?));
        }
        if done.stop {
            break;
        }
    }
    gauges.at(step, Phase::Idle, &collective);
    Ok(step)
}

/// Whether a snapshot can be taken on every rank; equal on every rank, since a checkpoint is of all of them or of none.
///
/// A slow upload is waited for. One that fails is not, so that training goes on while the storage is away.
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

fn join(duty: &Train, listener: &Listener, controls: &Controls) -> Result<Ring, Broken> {
    let membership = collective::Membership {
        run: duty.load.run.to_string(),
        generation: duty.generation.0,
        rank: duty.rank as usize,
        addresses: duty.members.clone(),
        key: duty.ring_key,
    };
    // A dead peer closes its sockets, a silent one loses its lease: both end this by an abort. What
    // is left is a coordinator that is away, and then patience costs less than a regroup.
    let options = collective::Options { stall: PATIENCE, ..Default::default() };
    Ring::connect(listener, &membership, &options, controls.abort.clone())
        .map_err(|e| broken(0, e.into()))
}

/// The digest of the run's base, once the coordinator has recorded it.
fn recorded(duty: &Train) -> Result<Option<Digest>, Broken> {
    let recorded = duty.base_digest.as_ref().map(|digest| digest.parse()).transpose();
    recorded.map_err(|e| {
        let message = format!("the recorded digest of the base: {e}");
        Broken::Failed(0, Trouble::new(Cause::Internal, message))
    })
}

/// The trainer in the state of a checkpoint; the steps committed there.
fn restored(
    mut from: Restorable,
    trainer: &mut Trainer,
    collective: &mut dyn Collective,
) -> Result<u64, Broken> {
    let mine = std::iter::from_fn(|| from.mine.blocking_recv());
    let mine = mine.map(|fetched| fetched.map_err(|trouble| Broken::Failed(0, trouble)));
    restore(trainer, collective, &from.state, mine)?;
    Ok(from.step)
}

impl From<checkpoint::Error> for Broken {
    fn from(error: checkpoint::Error) -> Self {
        match error {
            checkpoint::Error::Collective(error) => broken(0, error.into()),
            checkpoint::Error::Format { .. }
            | checkpoint::Error::Shape { .. }
            | checkpoint::Error::Missing(_) => {
                Self::Failed(0, Trouble::new(Cause::Checkpoint, proto::error::chain(&error)))
            }
        }
    }
}

/// This rank's share of the held-out set, by source.
fn evaluate(
    trainer: &Trainer,
    job: &Job,
    rank: usize,
    world: usize,
    controls: &Controls,
    step: u64,
) -> Result<Vec<SourceSum>, Broken> {
    let mut sums = Vec::new();
    for (source, micro_batch) in job.held_out(rank, world).map_err(|t| Broken::Failed(step, t))? {
        if controls.abort.is_aborted() {
            return Err(Broken::Aborted);
        }
        let loss_sum = trainer.loss_sum(&micro_batch).map_err(|e| broken(step, e))?;
        let (weight, trained_tokens) = (micro_batch.weight(), micro_batch.targets.len() as u64);
        sums.push(SourceSum { source, loss_sum, weight, trained_tokens });
    }
    Ok(sums)
}

fn broken(step: u64, error: train::Error) -> Broken {
    let cause = match &error {
        train::Error::Collective(collective::Error::Aborted) => return Broken::Aborted,
        train::Error::Collective(_) => Cause::Peer,
        train::Error::Model(_) | train::Error::Ops(_) | train::Error::Plan { .. } => {
            Cause::Internal
        }
        train::Error::NonFinite(_) => Cause::Data,
        train::Error::Diverged(_) => Cause::Diverged,
    };
    let accusation = match &error {
        train::Error::Collective(error) => error.accusation(),
        train::Error::Model(_)
        | train::Error::Ops(_)
        | train::Error::Plan { .. }
        | train::Error::NonFinite(_)
        | train::Error::Diverged(_) => None,
    };
    let message = proto::error::chain(&error);
    Broken::Failed(step, Trouble { accusation, ..Trouble::new(cause, message) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::InProcess;

    /// What each rank is told, whose rooms `occupy` prepares; what it returns lives as long as the question.
    fn ask<T>(world: usize, occupy: impl Fn(usize, &Room) -> T + Sync) -> Vec<bool> {
        let rank = |mut collective: InProcess| {
            let controls = Controls {
                abort: collective.abort_handle(),
                stop: Arc::default(),
                room: Room::default(),
                gauges: Arc::default(),
            };
            let _occupied = occupy(collective.rank(), &controls.room);
            all_have_room(&controls, &mut collective, 1).expect("nobody leaves")
        };
        std::thread::scope(|scope| {
            let ranks = InProcess::world(world, Duration::from_secs(60)).into_iter();
            let threads: Vec<_> = ranks.map(|c| scope.spawn(|| rank(c))).collect();
            threads.into_iter().map(|t| t.join().expect("a rank")).collect()
        })
    }

    #[test]
    fn a_checkpoint_is_left_out_by_all_ranks_if_one_cannot_store_the_last_one() {
        for world in 1..4 {
            assert_eq!(ask(world, |_, _| ()), vec![true; world]);
            let told = ask(world, |rank, room| {
                let reserved = room.reserve(&AbortHandle::new()).filter(|_| rank + 1 == world);
                if let Some(reserved) = &reserved {
                    reserved.file_failing(true);
                }
                reserved
            });
            assert_eq!(told, vec![false; world]);
        }
    }

    #[test]
    fn a_slow_upload_is_waited_for_by_all_ranks() {
        let (waits, waited) = std::sync::mpsc::channel();
        let told = ask(3, |rank, room| {
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
        assert_eq!(told, [true; 3]);
        assert!(waited.try_recv().is_ok(), "before they were told");
    }
}

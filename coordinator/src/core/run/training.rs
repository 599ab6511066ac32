//! The phases from ready workers to a generation, from one generation to the next, and from the last step to the
//! finished model.
//!
//! A generation is journaled before it is announced, so no other generation ever has its number. What an older
//! generation still writes is recognized by its number.

use super::{Phase, Run};
use crate::core::accusations::Accusations;
use crate::core::base::Candidates;
use crate::core::gathering::{Gathering, Needs};
use crate::core::membership::Membership;
use crate::core::settings::Settings;
use crate::core::turn::Turn;
use crate::core::{Command, Fault, Notice};
use proto::event::{Fact, Failure};
use proto::id::{CheckpointId, Generation, WorkerId};
use proto::protocol::{Attachment, Hello};
use std::time::Duration;

impl Run {
    /// Waits for members. Workers that were training load the base and the data again.
    pub(super) fn gather(&mut self) {
        self.enter(Phase::Gathering(Gathering::default()));
        self.starved_since = None;
    }

    /// Ends the membership. The run gathers members again, or pauses if it was stopping.
    pub(super) fn regroup(&mut self, turn: &mut Turn<'_>) {
        if self.stop {
            self.pause(turn);
        } else {
            self.gather();
        }
    }

    /// What the run needs for its next generation.
    pub(super) fn gathering_needs(&self) -> Needs {
        let Settings { min_workers: min, max_workers: max, .. } = self.settings;
        Needs { min, max, checkpoint: self.checkpoints.expected() }
    }

    pub(super) fn advance_gathering(&mut self, turn: &mut Turn<'_>) {
        let needs = self.gathering_needs();
        let Phase::Gathering(gathering) = &mut self.phase else { return };
        if !gathering.is_over(&needs, turn) {
            return;
        }
        if self.progress.fruitless() > turn.timing.fruitless_generations {
            return self.fail_fruitless(turn);
        }
        match self.base.candidates(needs.min, turn) {
            Candidates::TooFew => gathering.announce(&needs, turn),
            Candidates::Disputed(message) => {
                self.fail(Fault { kind: Failure::User, message }, turn);
            }
            Candidates::Agreed(mut members) => {
                members.truncate(needs.max);
                self.form(members, turn);
            }
        }
    }

    /// Fails the run after too many generations without a new step.
    fn fail_fruitless(&mut self, turn: &mut Turn<'_>) {
        let last = self.last_incident.as_ref();
        let message = format!(
            "{} attempts in a row ended without a new step; the last trouble was: {}",
            self.progress.fruitless(),
            last.map_or("unknown", |incident| &incident.message),
        );
        self.fail(Fault { kind: Failure::Infrastructure, message }, turn);
    }

    fn form(&mut self, members: Vec<WorkerId>, turn: &mut Turn<'_>) {
        let first = self.generation == Generation::default();
        self.generation = self.generation.next();
        self.lineage = self.lineage.next();
        let before = self.progress.step();
        let step = self.checkpoints.begin_generation();
        self.progress.begin_generation();
        let any_skipped = self.progress.go_back(step);
        let mut facts = Vec::new();
        if let Some(digest) = self.base.digest().filter(|_| first) {
            facts.push(Fact::Based { digest: digest.clone() });
        }
        facts.push(Fact::Generation {
            generation: self.generation,
            lineage: self.lineage,
            step,
            members: members.clone(),
        });
        turn.journal(facts);
        turn.notify(Notice::Generation {
            generation: self.generation.0,
            lineage: self.lineage.0,
            world_size: members.len(),
            workers: members.clone(),
            step,
            redone: before.saturating_sub(step),
        });
        if any_skipped {
            self.progress.update_receipt(turn);
        }
        let join = |id: WorkerId| {
            let ring = turn.workers.join(&id).expect("members are connected");
            (id, ring)
        };
        let members = members.into_iter().map(join).collect();
        let membership = self.admit(members, self.owes_evaluation(), turn);
        self.enter(Phase::Training(membership));
    }

    /// Makes these workers, given by rank with their ring addresses, the members of the newest generation. From now on
    /// their reports count.
    pub(super) fn admit(
        &mut self,
        members: Vec<(WorkerId, String)>,
        evaluate_first: bool,
        turn: &Turn<'_>,
    ) -> Membership {
        let ids = members.iter().map(|(id, _)| id.clone()).collect();
        self.checkpoints.expect_parts(self.generation, self.lineage, ids);
        self.accusations = Accusations::among(members.clone());
        Membership::new(members, self.generation, evaluate_first, turn)
    }

    /// Whether the generation begins with an evaluation, since the held-out loss at its first step is unknown.
    fn owes_evaluation(&self) -> bool {
        let step = self.progress.step();
        let wanted = step > 0 || self.settings.evaluate_at_start;
        self.settings.evaluates && wanted && !self.progress.is_evaluated(step)
    }

    /// Notes that a worker has connected while it trains: a member of the current generation reconnects.
    pub(crate) fn attached(&mut self, id: &WorkerId, hello: &Hello, to: &Attachment) {
        if !self.is_at(&to.place) {
            return;
        }
        if let Phase::Reattaching(reattaching) = &mut self.phase {
            reattaching.attach(id);
            self.progress.raise_best(to.step);
        }
        if let Some(m) = self.phase.membership_mut()
            && m.moved(id, &hello.ring)
        {
            self.revision += 1;
        }
    }

    /// Goes on with a generation once every member is back, or gathers for a new one when the time for that is over.
    pub(crate) fn advance_reattaching(&mut self, turn: &mut Turn<'_>) {
        let Phase::Reattaching(reattaching) = &self.phase else { return };
        if reattaching.is_complete() {
            let membership = reattaching.membership().clone();
            self.enter(Phase::Training(membership));
        } else if turn.now >= reattaching.until() {
            self.gather();
        }
    }

    /// Lets a member go that has to leave within `deadline`. All ranks stop after their current step, with a
    /// checkpoint, and the run regroups from there. If a step takes longer than the deadline, the step is abandoned.
    pub(crate) fn member_leaves(&mut self, id: &WorkerId, deadline: Duration, turn: &mut Turn<'_>) {
        let Some(rank) = self.phase.membership().and_then(|m| m.rank(id)) else { return };
        if self.stop || self.owes_nothing(rank) {
            return;
        }
        let too_slow = self.progress.rate().step().is_some_and(|step| step > deadline);
        let message = format!("worker {id} (rank {rank}) was told to leave");
        match self.phase.membership_mut() {
            Some(m) if !too_slow => {
                if m.drain() {
                    self.revision += 1;
                }
                let then = "all ranks stop after their current step, with a checkpoint";
                self.incident(Some(id), format!("{message}; {then}"), turn);
            }
            Some(_) | None => {
                self.incident(Some(id), message, turn);
                self.gather();
            }
        }
    }

    pub(crate) fn worker_lost(&mut self, id: &WorkerId, why: &str, turn: &mut Turn<'_>) {
        if let Phase::Sharding(sharding) = &mut self.phase {
            sharding.release(id);
        }
        let rank = self.phase.membership().and_then(|m| m.rank(id));
        let owes_nothing = rank.is_some_and(|rank| self.owes_nothing(rank));
        self.checkpoints.lose(id);
        let Some((m, rank)) = self.phase.membership_mut().zip(rank) else { return };
        if owes_nothing {
            return m.leave(rank);
        }
        let step = self.progress.step();
        let message = format!("worker {id} (rank {rank}) was lost after step {step}: {why}");
        self.incident(Some(id), message, turn);
        self.regroup(turn);
    }

    /// Whether a rank may leave, since it has stopped and its part of the last checkpoint is stored.
    fn owes_nothing(&self, rank: usize) -> bool {
        let stopped = self.phase.membership().and_then(|m| m.stopped(rank));
        stopped.is_some_and(|step| self.checkpoints.has_part(self.generation, rank, step))
    }

    /// Publishes the model or regroups once all ranks have stopped, because of the last step or because the run is
    /// stopping. Their evaluations have arrived by then, since a rank reports them before it stops.
    pub(super) fn advance_training(&mut self, turn: &mut Turn<'_>) {
        let Phase::Training(m) = &self.phase else { return };
        if let Some((rank, message)) = m.standstill() {
            let id = m.member(rank).clone();
            let message = format!("worker {id} (rank {rank}) stopped: {message}");
            self.incident(Some(&id), message, turn);
            return self.regroup(turn);
        }
        let Some(step) = m.all_stopped() else { return };
        if let Some(message) = self.checkpoints.given_up(self.generation, step) {
            // A member that had to leave may not have had the time to store its part.
            if m.is_draining() {
                return self.regroup(turn);
            }
            let message = message.to_owned();
            return self.fail(Fault { kind: Failure::Infrastructure, message }, turn);
        }
        let Some(last) = self.checkpoints.newest().filter(|id| id.step == step) else { return };
        if step >= self.steps() {
            self.publish(last, turn);
        } else {
            self.regroup(turn);
        }
    }

    fn publish(&mut self, checkpoint: CheckpointId, turn: &mut Turn<'_>) {
        self.enter(Phase::Publishing);
        // The coordinator that committed the checkpoint may have died before it did this.
        self.retain(turn);
        let CheckpointId { lineage, step } = checkpoint;
        let losses = self.progress.losses().iter().map(|(step, loss)| (*step, *loss)).collect();
        turn.out.push(Command::Publish { run: self.id.clone(), lineage, step, losses });
    }
}

//! Trouble that workers report, and its consequences.
//!
//! | reported by | when | consequence |
//! |---|---|---|
//! | any worker | it is not a member | only this worker is set back: it waits and is tried again |
//! | every connected worker, and at least `workers.min` | before the first generation | the run fails |
//! | two workers, or the only one | bad data in the same raw shard | the run fails |
//! | every member | data or model, in the same generation | the run fails |
//! | a member | anything else | the run gathers members again |
//!
//! So one node that is set up wrong does not end a run, and trouble that all workers have is not retried forever.

use super::{Phase, Run};
use crate::core::Fault;
use crate::core::membership::Membership;
use crate::core::report::Complaint;
use crate::core::sharding::Verdict;
use crate::core::turn::Turn;
use crate::core::workers::Setback;
use proto::event::Failure;
use proto::id::{Generation, WorkerId};
use proto::protocol::{Accusation, Cause};

impl Run {
    pub(crate) fn trouble(&mut self, id: &WorkerId, complaint: Complaint, turn: &mut Turn<'_>) {
        if self.ended() {
            return;
        }
        if complaint.generation == Generation::default() {
            return self.setback(id, complaint, turn);
        }
        if complaint.generation != self.generation || !self.accusations.includes(id) {
            return;
        }
        if complaint.cause == Cause::Checkpoint {
            return self.damaged(id, &complaint.message, turn);
        }
        let proven = complaint.accusation.and_then(|a| self.accusations.prove(id, a));
        if let Some((worker, ring)) = &proven {
            let message = format!(
                "the other workers cannot connect to worker {worker} at {ring}, and go on without it\n\
                 hint: open that port between the nodes, or name an address that they reach with \
                 `worker --ring-address HOST:PORT`"
            );
            turn.set_back(worker, Cause::Peer, message.clone());
            self.incident(Some(worker), message, turn);
            // The other members are not to blame for the end of this generation.
            self.progress.forgive();
        }
        // After the membership's end, further reports of its ranks are consequences of the first one.
        let Some(rank) = self.phase.membership().and_then(|m| m.rank(id)) else { return };
        match complaint.cause {
            Cause::Data | Cause::Model => self.complained(rank, complaint, turn),
            Cause::Storage => {
                // The run is not to blame for trouble with the store.
                self.progress.forgive();
                turn.set_back(id, Cause::Storage, complaint.message.clone());
                self.broken(rank, complaint, turn);
            }
            Cause::Peer | Cause::Internal | Cause::Diverged | Cause::Checkpoint => {
                self.broken(rank, complaint, turn);
            }
        }
    }

    /// Handles a complaint about data or model. Since these are the same on every rank, either all ranks complain and
    /// the run fails, or the trouble is this worker's own, and the others report that they have lost it.
    fn complained(&mut self, rank: usize, complaint: Complaint, turn: &mut Turn<'_>) {
        let Some(m) = self.phase.membership_mut() else { return };
        let Complaint { cause, message, .. } = complaint;
        if m.complain(rank, cause, message.clone()) {
            return self.fail(Fault { kind: kind(cause), message }, turn);
        }
        turn.set_back(m.member(rank), cause, message);
    }

    /// Ends the membership, since a rank has stopped in the middle of a step.
    fn broken(&mut self, rank: usize, complaint: Complaint, turn: &mut Turn<'_>) {
        let Some(m) = self.phase.membership() else { return };
        let Complaint { step, message, accusation, .. } = complaint;
        let (about, text) = match (m.first_complaint(), accusation) {
            // A rank complained about data or model, and then the others lost it.
            (Some((rank, message)), _) => stopped(m, rank, step, message),
            (None, Some(accusation)) => about_a_peer(m, rank, step, accusation, &message),
            (None, None) => stopped(m, rank, step, &message),
        };
        if accusation.is_some_and(|a| a.connecting) {
            turn.dial(&about);
        }
        self.incident(Some(&about), text, turn);
        self.regroup(turn);
    }

    /// Handles trouble outside a membership, while data is prepared or base and data are loaded.
    fn setback(&mut self, id: &WorkerId, complaint: Complaint, turn: &mut Turn<'_>) {
        let Complaint { cause, message, shard, .. } = complaint;
        match &mut self.phase {
            Phase::Sharding(sharding) => {
                if let (Some(shard), Cause::Data) = (shard, cause) {
                    match sharding.fail(id, shard, turn.workers) {
                        Some(Verdict::DataIsWrong) => {
                            self.fail(Fault { kind: Failure::Data, message }, turn);
                        }
                        // It keeps its other shards, and waits for a directive that says so.
                        Some(Verdict::Undecided) => {
                            turn.workers.change(id, |worker| worker.last_duty = None);
                        }
                        None => {}
                    }
                    return;
                }
                sharding.release(id);
            }
            Phase::Gathering(_) | Phase::Training(_) | Phase::Reattaching(_) => {}
            // The worker has no duty of this run.
            Phase::Queued
            | Phase::Surveying
            | Phase::Listed(_)
            | Phase::Planning(_)
            | Phase::Publishing
            | Phase::Ended(_) => return,
        }
        turn.set_back(id, cause, message.clone());
        let began = self.generation != Generation::default();
        if !began && self.is_everywhere(turn, cause) {
            self.fail(Fault { kind: kind(cause), message }, turn);
        }
    }

    /// Whether every connected worker, and at least as many as the run needs, has a setback of this cause. A cause that
    /// may be chance counts only after several consecutive setbacks of each worker.
    fn is_everywhere(&self, turn: &Turn<'_>, cause: Cause) -> bool {
        let tries = match cause {
            Cause::Data | Cause::Model | Cause::Storage => 1,
            Cause::Peer | Cause::Internal | Cause::Checkpoint | Cause::Diverged => {
                turn.timing.fruitless_generations + 1
            }
        };
        let same =
            |s: &Setback| s.cause == cause && s.run.as_ref() == Some(&self.id) && s.count >= tries;
        let the_same = turn
            .workers
            .troubled()
            .filter(|(_, worker)| worker.is_able() && worker.setback.as_ref().is_some_and(same));
        let needed = turn.workers.able().max(self.settings.min_workers).max(1);
        the_same.count() >= needed
    }

    /// Reports how a member's process ended, when a new process connects in its slot.
    pub(crate) fn came_back(&mut self, id: &WorkerId, last_end: &str, turn: &mut Turn<'_>) {
        if self.accusations.includes(id) && !self.ended() {
            let message =
                format!("worker {id} has a new process; the one before it ended: {last_end}");
            self.incident(Some(id), message, turn);
        }
    }
}

/// The kind of failure with which a run ends because of `cause`.
fn kind(cause: Cause) -> Failure {
    match cause {
        Cause::Data => Failure::Data,
        Cause::Model => Failure::User,
        Cause::Storage | Cause::Peer | Cause::Internal | Cause::Checkpoint | Cause::Diverged => {
            Failure::Infrastructure
        }
    }
}

fn stopped(m: &Membership, rank: usize, step: u64, message: &str) -> (WorkerId, String) {
    let id = m.member(rank).clone();
    let text = format!("worker {id} (rank {rank}) stopped at step {step}: {message}");
    (id, text)
}

/// The worker and the text of an incident that one rank reports about another. It is about the accused worker, since a
/// dead process cannot report its own end.
fn about_a_peer(
    m: &Membership,
    rank: usize,
    step: u64,
    accusation: Accusation,
    message: &str,
) -> (WorkerId, String) {
    let accused = accusation.rank as usize;
    if accused == rank || accused >= m.size() {
        return stopped(m, rank, step, message);
    }
    let id = m.member(rank);
    let peer = m.member(accused).clone();
    if accusation.connecting {
        let (from, to) = (m.ring(rank), m.ring(accused));
        let text = format!(
            "worker {id} (rank {rank}, {from}) and worker {peer} (rank {accused}, {to}) \
             cannot reach each other: {message}\n\
             hint: open the rings' ports between the nodes, or name addresses that they reach with \
             `worker --ring-address HOST:PORT`"
        );
        return (peer, text);
    }
    let text = format!(
        "worker {peer} (rank {accused}) was lost at step {step}: worker {id} (rank {rank}) reports: \
         {message}"
    );
    (peer, text)
}

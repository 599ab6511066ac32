//! What workers complain of, and whose concern it is.
//!
//! | who says it | when | what follows |
//! |---|---|---|
//! | any worker | it is no member | its own setback: it waits and is tried again |
//! | every connected worker, `workers.min` at least | before the first generation | the run fails |
//! | two workers, or the only one | of one raw shard | the run fails |
//! | every member | data or model, in one generation | the run fails |
//! | a member | anything else | all gather anew |
//!
//! So one node that is set up wrong ends nothing, and what is wrong everywhere is not tried for ever.

use super::Fault;
use super::membership::Membership;
use super::run::{Phase, Run};
use super::turn::Turn;
use super::workers::Worker;
use proto::event::Failure;
use proto::id::{Generation, WorkerId};
use proto::protocol::{Accusation, Cause};
use std::collections::{BTreeMap, BTreeSet};

/// What a worker reports when something has failed.
#[derive(Clone, Debug)]
pub(super) struct Complaint {
    /// 0: outside a membership.
    pub(super) generation: Generation,
    /// Steps committed.
    pub(super) step: u64,
    pub(super) cause: Cause,
    pub(super) message: String,
    /// The raw shard that it failed on.
    pub(super) shard: Option<u32>,
    /// The rank that it lost, or could not reach.
    pub(super) accusation: Option<Accusation>,
}

/// The members of the newest generation and whom they accuse of not answering: heard after the membership, too.
#[derive(Clone, Debug, Default)]
pub(super) struct Accusations {
    /// By rank, with their ring addresses.
    members: Vec<(WorkerId, String)>,
    /// By the accuser's rank.
    heard: BTreeMap<usize, Accusation>,
    /// A step was committed: all have reached each other.
    refuted: bool,
    /// Ranks that were found guilty.
    guilty: BTreeSet<usize>,
}

impl Accusations {
    pub(super) fn among(members: Vec<(WorkerId, String)>) -> Self {
        Self { members, ..Self::default() }
    }

    /// A step was committed: all have reached each other. Whether that is new.
    pub(super) fn refute(&mut self) -> bool {
        !std::mem::replace(&mut self.refuted, true)
    }

    pub(super) fn includes(&self, id: &WorkerId) -> bool {
        self.members.iter().any(|(member, _)| member == id)
    }

    /// How many there are.
    pub(super) fn size(&self) -> usize {
        self.members.len()
    }

    pub(super) fn rank(&self, id: &WorkerId) -> Option<usize> {
        self.members.iter().position(|(member, _)| member == id)
    }

    /// Takes an accusation down; returns the rank that it proves unreachable: two others say so, and nobody has
    /// reached it.
    fn hear(&mut self, accuser: usize, accusation: Accusation) -> Option<usize> {
        if !accusation.connecting || self.refuted {
            return None;
        }
        self.heard.insert(accuser, accusation);
        let accused = accusation.rank as usize;
        let accusers =
            self.heard.iter().filter(|(by, a)| a.rank as usize == accused && **by != accused);
        let reached = self
            .heard
            .iter()
            .any(|(by, a)| *by != accused && a.met.is_some_and(|met| met as usize == accused));
        let proven = accusers.count() >= 2 && !reached && accused < self.members.len();
        (proven && self.guilty.insert(accused)).then_some(accused)
    }
}

impl Run {
    pub(super) fn trouble(&mut self, turn: &mut Turn<'_>, id: &WorkerId, complaint: Complaint) {
        if self.phase.ended() {
            return;
        }
        if complaint.generation == Generation::default() {
            return self.setback(turn, id, complaint);
        }
        if complaint.generation != self.generation || !self.accusations.includes(id) {
            return;
        }
        if complaint.cause == Cause::Checkpoint {
            return self.damaged(id, &complaint.message, turn);
        }
        let unreachable = self.accused(id, complaint.accusation);
        if let Some((worker, ring)) = &unreachable {
            let message = format!(
                "the other workers cannot connect to worker {worker} at {ring}, and go on without it\n\
                 hint: open that port between the nodes, or name an address that they reach with \
                 `worker --ring-address HOST:PORT`"
            );
            turn.set_back(worker, Cause::Peer, message.clone());
            self.incident(Some(worker), message, turn);
            // Those that made it known have nothing to do with it.
            self.progress.forgive();
        }
        // Once the membership is taken apart, what its other ranks say is an echo.
        let Some(rank) = self.phase.membership().and_then(|m| m.rank(id)) else { return };
        match complaint.cause {
            Cause::Data | Cause::Model => self.complained(turn, id, rank, complaint),
            Cause::Storage => {
                // The store's trouble says nothing against the run.
                self.progress.forgive();
                let message = complaint.message.clone();
                turn.set_back(id, Cause::Storage, message);
                self.broken(turn, id, rank, complaint);
            }
            Cause::Peer | Cause::Internal | Cause::Diverged | Cause::Checkpoint => {
                self.broken(turn, id, rank, complaint);
            }
        }
    }

    /// Data and model are the same on every rank: what is wrong with them is wrong everywhere, or it is this worker's
    /// own trouble, and the others say that they have lost it.
    fn complained(
        &mut self,
        turn: &mut Turn<'_>,
        id: &WorkerId,
        rank: usize,
        complaint: Complaint,
    ) {
        let Some(m) = self.phase.membership_mut() else { return };
        let Complaint { cause, ref message, .. } = complaint;
        if m.complain(rank, cause, message.clone()) {
            let message = message.clone();
            return self.fail(Fault { kind: kind(cause), message }, turn);
        }
        turn.set_back(id, cause, message.clone());
    }

    /// The membership is over: a rank has stopped in the middle.
    fn broken(&mut self, turn: &mut Turn<'_>, id: &WorkerId, rank: usize, complaint: Complaint) {
        let Some(m) = self.phase.membership() else { return };
        let Complaint { step, message, accusation, .. } = complaint;
        let (about, text) = match (m.first_complaint(), accusation) {
            // It complained before the others lost it.
            (Some((rank, message)), _) => {
                let id = m.member(rank).clone();
                let text = format!("worker {id} (rank {rank}) stopped at step {step}: {message}");
                (id, text)
            }
            (None, Some(accusation)) => about_a_peer(m, id, rank, step, accusation, &message),
            (None, None) => {
                let text = format!("worker {id} (rank {rank}) stopped at step {step}: {message}");
                (id.clone(), text)
            }
        };
        if accusation.is_some_and(|a| a.connecting) {
            turn.dial(&about);
        }
        self.incident(Some(&about), text, turn);
        self.regroup(turn);
    }

    /// The member that an accusation proves unreachable, and where it should have been.
    fn accused(
        &mut self,
        accuser: &WorkerId,
        accusation: Option<Accusation>,
    ) -> Option<(WorkerId, String)> {
        let accuser = self.accusations.rank(accuser)?;
        let rank = self.accusations.hear(accuser, accusation?)?;
        self.accusations.members.get(rank).cloned()
    }

    /// Something failed outside a membership: while data is prepared, or base and data are loaded.
    fn setback(&mut self, turn: &mut Turn<'_>, id: &WorkerId, complaint: Complaint) {
        let Complaint { cause, message, shard, .. } = complaint;
        match &mut self.phase {
            Phase::Sharding(sharding) => {
                if let (Some(shard), Cause::Data) = (shard, cause) {
                    let able = |(id, w): (&WorkerId, &Worker)| w.is_able().then(|| id.clone());
                    let others = turn.workers.iter().filter_map(able).collect();
                    match sharding.fails(id, shard, &others) {
                        Some(true) => self.fail(Fault { kind: Failure::Data, message }, turn),
                        // The other shards are still its own; it waits to be told so.
                        Some(false) => {
                            turn.workers.change(id, |worker| worker.told = None);
                        }
                        None => {}
                    }
                    return;
                }
                sharding.release(id);
            }
            Phase::Gathering { .. } | Phase::Training(_) | Phase::Reattaching { .. } => {}
            // It had no duty of this run.
            Phase::Queued
            | Phase::Surveying
            | Phase::Listed { .. }
            | Phase::Planning
            | Phase::Publishing
            | Phase::Paused
            | Phase::Cancelled
            | Phase::Failed(_)
            | Phase::Succeeded { .. }
            | Phase::Lost(_) => return,
        }
        turn.set_back(id, cause, message.clone());
        let began = self.generation != Generation::default();
        if !began && self.is_everywhere(turn, cause) {
            self.fail(Fault { kind: kind(cause), message }, turn);
        }
    }

    /// Whether every connected worker, and at least as many as the run needs, reports the same. What may be chance is
    /// tried some times before it counts.
    fn is_everywhere(&self, turn: &Turn<'_>, cause: Cause) -> bool {
        let tries = match cause {
            Cause::Data | Cause::Model | Cause::Storage => 1,
            Cause::Peer | Cause::Internal | Cause::Checkpoint | Cause::Diverged => {
                turn.timing.fruitless_generations + 1
            }
        };
        let the_same = turn.workers.troubled().filter(|(_, worker)| {
            let same = |s: &super::workers::Setback| {
                s.cause == cause && s.run.as_ref() == Some(&self.id) && s.count >= tries
            };
            worker.is_able() && worker.setback.as_ref().is_some_and(same)
        });
        let needed = turn.workers.able().max(self.settings.min_workers).max(1);
        the_same.count() >= needed
    }

    /// A slot of the newest generation has another process.
    pub(super) fn came_back(&mut self, turn: &mut Turn<'_>, id: &WorkerId, last_end: &str) {
        if self.accusations.includes(id) && !self.phase.ended() {
            let message =
                format!("worker {id} has a new process; the one before it ended so: {last_end}");
            self.incident(Some(id), message, turn);
        }
    }
}

/// Whose fault a run's end is that comes of `cause`.
fn kind(cause: Cause) -> Failure {
    match cause {
        Cause::Data => Failure::Data,
        Cause::Model => Failure::User,
        Cause::Storage | Cause::Peer | Cause::Internal | Cause::Checkpoint | Cause::Diverged => {
            Failure::Infrastructure
        }
    }
}

/// Whom an incident is about that one rank reports of another, and what it says: the dead do not report themselves.
fn about_a_peer(
    m: &Membership,
    id: &WorkerId,
    rank: usize,
    step: u64,
    accusation: Accusation,
    message: &str,
) -> (WorkerId, String) {
    let accused = accusation.rank as usize;
    if accused == rank || accused >= m.size() {
        let text = format!("worker {id} (rank {rank}) stopped at step {step}: {message}");
        return (id.clone(), text);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn accuse(rank: u32, met: Option<u32>) -> Accusation {
        Accusation { rank, connecting: true, met }
    }

    fn three() -> Accusations {
        let member = |i: usize| (WorkerId::new(format!("w{i}")), format!("10.0.0.{i}:1"));
        Accusations::among((0..3).map(member).collect())
    }

    #[test]
    fn two_accusers_prove_that_a_rank_is_unreachable() {
        let mut a = three();
        assert_eq!(a.hear(1, accuse(2, Some(0))), None);
        assert_eq!(a.hear(0, accuse(2, Some(1))), Some(2));
        assert_eq!(a.hear(0, accuse(2, Some(1))), None, "once");
    }

    #[test]
    fn one_accuser_or_one_who_reached_it_acquits() {
        let mut a = three();
        assert_eq!(a.hear(1, accuse(2, None)), None);
        assert_eq!(a.hear(1, accuse(2, None)), None, "the same accuser again");
        assert_eq!(a.hear(2, accuse(2, None)), None, "nobody accuses itself");
        let mut a = three();
        a.hear(1, accuse(2, None));
        assert_eq!(a.hear(0, accuse(1, Some(2))), None);
        assert_eq!(a.hear(0, accuse(2, None)), Some(2), "it says otherwise now");
        let mut a = three();
        assert!(a.refute() && !a.refute());
        a.hear(1, accuse(2, None));
        assert_eq!(a.hear(0, accuse(2, None)), None, "they have trained together");
    }
}

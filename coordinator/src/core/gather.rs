//! From workers to a membership.
//!
//! A generation is formed once everybody who could come has come, or enough have and a short last call is over. It is
//! journaled before it is announced: whatever an older generation still writes can be told from the new one's.

use super::membership::{Member, Membership};
use super::run::{Phase, Run};
use super::trouble::Accusations;
use super::turn::Turn;
use super::workers::{Worker, Workers};
use super::{Fault, Notice};
use proto::event::{Fact, Failure};
use proto::id::WorkerId;
use proto::protocol::{Attachment, Cause, Hello};
use std::collections::BTreeMap;

/// Workers in trouble that are named while a run waits.
const TROUBLES_SHOWN: usize = 3;

impl Run {
    /// Waits for members; whoever trained holds no state any more.
    pub(super) fn gather(&mut self) {
        self.enter(Phase::Gathering { enough_since: None });
        self.last_waiting.clear();
        self.starved_since = None;
    }

    pub(super) fn waiting(&self, workers: &Workers) -> String {
        let ready = workers.ready_for(&self.id);
        let min = self.settings.min_workers;
        if let Some(step) = self.checkpoints.expected().filter(|_| ready >= min) {
            return format!("waiting: the checkpoint after step {step} is still being stored");
        }
        let usable = workers.usable(&self.id);
        let loading = match usable.saturating_sub(ready) {
            0 => String::new(),
            n => format!(", {n} loading"),
        };
        let mut detail = if ready < min {
            format!("waiting: {ready} of {min} workers{loading}")
        } else {
            format!("waiting: {ready} workers are ready, {min} needed{loading}")
        };
        if ready < min {
            let here = workers.troubled().filter(|(_, w)| w.is_able() && w.waits(&self.id));
            for (id, worker) in here.take(TROUBLES_SHOWN) {
                let trouble = worker.setback.as_ref().map_or("", |s| s.message.as_str());
                let first = trouble.lines().next().unwrap_or_default();
                detail += &format!("; {id} cannot work for it: {first}");
            }
        }
        detail
    }

    fn say_waiting(&mut self, turn: &mut Turn<'_>) {
        let detail = self.waiting(turn.workers);
        if detail != self.last_waiting {
            self.last_waiting.clone_from(&detail);
            let notice = Notice::Waiting { detail };
            turn.notify(notice);
        }
    }

    pub(super) fn advance_gathering(&mut self, turn: &mut Turn<'_>) {
        let Phase::Gathering { enough_since } = &mut self.phase else { return };
        let since = *enough_since;
        let ready = turn.workers.ready().len();
        let (min, max) = (self.settings.min_workers, self.settings.max_workers);
        if ready < min {
            self.phase = Phase::Gathering { enough_since: None };
            return self.say_waiting(turn);
        }
        let since = since.unwrap_or(turn.now);
        self.phase = Phase::Gathering { enough_since: Some(since) };
        let loading = turn.workers.usable(&self.id).saturating_sub(ready);
        let called = turn.now >= since + turn.timing.last_call;
        if ready < max && !(called || loading == 0 && min == max) {
            return;
        }
        // Its steps need not be done again then, and there are at least as many as it takes.
        if self.checkpoints.expected().is_some() {
            return self.say_waiting(turn);
        }
        if self.progress.fruitless() > turn.timing.fruitless_generations {
            return self.fail_fruitless(turn);
        }
        let ready: Vec<_> = turn.workers.ready().iter().cloned().collect();
        let Some(ready) = self.of_one_base(ready, turn) else { return };
        let members: Vec<_> = ready.into_iter().take(max).collect();
        self.form(members, turn);
    }

    /// Why a worker that has read this base cannot be a member.
    pub(super) fn differs(&self, base: &str) -> Option<String> {
        let own = self.base.as_deref().filter(|own| *own != base)?;
        Some(format!(
            "it has read another base than the run began with: digest {base} instead of {own}\n\
             hint: `model.base` must have the same content on every host"
        ))
    }

    /// Those of the candidates that have read the base that the run is to begin with; none where too few are left.
    ///
    /// Before the first generation that is what most of them have read: one whose copy is another waits. Where there
    /// are as many of the one as of the other, nobody can say which is right.
    fn of_one_base(&mut self, ready: Vec<WorkerId>, turn: &mut Turn<'_>) -> Option<Vec<WorkerId>> {
        if self.base.is_some() {
            // The others were turned away when they said what they have read.
            return Some(ready);
        }
        let mut readers: BTreeMap<String, Vec<WorkerId>> = BTreeMap::new();
        for id in ready {
            let loaded = turn.workers.get(&id).and_then(|worker| worker.loaded.as_ref());
            let base = loaded.map(|(_, base)| base.clone()).unwrap_or_default();
            readers.entry(base).or_default().push(id);
        }
        let all: usize = readers.values().map(Vec::len).sum();
        let most = readers.values().map(Vec::len).max().unwrap_or(0);
        if 2 * most <= all {
            let who = |(base, ids): (&String, &Vec<WorkerId>)| {
                let ids: Vec<_> = ids.iter().map(WorkerId::as_str).collect();
                format!("{} have digest {base}", ids.join(", "))
            };
            let who: Vec<_> = readers.iter().map(who).collect();
            let message = format!(
                "model.base: the workers have read different models: {}\n\
                 hint: `model.base` must have the same content on every host",
                who.join("; ")
            );
            self.fail(Fault { kind: Failure::User, message }, turn);
            return None;
        }
        let mut agreed = Vec::new();
        for (base, ids) in readers {
            if ids.len() == most {
                self.base = Some(base);
                agreed = ids;
            } else {
                for id in ids {
                    let message = format!(
                        "it has read another base than {most} of {all} workers: digest {base}\n\
                         hint: `model.base` must have the same content on every host"
                    );
                    turn.set_back(&id, Cause::Model, message);
                }
            }
        }
        if agreed.len() < self.settings.min_workers {
            // It is not journaled: what they agree on may be another base once more workers are there.
            self.base = None;
            self.say_waiting(turn);
            return None;
        }
        Some(agreed)
    }

    fn form(&mut self, members: Vec<WorkerId>, turn: &mut Turn<'_>) {
        let first = self.generation.0 == 0;
        self.generation = self.generation.next();
        self.lineage = self.lineage.next();
        self.checkpoints.begin_generation();
        let before = self.progress.step();
        let step = self.checkpoints.began_at().map_or(0, |c| c.step);
        self.progress.begin_generation();
        let any_skipped = self.progress.go_back(step);
        let mut events = Vec::new();
        if let Some(digest) = self.base.clone().filter(|_| first) {
            events.push(Fact::Based { digest });
        }
        events.push(Fact::Generation {
            generation: self.generation,
            lineage: self.lineage,
            step,
            members: members.clone(),
        });
        turn.journal(events);
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
        self.checkpoints.expect_parts(self.generation, self.lineage, members.clone());
        let members = Self::members(&members, turn.workers);
        let named = members.iter().map(|m| (m.id.clone(), m.ring.clone())).collect();
        self.accusations = Accusations::among(named);
        let (evaluate_first, key) = (self.owes_evaluation(), self.ring_key(turn.secret));
        self.enter(Phase::Training(Membership::new(members, evaluate_first, key)));
    }

    fn members(ids: &[WorkerId], workers: &mut Workers) -> Vec<Member> {
        let member = |id: &WorkerId| {
            let join = |worker: &mut Worker| {
                worker.loaded = None;
                worker.ring.clone()
            };
            let ring = workers.change(id, join).expect("members are connected");
            Member { id: id.clone(), ring, gone: false }
        };
        ids.iter().map(member).collect()
    }

    /// Where this generation starts, the held-out loss is still unknown.
    fn owes_evaluation(&self) -> bool {
        let step = self.progress.step();
        let wanted = step > 0 || self.settings.evaluate_at_start;
        self.settings.evaluates && wanted && !self.progress.is_evaluated(step)
    }

    fn ring_key(&self, secret: &[u8; 32]) -> [u8; 32] {
        let mut seed = secret.to_vec();
        seed.extend_from_slice(self.id.as_str().as_bytes());
        seed.extend_from_slice(&self.generation.0.to_le_bytes());
        proto::manifest::sha256_bytes(&seed)
    }

    // -------------------------------------------------------------------------------------- reattaching

    /// A member of a generation that outlived its coordinator is back.
    pub(super) fn attached(&mut self, id: &WorkerId, hello: &Hello, to: &Attachment) {
        if !self.is_at(&to.place) {
            return;
        }
        if let Phase::Reattaching { back, .. } = &mut self.phase {
            back.insert(id.clone());
            self.progress.raise_best(to.step);
        }
        if let Some(m) = self.phase.membership_mut()
            && m.moved(id, &hello.ring)
        {
            self.revision += 1;
        }
    }

    /// A generation that outlived its coordinator; where its members listen they will say themselves.
    pub(super) fn outlived(&mut self, members: Vec<WorkerId>, secret: &[u8; 32]) -> Membership {
        self.checkpoints.expect_parts(self.generation, self.lineage, members.clone());
        let named = members.iter().map(|id| (id.clone(), String::new())).collect();
        self.accusations = Accusations::among(named);
        let member = |id| Member { id, ring: String::new(), gone: false };
        let members = members.into_iter().map(member).collect();
        Membership::new(members, false, self.ring_key(secret))
    }

    /// Once every member is back the generation goes on as if nothing had happened; otherwise a new one is formed.
    pub(super) fn advance_reattaching(&mut self, turn: &mut Turn<'_>) {
        let Phase::Reattaching { until, membership, back } = &self.phase else { return };
        if membership.members().all(|id| back.contains(id)) {
            let membership = membership.clone();
            self.enter(Phase::Training(membership));
        } else if turn.now >= *until {
            self.gather();
        }
    }
}

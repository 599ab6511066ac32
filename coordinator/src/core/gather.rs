//! From workers to a membership.
//!
//! A generation is formed once everybody who could come has come, or enough have and a short last call is over. It is
//! journaled before it is announced: whatever an older generation still writes can be told from the new one's.

use super::membership::{Member, Membership};
use super::run::{Phase, Run};
use super::saves::Saves;
use super::worker::Worker;
use super::{Command, Notice, Timing};
use proto::event::Event as History;
use proto::id::WorkerId;
use proto::protocol::{Attachment, Hello, Start};
use std::collections::BTreeMap;
use std::time::Duration;

impl Run {
    /// Waits for members; whoever trained holds no state any more.
    pub(super) fn gather(&mut self) {
        self.phase = Phase::Gathering { enough_since: None };
        self.last_waiting.clear();
    }

    pub(super) fn waiting(&self, workers: &BTreeMap<WorkerId, Worker>) -> String {
        let (ready, loading) = self.candidates(workers);
        if let Some(step) = self.expected().filter(|_| ready.len() >= self.settings.min_workers) {
            return format!("waiting: the checkpoint after step {step} is still being stored");
        }
        let loading = match loading {
            0 => String::new(),
            n => format!(", {n} loading"),
        };
        format!("waiting: {} of {} workers{loading}", ready.len(), self.settings.min_workers)
    }

    fn say_waiting(&mut self, workers: &BTreeMap<WorkerId, Worker>, out: &mut Vec<Command>) {
        let detail = self.waiting(workers);
        if detail != self.last_waiting {
            self.last_waiting.clone_from(&detail);
            let notice = Notice::Waiting { detail };
            out.push(Command::Notify { run: self.id.clone(), notice });
        }
    }

    /// Who is ready, and how many more are on their way.
    fn candidates(&self, workers: &BTreeMap<WorkerId, Worker>) -> (Vec<WorkerId>, usize) {
        let able = |w: &&Worker| !w.leaving && w.stream.is_some();
        let all = workers.values().filter(able).count();
        let ready: Vec<_> = workers
            .iter()
            .filter(|(_, w)| able(w) && w.loaded.as_ref() == Some(&self.id))
            .map(|(id, _)| id.clone())
            .collect();
        let loading = all - ready.len();
        (ready, loading)
    }

    pub(super) fn advance_gathering(
        &mut self,
        now: Duration,
        timing: &Timing,
        secret: &[u8; 32],
        workers: &mut BTreeMap<WorkerId, Worker>,
        out: &mut Vec<Command>,
    ) {
        let Phase::Gathering { enough_since } = &mut self.phase else { return };
        let since = *enough_since;
        let (ready, loading) = self.candidates(workers);
        let (min, max) = (self.settings.min_workers, self.settings.max_workers);
        if ready.len() < min {
            self.phase = Phase::Gathering { enough_since: None };
            return self.say_waiting(workers, out);
        }
        let since = since.unwrap_or(now);
        self.phase = Phase::Gathering { enough_since: Some(since) };
        let called = now >= since + timing.last_call;
        if ready.len() < max && !(called || loading == 0 && min == max) {
            return;
        }
        // Its steps need not be done again then, and there are at least as many as it takes.
        if self.expected().is_some() {
            return self.say_waiting(workers, out);
        }
        if self.fruitless > timing.fruitless_generations {
            return self.fail_fruitless(out);
        }
        let members: Vec<_> = ready.into_iter().take(max).collect();
        self.form(members, secret, workers, out);
    }

    fn form(
        &mut self,
        members: Vec<WorkerId>,
        secret: &[u8; 32],
        workers: &mut BTreeMap<WorkerId, Worker>,
        out: &mut Vec<Command>,
    ) {
        self.generation = self.generation.next();
        self.lineage = self.lineage.next();
        self.fruitless += 1;
        let start = self.start();
        self.began_at = self.newest();
        self.step = self.began_at.map_or(0, |c| c.step);
        self.last_step_at = None;
        self.journal(
            vec![History::Generation {
                generation: self.generation,
                lineage: self.lineage,
                step: self.step,
                members: members.clone(),
            }],
            out,
        );
        out.push(Command::Notify {
            run: self.id.clone(),
            notice: Notice::Generation {
                generation: self.generation.0,
                lineage: self.lineage.0,
                world_size: members.len(),
                workers: members.clone(),
                step: self.step,
            },
        });
        if self.take_back_skipped() {
            self.settle_receipt(out);
        }
        // What went on after the start belongs to a lineage that ends here.
        self.saves.retain(|_, saves| saves.lineage() == self.lineage);
        self.saves.insert(self.generation, Saves::new(self.lineage, members.clone()));
        let members = self.members(&members, workers);
        let evaluate_first = self.owes_evaluation();
        self.phase =
            Phase::Training(Membership::new(members, start, evaluate_first, self.ring_key(secret)));
    }

    fn members(&self, ids: &[WorkerId], workers: &mut BTreeMap<WorkerId, Worker>) -> Vec<Member> {
        let member = |id: &WorkerId| {
            let worker = workers.get_mut(id).expect("members are connected");
            worker.loaded = None;
            Member { id: id.clone(), ring: worker.ring.clone(), gone: false }
        };
        ids.iter().map(member).collect()
    }

    /// Where this generation starts, the held-out loss is still unknown.
    fn owes_evaluation(&self) -> bool {
        let wanted = self.step > 0 || self.settings.evaluate_at_start;
        self.settings.evaluates && wanted && !self.evals.contains_key(&self.step)
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
        if matches!(self.phase, Phase::Reattaching { .. }) {
            self.best_step = self.best_step.max(to.step);
        }
        if let Some(m) = self.phase.membership_mut() {
            m.moved(id, &hello.ring);
        }
    }

    /// A generation that outlived its coordinator; where its members listen they will say themselves.
    pub(super) fn outlived(
        &mut self,
        members: Vec<WorkerId>,
        start: Option<Start>,
        secret: &[u8; 32],
    ) -> Membership {
        self.saves.insert(self.generation, Saves::new(self.lineage, members.clone()));
        let member = |id| Member { id, ring: String::new(), gone: false };
        let members = members.into_iter().map(member).collect();
        Membership::new(members, start, false, self.ring_key(secret))
    }

    /// Once every member is back the generation goes on as if nothing had happened; otherwise a new one is formed.
    pub(super) fn advance_reattaching(
        &mut self,
        now: Duration,
        workers: &BTreeMap<WorkerId, Worker>,
    ) {
        let Phase::Reattaching { until, membership } = &self.phase else { return };
        let back = |id: &WorkerId| {
            let attachment = workers.get(id).and_then(|w| w.attachment.as_ref());
            attachment.is_some_and(|a| self.is_at(&a.place))
        };
        if membership.members().all(back) {
            self.phase = Phase::Training(membership.clone());
        } else if now >= *until {
            self.gather();
        }
    }
}

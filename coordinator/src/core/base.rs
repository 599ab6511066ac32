//! The base that a run begins with: what most of its first candidates have read, and every later member must have read.

use super::turn::Turn;
use proto::id::WorkerId;
use proto::protocol::Cause;
use std::collections::BTreeMap;

/// The state that training begins with, once a generation has begun with it.
#[derive(Default)]
pub(super) struct Base {
    digest: Option<String>,
}

/// Which of the workers that are ready can be members.
pub(super) enum Candidates {
    /// These: they have read the run's base.
    Agreed(Vec<WorkerId>),
    /// Too few have read the same base.
    TooFew,
    /// As many have read another base as the same one, so nobody can say which is right: who read what.
    Disputed(String),
}

impl Base {
    pub(super) fn digest(&self) -> Option<&String> {
        self.digest.as_ref()
    }

    pub(super) fn replay(&mut self, digest: String) {
        self.digest = Some(digest);
    }

    /// Why a worker that has read this base cannot be a member.
    pub(super) fn differs(&self, base: &str) -> Option<String> {
        let own = self.digest.as_deref().filter(|own| *own != base)?;
        Some(format!(
            "it has read another base than the run began with: digest {base} instead of {own}\n\
             hint: `model.base` must have the same content on every host"
        ))
    }

    /// Those of the workers that are ready which have read the base that the run is to begin with, if at least `min`.
    ///
    /// Before the first generation that is what most of them have read: one whose copy is another waits.
    pub(super) fn candidates(&mut self, min: usize, turn: &mut Turn<'_>) -> Candidates {
        if self.digest.is_some() {
            // The others were turned away when they reported what they have read.
            return Candidates::Agreed(turn.workers.ready().iter().cloned().collect());
        }
        let mut readers: BTreeMap<String, Vec<WorkerId>> = BTreeMap::new();
        for id in turn.workers.ready() {
            let base = turn.workers.get(id).and_then(|worker| worker.loaded.as_ref());
            let base = base.map(|(_, base)| base.clone()).unwrap_or_default();
            readers.entry(base).or_default().push(id.clone());
        }
        let all: usize = readers.values().map(Vec::len).sum();
        let most = readers.values().map(Vec::len).max().unwrap_or(0);
        if 2 * most <= all {
            return Candidates::Disputed(dispute(&readers));
        }
        let mut agreed = None;
        for (base, ids) in readers {
            if ids.len() == most {
                agreed = Some((base, ids));
                continue;
            }
            for id in ids {
                let message = format!(
                    "it has read another base than {most} of {all} workers: digest {base}\n\
                     hint: `model.base` must have the same content on every host"
                );
                turn.set_back(&id, Cause::Model, message);
            }
        }
        match agreed {
            Some((base, ids)) if ids.len() >= min => {
                self.digest = Some(base);
                Candidates::Agreed(ids)
            }
            // What they agree on may be another base once more workers are ready.
            Some(_) | None => Candidates::TooFew,
        }
    }
}

fn dispute(readers: &BTreeMap<String, Vec<WorkerId>>) -> String {
    let read = |(base, ids): (&String, &Vec<WorkerId>)| {
        let ids: Vec<_> = ids.iter().map(WorkerId::as_str).collect();
        format!("{} have digest {base}", ids.join(", "))
    };
    let read: Vec<_> = readers.iter().map(read).collect();
    format!(
        "model.base: the workers have read different models: {}\n\
         hint: `model.base` must have the same content on every host",
        read.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_base_than_the_first_generations_differs() {
        let mut base = Base::default();
        assert_eq!(base.differs("a"), None, "no generation has begun");
        base.replay("a".into());
        assert_eq!(base.differs("a"), None);
        assert!(base.differs("b").expect("it is another").contains("digest b instead of a"));
    }
}

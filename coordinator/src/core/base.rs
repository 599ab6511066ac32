//! The base that a run begins with: the one that most of its first candidates have read. Every later member must have
//! read the same.

use super::turn::Turn;
use proto::id::WorkerId;
use proto::protocol::Cause;
use std::collections::BTreeMap;

/// The base of a run, by digest, which is set when the first generation is formed.
#[derive(Default)]
pub(super) struct Base {
    digest: Option<String>,
}

/// Which of the workers that are ready can be members.
pub(super) enum Candidates {
    /// These workers, which have read the run's base.
    Agreed(Vec<WorkerId>),
    /// Too few workers have read the same base.
    TooFew,
    /// No base was read by more than half of the workers, so none can be called the right one. The message says which
    /// worker has read which.
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
            "its base is not the one that the run began with: digest {base} instead of {own}\n\
             hint: `model.base` must have the same content on every host"
        ))
    }

    /// Returns the ready workers that have read the run's base, if these are at least `min`.
    ///
    /// Before the first generation, the run's base is the one that most of the ready workers have read. The others are
    /// set back.
    pub(super) fn candidates(&mut self, min: usize, turn: &mut Turn<'_>) -> Candidates {
        if self.digest.is_some() {
            // Workers with another base were set back when they reported its digest.
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
                    "its base is not the one that {most} of {all} workers have read: digest {base}\n\
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
            // Once more workers are ready, the majority may have read another base.
            Some(_) | None => Candidates::TooFew,
        }
    }
}

fn dispute(readers: &BTreeMap<String, Vec<WorkerId>>) -> String {
    let read = |(base, ids): (&String, &Vec<WorkerId>)| {
        let ids: Vec<_> = ids.iter().map(WorkerId::as_str).collect();
        format!("digest {base} on {}", ids.join(", "))
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
    fn only_a_base_other_than_the_first_generations_differs() {
        let mut base = Base::default();
        assert_eq!(base.differs("a"), None, "there is no generation yet");
        base.replay("a".into());
        assert_eq!(base.differs("a"), None);
        assert!(base.differs("b").expect("it is another").contains("digest b instead of a"));
    }
}

//! Vector clocks: which operations are ordered by what the caller declared.
//!
//! The host is actor 0, each stream an actor of its own. All of the caller's threads share the
//! host's clock, because the order between them is not visible here.

/// One participant: the host or a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Actor(pub u32);

/// The host.
pub(crate) const HOST: Actor = Actor(0);

/// How many operations of each actor are known to have finished.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Clock(Vec<u64>);

impl Clock {
    /// Advances the actor's own count and returns it.
    pub(crate) fn tick(&mut self, actor: Actor) -> u64 {
        let slot = self.slot(actor);
        *slot += 1;
        *slot
    }

    /// Learns everything that the other clock knows.
    pub(crate) fn join(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine = (*mine).max(*theirs);
        }
    }

    /// The count of operations of this actor that are known to have finished.
    pub(crate) fn knows(&self, actor: Actor) -> u64 {
        self.0.get(actor.0 as usize).copied().unwrap_or(0)
    }

    fn slot(&mut self, actor: Actor) -> &mut u64 {
        let index = actor.0 as usize;
        if self.0.len() <= index {
            self.0.resize(index + 1, 0);
        }
        &mut self.0[index]
    }
}

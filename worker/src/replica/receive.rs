//! Completes a state that is spread over the ranks: each part is broadcast by the one rank that holds it.

use super::State;
use super::state::Part;
use crate::collective::{self, Collective};

/// Replaces every trained part of `state` with that of the rank that `holder` names, and the number of updates with
/// that of rank `counter`.
///
/// # Errors
/// Those of `holder` and of the collective; `state` is then partly replaced.
pub(super) fn receive<E: From<collective::Error>>(
    state: &mut State,
    collective: &mut dyn Collective,
    counter: usize,
    holder: impl Fn(Part, &str) -> Result<usize, E>,
) -> Result<(), E> {
    for p in state.ids() {
        let parameters = state.model().parameters();
        if !parameters.trainable(p) {
            continue;
        }
        let name = parameters.name(p).to_owned();
        for part in Part::ALL {
            collective.broadcast(holder(part, &name)?, state.part_mut(part, p).all_mut())?;
        }
    }
    let counts = collective.rank() == counter;
    let mut updates = [if counts { state.updates() as f64 } else { 0.0 }];
    collective.control(&mut updates)?;
    state.set_updates(updates[0] as u64);
    state.round();
    Ok(())
}

//! What the core needs of a run's spec.

/// What a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// To see its data and its plan: it pauses before a worker loads the base.
    Plan,
    /// To have its model.
    Model,
}

/// The part of a spec that the core acts on.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// As the user named it.
    pub name: String,
    /// Tells one spec from another, whatever day it is submitted on.
    pub identity: String,
    /// When it has done its work.
    pub goal: Goal,
    /// Members at least.
    pub min_workers: usize,
    /// Members at most.
    pub max_workers: usize,
    /// Checkpoints to keep besides the best and the latest.
    pub keep: usize,
    /// There is a held-out set.
    pub evaluates: bool,
    /// It is measured before the first step.
    pub evaluate_at_start: bool,
    /// Names of the sources that are trained on, in the spec's order.
    pub trained: Vec<String>,
    /// Of those whose held-out packs are evaluated, in the spec's order.
    pub evaluated: Vec<String>,
}

//! The part of a run's spec that the core acts on.

/// The purpose of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// To show its data and its plan. The run pauses before a worker loads the base.
    Plan,
    /// To train its model.
    Model,
}

/// The settings of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The user's name for the run.
    pub name: String,
    /// Identifies the spec, apart from the day on which it is submitted.
    pub identity: String,
    /// The purpose of the run.
    pub goal: Goal,
    /// Minimum number of members.
    pub min_workers: usize,
    /// Maximum number of members.
    pub max_workers: usize,
    /// Number of newest checkpoints to keep. The latest and the best are kept in any case.
    pub keep: usize,
    /// Whether there is a held-out set.
    pub evaluates: bool,
    /// Whether the held-out loss is measured before the first step.
    pub evaluate_at_start: bool,
    /// Names of the sources that are trained on, in the spec's order.
    pub trained: Vec<String>,
    /// Names of the sources that are evaluated on, in the spec's order.
    pub evaluated: Vec<String>,
}

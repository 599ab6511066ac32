//! Warnings about runs that are possible but probably not intended.

/// Runs with fewer steps get a warning.
const FEW_STEPS: u64 = 50;

/// A warning if a run has too few steps to change a model.
pub(super) fn few_steps(steps: u64) -> Option<String> {
    (steps < FEW_STEPS).then(|| {
        format!(
            "fewer than {FEW_STEPS} steps change a model little; a smaller `train.global_batch` gives more steps"
        )
    })
}

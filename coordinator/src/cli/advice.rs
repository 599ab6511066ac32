//! What a user may not have meant, though it can be done.

/// Fewer steps than this deserve a warning.
const FEW_STEPS: u64 = 50;

/// A warning, if a run has too few steps to change a model.
pub(super) fn few_steps(steps: u64) -> Option<String> {
    (steps < FEW_STEPS).then(|| {
        format!(
            "fewer than {FEW_STEPS} steps change a model little; a smaller `train.global_batch` gives more"
        )
    })
}

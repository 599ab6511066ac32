//! How long the pods of a Job may take to leave: the time that storing a checkpoint takes.

use crate::cli::{Exit, Refusal};
use crate::data::{base, sources};
use anyhow::anyhow;
use proto::cost::bytes;
use proto::print;
use proto::spec::{SaveDtype, Spec};
use std::time::Duration;

/// The grace of a Job whose options say nothing about it.
const DEFAULT: Duration = Duration::from_secs(120);
/// The time for the step that is in progress when a pod is asked to leave, and for the agreement to stop.
const STEP: Duration = Duration::from_secs(30);
/// The state that each parameter has beside the model's files: itself and two moments, in f32.
const STATE_BYTES: u64 = 12;

/// What the user says about it.
pub(super) struct Wanted {
    pub(super) grace: Option<Duration>,
    /// Bytes per second that a pod writes to the store.
    pub(super) upload_rate: Option<u64>,
    pub(super) pods: u32,
}

/// The grace for a Job of `spec`. With an upload rate, it is derived from the size of a checkpoint, and the user learns
/// what a preemption costs if it is shorter than that.
pub(super) async fn choose(spec: &Spec, wanted: Wanted) -> Result<Duration, Refusal> {
    let Wanted { grace, upload_rate, pods } = wanted;
    let Some(rate) = upload_rate else { return Ok(grace.unwrap_or(DEFAULT)) };
    let size = checkpoint(spec).await?;
    let needed = needed(size, u64::from(pods), rate);
    let takes = format!(
        "a checkpoint has {}; {pods} pods store it at {} per second in about {} s",
        bytes(size),
        bytes(rate),
        (needed - STEP).as_secs()
    );
    match grace {
        Some(grace) if grace < needed => {
            let every = spec.checkpoint().every;
            print::note(format_args!(
                "warning: {takes}, and --grace leaves {} s: a preemption repeats the steps since the last checkpoint, \
                 up to {every}\n\
                 hint: a smaller `checkpoint.every` repeats less; more pods store it faster",
                grace.as_secs()
            ));
        }
        Some(_) => {}
        None => print::note(format_args!("{takes}; the grace is {} s", needed.as_secs())),
    }
    Ok(grace.unwrap_or(needed))
}

/// The time in which all pods together store `size` bytes, after a step.
fn needed(size: u64, pods: u64, rate: u64) -> Duration {
    STEP + Duration::from_secs(size.div_ceil(pods.max(1)).div_ceil(rate.max(1)))
}

/// The bytes of a checkpoint: the model's files, and what is needed to continue.
async fn checkpoint(spec: &Spec) -> Result<u64, Refusal> {
    if spec.model().adapter.is_some() {
        let error = anyhow!(
            "the size of a checkpoint is not known for adapters\n\
             hint: leave out --upload-rate, and choose --grace"
        );
        return Err(Refusal { exit: Exit::User, error });
    }
    let pinned = sources::pin(spec.clone()).await?;
    let weights = base::weights(&pinned.model().base).await?;
    let Some(weights) = weights else {
        let error = anyhow!(
            "model.base has no weights in safetensors, so the size of a checkpoint is unknown\n\
             hint: leave out --upload-rate, and choose --grace"
        );
        return Err(Refusal { exit: Exit::User, error });
    };
    let saved = match spec.model().save_dtype {
        None => weights.bytes / weights.parameters.max(1),
        Some(SaveDtype::F32) => 4,
        Some(SaveDtype::Bf16 | SaveDtype::F16) => 2,
    };
    Ok(weights.parameters * (saved + STATE_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_pods_store_a_checkpoint_together() {
        // 14 bytes for each of 8e9 parameters, over 4 pods at 200 MB/s.
        assert_eq!(needed(112_000_000_000, 4, 200_000_000), STEP + Duration::from_secs(140));
        assert_eq!(needed(0, 4, 1), STEP);
    }
}

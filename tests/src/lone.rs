//! A run of one worker without a plan: the manifest of its checkpoint, and the duty to start from one.

use proto::id::{Generation, Lineage, RunId};
use proto::manifest::{Checkpoint, File};
use proto::protocol::{Load, Start, Train};

/// The digest of the run's plan.
pub const PLAN: &str = "d";

/// The manifest of a checkpoint with these files.
pub fn manifest(run: &RunId, lineage: Lineage, step: u64, files: Vec<File>) -> Checkpoint {
    let of_state = |f: &File| f.key.starts_with(Checkpoint::STATE);
    let (state, model) = files.into_iter().partition(of_state);
    let (run, plan_digest) = (run.clone(), PLAN.into());
    Checkpoint { run, lineage, step, plan_digest, model, state, receipt: None, state_digest: None }
}

/// The duty of the worker that starts from this checkpoint.
pub fn duty(run: &RunId, start: Start) -> Train {
    let load = Load {
        run: run.clone(),
        spec_yaml: String::new(),
        fingerprint: String::new(),
        plan_digest: PLAN.into(),
    };
    Train {
        load,
        generation: Generation(2),
        lineage: Lineage(2),
        rank: 0,
        members: vec!["10.0.0.1:1".into()],
        ring_key: [0; 32],
        checkpoint: Some(start),
        evaluate_first: false,
        stop: false,
        base_digest: None,
    }
}

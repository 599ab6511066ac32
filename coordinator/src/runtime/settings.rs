//! The part of a spec that the core acts on.

use crate::core::{Goal, Settings};
use crate::data::planning;
use proto::spec::{EvalOn, Source, Spec};

/// The settings of a run with this spec.
pub(super) fn settings(spec: &Spec, goal: Goal) -> Settings {
    let eval = &spec.data().eval;
    let names = |sources: &[Source]| sources.iter().map(|s| s.location.to_string()).collect();
    Settings {
        name: spec.name().to_owned(),
        identity: spec.identity(),
        goal,
        min_workers: spec.workers().min as usize,
        max_workers: spec.workers().max as usize,
        keep: spec.checkpoint().keep as usize,
        evaluates: !matches!(eval.on, EvalOn::Nothing),
        evaluate_at_start: eval.at_start,
        trained: names(&spec.data().train),
        evaluated: names(planning::held_out_sources(spec)),
    }
}

//! The fixture's run as it goes when nothing happens to it: whatever is done to another, that must end where this one
//! ends, bit for bit.

use crate::fixture::STEPS;
use crate::model::{Weights, assert_bit_equal, weights};
use crate::{Ended, Fixture, Process};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// What the undisturbed run comes to.
pub struct Reference {
    /// Of the samples of every step.
    pub digests: BTreeMap<u64, String>,
    /// Of every step.
    pub losses: BTreeMap<u64, f64>,
    /// Of the finished model.
    pub weights: Weights,
}

/// It runs once a test program, when it is first asked for.
pub static UNDISTURBED: LazyLock<Reference> = LazyLock::new(|| {
    let fixture = Fixture::new();
    let ended = Process::run(&fixture, &["--workers", "2"]).end().with_code(0);
    Reference {
        digests: lineage(&[&ended]).into_iter().map(|(step, (digest, _))| (step, digest)).collect(),
        losses: lineage(&[&ended]).into_iter().map(|(step, (_, loss))| (step, loss)).collect(),
        weights: weights(&fixture.run().join("model")),
    }
});

/// Digest and loss of every step as it was committed last, over a run and its resumptions.
pub fn lineage(runs: &[&Ended]) -> BTreeMap<u64, (String, f64)> {
    let steps = runs.iter().flat_map(|run| run.all("step"));
    steps
        .map(|e| (e.count("step"), (e.text("samples_digest").to_owned(), e.number("loss"))))
        .collect()
}

/// The run's samples and its model are the undisturbed run's.
pub fn assert_as_undisturbed(fixture: &Fixture, runs: &[&Ended]) {
    let digests: BTreeMap<_, _> =
        lineage(runs).into_iter().map(|(step, (digest, _))| (step, digest)).collect();
    assert_eq!(digests, UNDISTURBED.digests);
    assert_eq!(digests.len() as u64, STEPS);
    assert_bit_equal(&weights(&fixture.run().join("model")), &UNDISTURBED.weights);
}

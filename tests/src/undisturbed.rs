//! The result of the fixture's run when nothing disturbs it. A disturbed run must end with the same result, bit for
//! bit.

use crate::fixture::STEPS;
use crate::model::{Weights, assert_bit_equal, weights};
use crate::{Ended, Fixture, Process};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// The result of an undisturbed run.
pub struct Reference {
    /// The digest of the samples of every step.
    pub digests: BTreeMap<u64, String>,
    /// The loss of every step.
    pub losses: BTreeMap<u64, f64>,
    /// The weights of the finished model.
    pub weights: Weights,
}

/// The undisturbed run, which each test program runs once, on first use.
pub static UNDISTURBED: LazyLock<Reference> = LazyLock::new(|| Reference::of(&Fixture::new()));

impl Reference {
    /// Runs `fixture` undisturbed, with two workers.
    pub fn of(fixture: &Fixture) -> Self {
        Self::of_workers(fixture, 2)
    }

    /// Runs `fixture` undisturbed, with this number of workers.
    pub fn of_workers(fixture: &Fixture, workers: usize) -> Self {
        let workers = workers.to_string();
        let ended = Process::run(fixture, &["--workers", &workers]).end().with_code(0);
        let steps = lineage(&[&ended]);
        Self {
            digests: steps.iter().map(|(step, (digest, _))| (*step, digest.clone())).collect(),
            losses: steps.iter().map(|(step, (_, loss))| (*step, *loss)).collect(),
            weights: weights(&fixture.run().join("model")),
        }
    }

    /// Checks that a run and its resumptions have trained on the same samples, step by step.
    pub fn assert_same_samples(&self, runs: &[&Ended]) {
        let digests: BTreeMap<_, _> =
            lineage(runs).into_iter().map(|(step, (digest, _))| (step, digest)).collect();
        assert_eq!(digests, self.digests);
    }
}

/// Digest and loss of every step as it was last committed, over a run and its resumptions.
pub fn lineage(runs: &[&Ended]) -> BTreeMap<u64, (String, f64)> {
    let steps = runs.iter().flat_map(|run| run.all("step"));
    steps
        .map(|e| (e.count("step"), (e.text("samples_digest").to_owned(), e.number("loss"))))
        .collect()
}

/// Checks that the run's samples and its model are those of the undisturbed run.
pub fn assert_as_undisturbed(fixture: &Fixture, runs: &[&Ended]) {
    assert_eq!(UNDISTURBED.digests.len() as u64, STEPS);
    UNDISTURBED.assert_same_samples(runs);
    assert_bit_equal(&weights(&fixture.run().join("model")), &UNDISTURBED.weights);
}

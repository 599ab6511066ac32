//! What follows from a valid spec.

use super::{Data, Error, EvalOn, Source, Spec, Workers};
use chrono::NaiveDate;
use std::path::Path;

impl Spec {
    /// A spec from [`Spec::resolved_yaml`], in which every path is absolute.
    ///
    /// # Errors
    /// If it is not one.
    pub fn from_resolved(yaml: &str) -> Result<Spec, Error> {
        super::parse(yaml, Path::new("/"))
    }

    /// The same run on `day`, unless it has a date already.
    pub fn dated(mut self, day: Option<NaiveDate>) -> Spec {
        self.data.date = self.data.date.or(day);
        self
    }

    /// The same run with between `min` and `max` workers.
    pub fn with_workers(mut self, min: u32, max: u32) -> Spec {
        self.workers = Workers { min, max };
        self
    }
}

impl Data {
    /// Every source whose records are prepared: those to train on, then those that are only
    /// evaluated, then the benchmarks.
    pub fn sources(&self) -> Vec<&Source> {
        let others = self.evaluated().iter().chain(&self.quality.benchmarks);
        self.train.iter().chain(others).collect()
    }

    /// The sources that are only evaluated.
    pub fn evaluated(&self) -> &[Source] {
        match &self.eval.on {
            EvalOn::Sources(sources) => sources,
            EvalOn::Nothing | EvalOn::Holdout(_) => &[],
        }
    }
}

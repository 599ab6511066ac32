//! Gradients in buckets: each a piece of memory of its own, handed to the communication thread when it is full and
//! back when it is reduced, while earlier layers are still in backward.
//!
//! ```text
//! backward order:  head ... layer 29 ... layer 0, embedding
//! buckets:         [ 0 ][ 1 ][ 2 ]  ...               [ B ]     launched in this order on every rank
//! ```
//!
//! A tied embedding is final only after the last backward, so it closes the last bucket.

use crate::collective::{self, Collective, Pending};
use crate::ops::{Gradients, ParamId, Parameters};
use std::ops::Range;

/// Elements of a bucket, about: 25 MiB of f32. A larger parameter has a bucket of its own.
const BUCKET_ELEMENTS: usize = 25 * 1024 * 1024 / 4;

/// Which parameter lies where: the same on every rank.
pub(crate) struct Layout {
    /// By parameter: its bucket and its elements there; none if it is not trained.
    places: Vec<Option<(usize, Range<usize>)>>,
    /// By bucket: its parameters in the order of the backward.
    buckets: Vec<Vec<ParamId>>,
}

impl Layout {
    pub(crate) fn new(parameters: &Parameters) -> Self {
        let mut places = vec![None; parameters.len()];
        let mut buckets = vec![Vec::new()];
        let mut filled = 0;
        for p in parameters.ids().rev().filter(|p| parameters.trainable(*p)) {
            let n = parameters.elements(p);
            if filled > 0 && filled + n > BUCKET_ELEMENTS {
                buckets.push(Vec::new());
                filled = 0;
            }
            places[p.0] = Some((buckets.len() - 1, filled..filled + n));
            buckets.last_mut().expect("never empty").push(p);
            filled += n;
        }
        Self { places, buckets }
    }

    /// Where the gradient of `p` lies.
    pub(crate) fn place(&self, p: ParamId) -> Option<(usize, Range<usize>)> {
        self.places[p.0].clone()
    }

    /// Zeroed buckets.
    pub(crate) fn allocate(&self) -> Vec<Vec<f32>> {
        let end = |p: &ParamId| self.places[p.0].as_ref().map_or(0, |(_, r)| r.end);
        self.buckets.iter().map(|b| vec![0.0; b.last().map_or(0, end)]).collect()
    }
}

/// One step's gradients on their way: summed up here, then over the ranks.
pub(crate) struct Buckets<'a> {
    layout: &'a Layout,
    collective: &'a mut dyn Collective,
    held: Vec<Option<Vec<f32>>>,
    /// Parameters of a bucket whose gradient is not final.
    open: Vec<usize>,
    flying: Vec<Pending>,
    /// The present micro-batch is this rank's last of the step: what is final now is final.
    last: bool,
    failed: Option<collective::Error>,
}

impl<'a> Buckets<'a> {
    pub(crate) fn new(
        layout: &'a Layout,
        collective: &'a mut dyn Collective,
        buckets: Vec<Vec<f32>>,
    ) -> Self {
        Self {
            layout,
            collective,
            open: layout.buckets.iter().map(Vec::len).collect(),
            flying: Vec::with_capacity(buckets.len()),
            held: buckets.into_iter().map(Some).collect(),
            last: false,
            failed: None,
        }
    }

    /// From here on, a final gradient is final for the step.
    pub(crate) fn last_micro_batch(&mut self) {
        self.last = true;
    }

    /// Launches what is not yet launched; for a rank without packs, that is everything.
    pub(crate) fn launch_rest(&mut self) {
        self.open.fill(0);
        self.launch();
    }

    /// Waits for the sums and gives the buckets back.
    ///
    /// # Errors
    /// The error that broke the collective.
    pub(crate) fn wait(self) -> Result<Vec<Vec<f32>>, collective::Error> {
        match self.failed {
            Some(error) => Err(error),
            None => self.flying.into_iter().map(Pending::wait).collect(),
        }
    }

    pub(crate) fn collective(&mut self) -> &mut dyn Collective {
        self.collective
    }

    /// Launches every full bucket whose predecessors are launched.
    fn launch(&mut self) {
        while self.failed.is_none() {
            let next = self.flying.len();
            if self.open.get(next) != Some(&0) {
                return;
            }
            let bucket = self.held[next].take().expect("launched once");
            match self.collective.reduce(bucket) {
                Ok(pending) => self.flying.push(pending),
                Err(error) => self.failed = Some(error),
            }
        }
    }
}

impl Gradients for Buckets<'_> {
    fn slot(&mut self, p: ParamId) -> &mut [f32] {
        let (bucket, range) = self.layout.place(p).expect("only trained parameters have gradients");
        let held = self.held[bucket]
            .as_mut()
            .expect("a bucket flies only when all its gradients are final");
        &mut held[range]
    }

    fn finished(&mut self, p: ParamId) {
        if !self.last {
            return;
        }
        let (bucket, _) = self.layout.place(p).expect("only trained parameters have gradients");
        self.open[bucket] -= 1;
        self.launch();
    }
}

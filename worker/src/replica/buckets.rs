//! Gradient buckets: each has its own memory, which is handed to the communication thread when the bucket is full and
//! comes back when it is reduced, while the backward of earlier layers still runs.
//!
//! ```text
//! backward order:  head ... layer 29 ... layer 0, embedding
//! buckets:         [ 0 ][ 1 ][ 2 ]  ...        [ B-2 ][ B-1 ][ B ]    reduced in this order on every rank
//!                                              `--- embedding ---'
//! ```
//!
//! A matrix that is larger than a bucket has several buckets of its own, each with whole rows. Its operations write
//! there directly, so no gradient is copied. A tied embedding is final only at the very end of the backward, so it
//! has the last buckets; earlier ones can be reduced without waiting for it.
//!
//! Gradients are f32. If they are reduced in another type, a rounded copy of the bucket is handed over, and its sum is
//! copied back into the bucket. That happens in a world of one rank, too, so that the number of ranks changes only the
//! order of additions.

use crate::collective::{self, Collective, Pending};
use crate::device::{Buffer, Device, Dtype, WindowMut};
use crate::kernels::Kernels;
use crate::ops::{Gradients, ParamId, Parameters};
use std::ops::Range;

/// Approximate number of elements of a bucket: 25 MiB of f32.
pub const BUCKET_ELEMENTS: usize = 25 * 1024 * 1024 / 4;

/// The location of a range of a parameter's gradient.
pub(crate) struct Piece {
    /// The range of the parameter's elements.
    pub(crate) elements: Range<usize>,
    pub(crate) bucket: usize,
    /// The range within the bucket.
    pub(crate) range: Range<usize>,
}

/// The location of every parameter's gradient; the same on every rank.
pub(crate) struct Layout {
    /// Per parameter: its pieces in order, in ascending buckets; none if it is not trained.
    pieces: Vec<Vec<Piece>>,
    /// Per bucket: the number of elements.
    elements: Vec<usize>,
    /// Per bucket: the number of parameters in it.
    parameters: Vec<usize>,
}

impl Layout {
    /// A layout with buckets of about `size` elements.
    pub(crate) fn new(parameters: &Parameters, size: usize) -> Self {
        let pieces = parameters.ids().map(|_| Vec::new()).collect();
        let mut layout = Self { pieces, elements: Vec::new(), parameters: Vec::new() };
        for p in parameters.ids().rev().filter(|p| parameters.trainable(*p)) {
            let cuts = cut(parameters.shape(p), size);
            // A matrix of several buckets shares none of them, so that other parameters do not wait for it.
            let (alone, mut fresh) = (cuts.len() > 1, layout.elements.is_empty());
            for elements in cuts {
                let filled = layout.elements.last().copied().unwrap_or(0);
                fresh |= alone || filled > 0 && filled + elements > size;
                layout.push(p, elements, fresh);
            }
        }
        layout
    }

    fn push(&mut self, p: ParamId, elements: usize, fresh: bool) {
        if fresh {
            self.elements.push(0);
            self.parameters.push(0);
        }
        let bucket = self.elements.len() - 1;
        let start = self.elements[bucket];
        self.elements[bucket] += elements;
        self.parameters[bucket] += 1;
        let pieces = &mut self.pieces[p.0];
        let from = pieces.last().map_or(0, |piece: &Piece| piece.elements.end);
        let range = start..start + elements;
        pieces.push(Piece { elements: from..from + elements, bucket, range });
    }

    /// The pieces of the gradient of `p`, in order; empty if `p` is not trained.
    pub(crate) fn pieces(&self, p: ParamId) -> &[Piece] {
        &self.pieces[p.0]
    }

    /// Bytes of all buckets.
    pub(crate) fn bytes(&self) -> u64 {
        self.elements.iter().map(|n| (n * Dtype::F32.size()) as u64).sum()
    }

    /// Allocates zeroed buckets.
    pub(crate) fn allocate(&self, device: &Device) -> Vec<Buffer> {
        self.elements.iter().map(|n| device.zeros(Dtype::F32, *n)).collect()
    }
}

/// The sizes of a parameter's pieces, in elements: a matrix is cut evenly into whole rows of at most `size` elements;
/// any other tensor stays whole.
fn cut(shape: &[usize], size: usize) -> Vec<usize> {
    let &[rows, cols] = shape else { return vec![shape.iter().product()] };
    let pieces = (rows * cols).div_ceil(size.max(1)).clamp(1, rows.max(1));
    let each = rows.div_ceil(pieces).max(1);
    let starts = (0..rows.max(1)).step_by(each);
    starts.map(|start| each.min(rows - start) * cols).collect()
}

/// The gradients of one step, which are accumulated over micro-batches and then all-reduced.
pub(crate) struct Buckets<'a> {
    layout: &'a Layout,
    kernels: &'a dyn Kernels,
    /// The type in which buckets are reduced.
    reduce_dtype: Dtype,
    collective: &'a mut dyn Collective,
    held: Vec<Option<Buffer>>,
    /// Per bucket: the number of parameters whose gradient is not final.
    open: Vec<usize>,
    flying: Vec<Flight>,
    /// The current micro-batch is this rank's last one of the step, so gradients that become final are final for the
    /// step.
    last: bool,
    failed: Option<collective::Error>,
}

/// A bucket whose reduction was started.
struct Flight {
    sum: Pending,
    /// The bucket that takes the sum, if a rounded copy of it is reduced.
    bucket: Option<Buffer>,
}

impl Flight {
    /// Waits for the sum, and returns it in the bucket.
    fn land(self, kernels: &dyn Kernels) -> Result<Buffer, collective::Error> {
        let sum = self.sum.wait()?;
        let Some(mut bucket) = self.bucket else { return Ok(sum) };
        kernels.copy(bucket.all_mut(), sum.all());
        Ok(bucket)
    }
}

impl<'a> Buckets<'a> {
    pub(crate) fn new(
        layout: &'a Layout,
        kernels: &'a dyn Kernels,
        reduce_dtype: Dtype,
        collective: &'a mut dyn Collective,
        buckets: Vec<Buffer>,
    ) -> Self {
        Self {
            layout,
            kernels,
            reduce_dtype,
            collective,
            open: layout.parameters.clone(),
            flying: Vec::with_capacity(buckets.len()),
            held: buckets.into_iter().map(Some).collect(),
            last: false,
            failed: None,
        }
    }

    /// Declares the next micro-batch to be the last: from now on, a final gradient is final for the step.
    pub(crate) fn last_micro_batch(&mut self) {
        self.last = true;
    }

    /// Starts all reductions that are not yet started. For a rank without packs, these are all.
    pub(crate) fn launch_rest(&mut self) {
        self.open.fill(0);
        self.launch();
    }

    /// Waits for the sums and returns the buckets.
    ///
    /// # Errors
    /// The error that broke the collective.
    pub(crate) fn wait(self) -> Result<Vec<Buffer>, collective::Error> {
        let _span = tracing::trace_span!("sums of gradients").entered();
        match self.failed {
            Some(error) => Err(error),
            None => self.flying.into_iter().map(|flight| flight.land(self.kernels)).collect(),
        }
    }

    /// Starts the reduction of every full bucket whose predecessors were started.
    fn launch(&mut self) {
        while self.failed.is_none() {
            let next = self.flying.len();
            if self.open.get(next) != Some(&0) {
                return;
            }
            let bucket = self.held[next].take().expect("launched once");
            match self.reduce(bucket) {
                Ok(flight) => self.flying.push(flight),
                Err(error) => self.failed = Some(error),
            }
        }
    }

    fn reduce(&mut self, bucket: Buffer) -> Result<Flight, collective::Error> {
        if bucket.dtype() == self.reduce_dtype {
            return Ok(Flight { sum: self.collective.reduce(bucket)?, bucket: None });
        }
        let mut rounded = self.kernels.device().take(self.reduce_dtype, bucket.len());
        self.kernels.copy(rounded.all_mut(), bucket.all());
        Ok(Flight { sum: self.collective.reduce(rounded)?, bucket: Some(bucket) })
    }
}

impl Gradients for Buckets<'_> {
    fn slots(&mut self, p: ParamId) -> Vec<WindowMut<'_>> {
        let pieces = self.layout.pieces(p);
        let first = pieces.first().expect("only trained parameters have gradients").bucket;
        let mut slots = Vec::with_capacity(pieces.len());
        for (held, piece) in self.held[first..].iter_mut().zip(pieces) {
            let held = held.as_mut();
            let held = held.expect("a bucket is reduced only when all its gradients are final");
            slots.push(held.window_mut(piece.range.clone()));
        }
        slots
    }

    fn finished(&mut self, p: ParamId) {
        if !self.last {
            return;
        }
        for piece in self.layout.pieces(p) {
            self.open[piece.bucket] -= 1;
        }
        self.launch();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(shapes: &[&[usize]]) -> Parameters {
        let mut parameters = Parameters::new(crate::kernels::host());
        for (i, shape) in shapes.iter().enumerate() {
            parameters.push(format!("p{i}"), shape, vec![0.0; shape.iter().product()]);
        }
        parameters
    }

    fn pieces(layout: &Layout, p: usize) -> Vec<(usize, Range<usize>)> {
        layout.pieces(ParamId(p)).iter().map(|p| (p.bucket, p.range.clone())).collect()
    }

    #[test]
    fn small_parameters_share_buckets_and_large_matrices_have_their_own() {
        // An embedding, a layer of three parameters and a norm; buckets are filled from the end.
        let parameters = parameters(&[&[10, 4], &[3, 4], &[2, 4], &[4], &[6]]);
        let layout = Layout::new(&parameters, 16);
        assert_eq!(pieces(&layout, 4), [(0, 0..6)]);
        assert_eq!(pieces(&layout, 3), [(0, 6..10)]);
        assert_eq!(pieces(&layout, 2), [(1, 0..8)]);
        assert_eq!(pieces(&layout, 1), [(2, 0..12)]);
        assert_eq!(pieces(&layout, 0), [(3, 0..16), (4, 0..16), (5, 0..8)]);
        assert_eq!(
            layout.allocate(&Device::Host).iter().map(Buffer::len).collect::<Vec<_>>(),
            [10, 8, 12, 16, 16, 8]
        );
    }

    #[test]
    fn a_matrix_is_cut_between_rows_and_a_vector_is_not_cut() {
        assert_eq!(cut(&[10, 4], 40), [40]);
        assert_eq!(cut(&[10, 4], 39), [20, 20]);
        assert_eq!(cut(&[7, 4], 10), [12, 12, 4]);
        assert_eq!(cut(&[3, 4], 1), [4, 4, 4]);
        assert_eq!(cut(&[100], 10), [100]);
    }
}

//! The tape: a record of the operations of a forward pass, from which the backward pass computes gradients in
//! reverse.

use super::again::{Again, Saved};
use super::array::Array;
use super::error::Result;
use super::parameters::{ParamId, Parameters};
use crate::device::{Device, Dtype, WindowMut};
use crate::kernels::{Kernels, Onto, Out};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

/// Receives the gradients of parameters.
pub trait Gradients {
    /// The memory of `p`'s gradient, to which each use of `p` adds. It is one piece, or for a matrix possibly several
    /// pieces of whole rows, in order.
    fn slots(&mut self, p: ParamId) -> Vec<WindowMut<'_>>;
    /// Notifies that `p`'s gradient is final: every use of `p`, tied or not, has added its part.
    ///
    /// Called once per backward for every trainable parameter, in the order in which they become final.
    fn finished(&mut self, p: ParamId);
}

/// A matrix on a tape, which knows whether a gradient flows back through it. Cheap to clone.
#[derive(Clone)]
pub struct Value {
    pub(super) array: Arc<Array>,
    /// Its gradient, if one flows back through it.
    pub(super) grad: Option<Grad>,
    /// Set if operations do not save its elements.
    again: Option<Rc<Again>>,
}

/// Identifies a value's gradient during one backward.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Slot(usize);

/// The gradient of a value, which has the value's shape and type.
#[derive(Clone, Copy)]
pub(super) struct Grad {
    slot: Slot,
    rows: usize,
    cols: usize,
    dtype: Dtype,
}

/// What a training step computes twice, to save memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recompute {
    /// Nothing.
    #[default]
    Off,
    /// The outputs of norms and the gate products, which cost little.
    Light,
    /// Layers: each saves only its input.
    On,
}

impl Value {
    /// Number of rows, usually one per token.
    pub fn rows(&self) -> usize {
        self.array.rows()
    }

    /// Number of columns, usually features.
    pub fn cols(&self) -> usize {
        self.array.cols()
    }

    /// The elements in host memory, in row-major order, as f32.
    pub fn read(&self) -> Cow<'_, [f32]> {
        self.array.buffer().read_f32()
    }

    /// Whether a gradient flows back through it.
    pub fn needs_grad(&self) -> bool {
        self.grad.is_some()
    }

    /// What an operation saves of the elements.
    pub(super) fn saved(&self) -> Saved {
        match &self.again {
            Some(again) => Saved::Again(again.clone()),
            None => Saved::Elements(self.array.clone()),
        }
    }
}

/// One recorded operation: its backward, and the values that the backward needs.
pub(super) trait Op {
    /// Name of the operation in traces and memory breakdowns.
    fn name(&self) -> &'static str;
    /// Bytes that this operation keeps alive until its backward. Shared memory counts once per operation that shares
    /// it.
    fn saved_bytes(&self) -> usize;
    /// Adds to the gradients of the inputs and parameters, given the gradient `dy` of the output.
    ///
    /// Calls [`Backward::release`] once per use of a parameter.
    fn backward(self: Box<Self>, dy: Arc<Array>, flow: &mut Backward<'_>) -> Result<()>;
}

/// The quantity from which a backward starts, such as a loss.
pub trait Seed {
    /// The result of computing the quantity.
    type Outcome;

    /// Computes the quantity, and adds its gradients to the values from which it is computed.
    ///
    /// # Errors
    /// The error of any operation.
    fn backward(self, flow: &mut Backward<'_>) -> Result<Self::Outcome>;
}

/// How much a tape records.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Record {
    /// Everything that a backward needs.
    Ops,
    /// Only which parameters are used: the forward of a recomputed segment.
    Uses,
    /// Nothing.
    Nothing,
}

/// The operations of one forward pass over some parameters.
pub struct Tape<'p> {
    params: &'p Parameters,
    record: Record,
    recompute: Recompute,
    log: RefCell<Log<'p>>,
}

#[derive(Default)]
struct Log<'p> {
    entries: Vec<Entry<'p>>,
    uses: Vec<ParamId>,
    slots: usize,
}

struct Entry<'p> {
    op: Box<dyn Op + 'p>,
    output: Grad,
    /// The trainable parameters that the operation uses, one entry per use.
    uses: Vec<ParamId>,
}

impl<'p> Tape<'p> {
    /// A tape for training, on which [`Tape::backward`] will be called.
    pub fn training(params: &'p Parameters) -> Self {
        Self::recording(params, Record::Ops)
    }

    /// A tape for training that saves less, and computes it again.
    pub fn recomputing(params: &'p Parameters, recompute: Recompute) -> Self {
        Self { recompute, ..Self::training(params) }
    }

    /// A tape that records nothing: every value is freed with its last clone.
    pub fn inference(params: &'p Parameters) -> Self {
        Self::recording(params, Record::Nothing)
    }

    /// A tape that records only which parameters are used, or nothing if this one records nothing.
    pub(super) fn noting_uses(&self) -> Self {
        let record = if self.record == Record::Nothing { Record::Nothing } else { Record::Uses };
        Self::recording(self.params, record)
    }

    fn recording(params: &'p Parameters, record: Record) -> Self {
        Self { params, record, recompute: Recompute::Off, log: RefCell::default() }
    }

    /// What is computed twice.
    pub fn recomputes(&self) -> Recompute {
        self.recompute
    }

    /// The parameters of this tape.
    pub fn params(&self) -> &'p Parameters {
        self.params
    }

    /// The kernels that compute the operations.
    pub(super) fn kernels(&self) -> &'p dyn Kernels {
        &**self.params.kernels()
    }

    /// The device that holds the values.
    pub(super) fn device(&self) -> &'p Device {
        self.kernels().device()
    }

    /// A new matrix of activations, whose elements are unspecified.
    pub(super) fn take(&self, rows: usize, cols: usize) -> Array {
        Array::take(self.device(), self.params.dtype(), rows, cols)
    }

    /// Bytes of activations that each recorded operation saves.
    ///
    /// The sum is an upper bound, since memory shared by two operations counts for both.
    pub fn saved_bytes(&self) -> Vec<(&'static str, usize)> {
        let log = self.log.borrow();
        log.entries.iter().map(|entry| (entry.op.name(), entry.op.saved_bytes())).collect()
    }

    /// The uses of trainable parameters so far.
    pub(super) fn uses(&self) -> Vec<ParamId> {
        self.log.borrow().uses.clone()
    }

    pub(super) fn records(&self) -> bool {
        self.record != Record::Nothing
    }

    /// A new value of this tape from an array computed elsewhere; with `needs_grad`, a gradient flows to it.
    pub(super) fn input(&self, array: Arc<Array>, needs_grad: bool) -> Value {
        let grad = needs_grad.then(|| self.log.borrow_mut().grad(&array));
        Value { array, grad, again: None }
    }

    /// Records a use of `p`, whose gradient is not final before that use is released.
    pub(super) fn use_param(&self, p: ParamId) {
        if self.records() && self.params.trainable(p) {
            self.log.borrow_mut().uses.push(p);
        }
    }

    /// Turns `y` into a value. If any of `inputs` or `params` needs a gradient, so does `y`, and `op` is recorded.
    pub(super) fn push<O: Op + 'p>(
        &self,
        y: Array,
        inputs: &[&Value],
        params: &[ParamId],
        op: impl FnOnce(&Arc<Array>) -> O,
    ) -> Value {
        let array = Arc::new(y);
        let trained: Vec<_> =
            params.iter().copied().filter(|&p| self.params.trainable(p)).collect();
        let through = !trained.is_empty() || inputs.iter().any(|x| x.needs_grad());
        if !self.records() || !through {
            return Value { array, grad: None, again: None };
        }
        self.push_differentiated(array.clone(), trained, || op(&array))
    }

    /// On a tape of [`Recompute::Light`], marks `y` as cheap to compute again.
    pub(super) fn cheap(
        &self,
        y: Value,
        compute: impl Fn(&Parameters) -> Array + 'static,
    ) -> Value {
        let again = (self.recompute == Recompute::Light).then(|| Rc::new(Again::new(compute)));
        Value { again, ..y }
    }

    /// Turns `array` into a value that needs a gradient, and records `op`, which releases each of `uses` once.
    pub(super) fn push_differentiated<O: Op + 'p>(
        &self,
        array: Arc<Array>,
        uses: Vec<ParamId>,
        op: impl FnOnce() -> O,
    ) -> Value {
        let mut log = self.log.borrow_mut();
        log.uses.extend(&uses);
        let output = log.grad(&array);
        if self.record == Record::Ops {
            log.entries.push(Entry { op: Box::new(op()), output, uses });
        }
        Value { array, grad: Some(output), again: None }
    }

    /// Adds the gradient of `seed` to the parameters' slots, and returns the seed's outcome.
    ///
    /// The gradient is that of a sum; a caller that wants a mean divides after the all-reduce.
    ///
    /// # Errors
    /// The error of any operation; the slots then hold a partial gradient.
    pub fn backward<S: Seed>(self, seed: S, sink: &mut dyn Gradients) -> Result<S::Outcome> {
        let mut flow = Backward::new(self.params, sink, &self.uses());
        let outcome = seed.backward(&mut flow)?;
        self.walk(&mut flow)?;
        flow.finish_unused();
        Ok(outcome)
    }

    /// Runs a segment's backward inside another backward: from the gradient of `y` to that of `x`.
    pub(super) fn backward_segment(
        self,
        (y, dy): (&Value, Arc<Array>),
        x: &Value,
        outer: &mut Backward<'_>,
    ) -> Result<Option<Arc<Array>>> {
        let kept = std::mem::take(&mut outer.grads);
        outer.pass(y.grad, dy);
        self.walk(outer)?;
        let dx = x.grad.and_then(|grad| outer.grads.remove(&grad.slot));
        outer.grads = kept;
        Ok(dx)
    }

    fn walk(self, flow: &mut Backward<'_>) -> Result<()> {
        let mut entries = self.log.into_inner().entries;
        while let Some(Entry { op, output, uses }) = entries.pop() {
            let _span = tracing::trace_span!("backward", op = op.name()).entered();
            match flow.grads.remove(&output.slot) {
                Some(dy) => op.backward(dy, flow)?,
                // This operation does not contribute to the loss, so its uses of parameters end here.
                None => uses.into_iter().for_each(|p| flow.release(p)),
            }
        }
        Ok(())
    }
}

impl Log<'_> {
    /// A new gradient, of a value with the elements `array`.
    fn grad(&mut self, array: &Array) -> Grad {
        self.slots += 1;
        let (rows, cols, dtype) = (array.rows(), array.cols(), array.dtype());
        Grad { slot: Slot(self.slots), rows, cols, dtype }
    }
}

/// The state of a running backward: the gradients that wait for their operation, and the outstanding uses of each
/// parameter.
pub struct Backward<'a> {
    params: &'a Parameters,
    sink: &'a mut dyn Gradients,
    grads: HashMap<Slot, Arc<Array>>,
    /// Outstanding uses of each parameter; `None` once it is finished, or if it is frozen.
    due: Vec<Option<usize>>,
}

/// The gradient of a value while an operation adds its part.
pub(super) struct Partial {
    array: Array,
    onto: Onto,
}

impl Partial {
    /// The destination of the part.
    pub(super) fn out(&mut self) -> Out<'_> {
        self.array.out(self.onto)
    }

    /// The destination for an operation that can only add; a fresh gradient is zeroed first.
    pub(super) fn sum(&mut self, kernels: &dyn Kernels) -> WindowMut<'_> {
        if self.onto == Onto::Fresh {
            kernels.clear(self.out().to);
            self.onto = Onto::Sum;
        }
        self.out().to
    }
}

impl<'a> Backward<'a> {
    fn new(params: &'a Parameters, sink: &'a mut dyn Gradients, uses: &[ParamId]) -> Self {
        let mut due: Vec<_> = params.ids().map(|p| params.trainable(p).then_some(0)).collect();
        for p in uses {
            *due[p.0].get_or_insert(0) += 1;
        }
        Self { params, sink, grads: HashMap::new(), due }
    }

    pub(super) fn params(&self) -> &'a Parameters {
        self.params
    }

    pub(super) fn kernels(&self) -> &'a dyn Kernels {
        &**self.params.kernels()
    }

    /// The gradient of the vector `p`, to add to; `None` if `p` is frozen.
    pub(super) fn vector(&mut self, p: ParamId) -> Option<WindowMut<'_>> {
        let slots = self.params.trainable(p).then(|| self.sink.slots(p))?;
        let [whole] = <[_; 1]>::try_from(slots).ok().expect("a vector's gradient is one piece");
        Some(whole)
    }

    /// The gradient of the matrix `p`, to add to, as blocks of rows; empty if `p` is frozen.
    pub(super) fn row_blocks(
        &mut self,
        p: ParamId,
    ) -> impl Iterator<Item = (Range<usize>, WindowMut<'_>)> {
        let trained = self.params.trainable(p);
        let slots = if trained { self.sink.slots(p) } else { Vec::new() };
        let cols = self.params.shape(p).last().copied().unwrap_or(1).max(1);
        slots.into_iter().scan(0, move |row, block| {
            let rows = *row..*row + block.len() / cols;
            *row = rows.end;
            Some((rows, block))
        })
    }

    /// Ends one use of `p`.
    pub(super) fn release(&mut self, p: ParamId) {
        if let Some(due) = &mut self.due[p.0] {
            *due = due.checked_sub(1).expect("a use is released once");
            if *due == 0 {
                self.due[p.0] = None;
                self.sink.finished(p);
            }
        }
    }

    /// Finishes the parameters that this forward never used; their gradients are unchanged.
    fn finish_unused(&mut self) {
        for p in self.params.ids().rev() {
            if self.due[p.0].take().is_some() {
                self.sink.finished(p);
            }
        }
    }

    /// Takes a value's gradient out to add to it; `None` if none flows to the value. [`Backward::close`] puts it back.
    pub(super) fn open(&mut self, grad: Option<Grad>) -> Option<Partial> {
        let Grad { slot, rows, cols, dtype } = grad?;
        let kernels = self.kernels();
        let take = || Array::take(kernels.device(), dtype, rows, cols);
        let partial = match self.grads.remove(&slot).map(Arc::try_unwrap) {
            Some(Ok(array)) => Partial { array, onto: Onto::Sum },
            Some(Err(shared)) => {
                let mut array = take();
                kernels.copy(array.out(Onto::Fresh).to, shared.all());
                Partial { array, onto: Onto::Sum }
            }
            None => Partial { array: take(), onto: Onto::Fresh },
        };
        Some(partial)
    }

    /// Puts back the gradient that [`Backward::open`] returned.
    pub(super) fn close(&mut self, grad: Option<Grad>, partial: Option<Partial>) {
        if let Some(partial) = partial {
            self.pass(grad, Arc::new(partial.array));
        }
    }

    /// Adds a complete gradient to that of a value; the first one is moved instead of copied.
    pub(super) fn pass(&mut self, grad: Option<Grad>, dx: Arc<Array>) {
        let Some(Grad { slot, .. }) = grad else { return };
        let present = self.grads.contains_key(&slot).then(|| self.open(grad)).flatten();
        let sum = match present {
            None => dx,
            Some(mut sum) => {
                self.kernels().add_assign(sum.out().to, dx.all());
                Arc::new(sum.array)
            }
        };
        self.grads.insert(slot, sum);
    }
}

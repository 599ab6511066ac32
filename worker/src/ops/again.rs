//! Elements that are computed again in the backward instead of being saved.

use super::array::Array;
use super::parameters::Parameters;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// A way to compute a value's elements again. The first operation whose backward needs them computes them; they stay
/// until the last one that may need them is done.
pub(super) struct Again {
    compute: Box<dyn Fn(&Parameters) -> Array>,
    elements: RefCell<Option<Arc<Array>>>,
}

impl Again {
    pub(super) fn new(compute: impl Fn(&Parameters) -> Array + 'static) -> Self {
        Self { compute: Box::new(compute), elements: RefCell::default() }
    }
}

/// What an operation saves of an input.
#[derive(Clone)]
pub(super) enum Saved {
    Elements(Arc<Array>),
    Again(Rc<Again>),
}

impl Saved {
    /// Bytes that are kept alive.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Elements(elements) => elements.bytes(),
            Self::Again(_) => 0,
        }
    }

    /// The input's elements.
    pub(super) fn elements(&self, params: &Parameters) -> Arc<Array> {
        match self {
            Self::Elements(elements) => elements.clone(),
            Self::Again(again) => {
                let mut elements = again.elements.borrow_mut();
                elements.get_or_insert_with(|| Arc::new((again.compute)(params))).clone()
            }
        }
    }
}

//! Operations: what a stream carries out, with the checks that every one of them gets.

use std::sync::Arc;

use crate::clock::Clock;
use crate::history::{self, Stamp, Touched};
use crate::memory::{self, Map, Span};
use crate::report::violation;

/// A sticky error code.
pub(crate) type Sticky = u32;
/// `CUDA_ERROR_ILLEGAL_ADDRESS`.
pub(crate) const ILLEGAL_ADDRESS: Sticky = 700;

/// The work itself: it returns the bytes it touched beyond the plan.
pub(crate) type Work = Box<dyn FnOnce(&Op) -> Result<Touched, Sticky> + Send>;

/// What an operation is called, what it will touch, and what it does.
pub(crate) struct Draft {
    pub name: String,
    /// Bytes known beforehand; a kernel's are only known afterward.
    pub plan: Touched,
    pub work: Work,
}

/// An enqueued operation.
pub(crate) struct Op {
    pub stamp: Stamp,
    pub clock: Clock,
    /// The blocks that were alive when the operation was enqueued.
    pub map: Map,
    plan: Touched,
}

impl Op {
    pub(crate) fn new(stamp: Stamp, clock: Clock, map: Map, plan: Touched) -> Self {
        Self { stamp, clock, map, plan }
    }

    /// Checks the plan, works, and records what was touched.
    pub(crate) fn carry_out(&self, work: Work) -> Result<(), Sticky> {
        for span in &self.plan.reads {
            self.check(*span, "reads")?;
            let block = memory::block_of(&self.map, *span);
            if let Some(at) = block.and_then(|block| block.first_undefined(*span)) {
                let message = format!("`{}` reads memory that was never written", self.stamp.name);
                violation("memory.undefined", &message, &self.names(*span, Some(at)));
            }
        }
        for span in &self.plan.writes {
            self.check(*span, "writes")?;
        }
        let touched = work(self)?;
        for span in &self.plan.writes {
            if let Some(block) = memory::block_of(&self.map, *span) {
                block.define(*span);
            }
        }
        history::apply(&self.stamp, &self.clock, &self.plan);
        history::apply(&self.stamp, &self.clock, &touched);
        Ok(())
    }

    fn check(&self, span: Span, verb: &str) -> Result<(), Sticky> {
        if span.is_empty() || memory::block_of(&self.map, span).is_some() {
            return Ok(());
        }
        let name = &self.stamp.name;
        let message = format!("`{name}` {verb} a range that does not lie in one live block");
        violation("memory.bounds", &message, &self.names(span, None));
        Err(ILLEGAL_ADDRESS)
    }

    fn names(&self, span: Span, at: Option<u64>) -> Vec<(&'static str, String)> {
        let mut list = vec![
            ("operation", self.stamp.name.to_string()),
            ("stream", self.stamp.stream.to_string()),
            ("range", format!("{:#x}..{:#x}", span.start, span.end)),
        ];
        if let Some(at) = at {
            list.push(("address", format!("{at:#x}")));
        }
        list
    }
}

/// Device memory as raw bytes, to be moved into a stream's thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bytes(pub *mut u8);

// SAFETY: the pointer is an address of device or pinned memory, which has no owner thread; the
// race detector reports unordered uses.
unsafe impl Send for Bytes {}
// SAFETY: as above.
unsafe impl Sync for Bytes {}

impl Bytes {
    pub(crate) fn at(address: u64) -> Self {
        Self(address as *mut u8)
    }
}

/// A shared name.
pub(crate) fn name(text: impl AsRef<str>) -> Arc<str> {
    Arc::from(text.as_ref())
}

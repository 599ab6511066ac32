//! Coroutines for GPU threads, on stacks that are used again.

use std::cell::RefCell;

use corosensei::stack::{DefaultStack, Stack};
use corosensei::{Coroutine, CoroutineResult, Yielder};

/// A stack is big enough for a kernel and for the report of a violation.
const STACK_BYTES: usize = 256 << 10;

/// Suspends the coroutine it belongs to.
pub(super) type Pause = Yielder<(), ()>;

/// A coroutine.
pub(super) struct Fiber {
    coroutine: Coroutine<(), (), (), DefaultStack>,
    /// The addresses of its stack.
    pub stack: (u64, u64),
}

thread_local! {
    static STACKS: RefCell<Vec<DefaultStack>> = const { RefCell::new(Vec::new()) };
}

impl Fiber {
    /// Makes a coroutine that will run `body`.
    pub(super) fn new(body: impl FnOnce(&Pause) + 'static) -> Self {
        let pooled = STACKS.with_borrow_mut(Vec::pop);
        let stack = pooled.unwrap_or_else(|| {
            DefaultStack::new(STACK_BYTES).expect("the system has room for a stack")
        });
        let addresses = (stack.limit().get() as u64, stack.base().get() as u64);
        let coroutine = Coroutine::with_stack(stack, move |pause, ()| body(pause));
        Self { coroutine, stack: addresses }
    }

    /// Runs until the next pause, and gives the fiber back if there was one.
    pub(super) fn resume(mut self) -> Option<Self> {
        match self.coroutine.resume(()) {
            CoroutineResult::Yield(()) => Some(self),
            CoroutineResult::Return(()) => {
                self.keep_stack();
                None
            }
        }
    }

    /// Drops a paused coroutine without running it to its end.
    pub(super) fn abandon(mut self) {
        // SAFETY: a kernel's frames own nothing: they have no destructors to run.
        unsafe { self.coroutine.force_reset() };
        self.keep_stack();
    }

    fn keep_stack(self) {
        let stack = self.coroutine.into_stack();
        STACKS.with_borrow_mut(|stacks| stacks.push(stack));
    }
}

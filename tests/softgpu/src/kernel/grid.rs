//! The scheduler: blocks one after another, the threads of a block as coroutines.
//!
//! A thread that never waits costs no switch: one coroutine runs thread after thread, and only
//! when a thread must wait does another coroutine take over the threads that have not started.
//! The last thread to reach a barrier goes on at once and makes the others runnable.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ffi::c_void;

use super::fibers::{Fiber, Pause};
use super::shadow::Shadow;
use super::{Kernel, Shape};
use crate::history::Touched;
use crate::ops::Sticky;
use crate::report::violation;
use crate::settings::Order;
use crate::stream::Random;
use crate::world::world;

/// `CUDA_ERROR_LAUNCH_FAILED`.
pub(super) const LAUNCH_FAILED: Sticky = 719;
pub(super) const WARP: u32 = 32;

/// Three coordinates in two registers.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pair {
    xy: u64,
    z: u64,
}

impl Pair {
    pub(super) fn new([x, y, z]: [u32; 3]) -> Self {
        Self { xy: u64::from(y) << 32 | u64::from(x), z: u64::from(z) }
    }
}

/// What a thread waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Running,
    AtBarrier,
    AtWarp { mask: u32 },
    Finished,
    Faulted,
}

/// A GPU thread of the current block.
pub(super) struct Thread {
    pub index: Pair,
    pub state: State,
    pub pause: *const Pause,
    fiber: Option<Fiber>,
}

/// The lanes of a warp that wait for each other.
#[derive(Debug, Clone, Default)]
pub(super) struct Warp {
    pub arrived: u32,
    pub asked: [u32; WARP as usize],
    pub kinds: [u32; WARP as usize],
    pub deposits: [u64; WARP as usize],
    /// The deposits at the latest release, for the lanes to read.
    pub values: [u64; WARP as usize],
}

/// A launch that runs on the calling thread.
pub(super) struct Grid {
    pub kernel: &'static Kernel,
    pub shape: Shape,
    pub shadow: Shadow,
    pub block: Pair,
    pub block_number: u64,
    pub threads: Vec<Thread>,
    pub warps: Vec<Warp>,
    /// The thread that runs now.
    pub now: u32,
    pub at_barrier: u32,
    /// Sums of predicates: of the barrier being gathered, and of the latest complete one.
    pub votes: [u32; 2],
    pub runnable: VecDeque<u32>,
    pub fault: Option<Sticky>,
    unstarted: VecDeque<u32>,
    arguments: *mut *mut c_void,
    order: Option<Random>,
}

thread_local! {
    static GRID: Cell<*mut Grid> = const { Cell::new(std::ptr::null_mut()) };
}

/// The launch that runs on this thread, or null.
pub(super) fn grid() -> *mut Grid {
    GRID.get()
}

/// Runs a launch to its end.
pub(super) fn run(
    kernel: &'static Kernel,
    shape: Shape,
    arguments: &mut [*mut c_void],
    shadow: Shadow,
) -> Result<Touched, Sticky> {
    let order = world().settings.order;
    let random = match order {
        Order::Seed(seed) => Some(Random::new(seed)),
        Order::Forward | Order::Reverse => None,
    };
    let mut grid = Box::new(Grid {
        kernel,
        shape,
        shadow,
        block: Pair::default(),
        block_number: 0,
        threads: threads(shape),
        warps: Vec::new(),
        now: 0,
        at_barrier: 0,
        votes: [0; 2],
        runnable: VecDeque::new(),
        fault: None,
        unstarted: VecDeque::new(),
        arguments: arguments.as_mut_ptr(),
        order: random,
    });
    let pointer: *mut Grid = &raw mut *grid;
    GRID.set(pointer);
    for position in 0..shape.blocks() {
        let number = block_number(position, shape.blocks(), order);
        // SAFETY: the box outlives this loop, and only this thread uses the pointer.
        let fault = unsafe {
            (*pointer).start_block(number, order);
            run_block(pointer);
            (*pointer).end_block();
            (*pointer).fault
        };
        if fault.is_some() {
            break;
        }
    }
    GRID.set(std::ptr::null_mut());
    match grid.fault {
        Some(code) => Err(code),
        None => Ok(grid.shadow.finish()),
    }
}

fn threads(shape: Shape) -> Vec<Thread> {
    let [width, height, _] = shape.block;
    let thread = |number: u32| Thread {
        index: Pair::new([number % width, number / width % height, number / width / height]),
        state: State::Running,
        pause: std::ptr::null(),
        fiber: None,
    };
    (0..shape.threads()).map(thread).collect()
}

/// The block that runs at a position: in a random order, a stride that shares no factor with the
/// number of blocks visits each of them once.
fn block_number(position: u64, blocks: u64, order: Order) -> u64 {
    match order {
        Order::Forward => position,
        Order::Reverse => blocks - 1 - position,
        Order::Seed(seed) => {
            let mut random = Random::new(seed ^ blocks);
            let offset = random.below(blocks);
            let mut stride = random.below(blocks) | 1;
            while common_factor(stride, blocks) != 1 {
                stride += 2;
            }
            ((u128::from(position) * u128::from(stride) + u128::from(offset)) % u128::from(blocks))
                as u64
        }
    }
}

fn common_factor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { common_factor(b, a % b) }
}

/// Runs the current block until all its threads are finished or wait in vain.
///
/// # Safety
/// The pointer must be the thread's current grid.
unsafe fn run_block(grid: *mut Grid) {
    loop {
        // SAFETY: no reference into the grid is held while a coroutine runs.
        let fiber = unsafe {
            if (*grid).fault.is_some() {
                break;
            }
            if !(*grid).unstarted.is_empty() {
                Fiber::new(work)
            } else if let Some(number) = (*grid).runnable.pop_front() {
                (*grid).now = number;
                let thread = &mut (&mut (*grid).threads)[number as usize];
                thread.fiber.take().expect("a runnable thread is paused")
            } else {
                break;
            }
        };
        // SAFETY: as above.
        unsafe { (*grid).shadow.enter_stack(fiber.stack) };
        let paused = fiber.resume();
        // SAFETY: as above.
        unsafe {
            let now = (*grid).now as usize;
            (&mut (*grid).threads)[now].fiber = paused;
        }
    }
}

/// The body of a coroutine: starts one thread after another.
fn work(pause: &Pause) {
    let grid = grid();
    loop {
        // SAFETY: a coroutine runs only while its grid is current, and no reference into the grid
        // is held while the kernel runs.
        let (call, arguments) = unsafe {
            let Some(number) = (*grid).unstarted.pop_front() else { break };
            (*grid).now = number;
            let thread = &mut (&mut (*grid).threads)[number as usize];
            thread.state = State::Running;
            thread.pause = pause;
            (*grid).shadow.enter_thread(number);
            ((*grid).kernel.call, (*grid).arguments)
        };
        // SAFETY: the arguments were copied according to the kernel's own types.
        unsafe { call(arguments) };
        // SAFETY: as above.
        unsafe {
            let now = (*grid).now as usize;
            (&mut (*grid).threads)[now].state = State::Finished;
            if (*grid).fault.is_some() {
                break;
            }
        }
    }
}

/// Pauses the running thread in this state until the scheduler resumes it.
///
/// # Safety
/// Must be called on a coroutine of the current grid, without references into the grid.
pub(super) unsafe fn wait(grid: *mut Grid, state: State) {
    // SAFETY: the caller vouches for the pointer; the thread's coroutine is the one that runs.
    unsafe {
        let number = (*grid).now;
        let thread = &mut (&mut (*grid).threads)[number as usize];
        thread.state = state;
        let pause = thread.pause;
        (*pause).suspend(());
        (&mut (*grid).threads)[number as usize].state = State::Running;
        (*grid).shadow.enter_thread(number);
    }
}

impl Grid {
    fn start_block(&mut self, number: u64, order: Order) {
        let [width, height, _] = self.shape.grid.map(u64::from);
        let coordinates = [number % width, number / width % height, number / width / height];
        self.block = Pair::new(coordinates.map(|value| value as u32));
        self.block_number = number;
        let count = self.threads.len() as u32;
        self.warps.clear();
        self.warps.resize(count.div_ceil(WARP) as usize, Warp::default());
        self.at_barrier = 0;
        self.votes = [0; 2];
        self.unstarted.clear();
        match order {
            Order::Forward => self.unstarted.extend(0..count),
            Order::Reverse => self.unstarted.extend((0..count).rev()),
            Order::Seed(_) => {
                let mut numbers: Vec<u32> = (0..count).collect();
                if let Some(random) = &mut self.order {
                    random.shuffle(&mut numbers);
                }
                self.unstarted.extend(numbers);
            }
        }
        self.shadow.enter_block(number, count, self.shape.dynamic_shared);
    }

    /// Reports threads that still wait, and drops their coroutines.
    fn end_block(&mut self) {
        let waiting =
            |thread: &&Thread| matches!(thread.state, State::AtBarrier | State::AtWarp { .. });
        let stuck = self.threads.iter().filter(waiting).count();
        if stuck > 0 && self.fault.is_none() {
            let at_barrier = self.threads.iter().filter(|t| t.state == State::AtBarrier).count();
            let finished = self.threads.iter().filter(|t| t.state == State::Finished).count();
            let (kind, what) = if at_barrier > 0 {
                ("kernel.barrier", "a barrier")
            } else {
                ("kernel.warp", "a warp operation")
            };
            let message = format!(
                "{stuck} threads of `{}` wait at {what} that the others do not reach \
                 ({finished} have finished)",
                self.kernel.name
            );
            violation(kind, &message, &self.names());
            self.fault = Some(LAUNCH_FAILED);
        }
        self.runnable.clear();
        self.unstarted.clear();
        for thread in &mut self.threads {
            if let Some(fiber) = thread.fiber.take() {
                fiber.abandon();
            }
            thread.state = State::Running;
        }
    }

    /// Makes a thread runnable that waited.
    pub(super) fn release(&mut self, number: u32) {
        self.runnable.push_back(number);
    }

    /// The names for a report about the current block.
    pub(super) fn names(&self) -> Vec<(&'static str, String)> {
        vec![
            ("kernel", self.kernel.name.to_owned()),
            ("block", self.block_number.to_string()),
            ("thread", self.now.to_string()),
        ]
    }

    /// The pointer argument whose block or address is nearest below an address, by number.
    pub(super) fn argument_near(&self, at: u64) -> String {
        let pointers = self.kernel.arguments.iter().enumerate().filter(|(_, a)| a.kind != 0);
        let value = |index: usize| {
            // SAFETY: a pointer argument is copied to 8 readable bytes.
            unsafe { (*self.arguments.add(index)).cast::<u64>().read() }
        };
        let below = pointers.map(|(index, _)| (value(index), index)).filter(|(to, _)| *to <= at);
        below.max().map_or_else(|| "none".to_owned(), |(to, index)| format!("{index} ({to:#x})"))
    }
}

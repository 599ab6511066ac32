//! The functions behind the prelude's words: indices, barriers, shuffles, votes and atomics.

use std::ffi::c_void;

use super::grid::{Grid, LAUNCH_FAILED, Pair, State, WARP, grid, wait};
use super::hooks;
use crate::report::violation;

const BALLOT: u32 = 4;
const WARP_BARRIER: u32 = 5;

/// The running grid.
///
/// # Safety
/// Only a kernel may call, which means that there is one; the reference must end before the next
/// pause of the coroutine.
unsafe fn running<'a>() -> &'a mut Grid {
    // SAFETY: the caller vouches for it.
    unsafe { &mut *grid() }
}

#[unsafe(no_mangle)]
extern "C" fn softgpu_thread_index() -> Pair {
    // SAFETY: a kernel calls, and nothing pauses here.
    let grid = unsafe { running() };
    grid.threads[grid.now as usize].index
}

#[unsafe(no_mangle)]
extern "C" fn softgpu_block_index() -> Pair {
    // SAFETY: a kernel calls, and nothing pauses here.
    unsafe { running() }.block
}

#[unsafe(no_mangle)]
extern "C" fn softgpu_block_shape() -> Pair {
    // SAFETY: a kernel calls, and nothing pauses here.
    Pair::new(unsafe { running() }.shape.block)
}

#[unsafe(no_mangle)]
extern "C" fn softgpu_grid_shape() -> Pair {
    // SAFETY: a kernel calls, and nothing pauses here.
    Pair::new(unsafe { running() }.shape.grid)
}

#[unsafe(no_mangle)]
extern "C" fn softgpu_barrier() {
    softgpu_barrier_reduce(0, 0);
}

#[unsafe(no_mangle)]
extern "C" fn softgpu_trap() {
    fail("kernel.trap", "a thread called __trap()");
}

/// A barrier that also counts (0), ands (1) or ors (2) a predicate over the block.
#[unsafe(no_mangle)]
extern "C" fn softgpu_barrier_reduce(kind: u32, predicate: u32) -> u32 {
    let pointer = grid();
    // SAFETY: a kernel calls; each reference ends before the pause.
    unsafe {
        let grid = running();
        grid.votes[0] += predicate;
        grid.at_barrier += 1;
        let count = grid.threads.len() as u32;
        if grid.at_barrier == count {
            grid.at_barrier = 0;
            grid.votes = [0, grid.votes[0]];
            grid.shadow.pass_barrier();
            for number in 0..count {
                if number != grid.now {
                    grid.release(number);
                }
            }
        } else {
            wait(pointer, State::AtBarrier);
        }
        let votes = running().votes[1];
        match kind {
            0 => votes,
            1 => u32::from(votes == count),
            _ => u32::from(votes > 0),
        }
    }
}

/// Brings a value to the lanes in the mask, and returns when all of them have done so.
fn meet(mask: u32, kind: u32, value: u64) {
    let pointer = grid();
    // SAFETY: a kernel calls; each reference ends before the pause.
    unsafe {
        let grid = running();
        let (number, lane) = (grid.now, grid.now % WARP);
        let first = number - lane;
        let lanes = (grid.threads.len() as u32 - first).min(WARP);
        let mask = mask & (u32::MAX >> (WARP - lanes));
        if mask & (1 << lane) == 0 {
            return fail("kernel.warp", "a lane is not in its own mask");
        }
        let warp = &mut grid.warps[(number / WARP) as usize];
        warp.arrived |= 1 << lane;
        warp.asked[lane as usize] = mask;
        warp.kinds[lane as usize] = kind;
        warp.deposits[lane as usize] = value;
        if warp.arrived & mask != mask {
            return wait(pointer, State::AtWarp { mask });
        }
        warp.arrived &= !mask;
        let members = (0..lanes).filter(|member| mask & (1 << member) != 0);
        let mut agree = true;
        for member in members.clone() {
            let index = member as usize;
            agree &= warp.asked[index] == mask && warp.kinds[index] == kind;
            warp.values[index] = warp.deposits[index];
        }
        grid.shadow.pass_warp(number / WARP, mask);
        for member in members {
            if member != lane {
                grid.release(first + member);
            }
        }
        if !agree {
            fail("kernel.warp", "lanes meet in different warp operations or with other masks");
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn softgpu_warp_barrier(mask: u32) {
    meet(mask, WARP_BARRIER, 0);
}

/// Shuffles by lane (0), up (1), down (2) or by exclusive or (3).
#[unsafe(no_mangle)]
extern "C" fn softgpu_shuffle(mask: u32, kind: u32, value: u64, operand: u32, width: u32) -> u64 {
    meet(mask, kind, value);
    // SAFETY: a kernel calls, and nothing pauses before the last use.
    let grid = unsafe { running() };
    let lane = grid.now % WARP;
    let first = lane / width * width;
    let source = match kind {
        0 => first + operand % width,
        1 => lane.checked_sub(operand).filter(|source| *source >= first).unwrap_or(lane),
        2 => Some(lane + operand).filter(|source| *source < first + width).unwrap_or(lane),
        _ => Some(lane ^ operand).filter(|source| *source < first + width).unwrap_or(lane),
    };
    let lanes = (grid.threads.len() as u32 - (grid.now - lane)).min(WARP);
    if mask & (1 << source) == 0 || source >= lanes {
        fail("kernel.warp", "a shuffle reads a lane that is not in the mask");
        return value;
    }
    // SAFETY: as above; `fail` may have paused.
    let grid = unsafe { running() };
    grid.warps[(grid.now / WARP) as usize].values[source as usize]
}

#[unsafe(no_mangle)]
extern "C" fn softgpu_ballot(mask: u32, predicate: u32) -> u32 {
    meet(mask, BALLOT, u64::from(predicate));
    // SAFETY: a kernel calls, and nothing pauses here.
    let grid = unsafe { running() };
    let warp = &grid.warps[(grid.now / WARP) as usize];
    let voted = |lane: &u32| mask & (1 << lane) != 0 && warp.values[*lane as usize] != 0;
    (0..WARP).filter(voted).fold(0, |votes, lane| votes | 1 << lane)
}

/// Reports a violation of the running thread and ends the launch.
pub(super) fn fail(kind: &str, what: &str) {
    let pointer = grid();
    // SAFETY: a kernel calls; the reference ends before the pause.
    unsafe {
        let grid = running();
        let message = format!("in `{}`, {what}", grid.kernel.name);
        violation(kind, &message, &grid.names());
        grid.fault = Some(LAUNCH_FAILED);
        wait(pointer, State::Faulted);
    }
}

/// The kinds of atomics are listed in the prelude.
#[unsafe(no_mangle)]
unsafe extern "C" fn softgpu_atomic32(at: *mut c_void, kind: u32, operand: u32, other: u32) -> u32 {
    hooks::atomic(at, 4);
    let at = at.cast::<u32>();
    // SAFETY: the hook has checked the address; the grid's threads share one host thread.
    let old = unsafe { at.read() };
    let (signed, by) = (old as i32, operand as i32);
    let new = match kind {
        0 => old.wrapping_add(operand),
        1 => signed.min(by) as u32,
        2 => signed.max(by) as u32,
        3 => old.min(operand),
        4 => old.max(operand),
        5 => old & operand,
        6 => old | operand,
        7 => operand,
        8 if old == other => operand,
        8 => old,
        _ => (f32::from_bits(old) + f32::from_bits(operand)).to_bits(),
    };
    // SAFETY: as above.
    unsafe { at.write(new) };
    old
}

#[unsafe(no_mangle)]
unsafe extern "C" fn softgpu_atomic64(at: *mut c_void, kind: u32, operand: u64, other: u64) -> u64 {
    hooks::atomic(at, 8);
    let at = at.cast::<u64>();
    // SAFETY: the hook has checked the address; the grid's threads share one host thread.
    let old = unsafe { at.read() };
    let new = match kind {
        0 => old.wrapping_add(operand),
        7 => operand,
        8 if old == other => operand,
        8 => old,
        _ => (f64::from_bits(old) + f64::from_bits(operand)).to_bits(),
    };
    // SAFETY: as above.
    unsafe { at.write(new) };
    old
}

//! Finds kernels by name, and turns arguments into what they take.

use super::source::SOURCE;
use crate::device::cuda::{Argument, Error, Function, Gpu, Grid, Program};
use crate::device::{Dtype, Window, WindowMut};
use crate::kernels::{Onto, Turn};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// Threads per block, unless a kernel needs another number.
pub(super) const THREADS: u32 = 256;
/// Elements that one thread of an element-wise kernel treats.
const PER_THREAD: usize = 4;
/// The most blocks in the second dimension of a grid.
const BLOCKS_Y: usize = 65_535;

/// Kernels for each type of activations.
const TYPED: [&str; 19] = [
    "add",
    "add_assign",
    "swiglu",
    "swiglu_gate_back",
    "swiglu_up_back",
    "repeat_row",
    "gather_rows",
    "sum_row_blocks",
    "rms_norm",
    "rms_norm_back",
    "inverse_rms",
    "norm_weight_blocks",
    "split_heads",
    "merge_heads",
    "softmax",
    "softmax_back",
    "output_means",
    "nll",
    "nll_back",
];

/// Kernels of one type, or of types that their names tell.
const OTHERS: [&str; 9] = [
    "round_to_bf16",
    "widen_bf16",
    "add_rows_in_order",
    "scatter_add_rows_f32_f32",
    "scatter_add_rows_f32_bf16",
    "scatter_add_rows_bf16_bf16",
    "sum_squares_of_chunks",
    "sum_f64",
    "adamw",
];

/// All kernels of a loaded program.
pub(super) struct Functions {
    /// Those without a type count as f32.
    by_name: HashMap<(&'static str, Dtype), Function>,
    _program: Program,
}

impl Functions {
    pub(super) fn load(gpu: &Arc<Gpu>, cache: &Path) -> Result<Self, Error> {
        let program = Program::load(gpu, SOURCE, cache)?;
        let mut by_name = HashMap::new();
        for name in TYPED {
            for (dtype, suffix) in [(Dtype::F32, "f32"), (Dtype::Bf16, "bf16")] {
                by_name.insert((name, dtype), program.function(&format!("{name}_{suffix}"))?);
            }
        }
        for name in OTHERS {
            by_name.insert((name, Dtype::F32), program.function(name)?);
        }
        Ok(Self { by_name, _program: program })
    }

    /// Starts a kernel, unless it has no blocks.
    pub(super) fn start(
        &self,
        gpu: &Gpu,
        kernel: (&'static str, Dtype),
        (blocks, threads): ([usize; 2], u32),
        arguments: &[Argument<'_>],
    ) {
        if blocks.contains(&0) {
            return;
        }
        let function = *self.by_name.get(&kernel).unwrap_or_else(|| panic!("no kernel {kernel:?}"));
        assert!(blocks[1] <= BLOCKS_Y, "{} blocks of {kernel:?}", blocks[1]);
        let blocks = blocks.map(|n| u32::try_from(n).expect("fewer than 2^31 blocks"));
        gpu.launch(function, Grid { blocks, threads }, arguments);
    }
}

/// The grid of an element-wise kernel.
pub(super) fn each(n: usize) -> ([usize; 2], u32) {
    ([n.div_ceil(THREADS as usize * PER_THREAD), 1], THREADS)
}

/// Threads of a block that serves `width` elements: full warps, at most `most`.
pub(super) fn threads(width: usize, most: usize) -> u32 {
    width.next_multiple_of(32).clamp(32, most) as u32
}

pub(super) fn pointer(x: Window<'_>) -> Argument<'static> {
    Argument::Pointer(x.address())
}

/// The address of a result.
pub(super) fn out(y: &WindowMut<'_>) -> Argument<'static> {
    Argument::Pointer(y.address())
}

pub(super) fn index(n: usize) -> Argument<'static> {
    Argument::Index(i64::try_from(n).expect("a length below 2^63"))
}

pub(super) fn unsigned(n: usize) -> Argument<'static> {
    Argument::Unsigned(u32::try_from(n).expect("a size below 2^32"))
}

/// Whether to add to the contents.
pub(super) fn flag(onto: Onto) -> Argument<'static> {
    Argument::Int((onto == Onto::Sum).into())
}

/// `Rotation` in heads.cu.
pub(super) fn rotation(turn: &Turn<'_>) -> [u8; 24] {
    let addresses = turn.rotation.map_or([0; 3], |rotation| {
        [rotation.cos, rotation.sin, rotation.positions].map(Window::address)
    });
    bytemuck::cast(addresses)
}

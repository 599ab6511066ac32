//! The kernels for NVIDIA GPUs: CUDA C, compiled at start for the GPU at hand, and matrix products by cuBLAS.
//!
//! ```text
//! source.rs     all .cu files as one program      common.cu     types, loops, sums in a fixed order
//! launch.rs     finds kernels and starts them     blas.rs       matrix products
//! attention.rs  attention, in tiles of scores     scratch.rs    the memory that kernels take while they run
//! ```

mod attention;
mod blas;
mod launch;
pub(super) mod scratch;
mod source;
#[cfg(test)]
mod tests;

pub use source::SOURCE;

use super::{
    AdamStep, Attended, Attention, Heads, Kernels, Norm, Onto, Operand, Out, Rows, Spans, Turn,
};
use crate::device::cuda::{Argument, Error, Gpu};
use crate::device::{Buffer, Device, Dtype, Window, WindowMut};
use blas::Blas;
use launch::{Functions, THREADS, flag, index, out, pointer, threads, unsigned};
use std::path::Path;
use std::sync::Arc;

/// Kernels that compute on one GPU.
pub struct Cuda {
    device: Device,
    gpu: Arc<Gpu>,
    blas: Blas,
    functions: Functions,
}

impl Cuda {
    /// The kernels for `gpu`; `cache` is a folder that keeps compiled ones.
    ///
    /// # Errors
    /// Those of the compiler, cuBLAS and the driver.
    pub fn new(gpu: &Arc<Gpu>, cache: &Path) -> Result<Self, Error> {
        let device = Device::Cuda(gpu.clone());
        let functions = Functions::load(gpu, cache)?;
        let blas = Blas::new(&device, gpu)?;
        Ok(Self { device, gpu: gpu.clone(), blas, functions })
    }

    /// Takes scratch memory.
    fn take<const N: usize>(&self, pieces: [scratch::Piece; N]) -> [Buffer; N] {
        pieces.map(|(dtype, len)| self.device.take(dtype, len))
    }

    /// Starts an element-wise kernel on `n` elements.
    fn each(&self, kernel: &'static str, dtype: Dtype, n: usize, arguments: &[Argument<'_>]) {
        self.start(kernel, dtype, launch::each(n), arguments);
    }

    /// Starts a kernel, unless it has no blocks.
    fn start(
        &self,
        kernel: &'static str,
        dtype: Dtype,
        (blocks, threads): ([usize; 2], u32),
        arguments: &[Argument<'_>],
    ) {
        self.functions.start(&self.gpu, (kernel, dtype), (blocks, threads), arguments);
    }

    /// Adds to `sum` the column sums that `kernel` computes for blocks of `rows` rows; `operands` precede the sizes.
    fn sum_columns(
        &self,
        sum: WindowMut<'_>,
        (kernel, dtype): (&'static str, Dtype),
        rows: usize,
        operands: &[Argument<'_>],
    ) {
        let cols = sum.len();
        if rows == 0 || cols == 0 {
            return;
        }
        let [blocks, block] = scratch::blocks(rows);
        let [mut sums] = self.take(scratch::sum_columns(rows, cols));
        let sizes = [index(rows), index(cols), index(block)];
        let arguments = [&[Argument::Pointer(sums.all_mut().address())], operands, &sizes].concat();
        let grid = ([cols.div_ceil(THREADS as usize), blocks], THREADS);
        self.start(kernel, dtype, grid, &arguments);
        let arguments = [out(&sum), pointer(sums.all()), index(blocks), index(cols)];
        self.each("add_rows_in_order", Dtype::F32, cols, &arguments);
    }

    fn nll(
        &self,
        kernel: &'static str,
        [losses, logits]: [WindowMut<'_>; 2],
        [tokens, weights]: [Window<'_>; 2],
    ) {
        let rows = losses.len();
        let vocabulary = logits.len() / rows.max(1);
        let arguments =
            [out(&losses), out(&logits), pointer(tokens), pointer(weights), index(vocabulary)];
        self.start(kernel, logits.dtype(), ([rows, 1], threads(vocabulary, 512)), &arguments);
    }
}

impl Kernels for Cuda {
    fn device(&self) -> &Device {
        &self.device
    }

    fn clear(&self, y: WindowMut<'_>) {
        self.gpu.clear(y.address(), y.len() * y.dtype().size());
    }

    fn copy(&self, y: WindowMut<'_>, x: Window<'_>) {
        assert_eq!(y.len(), x.len(), "operands of equal lengths");
        let n = y.len();
        match (y.dtype(), x.dtype()) {
            (to, from) if to == from => self.gpu.copy(y.address(), x.address(), n * to.size()),
            (Dtype::Bf16, Dtype::F32) => {
                self.each("round_to_bf16", Dtype::F32, n, &[out(&y), pointer(x), index(n)]);
            }
            (Dtype::F32, Dtype::Bf16) => {
                self.each("widen_bf16", Dtype::F32, n, &[out(&y), pointer(x), index(n)]);
            }
            (to, from) => panic!("no conversion from {from:?} to {to:?}"),
        }
    }

    fn add(&self, y: WindowMut<'_>, a: Window<'_>, b: Window<'_>) {
        let n = y.len();
        assert_eq!([a.len(), b.len()], [n; 2], "operands of equal lengths");
        self.each("add", y.dtype(), n, &[out(&y), pointer(a), pointer(b), index(n)]);
    }

    fn add_assign(&self, y: WindowMut<'_>, x: Window<'_>) {
        let n = y.len();
        assert_eq!(x.len(), n, "operands of equal lengths");
        self.each("add_assign", y.dtype(), n, &[out(&y), pointer(x), index(n)]);
    }

    fn repeat_row(&self, y: WindowMut<'_>, row: Window<'_>) {
        let n = y.len();
        let arguments = [out(&y), pointer(row), index(row.len()), index(n)];
        self.each("repeat_row", y.dtype(), n, &arguments);
    }

    fn sum_rows(&self, sum: WindowMut<'_>, x: Window<'_>) {
        let rows = x.len() / sum.len().max(1);
        self.sum_columns(sum, ("sum_row_blocks", x.dtype()), rows, &[pointer(x)]);
    }

    fn gemm(&self, c: Out<'_>, a: Operand<'_>, b: Operand<'_>) {
        assert_eq!(a.cols, b.rows, "operands of matching sizes");
        assert_eq!(c.to.len(), a.rows * b.cols, "a result of matching size");
        match (c.to.len(), a.cols, c.onto) {
            (0, ..) | (_, 0, Onto::Sum) => {}
            (_, 0, Onto::Fresh) => self.clear(c.to),
            _ => self.blas.gemm(c, a, b),
        }
    }

    fn gather_rows(&self, y: WindowMut<'_>, x: Window<'_>, rows: Rows<'_>) {
        let Rows { indices, width } = rows;
        let arguments = [out(&y), pointer(x), pointer(indices), index(width)];
        self.start("gather_rows", y.dtype(), ([indices.len(), 1], threads(width, 256)), &arguments);
    }

    fn scatter_add_rows(&self, y: WindowMut<'_>, first: usize, x: Window<'_>, rows: Rows<'_>) {
        let Rows { indices, width } = rows;
        let kernel = match (y.dtype(), x.dtype()) {
            (Dtype::F32, Dtype::F32) => "scatter_add_rows_f32_f32",
            (Dtype::F32, Dtype::Bf16) => "scatter_add_rows_f32_bf16",
            (Dtype::Bf16, Dtype::Bf16) => "scatter_add_rows_bf16_bf16",
            (to, from) => panic!("no sum of {from:?} in {to:?}"),
        };
        let present = y.len() / width.max(1);
        let count = indices.len();
        let sizes = [index(count), index(width), index(first), index(present)];
        let arguments = [&[out(&y), pointer(x), pointer(indices)], &sizes[..]].concat();
        self.start(kernel, Dtype::F32, ([count, 1], threads(width, 256)), &arguments);
    }

    fn rms_norm(&self, y: WindowMut<'_>, x: Window<'_>, Norm { w, eps }: Norm<'_>) {
        let (width, dtype) = (w.len(), y.dtype());
        let grid = ([y.len() / width.max(1), 1], threads(width, 256));
        let arguments = [out(&y), pointer(x), pointer(w), index(width), Argument::Float(eps)];
        self.start("rms_norm", dtype, grid, &arguments);
    }

    fn rms_norm_back(&self, dx: Out<'_>, dy: Window<'_>, x: Window<'_>, norm: Norm<'_>) {
        let Norm { w, eps } = norm;
        let width = w.len();
        let grid = ([x.len() / width.max(1), 1], threads(width, 256));
        let windows = [out(&dx.to), pointer(dy), pointer(x), pointer(w)];
        let rest = [index(width), Argument::Float(eps), flag(dx.onto)];
        self.start("rms_norm_back", x.dtype(), grid, &[&windows[..], &rest].concat());
    }

    fn rms_norm_weight_back(&self, dw: WindowMut<'_>, dy: Window<'_>, x: Window<'_>, eps: f32) {
        let width = dw.len();
        let groups = x.len() / width.max(1);
        let [mut r] = self.take(scratch::inverse_rms(groups));
        let arguments = [out(&r.all_mut()), pointer(x), index(width), Argument::Float(eps)];
        let grid = ([groups, 1], threads(width, 256));
        self.start("inverse_rms", x.dtype(), grid, &arguments);
        let operands = [pointer(dy), pointer(x), pointer(r.all())];
        self.sum_columns(dw, ("norm_weight_blocks", x.dtype()), groups, &operands);
    }

    fn swiglu(&self, y: WindowMut<'_>, gate: Window<'_>, up: Window<'_>) {
        let n = y.len();
        assert_eq!([gate.len(), up.len()], [n; 2], "operands of equal lengths");
        self.each("swiglu", y.dtype(), n, &[out(&y), pointer(gate), pointer(up), index(n)]);
    }

    fn swiglu_gate_back(&self, dgate: Out<'_>, dy: Window<'_>, gate: Window<'_>, up: Window<'_>) {
        let n = dy.len();
        assert_eq!([gate.len(), up.len()], [n; 2], "operands of equal lengths");
        let windows = [out(&dgate.to), pointer(dy), pointer(gate), pointer(up)];
        let arguments = [&windows[..], &[flag(dgate.onto), index(n)]].concat();
        self.each("swiglu_gate_back", dy.dtype(), n, &arguments);
    }

    fn swiglu_up_back(&self, dup: Out<'_>, dy: Window<'_>, gate: Window<'_>) {
        let n = dy.len();
        assert_eq!(gate.len(), n, "operands of equal lengths");
        let arguments = [out(&dup.to), pointer(dy), pointer(gate), flag(dup.onto), index(n)];
        self.each("swiglu_up_back", dy.dtype(), n, &arguments);
    }

    fn split_heads(&self, y: WindowMut<'_>, x: Window<'_>, heads: Heads, turn: Turn<'_>) {
        let Heads { heads, head_dim } = heads;
        let n = y.len();
        let rows = n / (heads * head_dim).max(1);
        let rotation = launch::rotation(&turn);
        // The kernel counts elements in 32 bits.
        unsigned(n);
        let arguments = [
            out(&y),
            pointer(x),
            Argument::Struct(&rotation),
            unsigned(rows),
            unsigned(heads),
            unsigned(head_dim),
            Argument::Float(turn.scale),
        ];
        self.each("split_heads", y.dtype(), n, &arguments);
    }

    fn merge_heads(&self, y: Out<'_>, x: Window<'_>, heads: Heads, turn: Turn<'_>) {
        let Heads { heads, head_dim } = heads;
        let n = y.to.len();
        let group = x.len() / n.max(1);
        let rows = x.len() / (heads * head_dim).max(1);
        let rotation = launch::rotation(&turn);
        // The kernel counts elements in 32 bits.
        unsigned(n);
        let arguments = [
            out(&y.to),
            pointer(x),
            Argument::Struct(&rotation),
            unsigned(rows),
            unsigned(heads / group.max(1)),
            unsigned(head_dim),
            unsigned(group),
            Argument::Float(turn.scale),
            flag(y.onto),
        ];
        self.each("merge_heads", x.dtype(), n, &arguments);
    }

    fn attend(
        &self,
        o: WindowMut<'_>,
        log_sums: WindowMut<'_>,
        qkv: [Window<'_>; 3],
        shape: (&Attention, &Spans),
    ) {
        attention::forward(self, [o, log_sums], qkv, shape);
    }

    fn attend_back(
        &self,
        gradients: [WindowMut<'_>; 3],
        dy: Window<'_>,
        of: Attended<'_>,
        shape: (&Attention, &Spans),
    ) {
        attention::backward(self, gradients, dy, of, shape);
    }

    fn nll(
        &self,
        losses: WindowMut<'_>,
        logits: WindowMut<'_>,
        tokens: Window<'_>,
        weights: Window<'_>,
    ) {
        self.nll("nll", [losses, logits], [tokens, weights]);
    }

    fn nll_back(
        &self,
        losses: WindowMut<'_>,
        logits: WindowMut<'_>,
        tokens: Window<'_>,
        weights: Window<'_>,
    ) {
        self.nll("nll_back", [losses, logits], [tokens, weights]);
    }

    fn sum_squares(&self, sum: WindowMut<'_>, x: Window<'_>) {
        let n = x.len();
        let chunks = scratch::chunks(n);
        let [mut sums] = self.take(scratch::sum_squares(n));
        let arguments =
            [out(&sums.all_mut()), pointer(x), index(scratch::CHUNK_ELEMENTS), index(n)];
        self.start("sum_squares_of_chunks", Dtype::F32, ([chunks, 1], THREADS), &arguments);
        let arguments = [out(&sum), pointer(sums.all()), index(chunks)];
        self.start("sum_f64", Dtype::F32, ([1, 1], THREADS), &arguments);
    }

    fn adamw(
        &self,
        state: [WindowMut<'_>; 3],
        rounded: Option<WindowMut<'_>>,
        g: Window<'_>,
        step: &AdamStep,
    ) {
        let n = g.len();
        let AdamStep { gradient_scale, new1, beta2, new2, keep, rate, root, eps } = *step;
        let step = [gradient_scale, new1, beta2, new2, keep, rate, root, eps];
        let [p, m, v] = state.each_ref().map(out);
        let step = Argument::Struct(bytemuck::cast_slice(&step));
        let rounded = rounded.map_or(Argument::Pointer(0), |rounded| {
            assert_eq!(rounded.dtype(), Dtype::Bf16, "operands are f32 or bf16");
            out(&rounded)
        });
        self.each("adamw", Dtype::F32, n, &[p, m, v, rounded, pointer(g), step, index(n)]);
    }
}

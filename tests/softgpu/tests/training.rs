//! A correct program in small: two ranks, two streams each, blocks and pinned buffers used again.

mod common;

use std::ffi::{c_int, c_uint, c_void};

use common::ranks::{F32, SUM, all_succeed, init, machines, ranks};
use common::{Gpu, Handle};
use softgpu::{Order, Settings};

const STEPS: usize = 8;
const COUNT: usize = 256;
const BYTES: usize = COUNT * 4;

/// A pinned buffer, and the event after which the host may use it again.
struct Staging {
    buffer: Handle,
    free: Handle,
}

struct Trainer {
    gpu: Gpu,
    comm_stream: Handle,
    comm: Handle,
    cublas: Handle,
    arena: u64,
    weights: u64,
    input: Staging,
    output: Staging,
    computed: Handle,
    reduced: Handle,
}

impl Trainer {
    fn new(rank: u32) -> Self {
        let gpu = Gpu::ready();
        let mut cublas: Handle = std::ptr::null_mut();
        assert_eq!(call!(gpu, cublasCreate_v2(&mut cublas => *mut Handle)), 0);
        assert_eq!(call!(gpu, cublasSetStream_v2(cublas => Handle, gpu.stream => Handle)), 0);
        let staging = || Staging { buffer: gpu.pinned(BYTES), free: gpu.new_event() };
        Self {
            comm_stream: gpu.new_stream(),
            comm: init(&gpu, 2, rank),
            cublas,
            arena: gpu.alloc(1 << 16),
            weights: gpu.upload(&[1_f32; COUNT]),
            input: staging(),
            output: staging(),
            computed: gpu.new_event(),
            reduced: gpu.new_event(),
            gpu,
        }
    }

    /// Copies a batch, squares it as a 16 x 16 matrix, sums over ranks and adds to the weights.
    fn step(&self, value: f32) {
        let gpu = &self.gpu;
        let (batch, product) = (self.arena, self.arena + 8192);
        gpu.take(batch, BYTES);
        gpu.take(product, BYTES);
        assert_eq!(call!(gpu, cuEventSynchronize(self.input.free => Handle)), 0);
        gpu.touch(self.input.buffer, BYTES, true);
        // SAFETY: the buffer is pinned memory of that size, and no copy uses it any more.
        unsafe {
            std::slice::from_raw_parts_mut(self.input.buffer.cast::<f32>(), COUNT).fill(value);
        }
        let code = call!(gpu, cuMemcpyHtoDAsync_v2(
            batch => u64, self.input.buffer.cast_const() => *const c_void, BYTES => usize,
            gpu.stream => Handle));
        assert_eq!(code, 0);
        gpu.record(self.input.free, gpu.stream);
        self.square(batch, product);
        gpu.record(self.computed, gpu.stream);
        gpu.wait(self.comm_stream, self.computed);
        let code = call!(gpu, ncclAllReduce(
            product => u64, product => u64, COUNT => usize, F32 => c_int, SUM => c_int,
            self.comm => Handle, self.comm_stream => Handle));
        assert_eq!(code, 0);
        gpu.record(self.reduced, self.comm_stream);
        gpu.wait(gpu.stream, self.reduced);
        gpu.launch(
            "sample_add",
            1,
            COUNT as u32,
            &[&self.weights, &product, &self.weights, &(COUNT as i32)],
        );
        gpu.give(batch, BYTES);
        gpu.give(product, BYTES);
    }

    fn square(&self, matrix: u64, product: u64) {
        let (one, zero) = (1_f32, 0_f32);
        let address = |value: &f32| std::ptr::from_ref(value).cast::<c_void>();
        let code = call!(self.gpu, cublasGemmEx(
            self.cublas => Handle, 0 => c_uint, 1 => c_uint, 16 => c_int, 16 => c_int,
            16 => c_int, address(&one) => *const c_void, matrix => u64, 0 => c_uint, 16 => c_int,
            matrix => u64, 0 => c_uint, 16 => c_int, address(&zero) => *const c_void,
            product => u64, 0 => c_uint, 16 => c_int, 68 => c_uint, -1 => c_int));
        assert_eq!(code, 0);
    }

    fn weight(&self) -> f32 {
        let gpu = &self.gpu;
        let code = call!(gpu, cuMemcpyDtoHAsync_v2(
            self.output.buffer => Handle, self.weights => u64, BYTES => usize,
            gpu.stream => Handle));
        assert_eq!(code, 0);
        gpu.record(self.output.free, gpu.stream);
        while call!(gpu, cuEventQuery(self.output.free => Handle)) != 0 {
            std::thread::yield_now();
        }
        gpu.touch(self.output.buffer, BYTES, false);
        // SAFETY: the buffer is pinned memory, and the copy has finished.
        unsafe { *self.output.buffer.cast::<f32>() }
    }
}

fn settings(seed: u64) -> Vec<Settings> {
    let with_seed =
        |settings: Settings| Settings { delays: Some(seed), order: Order::Seed(seed), ..settings };
    machines(2).into_iter().map(with_seed).collect()
}

#[test]
fn a_correct_program_breaks_no_rule() {
    for seed in 0..4 {
        let outcomes = ranks("a_correct_program_breaks_no_rule", &settings(seed), |rank| {
            let trainer = Trainer::new(rank);
            let mut expected = 1.0;
            for step in 0..STEPS {
                let value = (step + rank as usize) as f32;
                trainer.step(value);
                let other = (step + 1 - rank as usize) as f32;
                expected += 16.0 * (value * value + other * other);
                assert_eq!(trainer.weight(), expected);
            }
            assert_eq!(call!(trainer.gpu, ncclCommDestroy(trainer.comm => Handle)), 0);
        });
        all_succeed(&outcomes);
        assert_eq!(outcomes[0].report.total("cublas_calls"), 2 * STEPS as u64);
    }
}

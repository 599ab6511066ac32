//! Every sample kernel computes what it should, in every order of threads and blocks.

mod common;

use common::{Gpu, Outcome, recording, scenario};
use softgpu::{Order, Settings};

const ORDERS: [Order; 4] = [Order::Forward, Order::Reverse, Order::Seed(1), Order::Seed(2)];

fn in_every_order(name: &str, body: impl Fn()) -> Vec<Outcome> {
    let run = |order| scenario(name, &Settings { order, ..recording() }, &body);
    let outcomes: Vec<Outcome> = ORDERS.map(run).into();
    for outcome in &outcomes {
        outcome.expect(&[]);
    }
    outcomes
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Scale {
    factor: f32,
    offset: f64,
    count: i32,
}

#[test]
fn elementwise_kernels_compute_each_element() {
    in_every_order("elementwise_kernels_compute_each_element", || {
        let gpu = Gpu::ready();
        let a: Vec<f32> = (0..1000).map(|i| i as f32).collect();
        let b: Vec<f32> = a.iter().map(|value| value * 0.5).collect();
        let (in_a, in_b, out) = (gpu.upload(&a), gpu.upload(&b), gpu.alloc(4000));
        gpu.launch("sample_add", 4, 256, &[&in_a, &in_b, &out, &1000_i32]);
        let sums: Vec<f32> = gpu.read(out, 1000);
        assert!((0..1000).all(|i| sums[i] == a[i] + b[i]));
        let by = Scale { factor: 3.0, offset: 0.25, count: 1000 };
        gpu.launch("sample_scale", 2, 64, &[&in_a, &out, &by]);
        let scaled: Vec<f32> = gpu.read(out, 1000);
        assert!((0..1000).all(|i| scaled[i] == a[i].mul_add(3.0, 0.25)));
        let halves = gpu.alloc(2000);
        gpu.launch("sample_to_bf16", 4, 256, &[&in_b, &halves, &1000_i64]);
        gpu.launch("sample_from_bf16", 4, 256, &[&halves, &out, &1000_i64]);
        let rounded: Vec<f32> = gpu.read(out, 1000);
        assert!((0..1000).all(|i| (rounded[i] - b[i]).abs() <= b[i] / 256.0));
    });
}

#[test]
fn functions_of_the_mathematics_library_agree_with_the_host() {
    in_every_order("functions_of_the_mathematics_library_agree_with_the_host", || {
        let gpu = Gpu::ready();
        let x: Vec<f32> = (1..=100).map(|i| i as f32 / 25.0).collect();
        let (input, out) = (gpu.upload(&x), gpu.alloc(400));
        let check = |kernel: &str, expected: fn(f32) -> f32| {
            gpu.launch(kernel, 1, 128, &[&input, &out, &100_i32]);
            let got: Vec<f32> = gpu.read(out, 100);
            for (x, got) in x.iter().zip(got) {
                let want = expected(*x);
                assert!((got - want).abs() <= 2e-6 * want.abs().max(1.0), "{kernel}({x}): {got}");
            }
        };
        check("sample_unary_exp", f32::exp);
        check("sample_unary_log", |x| x.ln() + x.ln_1p());
        check("sample_unary_root", |x| 2.0 * x.sqrt() + 1.0 / x.sqrt() + 1.0 / x);
        let wide: Vec<f64> = x.iter().map(|value| f64::from(*value)).collect();
        gpu.launch("sample_mixed", 1, 128, &[&gpu.upload(&wide), &out, &100_i32]);
        let got: Vec<f32> = gpu.read(out, 100);
        assert!((0..100).all(|i| got[i] == (wide[i].exp() + wide[i].ln()) as f32));
        check("sample_unary_clamp", |x| x.clamp(0.25, 1.0));
    });
}

#[test]
fn reductions_sum_rows() {
    in_every_order("reductions_sum_rows", || {
        let gpu = Gpu::ready();
        let (rows, columns) = (8, 300);
        let values: Vec<f32> = (0..rows * columns).map(|i| (i % 17) as f32).collect();
        let sums: Vec<f32> = values.chunks(columns).map(|row| row.iter().sum()).collect();
        let (input, out) = (gpu.upload(&values), gpu.alloc(rows * 8));
        gpu.launch("sample_row_sum_shared", rows as u32, 256, &[&input, &out, &(columns as i32)]);
        assert_eq!(gpu.read::<f32>(out, rows), sums);
        gpu.launch("sample_row_sum_shuffle", 2, 128, &[&input, &out, &(columns as i32)]);
        assert_eq!(gpu.read::<f32>(out, rows), sums);
        let arguments: [&dyn common::Argument; 3] = [&input, &out, &(columns as i32)];
        let shape = [rows as u32, 128, 4 * 8];
        assert_eq!(gpu.launch_on(gpu.stream, "sample_row_mean_dynamic", shape, &arguments), 0);
        let means: Vec<f64> = gpu.read(out, rows);
        let expected = sums.iter().map(|sum| f64::from(*sum) / columns as f64);
        assert!(means.iter().zip(expected).all(|(got, want)| (got - want).abs() < 1e-12));
    });
}

#[test]
fn votes_atomics_and_warp_barriers_work() {
    in_every_order("votes_atomics_and_warp_barriers_work", || {
        let gpu = Gpu::ready();
        let values: Vec<f32> = (0..1000).map(|i| if i % 3 == 0 { 1.0 } else { -1.0 }).collect();
        let (input, total) = (gpu.upload(&values), gpu.upload(&[0_i32]));
        gpu.launch("sample_count_positive", 8, 128, &[&input, &total, &1000_i32]);
        assert_eq!(gpu.read::<i32>(total, 1), [334]);
        let lanes: Vec<i32> = (0..64).collect();
        let reversed = gpu.upload(&lanes);
        gpu.launch("sample_warp_reverse", 1, 64, &[&reversed]);
        let got: Vec<i32> = gpu.read(reversed, 64);
        assert!((0..64).all(|i| got[i as usize] == i ^ 31));
    });
}

#[test]
fn vectors_and_structs_are_copied_whole() {
    in_every_order("vectors_and_structs_are_copied_whole", || {
        let gpu = Gpu::ready();
        let values: Vec<f32> = (0..128).map(|i| i as f32).collect();
        let (input, out) = (gpu.upload(&values), gpu.alloc(512));
        gpu.launch("sample_negate4", 1, 32, &[&input, &out]);
        let negated: Vec<f32> = gpu.read(out, 128);
        assert!((0..128).all(|i| negated[i] == -values[i]));
        let scales = [1, 2, 3].map(|count| Scale { factor: 0.5, offset: 0.0, count });
        // Zeroed words stand for the padding, which a whole copy also reads.
        let mut words = [0_u64; 9];
        for (chunk, scale) in words.chunks_exact_mut(3).zip(scales) {
            chunk[0] = u64::from(scale.factor.to_bits());
            chunk[2] = scale.count as u64;
        }
        let (input, out) = (gpu.upload(&words), gpu.alloc(72));
        let code =
            gpu.launch_on(gpu.stream, "sample_copy_structs", [1, 2, 72], &[&input, &out, &3_u32]);
        assert_eq!(code, 0);
        let counts: Vec<u64> = gpu.read::<u64>(out, 9).into_iter().skip(2).step_by(3).collect();
        assert_eq!(counts, [3, 2, 1]);
    });
}

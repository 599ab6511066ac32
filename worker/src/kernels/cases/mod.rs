//! Test cases: each kernel of [`Kernels`] against an f64 reference, including edge cases, the same for every device.
//!
//! ```text
//! numbers.rs      the inputs, rounded to the type first
//! reference/      reference implementations of the kernels, in f64
//! near.rs         how far an f32 result may be from an f64 one
//! case.rs         one call on given windows: runs it, compares, checks the surrounding elements
//! other files     the cases, by kind of kernel
//! ```
//!
//! Types: activations and operands (x, y, dy, dx, gates, heads, logits, matrices, embedding tables, norm weights and
//! biases) have the type under test. Gradients of parameters, log-sum-exps, target weights, rotation tables, moments
//! and masters are f32, losses and sums of squares f64, row indices, tokens and positions u32. An output may differ
//! by one rounding of its type and the slack of [`near`].

#![allow(clippy::unwrap_used)]

mod attention;
mod case;
mod elementwise;
mod gemm;
mod heads;
mod loss;
mod near;
mod norm;
mod numbers;
mod optimizer;
mod reference;
mod rows;

use super::Kernels;
use crate::device::Dtype;
use case::Case;
use rayon::{ThreadPool, ThreadPoolBuilder};
use xxhash_rust::xxh3::Xxh3Default;

/// Runs all cases with activations of `dtype`; returns a digest of all outputs.
///
/// # Panics
/// If a case fails; the message names every failed case.
pub(crate) fn run(kernels: &dyn Kernels, dtype: Dtype) -> u128 {
    let pools = [1, 3].map(pool);
    let mut outputs = Xxh3Default::new();
    let check = |case: &Case| case.check(kernels, &pools, &mut outputs);
    let wrong: Vec<String> = cases(dtype).iter().flat_map(check).collect();
    assert!(wrong.is_empty(), "{} failures in {dtype:?}:\n{}", wrong.len(), wrong.join("\n"));
    outputs.digest128()
}

fn pool(threads: usize) -> ThreadPool {
    ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start")
}

fn cases(dtype: Dtype) -> Vec<Case> {
    let mut cases = elementwise::cases(dtype);
    cases.extend(rows::cases(dtype));
    cases.extend(gemm::cases(dtype));
    cases.extend(norm::cases(dtype));
    cases.extend(heads::cases(dtype));
    cases.extend(attention::cases(dtype));
    cases.extend(loss::cases(dtype));
    if dtype == Dtype::F32 {
        cases.extend(optimizer::cases());
    }
    cases
}

mod tests {
    use super::super::cpu::Cpu;
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn cpu_kernels_match_the_references() {
        run(&Cpu::default(), Dtype::F32);
    }

    #[test]
    fn cpu_kernels_in_bf16_match_the_references() {
        run(&Cpu::default(), Dtype::Bf16);
    }

    #[test]
    fn every_kernel_has_cases() {
        let (_, table) = include_str!("../mod.rs").split_once("pub trait Kernels").unwrap();
        let (table, _) = table.split_once("\n}").unwrap();
        let names = table.lines().filter_map(|line| line.trim().strip_prefix("fn "));
        let name = |line: &'static str| line.split(['(', '<']).next().unwrap();
        // `device` only names the device and computes nothing.
        let calls: BTreeSet<_> = names.map(name).filter(|name| *name != "device").collect();
        assert!(calls.contains("clear") && calls.contains("adamw"), "{calls:?}");
        let covered = |dtype| cases(dtype).iter().map(|case| case.call).collect::<BTreeSet<_>>();
        assert_eq!(covered(Dtype::F32), calls);
        let missing: Vec<_> = calls.difference(&covered(Dtype::Bf16)).copied().collect();
        assert_eq!(missing, ["adamw", "sum_squares"]);
    }
}

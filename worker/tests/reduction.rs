//! Training with gradients that are summed in bf16.

#![allow(clippy::unwrap_used)]

#[path = "tiny/mod.rs"]
mod tiny;
#[path = "tiny/training.rs"]
mod training;

use half::bf16;
use tiny::TINY;
use training::{gap, model, recipe, train, train_ranks};
use worker::collective::{AbortHandle, Alone, Collective, Error, Pending};
use worker::device::{Buffer, Dtype, WindowMut};
use worker::kernels;

/// A rank without others, which rounds the gradients of a step itself.
struct Rounding(Alone);

impl Collective for Rounding {
    fn rank(&self) -> usize {
        self.0.rank()
    }

    fn world_size(&self) -> usize {
        self.0.world_size()
    }

    fn calls(&self) -> u64 {
        self.0.calls()
    }

    fn reduce(&mut self, mut bucket: Buffer) -> Result<Pending, Error> {
        let rounded: Vec<f32> =
            bucket.read::<f32>().iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
        bucket.write(0, &rounded);
        self.0.reduce(bucket)
    }

    fn control(&mut self, values: &mut [f64]) -> Result<(), Error> {
        self.0.control(values)
    }

    fn broadcast(&mut self, root: usize, values: WindowMut<'_>) -> Result<(), Error> {
        self.0.broadcast(root, values)
    }

    fn barrier(&mut self) -> Result<(), Error> {
        self.0.barrier()
    }

    fn abort_handle(&self) -> AbortHandle {
        self.0.abort_handle()
    }
}

#[test]
fn a_rank_without_others_rounds_the_gradients_of_a_step_once() {
    const STEPS: u64 = 5;
    for (name, text) in TINY {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let train = |reduce_dtype, collective: &mut dyn Collective| {
                train(model(text, dtype, kernels::host()), recipe(reduce_dtype), STEPS, collective)
            };
            let rounded = train(Dtype::Bf16, &mut Alone::of(1));
            assert_eq!(rounded, train(Dtype::F32, &mut Rounding(Alone::of(1))), "{name}, {dtype}");
            assert_ne!(rounded, train(Dtype::F32, &mut Alone::of(1)), "{name}, {dtype}");
        }
    }
}

/// A gradient is rounded by at most 2^-8 of itself, to which AdamW hardly reacts, since it divides a gradient by its
/// own mean size. Gradients that almost cancel may have a sum of the other sign, so several ranks are farther from f32
/// than one. The bound is three times the largest distance that was seen.
#[test]
fn sums_in_bf16_follow_the_curve_of_sums_in_f32_at_any_number_of_ranks() {
    const STEPS: u64 = 50;
    const BOUND: f64 = 1.5e-4;
    for (name, text) in TINY {
        let curve = |reduce_dtype, world| {
            let model = || model(text, Dtype::F32, kernels::host());
            train_ranks(model, recipe(reduce_dtype), STEPS, world).0
        };
        for world in [1, 2, 4] {
            let (exact, rounded) = (curve(Dtype::F32, world), curve(Dtype::Bf16, world));
            let (mean, most) = gap(&rounded, &exact);
            println!(
                "{name}, {world} ranks: losses {:.4} to {:.4}; in bf16 {mean:.1e} from f32 on average, {most:.1e} at \
                 most",
                exact[0],
                exact[STEPS as usize - 1],
            );
            assert_eq!(rounded[0], exact[0], "the first loss precedes the first sum");
            assert!(mean > 0.0 && mean < BOUND, "{name}, {world} ranks: {mean}");
        }
    }
}

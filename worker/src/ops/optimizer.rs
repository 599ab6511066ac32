//! AdamW (Loshchilov and Hutter 2019), and the norm that gradients are clipped by.
//!
//! Both are the same bits on every rank, whatever its host and its threads: AdamW treats each
//! element by itself, the norm sums chunks of a fixed size in their order, and powers are computed
//! in software.

use rayon::prelude::*;

use super::kernel::{sum_f64, vectorized};

/// Elements of one partial sum and of one parallel task.
const CHUNK_ELEMENTS: usize = 64 * 1024;

/// What stays the same for a whole run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
}

/// What one update applies to one tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Which applied update this is, from 1.
    pub count: u64,
    /// The learning rate.
    pub lr: f64,
    /// The decay of this tensor's weights: 0 for norms and biases.
    pub weight_decay: f64,
    /// Factor of the summed gradient: `1 / W(s)` times the clip factor.
    pub gradient_scale: f64,
}

impl AdamW {
    /// Applies one update to the elements `p` with summed gradient `g` and moments `m` and `v`, as
    /// `torch.optim.AdamW` does: `p *= 1 - lr wd; p -= lr m_hat / (sqrt(v_hat) + eps)`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn update(&self, u: &Update, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        assert_eq!([g.len(), m.len(), v.len()], [p.len(); 3], "one moment pair per element");
        // Computed in software: the host's mathematical library may round differently.
        let correction = |beta: f64| 1. - libm::pow(beta, u.count as f64);
        let keep = (1. - u.lr * u.weight_decay) as f32;
        let step = (u.lr / correction(self.beta1)) as f32;
        let root = (1. / correction(self.beta2).sqrt()) as f32;
        let (scale, eps) = (u.gradient_scale as f32, self.eps as f32);
        let (new1, beta2, new2) =
            ((1. - self.beta1) as f32, self.beta2 as f32, (1. - self.beta2) as f32);
        let n = CHUNK_ELEMENTS;
        let moments = m.par_chunks_mut(n).zip(v.par_chunks_mut(n));
        p.par_chunks_mut(n).zip(g.par_chunks(n)).zip(moments).for_each(|((p, g), (m, v))| {
            vectorized(|| {
                for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
                    let g = g * scale;
                    *m += (g - *m) * new1;
                    *v = *v * beta2 + new2 * (g * g);
                    *p = *p * keep - step * (*m / (v.sqrt() * root + eps));
                }
            });
        });
    }
}

/// The sum of squares, in f64.
pub fn square_norm(g: &[f32]) -> f64 {
    let chunks = g.par_chunks(CHUNK_ELEMENTS);
    let sums: Vec<f64> = chunks.map(|g| vectorized(|| sum_f64(g, |g| g * g))).collect();
    sums.into_iter().sum()
}

/// The factor that brings a gradient of norm `norm` down to `max_norm`, as
/// `torch.nn.utils.clip_grad_norm_` computes it.
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_match_an_f64_adamw() {
        let adamw = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8 };
        let n = 100_003;
        let start = |i: usize| ((i * 37 % 101) as f64 - 50.) / 25.;
        let mut p: Vec<f32> = (0..n).map(|i| start(i) as f32).collect();
        let (mut m, mut v) = (vec![0f32; n], vec![0f32; n]);
        let mut exact: Vec<_> = p.iter().map(|&p| (f64::from(p), 0f64, 0f64)).collect();
        for count in 1..=5 {
            let update =
                Update { count, lr: 1e-2 / count as f64, weight_decay: 0.1, gradient_scale: 0.25 };
            let g: Vec<f32> =
                (0..n).map(|i| ((i * 31 + count as usize * 17) % 97) as f32 / 10. - 4.5).collect();
            adamw.update(&update, &mut p, &g, &mut m, &mut v);
            for ((p, m, v), g) in exact.iter_mut().zip(&g) {
                let g = f64::from(*g) * update.gradient_scale;
                *p *= 1. - update.lr * update.weight_decay;
                *m = adamw.beta1 * *m + (1. - adamw.beta1) * g;
                *v = adamw.beta2 * *v + (1. - adamw.beta2) * g * g;
                let m_hat = *m / (1. - adamw.beta1.powi(count as i32));
                let v_hat = *v / (1. - adamw.beta2.powi(count as i32));
                *p -= update.lr * m_hat / (v_hat.sqrt() + adamw.eps);
            }
        }
        for (i, (p, (expected, ..))) in p.iter().zip(&exact).enumerate() {
            // Five updates of f32 rounding, at a size of 2 and steps of 0.01.
            assert!((f64::from(*p) - expected).abs() < 1e-6, "{i}: {p} {expected}");
        }
    }

    #[test]
    fn square_norm_is_exact_to_f64_and_has_equal_bits_on_any_number_of_threads() {
        let g: Vec<f32> = (0..300_001).map(|i| (i as f32 * 0.1).sin() * 3.).collect();
        let expected: f64 = g.iter().map(|&g| f64::from(g).powi(2)).sum();
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .expect("threads start");
            pool.install(|| square_norm(&g))
        };
        assert!((on(1) - expected).abs() < 1e-12 * expected);
        assert_eq!(on(1).to_bits(), on(4).to_bits());
    }

    #[test]
    fn clipping_never_lengthens_a_gradient() {
        assert_eq!(clip_factor(0.5, 1.), 1.);
        assert!((clip_factor(4., 1.) - 0.25).abs() < 1e-6);
    }
}

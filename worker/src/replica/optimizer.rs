//! AdamW (Loshchilov and Hutter 2019), and the factor that clips gradients.
//!
//! Every factor is computed in f64 and in software, so that it has the same bits on every rank, whatever the host.

use crate::kernels::AdamStep;

/// The settings of AdamW, which are constant for a whole run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
}

/// The parameters of one update of one tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Number of this update among the applied ones, starting at 1.
    pub count: u64,
    /// The learning rate.
    pub lr: f64,
    /// The weight decay of this tensor; 0 for norms and biases.
    pub weight_decay: f64,
    /// Factor of the summed gradient: `1 / W(s)` times the clip factor.
    pub gradient_scale: f64,
}

impl AdamW {
    /// The factors of one update, as in `torch.optim.AdamW`: `p *= 1 - lr wd; p -= lr m_hat / (sqrt(v_hat) + eps)`.
    pub fn step(&self, u: &Update) -> AdamStep {
        // The host's math library may round differently.
        let correction = |beta: f64| 1. - libm::pow(beta, u.count as f64);
        AdamStep {
            gradient_scale: u.gradient_scale as f32,
            new1: (1. - self.beta1) as f32,
            beta2: self.beta2 as f32,
            new2: (1. - self.beta2) as f32,
            keep: (1. - u.lr * u.weight_decay) as f32,
            rate: (u.lr / correction(self.beta1)) as f32,
            root: (1. / correction(self.beta2).sqrt()) as f32,
            eps: self.eps as f32,
        }
    }
}

/// The factor that scales a gradient of norm `norm` down to `max_norm`, computed like
/// `torch.nn.utils.clip_grad_norm_`.
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Buffer;
    use crate::kernels;

    #[test]
    fn updates_match_an_f64_adamw() {
        let adamw = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8 };
        let n = 100_003;
        let start = |i: usize| ((i * 37 % 101) as f64 - 50.) / 25.;
        let first: Vec<f32> = (0..n).map(|i| start(i) as f32).collect();
        let mut exact: Vec<_> = first.iter().map(|&p| (f64::from(p), 0f64, 0f64)).collect();
        let mut state = [first, vec![0f32; n], vec![0f32; n]].map(Buffer::from);
        for count in 1..=5 {
            let update =
                Update { count, lr: 1e-2 / count as f64, weight_decay: 0.1, gradient_scale: 0.25 };
            let g: Vec<f32> =
                (0..n).map(|i| ((i * 31 + count as usize * 17) % 97) as f32 / 10. - 4.5).collect();
            let gradient = Buffer::from(g.clone());
            let windows = state.each_mut().map(Buffer::all_mut);
            kernels::host().adamw(windows, None, gradient.all(), &adamw.step(&update));
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
        for (i, (p, (expected, ..))) in state[0].read::<f32>().iter().zip(&exact).enumerate() {
            // Five updates with f32 rounding errors, for parameters up to 2 and steps of 0.01.
            assert!((f64::from(*p) - expected).abs() < 1e-6, "{i}: {p} {expected}");
        }
    }

    #[test]
    fn clipping_never_increases_the_norm() {
        assert_eq!(clip_factor(0.5, 1.), 1.);
        assert!((clip_factor(4., 1.) - 0.25).abs() < 1e-6);
    }
}

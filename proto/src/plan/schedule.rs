//! The learning rate schedule: a pure function of the step's number.

/// A learning rate schedule for a run of T steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The maximum learning rate, reached at the end of the warmup.
    pub peak: f64,
    /// The learning rate at the end of the decay.
    pub floor: f64,
    /// The length of the warmup.
    pub warmup: Warmup,
    /// The form of the decay.
    pub decay: Decay,
}

/// W, the number of steps in which the learning rate rises.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Warmup {
    /// This share of T, 0 to 1, rounded up.
    Share(f64),
    /// A number of steps.
    Steps(u64),
}

/// How the learning rate falls from peak to floor over T - W steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decay {
    /// Half a cosine.
    Cosine,
    /// A straight line.
    Linear,
    /// No decay: it stays at the peak.
    Constant,
}

impl Schedule {
    /// W, the steps of the warmup in a run of `total` steps.
    pub fn warmup_steps(&self, total: u64) -> u64 {
        match self.warmup {
            // 0.07 * 100 is 7.000000000000001 in floating point, and must not be rounded up to 8.
            Warmup::Share(share) => (share * total as f64 - 1e-9).ceil().max(0.0) as u64,
            Warmup::Steps(steps) => steps,
        }
    }
}

/// The learning rate of step `step` of `total`, counted from 0.
///
/// While step s < W, the rate is `peak * (s + 1) / W`. After that, step s has covered `(s - W) / (T - W)` of the
/// way down: step W still has the peak, and only step T, which is not trained, would have the floor. So no step is
/// wasted at a rate of 0. This equals `get_cosine_schedule_with_warmup` of `transformers` shifted by one step in
/// the warmup, where the first step has a rate of 0. The bits are equal on every machine, because `libm` computes
/// the cosine in software.
pub fn learning_rate(step: u64, total: u64, schedule: &Schedule) -> f64 {
    let Schedule { peak, floor, .. } = *schedule;
    let warmup = schedule.warmup_steps(total);
    if step < warmup {
        return peak * (step + 1) as f64 / warmup as f64;
    }
    let span = total.saturating_sub(warmup).max(1);
    let progress = ((step - warmup) as f64 / span as f64).min(1.0);
    let left = match schedule.decay {
        Decay::Cosine => 0.5 * (1.0 + libm::cos(std::f64::consts::PI * progress)),
        Decay::Linear => 1.0 - progress,
        Decay::Constant => return peak,
    };
    floor + (peak - floor) * left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(decay: Decay, warmup: Warmup) -> Schedule {
        Schedule { peak: 1.0, floor: 0.0, warmup, decay }
    }

    fn rates(total: u64, schedule: &Schedule) -> Vec<f64> {
        (0..total).map(|step| learning_rate(step, total, schedule)).collect()
    }

    fn assert_close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
    }

    #[test]
    fn linear_falls_by_equal_parts_after_the_warmup() {
        let rates = rates(6, &schedule(Decay::Linear, Warmup::Steps(2)));
        assert_close(&rates, &[0.5, 1.0, 1.0, 0.75, 0.5, 0.25]);
    }

    #[test]
    fn cosine_goes_through_its_known_points() {
        // The cosine of 0, 60, 90 and 120 degrees is 1, 1/2, 0 and -1/2.
        let rates = rates(7, &schedule(Decay::Cosine, Warmup::Steps(1)));
        assert_close(
            &[rates[0], rates[1], rates[3], rates[4], rates[5]],
            &[1.0, 1.0, 0.75, 0.5, 0.25],
        );
    }

    #[test]
    fn floor_is_the_limit_of_the_fall() {
        let schedule = Schedule { floor: 0.2, ..schedule(Decay::Linear, Warmup::Steps(0)) };
        assert_close(&rates(4, &schedule), &[1.0, 0.8, 0.6, 0.4]);
        assert_close(
            &[learning_rate(4, 4, &schedule), learning_rate(9, 4, &schedule)],
            &[0.2, 0.2],
        );
    }

    #[test]
    fn constant_stays_at_the_peak_after_the_warmup() {
        let rates = rates(5, &schedule(Decay::Constant, Warmup::Steps(4)));
        assert_close(&rates, &[0.25, 0.5, 0.75, 1.0, 1.0]);
    }

    #[test]
    fn a_share_is_rounded_up_but_not_because_of_rounding_errors() {
        let steps =
            |share, total| schedule(Decay::Linear, Warmup::Share(share)).warmup_steps(total);
        assert_eq!(steps(0.03, 100), 3);
        assert_eq!(steps(0.03, 101), 4);
        assert_eq!(steps(0.07, 100), 7);
        assert_eq!(steps(0.03, 1), 1);
        assert_eq!(steps(0.0, 100), 0);
    }

    #[test]
    fn a_warmup_longer_than_the_run_never_reaches_the_peak() {
        let rates = rates(3, &schedule(Decay::Cosine, Warmup::Steps(10)));
        assert_close(&rates, &[0.1, 0.2, 0.3]);
    }
}

//! The speed of training: tokens per second over the last steps, without stalls.
//!
//! Reports may arrive late and many at once, after a stall or a reconnect. So their times of arrival are not used: a
//! step takes as long as its slowest rank reports.

use std::collections::VecDeque;
use std::time::Duration;

/// Maximum number of steps that count.
const STEPS: usize = 32;
/// Maximum total duration of the steps that count, unless there are three or fewer.
const SPAN: Duration = Duration::from_secs(60);
/// A step that takes more than this many times the median is a stall.
const STALL: u32 = 4;

/// The last steps.
#[derive(Clone, Debug, Default)]
pub(super) struct Rate {
    steps: VecDeque<Step>,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    took: Duration,
    tokens: u64,
}

impl Rate {
    /// Notes a step.
    pub(super) fn add(&mut self, took: Duration, tokens: u64) {
        self.steps.push_back(Step { took, tokens });
        let too_old = |steps: &VecDeque<Step>| {
            let all: Duration = steps.iter().map(|s| s.took).sum();
            steps.len() > STEPS || all > SPAN && steps.len() > 3
        };
        while too_old(&self.steps) {
            self.steps.pop_front();
        }
    }

    /// Tokens per second; `None` before the first step.
    pub(super) fn tokens_per_second(&self) -> Option<f64> {
        let (took, tokens, _) = self.without_stalls()?;
        Some(tokens as f64 / took.as_secs_f64())
    }

    /// The mean duration of a step; `None` before the first step.
    pub(super) fn step(&self) -> Option<Duration> {
        let (took, _, steps) = self.without_stalls()?;
        Some(took / steps)
    }

    fn without_stalls(&self) -> Option<(Duration, u64, u32)> {
        let mut times: Vec<_> = self.steps.iter().map(|s| s.took).collect();
        times.sort_unstable();
        let median = *times.get((times.len().max(1) - 1) / 2)?;
        let steady = self.steps.iter().filter(|s| s.took <= median.saturating_mul(STALL));
        let (mut took, mut tokens, mut steps) = (Duration::ZERO, 0, 0);
        for step in steady {
            took += step.took;
            tokens += step.tokens;
            steps += 1;
        }
        (took > Duration::ZERO).then_some((took, tokens, steps))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(steps: &[(u64, u64)]) -> Rate {
        let mut rate = Rate::default();
        for (ms, tokens) in steps {
            rate.add(Duration::from_millis(*ms), *tokens);
        }
        rate
    }

    #[test]
    fn a_rate_is_tokens_by_time_over_the_last_steps() {
        assert_eq!(rate(&[]).tokens_per_second(), None);
        assert_eq!(rate(&[(500, 100)]).tokens_per_second(), Some(200.0));
        assert_eq!(rate(&[(500, 100), (1500, 100)]).tokens_per_second(), Some(100.0));
        // Only the last 32 steps count, which are all slow.
        let many: Vec<_> = (0..100).map(|i| (if i < 60 { 1 } else { 10 }, 10)).collect();
        assert_eq!(rate(&many).tokens_per_second(), Some(1000.0));
    }

    #[test]
    fn a_stall_is_left_out() {
        let stalled = [(100, 10), (100, 10), (15_000, 10), (100, 10)];
        assert_eq!(rate(&stalled).tokens_per_second(), Some(100.0));
        assert_eq!(rate(&stalled).step(), Some(Duration::from_millis(100)));
    }

    #[test]
    fn steps_that_took_no_time_have_no_rate() {
        assert_eq!(rate(&[(0, 10), (0, 10)]).tokens_per_second(), None);
    }
}

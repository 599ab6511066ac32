//! How long to wait, and how often to try.

use std::time::Duration;

/// Bounds of every wait and of every repetition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// The pause before a request is repeated for the first time. It doubles with each repetition.
    pub first_pause: Duration,
    /// The longest pause between repetitions, unless the API server asks for a longer one.
    pub longest_pause: Duration,
    /// How long a single request may take.
    pub request: Duration,
    /// How long a request is repeated.
    pub repetition: Duration,
    /// How long to wait until an object that is being deleted is gone.
    pub deletion: Duration,
    /// The time without a sign of life after which a watch or a log is opened again. Watches count
    /// whole seconds.
    pub silence: Duration,
    /// The interval at which a followed Job is judged again, because some trouble is only a matter
    /// of time.
    pub refresh: Duration,
    /// How long to wait for the rest of a log once its pod or its Job has ended.
    pub drain: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Patience {
    /// What suits a person who waits at a terminal.
    pub const DEFAULT: Self = Self {
        first_pause: Duration::from_millis(500),
        longest_pause: Duration::from_secs(15),
        request: Duration::from_secs(30),
        repetition: Duration::from_secs(180),
        deletion: Duration::from_secs(120),
        silence: Duration::from_secs(280),
        refresh: Duration::from_secs(15),
        drain: Duration::from_secs(10),
    };

    /// The pause before repetition number `count`, which starts at zero.
    pub(crate) fn pause(&self, count: u32) -> Duration {
        let factor = 2_u32.saturating_pow(count);
        self.first_pause.saturating_mul(factor).min(self.longest_pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let patience = Patience::default();
        let pauses: Vec<u128> = (0..7).map(|count| patience.pause(count).as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 15_000, 15_000]);
        assert_eq!(patience.pause(u32::MAX), patience.longest_pause);
    }
}

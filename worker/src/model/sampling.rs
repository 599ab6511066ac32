//! Chooses a token from a row of logits: the most likely one, or one sampled from those that hold most of the
//! probability.

use super::error::Error;
use super::logits::{argmax, log_softmax};
use super::random::Stream;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// The divisor of the logits; 0 always takes the most likely token.
    temperature: f32,
    /// The total probability of the most likely tokens from which one is sampled.
    top_p: f64,
    stream: Stream,
}

impl Sampling {
    /// Always takes the most likely token, with the lowest id among equals.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, top_p: 1.0, stream: Stream::new(0, "sampling") }
    }

    /// Samples from the smallest set of most likely tokens that holds `top_p` of the probability (nucleus sampling,
    /// arXiv 1904.09751), at a temperature; 0 is [`Sampling::greedy`]. Equal seeds give equal tokens.
    ///
    /// # Errors
    /// [`Error::Prompt`] for a temperature that is negative or not finite, or a `top_p` that is not above 0 and at
    /// most 1.
    pub fn nucleus(temperature: f32, top_p: f32, seed: u64) -> Result<Self, Error> {
        if !(temperature >= 0.0 && temperature.is_finite()) {
            let what = format!("temperature must be a number of at least 0, got {temperature}");
            return Err(Error::Prompt { what });
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            let what = format!("top_p must be above 0 and at most 1, got {top_p}");
            return Err(Error::Prompt { what });
        }
        Ok(Self { temperature, top_p: top_p.into(), stream: Stream::new(seed, "sampling") })
    }

    /// Chooses the token that follows `place` generated ones. The logits are overwritten.
    ///
    /// # Errors
    /// [`Error::Prompt`] for a row that is empty or contains NaN, which means that the weights are broken.
    pub(super) fn choose(&self, logits: &mut [f32], place: usize) -> Result<u32, Error> {
        let likeliest = argmax(logits).ok_or_else(|| Error::Prompt {
            what: format!("the logits of token {place} are not numbers; the weights are broken"),
        })?;
        if self.temperature == 0.0 {
            return Ok(likeliest as u32);
        }
        logits.iter_mut().for_each(|logit| *logit /= self.temperature);
        log_softmax(logits);
        let mut candidates: Vec<(u32, f64)> =
            (0..).zip(logits.iter().map(|log| f64::from(*log).exp())).collect();
        candidates.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        let mut mass = 0.0;
        let nucleus = candidates.iter().position(|(_, probability)| {
            mass += probability;
            mass >= self.top_p
        });
        if let Some(last) = nucleus {
            candidates.truncate(last + 1);
        }
        let mut left = self.stream.uniform(place as u64) * mass;
        let drawn = candidates.iter().find(|(_, probability)| {
            left -= probability;
            left < 0.0
        });
        // Rounding may leave a tiny remainder after the last candidate.
        Ok(drawn.or(candidates.last()).map_or(likeliest as u32, |(token, _)| *token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits: natural logarithms of the probabilities 0.15, 0.5, 0.05 and 0.3, shifted by a constant.
    fn logits() -> Vec<f32> {
        [0.15f32, 0.5, 0.05, 0.3].map(|probability| probability.ln() + 7.0).to_vec()
    }

    fn frequencies(sampling: Sampling) -> [f64; 4] {
        let mut counts = [0.0; 4];
        for place in 0..20_000 {
            let token = sampling.choose(&mut logits(), place).expect("numbers");
            counts[token as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    fn assert_close(got: [f64; 4], want: [f64; 4]) {
        // Five standard deviations of a frequency in 20,000 samples are at most 0.018.
        assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 0.018), "{got:?}");
    }

    #[test]
    fn tokens_are_sampled_as_often_as_they_are_likely() {
        let sampling = Sampling::nucleus(1.0, 1.0, 5).expect("sound");
        assert_close(frequencies(sampling), [0.15, 0.5, 0.05, 0.3]);
    }

    #[test]
    fn a_low_temperature_sharpens_the_distribution() {
        // At temperature 1/2, probabilities are squared and divided by their sum: 0.25, 0.09, 0.0225, 0.0025 of
        // 0.365.
        let sampling = Sampling::nucleus(0.5, 1.0, 5).expect("sound");
        assert_close(frequencies(sampling), [0.0616, 0.6849, 0.0068, 0.2466]);
    }

    #[test]
    fn the_nucleus_is_the_smallest_set_that_holds_top_p() {
        // 0.5 + 0.3 reaches 0.7, which 0.5 alone does not.
        let sampling = Sampling::nucleus(1.0, 0.7, 5).expect("sound");
        assert_close(frequencies(sampling), [0.0, 0.625, 0.0, 0.375]);
    }

    #[test]
    fn greedy_takes_the_most_likely_token_and_refuses_nan() {
        assert_eq!(Sampling::greedy().choose(&mut logits(), 0).expect("numbers"), 1);
        assert!(Sampling::greedy().choose(&mut [0.0, f32::NAN], 0).is_err());
        assert!(Sampling::nucleus(-1.0, 1.0, 0).is_err());
        assert!(Sampling::nucleus(1.0, 0.0, 0).is_err());
    }
}

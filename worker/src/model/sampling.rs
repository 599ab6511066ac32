//! From a row of logits to a token: the likeliest, or one drawn from those that hold most of the
//! probability.

use super::error::Error;
use super::logits::{argmax, log_softmax};
use super::random::Stream;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// What logits are divided by; 0 takes the likeliest.
    temperature: f32,
    /// The probability that the likeliest tokens, the candidates, must hold together.
    top_p: f64,
    stream: Stream,
}

impl Sampling {
    /// Always the likeliest token, the one of the lowest id among equals.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, top_p: 1.0, stream: Stream::new(0, "sampling") }
    }

    /// A token drawn from the smallest set of likeliest ones that holds `top_p` of the probability
    /// (nucleus sampling, arXiv 1904.09751), at a temperature; 0 is [`Sampling::greedy`]. Equal
    /// seeds draw equal tokens.
    ///
    /// # Errors
    /// [`Error::Prompt`] for a temperature below 0, or a `top_p` outside 0 to 1 or 0.
    pub fn nucleus(temperature: f32, top_p: f32, seed: u64) -> Result<Self, Error> {
        if !(temperature >= 0.0 && temperature.is_finite()) {
            let what = format!("temperature must be a number from 0, got {temperature}");
            return Err(Error::Prompt { what });
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            let what = format!("top_p must be above 0 and at most 1, got {top_p}");
            return Err(Error::Prompt { what });
        }
        Ok(Self { temperature, top_p: top_p.into(), stream: Stream::new(seed, "sampling") })
    }

    /// The token after `place` others. The logits are used up.
    ///
    /// # Errors
    /// [`Error::Prompt`] for a row that holds no number: the weights are broken.
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
        // Rounding may leave a crumb after the last one.
        Ok(drawn.or(candidates.last()).map_or(likeliest as u32, |(token, _)| *token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Natural logarithms of the probabilities 0.5, 0.3, 0.15, 0.05, shifted as logits may be.
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
        // Five standard deviations of a frequency out of 20,000: at most 0.018.
        assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 0.018), "{got:?}");
    }

    #[test]
    fn tokens_come_as_often_as_they_are_likely() {
        let sampling = Sampling::nucleus(1.0, 1.0, 5).expect("sound");
        assert_close(frequencies(sampling), [0.15, 0.5, 0.05, 0.3]);
    }

    #[test]
    fn temperature_sharpens() {
        // At temperature 1/2 probabilities are squared: 0.25, 0.09, 0.0225, 0.0025 of their sum,
        // 0.365.
        let sampling = Sampling::nucleus(0.5, 1.0, 5).expect("sound");
        assert_close(frequencies(sampling), [0.0616, 0.6849, 0.0068, 0.2466]);
    }

    #[test]
    fn the_nucleus_is_the_smallest_set_that_holds_top_p() {
        // 0.5 + 0.3 reach 0.7, which 0.5 alone does not.
        let sampling = Sampling::nucleus(1.0, 0.7, 5).expect("sound");
        assert_close(frequencies(sampling), [0.0, 0.625, 0.0, 0.375]);
    }

    #[test]
    fn greedy_takes_the_likeliest_and_refuses_what_is_no_number() {
        assert_eq!(Sampling::greedy().choose(&mut logits(), 0).expect("numbers"), 1);
        assert!(Sampling::greedy().choose(&mut [0.0, f32::NAN], 0).is_err());
        assert!(Sampling::nucleus(-1.0, 1.0, 0).is_err());
        assert!(Sampling::nucleus(1.0, 0.0, 0).is_err());
    }
}

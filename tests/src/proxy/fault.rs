//! The faults between Muster and a store. Which request meets which fault is a pure function of a seed and the
//! request.

use std::collections::BTreeMap;
use std::time::Duration;

/// The longest silence, for clients that never give up.
const HOLD: Duration = Duration::from_secs(300);

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Answers 500 and does not pass the request on.
    Error,
    /// Answers 503 SlowDown and does not pass the request on.
    SlowDown,
    /// Answers 409 ConditionalRequestConflict, S3's "try again", to a conditional write and does not pass it on.
    Conflict,
    /// Hangs up and does not pass the request on.
    HangUp,
    /// Hangs up in the middle of the request's body and does not pass the request on.
    HangUpInRequest,
    /// Hangs up in the middle of the answer, after the store has executed the request.
    HangUpInAnswer,
    /// Does not pass the request on and does not answer, until the client gives up.
    Silence,
    /// Does not answer after the store has executed the request, until the client gives up.
    SilenceAfter,
    /// Answers 500 after the store has executed the request.
    ErrorAfter,
    /// Answers 412 to a conditional write that has succeeded.
    LostWin,
    /// Cuts off the end of an answer's body and adjusts its length.
    CutBody,
    /// Answers with an earlier state of a listing.
    StaleListing,
    /// Flips one bit of a request's body.
    FlipRequest,
    /// Flips one bit of an object's body in an answer. Listings are exempt, since S3 has no checksum for them.
    FlipAnswer,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 14] = [
        Self::Error,
        Self::SlowDown,
        Self::Conflict,
        Self::HangUp,
        Self::HangUpInRequest,
        Self::HangUpInAnswer,
        Self::Silence,
        Self::SilenceAfter,
        Self::ErrorAfter,
        Self::LostWin,
        Self::CutBody,
        Self::StaleListing,
        Self::FlipRequest,
        Self::FlipAnswer,
    ];

    fn applies_to(self, info: &RequestInfo) -> bool {
        match self {
            Self::Error
            | Self::SlowDown
            | Self::HangUp
            | Self::HangUpInAnswer
            | Self::Silence
            | Self::SilenceAfter
            | Self::ErrorAfter => true,
            Self::Conflict | Self::LostWin => info.is_conditional,
            Self::HangUpInRequest | Self::FlipRequest => info.has_body,
            Self::CutBody => info.method == "GET",
            Self::StaleListing => info.is_listing,
            Self::FlipAnswer => info.method == "GET" && !info.is_listing,
        }
    }
}

/// The properties of a request on which faults depend.
#[derive(Debug)]
pub(super) struct RequestInfo {
    pub(super) method: String,
    /// Path and query, without parameters that the server chose or that depend on the time.
    pub(super) target: String,
    /// Whether it is a write that succeeds only if the object does not exist.
    pub(super) is_conditional: bool,
    pub(super) has_body: bool,
    /// Whether it lists objects or uploads.
    pub(super) is_listing: bool,
}

/// A configuration of faults: the probability of each for a request to which it applies.
#[derive(Clone, Debug)]
pub struct Faults {
    seed: u64,
    rates: BTreeMap<Fault, f64>,
    /// A fault for the first of each request with this method and this text in its path and query.
    first: Option<(Fault, &'static str, &'static str)>,
    pub(super) ignored: Vec<&'static str>,
    pub(super) google: bool,
    pub(super) silence: Duration,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            seed: 0,
            rates: BTreeMap::new(),
            first: None,
            ignored: Vec::new(),
            google: false,
            silence: HOLD,
        }
    }
}

impl Faults {
    /// No faults.
    pub fn none() -> Self {
        Self::default()
    }

    /// Every fault, each with this probability.
    pub fn all(seed: u64, rate: f64) -> Self {
        Fault::ALL
            .into_iter()
            .fold(Self { seed, ..Self::default() }, |f, fault| f.with(fault, rate))
    }

    /// Sets the probability of one fault.
    pub fn with(mut self, fault: Fault, rate: f64) -> Self {
        self.rates.insert(fault, rate);
        assert!(self.rates.values().sum::<f64>() <= 1.0, "a request meets one fault at most");
        self
    }

    /// Adds a fault for every request with this method and these words in its path or query that is made for the
    /// first time.
    pub fn first(mut self, fault: Fault, method: &'static str, words: &'static str) -> Self {
        self.first = Some((fault, method, words));
        self
    }

    /// Sets how long a silence lasts before the connection breaks. Clients wait for minutes for data by themselves.
    pub fn silent_for(mut self, limit: Duration) -> Self {
        self.silence = limit;
        self
    }

    /// Makes the store ignore this header of requests, which must be unsigned.
    pub fn ignoring(mut self, header: &'static str) -> Self {
        self.ignored.push(header);
        self
    }

    /// Makes the store speak Google's XML API. Requests must be unsigned.
    pub fn in_google(mut self) -> Self {
        self.google = true;
        self
    }

    /// Draws the fault for a request that is made for the `times`-th time, with a source of further random choices.
    pub(super) fn draw(&self, info: &RequestInfo, times: u64) -> Option<(Fault, Random)> {
        let mut random = Random::of(self.seed, &[&info.method, &info.target], times);
        if let Some((fault, method, words)) = self.first
            && times == 1
            && info.method == method
            && info.target.contains(words)
        {
            return fault.applies_to(info).then_some((fault, random));
        }
        let drawn = random.unit();
        let mut below = 0.0;
        for (fault, rate) in &self.rates {
            below += rate;
            if drawn < below {
                return fault.applies_to(info).then_some((*fault, random));
            }
        }
        None
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// An independent stream for every seed.
    pub fn new(seed: u64) -> Self {
        let mut random = Self(seed);
        // Seeds are small numbers, and streams of neighbouring seeds should not begin alike.
        random.0 = random.number();
        random
    }

    fn of(seed: u64, words: &[&str], times: u64) -> Self {
        let bytes = words.iter().flat_map(|w| w.bytes().chain([0]));
        let mut random = bytes.fold(Self::new(seed), |mut random, byte| {
            random.0 ^= u64::from(byte);
            Self(random.number())
        });
        random.0 ^= times;
        random
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end as u64) as usize
    }

    /// A number from 0 up to 1.
    pub fn unit(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(target: &str) -> RequestInfo {
        RequestInfo {
            method: "GET".into(),
            target: target.into(),
            is_conditional: false,
            has_body: false,
            is_listing: false,
        }
    }

    #[test]
    fn faults_have_their_probability_and_occur_only_where_they_apply() {
        let faults = Faults::all(7, 0.05);
        let mut counts = BTreeMap::new();
        for i in 0..10_000 {
            if let Some((fault, _)) = faults.draw(&get(&format!("/b/{}", i % 100)), i / 100) {
                *counts.entry(fault).or_insert(0u32) += 1;
            }
        }
        assert!(
            !counts.contains_key(&Fault::FlipRequest) && !counts.contains_key(&Fault::Conflict)
        );
        // 500 of each are expected, with a standard deviation of 22.
        assert!(counts.values().all(|n| (400..600).contains(n)), "{counts:?}");
        assert_eq!(counts.len(), 9, "{counts:?}");
    }

    #[test]
    fn the_fault_of_a_request_does_not_depend_on_other_requests() {
        let drawn = |seed| {
            let faults = Faults::all(seed, 0.05);
            (0..200).map(|n| faults.draw(&get("/b/x"), n).map(|(f, _)| f)).collect::<Vec<_>>()
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
    }
}

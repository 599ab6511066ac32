//! What can go wrong between Muster and a store, and when it does: a pure function of a seed and of what is asked.

use std::collections::BTreeMap;
use std::time::Duration;

/// Nobody is held back for longer, even one who never gives up.
const HOLD: Duration = Duration::from_secs(300);

/// One way to misbehave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// 500 instead of passing the request on.
    Error,
    /// 503 SlowDown likewise.
    SlowDown,
    /// 409 ConditionalRequestConflict to a conditional write that is not passed on: S3's word for "try again".
    Conflict,
    /// Hangs up instead of passing the request on.
    HangUp,
    /// Hangs up once half of the request's body has come; nothing is passed on.
    HangUpInRequest,
    /// Hangs up in the middle of the answer to what the store has done.
    HangUpInAnswer,
    /// Passes nothing on and says nothing, until the client gives up.
    Silence,
    /// Says nothing of what the store has done, until the client gives up.
    SilenceAfter,
    /// 500 for what the store has done.
    ErrorAfter,
    /// 412 to a conditional write that has won.
    LostWin,
    /// An answer's body lacks its end, and its length agrees with that.
    CutBody,
    /// A listing as it was earlier.
    StaleListing,
    /// One bit of a request's body is not what was sent.
    FlipRequest,
    /// One bit of an object's body is not what was stored. Listings are spared: S3 has no checksum for them.
    FlipAnswer,
}

impl Fault {
    /// Every one.
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

    fn may_befall(self, asked: &Asked) -> bool {
        match self {
            Self::Error
            | Self::SlowDown
            | Self::HangUp
            | Self::HangUpInAnswer
            | Self::Silence
            | Self::SilenceAfter
            | Self::ErrorAfter => true,
            Self::Conflict | Self::LostWin => asked.is_conditional,
            Self::HangUpInRequest | Self::FlipRequest => asked.has_body,
            Self::CutBody => asked.method == "GET",
            Self::StaleListing => asked.is_listing,
            Self::FlipAnswer => asked.method == "GET" && !asked.is_listing,
        }
    }
}

/// What a request is, as far as faults depend on it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) method: String,
    /// Path and query, without what the server or the clock has put there.
    pub(super) target: String,
    /// A write only if nothing is there.
    pub(super) is_conditional: bool,
    pub(super) has_body: bool,
    /// Of objects, or of uploads.
    pub(super) is_listing: bool,
}

/// Which faults, and how often each befalls a request that it may befall.
#[derive(Clone, Debug)]
pub struct Faults {
    seed: u64,
    rates: BTreeMap<Fault, f64>,
    /// Of requests with this method, and this in their path and query.
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
    /// None.
    pub fn none() -> Self {
        Self::default()
    }

    /// Every fault, each of them so often.
    pub fn all(seed: u64, rate: f64) -> Self {
        Fault::ALL
            .into_iter()
            .fold(Self { seed, ..Self::default() }, |f, fault| f.with(fault, rate))
    }

    /// The same, with this one so often.
    pub fn with(mut self, fault: Fault, rate: f64) -> Self {
        self.rates.insert(fault, rate);
        assert!(self.rates.values().sum::<f64>() <= 1.0, "one request meets one fault");
        self
    }

    /// The same, with this one whenever something is asked for the first time, by this method and with these words in
    /// path or query.
    pub fn first(mut self, fault: Fault, method: &'static str, words: &'static str) -> Self {
        self.first = Some((fault, method, words));
        self
    }

    /// A store whose connections break after so much silence: a client's own patience with data lasts for minutes.
    pub fn silent_for(mut self, limit: Duration) -> Self {
        self.silence = limit;
        self
    }

    /// A store that does not know this header of requests. Only unsigned requests can be changed like that.
    pub fn ignoring(mut self, header: &'static str) -> Self {
        self.ignored.push(header);
        self
    }

    /// A store that speaks Google's XML API. Only unsigned requests can be translated.
    pub fn in_google(mut self) -> Self {
        self.google = true;
        self
    }

    /// What befalls a request that was made so many times before, and what more there is to choose for it.
    pub(super) fn draw(&self, asked: &Asked, times: u64) -> Option<(Fault, Random)> {
        let mut random = Random::of(self.seed, &[&asked.method, &asked.target], times);
        if let Some((fault, method, words)) = self.first
            && times == 1
            && asked.method == method
            && asked.target.contains(words)
        {
            return fault.may_befall(asked).then_some((fault, random));
        }
        let drawn = random.unit();
        let mut below = 0.0;
        for (fault, rate) in &self.rates {
            below += rate;
            if drawn < below {
                return fault.may_befall(asked).then_some((*fault, random));
            }
        }
        None
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A stream of its own for every seed.
    pub fn new(seed: u64) -> Self {
        let mut random = Self(seed);
        // Seeds are small numbers: neighbours shall not begin alike.
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

    fn get(target: &str) -> Asked {
        Asked {
            method: "GET".into(),
            target: target.into(),
            is_conditional: false,
            has_body: false,
            is_listing: false,
        }
    }

    #[test]
    fn faults_come_as_often_as_they_should_and_only_where_they_may() {
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
        // 500 expected of each, with a deviation of 22.
        assert!(counts.values().all(|n| (400..600).contains(n)), "{counts:?}");
        assert_eq!(counts.len(), 9, "{counts:?}");
    }

    #[test]
    fn what_befalls_a_request_does_not_depend_on_other_requests() {
        let drawn = |seed| {
            let faults = Faults::all(seed, 0.05);
            (0..200).map(|n| faults.draw(&get("/b/x"), n).map(|(f, _)| f)).collect::<Vec<_>>()
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
    }
}

//! Shares: every epoch trains on the requested mixture, to within a sample.

use std::collections::BTreeMap;

use super::super::{Options, Plan, random};
use super::*;

const EPOCHS: u32 = 5;

fn options(seed: u64) -> Options {
    Options { max_tokens: 256, global_batch: 4, epochs: EPOCHS, max_steps: None, seed }
}

/// Samples with random lengths and random numbers of trained tokens.
fn samples(count: u32, seed: u64) -> Vec<Meta> {
    let sample = |id: u32| {
        let dice = |what: u64| random::mix(seed << 40 ^ u64::from(id) << 8 ^ what) as u32;
        let length = 2 + dice(1) % 255;
        let weight = (1 + dice(2) % (length - 1)) as f32;
        Meta { length, weight, hash: random::mix(u64::from(id) ^ seed << 32) }
    };
    (0..count).map(sample).collect()
}

fn shared(share: f64, samples: u32, holdout: f64) -> Source {
    Source { samples, amount: Amount::Share(share), holdout }
}

/// 40 random mixtures of three sources each.
fn mixtures() -> Vec<([Source; 3], Vec<Meta>)> {
    let mixture = |seed: u64| {
        let dice = |what: u64, sides: u64| random::mix(seed << 8 ^ what) % sides;
        let source = |i: u64| {
            let share = (1 + dice(i, 90)) as f64 / 7.0;
            shared(share, 40 + dice(10 + i, 2000) as u32, 0.05 * dice(20 + i, 3) as f64)
        };
        let sources = [0, 1, 2].map(source);
        let count = sources.iter().map(|source| source.samples).sum();
        (sources, samples(count, seed))
    };
    (0..40).map(mixture).collect()
}

/// The ids of the samples that can be trained on, by source.
fn trainable(plan: &Plan<'_>, sources: &[Source]) -> Vec<Vec<u32>> {
    let is_trained = |id: &u32| plan.held_out().binary_search(id).is_err();
    let of_range = |(range, _): (Range<usize>, &Source)| {
        (range.start as u32..range.end as u32).filter(is_trained).collect()
    };
    ranges(sources).map(of_range).collect()
}

#[test]
fn shares_are_met_to_within_a_sample_in_every_epoch() {
    for (seed, (sources, samples)) in (0..).zip(mixtures()) {
        let plan = Plan::new(&samples, &sources, options(seed)).expect("a plan");
        let ids = trainable(&plan, &sources);
        let weight = |id: u32| f64::from(samples[id as usize].weight);
        let whole = ids.iter().map(|ids| ids.iter().map(|id| weight(*id)).sum::<f64>());
        let share = |source: &Source| match source.amount {
            Amount::Share(share) => share,
            Amount::Repeat(_) => unreachable!("all have shares"),
        };
        let units = whole.zip(&sources).map(|(whole, source)| whole / share(source));
        let unit = units.fold(f64::INFINITY, f64::min);
        for epoch in 0..EPOCHS {
            let seen: Vec<u32> = plan.epoch(epoch).packs.iter().flatten().copied().collect();
            for (source, ids) in sources.iter().zip(&ids) {
                let mine = seen.iter().filter(|id| ids.binary_search(id).is_ok());
                let got: f64 = mine.map(|id| weight(*id)).sum();
                let largest = ids.iter().map(|id| weight(*id)).fold(0.0, f64::max);
                let off = (got - unit * share(source)).abs();
                assert!(off <= largest + 1e-6 * got, "{seed}, epoch {epoch}: off by {off}");
            }
        }
    }
}

#[test]
fn one_source_is_used_completely_and_none_twice() {
    for (seed, (sources, samples)) in (0..).zip(mixtures()) {
        let plan = Plan::new(&samples, &sources, options(seed)).expect("a plan");
        let repeats: Vec<f64> = plan.summary().sources.iter().map(|s| s.repeat).collect();
        assert!(repeats.contains(&1.0) && repeats.iter().all(|r| *r <= 1.0), "{repeats:?}");
        let mut seen = BTreeMap::<u32, u32>::new();
        for epoch in 0..EPOCHS {
            let mut ids: Vec<u32> = plan.epoch(epoch).packs.iter().flatten().copied().collect();
            let all = ids.len();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), all, "{seed}: twice in epoch {epoch}");
            ids.into_iter().for_each(|id| *seen.entry(id).or_default() += 1);
        }
        // Over the epochs, no sample is left out: each epoch uses another part of the other sources.
        for (ids, repeat) in trainable(&plan, &sources).iter().zip(repeats) {
            let expected = repeat * f64::from(EPOCHS);
            let fits = f64::floor(expected - 1e-6) as u32..=f64::ceil(expected + 1e-6) as u32;
            let times = ids.iter().map(|id| seen.get(id).copied().unwrap_or(0));
            let odd: Vec<_> = times.filter(|times| !fits.contains(times)).collect();
            assert!(odd.is_empty(), "{seed}: {expected} times, not {odd:?}");
        }
    }
}

#[test]
fn with_shares_every_epoch_has_the_same_number_of_packs_and_steps() {
    for (seed, (sources, samples)) in (0..).zip(mixtures()) {
        let plan = Plan::new(&samples, &sources, options(seed)).expect("a plan");
        let summary = plan.summary();
        for epoch in (0..EPOCHS).map(|epoch| plan.epoch(epoch)) {
            assert_eq!(epoch.packs.len() as u64, summary.packs_per_epoch);
            let steps = plan.chunks(&epoch).flat_map(|chunk| chunk.steps);
            let weights: Vec<f64> = steps.map(|step| step.weight).collect();
            assert_eq!(weights.len() as u64, summary.steps_per_epoch);
            let (sum, planned): (f64, _) =
                (weights.iter().sum(), summary.epochs[epoch.index as usize].weight);
            // The weights are integers, whose sum is exact.
            assert_eq!(sum, planned);
        }
    }
}

#[test]
fn the_summary_shows_the_repeat_of_each_share() {
    let samples: Vec<Meta> =
        (0..30u32).map(|id| Meta { length: 20, weight: 10.0, hash: u64::from(id) }).collect();
    // The sources have 100 and 200 trained tokens. With shares of 4 to 1, an epoch uses 100 and 25.
    let sources = [shared(4.0, 10, 0.0), shared(1.0, 20, 0.0)];
    let summary = Plan::new(&samples, &sources, options(1)).expect("a plan").summary();
    let [a, b] = summary.sources[..] else { panic!("two sources") };
    assert_eq!((a.samples, a.weight, a.repeat, a.share), (10, 100.0, 1.0, 0.8));
    assert_eq!((b.samples, b.weight, b.repeat, b.share), (20, 200.0, 0.125, 0.2));
    // 25 tokens are 2.5 samples of 10 tokens each: epochs use three, two, three ... samples of the second source.
    assert_eq!(summary.epochs.iter().map(|e| e.samples).collect::<Vec<_>>(), [13, 12, 13, 12, 13]);
}

#[test]
fn a_share_of_an_empty_source_is_refused() {
    let samples = samples(10, 1);
    let sources = [shared(1.0, 10, 0.0), shared(1.0, 0, 0.0)];
    let error = Plan::new(&samples, &sources, options(1)).expect_err("no plan");
    assert_eq!(error, Error::EmptyShare { index: 1 });
    let none = [shared(0.0, 10, 0.0)];
    let error = Plan::new(&samples, &none, options(1)).expect_err("no plan");
    assert!(matches!(error, Error::Option { name: "share", .. }), "{error}");
}

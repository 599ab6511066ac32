//! Properties of whole plans: every sample is used as often as requested, and every machine computes the same plan.

mod excluded;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::*;

fn options() -> Options {
    Options { max_tokens: 256, global_batch: 8, epochs: 3, max_steps: None, seed: 42 }
}

/// Samples with skewed lengths, and some duplicate contents.
fn samples(count: u32, seed: u64) -> Vec<Meta> {
    let sample = |id: u32| {
        let dice = |what: u64| random::mix(seed << 40 ^ u64::from(id) << 8 ^ what) as u32;
        // The product of two random numbers yields many short samples and few long ones.
        let length = 1 + (dice(1) % 256) * (dice(2) % 256) / 256;
        let content = if id % 10 == 9 { id - 1 } else { id };
        Meta {
            length,
            weight: 0.5 + (dice(3) % 8) as f32,
            hash: random::mix(seed ^ u64::from(content) << 20),
        }
    };
    (0..count).map(sample).collect()
}

fn source(samples: u32) -> Source {
    Source { samples, amount: Amount::Repeat(1.0), holdout: 0.0 }
}

fn repeated(repeat: f64, samples: u32) -> Source {
    Source { amount: Amount::Repeat(repeat), ..source(samples) }
}

/// How often each sample occurs in an epoch.
fn seen(plan: &Plan<'_>, epoch: u32) -> BTreeMap<u32, u32> {
    let mut seen = BTreeMap::new();
    for &id in plan.epoch(epoch).packs.iter().flatten() {
        *seen.entry(id).or_default() += 1;
    }
    seen
}

#[test]
fn every_sample_is_trained_once_an_epoch_or_held_out() {
    for seed in 0..20 {
        let samples = samples(500 + seed as u32 * 37, seed);
        let sources = [Source { holdout: 0.1, ..source(200) }, source(samples.len() as u32 - 200)];
        let options = Options { seed, ..options() };
        let plan = Plan::new(&samples, &sources, options).expect("a plan");
        let held: BTreeSet<u32> = plan.held_out().iter().copied().collect();
        for epoch in 0..3 {
            let seen = seen(&plan, epoch);
            assert!(seen.values().all(|&times| times == 1));
            assert!(seen.keys().all(|id| !held.contains(id)));
            assert_eq!(seen.len() + held.len(), samples.len());
        }
        let evaluated: BTreeSet<u32> = plan.evaluation().iter().flatten().copied().collect();
        assert_eq!(evaluated, held);
    }
}

#[test]
fn no_pack_is_too_long_and_all_steps_have_about_the_same_size() {
    for seed in 0..20 {
        let samples = samples(300 + 91 * seed as u32, seed);
        let sources = [repeated(0.3 + 0.1 * seed as f64, samples.len() as u32)];
        let options = Options { seed, ..options() };
        let plan = Plan::new(&samples, &sources, options).expect("a plan");
        let packs = plan.epoch(0).packs.len();
        let steps = packs.div_ceil(8);
        assert_eq!(plan.steps_per_epoch(), steps as u64);
        for epoch in (0..3).map(|epoch| plan.epoch(epoch)) {
            assert_eq!(epoch.packs.len(), packs, "equally many in every epoch");
            for pack in epoch.packs.iter() {
                let tokens: u32 = pack.iter().map(|&id| samples[id as usize].length).sum();
                assert!((1..=256).contains(&tokens));
            }
            let mut next = 0;
            for step in 0..steps as u64 {
                let range = plan.step_packs(&epoch, step);
                assert_eq!(range.start, next);
                assert!(range.len() == packs / steps || range.len() == packs.div_ceil(steps));
                next = range.end;
            }
            assert_eq!(next, packs);
        }
    }
}

#[test]
fn a_repeat_of_one_half_uses_the_two_halves_in_turn() {
    let samples = samples(401, 1);
    let sources = [repeated(0.5, 101), repeated(2.0, 100), source(200)];
    let plan = Plan::new(&samples, &sources, Options { epochs: 4, ..options() }).expect("a plan");
    let epochs: Vec<_> = (0..4).map(|epoch| seen(&plan, epoch)).collect();
    let first =
        |epoch: usize| epochs[epoch].range(..101).map(|(id, _)| *id).collect::<BTreeSet<_>>();
    assert_eq!(first(0).len(), 50);
    assert_eq!(first(1).len(), 51);
    // Two epochs use 50 and 51 of the 101 samples: all of them, each once.
    assert_eq!(first(0).union(&first(1)).count(), 101);
    assert_eq!(first(2).union(&first(3)).count(), 101);
    for epoch in &epochs {
        assert!(
            epoch.range(101..201).count() == 100 && epoch.range(101..201).all(|(_, &n)| n == 2)
        );
        assert!(epoch.range(201..).count() == 200 && epoch.range(201..).all(|(_, &n)| n == 1));
    }
}

#[test]
fn over_the_epochs_a_fractional_repeat_uses_all_samples_equally_often() {
    for (repeat, times) in [(0.3, 3), (1.7, 17), (0.1, 1), (2.5, 25)] {
        let samples = samples(137, 5);
        let sources = [repeated(repeat, 137)];
        let options = Options { epochs: 10, global_batch: 1, ..options() };
        let plan = Plan::new(&samples, &sources, options).expect("a plan");
        let mut total: BTreeMap<u32, u32> = BTreeMap::new();
        for epoch in 0..10 {
            let seen = seen(&plan, epoch);
            let bounds = repeat.floor() as u32..=repeat.ceil() as u32;
            assert!(seen.values().all(|times| bounds.contains(times)));
            seen.into_iter().for_each(|(id, times)| *total.entry(id).or_default() += times);
        }
        assert!(total.len() == 137 && total.values().all(|&n| n == times), "{repeat}");
    }
}

#[test]
fn epochs_do_not_depend_on_the_order_of_calls() {
    let samples = samples(1000, 2);
    let sources = [source(1000)];
    let plan = Plan::new(&samples, &sources, options()).expect("a plan");
    let forward: Vec<Epoch> = (0..3).map(|epoch| plan.epoch(epoch)).collect();
    let again = Plan::new(&samples, &sources, options()).expect("a plan");
    let backward: Vec<Epoch> = (0..3).rev().map(|epoch| again.epoch(epoch)).collect();
    assert!(forward.iter().eq(backward.iter().rev()));
}

#[test]
fn seed_and_epoch_change_order_and_neighbours_but_not_which_lengths_share_a_pack() {
    let samples = samples(1000, 2);
    let sources = [source(1000)];
    let plan = Plan::new(&samples, &sources, options()).expect("a plan");
    let seeded = Options { seed: 7, ..options() };
    let seeded = Plan::new(&samples, &sources, seeded).expect("a plan");
    let (a, b, c) = (plan.epoch(0).packs, plan.epoch(1).packs, seeded.epoch(0).packs);
    assert!(a != b && a != c);
    let neighbours = |packs: &Packs| packs.iter().map(<[u32]>::to_vec).collect::<BTreeSet<_>>();
    assert!(neighbours(&a).intersection(&neighbours(&b)).count() < a.len() / 2);
    let lengths = |packs: &Packs| {
        let of = |pack: &[u32]| pack.iter().map(|&id| samples[id as usize].length).collect();
        let mut lengths: Vec<Vec<u32>> = packs.iter().map(of).collect();
        lengths.sort();
        lengths
    };
    assert!(lengths(&a) == lengths(&b) && lengths(&a) == lengths(&c));
}

#[test]
fn held_out_are_the_smallest_hashes_and_equal_contents_stay_together() {
    for seed in 0..10 {
        let mut samples = samples(1000, seed);
        // Ten contents of the first source also occur in the second.
        for id in 0..10 {
            samples[900 + id].hash = samples[id * 7].hash;
        }
        let sources = [Source { holdout: 0.2, ..source(900) }, source(100)];
        let plan = Plan::new(&samples, &sources, options()).expect("a plan");
        let is_held = |id: &usize| plan.held_out().contains(&(*id as u32));
        let hashes = |held: bool, ids: Range<usize>| -> BTreeSet<u64> {
            ids.filter(|id| is_held(id) == held).map(|id| samples[id].hash).collect()
        };
        let (held, trained) = (hashes(true, 0..900), hashes(false, 0..900));
        // One content in ten occurs twice, so there are 810 distinct ones, and 0.2 of them is 162.
        assert_eq!((held.len(), trained.len()), (162, 648));
        assert!(held.last() < trained.first());
        assert!(held.is_disjoint(&hashes(false, 0..1000)), "trained from the other source");
    }
}

#[test]
fn the_held_out_set_hardly_changes_as_data_grows() {
    let samples = samples(4000, 3);
    let held = |count: u32| -> BTreeSet<u32> {
        let sources = [Source { holdout: 0.05, ..source(count) }];
        let plan = Plan::new(&samples[..count as usize], &sources, options()).expect("a plan");
        plan.held_out().iter().copied().collect()
    };
    let (old, new) = (held(2000), held(4000));
    let still_held = old.intersection(&new).count();
    assert!(still_held * 100 >= old.len() * 85, "{still_held} of {}", old.len());
    let were_trained = new.iter().filter(|&&id| id < 2000 && !old.contains(&id)).count();
    assert!(were_trained * 100 <= old.len() * 15, "{were_trained} of {}", old.len());
}

#[test]
fn a_small_share_holds_out_one_of_two_contents_and_nothing_of_one() {
    let mut samples = samples(3, 3);
    samples[1].hash = samples[0].hash;
    let held = |count: u32| {
        let sources = [Source { holdout: 0.01, ..source(count) }];
        let plan = Plan::new(&samples[..count as usize], &sources, options()).expect("a plan");
        plan.held_out().len()
    };
    assert_eq!(held(2), 0);
    assert!((1..=2).contains(&held(3)));
}

#[test]
fn steps_have_exact_weights_and_chunks_contain_all_steps() {
    let samples = samples(20_000, 4);
    let sources = [source(20_000)];
    let options = Options { global_batch: 2, max_steps: Some(3000), ..options() };
    let plan = Plan::new(&samples, &sources, options).expect("a plan");
    let summary = plan.summary();
    assert!(summary.steps_per_epoch > 1000 && summary.steps_per_epoch < 3000, "{summary:?}");
    assert_eq!((plan.steps(), plan.epochs()), (3000, 2));
    let mut next = 0;
    for index in 0..plan.epochs() {
        let epoch = plan.epoch(index);
        let (mut weight, mut consumed) = (0.0, Consumed::default());
        for chunk in plan.chunks(&epoch) {
            assert_eq!(chunk.first_step, next);
            assert!(chunk.steps.len() as u64 <= summary.steps_per_chunk);
            for step in &chunk.steps {
                let expected: f64 =
                    step.samples().map(|id| f64::from(samples[id as usize].weight)).sum();
                assert_eq!(step.weight, expected);
                weight += step.weight;
                step.packs.iter().for_each(|pack| consumed.add_all(index, &pack.samples));
                next += 1;
            }
            assert_eq!(Chunk::decode(&chunk.encode()), Ok(chunk));
        }
        if index == 0 {
            // The weights are multiples of 0.5, whose sum is exact.
            assert_eq!(weight, summary.epochs[0].weight);
            assert_eq!(consumed.samples, 20_000);
        }
    }
    assert_eq!(next, 3000);
}

#[test]
fn any_world_size_trains_on_the_same_samples() {
    let samples = samples(2000, 6);
    let sources = [source(2000)];
    let plan = Plan::new(&samples, &sources, options()).expect("a plan");
    let epoch = plan.epoch(1);
    let of_world = |world_size: usize| {
        let mut ranks = vec![Consumed::default(); world_size];
        for step in plan.chunks(&epoch).flat_map(|chunk| chunk.steps) {
            let costs: Vec<u64> = step.packs.iter().map(|pack| pack.cost(1000, 1)).collect();
            for (rank, packs) in share(&costs, world_size).into_iter().enumerate() {
                let packs = packs.iter().map(|&pack| &step.packs[pack].samples);
                packs.for_each(|samples| ranks[rank].add_all(1, samples));
            }
        }
        let mut all = Consumed::default();
        ranks.into_iter().for_each(|rank| all.merge(rank));
        all
    };
    let mut planned = Consumed::default();
    (0..2000).for_each(|id| planned.add(1, id));
    for world_size in [1, 2, 3, 8, 11] {
        assert_eq!(of_world(world_size), planned, "{world_size}");
    }
}

/// The number of packs of first fit, over samples in this order.
fn first_fit(lengths: &[u32], capacity: u32) -> usize {
    let mut packs: Vec<u32> = Vec::new();
    for &length in lengths {
        match packs.iter_mut().find(|pack| **pack + length <= capacity) {
            Some(pack) => *pack += length,
            None => packs.push(length),
        }
    }
    packs.len()
}

/// The number of packs of best fit, computed by looking at every pack.
fn slow_best_fit(lengths: &[u32], capacity: u32) -> usize {
    let mut packs: Vec<u32> = Vec::new();
    for &length in lengths {
        let fitting = packs.iter_mut().filter(|pack| **pack + length <= capacity);
        match fitting.max_by_key(|pack| **pack) {
            Some(pack) => *pack += length,
            None => packs.push(length),
        }
    }
    packs.len()
}

fn next_fit(lengths: &[u32], capacity: u32) -> usize {
    let (mut packs, mut space) = (0, 0);
    for &length in lengths {
        if length > space {
            (packs, space) = (packs + 1, capacity);
        }
        space -= length;
    }
    packs
}

fn best_fit_packs(lengths: &[u32], capacity: u32) -> usize {
    let order = pack::Order { random: None, packs: 0 };
    let ids = (0..lengths.len() as u32).collect();
    let packs = pack::best_fit(ids, |id| lengths[id as usize], capacity, order).len();
    let mut by_length = vec![0; capacity as usize + 1];
    lengths.iter().for_each(|&length| by_length[length as usize] += 1);
    assert_eq!(pack::count(&by_length) as usize, packs, "counted without ids");
    packs
}

/// Checks that our packing equals best fit decreasing and is no worse than the simpler algorithms. Returns the
/// densities of next fit, first fit and best fit decreasing.
fn compare(lengths: &[u32], capacity: u32) -> [f64; 3] {
    let best = best_fit_packs(lengths, capacity);
    let mut sorted = lengths.to_vec();
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!(best, slow_best_fit(&sorted, capacity));
    assert!(best <= first_fit(&sorted, capacity), "first fit decreasing");
    let others = [next_fit(lengths, capacity), first_fit(lengths, capacity)];
    assert!(others.iter().all(|&packs| best <= packs));
    let tokens: u64 = lengths.iter().map(|&length| u64::from(length)).sum();
    let density = |packs: usize| tokens as f64 / (packs as f64 * f64::from(capacity));
    [density(others[0]), density(others[1]), density(best)]
}

#[test]
fn packs_are_as_dense_as_first_fit_decreasing_on_random_lengths() {
    for seed in 0..30 {
        let lengths: Vec<u32> = samples(1500, seed).iter().map(|sample| sample.length).collect();
        for capacity in [256, 257, 400, 1024] {
            compare(&lengths, capacity);
        }
    }
}

#[test]
fn packs_of_real_instructions_are_denser_than_next_fit() {
    let Ok(folder) = std::env::var("MUSTER_TEST_DATA") else {
        println!("skipped: MUSTER_TEST_DATA is not set");
        return;
    };
    let path = Path::new(&folder).join("data/alpaca_en_demo.json");
    let text = std::fs::read_to_string(path).expect("the Alpaca demonstration set");
    let records: Vec<BTreeMap<String, String>> = serde_json::from_str(&text).expect("records");
    // A token has about four bytes, and a template adds about thirty tokens.
    let length = |record: &BTreeMap<String, String>| {
        let bytes: usize = record.values().map(String::len).sum();
        (bytes / 4 + 30).min(1024) as u32
    };
    let lengths: Vec<u32> = records.iter().map(length).collect();
    for capacity in [1024, 2048] {
        let [next, first, best] = compare(&lengths, capacity);
        println!(
            "{capacity}: next fit {next:.4}, first fit {first:.4}, best fit decreasing {best:.4}"
        );
        assert!(best > 0.98 && best > next + 0.05, "{next} {first} {best}");
    }
}

#[test]
fn what_cannot_be_planned_is_refused() {
    let samples = samples(20, 1);
    let plan = |sources: &[Source], options: Options| {
        Plan::new(&samples, sources, options).map(|plan| plan.steps()).expect_err("no plan")
    };
    let error = plan(&[source(19)], options());
    assert!(matches!(error, Error::Sources { expected: 19, found: 20 }));
    let short = Options { max_tokens: 10, ..options() };
    assert!(matches!(plan(&[source(20)], short), Error::Sample { max_tokens: 10, .. }));
    let none = Options { global_batch: 0, ..options() };
    assert!(matches!(plan(&[source(20)], none), Error::Option { name: "global_batch", .. }));
    let rare = repeated(0.01, 20);
    assert!(matches!(plan(&[rare], options()), Error::Nothing { samples: 20 }));
    let rare = repeated(0.04, 20);
    assert!(matches!(plan(&[rare], options()), Error::EpochTooSmall { epoch: 0, samples: 0, .. }));
    assert!(matches!(Plan::new(&[], &[], options()), Err(Error::Nothing { samples: 0 })));
}

#[test]
fn plans_of_this_version_do_not_change() {
    // These digests may only change together with `VERSION`: a run that is resumed by another build must find the
    // same steps.
    let samples = samples(1000, 9);
    let sources = [Source { holdout: 0.1, ..repeated(0.7, 500) }, source(500)];
    let plan = Plan::new(&samples, &sources, options()).expect("a plan");
    let digest = |epoch: u32| {
        let epoch = plan.epoch(epoch);
        let bytes: Vec<u8> = plan.chunks(&epoch).flat_map(|chunk| chunk.encode()).collect();
        xxhash_rust::xxh3::xxh3_64(&bytes)
    };
    assert_eq!(
        (VERSION, digest(0), digest(1)),
        (1, 5_889_094_649_600_459_573, 18_443_053_765_566_994_688)
    );
}

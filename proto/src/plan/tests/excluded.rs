//! Excluded samples are in no step, and do not change which samples are held out.

use super::*;

fn excluded(samples: u32, every: u32) -> Vec<u32> {
    (0..samples).filter(|id| id % every == 3).collect()
}

#[test]
fn excluded_samples_are_neither_trained_nor_evaluated_and_all_others_are() {
    let samples = samples(1000, 3);
    let sources = [Source { holdout: 0.1, ..source(400) }, source(600)];
    let whole = Plan::new(&samples, &sources, options()).expect("a plan");
    for every in [4, 7, 50] {
        let excluded = excluded(1000, every);
        let plan = Plan::without(&excluded, &samples, &sources, options()).expect("a plan");
        let is_excluded = |id: &u32| excluded.binary_search(id).is_ok();
        let held: Vec<u32> =
            whole.held_out().iter().copied().filter(|id| !is_excluded(id)).collect();
        assert_eq!(plan.held_out(), held);
        let trained = seen(&plan, 0);
        let expected: Vec<u32> = (0..1000)
            .filter(|id| !is_excluded(id) && whole.held_out().binary_search(id).is_err())
            .collect();
        assert!(trained.keys().eq(&expected) && trained.values().all(|&times| times == 1));
        assert_eq!(plan.summary().epochs[0].samples, expected.len() as u64);
    }
}

#[test]
fn a_repeat_applies_to_the_samples_that_are_left() {
    let samples = samples(100, 5);
    let sources = [repeated(0.5, 100)];
    let excluded = excluded(100, 5);
    let plan = Plan::without(&excluded, &samples, &sources, options()).expect("a plan");
    let (first, second) = (seen(&plan, 0), seen(&plan, 1));
    assert_eq!((first.len(), second.len()), (40, 40));
    let both: BTreeSet<u32> = first.keys().chain(second.keys()).copied().collect();
    assert_eq!(both.len(), 80, "one half was used twice");
    assert!(excluded.iter().all(|id| !both.contains(id)));
}

#[test]
fn excluding_nothing_plans_the_same_and_excluding_all_is_refused() {
    let samples = samples(300, 8);
    let sources = [Source { holdout: 0.1, ..source(300) }];
    let new = Plan::new(&samples, &sources, options()).expect("a plan");
    let without = Plan::without(&[], &samples, &sources, options()).expect("a plan");
    assert_eq!((new.epoch(1), new.held_out()), (without.epoch(1), without.held_out()));
    let all: Vec<u32> = (0..300).collect();
    let error = Plan::without(&all, &samples, &sources, options()).map(|plan| plan.steps());
    assert!(matches!(error, Err(Error::Nothing { samples: 300 })), "{error:?}");
}

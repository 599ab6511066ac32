//! The keys of `data.quality`.

use super::*;

fn quality(keys: &str) -> String {
    format!("model: {{base: m}}\ndata: {{train: [{{source: a}}], quality: {{{keys}}}}}\n")
}

#[test]
fn everything_is_reported_and_nothing_filtered_unless_the_spec_says_so() {
    let quality = valid(LEAST).data().quality.clone();
    let checks = [
        quality.duplicates,
        quality.near_duplicates,
        quality.contradictions,
        quality.loops,
        quality.incomplete,
        quality.contamination,
    ];
    assert_eq!(checks, [Check::Report; 6]);
    assert_eq!((quality.similarity, quality.benchmarks.len()), (0.8, 0));
}

#[test]
fn checks_that_contradict_themselves_are_refused() {
    for (keys, wanted) in [
        ("duplicates: drop", "`data.quality.duplicates` must be `off`, `report` or `filter`"),
        ("similarity: 0.4", "`data.quality.similarity` must be a number from 0.5 to 1, got 0.4"),
        (
            "contamination: off, benchmarks: [{source: b}]",
            "`data.quality.benchmarks` has no effect, because `contamination` is `off`",
        ),
        (
            "benchmarks: [{source: b, repeat: 2}]",
            "`data.quality.benchmarks[0]` has a `repeat` or `share`, but is never trained",
        ),
    ] {
        let error = problems(&quality(keys));
        assert!(error[0].starts_with(wanted), "{error:?}");
    }
}

#[test]
fn benchmarks_are_checked_like_other_sources() {
    let error = problems(&quality("benchmarks: [{source: 'hf://a/b'}]"));
    assert_eq!(error[0], "`data.quality.benchmarks[0].source` names a model: `hf://a/b`");
}

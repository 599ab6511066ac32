//! The checks of the data, as they are written.

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
            "`data.quality.benchmarks` names sources that nothing is compared with",
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
fn benchmarks_are_held_to_what_is_implemented_like_other_sources() {
    let spec = valid(&quality("benchmarks: [{source: 's3://b/x.jsonl'}]"));
    let error = spec.unsupported().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("`data.quality.benchmarks[0].source`"), "{error}");
}

//! Skipped steps, which are in the receipt once, and only while they belong to the lineage.

use super::*;

fn incident(step: u64) -> [Command; 3] {
    let message =
        format!("step {step} was skipped, its gradient was not finite: a.jsonl, line {step}");
    [
        journal([Fact::Skipped(skipped_step(step))]),
        notify(Notice::Incident { worker: None, message }),
        receipt(&[step]),
    ]
}

#[test]
fn a_skipped_step_is_recorded_once_however_often_it_is_reported() {
    let mut b = Bench::training();
    assert_eq!(b.report(2, skipped(1, 2)), incident(2));
    assert_eq!(b.report(1, skipped(1, 2)), [], "the other rank names the same samples");
    assert_eq!(b.report(2, skipped(1, 2)), [], "reports are resent on every new stream");
    assert_eq!(b.report(1, skipped(2, 3)), [], "it is from another generation");
    assert_eq!(b.report(1, skipped(1, 3)).last(), Some(&receipt(&[2, 3])));
}

#[test]
fn a_checkpoint_knows_what_was_skipped_before_it() {
    let mut b = Bench::training();
    for step in [1, 2, 3] {
        b.report(1, skipped(1, step));
    }
    b.part(1, 1, 2);
    assert_eq!(b.part(2, 1, 2), [seal_with(1, 2, &[1, 2])]);
}

#[test]
fn a_skipped_step_that_is_repeated_leaves_the_receipt() {
    let mut b = Bench::checkpointed(2);
    for step in [1, 2, 3] {
        b.report(1, skipped(1, step));
    }
    b.report(1, trouble(1, Cause::Peer));
    b.report(1, loaded());
    let out = b.report(2, loaded());
    assert!(out.contains(&receipt(&[1, 2])), "step 3 is to be repeated: {out:?}");
    assert_eq!(
        b.report(1, skipped(2, 4)).last(),
        Some(&receipt(&[1, 2, 4])),
        "3 is not skipped now"
    );
}

#[test]
fn skipped_steps_outlive_a_coordinator() {
    let lines = |number, step| generation(number, step, &[1, 2]).0;
    let history = vec![
        Fact::Submitted { spec_yaml: "spec".into() },
        Fact::Prepared { fingerprint: "f".into() },
        Fact::Planned { digest: "d".into(), steps: 4 },
        lines(1, 0),
        Fact::Skipped(skipped_step(1)),
        checkpointed(1, 1),
        Fact::Skipped(skipped_step(2)),
        lines(2, 1),
        Fact::Skipped(skipped_step(3)),
    ];
    let (mut b, out) = Bench::adopted(history, false);
    assert_eq!(out, [journal([Fact::Claimed { epoch: EPOCH, holder: None }]), receipt(&[1, 3])]);
    b.report(1, hello_from(1, 2, 3));
    b.report(2, hello_from(2, 2, 3));
    assert_eq!(b.report(1, skipped(2, 3)), [], "it is in the history");
    b.part(1, 2, 3);
    assert_eq!(b.part(2, 2, 3), [seal_with(2, 3, &[1, 3])]);
}

//! A coordinator that replays journals goes on like the one that wrote them.

use super::*;

/// The history of a run in generation 1 with a checkpoint after step 2, followed by `then`.
pub(super) fn history(then: &[Fact]) -> Vec<Fact> {
    let before = [
        Fact::Submitted { spec_yaml: "spec".into() },
        Fact::Claimed { epoch: Epoch(6), holder: None },
        Fact::Prepared { fingerprint: "f".into() },
        Fact::Planned { digest: "d".into(), steps: 4 },
        based(),
        generation(1, 0, &[1, 2]).0,
        checkpointed(1, 2),
    ];
    [&before, then].concat()
}

fn claim() -> Command {
    journal([Fact::Claimed { epoch: EPOCH, holder: None }])
}

#[test]
fn a_generation_whose_members_all_come_back_goes_on() {
    let (mut b, out) = Bench::adopted(history(&[]), false);
    assert_eq!(out, [claim()]);
    assert_eq!(b.report(1, hello_from(1, 1, 3)), [], "no directive until all are back");
    let duty = |rank| Duty::Train(train(1, &[1, 2], rank, None));
    assert_eq!(b.report(2, hello_from(2, 1, 3)), [direct(1, duty(0)), direct(2, duty(1))]);
    b.report(1, step_done(1, 1, 3));
    assert_eq!(b.report(2, step_done(2, 1, 3)).len(), 1);
}

#[test]
fn reports_of_the_first_member_to_come_back_count_before_the_last_is_back() {
    let (mut b, _) = Bench::adopted(history(&[]), false);
    b.report(1, hello_from(1, 1, 4));
    assert_eq!(b.part(1, 1, 4), []);
    assert_eq!(b.report(1, stopped(1, 4)), []);
    b.report(2, hello_from(2, 1, 4));
    assert_eq!(b.part(2, 1, 4), [seal(1, 4)]);
    b.report(2, stopped(1, 4));
    b.handle(sealed(1, 4));
    assert_eq!(b.phase(), "finishing");
}

#[test]
fn the_run_regroups_without_a_member_that_is_missing_after_the_grace() {
    let (mut b, _) = Bench::adopted(history(&[]), false);
    b.report(1, hello_from(1, 1, 3));
    b.report(3, hello(3));
    assert_eq!(b.pass(14_900, &[1, 3]), []);
    let expected = [
        waiting("waiting: 0 of 2 workers, 2 loading"),
        direct(1, Duty::Load(load())),
        direct(3, Duty::Load(load())),
    ];
    assert_eq!(b.pass(100, &[1, 3]), expected);
    b.report(1, loaded());
    assert_eq!(b.report(3, loaded())[0], journal([generation(2, 2, &[1, 3]).0]));
}

#[test]
fn a_member_of_another_generation_is_not_back() {
    let (mut b, _) = Bench::adopted(history(&[generation(2, 2, &[1, 2]).0]), false);
    b.report(1, hello_from(1, 1, 3));
    assert_eq!(b.report(2, hello_from(2, 2, 3)), []);
    assert_eq!(b.phase(), "gathering");
}

#[test]
fn the_grace_for_coming_back_forgives_the_coordinators_own_pause() {
    let (mut b, _) = Bench::adopted(history(&[]), false);
    b.report(1, hello_from(1, 1, 3));
    b.pass(10_000, &[1]);
    b.now += Duration::from_secs(60);
    assert_eq!(b.report(1, beats()), []);
    assert_ne!(b.report(2, hello_from(2, 1, 3)), []);
    assert_eq!(b.phase(), "training");
}

#[test]
fn stopped_and_failed_runs_go_on_only_when_they_are_resumed() {
    let failed = Fact::Failed { kind: Failure::Data, message: "broken".into() };
    for (end, phase) in [(Fact::Paused { step: 2 }, "paused"), (failed, "failed")] {
        let (b, out) = Bench::adopted(history(std::slice::from_ref(&end)), false);
        assert_eq!((b.phase(), out), (phase, vec![]));
        let (mut b, out) = Bench::adopted(history(&[end]), true);
        assert_eq!(out, [claim(), waiting("waiting: 0 of 2 workers")]);
        b.report(1, hello(1));
        b.report(2, hello(2));
        b.report(1, loaded());
        assert_eq!(b.report(2, loaded())[0], journal([generation(2, 2, &[1, 2]).0]));
    }
}

#[test]
fn succeeded_and_cancelled_runs_do_not_go_on_when_they_are_adopted() {
    let succeeded = Fact::Succeeded { model: "model".into() };
    for (end, phase) in [(succeeded, "succeeded"), (Fact::Cancelled, "cancelled")] {
        let (b, out) = Bench::adopted(history(&[end]), true);
        assert_eq!((b.phase(), out), (phase, vec![]));
    }
}

#[test]
fn a_run_without_a_plan_begins_with_its_survey() {
    let (_, out) = Bench::adopted(history(&[])[..3].to_vec(), false);
    assert_eq!(out, [claim(), Command::Survey { run: run() }]);
}

#[test]
fn a_key_is_known_after_a_restart() {
    let mut b = Bench::new();
    b.core.adopt(b.now, past(settings(), history(&[])), Some("key".into()), false);
    assert_eq!(b.handle(submission(1, "another", "key")), [answer(1, "r")]);
}

#[test]
fn the_newest_checkpoint_is_that_of_the_latest_step_in_whatever_order_they_were_committed() {
    let (b, _) = Bench::adopted(history(&[checkpointed(1, 4), checkpointed(1, 3)]), false);
    assert_eq!(b.core.status(&run()).and_then(|s| s.checkpoint_step), Some(4));
}

#[test]
fn a_stop_that_the_restarted_coordinator_does_not_know_of_ends_the_membership_only() {
    let (mut b, _) = Bench::adopted(history(&[]), false);
    b.report(1, hello_from(1, 1, 3));
    b.report(2, hello_from(2, 1, 3));
    b.report(1, stopped(1, 3));
    b.report(2, stopped(1, 3));
    b.checkpoint(1, 3);
    assert_eq!(b.phase(), "gathering");
}

#[test]
fn a_resumed_run_stays_resumed_after_a_restart() {
    let resumed = [Fact::Paused { step: 2 }, Fact::Claimed { epoch: Epoch(6), holder: None }];
    let (b, out) = Bench::adopted(history(&resumed), false);
    assert_eq!((b.phase(), out), ("gathering", vec![claim()]));
}

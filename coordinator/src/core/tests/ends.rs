//! Ends of runs other than success: paused, cancelled, failed.

use super::*;

#[test]
fn a_stop_drains_with_a_checkpoint() {
    let mut b = Bench::training();
    let stop = |rank| Duty::Train(Train { stop: true, ..train(1, &[1, 2], rank, None) });
    assert_eq!(b.handle(Event::Close), [direct(1, stop(0)), direct(2, stop(1))]);
    assert_eq!(b.report(1, stopped(1, 2)), []);
    assert_eq!(b.report(2, stopped(1, 2)), []);
    assert_eq!(b.part(1, 1, 2), []);
    assert_eq!(b.part(2, 1, 2), [seal(1, 2)]);
    let reason = "the coordinator is closing".to_owned();
    let dismissed = Duty::Dismissed { reason, why: Dismissal::Closing };
    let expected = [
        journal([checkpointed(1, 2)]),
        checkpoint_notice(1, 2),
        retain(1, &[2], None),
        journal([Fact::Paused { step: 2 }]),
        notify(Notice::Paused { step: 2 }),
        direct(1, dismissed.clone()),
        direct(2, dismissed),
    ];
    assert_eq!(b.handle(sealed(1, 2)), expected);
}

#[test]
fn a_stop_in_the_last_step_still_publishes_the_model() {
    let mut b = Bench::training();
    b.handle(Event::Close);
    b.report(1, stopped(1, 4));
    b.report(2, stopped(1, 4));
    b.checkpoint(1, 4);
    assert_eq!(b.phase(), "finishing");
}

#[test]
fn a_death_while_stopping_pauses_at_the_last_checkpoint() {
    let mut b = Bench::checkpointed(2);
    b.handle(Event::Close);
    b.replace(2, 3);
    assert_eq!(b.phase(), "paused");
}

#[test]
fn a_stop_outside_training_pauses_at_once() {
    let mut b = Bench::planned();
    b.handle(Event::Close);
    assert_eq!(b.phase(), "paused");
}

/// A bench in each phase that a run can be in, by name.
fn every_phase() -> Vec<(&'static str, Bench)> {
    let mut listed = Bench::new();
    listed.handle(submission(8, "first", "another key"));
    listed.submit();
    listed.report(1, hello(1));
    let survey = Survey { fingerprint: "f".into(), shards: vec![shard(0)], cached: false };
    listed.handle(Event::Surveyed { run: RunId::new("first"), outcome: Ok(survey) });
    listed.handle(surveyed(1));
    let mut surveying = Bench::new();
    surveying.submit();
    let mut sharding = Bench::new();
    sharding.submit();
    sharding.handle(surveyed(1));
    let mut planning = Bench::new();
    planning.report(1, hello(1));
    planning.submit();
    planning.handle(surveyed(1));
    planning.report(1, prepared(0));
    let mut publishing = Bench::checkpointed(4);
    publishing.report(1, stopped(1, 4));
    publishing.report(2, stopped(1, 4));
    let mut paused = Bench::planned();
    paused.handle(Event::Close);
    let (reattaching, _) = Bench::adopted(super::replay::history(&[]), false);
    vec![
        ("queued", listed),
        ("preparing", surveying),
        ("preparing", sharding),
        ("preparing", planning),
        ("gathering", Bench::planned()),
        ("gathering", reattaching),
        ("training", Bench::training()),
        ("finishing", publishing),
        ("paused", paused),
    ]
}

#[test]
fn a_cancellation_is_honoured_in_every_phase_and_durable_before_it_is_answered() {
    for (phase, mut b) in every_phase() {
        assert_eq!(b.phase(), phase);
        let out = b.handle(Event::Cancel { ticket: Ticket(9), run: run(), by: None });
        let expected = [journal([Fact::Cancelled]), notify(Notice::Cancelled), answer(9, "r")];
        assert_eq!(out[..3], expected, "{phase}");
        assert_eq!(b.phase(), "cancelled");
        // Results of work that was under way change nothing.
        for event in [surveyed(1), planned(), sealed(1, 4), published()] {
            assert_eq!(b.handle(event), [], "{phase}");
        }
    }
}

#[test]
fn a_failed_run_is_not_cancelled() {
    let mut b = Bench::training();
    b.report(1, trouble(1, Cause::Data));
    b.report(2, trouble(1, Cause::Data));
    let out = b.handle(Event::Cancel { ticket: Ticket(9), run: run(), by: None });
    assert_eq!(out, [answer(9, "r")]);
    assert_eq!(b.phase(), "failed");
}

#[test]
fn a_cancellation_of_an_unknown_run_is_an_error() {
    let answer = Err("there is no run `r`".into());
    let out = Bench::new().handle(Event::Cancel { ticket: Ticket(9), run: run(), by: None });
    assert_eq!(out, [Command::Answer { ticket: Ticket(9), answer }]);
}

#[test]
fn trouble_of_an_older_generation_is_ignored() {
    let mut b = Bench::training();
    b.report(1, trouble(1, Cause::Peer));
    b.report(1, loaded());
    b.report(2, loaded());
    for cause in [Cause::Data, Cause::Model, Cause::Peer, Cause::Internal, Cause::Storage] {
        assert_eq!(b.report(2, trouble(1, cause)), [], "{cause:?}");
    }
    assert_eq!(b.phase(), "training");
}

#[test]
fn a_failed_survey_or_plan_fails_the_run() {
    let fault = Fault { kind: Failure::Data, message: "no such file".into() };
    let mut b = Bench::new();
    b.submit();
    b.handle(Event::Surveyed { run: run(), outcome: Err(fault.clone()) });
    assert_eq!(b.phase(), "failed");
    let mut b = Bench::new();
    b.report(1, hello(1));
    b.submit();
    b.handle(surveyed(1));
    b.report(1, prepared(0));
    b.handle(Event::Planned { run: run(), outcome: Err(fault) });
    assert_eq!(b.phase(), "failed");
}

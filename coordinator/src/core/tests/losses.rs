//! Workers that die, fall silent, reconnect, are replaced, or have to leave.

use super::*;

const DEATH: &str = "worker w2 (rank 1) was lost after step 0: its connection closed";

#[test]
fn a_reconnect_within_the_grace_changes_nothing() {
    let mut b = Bench::training();
    assert_eq!(b.handle(Event::Hangup { stream: Stream(2) }), []);
    assert_eq!(b.pass(1000, &[1]), []);
    let again = b.report(3, hello_from(2, 1, 0));
    assert_eq!(again, [direct(3, Duty::Train(train(1, &[1, 2], 1, None)))]);
    assert_eq!(b.pass(10_000, &[1, 3]), []);
    b.report(1, step_done(1, 1, 0));
    assert_eq!(b.report(3, step_done(2, 1, 0)).len(), 1, "it is still rank 1");
}

#[test]
fn a_dead_worker_sends_everybody_back_to_the_last_checkpoint() {
    let mut b = Bench::checkpointed(2);
    b.handle(Event::Hangup { stream: Stream(2) });
    assert_eq!(b.pass(1400, &[1]), []);
    let lost = b.pass(100, &[1]);
    let then = [waiting("waiting: 0 of 2 workers, 1 loading"), direct(1, Duty::Load(load()))];
    assert_eq!(lost, [&incident(Some(2), DEATH)[..], &then].concat());
    b.report(1, loaded());
    b.report(3, hello(3));
    let (history, notice) = generation(2, 2, &[1, 3]);
    let duty = |rank| Train { evaluate_first: true, ..train(2, &[1, 3], rank, Some((1, 2))) };
    let expected = [
        journal([history]),
        notify(notice),
        direct(1, Duty::Train(duty(0))),
        direct(3, Duty::Train(duty(1))),
    ];
    assert_eq!(b.report(3, loaded()), expected);
}

#[test]
fn a_silent_worker_is_lost_with_its_lease() {
    let mut b = Bench::training();
    assert_eq!(b.pass(4900, &[1]), []);
    let lost = b.pass(100, &[1]);
    let why = "worker w2 (rank 1) was lost after step 0: it was silent for a whole lease";
    assert_eq!(lost[..3], [&[close(2)][..], &incident(Some(2), why)].concat());
}

#[test]
fn another_process_in_the_slot_is_the_death_of_the_first() {
    let mut b = Bench::training();
    let out = b.replace(2, 3);
    let why = "worker w2 (rank 1) was lost after step 0: another process took its place";
    assert_eq!(out[..2], incident(Some(2), why));
    assert!(out.contains(&direct(3, Duty::Load(load()))), "{out:?}");
}

#[test]
fn only_the_first_report_of_a_death_is_an_incident() {
    let mut b = Bench::training();
    let out = b.report(1, trouble(1, Cause::Peer));
    let why = "worker w1 (rank 0) stopped at step 1: broken";
    assert_eq!(out[..2], incident(Some(1), why));
    assert_eq!(b.report(2, trouble(1, Cause::Peer)), [], "an echo");
}

#[test]
fn the_coordinators_own_pause_is_forgiven() {
    let mut b = Bench::training();
    b.pass(1000, &[1, 2]);
    b.now += Duration::from_secs(60);
    // The beats of that minute are unread, and now the first of them is read.
    assert_eq!(b.report(1, beats()), []);
    assert_eq!(b.report(2, beats()), []);
    assert_eq!(b.phase(), "training");
    b.pass(4900, &[1]);
    assert_eq!(b.phase(), "training");
    b.pass(600, &[1]);
    assert_eq!(b.phase(), "gathering", "silence after the pause is not forgiven");
}

const LEAVES: &str = "worker w2 (rank 1) was told to leave; all ranks stop after their current step, with a checkpoint";

/// Two workers train, the second was told to leave, and both were directed to stop.
fn draining() -> Bench {
    let mut b = Bench::training();
    let out = b.report(2, leaving());
    let stop = |rank| Duty::Train(Train { stop: true, ..train(1, &[1, 2], rank, None) });
    let stops = [direct(1, stop(0)), direct(2, stop(1))];
    assert_eq!(out, [&incident(Some(2), LEAVES)[..], &stops].concat());
    b
}

#[test]
fn before_a_member_leaves_all_ranks_stop_with_a_checkpoint() {
    let mut b = draining();
    b.report(1, step_done(1, 1, 0));
    b.report(2, step_done(2, 1, 0));
    b.part(1, 1, 1);
    b.report(1, stopped(1, 1));
    assert_eq!(b.part(2, 1, 1), [seal(1, 1)]);
    assert_eq!(b.report(2, stopped(1, 1)), []);
    let out = b.handle(sealed(1, 1));
    let then = [direct(1, Duty::Load(load())), direct(2, Duty::Idle)];
    assert_eq!(out[out.len() - 2..], then, "the leaver is free to go");
    assert!(out.contains(&journal([checkpointed(1, 1)])), "{out:?}");
    let left = b.handle(Event::Hangup { stream: Stream(2) });
    assert_eq!(left, [waiting("waiting: 0 of 2 workers, 1 loading")]);
    b.report(3, hello(3));
    b.report(1, loaded());
    let out = b.report(3, loaded());
    let (history, notice) = generation(2, 1, &[1, 3]);
    assert_eq!(out[..2], [journal([history]), notify(notice)], "no step is repeated");
}

#[test]
fn a_second_member_that_leaves_changes_nothing_more() {
    let mut b = draining();
    let message = LEAVES.replace("w2 (rank 1)", "w1 (rank 0)");
    assert_eq!(b.report(1, leaving()), incident(Some(1), &message));
}

#[test]
fn if_a_leaver_cannot_store_its_part_the_run_goes_back_to_the_checkpoint_before() {
    for dies in [false, true] {
        let mut b = draining();
        b.report(1, step_done(1, 1, 0));
        b.report(2, step_done(2, 1, 0));
        b.part(1, 1, 1);
        b.report(1, stopped(1, 1));
        b.report(2, stopped(1, 1));
        if dies {
            b.handle(Event::Hangup { stream: Stream(2) });
        } else {
            b.report(2, part_failed(1, 1));
        }
        assert_eq!(b.phase(), "gathering", "dies: {dies}");
    }
}

#[test]
fn a_step_that_takes_longer_than_a_leaver_can_stay_is_abandoned() {
    let mut b = Bench::training();
    // Half a second for worker 1, and 0.7 seconds for worker 2.
    b.report(1, step_done(1, 1, 0));
    b.report(2, step_done(2, 1, 0));
    let out = b.report(2, Report::Leaving { deadline: Duration::from_millis(600) });
    assert_eq!(out[..2], incident(Some(2), "worker w2 (rank 1) was told to leave"));
    assert_eq!(b.phase(), "gathering");
}

#[test]
fn a_member_that_owes_nothing_may_leave() {
    let mut b = Bench::training();
    b.part(2, 1, 4);
    b.report(2, stopped(1, 4));
    b.report(2, leaving());
    b.handle(Event::Hangup { stream: Stream(2) });
    assert_eq!(b.phase(), "training");
    let newcomer = b.replace(2, 3);
    assert_eq!(newcomer, [direct(3, Duty::Load(load()))], "the slot's next process is no member");
    b.report(1, stopped(1, 4));
    assert_eq!(b.part(1, 1, 4), [seal(1, 4)]);
    b.handle(sealed(1, 4));
    assert_eq!(b.phase(), "finishing");
}

#[test]
fn a_member_that_stopped_without_its_part_is_lost() {
    let mut b = Bench::training();
    b.report(2, stopped(1, 4));
    b.handle(Event::Hangup { stream: Stream(2) });
    b.pass(1500, &[1]);
    assert_eq!(b.phase(), "gathering");
}

#[test]
fn a_dead_workers_shards_are_leased_to_the_living() {
    let mut b = Bench::new();
    b.report(1, hello(1));
    b.report(2, hello(2));
    b.submit();
    b.handle(surveyed(2));
    b.handle(Event::Hangup { stream: Stream(2) });
    assert_eq!(b.pass(1400, &[1]), [], "it may still reconnect");
    assert_eq!(b.pass(100, &[1]), [direct(1, prepare(&[0, 1]))]);
    assert_eq!(b.report(2, prepared(1)), [], "a lost worker's shard does not count");
    assert_eq!(b.report(1, prepared(1)).len(), 2);
}

#[test]
fn a_reconnect_within_the_grace_keeps_its_shards() {
    let mut b = Bench::new();
    b.report(1, hello(1));
    b.report(2, hello(2));
    b.submit();
    b.handle(surveyed(2));
    assert_eq!(b.handle(Event::Hangup { stream: Stream(2) }), []);
    assert_eq!(b.report(3, hello(2)), [direct(3, prepare(&[1]))]);
}

/// Forms a generation that commits `steps` and then fails.
fn crash(b: &mut Bench, generation: u64, steps: std::ops::Range<u64>) {
    b.report(1, loaded());
    b.report(2, loaded());
    for step in steps {
        b.report(1, step_done(1, generation, step));
        b.report(2, step_done(2, generation, step));
    }
    b.report(1, trouble(generation, Cause::Internal));
}

#[test]
fn a_crash_loop_without_progress_fails_the_run() {
    let mut b = Bench::planned();
    for generation in 1..=6 {
        assert_eq!(b.phase(), "gathering");
        crash(&mut b, generation, 0..0);
    }
    b.report(1, loaded());
    let out = b.report(2, loaded());
    let message = "6 attempts in a row ended without a new step; the last trouble was: \
                   worker w1 (rank 0) stopped at step 1: broken";
    let kind = Failure::Infrastructure;
    let expected = [
        journal([Fact::Failed { kind, message: message.into() }]),
        notify(Notice::Failed { kind, message: message.into() }),
        direct(1, Duty::Idle),
        direct(2, Duty::Idle),
    ];
    assert_eq!(out, expected);
}

#[test]
fn a_crash_loop_that_makes_progress_goes_on() {
    let mut b = Bench::planned();
    let mut generation = 1;
    for best in 1..=4 {
        for _ in 0..5 {
            crash(&mut b, generation, 0..best);
            generation += 1;
            assert_eq!(b.phase(), "gathering", "step {best}");
        }
    }
}

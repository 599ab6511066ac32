//! Trouble of one node does not end a run; trouble of all nodes does.

use super::*;

fn failed(kind: Failure) -> [Command; 2] {
    let message = "broken".to_owned();
    [
        journal([Fact::Failed { kind, message: message.clone() }]),
        notify(Notice::Failed { kind, message }),
    ]
}

fn accuse(generation: u64, accused: u32, connecting: bool, met: Option<u32>) -> Report {
    let Report::Trouble { run, generation, step, cause, message, shard, .. } =
        trouble(generation, Cause::Peer)
    else {
        unreachable!("it is one")
    };
    let accusation = Some(proto::protocol::Accusation { rank: accused, connecting, met });
    Report::Trouble { run, generation, step, cause, message, shard, accusation }
}

fn bad_shard(shard: u32) -> Report {
    let Report::Trouble { run, generation, step, cause, message, accusation, .. } =
        trouble(0, Cause::Data)
    else {
        unreachable!("it is one")
    };
    Report::Trouble { run, generation, step, cause, message, shard: Some(shard), accusation }
}

/// Why a worker waits.
fn reason(b: &Bench, number: u64) -> Option<String> {
    let all = b.core.worker_statuses();
    let of = all.into_iter().find(|w| w.worker == worker(number)).expect("it is connected");
    of.trouble.filter(|_| of.state == "waiting")
}

const KINDS: [(Cause, Failure); 3] = [
    (Cause::Data, Failure::Data),
    (Cause::Model, Failure::User),
    (Cause::Storage, Failure::Infrastructure),
];

#[test]
fn before_the_first_generation_what_every_worker_reports_fails_the_run() {
    for (cause, kind) in KINDS {
        let mut b = Bench::planned();
        let first = b.report(1, trouble(0, cause));
        assert_eq!(b.phase(), "gathering", "{cause:?}: {first:?}");
        assert_eq!(reason(&b, 1).as_deref(), Some("broken"));
        let last = b.report(2, trouble(0, cause));
        assert_eq!(last[..2], failed(kind), "{cause:?}");
    }
}

#[test]
fn fewer_workers_than_the_run_needs_do_not_fail_it() {
    let mut b = Bench::planned();
    b.handle(Event::Hangup { stream: Stream(2) });
    b.pass(1500, &[1]);
    b.report(1, trouble(0, Cause::Model));
    assert_eq!(b.phase(), "gathering");
    b.report(2, hello(2));
    b.report(2, trouble(0, Cause::Model));
    assert_eq!(b.phase(), "failed");
}

#[test]
fn a_newcomers_trouble_does_not_concern_a_run_that_trains() {
    for (cause, _) in KINDS {
        let mut b = Bench::training();
        assert_eq!(b.report(3, hello(3)), [direct(3, Duty::Load(load()))]);
        assert_eq!(b.report(3, trouble(0, cause)), [direct(3, Duty::Idle)], "{cause:?}");
        assert_eq!(b.phase(), "training");
        let status = b.core.status(&run()).expect("it is known");
        assert_eq!(status.troubled.len(), 1);
        assert_eq!(status.troubled[0].trouble.as_deref(), Some("broken"));
        // It is tried again, after a longer wait each time.
        let again = [direct(3, Duty::Load(load()))];
        assert_eq!(b.pass(1000, &[1, 2, 3]), again);
        b.report(3, trouble(0, cause));
        assert_eq!(b.pass(1500, &[1, 2, 3]), []);
        assert_eq!(b.pass(500, &[1, 2, 3]), again);
        b.report(3, loaded());
        assert_eq!(reason(&b, 3), None);
    }
}

#[test]
fn a_newcomer_that_reports_for_a_generation_changes_nothing() {
    let mut b = Bench::training();
    b.report(3, hello(3));
    for cause in [Cause::Data, Cause::Model, Cause::Peer, Cause::Storage, Cause::Checkpoint] {
        assert_eq!(b.report(3, trouble(1, cause)), [], "{cause:?}");
    }
    assert_eq!(b.phase(), "training");
}

#[test]
fn data_or_model_trouble_of_every_member_fails_the_run() {
    for (cause, kind) in [(Cause::Data, Failure::Data), (Cause::Model, Failure::User)] {
        let mut b = Bench::training();
        assert_eq!(b.report(1, trouble(1, cause)), [], "the other may report the same");
        assert_eq!(b.report(2, trouble(1, cause))[..2], failed(kind), "{cause:?}");
    }
}

#[test]
fn data_or_model_trouble_of_one_member_is_its_own_setback() {
    let mut b = Bench::training();
    b.report(1, trouble(1, Cause::Model));
    let out = b.report(2, accuse(1, 0, false, None));
    let why = "worker w1 (rank 0) stopped at step 1: broken";
    assert_eq!(out[..2], incident(Some(1), why));
    assert_eq!(b.phase(), "gathering");
    assert_eq!(reason(&b, 1).as_deref(), Some("broken"));
    // The same holds if the other has stopped.
    let mut b = Bench::training();
    b.report(1, trouble(1, Cause::Model));
    b.report(2, stopped(1, 4));
    assert_eq!(b.phase(), "gathering");
}

#[test]
fn storage_trouble_of_a_member_never_counts_against_the_run() {
    let mut b = Bench::training();
    for generation in 1..20 {
        let out = b.report(1, trouble(generation, Cause::Storage));
        assert_eq!(out[..2], incident(Some(1), "worker w1 (rank 0) stopped at step 1: broken"));
        b.report(2, loaded());
        b.pass(61_000, &[1, 2]);
        b.report(1, loaded());
        assert_eq!(b.phase(), "training");
    }
}

#[test]
fn trouble_that_may_be_chance_fails_the_run_once_every_worker_has_tried_often() {
    let mut b = Bench::planned();
    for _ in 0..Timing::default().fruitless_generations {
        b.report(1, trouble(0, Cause::Internal));
        b.report(2, trouble(0, Cause::Internal));
        b.pass(61_000, &[1, 2]);
        assert_eq!(b.phase(), "gathering");
    }
    b.report(1, trouble(0, Cause::Internal));
    b.report(2, trouble(0, Cause::Internal));
    assert_eq!(b.phase(), "failed");
}

#[test]
fn a_bad_shard_counts_once_a_second_worker_agrees() {
    let mut b = Bench::new();
    b.report(1, hello(1));
    b.report(2, hello(2));
    b.submit();
    b.handle(surveyed(2));
    let out = b.report(1, bad_shard(0));
    assert_eq!(out, [direct(1, Duty::Idle), direct(2, prepare(&[0, 1]))], "the other tries it");
    assert_eq!(b.report(1, bad_shard(0)), [], "it does not hold the shard any more");
    assert_eq!(b.report(2, bad_shard(0))[..2], failed(Failure::Data));
}

#[test]
fn the_only_worker_is_believed() {
    let mut b = Bench::new();
    b.report(1, hello(1));
    b.submit();
    b.handle(surveyed(1));
    assert_eq!(b.report(1, bad_shard(0))[..2], failed(Failure::Data));
}

#[test]
fn a_node_that_prepares_nothing_leaves_its_shards_to_the_others() {
    let mut b = Bench::new();
    b.report(1, hello(1));
    b.report(2, hello(2));
    b.submit();
    b.handle(surveyed(2));
    let out = b.report(1, trouble(0, Cause::Storage));
    assert_eq!(out, [direct(1, Duty::Idle), direct(2, prepare(&[0, 1]))]);
    b.report(2, prepared(0));
    b.report(2, prepared(1));
    b.handle(planned());
    assert_eq!(b.phase(), "gathering");
}

#[test]
fn a_second_process_of_the_same_name_is_turned_away_for_now() {
    let mut b = Bench::training();
    let out = b.report(3, hello_anew(2));
    let [Command::Direct { stream: Stream(3), directive }, last] = &out[..] else {
        panic!("{out:?}")
    };
    assert!(matches!(directive.duty, Duty::NotNow { .. }), "{directive:?}");
    assert_eq!(*last, close(3));
    b.handle(Event::Hangup { stream: Stream(3) });
    assert_eq!(b.phase(), "training");
    // The connected process falls silent and its lease ends; then the other one is accepted.
    b.pass(5000, &[1]);
    let out = b.report(4, hello_anew(2));
    assert_eq!(out.last(), Some(&direct(4, Duty::Load(load()))));
}

#[test]
fn a_candidate_is_dialled_before_it_is_admitted() {
    let mut b = Bench::planned();
    b.handle(Event::Hangup { stream: Stream(2) });
    b.pass(1500, &[1]);
    b.report(1, loaded());
    let report = hello(3);
    let dial = Command::Dial {
        worker: worker(3),
        incarnation: Incarnation::new("process 3"),
        ring: ring(3),
    };
    let out = b.core.handle(b.now, Event::Reported { stream: Stream(3), report });
    assert_eq!(out[0], dial);
    b.report(3, loaded());
    assert_eq!(b.phase(), "gathering", "it was not reached yet");
    let dialled = |outcome: Result<(), String>| Event::Dialled {
        worker: worker(3),
        incarnation: Incarnation::new("process 3"),
        outcome,
    };
    b.handle(dialled(Err("connection refused".into())));
    let reason = reason(&b, 3).expect("it waits");
    assert!(reason.contains("10.0.0.3:1") && reason.contains("--ring-address"), "{reason}");
    // It is dialled again, and need not load again.
    b.now += Duration::from_secs(1);
    assert!(b.core.handle(b.now, Event::Tick).contains(&dial));
    let formed = b.handle(dialled(Ok(())));
    assert_eq!(b.phase(), "training", "{formed:?}");
}

#[test]
fn a_lost_rank_is_named_and_not_its_reporter() {
    let mut b = Bench::training();
    let out = b.report(1, accuse(1, 1, false, None));
    let why = "worker w2 (rank 1) was lost at step 1: worker w1 (rank 0) reports: broken";
    assert_eq!(out[..2], incident(Some(2), why));
}

#[test]
fn the_end_of_a_process_is_an_incident_once_the_next_one_connects() {
    let mut b = Bench::training();
    b.handle(Event::Hangup { stream: Stream(2) });
    let Report::Hello(next) = hello_anew(2) else { unreachable!("it is one") };
    let last_end = Some("killed by signal 9 (SIGKILL)".to_owned());
    let out = b.report(3, Report::Hello(Hello { last_end, ..next }));
    let lost = "worker w2 (rank 1) was lost after step 0: another process took its place";
    let back = "worker w2 has a new process; the one before it ended: killed by signal 9 (SIGKILL)";
    assert_eq!(out[..4], [incident(Some(2), lost), incident(Some(2), back)].concat());
}

#[test]
fn two_workers_that_cannot_reach_each_other_are_both_named_and_none_is_set_aside() {
    let mut b = Bench::training();
    let out = b.report(1, accuse(1, 1, true, None));
    let [Command::Journal { events, .. }, ..] = &out[..] else { panic!("{out:?}") };
    let [Fact::Incident { message, .. }] = &events[..] else { panic!("{events:?}") };
    for part in ["w1 (rank 0, 10.0.0.1:1)", "w2 (rank 1, 10.0.0.2:1)", "cannot reach each other"] {
        assert!(message.contains(part), "{message}");
    }
    b.report(2, accuse(1, 0, true, None));
    assert_eq!((reason(&b, 1), reason(&b, 2)), (None, None));
}

/// A bench with three workers that have nothing loaded, and a run of two or three members whose plan is stored.
fn three() -> Bench {
    let mut b = Bench::new();
    let settings = Settings { min_workers: 2, max_workers: 3, ..settings() };
    let history = vec![
        Fact::Submitted { spec_yaml: "spec".into() },
        Fact::Prepared { fingerprint: "f".into() },
        Fact::Planned { digest: "d".into(), steps: 4 },
    ];
    b.core.adopt(b.now, past(settings, history), None, false);
    for number in 1..=3 {
        b.report(number, hello(number));
    }
    b
}

#[test]
fn a_rank_that_two_others_cannot_reach_is_set_aside_and_the_rest_goes_on() {
    let mut b = three();
    (1..=3).for_each(|number| drop(b.report(number, loaded())));
    assert_eq!(b.phase(), "training");
    b.report(2, accuse(1, 2, true, Some(0)));
    b.report(1, accuse(1, 2, true, Some(1)));
    assert!(reason(&b, 3).is_some_and(|reason| reason.contains("cannot connect")));
    b.report(1, loaded());
    b.report(2, loaded());
    let formed = b.pass(1000, &[1, 2]);
    assert!(formed.contains(&journal([generation(2, 0, &[1, 2]).0])), "{formed:?}");
}

fn based_on(base: &str) -> Report {
    Report::Loaded { run: run(), base_digest: base.into() }
}

#[test]
fn a_worker_that_has_read_another_base_is_never_a_member() {
    let mut b = three();
    b.report(1, based_on("base"));
    b.report(2, based_on("another"));
    let formed = b.report(3, based_on("base"));
    assert_eq!(formed[0], journal([based(), generation(1, 0, &[1, 3]).0]));
    assert!(reason(&b, 2).is_some_and(|reason| reason.contains("2 of 3 workers have read")));
    // Later workers are compared with the base that is journaled.
    b.report(4, hello(4));
    b.report(4, based_on("another"));
    assert!(reason(&b, 4).is_some_and(|reason| reason.contains("the run began with")));
}

#[test]
fn two_workers_with_different_bases_fail_the_run_and_both_are_named() {
    let mut b = Bench::planned();
    b.report(1, based_on("a"));
    let out = b.report(2, based_on("b"));
    let [_, Command::Notify { notice: Notice::Failed { kind, message }, .. }, ..] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!(*kind, Failure::User);
    for part in ["digest a on w1", "digest b on w2"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn parts_of_different_states_are_no_checkpoint_and_all_go_back() {
    let mut b = Bench::checkpointed(1);
    b.part(1, 1, 2);
    let Report::PartSaved(place, step, part) = part(2, 1, 2) else { unreachable!("it is one") };
    let other = SavedPart { digest: "another".into(), ..part };
    let out = b.report(2, Report::PartSaved(place, step, other));
    let message = "the checkpoint after step 2 was given up: the ranks do not hold the same state: \
                   worker w2 (rank 1) and worker w1 (rank 0) differ";
    assert_eq!(out[..2], incident(None, message));
    assert_eq!(out[2], Command::Discard { run: run(), lineage: Lineage(1), step: 2 });
    assert_eq!(b.phase(), "gathering");
    b.report(1, loaded());
    assert_eq!(b.report(2, loaded())[0], journal([generation(2, 1, &[1, 2]).0]));
}

#[test]
fn a_loss_that_is_not_finite_is_never_the_best() {
    for loss in [f64::NAN, -f64::NAN, f64::NEG_INFINITY, f64::INFINITY] {
        let mut b = Bench::training();
        b.report(1, evaluated(1, 1, &[(0, 3.0, 1.0)]));
        b.report(2, evaluated(1, 1, &[]));
        b.checkpoint(1, 1);
        b.report(1, evaluated(1, 2, &[(0, loss, 1.0)]));
        b.report(2, evaluated(1, 2, &[]));
        assert_eq!(b.checkpoint(1, 2).last(), Some(&retain(1, &[1, 2], Some(1))), "{loss}");
    }
}

#[test]
fn a_worker_that_cannot_be_reached_gives_its_shards_back() {
    let mut b = Bench::new();
    b.report(1, hello(1));
    b.submit();
    b.handle(surveyed(2));
    let hello = Event::Reported { stream: Stream(2), report: hello(2) };
    b.core.handle(b.now, hello);
    b.report(1, prepared(0));
    let outcome = Err("connection refused".into());
    let incarnation = Incarnation::new("process 2");
    b.handle(Event::Dialled { worker: worker(2), incarnation, outcome });
    b.report(1, prepared(1));
    b.handle(planned());
    assert_eq!(b.phase(), "gathering");
}

#[test]
fn a_shard_that_one_worker_failed_on_is_tried_again_once_the_others_are_gone() {
    let mut b = Bench::new();
    b.report(1, hello(1));
    b.report(2, hello(2));
    b.submit();
    b.handle(surveyed(2));
    b.report(1, bad_shard(0));
    b.handle(Event::Hangup { stream: Stream(2) });
    let out = b.pass(1500, &[1]);
    assert_eq!(out.last(), Some(&direct(1, prepare(&[0, 1]))));
    assert_eq!(b.report(1, bad_shard(0))[..2], failed(Failure::Data));
}

#[test]
fn the_trouble_of_a_run_that_has_ended_is_forgotten() {
    let mut b = Bench::planned();
    b.report(1, trouble(0, Cause::Model));
    b.report(2, trouble(0, Cause::Model));
    assert_eq!(b.phase(), "failed");
    assert_eq!((reason(&b, 1), reason(&b, 2)), (None, None));
}

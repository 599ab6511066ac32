//! Every command of a run from its submission to its end.

use super::*;

#[test]
fn a_run_goes_from_submit_to_succeeded() {
    let mut b = Bench::new();
    assert_eq!(b.report(1, hello(1)), [direct(1, Duty::Idle)]);
    assert_eq!(b.report(2, hello(2)), [direct(2, Duty::Idle)]);

    let submitted = b.submit();
    let expected = [
        journal([
            Fact::Submitted { spec_yaml: "spec".into() },
            Fact::Claimed { epoch: EPOCH, holder: None },
        ]),
        Command::JournalPool(PoolEvent::Submitted { run: run(), idempotency_key: "key".into() }),
        answer(1, "r"),
        Command::Survey { run: run() },
    ];
    assert_eq!(submitted, expected);

    let shards = b.handle(surveyed(3));
    let preparing = |done| notify(Notice::Preparing { done, shards: 3 });
    let expected = [preparing(0), direct(1, prepare(&[0, 2])), direct(2, prepare(&[1]))];
    assert_eq!(shards, expected);
    assert_eq!(b.report(1, prepared(0)), [preparing(1), direct(1, prepare(&[2]))]);
    assert_eq!(b.report(2, prepared(1)), [preparing(2), direct(2, Duty::Idle)]);
    let shard = manifest::PreparedShard { starts_after: 0, parts: vec![3] };
    let origin = |i| {
        let RawShard { url, bytes, etag, modified_ms, .. } = super::shard(i);
        manifest::Origin { url, bytes, etag, modified_ms }
    };
    let objects = [0, 1, 2].map(origin).to_vec();
    let shards = vec![shard; 3];
    let contents = manifest::Prepared { objects, shards, ..manifest::Prepared::default() };
    let expected = [
        preparing(3),
        Command::Plan { run: run(), fingerprint: "f".into(), prepared: Some(contents) },
        direct(1, Duty::Idle),
    ];
    assert_eq!(b.report(1, prepared(2)), expected);

    let expected = [
        journal([
            Fact::Prepared { fingerprint: "f".into() },
            Fact::Planned { digest: "d".into(), steps: 4 },
        ]),
        notify(Notice::Prepared {
            fingerprint: "f".into(),
            cached: false,
            receipt: Receipt::default(),
        }),
        notify(Notice::Planned { steps: 4, summary: serde_json::Value::Null }),
        waiting("waiting: 0 of 2 workers, 2 loading"),
        direct(1, Duty::Load(load())),
        direct(2, Duty::Load(load())),
    ];
    assert_eq!(b.handle(planned()), expected);
    assert_eq!(b.report(1, loaded()), [waiting("waiting: 1 of 2 workers, 1 loading")]);
    let (history, notice) = generation(1, 0, &[1, 2]);
    let expected = [
        journal([based(), history]),
        notify(notice),
        direct(1, Duty::Train(train(1, &[1, 2], 0, None))),
        direct(2, Duty::Train(train(1, &[1, 2], 1, None))),
    ];
    assert_eq!(b.report(2, loaded()), expected, "journaled before it is announced");

    for step in 0..4 {
        assert_eq!(b.report(1, step_done(1, 1, step)), []);
        assert_eq!(b.report(2, step_done(2, 1, step)).len(), 1);
    }
    assert_eq!(b.report(1, evaluated(1, 4, &[(0, 6.0, 2.0)])), []);
    b.report(2, evaluated(1, 4, &[(1, 1.0, 1.0)]));
    assert_eq!(b.report(1, stopped(1, 4)), []);
    assert_eq!(b.report(2, stopped(1, 4)), []);
    assert_eq!(b.part(2, 1, 4), []);
    assert_eq!(b.part(1, 1, 4), [seal(1, 4)], "once every rank has stored its part");
    let expected = [
        journal([checkpointed(1, 4)]),
        checkpoint_notice(1, 4),
        retain(1, &[4], Some(4)),
        retain(1, &[4], Some(4)),
        Command::Publish { run: run(), lineage: Lineage(1), step: 4, losses: vec![(4, 7.0 / 3.0)] },
        direct(1, Duty::Idle),
        direct(2, Duty::Idle),
    ];
    assert_eq!(b.handle(sealed(1, 4)), expected);
    let expected = [
        journal([Fact::Succeeded { model: "model".into() }]),
        notify(Notice::Finished { model: "model".into(), steps: 4 }),
    ];
    assert_eq!(b.handle(published()), expected);

    let dismissed =
        Duty::Dismissed { reason: "the coordinator is closing".into(), why: Dismissal::Succeeded };
    let expected = [direct(1, dismissed.clone()), direct(2, dismissed)];
    assert_eq!(b.handle(Event::Close), expected);
}

#[test]
fn a_run_that_is_only_planned_ends_before_a_worker_loads_anything() {
    let mut b = Bench::new();
    b.report(1, hello(1));
    let Event::Submit { ticket, run: id, idempotency_key, spec_yaml, settings, by } =
        submission(1, "r", "key")
    else {
        unreachable!("it is one")
    };
    let settings = Settings { goal: Goal::Plan, ..settings };
    b.handle(Event::Submit { ticket, run: id, idempotency_key, spec_yaml, settings, by });
    b.handle(surveyed(1));
    b.report(1, prepared(0));
    let expected = [
        journal([
            Fact::Prepared { fingerprint: "f".into() },
            Fact::Planned { digest: "d".into(), steps: 4 },
        ]),
        notify(Notice::Prepared {
            fingerprint: "f".into(),
            cached: false,
            receipt: Receipt::default(),
        }),
        notify(Notice::Planned { steps: 4, summary: serde_json::Value::Null }),
        journal([Fact::Paused { step: 0 }]),
        notify(Notice::Paused { step: 0 }),
    ];
    assert_eq!(b.handle(planned()), expected);
    let dismissed =
        Duty::Dismissed { reason: "the coordinator is closing".into(), why: Dismissal::Closing };
    assert_eq!(b.handle(Event::Close), [direct(1, dismissed)]);
}

#[test]
fn a_prepared_data_set_is_not_prepared_again() {
    let mut b = Bench::new();
    b.submit();
    let outcome = Ok(Survey { fingerprint: "f".into(), shards: vec![shard(0)], cached: true });
    let expected = [Command::Plan { run: run(), fingerprint: "f".into(), prepared: None }];
    assert_eq!(b.handle(Event::Surveyed { run: run(), outcome }), expected);
}

#[test]
fn a_submission_is_idempotent() {
    let mut b = Bench::new();
    b.submit();
    assert_eq!(b.handle(submission(2, "another", "key")), [answer(2, "r")]);
    assert_eq!(b.core.statuses().len(), 1);
}

#[test]
fn a_closing_coordinator_takes_no_new_run() {
    let mut b = Bench::new();
    b.handle(Event::Close);
    let answer = Err("the coordinator is closing".into());
    assert_eq!(b.submit(), [Command::Answer { ticket: Ticket(1), answer }]);
}

#[test]
fn a_wrong_protocol_is_refused() {
    let mut b = Bench::new();
    let Report::Hello(right) = hello(1) else { unreachable!("it is one") };
    let out = b.report(1, Report::Hello(Hello { protocol: proto::PROTOCOL + 1, ..right }));
    let [Command::Direct { stream: Stream(1), directive }, last] = &out[..] else {
        panic!("{out:?}")
    };
    assert!(
        matches!(directive.duty, Duty::Dismissed { why: Dismissal::Refused, .. }),
        "{directive:?}"
    );
    assert_eq!(*last, close(1));
    assert_eq!(b.core.next_deadline(), None, "it holds no lease");
}

#[test]
fn a_worker_with_another_kind_of_device_is_refused_by_name() {
    let mut b = Bench::new();
    b.report(1, hello(1));
    let Report::Hello(other) = hello(2) else { unreachable!("it is one") };
    let out = b.report(2, Report::Hello(Hello { device: "cuda sm_90".into(), ..other.clone() }));
    let [Command::Direct { stream: Stream(2), directive }, last] = &out[..] else {
        panic!("{out:?}")
    };
    let Duty::Dismissed { reason, why: Dismissal::Refused } = &directive.duty else {
        panic!("{directive:?}")
    };
    let expected = "this worker computes on `cuda sm_90`, but worker `";
    assert!(reason.starts_with(expected) && reason.contains("on `cpu`"), "{reason}");
    assert_eq!(*last, close(2));
    // The same process with the same kind of device is welcome.
    assert!(!b.report(2, Report::Hello(other)).contains(&close(2)));
}

#[test]
fn a_last_call_admits_more_than_the_minimum() {
    let mut b = Bench::new();
    let settings = Settings { min_workers: 1, max_workers: 3, ..settings() };
    let history = vec![
        Fact::Submitted { spec_yaml: "spec".into() },
        Fact::Prepared { fingerprint: "f".into() },
        Fact::Planned { digest: "d".into(), steps: 4 },
    ];
    b.core.adopt(b.now, past(settings, history), None, false);
    b.report(1, hello(1));
    b.report(2, hello(2));
    b.report(3, hello(3));
    assert_eq!(b.report(1, loaded()), [], "the others may still become ready");
    assert_eq!(b.core.next_deadline(), Some(Duration::from_secs(1)));
    assert_eq!(b.pass(500, &[1, 2, 3]), []);
    assert_eq!(b.report(2, loaded()), []);
    let formed = b.pass(500, &[1, 2, 3]);
    let (history, notice) = generation(1, 0, &[1, 2]);
    let expected = [
        journal([based(), history]),
        notify(notice),
        direct(1, Duty::Train(train(1, &[1, 2], 0, None))),
        direct(2, Duty::Train(train(1, &[1, 2], 1, None))),
    ];
    assert_eq!(formed, expected, "the third was too slow");
}

//! The exact commands with which a session answers each event.

use super::*;
use proto::id::Lineage;
use proto::protocol::{Cause, Dismissal};

/// A session whose stream takes all reports of the membership at once.
struct Heard(Session);

impl Heard {
    fn handle(&mut self, event: Event) -> Vec<Command> {
        let commands = self.0.handle(event);
        let mut all: Vec<_> = self.said().into_iter().map(Command::Send).collect();
        all.extend(commands);
        all
    }

    fn said(&mut self) -> Vec<Report> {
        std::iter::from_fn(|| self.0.next_report()).collect()
    }
}

fn session() -> Heard {
    let mut session = Heard(Session::new(Identity {
        worker: WorkerId::new("w"),
        incarnation: Incarnation::new("i"),
        device: "cpu".into(),
        threads: 1,
        ring: "127.0.0.1:1".into(),
        last_end: Some("killed by signal 9 (SIGKILL)".into()),
    }));
    let hello = session.handle(Event::Connected);
    assert!(matches!(&hello[..], [Command::Send(Report::Hello(_))]), "{hello:?}");
    session
}

fn load() -> Load {
    Load {
        run: RunId::new("r"),
        spec_yaml: "s".into(),
        fingerprint: "f".into(),
        plan_digest: "d".into(),
    }
}

fn train(generation: u64) -> Train {
    Train {
        load: load(),
        generation: Generation(generation),
        lineage: Lineage(generation),
        rank: 0,
        members: vec!["127.0.0.1:1".into()],
        ring_key: [0; 32],
        checkpoint: None,
        evaluate_first: false,
        stop: false,
        base_digest: None,
    }
}

fn prepare(shards: &[u32]) -> Duty {
    let shard = |index: &u32| RawShard {
        index: *index,
        source: 0,
        url: "u".into(),
        bytes: 1,
        etag: None,
        modified_ms: 0,
        range: 0..1,
    };
    Duty::Prepare(proto::protocol::Prepare {
        run: RunId::new("r"),
        spec_yaml: "s".into(),
        fingerprint: "f".into(),
        shards: shards.iter().map(shard).collect(),
    })
}

fn directed(session: &mut Heard, duty: Duty) -> Vec<Command> {
    at_epoch(session, 1, duty)
}

fn at_epoch(session: &mut Heard, epoch: u64, duty: Duty) -> Vec<Command> {
    let beat = Duration::from_millis(500);
    let mut commands =
        session.handle(Event::Directed(Directive { epoch: Epoch(epoch), beat, duty, heard: 0 }));
    commands.retain(|c| !matches!(c, Command::Beat(_)));
    commands
}

fn training(generation: u64) -> Heard {
    let mut session = session();
    directed(&mut session, Duty::Load(load()));
    session.handle(Event::Loaded { load: load(), outcome: Ok("b".into()) });
    directed(&mut session, Duty::Train(train(generation)));
    session
}

#[test]
fn a_load_is_announced_once() {
    let mut s = session();
    assert_eq!(directed(&mut s, Duty::Load(load())), [Command::Load(load())]);
    let loaded = s.handle(Event::Loaded { load: load(), outcome: Ok("b".into()) });
    let announcement =
        Command::Send(Report::Loaded { run: RunId::new("r"), base_digest: "b".into() });
    assert_eq!(loaded, std::slice::from_ref(&announcement));
    assert_eq!(s.handle(Event::Disconnected), []);
    assert_eq!(s.handle(Event::Connected).len(), 1, "the hello");
    assert_eq!(
        directed(&mut s, Duty::Load(load())),
        [announcement],
        "it is announced again on a new stream"
    );
}

#[test]
fn a_base_that_was_announced_but_rejected_is_read_again() {
    let mut s = session();
    let load = || Duty::Load(self::load());
    directed(&mut s, load());
    s.handle(Event::Loaded { load: self::load(), outcome: Ok("wrong".into()) });
    assert_eq!(directed(&mut s, Duty::Idle), []);
    assert_eq!(directed(&mut s, load()), [Command::Load(self::load())]);
    let mended = s.handle(Event::Loaded { load: self::load(), outcome: Ok("b".into()) });
    let announcement = |base: &str| {
        Command::Send(Report::Loaded { run: RunId::new("r"), base_digest: base.into() })
    };
    assert_eq!(mended, [announcement("b")]);
    // A member whose generation has ended keeps it in memory.
    directed(&mut s, Duty::Train(train(1)));
    directed(&mut s, Duty::Idle);
    s.handle(Event::Ended(Generation(1), End::Aborted));
    assert_eq!(directed(&mut s, load()), [announcement("b")]);
}

#[test]
fn the_last_end_is_reported_until_a_coordinator_has_received_it() {
    let mut s = session();
    let said_again = |s: &mut Heard| {
        s.handle(Event::Disconnected);
        match &s.handle(Event::Connected)[..] {
            [Command::Send(Report::Hello(hello))] => hello.last_end.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(said_again(&mut s).as_deref(), Some("killed by signal 9 (SIGKILL)"));
    directed(&mut s, Duty::Idle);
    assert_eq!(said_again(&mut s), None);
}

#[test]
fn a_newer_generation_waits_for_the_end_of_the_older() {
    let mut s = training(1);
    assert_eq!(directed(&mut s, Duty::Train(train(2))), [Command::Abort]);
    assert_eq!(directed(&mut s, Duty::Train(train(2))), [], "aborted once");
    let next = s.handle(Event::Ended(Generation(1), End::Aborted));
    assert_eq!(next, [Command::Train(train(2))]);
}

#[test]
fn a_failed_load_does_not_undo_a_later_directive() {
    let mut s = session();
    s.handle(Event::Connected);
    directed(&mut s, Duty::Load(load()));
    let dismissed = Duty::Dismissed { reason: "closing".into(), why: Dismissal::Closing };
    assert_eq!(directed(&mut s, dismissed), []);
    let trouble = Trouble::new(Cause::Storage, "gone");
    let exit = s.handle(Event::Loaded { load: load(), outcome: Err(trouble) });
    assert_eq!(exit, [Command::Exit(Exit::Dismissed(Dismissal::Closing))]);
}

#[test]
fn an_ended_generation_is_not_started_again() {
    let mut s = training(1);
    let stopped = s.handle(Event::Ended(Generation(1), End::Stopped { step: 9 }));
    assert_eq!(
        stopped,
        [Command::Send(Report::Stopped {
            run: RunId::new("r"),
            generation: Generation(1),
            step: 9
        })]
    );
    assert_eq!(directed(&mut s, Duty::Train(train(1))), []);
}

#[test]
fn the_next_run_starts_its_own_count_of_generations() {
    let mut s = training(1);
    directed(&mut s, Duty::Idle);
    s.handle(Event::Ended(Generation(1), End::Aborted));
    let load = Load { run: RunId::new("next"), ..load() };
    directed(&mut s, Duty::Load(load.clone()));
    s.handle(Event::Loaded { load: load.clone(), outcome: Ok("b".into()) });
    let train = Train { load, ..train(1) };
    let out = directed(&mut s, Duty::Train(train.clone()));
    assert_eq!(out.last(), Some(&Command::Train(train)));
}

#[test]
fn a_broken_stream_does_not_stop_training() {
    let mut s = training(1);
    assert_eq!(s.handle(Event::Disconnected), []);
    let place = train(1).place();
    for step in [5, 6, 7] {
        assert_eq!(s.handle(Event::PartBegun(place.clone(), step)), []);
    }
    assert_eq!(s.handle(Event::PartSaved(place.clone(), 5, Ok(SavedPart::default()))), []);
    let hello = s.handle(Event::Connected);
    let [Command::Send(Report::Hello(h))] = &hello[..] else { panic!("{hello:?}") };
    assert_eq!(h.attachment.as_ref().map(|a| a.place.generation), Some(Generation(1)));
    // Facts wait until the coordinator has taken up the membership again.
    let part = |step| Command::Send(Report::PartSaved(place.clone(), step, SavedPart::default()));
    assert_eq!(s.handle(Event::PartSaved(place.clone(), 6, Ok(SavedPart::default()))), []);
    let begun = |step| Command::Send(Report::PartBegun(place.clone(), step));
    let again = [begun(5), begun(6), begun(7), part(5), part(6)];
    assert_eq!(directed(&mut s, Duty::Train(train(1))), again);
    assert_eq!(s.handle(Event::PartSaved(place.clone(), 7, Ok(SavedPart::default()))), [part(7)]);
}

fn done(step: u64) -> StepDone {
    StepDone {
        step,
        loss: 1.0,
        learning_rate: 1.0,
        grad_norm: 1.0,
        applied: true,
        samples: 1,
        samples_digest: 1,
        tokens: 1,
        trained_tokens: 1,
        compute: Duration::ZERO,
        reduce_wait: Duration::ZERO,
        sources: Vec::new(),
    }
}

/// The steps whose records are among these commands.
fn steps(commands: &[Command]) -> Vec<u64> {
    let step = |command: &Command| match command {
        Command::Send(Report::StepDone(_, done)) => Some(done.step),
        _ => None,
    };
    commands.iter().filter_map(step).collect()
}

fn reconnected(s: &mut Heard, heard: u64, duty: Duty) -> Vec<Command> {
    s.handle(Event::Disconnected);
    s.handle(Event::Connected);
    let beat = Duration::from_millis(500);
    s.handle(Event::Directed(Directive { epoch: Epoch(1), beat, duty, heard }))
}

#[test]
fn a_new_stream_resends_every_step_that_is_not_recorded() {
    let mut s = training(1);
    let place = train(1).place();
    assert_eq!(steps(&s.handle(Event::Stepped(place.clone(), done(0)))), [0]);
    s.handle(Event::Disconnected);
    for step in 1..3000 {
        assert_eq!(s.handle(Event::Stepped(place.clone(), done(step))), []);
    }
    let duty = || Duty::Train(train(1));
    let again = reconnected(&mut s, 0, duty());
    assert_eq!(steps(&again), (0..3000).collect::<Vec<_>>());
    assert_eq!(steps(&reconnected(&mut s, 2998, duty())), [2998, 2999]);
    assert!(steps(&reconnected(&mut s, 3000, duty())).is_empty());
    assert_eq!(steps(&s.handle(Event::Stepped(place, done(3000)))), [3000]);
    // A coordinator that has lost what its predecessor received.
    assert_eq!(steps(&reconnected(&mut s, 0, duty())).len(), 3001);
}

#[test]
fn records_and_facts_are_sent_in_the_order_in_which_they_happened() {
    let mut s = training(1);
    s.handle(Event::Disconnected);
    let place = train(1).place();
    s.handle(Event::Stepped(place.clone(), done(0)));
    s.handle(Event::PartBegun(place.clone(), 1));
    s.handle(Event::Stepped(place.clone(), done(1)));
    let trouble = Trouble::new(Cause::Peer, "lost rank 1");
    s.handle(Event::Ended(Generation(1), End::Failed { step: 2, trouble: trouble.clone() }));
    let again = reconnected(&mut s, 0, Duty::Train(train(1)));
    let expected = [
        Report::StepDone(place.clone(), done(0)),
        Report::PartBegun(place.clone(), 1),
        Report::StepDone(place, done(1)),
        trouble.report(RunId::new("r"), Generation(1), 2),
    ];
    assert_eq!(again[..4], expected.map(Command::Send));
}

#[test]
fn the_oldest_records_are_dropped_but_no_fact_is() {
    let mut s = training(1);
    s.handle(Event::Disconnected);
    let place = train(1).place();
    s.handle(Event::PartBegun(place.clone(), 1));
    for step in 0..200_000 {
        s.0.handle(Event::Stepped(place.clone(), done(step)));
    }
    let again = reconnected(&mut s, 0, Duty::Train(train(1)));
    assert_eq!(again[0], Command::Send(Report::PartBegun(place, 1)));
    let steps = steps(&again);
    assert_eq!(steps.last(), Some(&199_999));
    assert!((50_000..150_000).contains(&steps.len()), "{}", steps.len());
}

#[test]
fn records_are_kept_until_the_next_membership_begins() {
    let mut s = training(1);
    s.handle(Event::Stepped(train(1).place(), done(0)));
    s.handle(Event::Ended(Generation(1), End::Aborted));
    for duty in [Duty::Idle, Duty::Load(load())] {
        assert_eq!(steps(&reconnected(&mut s, 0, duty)), [0]);
    }
    let again = reconnected(&mut s, 0, Duty::Train(train(2)));
    assert!(steps(&again).is_empty(), "they belong to a lineage that is fenced");
}

#[test]
fn a_failure_outside_training_is_retried_when_directed_again() {
    let mut s = session();
    let trouble = || Trouble::new(Cause::Data, "this host does not see it");
    let report =
        |trouble: Trouble| Command::Send(trouble.report(RunId::new("r"), Generation::default(), 0));
    for _ in 0..2 {
        assert_eq!(directed(&mut s, Duty::Load(load())), [Command::Load(load())]);
        let failed = s.handle(Event::Loaded { load: load(), outcome: Err(trouble()) });
        assert_eq!(failed, [report(trouble())]);
    }
    for _ in 0..2 {
        let begun = directed(&mut s, prepare(&[0]));
        assert!(matches!(&begun[..], [Command::Prepare { shard, .. }] if shard.index == 0));
        let outcome = Err(trouble().on_shard(0));
        let failed = s.handle(Event::Prepared { run: RunId::new("r"), shard: 0, outcome });
        assert_eq!(failed, [report(trouble().on_shard(0))]);
    }
}

#[test]
fn a_deposed_coordinator_is_not_obeyed() {
    let mut s = training(1);
    at_epoch(&mut s, 2, Duty::Train(train(1)));
    assert_eq!(at_epoch(&mut s, 1, Duty::Idle), []);
}

#[test]
fn a_stop_is_passed_on_only_once() {
    let mut s = training(1);
    let stop = Train { stop: true, ..train(1) };
    assert_eq!(directed(&mut s, Duty::Train(stop.clone())), [Command::Stop]);
    assert_eq!(directed(&mut s, Duty::Train(stop)), []);
}

#[test]
fn a_terminated_worker_leaves_when_it_has_nothing_to_do() {
    let mut s = training(1);
    let deadline = Duration::from_secs(20);
    let commands = s.handle(Event::Terminate { deadline });
    assert_eq!(commands, [Command::Send(Report::Leaving { deadline })]);
    assert_eq!(directed(&mut s, Duty::Idle), [Command::Abort]);
    let exit = s.handle(Event::Ended(Generation(1), End::Aborted));
    assert_eq!(exit, [Command::Exit(Exit::Drained)]);
}

#[test]
fn a_terminated_worker_stays_until_its_parts_are_stored_or_cannot_be() {
    let place = train(1).place();
    for outcome in [Ok(SavedPart::default()), Err("late".to_owned())] {
        let mut s = training(1);
        s.handle(Event::PartBegun(place.clone(), 5));
        s.handle(Event::Terminate { deadline: Duration::from_secs(20) });
        directed(&mut s, Duty::Idle);
        assert_eq!(s.handle(Event::Ended(Generation(1), End::Aborted)), []);
        let out = s.handle(Event::PartSaved(place.clone(), 5, outcome));
        assert_eq!(out.len(), 2, "{out:?}");
        assert_eq!(out[1], Command::Exit(Exit::Drained));
    }
}

#[test]
fn a_terminated_worker_without_a_coordinator_aborts_its_training() {
    let mut s = training(1);
    s.handle(Event::Disconnected);
    let deadline = Duration::from_secs(20);
    assert_eq!(s.handle(Event::Terminate { deadline }), [Command::Abort]);
    assert_eq!(s.handle(Event::Terminate { deadline }), [], "once");
    let exit = s.handle(Event::Ended(Generation(1), End::Aborted));
    assert_eq!(exit, [Command::Exit(Exit::Drained)]);
}

#[test]
fn a_training_failure_is_resent_on_every_new_stream() {
    let mut s = training(1);
    let trouble = Trouble::new(Cause::Internal, "broken");
    let first = s.handle(Event::Ended(Generation(1), End::Failed { step: 3, trouble }));
    assert!(matches!(&first[..], [Command::Send(Report::Trouble { .. })]), "{first:?}");
    s.handle(Event::Disconnected);
    let again = s.handle(Event::Connected);
    let [Command::Send(Report::Hello(hello))] = &again[..] else {
        panic!("{again:?}");
    };
    assert_eq!(
        directed(&mut s, Duty::Train(train(1))),
        first,
        "once the coordinator has sent a directive"
    );
    let attached = hello.attachment.as_ref().map(|a| a.place.generation);
    assert_eq!(attached, Some(Generation(1)), "so that a restarted coordinator receives it");
}

#[test]
fn a_departure_is_announced_again_on_every_new_stream() {
    let mut s = training(1);
    let deadline = Duration::from_secs(20);
    s.handle(Event::Disconnected);
    assert_eq!(s.handle(Event::Terminate { deadline }), [Command::Abort]);
    for _ in 0..2 {
        let again = s.handle(Event::Connected);
        assert_eq!(again[1..], [Command::Send(Report::Leaving { deadline })]);
        s.handle(Event::Disconnected);
    }
}

#[test]
fn shards_are_prepared_one_by_one_and_reported_again_when_asked_again() {
    let mut s = session();
    let begun = directed(&mut s, prepare(&[0, 1]));
    assert!(matches!(&begun[..], [Command::Prepare { shard, .. }] if shard.index == 0));
    let done = Event::Prepared {
        run: RunId::new("r"),
        shard: 0,
        outcome: Ok(ShardOutcome { parts: vec![3], ..ShardOutcome::default() }),
    };
    let next = s.handle(done);
    assert!(
        matches!(&next[..], [
            Command::Send(Report::ShardPrepared { shard: 0, outcome, .. }),
            Command::Prepare { shard, .. }
        ] if shard.index == 1 && outcome.parts == [3]),
        "{next:?}"
    );
    let again = directed(&mut s, prepare(&[0, 1]));
    assert!(matches!(&again[..], [Command::Send(Report::ShardPrepared { shard: 0, .. })]));
}

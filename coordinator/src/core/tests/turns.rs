//! Several runs: which one has the workers, and what the others wait for.

use super::*;

fn named(name: &str) -> RunId {
    RunId::new(name)
}

fn submit(b: &mut Bench, name: &str, min: usize) -> Vec<Command> {
    let Event::Submit { ticket, run, idempotency_key, spec_yaml, settings, by } =
        submission(1, name, name)
    else {
        unreachable!("it is one")
    };
    let settings = Settings { min_workers: min, max_workers: min.max(2), ..settings };
    b.handle(Event::Submit { ticket, run, idempotency_key, spec_yaml, settings, by })
}

fn listed(name: &str, cached: bool) -> Event {
    let survey = Survey { fingerprint: "f".into(), shards: vec![shard(0)], cached };
    Event::Surveyed { run: named(name), outcome: Ok(survey) }
}

fn planned_as(name: &str) -> Event {
    let Event::Planned { outcome, .. } = planned() else { unreachable!("it is one") };
    Event::Planned { run: named(name), outcome }
}

fn phase(b: &Bench, name: &str) -> (&'static str, String) {
    let status = b.core.status(&named(name)).expect("it is known");
    (status.phase, status.detail)
}

/// The runs for which these commands have workers load.
fn loads(commands: &[Command]) -> Vec<RunId> {
    let load = |command: &Command| match command {
        Command::Direct { directive, .. } => match &directive.duty {
            Duty::Load(load) => Some(load.run.clone()),
            _ => None,
        },
        _ => None,
    };
    commands.iter().filter_map(load).collect()
}

#[test]
fn sources_of_waiting_runs_are_listed_and_the_first_run_that_can_start_starts() {
    let mut b = Bench::new();
    b.report(1, hello(1));
    b.report(2, hello(2));
    assert!(submit(&mut b, "first", 1).contains(&Command::Survey { run: named("first") }));
    assert!(submit(&mut b, "second", 1).contains(&Command::Survey { run: named("second") }));
    // The second run is listed first and need not wait for the first one.
    let out = b.handle(listed("second", true));
    assert_eq!(out.len(), 1, "its plan: {out:?}");
    assert_eq!(b.handle(listed("first", true)), []);
    let (first, why) = phase(&b, "first");
    assert_eq!((first, why.as_str()), ("queued", "waiting for its turn: `second` has the workers"));
    assert_eq!(loads(&b.handle(planned_as("second"))).len(), 2);
    let ended = b.handle(Event::Cancel { ticket: Ticket(3), run: named("second"), by: None });
    assert!(matches!(ended.last(), Some(Command::Direct { .. })), "{ended:?}");
    assert_eq!(phase(&b, "first").0, "preparing");
}

#[test]
fn data_that_another_run_has_since_prepared_is_not_prepared_again() {
    let mut b = Bench::training();
    submit(&mut b, "next", 1);
    b.handle(listed("next", false));
    assert_eq!(phase(&b, "next").0, "queued");
    let look = Command::FindPrepared { run: named("next"), fingerprint: "f".into() };
    let out = b.handle(Event::Cancel { ticket: Ticket(3), run: run(), by: None });
    assert!(out.contains(&look), "{out:?}");
    let found = Event::FoundPrepared { run: named("next"), found: true };
    let plan = Command::Plan { run: named("next"), fingerprint: "f".into(), prepared: None };
    assert_eq!(b.handle(found), [plan]);
}

#[test]
fn a_source_that_hangs_does_not_delay_other_runs() {
    let mut b = Bench::new();
    b.report(1, hello(1));
    submit(&mut b, "hangs", 1);
    submit(&mut b, "next", 1);
    b.handle(listed("next", true));
    assert_eq!(loads(&b.handle(planned_as("next"))), [named("next")]);
    assert_eq!(phase(&b, "hangs"), ("preparing", "listing the sources".to_owned()));
}

#[test]
fn a_run_that_wants_more_workers_than_are_connected_lets_the_next_one_pass() {
    let mut b = Bench::new();
    b.report(1, hello(1));
    submit(&mut b, "greedy", 9);
    submit(&mut b, "modest", 1);
    b.handle(listed("greedy", true));
    b.handle(planned_as("greedy"));
    b.report(1, Report::Loaded { run: named("greedy"), base_digest: "base".into() });
    assert_eq!(phase(&b, "greedy").1, "waiting: 1 of 9 workers");
    // It keeps its workers for a while, since more may connect.
    b.handle(listed("modest", true));
    assert_eq!(phase(&b, "modest").0, "queued");
    b.pass(9500, &[1]);
    assert_eq!(phase(&b, "modest").0, "queued");
    let out = b.pass(1000, &[1]);
    assert!(out.iter().any(|c| matches!(c, Command::Plan { run, .. } if *run == named("modest"))));
    b.handle(planned_as("modest"));
    b.report(1, Report::Loaded { run: named("modest"), base_digest: "base".into() });
    b.pass(1000, &[1]);
    assert_eq!(phase(&b, "modest").0, "training");
    assert_eq!(phase(&b, "greedy"), ("gathering", "waiting: 0 of 9 workers, 1 loading".to_owned()));
    // The greedy run does not take workers from a run that trains, and has its turn after it.
    b.handle(Event::Cancel { ticket: Ticket(3), run: named("modest"), by: None });
    assert_eq!(b.core.current(), Some(&named("greedy")));
}

#[test]
fn a_run_that_has_lost_a_worker_keeps_the_others_for_longer() {
    let mut b = Bench::training();
    submit(&mut b, "next", 1);
    b.handle(listed("next", true));
    b.replace(2, 3);
    b.handle(Event::Hangup { stream: Stream(3) });
    b.report(1, loaded());
    b.pass(60_000, &[1]);
    assert_eq!(phase(&b, "next").0, "queued");
    b.pass(600_000, &[1]);
    assert_eq!(phase(&b, "next").0, "preparing");
}

#[test]
fn only_the_status_of_an_ended_run_stays_in_memory() {
    let mut b = Bench::training();
    b.handle(Event::Cancel { ticket: Ticket(3), run: run(), by: None });
    assert!(!b.core.holds(&run()));
    assert_eq!(b.core.statuses().len(), 1);
    assert!(b.core.runs.is_empty() && b.core.queue.is_empty());
}

#[test]
fn a_beat_causes_no_commands() {
    let mut b = Bench::training();
    let before = b.core.next_deadline();
    for _ in 0..100 {
        assert_eq!(b.report(1, beats()), []);
    }
    assert_eq!(b.core.next_deadline(), before);
}

#[test]
fn another_attempt_begins_at_the_newest_checkpoint_behind_the_runs_that_wait() {
    let mut b = Bench::checkpointed(2);
    b.handle(Event::Cancel { ticket: Ticket(3), run: run(), by: None });
    assert!(b.core.may_resume(&run()).is_ok());
    let history = super::replay::history(&[Fact::Cancelled]);
    // The checkpoint after step 3 was stored, but the run ended before it was journaled.
    let resumed = Fact::Resumed { attempt: 2, spec_yaml: "spec".into() };
    let beginning = vec![resumed.clone(), checkpointed(1, 3)];
    let out = b.core.resume(b.now, Ticket(4), past(settings(), history), beginning);
    let claimed = Fact::Claimed { epoch: EPOCH, holder: None };
    let expected = [
        journal([resumed, checkpointed(1, 3), claimed]),
        Command::JournalPool(PoolEvent::Resumed { run: run() }),
        answer(4, "r"),
    ];
    assert_eq!(out[..3], expected, "durable before it is answered");
    let status = b.core.status(&run()).expect("it is known");
    assert_eq!((status.phase, status.attempt), ("gathering", 2));
    assert!(b.core.may_resume(&run()).unwrap_err().contains("has not ended"));
    b.report(1, loaded());
    let formed = b.report(2, loaded());
    assert_eq!(formed[0], journal([generation(2, 3, &[1, 2]).0]));
    // This attempt can be ended too.
    b.handle(Event::Cancel { ticket: Ticket(5), run: run(), by: None });
    assert_eq!(b.phase(), "cancelled");
}

#[test]
fn a_run_that_has_succeeded_cannot_be_resumed() {
    let mut b = Bench::checkpointed(4);
    b.report(1, stopped(1, 4));
    b.report(2, stopped(1, 4));
    b.handle(published());
    let refused = b.core.may_resume(&run()).unwrap_err();
    assert!(refused.contains("cannot be resumed: it is succeeded"), "{refused}");
    assert!(b.core.may_resume(&named("x")).unwrap_err().contains("no run `x`"));
}

#[test]
fn a_run_whose_journal_cannot_be_read_is_listed_with_the_reason() {
    let mut b = Bench::new();
    b.core.unreadable(run(), Some("key".into()), "the entry 3 is damaged".into());
    assert_eq!(phase(&b, "r"), ("unreadable", "the entry 3 is damaged".to_owned()));
    submit(&mut b, "next", 1);
    assert_eq!(b.core.statuses().len(), 2);
}

#[test]
fn recorded_steps_are_acknowledged_and_not_counted_twice() {
    let mut b = Bench::training();
    for step in 0..3 {
        b.report(1, step_done(1, 1, step));
        b.report(2, step_done(2, 1, step));
    }
    let Report::Hello(again) = hello_from(2, 1, 3) else { unreachable!("it is one") };
    let out = b.handle_all(Event::Reported { stream: Stream(3), report: Report::Hello(again) });
    let heard = out.iter().find_map(|c| match c {
        Command::Direct { stream: Stream(3), directive } => Some(directive.heard),
        _ => None,
    });
    assert_eq!(heard, Some(3));
    assert_eq!(b.report(1, step_done(1, 1, 1)), []);
    assert_eq!(b.report(3, step_done(2, 1, 1)), [], "the step is committed");
}

#[test]
fn a_restarted_coordinator_takes_hundreds_of_steps_of_one_rank_before_those_of_the_others() {
    let (mut b, _) = Bench::adopted(super::replay::history(&[]), false);
    b.core.recorded(&run(), Lineage(1), 3);
    b.report(1, hello_from(1, 1, 500));
    b.report(2, hello_from(2, 1, 500));
    for step in 0..500 {
        assert_eq!(b.report(1, step_done(1, 1, step)), []);
    }
    let noticed = (0..500).filter(|step| !b.report(2, step_done(2, 1, *step)).is_empty());
    assert_eq!(noticed.collect::<Vec<_>>(), (3..500).collect::<Vec<_>>());
}

#[test]
fn a_restart_takes_no_member_from_a_run_that_trains_for_one_that_cannot_start() {
    let mut b = Bench::new();
    let greedy = Settings { min_workers: 9, max_workers: 9, ..settings() };
    let planned_only = super::replay::history(&[])[..4].to_vec();
    let greedy = Past { run: named("greedy"), ..past(greedy, planned_only) };
    b.core.adopt(b.now, greedy, None, false);
    b.core.adopt(b.now, past(settings(), super::replay::history(&[])), None, false);
    assert_eq!(b.report(1, hello_from(1, 1, 3)), [], "no directive until all are back");
    let out = b.report(2, hello_from(2, 1, 3));
    assert!(loads(&out).is_empty(), "{out:?}");
    assert_eq!(phase(&b, "r").0, "training");
    b.pass(60_000, &[1, 2]);
    assert_eq!(phase(&b, "r").0, "training");
}

#[test]
fn a_run_that_no_worker_can_work_for_does_not_keep_the_workers_by_retrying() {
    let mut b = Bench::new();
    b.report(1, hello(1));
    b.report(2, hello(2));
    submit(&mut b, "blind", 2);
    submit(&mut b, "next", 1);
    b.handle(listed("blind", true));
    b.handle(planned_as("blind"));
    b.handle(listed("next", true));
    let trouble = || {
        let Report::Trouble { generation, step, cause, message, shard, accusation, .. } =
            trouble(0, Cause::Internal)
        else {
            unreachable!("it is one")
        };
        let run = named("blind");
        Report::Trouble { run, generation, step, cause, message, shard, accusation }
    };
    for _ in 0..4 {
        b.report(1, trouble());
        b.pass(4_000, &[1, 2]);
    }
    assert_eq!(phase(&b, "next").0, "preparing");
}

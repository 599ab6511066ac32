//! Runs that another coordinator takes over.

use super::*;
use proto::event::Holder;

fn lost() -> Event {
    Event::RunLost { run: run(), message: "another has it".into() }
}

fn lost_notice() -> Command {
    notify(Notice::Lost { message: "another has it".into() })
}

#[test]
fn a_lost_run_is_dropped_without_a_journal_entry_and_its_workers_become_idle() {
    let mut b = Bench::training();
    b.part(1, 1, 2);
    b.part(2, 1, 2);
    let expected = [lost_notice(), direct(1, Duty::Idle), direct(2, Duty::Idle)];
    assert_eq!(b.handle(lost()), expected);
    assert_eq!(b.phase(), "lost");
    assert!(!b.core.holds(&run()));
    let status = b.core.status(&run()).expect("it is known");
    assert_eq!(status.detail, "another has it");
    // Results of work that was under way change nothing, and neither does a second loss.
    for event in [sealed(1, 2), published(), planned(), surveyed(1), lost()] {
        assert_eq!(b.handle(event), []);
    }
    for report in [step_done(1, 1, 2), part(1, 1, 3), trouble(1, Cause::Data), stopped(1, 3)] {
        assert_eq!(b.report(1, report), []);
    }
}

#[test]
fn a_lost_run_is_neither_cancelled_nor_paused_here() {
    let mut b = Bench::training();
    b.handle(lost());
    let refused = Command::Answer { ticket: Ticket(3), answer: Err("another has it".into()) };
    assert_eq!(b.handle(Event::Cancel { ticket: Ticket(3), run: run(), by: None }), [refused]);
    let reason = "the coordinator is closing".to_owned();
    let dismissed = Duty::Dismissed { reason, why: Dismissal::Closing };
    let expected = [direct(1, dismissed.clone()), direct(2, dismissed)];
    assert_eq!(b.handle(Event::Close), expected, "nothing is journaled");
}

#[test]
fn the_next_run_gets_the_workers_of_a_lost_one() {
    let mut b = Bench::training();
    b.handle(submission(2, "next", "another key"));
    let expected = [lost_notice(), direct(1, Duty::Idle), direct(2, Duty::Idle)];
    assert_eq!(b.handle(lost()), expected);
}

#[test]
fn a_run_that_has_ended_cannot_be_lost() {
    let mut b = Bench::training();
    b.handle(Event::Cancel { ticket: Ticket(3), run: run(), by: None });
    assert_eq!(b.handle(lost()), []);
    assert_eq!(b.phase(), "cancelled");
}

#[test]
fn only_commands_that_act_for_the_lost_run_are_taken_back() {
    let other = RunId::new("other");
    let stay = [
        direct(1, Duty::Idle),
        close(2),
        Command::Survey { run: other.clone() },
        answer(1, "other"),
        Command::JournalPool(PoolEvent::Submitted { run: other, idempotency_key: "k".into() }),
    ];
    let go = [
        journal([checkpointed(1, 2)]),
        Command::JournalPool(PoolEvent::Submitted { run: run(), idempotency_key: "k".into() }),
        checkpoint_notice(1, 2),
        retain(1, &[2], None),
        seal(1, 2),
        receipt(&[1]),
        direct(1, Duty::Load(load())),
        direct(1, prepare(&[1])),
        direct(1, Duty::Train(train(1, &[1], 0, None))),
    ];
    let mut commands = [&stay[..], &go, &[answer(2, "r")]].concat().into();
    Command::take_back(&mut commands, &run(), "another has it");
    let refused = Command::Answer { ticket: Ticket(2), answer: Err("another has it".into()) };
    assert_eq!(commands, [&stay[..], &[refused]].concat());
}

#[test]
fn a_claim_names_its_holder() {
    let holder = Holder { token: "t".into(), host: "h".into(), url: "http://h:1".into() };
    let claim = Fact::Claimed { epoch: EPOCH, holder: Some(holder.clone()) };
    let mut core = Core::new(Timing::default(), EPOCH, [0; 32]).known_as(holder);
    let commands = core.handle(Duration::ZERO, submission(1, "r", "key"));
    let submitted = Fact::Submitted { spec_yaml: "spec".into() };
    assert_eq!(commands[0], journal([submitted, claim]));
}

#[test]
fn a_run_whose_claim_came_too_late_is_adopted_again() {
    let (mut b, first) = Bench::adopted(replay::history(&[]), false);
    let grown = replay::history(&[checkpointed(1, 3)]);
    let again = b.core.adopt(b.now, past(settings(), grown), None, false);
    assert_eq!(first, again);
    let statuses = b.core.statuses();
    assert_eq!(statuses.iter().map(|s| s.checkpoint_step).collect::<Vec<_>>(), [Some(3)]);
}

//! Checkpoints, which are put together from the parts of all ranks, committed once, and kept or deleted.

use super::*;

fn commit(step: u64, retain: Command) -> Vec<Command> {
    vec![journal([checkpointed(1, step)]), checkpoint_notice(1, step), retain]
}

#[test]
fn parts_of_a_fenced_member_never_reach_a_manifest() {
    let mut b = Bench::training();
    b.part(1, 1, 2);
    b.replace(2, 3);
    assert_eq!(b.part(2, 1, 2), [], "its stream is closed");
    assert_eq!(b.report(3, part(2, 1, 2)), [], "the membership is over");
    b.report(1, loaded());
    b.report(3, loaded());
    assert_eq!(b.phase(), "training");
    assert_eq!(b.report(3, part(2, 1, 2)), [], "it was written under the old membership");
    b.part(1, 2, 2);
    assert_eq!(b.report(3, part(2, 2, 2)), [seal(2, 2)]);
}

#[test]
fn the_next_generation_waits_for_a_manifest_and_begins_there() {
    let mut b = Bench::training();
    b.part(1, 1, 2);
    b.part(2, 1, 2);
    b.report(1, trouble(1, Cause::Peer));
    b.report(1, loaded());
    b.report(2, loaded());
    assert_eq!(b.phase(), "gathering");
    b.pass(4000, &[1, 2]);
    assert!(b.core.next_deadline() > Some(b.now), "time alone changes nothing");
    let out = b.handle(sealed(1, 2));
    let (history, _) = generation(2, 2, &[1, 2]);
    assert_eq!(out[..3], commit(2, retain(1, &[2], None)));
    assert_eq!(out[3], journal([history]));
}

#[test]
fn the_next_generation_waits_for_parts_that_can_still_come() {
    let mut b = Bench::training();
    b.report(1, begun(1, 2));
    b.report(2, begun(1, 2));
    b.report(1, trouble(1, Cause::Peer));
    b.report(1, loaded());
    let expected = [waiting("waiting: the checkpoint after step 2 is still being stored")];
    assert_eq!(b.report(2, loaded()), expected);
    b.pass(4000, &[1, 2]);
    assert!(b.core.next_deadline() > Some(b.now), "time alone changes nothing");
    assert_eq!(b.part(1, 1, 2), []);
    assert_eq!(b.part(2, 1, 2), [seal(1, 2)]);
    let (history, _) = generation(2, 2, &[1, 2]);
    assert_eq!(b.handle(sealed(1, 2))[3], journal([history]));
}

#[test]
fn nobody_waits_for_a_part_that_was_not_begun_or_died_or_failed() {
    let (history, _) = generation(2, 0, &[1, 2]);
    let formed = |out: Vec<Command>| assert_eq!(out[0], journal([history.clone()]));

    let mut b = Bench::training();
    b.report(1, begun(1, 2));
    b.report(1, trouble(1, Cause::Peer));
    b.report(1, loaded());
    formed(b.report(2, loaded()));

    let mut b = Bench::training();
    b.report(1, begun(1, 2));
    b.report(2, begun(1, 2));
    b.replace(2, 3);
    b.report(1, loaded());
    formed(b.report(3, loaded()));

    let mut b = Bench::training();
    b.report(1, begun(1, 2));
    b.report(2, begun(1, 2));
    b.report(1, trouble(1, Cause::Peer));
    b.report(1, loaded());
    b.report(2, loaded());
    let out = b.report(2, part_failed(1, 2));
    let before = incident(None, "").len() + 1;
    formed(out[before..].to_vec());
}

#[test]
fn resent_reports_of_a_settled_checkpoint_are_not_waited_for() {
    let mut b = Bench::checkpointed(2);
    b.report(2, part_failed(1, 3));
    for step in [1, 2, 3] {
        b.report(1, begun(1, step));
        b.report(2, begun(1, step));
    }
    b.report(1, trouble(1, Cause::Peer));
    b.report(1, loaded());
    let (history, _) = generation(2, 2, &[1, 2]);
    assert_eq!(b.report(2, loaded())[0], journal([history]));
}

#[test]
fn the_part_of_a_worker_that_leaves_is_waited_for() {
    let mut b = Bench::training();
    b.report(1, begun(1, 2));
    b.report(2, begun(1, 2));
    b.part(1, 1, 2);
    // Its ring breaks, and it has to leave.
    b.report(1, trouble(1, Cause::Peer));
    b.report(2, leaving());
    b.report(1, loaded());
    b.report(3, hello(3));
    b.report(3, loaded());
    assert_eq!(b.phase(), "gathering");
    assert_eq!(b.part(2, 1, 2), [seal(1, 2)]);
    let (history, _) = generation(2, 2, &[1, 3]);
    assert_eq!(b.handle(sealed(1, 2))[3], journal([history]));
}

#[test]
fn a_part_that_a_leaving_worker_cannot_store_does_not_count_against_the_run() {
    let mut b = Bench::training();
    b.report(2, leaving());
    for step in 1..=4 {
        b.report(2, part_failed(1, step));
    }
    assert_eq!(b.phase(), "training");
}

#[test]
fn a_checkpoint_stored_during_a_regroup_is_where_the_next_generation_begins() {
    let mut b = Bench::training();
    b.part(1, 1, 2);
    b.report(1, trouble(1, Cause::Peer));
    b.report(1, loaded());
    assert_eq!(b.part(2, 1, 2), [seal(1, 2)]);
    assert_eq!(b.handle(sealed(1, 2)), commit(2, retain(1, &[2], None)));
    let (history, _) = generation(2, 2, &[1, 2]);
    assert_eq!(b.report(2, loaded())[0], journal([history]));
}

#[test]
fn a_checkpoint_stored_during_a_regroup_knows_what_was_skipped() {
    let mut b = Bench::training();
    b.part(1, 1, 2);
    b.report(1, trouble(1, Cause::Peer));
    b.report(2, skipped(1, 2));
    assert_eq!(b.part(2, 1, 2), [seal_with(1, 2, &[2])]);
}

#[test]
fn a_part_outlives_its_rank_once_it_is_stored() {
    let mut b = Bench::training();
    b.part(2, 1, 2);
    b.replace(2, 3);
    assert_eq!(b.phase(), "gathering");
    assert_eq!(b.part(1, 1, 2), [seal(1, 2)]);
}

#[test]
fn a_generation_that_goes_back_ends_the_checkpoints_on_their_way() {
    let mut b = Bench::training();
    b.part(1, 1, 2);
    b.report(1, trouble(1, Cause::Peer));
    b.report(1, loaded());
    b.report(2, loaded());
    assert_eq!(b.phase(), "training");
    assert_eq!(b.part(2, 1, 2), []);
}

#[test]
fn a_part_that_cannot_be_stored_costs_its_checkpoint_and_a_second_one_the_run() {
    let mut b = Bench::training();
    b.part(1, 1, 1);
    let given_up = |step| {
        let why = "worker w2 (rank 1): full";
        let why = incident(None, &format!("the checkpoint after step {step} was given up: {why}"));
        [&why[..], &[Command::Discard { run: run(), lineage: Lineage(1), step }]].concat()
    };
    assert_eq!(b.report(2, part_failed(1, 1)), given_up(1));
    assert_eq!(b.report(2, part_failed(1, 1)), [], "the report is resent");
    assert_eq!(b.part(1, 1, 1), []);
    b.checkpoint(1, 2);
    assert_eq!(b.report(2, part_failed(1, 3)), given_up(3), "not two in a row");
    b.report(2, part_failed(1, 4));
    assert_eq!(b.phase(), "failed");
}

#[test]
fn the_checkpoint_before_a_damaged_one_takes_its_place() {
    let mut b = Bench::checkpointed(1);
    b.checkpoint(1, 2);
    b.report(1, trouble(1, Cause::Peer));
    b.report(1, loaded());
    b.report(2, loaded());
    let out = b.report(2, trouble(2, Cause::Checkpoint));
    let message = "the checkpoint after step 2 is damaged: broken; \
                   the one after step 1 is used instead";
    let damaged = journal([Fact::Damaged { lineage: Lineage(1), step: 2 }]);
    assert_eq!(out[..3], [&[damaged][..], &incident(Some(2), message)].concat());
    assert_eq!(b.report(1, trouble(2, Cause::Checkpoint)), [], "about the same checkpoint");
    b.report(1, loaded());
    let (history, _) = generation(3, 1, &[1, 2]);
    assert_eq!(b.report(2, loaded())[0], journal([history]));
}

#[test]
fn damage_counts_although_a_lost_peer_was_reported_first() {
    let mut b = Bench::checkpointed(1);
    b.checkpoint(1, 2);
    b.report(1, trouble(1, Cause::Peer));
    b.report(1, loaded());
    b.report(2, loaded());
    b.report(1, trouble(2, Cause::Peer));
    b.report(2, trouble(2, Cause::Checkpoint));
    b.report(1, loaded());
    let (history, _) = generation(3, 1, &[1, 2]);
    assert_eq!(b.report(2, loaded())[0], journal([history]));
}

#[test]
fn a_run_whose_every_checkpoint_is_damaged_fails() {
    let mut b = Bench::checkpointed(1);
    b.report(1, trouble(1, Cause::Peer));
    b.report(1, loaded());
    b.report(2, loaded());
    b.report(2, trouble(2, Cause::Checkpoint));
    assert_eq!(b.phase(), "failed");
}

#[test]
fn the_newest_and_the_best_are_kept() {
    let mut b = Bench::training();
    let mut checkpoint = |step, loss| {
        b.report(1, evaluated(1, step, &[(0, loss, 1.0)]));
        b.report(2, evaluated(1, step, &[]));
        b.checkpoint(1, step)
    };
    assert_eq!(checkpoint(1, 3.0), commit(1, retain(1, &[1], Some(1))));
    assert_eq!(checkpoint(2, 1.0), commit(2, retain(1, &[1, 2], Some(2))));
    assert_eq!(checkpoint(3, 2.0), commit(3, retain(1, &[2, 3], Some(2))));
    assert_eq!(checkpoint(4, 1.5), commit(4, retain(1, &[2, 3, 4], Some(2))));
    assert_eq!(checkpoint(5, 1.6), commit(5, retain(1, &[2, 4, 5], Some(2))));
}

#[test]
fn a_checkpoint_that_is_measured_after_its_commit_may_be_the_best() {
    let mut b = Bench::checkpointed(2);
    b.report(1, evaluated(1, 2, &[(0, 1.0, 1.0)]));
    let out = b.report(2, evaluated(1, 2, &[]));
    assert_eq!(out.last(), Some(&retain(1, &[2], Some(2))));
}

#[test]
fn no_checkpoint_is_the_best_if_none_is_measured() {
    let mut b = Bench::checkpointed(1);
    b.checkpoint(1, 2);
    assert_eq!(b.checkpoint(1, 3).last(), Some(&retain(1, &[2, 3], None)));
}

#[test]
fn resent_reports_do_not_make_a_pruned_checkpoint_again() {
    let mut b = Bench::checkpointed(1);
    b.checkpoint(1, 2);
    b.checkpoint(1, 3);
    b.part(1, 1, 1);
    assert_eq!(b.part(2, 1, 1), []);
}

#[test]
fn the_checkpoint_of_the_later_step_is_the_newest_whichever_is_stored_first() {
    let mut b = Bench::training();
    for step in [1, 2] {
        b.part(1, 1, step);
        b.part(2, 1, step);
    }
    b.handle(sealed(1, 2));
    b.handle(sealed(1, 1));
    assert_eq!(b.core.status(&run()).and_then(|s| s.checkpoint_step), Some(2));
}

#[test]
fn a_checkpoint_that_cannot_be_sealed_is_an_incident() {
    let mut b = Bench::training();
    b.part(1, 1, 2);
    b.part(2, 1, 2);
    let outcome = Err("the disk is full".into());
    let failed = Event::Sealed { run: run(), lineage: Lineage(1), step: 2, outcome };
    let message = "the checkpoint after step 2 was given up: the disk is full";
    assert_eq!(b.handle(failed), incident(None, message));
    assert_eq!(b.phase(), "training");
}

#[test]
fn a_last_checkpoint_that_cannot_be_sealed_fails_the_run_whichever_comes_first() {
    let outcome = || Err("the disk is full".into());
    let failed = || Event::Sealed { run: run(), lineage: Lineage(1), step: 4, outcome: outcome() };
    for failed_first in [true, false] {
        let mut b = Bench::training();
        b.part(1, 1, 4);
        b.part(2, 1, 4);
        b.report(1, stopped(1, 4));
        if failed_first {
            b.handle(failed());
            b.report(2, stopped(1, 4));
        } else {
            b.report(2, stopped(1, 4));
            b.handle(failed());
        }
        assert_eq!(b.phase(), "failed", "failed first: {failed_first}");
    }
}

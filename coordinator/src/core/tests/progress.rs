//! Steps, evaluations and checkpoints: put together from all ranks, and from this generation's only.

use super::*;

#[test]
fn a_step_is_put_together_from_all_ranks() {
    let mut b = Bench::training();
    assert_eq!(b.report(2, step_done(2, 1, 0)), []);
    let expected = notify(Notice::Step {
        step: 1,
        steps: 4,
        loss: 2.5,
        lr: 0.1,
        grad_norm: 1.0,
        applied: true,
        samples: 3,
        samples_digest: format!("{:016x}", 48),
        tokens: 300,
        trained_tokens: 30,
        tokens_per_second: 300.0 / 0.7,
        world_size: 2,
        lineage: 1,
        compute_ms: 400,
        reduce_wait_ms: 300,
        sources: BySource::new(),
    });
    assert_eq!(b.report(1, step_done(1, 1, 0)), [expected]);
}

fn named(sources: &[(&str, f64, u64)]) -> BySource {
    let figures = |(name, loss, trained_tokens): &(&str, f64, u64)| {
        let (loss, trained_tokens) = (*loss, *trained_tokens);
        ((*name).to_owned(), SourceFigures { loss, trained_tokens })
    };
    sources.iter().map(figures).collect()
}

#[test]
fn losses_by_source_are_means_over_the_weights_of_all_ranks() {
    let mut b = Bench::training();
    let done = |worker, sums: &[(u32, f64, f64)]| {
        let Report::StepDone(place, done) = step_done(worker, 1, 0) else { unreachable!("it is") };
        let Report::Evaluated(_, _, sources) = evaluated(1, 0, sums) else { unreachable!("it is") };
        Report::StepDone(place, StepDone { sources, ..done })
    };
    b.report(2, done(2, &[(0, 6.0, 2.0), (1, 2.0, 1.0)]));
    let none = b.core.status(&run()).expect("it is known").sources;
    assert_eq!(none, BySource::new(), "one rank has not said its share");
    // A source that the spec does not have is a lie.
    let out = b.report(1, done(1, &[(0, 3.0, 1.0), (7, 9.0, 9.0)]));
    let expected = named(&[("a", 3.0, 10), ("b", 2.0, 5)]);
    let [Command::Notify { notice: Notice::Step { sources, .. }, .. }] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!(*sources, expected);
    assert_eq!(b.core.status(&run()).expect("it is known").sources, expected);
}

#[test]
fn a_source_with_nothing_held_out_has_no_loss() {
    let mut b = Bench::training();
    b.report(1, evaluated(1, 2, &[(1, 4.0, 2.0)]));
    let out = b.report(2, evaluated(1, 2, &[]));
    let by_source = vec![None, Some(2.0)];
    let history = History::Evaluated { step: 2, loss: 2.0, by_source };
    let json = serde_json::to_string(&history).expect("JSON");
    assert_eq!(serde_json::from_str::<History>(&json).expect("what was written"), history);
    let notice = Notice::Eval { step: 2, loss: 2.0, sources: named(&[("b", 2.0, 5)]) };
    assert_eq!(out, [journal([history]), notify(notice)]);
}

#[test]
fn the_held_out_loss_is_a_mean_over_the_weights_of_all_ranks() {
    let mut b = Bench::training();
    assert_eq!(b.report(1, evaluated(1, 2, &[(0, 6.0, 2.0), (1, 1.0, 1.0)])), []);
    let (loss, first, second) = (11.0 / 4.0, 10.0 / 3.0, 1.0);
    let expected = [
        journal([History::Evaluated { step: 2, loss, by_source: vec![Some(first), Some(second)] }]),
        notify(Notice::Eval {
            step: 2,
            loss,
            sources: named(&[("a", first, 10), ("b", second, 5)]),
        }),
    ];
    assert_eq!(b.report(2, evaluated(1, 2, &[(0, 4.0, 1.0)])), expected);
    // Facts are said again on every new stream.
    b.report(1, evaluated(1, 2, &[(0, 6.0, 2.0), (1, 1.0, 1.0)]));
    assert_eq!(b.report(2, evaluated(1, 2, &[(0, 4.0, 1.0)])), [], "it is known");
}

#[test]
fn reports_of_another_generation_or_lineage_are_refused() {
    let mut b = Bench::training();
    let elsewhere = Place { generation: Generation(1), ..place(2) };
    for place in [place(0), place(2), elsewhere, Place { run: RunId::new("x"), ..place(1) }] {
        for stream in [1, 2] {
            let Report::StepDone(_, done) = step_done(stream, 1, 0) else { unreachable!("it is") };
            let Report::PartSaved(_, _, files) = part(stream, 1, 2) else { unreachable!("it is") };
            assert_eq!(b.report(stream, Report::StepDone(place.clone(), done)), []);
            let sums = vec![SourceSum { loss_sum: 1.0, weight: 1.0, ..SourceSum::default() }];
            assert_eq!(b.report(stream, Report::Evaluated(place.clone(), 2, sums)), []);
            assert_eq!(b.report(stream, Report::PartSaved(place.clone(), 2, files)), []);
            assert_eq!(b.report(stream, stopped(place.generation.0 + 1, 4)), []);
        }
    }
    // The same from the right place is heard.
    b.part(1, 1, 2);
    assert_eq!(b.part(2, 1, 2), [seal(1, 2)]);
}

#[test]
fn parts_of_a_fenced_member_never_reach_a_manifest() {
    let mut b = Bench::training();
    b.part(1, 1, 2);
    b.report(3, hello_anew(2));
    assert_eq!(b.part(2, 1, 2), [], "its stream is no longer its own");
    assert_eq!(b.report(3, part(2, 1, 2)), [], "the membership is over");
    b.report(1, loaded());
    b.report(3, loaded());
    assert_eq!(b.phase(), "training");
    assert_eq!(b.report(3, part(2, 1, 2)), [], "it was written under the old membership");
    b.part(1, 2, 2);
    assert_eq!(b.report(3, part(2, 2, 2)), [seal(2, 2)]);
}

#[test]
fn a_manifest_that_a_regroup_has_overtaken_is_not_committed() {
    let mut b = Bench::training();
    b.part(1, 1, 2);
    b.part(2, 1, 2);
    b.report(1, trouble(1, Cause::Peer));
    b.report(1, loaded());
    b.report(2, loaded());
    assert_eq!(b.phase(), "training");
    assert_eq!(b.handle(sealed(1, 2)), []);
}

#[test]
fn a_manifest_that_is_done_before_the_next_generation_is_where_that_begins() {
    let mut b = Bench::training();
    b.part(1, 1, 2);
    b.part(2, 1, 2);
    b.report(1, trouble(1, Cause::Peer));
    assert_eq!(b.handle(sealed(1, 2)), [journal([checkpointed(1, 2)]), checkpoint_notice(1, 2)]);
    b.report(1, loaded());
    let (history, _) = generation(2, 2, &[1, 2]);
    assert_eq!(b.report(2, loaded())[0], journal([history]));
}

#[test]
fn pruning_keeps_the_newest_and_the_best() {
    let mut b = Bench::training();
    let mut checkpoint = |step, loss| {
        b.report(1, evaluated(1, step, &[(0, loss, 1.0)]));
        b.report(2, evaluated(1, step, &[]));
        b.checkpoint(1, step)
    };
    let commit = |step| vec![journal([checkpointed(1, step)]), checkpoint_notice(1, step)];
    assert_eq!(checkpoint(1, 3.0), commit(1));
    assert_eq!(checkpoint(2, 1.0), commit(2));
    assert_eq!(checkpoint(3, 2.0), [commit(3), vec![prune(1, 1)]].concat());
    assert_eq!(checkpoint(4, 1.5), commit(4), "2 is the best");
    assert_eq!(checkpoint(5, 1.6), [commit(5), vec![prune(1, 3)]].concat());
}

#[test]
fn nothing_is_the_best_where_nothing_is_measured() {
    let mut b = Bench::checkpointed(1);
    b.checkpoint(1, 2);
    assert_eq!(b.checkpoint(1, 3).last(), Some(&prune(1, 1)));
}

#[test]
fn a_pruned_checkpoint_is_not_made_again_from_what_is_said_again() {
    let mut b = Bench::checkpointed(1);
    b.checkpoint(1, 2);
    b.checkpoint(1, 3);
    b.part(1, 1, 1);
    assert_eq!(b.part(2, 1, 1), []);
}

#[test]
fn of_two_manifests_the_later_step_is_the_newest_whichever_is_stored_first() {
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
fn a_checkpoint_that_cannot_be_is_an_incident() {
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
fn a_last_checkpoint_that_cannot_be_fails_the_run_whichever_is_heard_first() {
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

#[test]
fn a_held_out_set_without_weight_does_not_hold_the_end_up() {
    let mut b = Bench::checkpointed(4);
    b.report(1, evaluated(1, 4, &[]));
    assert_eq!(b.report(2, evaluated(1, 4, &[])), []);
    b.report(1, stopped(1, 4));
    b.report(2, stopped(1, 4));
    assert_eq!(b.phase(), "finishing");
}

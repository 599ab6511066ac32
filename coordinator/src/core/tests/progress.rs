//! Steps and evaluations, which are put together from the reports of all ranks of the current generation.

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
    assert_eq!(none, BySource::new(), "one rank has not reported its share");
    // Source 7 is not in the spec, so its sum is ignored.
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
    let history = Fact::Evaluated { step: 2, loss: 2.0, by_source };
    let json = serde_json::to_string(&history).expect("JSON");
    assert_eq!(serde_json::from_str::<Fact>(&json).expect("what was written"), history);
    let notice = Notice::Eval { step: 2, loss: 2.0, sources: named(&[("b", 2.0, 5)]) };
    assert_eq!(out, [journal([history]), notify(notice)]);
}

#[test]
fn the_held_out_loss_is_a_mean_over_the_weights_of_all_ranks() {
    let mut b = Bench::training();
    assert_eq!(b.report(1, evaluated(1, 2, &[(0, 6.0, 2.0), (1, 1.0, 1.0)])), []);
    let (loss, first, second) = (11.0 / 4.0, 10.0 / 3.0, 1.0);
    let expected = [
        journal([Fact::Evaluated { step: 2, loss, by_source: vec![Some(first), Some(second)] }]),
        notify(Notice::Eval {
            step: 2,
            loss,
            sources: named(&[("a", first, 10), ("b", second, 5)]),
        }),
    ];
    assert_eq!(b.report(2, evaluated(1, 2, &[(0, 4.0, 1.0)])), expected);
    // Reports are resent on every new stream.
    b.report(1, evaluated(1, 2, &[(0, 6.0, 2.0), (1, 1.0, 1.0)]));
    assert_eq!(b.report(2, evaluated(1, 2, &[(0, 4.0, 1.0)])), [], "the loss is known");
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
    // The same reports count from the right place.
    b.part(1, 1, 2);
    assert_eq!(b.part(2, 1, 2), [seal(1, 2)]);
}

#[test]
fn a_held_out_set_without_weight_does_not_delay_the_end() {
    let mut b = Bench::checkpointed(4);
    b.report(1, evaluated(1, 4, &[]));
    assert_eq!(b.report(2, evaluated(1, 4, &[])), []);
    b.report(1, stopped(1, 4));
    b.report(2, stopped(1, 4));
    assert_eq!(b.phase(), "finishing");
}

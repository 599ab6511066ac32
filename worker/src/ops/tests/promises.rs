//! The tape's guarantees beyond correct gradients.

use std::sync::Arc;

use super::{
    Numbers,
    against_candle::{ATTENTION, LAYERS, VOCABULARY, decoder, decoder_parameters, layer, tokens},
    gradients::{placement, rotary},
    parameters, run, run_on, targets,
};
use crate::device::{Buffer, Device, Dtype, Ledger};
use crate::kernels::{self, Attention};
use crate::ops::Recompute::{self, Light, Off, On};
use crate::ops::array::Array;
use crate::ops::{Documents, Error, KvCache, ParamId, Parameters, Placement, Tape, Target};

const LENGTHS: [usize; 3] = [70, 3, 20];

/// Loss and gradients of the decoder on `LENGTHS`.
fn decode(params: &Parameters, recompute: Recompute) -> (f64, Vec<Vec<f32>>, Vec<ParamId>) {
    let rows = LENGTHS.iter().sum();
    let targets = targets(0..rows, VOCABULARY);
    let tape = Tape::recomputing(params, recompute);
    let (loss, collected) = run_on(tape, |tape| decoder(tape, &tokens(rows), &LENGTHS, &targets));
    (loss, collected.grads, collected.finished)
}

fn with_frozen(frozen: impl Fn(ParamId) -> bool) -> Parameters {
    let mut params = decoder_parameters();
    for p in params.ids().filter(|p| frozen(*p)) {
        params.freeze(p);
    }
    params
}

fn decoder_parameters_in(dtype: Dtype) -> Parameters {
    let mut params = decoder_parameters();
    params.set_dtype(dtype);
    params
}

#[test]
fn recomputation_changes_no_bit() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let params = decoder_parameters_in(dtype);
        for recompute in [Light, On] {
            assert_eq!(decode(&params, recompute), decode(&params, Off), "{recompute:?}");
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let params = decoder_parameters_in(dtype);
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| decode(&params, Off))
        };
        assert_eq!(on(1), on(3));
    }
}

#[test]
fn in_bf16_every_parameter_has_about_the_gradient_of_f32() {
    let (loss, exact, order) = decode(&decoder_parameters(), Off);
    let (rounded_loss, rounded, rounded_order) = decode(&decoder_parameters_in(Dtype::Bf16), Off);
    assert_ne!(loss, rounded_loss, "something was rounded");
    assert!((loss - rounded_loss).abs() < 0.01 * loss, "{loss} {rounded_loss}");
    assert_eq!(order, rounded_order);
    for (p, (exact, rounded)) in exact.iter().zip(&rounded).enumerate() {
        let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>().sqrt();
        let size = norm(&mut exact.iter().copied());
        let difference = norm(&mut exact.iter().zip(rounded).map(|(a, b)| a - b));
        // About 50 operations round by up to 2^-9 each, and norms and softmax amplify what they subtract.
        assert!(size > 0. && difference < 0.1 * size, "parameter {p}: {difference} of {size}");
    }
}

#[test]
fn in_bf16_half_as_many_bytes_are_saved() {
    let saved = |dtype| {
        let params = decoder_parameters_in(dtype);
        let tape = Tape::training(&params);
        let rows: usize = LENGTHS.iter().sum();
        decoder(&tape, &tokens(rows), &LENGTHS, &targets(0..rows, VOCABULARY)).unwrap();
        tape.saved_bytes().into_iter().map(|(_, bytes)| bytes).sum::<usize>()
    };
    // Tokens and log-sum-exps are as large as in f32.
    let words = LENGTHS.iter().sum::<usize>() * (1 + LAYERS * ATTENTION.heads);
    assert_eq!(saved(Dtype::F32) - 4 * words, 2 * (saved(Dtype::Bf16) - 4 * words));
}

#[test]
#[should_panic(expected = "has changed since it was rounded")]
fn parameters_that_have_changed_are_not_used_before_they_are_rounded() {
    let mut params = decoder_parameters_in(Dtype::Bf16);
    params.values_mut(ParamId(1)).write(0, &[1f32]);
    decode(&params, Off);
}

#[test]
fn finished_is_called_in_backward_order_with_the_tied_parameter_last() {
    let params = decoder_parameters();
    let layer = |first: usize| [10, 9, 8, 7, 6, 4, 3, 5, 2, 1, 0].map(|i| ParamId(first + i));
    let last = params.len() - 1;
    let expected: Vec<_> =
        [ParamId(last)].into_iter().chain(layer(12)).chain(layer(1)).chain([ParamId(0)]).collect();
    for recompute in [Off, Light, On] {
        assert_eq!(decode(&params, recompute).2, expected);
    }
}

#[test]
fn finished_is_called_for_parameters_that_do_not_reach_the_loss() {
    let mut params = parameters(&[&[4, 8], &[8, 8], &[8]]);
    params.push("unused", &[3], vec![0.; 3]);
    let targets = targets(0..2, 4);
    let (_, collected) = run(&params, |tape| {
        let x = tape.embed(&[1, 2], ParamId(0))?;
        // This result does not reach the loss.
        tape.rms_norm(&tape.linear(&x, ParamId(1), None)?, ParamId(2), 1e-5)?;
        tape.linear_cross_entropy(&x, ParamId(0), &targets)
    });
    assert_eq!(collected.finished, [2, 1, 0, 3].map(ParamId));
    assert!(collected.grads[1..].iter().flatten().all(|&g| g == 0.));
}

#[test]
fn without_targets_the_loss_is_zero_and_everything_is_finished() {
    let params = decoder_parameters();
    let none: [Target; 0] = [];
    let (loss, collected) = run(&params, |tape| decoder(tape, &tokens(5), &[5], &none));
    assert_eq!(loss, 0.);
    assert_eq!(collected.finished.len(), params.len());
    assert!(collected.grads.iter().flatten().all(|&g| g == 0.));
}

#[test]
fn freezing_some_parameters_leaves_the_other_gradients_unchanged() {
    let (_, all, _) = decode(&decoder_parameters(), Off);
    // The test's `slots` panics when asked for a frozen parameter.
    let frozen = |p: ParamId| p.0 < 12 || p.0.is_multiple_of(3);
    let params = with_frozen(frozen);
    for recompute in [Off, Light, On] {
        let (_, some, finished) = decode(&params, recompute);
        assert_eq!(finished.len(), params.ids().filter(|&p| !frozen(p)).count());
        for p in params.ids() {
            let expected = if frozen(p) { vec![0.; all[p.0].len()] } else { all[p.0].clone() };
            assert_eq!(some[p.0], expected, "{p:?}");
        }
    }
}

#[test]
fn nothing_is_saved_below_the_first_trained_parameter() {
    let last_layer = 1 + (LAYERS - 1) * 11;
    let params = with_frozen(|p| p.0 < last_layer + 8);
    let tape = Tape::training(&params);
    let rows: usize = LENGTHS.iter().sum();
    decoder(&tape, &tokens(rows), &LENGTHS, &targets(0..rows, VOCABULARY)).unwrap();
    let names: Vec<_> = tape.saved_bytes().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["linear", "linear", "swiglu", "linear", "add", "rms_norm"]);
}

#[test]
fn recomputation_saves_only_the_inputs_of_layers() {
    let params = decoder_parameters();
    let rows: usize = LENGTHS.iter().sum();
    let saved = |recompute| {
        let tape = Tape::recomputing(&params, recompute);
        let targets = targets(0..rows, VOCABULARY);
        decoder(&tape, &tokens(rows), &LENGTHS, &targets).unwrap();
        tape.saved_bytes().into_iter().map(|(_, bytes)| bytes).sum::<usize>()
    };
    assert!(saved(On) * 10 < saved(Off), "{} {}", saved(On), saved(Off));
}

/// Operations that share memory count it twice, so this counts what a rehearsal holds.
#[test]
fn light_recomputation_saves_neither_norm_outputs_nor_gate_products() {
    let rows: usize = LENGTHS.iter().sum();
    let held = |recompute| {
        let ledger = Ledger::of_host();
        let mut params = Parameters::new(kernels::rehearsal(ledger.clone()));
        for p in decoder_parameters().ids() {
            params.push_zeros("p", decoder_parameters().shape(p));
        }
        let before = ledger.bytes();
        let tape = Tape::recomputing(&params, recompute);
        let targets = targets(0..rows, VOCABULARY);
        let loss = decoder(&tape, &tokens(rows), &LENGTHS, &targets).unwrap();
        let held = ledger.bytes() - before;
        drop((loss, tape));
        held
    };
    let shape = |p: usize| decoder_parameters().shape(ParamId(1 + p)).to_vec();
    // Two norms of the residual stream, and the product of gate and up.
    let (width, inner) = (shape(1)[1], shape(8)[0]);
    let saved = rows * (2 * width + inner) * LAYERS * size_of::<f32>();
    assert_eq!(held(Off) - held(Light), saved);
}

#[test]
fn packed_documents_equal_separate_documents() {
    let params = decoder_parameters();
    let rows: usize = LENGTHS.iter().sum();
    let (tokens, targets) = (tokens(rows), targets(0..rows, VOCABULARY));
    let (packed_loss, packed) = run(&params, |tape| decoder(tape, &tokens, &LENGTHS, &targets));

    let (mut loss, mut start) = (0., 0);
    let mut sums: Vec<_> = params.ids().map(|p| vec![0f32; params.elements(p)]).collect();
    for len in LENGTHS {
        let own = start..start + len;
        let targets: Vec<_> = targets
            .iter()
            .filter(|t| own.contains(&(t.row as usize)))
            .map(|t| Target { row: t.row - start as u32, ..*t })
            .collect();
        let (part, collected) = run(&params, |tape| decoder(tape, &tokens[own], &[len], &targets));
        loss += part;
        for (sum, grad) in sums.iter_mut().zip(collected.grads) {
            sum.iter_mut().zip(grad).for_each(|(sum, grad)| *sum += grad);
        }
        start += len;
    }
    assert!((loss - packed_loss).abs() < 1e-6 * loss, "{loss} {packed_loss}");
    for (p, (sum, grad)) in sums.iter().zip(&packed.grads).enumerate() {
        let size = sum.iter().map(|x| x * x).sum::<f32>().sqrt();
        let pairs = sum.iter().zip(grad);
        let difference = pairs.map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
        assert!(difference <= 1e-5 * size, "{p}: {difference} {size}");
    }
}

#[test]
fn cached_attention_equals_attention_over_the_whole_sequence() {
    let params = decoder_parameters();
    let mut numbers = Numbers::new(5);
    let (rows, width) = (80, 24);
    let rotary = rotary(rows, ATTENTION.head_dim);
    let tape = Tape::inference(&params);
    let value = |data: Vec<f32>, cols: usize| {
        let rows = data.len() / cols;
        tape.input(Arc::new(Array::new(Buffer::from(data), rows, cols)), false)
    };
    for window in [None, Some(5)] {
        let a = Attention { window, ..ATTENTION };
        let [q, k, v] = [width, 12, 12].map(|cols| (numbers.take(rows * cols), cols));
        let whole = |(data, cols): &(Vec<f32>, usize)| value(data.clone(), *cols);
        let place = placement(&[rows], ATTENTION.head_dim);
        let expected = tape.attention([&whole(&q), &whole(&k), &whole(&v)], &place, &a).unwrap();
        let mut cache = KvCache::new();
        let mut got = Vec::new();
        for part in [0..67, 67..68, 68..69, 69..72, 72..80] {
            let [q, k, v] = [&q, &k, &v].map(|(data, cols)| {
                value(data[part.start * cols..part.end * cols].to_vec(), *cols)
            });
            let y = tape.attention_cached([&q, &k, &v], &rotary, &mut cache, &a).unwrap();
            got.extend_from_slice(&y.read());
        }
        assert_eq!(cache.positions(), rows);
        let expected = expected.read();
        let largest = got.iter().zip(&*expected).map(|(a, b)| (a - b).abs()).fold(0., f32::max);
        assert!(largest < 1e-6, "{largest}");
    }
}

#[test]
fn evaluation_gives_the_loss_of_training() {
    let params = decoder_parameters();
    let rows = LENGTHS.iter().sum();
    let targets = targets(0..rows, VOCABULARY);
    let tape = Tape::inference(&params);
    let loss = decoder(&tape, &tokens(rows), &LENGTHS, &targets).unwrap();
    assert_eq!(loss.value(), decode(&params, Off).0);
    assert!(tape.saved_bytes().is_empty());
}

#[test]
fn large_logits_do_not_overflow_the_loss() {
    let mut params = parameters(&[&[2, 2], &[3, 2]]);
    params.values_mut(ParamId(0)).write(0, &[300f32, -300., 1., 1.]);
    params.values_mut(ParamId(1)).write(0, &[300f32, 0., 0., 300., 1., 1.]);
    let target = Target { row: 0, token: 2, weight: 1. };
    let (loss, collected) = run(&params, |tape| {
        tape.linear_cross_entropy(&tape.embed(&[0], ParamId(0))?, ParamId(1), &[target])
    });
    assert_eq!(loss, 90_000.);
    assert!(collected.grads.iter().flatten().all(|g| g.is_finite()));
}

#[test]
fn bad_operands_are_refused_by_name() {
    let params = parameters(&[&[4, 8], &[6, 7]]);
    let tape = Tape::training(&params);
    let x = tape.embed(&[0, 3], ParamId(0)).unwrap();
    let text = |error: Option<Error>| error.unwrap().to_string();
    assert_eq!(text(tape.embed(&[4], ParamId(0)).err()), "token 4 is outside the vocabulary of 4");
    assert_eq!(
        text(tape.linear(&x, ParamId(1), None).err()),
        "linear: expected 7 features for `p1`, got 8"
    );
    let target = Target { row: 2, token: 0, weight: 1. };
    assert_eq!(
        text(tape.linear_cross_entropy(&x, ParamId(0), &[target]).err()),
        "linear_cross_entropy: expected targets of 2 rows, got row 2"
    );
    let documents = Documents::of_lengths([2]);
    let place = Placement::new(&Device::Host, Arc::new(rotary(1, 8)), documents);
    let a = Attention { heads: 1, kv_heads: 1, head_dim: 8, scale: 1., window: None };
    assert_eq!(
        text(tape.attention([&x; 3], &Arc::new(place), &a).err()),
        "position 1 is outside the rotary tables of 1 positions"
    );
}

#[test]
fn a_decoder_layer_needs_no_gradient_on_an_inference_tape() {
    let params = decoder_parameters();
    let tape = Tape::inference(&params);
    let place = placement(&[4], 6);
    let x = tape.embed(&tokens(4), ParamId(0)).unwrap();
    let y = layer(&tape, &x, 1, &place).unwrap();
    assert!(!y.needs_grad());
}

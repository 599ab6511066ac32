//! Cases of the gradient norm and AdamW, which are f32 whatever the type of activations.

use super::case::{Case, Expected, Output, input};
use super::near::Near;
use super::numbers::Numbers;
use super::reference::{self, AdamW};
use crate::device::Dtype;

const F32: Dtype = Dtype::F32;

/// Numbers of elements: none, one, partial vectors, several tasks.
const LENGTHS: [usize; 6] = [0, 1, 17, 64, 1000, 200_003];

pub(super) fn cases() -> Vec<Case> {
    let mut numbers = Numbers::new(8);
    let mut cases = Vec::new();
    for len in LENGTHS {
        for size in [1., 1e20, 1e-20] {
            let x = numbers.within(size, F32, len);
            cases.push(squares(format!("{len} up to {size:e}"), &x, None));
        }
        cases.push(one_update(&mut numbers, len, false));
        cases.push(one_update(&mut numbers, len, true));
    }
    cases.extend(odd_squares(&mut numbers));
    for weight_decay in [0.1, 0.] {
        cases.push(updates(&mut numbers, weight_decay));
    }
    cases
}

fn squares(about: String, x: &[f64], expected: Option<Expected>) -> Case {
    let expected = expected.unwrap_or(reference::sum_squares(x).into());
    let sum = Output::fresh(Dtype::F64, vec![expected]);
    Case::new("sum_squares", about, [input(F32, x)], [sum], |k, [x], [sum]| k.sum_squares(sum, x))
}

/// Sums whose terms f32 could not hold, and sums that are not finite.
fn odd_squares(numbers: &mut Numbers) -> Vec<Case> {
    let mut mixed = numbers.within(1e-20, F32, 3000);
    let large = numbers.within(1e20, F32, 3000);
    for i in (0..mixed.len()).step_by(700) {
        mixed[i] = large[i];
    }
    let mut cases = vec![squares("1e20 and 1e-20".into(), &mixed, None)];
    for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for (len, at) in [(1, 0), (50, 49), (200_003, 100_000)] {
            let mut x = numbers.within(1., F32, len);
            x[at] = odd;
            let about = format!("{len}, {odd} among them");
            cases.push(squares(about, &x, Some(Expected::NonFinite)));
        }
    }
    cases
}

fn setting(weight_decay: f64) -> AdamW {
    AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay, gradient_scale: 0.25 }
}

/// One update in the middle of a run, compared bit by bit; with `bf16`, it rounds the parameters, too.
fn one_update(numbers: &mut Numbers, len: usize, bf16: bool) -> Case {
    let step = setting(0.1).step(7);
    let [p, m, g] = [2., 0.1, 3.].map(|size| numbers.within(size, F32, len));
    let mut v = numbers.within(0.2, F32, len);
    v.iter_mut().for_each(|v| *v = v.abs());
    let mut expected = [(); 3].map(|()| Vec::new());
    for i in 0..len {
        let state = [p[i], m[i], v[i]].map(|x| x as f32);
        let state = reference::adamw_bits(state, g[i] as f32, &step);
        for (expected, x) in expected.iter_mut().zip(state) {
            expected.push(Expected::Same(f64::from(x)));
        }
    }
    let [new_p, new_m, new_v] = expected;
    let rounded: Vec<Expected> = new_p.iter().map(|p| p.rounded(Dtype::Bf16)).collect();
    let outs = [(p, new_p), (m, new_m), (v, new_v)];
    let outs = outs.map(|(start, expected)| Output::of(F32, start, expected));
    let about = format!("{len}, update 7");
    let ins = [input(F32, &g)];
    if !bf16 {
        return Case::new("adamw", about, ins, outs, move |k, [g], state| {
            k.adamw(state, None, g, &step);
        });
    }
    let [p, m, v] = outs;
    let outs = [p, m, v, Output::fresh(Dtype::Bf16, rounded)];
    Case::new("adamw", format!("{about}, rounded"), ins, outs, move |k, [g], [p, m, v, rounded]| {
        k.adamw([p, m, v], Some(rounded), g, &step);
    })
}

/// Five updates from zero moments; one element never has a gradient.
fn updates(numbers: &mut Numbers, weight_decay: f64) -> Case {
    const LEN: usize = 1003;
    let adamw = setting(weight_decay);
    let p = numbers.within(2., F32, LEN);
    let gradients = [(); 5].map(|()| {
        let mut g = numbers.within(3., F32, LEN);
        g[LEN / 2] = 0.;
        g
    });
    let mut state: Vec<[Near; 3]> = p.iter().map(|p| [*p, 0., 0.].map(Near::exact)).collect();
    for (count, g) in (1..).zip(&gradients) {
        for (state, g) in state.iter_mut().zip(g) {
            *state = adamw.update(*state, *g, count);
        }
    }
    let part = |of: usize| state.iter().map(|state| state[of]).collect();
    let zeros = || vec![0.; LEN];
    let outs = [
        Output::of(F32, p, part(0)),
        Output::of(F32, zeros(), part(1)),
        Output::of(F32, zeros(), part(2)),
    ];
    let ins = gradients.each_ref().map(|g| input(F32, g));
    let about = format!("{LEN}, five updates, decay {weight_decay}");
    Case::new("adamw", about, ins, outs, move |k, gradients, mut state| {
        for (count, g) in (1..).zip(gradients) {
            let state = state.each_mut().map(|x| x.reborrow());
            k.adamw(state, None, g, &adamw.step(count));
        }
    })
}

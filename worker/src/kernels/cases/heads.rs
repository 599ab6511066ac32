//! Cases of splitting rows into heads and merging them back.

use super::case::{Case, Input, Output, input};
use super::numbers::{Numbers, rounded};
use super::reference::{self, Tables, Turned};
use crate::device::{Dtype, Window};
use crate::kernels::{Heads, Onto, Out, Rotation, Turn};

/// Numbers of rows, heads, features per head, and heads that are summed: none, one, partial vectors, several tasks.
const SHAPES: [[usize; 4]; 9] = [
    [0, 2, 4, 1],
    [1, 1, 2, 1],
    [7, 3, 6, 1],
    [5, 4, 10, 2],
    [3, 8, 34, 4],
    [1, 4, 64, 4],
    [70, 6, 16, 3],
    [301, 2, 64, 1],
    [290, 4, 32, 2],
];

/// Number of positions in the tables.
const POSITIONS: usize = 40;

pub(super) fn cases(dtype: Dtype) -> Vec<Case> {
    let mut numbers = Numbers::new(5);
    let mut cases = Vec::new();
    for shape in SHAPES {
        for scale in [1., 0.375] {
            for rotated in [false, true] {
                let turned = turned(&mut numbers, [shape[0], shape[2]], rotated, scale);
                cases.push(split(&mut numbers, dtype, shape, &turned));
                for onto in [Onto::Fresh, Onto::Sum] {
                    cases.push(merge(&mut numbers, dtype, shape, (&turned, onto)));
                }
            }
        }
    }
    // Without a rotation, the number of features may be odd.
    cases.push(split(&mut numbers, dtype, [5, 3, 7, 1], &Turned::NONE));
    cases.push(merge(&mut numbers, dtype, [5, 3, 7, 3], (&Turned::NONE, Onto::Fresh)));
    cases
}

fn turned(
    numbers: &mut Numbers,
    [rows, head_dim]: [usize; 2],
    rotated: bool,
    scale: f32,
) -> Turned {
    let half = head_dim / 2;
    let angle = |i: usize| (i / half) as f64 * 0.7 / (1. + (i % half) as f64);
    let table = |of: fn(f64) -> f64| {
        (0..POSITIONS * half).map(|i| rounded(of(angle(i)), Dtype::F32)).collect()
    };
    let rotation = rotated.then(|| Tables {
        cos: table(f64::cos),
        sin: table(f64::sin),
        positions: numbers.below(POSITIONS, rows),
    });
    Turned { rotation, scale }
}

fn inputs(dtype: Dtype, x: &[f64], turned: &Turned) -> [Input; 4] {
    let none = Tables { cos: Vec::new(), sin: Vec::new(), positions: Vec::new() };
    let tables = turned.rotation.as_ref().unwrap_or(&none);
    [
        input(dtype, x),
        input(Dtype::F32, &tables.cos),
        input(Dtype::F32, &tables.sin),
        input(Dtype::U32, &tables.positions),
    ]
}

fn turn<'a>([cos, sin, positions]: [Window<'a>; 3], rotated: bool, scale: f32) -> Turn<'a> {
    Turn { rotation: rotated.then_some(Rotation { cos, sin, positions }), scale }
}

fn about([rows, heads, head_dim, group]: [usize; 4], turned: &Turned) -> String {
    let Turned { rotation, scale } = turned;
    let rotated = if rotation.is_some() { ", rotated" } else { "" };
    format!("{rows} rows of {heads} heads of {head_dim} by {group}{rotated}, times {scale}")
}

fn split(numbers: &mut Numbers, dtype: Dtype, shape: [usize; 4], turned: &Turned) -> Case {
    let [rows, heads, head_dim, _] = shape;
    let own = Heads { heads, head_dim };
    let x = numbers.within(2., dtype, rows * heads * head_dim);
    let y = Output::fresh(dtype, reference::split_heads(&x, own, turned));
    let ins = inputs(dtype, &x, turned);
    let (rotated, scale) = (turned.rotation.is_some(), turned.scale);
    let about = about(shape, turned);
    Case::new("split_heads", about, ins, [y], move |k, [x, cos, sin, positions], [y]| {
        k.split_heads(y, x, own, turn([cos, sin, positions], rotated, scale));
    })
}

fn merge(
    numbers: &mut Numbers,
    dtype: Dtype,
    shape: [usize; 4],
    (turned, onto): (&Turned, Onto),
) -> Case {
    let [rows, heads, head_dim, group] = shape;
    let own = Heads { heads, head_dim };
    let x = numbers.within(2., dtype, rows * heads * head_dim);
    let result = reference::merge_heads(&x, own, group, turned);
    let y = Output::onto(dtype, onto, numbers, &result);
    let ins = inputs(dtype, &x, turned);
    let (rotated, scale) = (turned.rotation.is_some(), turned.scale);
    let about = format!("{}, {onto:?}", about(shape, turned));
    Case::new("merge_heads", about, ins, [y], move |k, [x, cos, sin, positions], [to]| {
        k.merge_heads(Out { to, onto }, x, own, turn([cos, sin, positions], rotated, scale));
    })
}

//! One call of a kernel on given windows, with its expected outputs.
//!
//! ```text
//! first run    windows at the start of their buffers    a pool of one thread
//! second run   windows in the middle of their buffers   a pool of three
//! ```
//!
//! Inputs are surrounded by NaN, so that reads beyond a window are noticed; outputs are surrounded by guard values,
//! which must not change. Both runs must give equal bits.

use super::near::Near;
use super::numbers::{Numbers, rounded};
use crate::device::{Buffer, Device, Dtype, Window, WindowMut};
use crate::kernels::{Kernels, Onto};
use half::bf16;
use rayon::ThreadPool;
use xxhash_rust::xxh3::Xxh3Default;

/// Number of elements before a window in the second run: odd, so that no vector is aligned.
const BEFORE: usize = 3;
/// Number of elements after a window.
const AFTER: usize = 5;
/// The value of the elements around an output.
const GUARD: f64 = -77.;

type Run = dyn Fn(&dyn Kernels, Vec<Window<'_>>, Vec<WindowMut<'_>>) + Send + Sync;

/// One call of a kernel on given windows.
pub(super) struct Case {
    /// Name of the kernel.
    pub(super) call: &'static str,
    about: String,
    inputs: Vec<Input>,
    outputs: Vec<Output>,
    run: Box<Run>,
}

impl Case {
    pub(super) fn new<const I: usize, const O: usize>(
        call: &'static str,
        about: impl Into<String>,
        inputs: [Input; I],
        outputs: [Output; O],
        run: impl Fn(&dyn Kernels, [Window<'_>; I], [WindowMut<'_>; O]) + Send + Sync + 'static,
    ) -> Self {
        let run = move |kernels: &dyn Kernels, ins: Vec<Window<'_>>, outs: Vec<WindowMut<'_>>| {
            let ins = <[Window<'_>; I]>::try_from(ins).ok().expect("one window per input");
            let outs = <[WindowMut<'_>; O]>::try_from(outs).ok().expect("one window per output");
            run(kernels, ins, outs);
        };
        let (inputs, outputs) = (inputs.into(), outputs.into());
        Self { call, about: about.into(), inputs, outputs, run: Box::new(run) }
    }

    /// Runs the case twice, adds its outputs to `digest`, and returns a description of every failure.
    pub(super) fn check(
        &self,
        kernels: &dyn Kernels,
        pools: &[ThreadPool; 2],
        digest: &mut Xxh3Default,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        let [one, three] = pools;
        let first = one.install(|| self.outcome(kernels, 0, &mut wrong));
        let second = three.install(|| self.outcome(kernels, BEFORE, &mut wrong));
        digest.update(bytemuck::cast_slice(&bits(&first)));
        if bits(&first) != bits(&second) {
            wrong.push(format!("{}: different bits in the second run", self.name()));
        }
        wrong
    }

    fn name(&self) -> String {
        format!("{} of {}", self.call, self.about)
    }

    /// Runs the call, and returns all output elements whose values are specified.
    fn outcome(&self, kernels: &dyn Kernels, before: usize, wrong: &mut Vec<String>) -> Vec<f64> {
        let device = kernels.device();
        let inputs = self.inputs.iter();
        let inputs: Vec<Buffer> = inputs
            .map(|input| place(device, input.dtype, &surrounded(&input.values, before, f64::NAN)))
            .collect();
        let outputs = self.outputs.iter();
        let mut outputs: Vec<Buffer> = outputs
            .map(|output| place(device, output.dtype, &surrounded(&output.start, before, GUARD)))
            .collect();

        let of = |values: &[f64]| before..before + values.len();
        let ins = inputs.iter().zip(&self.inputs).map(|(b, i)| b.window(of(&i.values))).collect();
        let outs = outputs.iter_mut().zip(&self.outputs);
        let outs = outs.map(|(b, o)| b.window_mut(of(&o.start))).collect();
        (self.run)(kernels, ins, outs);

        let mut specified = Vec::new();
        for (n, (buffer, output)) in outputs.iter().zip(&self.outputs).enumerate() {
            let got = contents(buffer);
            let own = of(&output.start);
            let (left, right) = (&got[..own.start], &got[own.end..]);
            if left.iter().chain(right).any(|x| *x != GUARD) {
                wrong.push(format!("{}: output {n}, written beyond its window", self.name()));
            }
            let got = &got[own];
            if let Some(at) = output.first_misfit(got) {
                let expected = output.expected[at];
                let count = output.misfits(got);
                wrong.push(format!(
                    "{}: output {n}, {count} of {} elements; [{at}] is {:e}, expected {expected:?}",
                    self.name(),
                    got.len(),
                    got[at],
                ));
            }
            let pairs = output.expected.iter().zip(got);
            specified.extend(pairs.filter(|(e, _)| !matches!(e, Expected::Any)).map(|(_, x)| *x));
        }
        specified
    }
}

/// An input of a call.
pub(super) struct Input {
    dtype: Dtype,
    values: Vec<f64>,
}

/// An input that holds `values`, which must be numbers of `dtype`.
pub(super) fn input(dtype: Dtype, values: &[f64]) -> Input {
    assert_representable(dtype, values);
    Input { dtype, values: values.to_vec() }
}

/// An output of a call.
pub(super) struct Output {
    dtype: Dtype,
    start: Vec<f64>,
    expected: Vec<Expected>,
}

/// The expected value of an element after a call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expected {
    /// A computed result, within its slack.
    Near(Near),
    /// Exactly this value.
    Same(f64),
    /// NaN or infinite.
    NonFinite,
    /// NaN.
    Nan,
    /// Any value.
    Any,
}

impl Expected {
    fn fits(self, got: f64, dtype: Dtype) -> bool {
        match self {
            Self::Near(near) => {
                let stored = near.rounded(dtype);
                assert!(stored.slack.is_finite(), "{near:?} says nothing");
                (got - near.value).abs() <= stored.slack
            }
            Self::Same(value) => got == value,
            Self::NonFinite => !got.is_finite(),
            Self::Nan => got.is_nan(),
            Self::Any => true,
        }
    }
}

impl Expected {
    /// An exact value after it was rounded.
    pub(super) fn rounded(self, dtype: Dtype) -> Self {
        match self {
            Self::Same(value) => Self::Same(rounded(value, dtype)),
            other => panic!("{other:?} is not exact"),
        }
    }
}

impl From<Near> for Expected {
    fn from(near: Near) -> Self {
        Self::Near(near)
    }
}

impl Output {
    /// An output that holds `start` before the call.
    pub(super) fn of<E: Into<Expected>>(dtype: Dtype, start: Vec<f64>, expected: Vec<E>) -> Self {
        assert_eq!(start.len(), expected.len(), "one expectation per element");
        assert_representable(dtype, &start);
        Self { dtype, start, expected: expected.into_iter().map(Into::into).collect() }
    }

    /// An output whose contents before the call must not matter.
    pub(super) fn fresh<E: Into<Expected>>(dtype: Dtype, expected: Vec<E>) -> Self {
        Self::of(dtype, vec![f64::NAN; expected.len()], expected)
    }

    /// An output whose contents are replaced by `result`, or to which `result` is added.
    pub(super) fn onto(dtype: Dtype, onto: Onto, numbers: &mut Numbers, result: &[Near]) -> Self {
        match onto {
            Onto::Fresh => Self::fresh(dtype, result.to_vec()),
            Onto::Sum => {
                let start = numbers.within(1., dtype, result.len());
                let sums = start.iter().zip(result).map(|(y, x)| Near::exact(*y) + *x).collect();
                Self::of(dtype, start, sums)
            }
        }
    }

    fn first_misfit(&self, got: &[f64]) -> Option<usize> {
        let mut pairs = self.expected.iter().zip(got);
        pairs.position(|(expected, got)| !expected.fits(*got, self.dtype))
    }

    fn misfits(&self, got: &[f64]) -> usize {
        let pairs = self.expected.iter().zip(got);
        pairs.filter(|(expected, got)| !expected.fits(**got, self.dtype)).count()
    }
}

fn assert_representable(dtype: Dtype, values: &[f64]) {
    let fits = |x: &f64| x.is_nan() || rounded(*x, dtype) == *x;
    assert!(values.iter().all(fits), "a number is not a {dtype:?}");
}

fn surrounded(values: &[f64], before: usize, by: f64) -> Vec<f64> {
    let around = |len| std::iter::repeat_n(by, len);
    around(before).chain(values.iter().copied()).chain(around(AFTER)).collect()
}

fn place(device: &Device, dtype: Dtype, values: &[f64]) -> Buffer {
    match dtype {
        Dtype::F32 => device.upload(values.iter().map(|x| *x as f32).collect()),
        Dtype::Bf16 => device.upload(values.iter().map(|x| bf16::from_f32(*x as f32)).collect()),
        Dtype::F64 => device.upload(values.to_vec()),
        // Row indices and tokens are surrounded by an index that no matrix has.
        Dtype::U32 => {
            let whole = |x: &f64| if x.is_nan() { u32::MAX } else { *x as u32 };
            device.upload(values.iter().map(whole).collect())
        }
    }
}

fn contents(buffer: &Buffer) -> Vec<f64> {
    match buffer.dtype() {
        Dtype::F32 => buffer.read::<f32>().iter().map(|x| f64::from(*x)).collect(),
        Dtype::Bf16 => buffer.read::<bf16>().iter().map(|x| x.to_f64()).collect(),
        Dtype::F64 => buffer.read::<f64>().to_vec(),
        Dtype::U32 => buffer.read::<u32>().iter().map(|x| f64::from(*x)).collect(),
    }
}

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|x| x.to_bits()).collect()
}

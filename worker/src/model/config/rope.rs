//! The rotary position embedding: the rotation frequency of each pair of a head's elements, and the tables computed
//! from it.
//!
//! The formulas are those of transformers' `modeling_rope_utils.py`, in f32 where it computes in f32, so that far
//! positions are rotated by the same angle. `dynamic` and `longrope` are refused: their angles depend on the longest
//! sequence of a batch, so packing would change the numbers.

use std::f64::consts::PI;

use super::fields::Fields;
use crate::model::error::Error;

/// How queries and keys are rotated by position.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The base whose powers determine the wavelengths.
    pub theta: f64,
    /// How the wavelengths are stretched for longer contexts.
    pub scaling: Scaling,
}

/// The implemented ways to stretch a rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// No stretching.
    Default,
    /// All angles are divided by one factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: only slow pairs are stretched, with a ramp between slow and fast pairs.
    Llama3 {
        /// The divisor of the slow pairs.
        factor: f64,
        /// Pairs with fewer rotations than this over the original context are slow.
        low_freq_factor: f64,
        /// Pairs with more rotations than this are left unchanged.
        high_freq_factor: f64,
        /// The original context length.
        original: f64,
    },
    /// YaRN (arXiv 2309.00071, section 3.2), as interpreted by transformers.
    Yarn {
        /// The divisor of the slow pairs.
        factor: f64,
        /// Start and end of the ramp, as indices of pairs.
        ramp: (f64, f64),
        /// The factor of cosines and sines.
        attention_factor: f64,
    },
}

/// Cosines and sines for every position, `[positions, head_dim / 2]`, row-major.
pub(in crate::model) struct Tables {
    pub(in crate::model) cos: Vec<f32>,
    pub(in crate::model) sin: Vec<f32>,
}

impl Rope {
    pub(super) fn parse(
        fields: Fields<'_>,
        head_dim: usize,
        max_positions: usize,
    ) -> Result<Self, Error> {
        // Like transformers 5, which reads both keys: the older one takes precedence unless it is null.
        let inner = match fields.inner("rope_scaling", "rope_scaling.")? {
            None => fields.inner("rope_parameters", "rope_parameters.")?,
            older => older,
        };
        let theta = fields.number("rope_theta", 10_000.0)?;
        let Some(inner) = inner else {
            return Self { theta, scaling: Scaling::Default }.checked(fields);
        };
        if let Some(key) = inner.has_objects() {
            let hint =
                "only models with one rotary embedding for all layers are supported".to_owned();
            return Err(inner.not_implemented(key, hint));
        }
        if inner.number("partial_rotary_factor", 1.0)? != 1.0 {
            let hint = "only models that rotate whole heads are supported".to_owned();
            return Err(inner.not_implemented("partial_rotary_factor", hint));
        }
        let theta = inner.number("rope_theta", theta)?;
        let key = if inner.is_set("rope_type") { "rope_type" } else { "type" };
        let original = match fields.optional_number("original_max_position_embeddings")? {
            Some(outside) => outside,
            None => inner.number("original_max_position_embeddings", max_positions as f64)?,
        };
        let scaling = match inner.text(key)?.unwrap_or("default") {
            "default" => Scaling::Default,
            "linear" => Scaling::Linear { factor: inner.positive("factor")? },
            "llama3" => Scaling::Llama3 {
                factor: inner.positive("factor")?,
                low_freq_factor: inner.positive("low_freq_factor")?,
                high_freq_factor: inner.positive("high_freq_factor")?,
                original,
            },
            "yarn" => {
                let context = Context { theta, head_dim, original, max_positions };
                yarn(inner, context)?
            }
            _ => {
                let hint =
                    "the types `default`, `linear`, `llama3` and `yarn` are supported".to_owned();
                return Err(inner.not_implemented(key, hint));
            }
        };
        Self { theta, scaling }.checked(fields)
    }

    fn checked(self, fields: Fields<'_>) -> Result<Self, Error> {
        if self.theta > 0.0 { Ok(self) } else { Err(fields.wrong("rope_theta", "above 0".into())) }
    }

    /// The tables for positions `0..positions`, with scaling included.
    pub(in crate::model) fn tables(&self, head_dim: usize, positions: usize) -> Tables {
        let turns = self.frequencies(head_dim);
        let scale = match self.scaling {
            Scaling::Yarn { attention_factor, .. } => attention_factor as f32,
            Scaling::Default | Scaling::Linear { .. } | Scaling::Llama3 { .. } => 1.0,
        };
        let mut tables = Tables {
            cos: Vec::with_capacity(positions * turns.len()),
            sin: Vec::with_capacity(positions * turns.len()),
        };
        for position in 0..positions {
            for turn in &turns {
                // The angle is rounded to f32 as in transformers; its sine and cosine are exact to the last bit.
                let angle = f64::from(position as f32 * turn);
                tables.cos.push(angle.cos() as f32 * scale);
                tables.sin.push(angle.sin() as f32 * scale);
            }
        }
        tables
    }

    /// The rotation of each pair, in radians per position.
    fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        let wave = |pair: usize| {
            let exponent = (2 * pair) as f32 / head_dim as f32;
            self.theta.powf(f64::from(exponent)) as f32
        };
        let pairs = 0..head_dim / 2;
        match self.scaling {
            Scaling::Default => pairs.map(|pair| 1.0 / wave(pair)).collect(),
            Scaling::Linear { factor } => {
                pairs.map(|pair| 1.0 / wave(pair) / factor as f32).collect()
            }
            Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => pairs
                .map(|pair| {
                    let turn = 1.0 / wave(pair);
                    let rounds = original / (2.0 * PI / f64::from(turn));
                    let (low, high) = (low_freq_factor, high_freq_factor);
                    let kept = ((rounds - low) / (high - low)).clamp(0.0, 1.0) as f32;
                    (1.0 - kept) * turn / factor as f32 + kept * turn
                })
                .collect(),
            Scaling::Yarn { factor, ramp: (low, high), .. } => pairs
                .map(|pair| {
                    let stretched = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0) as f32;
                    let wave = wave(pair);
                    stretched / (factor as f32 * wave) + (1.0 - stretched) / wave
                })
                .collect(),
        }
    }
}

/// Inputs of YaRN besides its own keys.
struct Context {
    theta: f64,
    head_dim: usize,
    original: f64,
    max_positions: usize,
}

fn yarn(inner: Fields<'_>, context: Context) -> Result<Scaling, Error> {
    let factor = match inner.is_set("factor") {
        true => inner.positive("factor")?,
        false => context.max_positions as f64 / context.original,
    };
    // Zero means "not given" here, as in Python's `or`.
    let given = |key| Ok::<_, Error>(inner.optional_number(key)?.filter(|number| *number != 0.0));
    let mscale = |by: f64| {
        if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 }
    };
    let attention_factor = match inner.optional_number("attention_factor")? {
        Some(factor) => factor,
        None => match (given("mscale")?, given("mscale_all_dim")?) {
            (Some(above), Some(below)) => mscale(above) / mscale(below),
            _ => mscale(1.0),
        },
    };
    let dim = context.head_dim as f64;
    let pair_turning = |rounds: f64| {
        dim * (context.original / (rounds * 2.0 * PI)).ln() / (2.0 * context.theta.ln())
    };
    let mut low = pair_turning(given("beta_fast")?.unwrap_or(32.0));
    let mut high = pair_turning(given("beta_slow")?.unwrap_or(1.0));
    if inner.flag("truncate", true)? {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(dim - 1.0));
    if low == high {
        high += 0.001;
    }
    Ok(Scaling::Yarn { factor, ramp: (low, high), attention_factor })
}

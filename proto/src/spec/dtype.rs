//! The types of numbers that a spec can choose.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The type of parameters and activations in training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32 bits throughout.
    #[default]
    F32,
    /// bfloat16 for operands and activations; f32 for weights, gradients, moments and sums.
    Bf16,
}

/// The type in which gradients are summed between workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReduceDtype {
    /// 32 bits: the sums differ from exact ones only by their order.
    #[default]
    F32,
    /// bfloat16: half as many bytes, and every sum keeps 8 significant bits.
    Bf16,
}

/// The type of the weights in a written model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SaveDtype {
    /// 32 bits.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
}

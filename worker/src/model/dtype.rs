//! The three floating-point types in which model folders are stored, and their conversion from and to f32.
//!
//! A worker computes in f32 and by default saves a model in the type of its base model.

use std::fmt;

use half::{bf16, f16};
use rayon::prelude::*;

/// Elements converted per task: enough to hide the cost of scheduling, few enough to balance the load.
const CHUNK: usize = 1 << 16;

/// How a tensor's elements are stored, in little-endian order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// bfloat16: the upper half of a single-precision number.
    Bf16,
    /// IEEE half precision, whose largest finite value is 65504.
    F16,
}

impl Dtype {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// The name in a `config.json`: `float32`, `bfloat16` or `float16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }

    /// The type with this name in a `config.json`.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::F32, Self::Bf16, Self::F16].into_iter().find(|dtype| dtype.name() == name)
    }

    /// Converts stored elements to f32 exactly. `bytes` holds `values.len()` elements.
    pub fn decode(self, bytes: &[u8], values: &mut [f32]) {
        assert_eq!(bytes.len(), values.len() * self.size(), "one stored element per value");
        let pairs = bytes.par_chunks(CHUNK * self.size()).zip(values.par_chunks_mut(CHUNK));
        match self {
            Self::F32 => pairs.for_each(|(from, to)| decode(from, to, f32::from_le_bytes)),
            Self::Bf16 => {
                pairs.for_each(|(from, to)| decode(from, to, |b| bf16::from_le_bytes(b).to_f32()));
            }
            Self::F16 => {
                pairs.for_each(|(from, to)| decode(from, to, |b| f16::from_le_bytes(b).to_f32()));
            }
        }
    }

    /// The stored form of `values`, rounded to nearest even like PyTorch.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        let mut bytes = vec![0; values.len() * self.size()];
        self.encode_to(values, &mut bytes);
        bytes
    }

    /// Writes the stored form of `values` to `bytes`, which must have exactly the right length.
    pub fn encode_to(self, values: &[f32], bytes: &mut [u8]) {
        assert_eq!(bytes.len(), values.len() * self.size(), "one stored element per value");
        let pairs = values.par_chunks(CHUNK).zip(bytes.par_chunks_mut(CHUNK * self.size()));
        match self {
            Self::F32 => pairs.for_each(|(from, to)| encode(from, to, f32::to_le_bytes)),
            Self::Bf16 => {
                pairs.for_each(|(from, to)| encode(from, to, |v| bf16::from_f32(v).to_le_bytes()));
            }
            Self::F16 => {
                pairs.for_each(|(from, to)| encode(from, to, |v| f16::from_f32(v).to_le_bytes()));
            }
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<Dtype> for safetensors::Dtype {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::BF16,
            Dtype::F16 => Self::F16,
        }
    }
}

/// Returns a type that weights cannot have as the error.
impl TryFrom<safetensors::Dtype> for Dtype {
    type Error = safetensors::Dtype;

    fn try_from(stored: safetensors::Dtype) -> Result<Self, Self::Error> {
        [Self::F32, Self::Bf16, Self::F16]
            .into_iter()
            .find(|&dtype| safetensors::Dtype::from(dtype) == stored)
            .ok_or(stored)
    }
}

fn decode<const N: usize>(from: &[u8], to: &mut [f32], element: impl Fn([u8; N]) -> f32) {
    let (elements, _) = from.as_chunks::<N>();
    for (bytes, value) in elements.iter().zip(to) {
        *value = element(*bytes);
    }
}

fn encode<const N: usize>(from: &[f32], to: &mut [u8], element: impl Fn(f32) -> [u8; N]) {
    let (elements, _) = to.as_chunks_mut::<N>();
    for (bytes, value) in elements.iter_mut().zip(from) {
        *bytes = element(*value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stored_type_survives_a_round_trip() {
        // Longer than a chunk, and exact in all three types: eight bits suffice, which is bf16's precision.
        let values: Vec<f32> = (0..CHUNK + 3).map(|i| (i % 251) as f32 / 4.0 - 31.0).collect();
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
            let mut back = vec![0.0; values.len()];
            dtype.decode(&dtype.encode(&values), &mut back);
            assert!(back == values, "{dtype}");
        }
    }

    #[test]
    fn narrowing_rounds_to_nearest_even() {
        // 1 + 2^-8 lies halfway between two bf16 values and rounds down to the even one; 1 + 3 * 2^-8 rounds up.
        let halfway = [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0];
        let mut back = [0.0; 2];
        Dtype::Bf16.decode(&Dtype::Bf16.encode(&halfway), &mut back);
        assert_eq!(back, [1.0, 1.0 + 4.0 / 256.0]);
    }
}

//! Element types, and their reduction in the order of ranks.

use crate::cublas::{from_bf16, to_bf16};

/// A type of elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    I8,
    U8,
    I32,
    U32,
    I64,
    U64,
    F32,
    F64,
    Bf16,
}

impl Element {
    /// The type with this number in `ncclDataType_t`; half precision is not offered.
    pub(super) fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::I8,
            1 => Self::U8,
            2 => Self::I32,
            3 => Self::U32,
            4 => Self::I64,
            5 => Self::U64,
            7 => Self::F32,
            8 => Self::F64,
            9 => Self::Bf16,
            _ => return None,
        })
    }

    pub(super) fn bytes(self) -> usize {
        match self {
            Self::I8 | Self::U8 => 1,
            Self::Bf16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }
}

/// How elements are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reduction {
    Sum,
    Product,
    Max,
    Min,
    Average,
}

impl Reduction {
    /// The operation with this number in `ncclRedOp_t`.
    pub(super) fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::Sum,
            1 => Self::Product,
            2 => Self::Max,
            3 => Self::Min,
            4 => Self::Average,
            _ => return None,
        })
    }
}

macro_rules! reduce_as {
    ($parts:expr, $how:expr, $type:ty, $bytes:literal, $load:expr, $store:expr) => {{
        let ranks = $parts.len();
        let load = |part: &[u8], at: usize| {
            let bytes: [u8; $bytes] = part[at..at + $bytes].try_into().expect("an element's bytes");
            $load(bytes)
        };
        let mut out = Vec::with_capacity($parts[0].len());
        for at in (0..$parts[0].len()).step_by($bytes) {
            let mut value: $type = load($parts[0], at);
            for part in &$parts[1..] {
                let other: $type = load(part, at);
                value = match $how {
                    Reduction::Sum | Reduction::Average => value.add(other),
                    Reduction::Product => value.multiply(other),
                    Reduction::Max => {
                        if other > value {
                            other
                        } else {
                            value
                        }
                    }
                    Reduction::Min => {
                        if other < value {
                            other
                        } else {
                            value
                        }
                    }
                };
            }
            if $how == Reduction::Average {
                value = value.divide(ranks);
            }
            out.extend_from_slice(&$store(value));
        }
        out
    }};
}

/// Arithmetic that wraps for integers, as on a device.
trait Number: Sized {
    fn add(self, other: Self) -> Self;
    fn multiply(self, other: Self) -> Self;
    fn divide(self, by: usize) -> Self;
}

macro_rules! integers {
    ($($type:ty)*) => {$(
        impl Number for $type {
            fn add(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            fn multiply(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }
            fn divide(self, by: usize) -> Self {
                self / by as $type
            }
        }
    )*};
}

macro_rules! floats {
    ($($type:ty)*) => {$(
        impl Number for $type {
            fn add(self, other: Self) -> Self {
                self + other
            }
            fn multiply(self, other: Self) -> Self {
                self * other
            }
            fn divide(self, by: usize) -> Self {
                self / by as $type
            }
        }
    )*};
}

integers!(i8 u8 i32 u32 i64 u64);
floats!(f32 f64);

/// Combines the parts of all ranks; bf16 values are combined as floats and rounded once.
pub(super) fn reduce(parts: &[&[u8]], element: Element, how: Reduction) -> Vec<u8> {
    match element {
        Element::I8 => reduce_as!(parts, how, i8, 1, i8::from_le_bytes, i8::to_le_bytes),
        Element::U8 => reduce_as!(parts, how, u8, 1, u8::from_le_bytes, u8::to_le_bytes),
        Element::I32 => reduce_as!(parts, how, i32, 4, i32::from_le_bytes, i32::to_le_bytes),
        Element::U32 => reduce_as!(parts, how, u32, 4, u32::from_le_bytes, u32::to_le_bytes),
        Element::I64 => reduce_as!(parts, how, i64, 8, i64::from_le_bytes, i64::to_le_bytes),
        Element::U64 => reduce_as!(parts, how, u64, 8, u64::from_le_bytes, u64::to_le_bytes),
        Element::F32 => reduce_as!(parts, how, f32, 4, f32::from_le_bytes, f32::to_le_bytes),
        Element::F64 => reduce_as!(parts, how, f64, 8, f64::from_le_bytes, f64::to_le_bytes),
        Element::Bf16 => {
            let load = |bytes| from_bf16(u16::from_le_bytes(bytes));
            let store = |value| to_bf16(value).to_le_bytes();
            reduce_as!(parts, how, f32, 2, load, store)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_taken_in_the_order_of_ranks() {
        let parts = [1e8_f32, -1e8, 1.0].map(f32::to_le_bytes);
        let parts: Vec<&[u8]> = parts.iter().map(<[u8; 4]>::as_slice).collect();
        let sum = reduce(&parts, Element::F32, Reduction::Sum);
        assert_eq!(sum, 1.0_f32.to_le_bytes());
    }

    #[test]
    fn integers_wrap_and_averages_divide() {
        let parts: [&[u8]; 2] = [&[250], &[10]];
        assert_eq!(reduce(&parts, Element::U8, Reduction::Sum), [4]);
        assert_eq!(reduce(&parts, Element::U8, Reduction::Max), [250]);
        let parts = [1.0_f64, 4.0].map(f64::to_le_bytes);
        let parts: Vec<&[u8]> = parts.iter().map(<[u8; 8]>::as_slice).collect();
        let average = reduce(&parts, Element::F64, Reduction::Average);
        assert_eq!(average, 2.5_f64.to_le_bytes());
    }
}

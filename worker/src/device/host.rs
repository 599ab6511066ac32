//! Host memory: vectors, and a pool for short-lived ones.
//!
//! A fresh megabyte costs 256 page faults and a pass that zeroes it, and a step needs a thousand megabytes: on a 135M
//! model, that took a quarter of the step's CPU time, even with mimalloc. The memory of a dropped activation is
//! therefore kept, and the next request of a suitable size gets it with its old contents.

use super::Dtype;
use super::cuda::OnGpu;
use super::pool::{POOLED_ELEMENTS_MIN, Pool};
use super::rehearsal::Absent;
use half::bf16;

/// The elements of a buffer, by type.
#[derive(Debug)]
pub enum Memory {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    F64(Vec<f64>),
    U32(Vec<u32>),
    /// Those of a rehearsal, which has none.
    Absent(Absent),
    /// Those in the memory of a GPU.
    Cuda(OnGpu),
}

impl Memory {
    pub(super) fn take(dtype: Dtype, len: usize) -> Self {
        match dtype {
            Dtype::F32 => Self::F32(take(len)),
            Dtype::Bf16 => Self::Bf16(take(len)),
            Dtype::F64 => Self::F64(take(len)),
            Dtype::U32 => Self::U32(take(len)),
        }
    }

    pub(super) fn zeros(dtype: Dtype, len: usize) -> Self {
        match dtype {
            Dtype::F32 => Self::F32(vec![0.; len]),
            Dtype::Bf16 => Self::Bf16(vec![bf16::ZERO; len]),
            Dtype::F64 => Self::F64(vec![0.; len]),
            Dtype::U32 => Self::U32(vec![0; len]),
        }
    }

    pub(super) fn dtype(&self) -> Dtype {
        match self {
            Self::F32(_) => Dtype::F32,
            Self::Bf16(_) => Dtype::Bf16,
            Self::F64(_) => Dtype::F64,
            Self::U32(_) => Dtype::U32,
            Self::Absent(absent) => absent.dtype(),
            Self::Cuda(memory) => memory.dtype(),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::F32(vec) => vec.len(),
            Self::Bf16(vec) => vec.len(),
            Self::F64(vec) => vec.len(),
            Self::U32(vec) => vec.len(),
            Self::Absent(absent) => absent.len(),
            Self::Cuda(memory) => memory.len(),
        }
    }

    /// Gives the memory to the pool.
    pub(super) fn give(&mut self) {
        match self {
            Self::F32(vec) => give(std::mem::take(vec)),
            Self::Bf16(vec) => give(std::mem::take(vec)),
            Self::F64(vec) => give(std::mem::take(vec)),
            Self::U32(vec) => give(std::mem::take(vec)),
            Self::Absent(absent) => absent.give(),
            // Its block is given back when it is dropped.
            Self::Cuda(_) => {}
        }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::F32(vec) => bytemuck::cast_slice_mut(vec),
            Self::Bf16(vec) => bytemuck::cast_slice_mut(vec),
            Self::F64(vec) => bytemuck::cast_slice_mut(vec),
            Self::U32(vec) => bytemuck::cast_slice_mut(vec),
            Self::Absent(_) | Self::Cuda(_) => {
                panic!("a buffer of {:?} that is not in host memory", self.dtype())
            }
        }
    }

    /// The address of the first element in the memory of a GPU.
    pub(super) fn address(&self) -> u64 {
        match self {
            Self::Cuda(memory) => memory.address(),
            other => panic!("a buffer of {:?} that is not in the memory of a GPU", other.dtype()),
        }
    }
}

/// A type that host memory can hold.
pub trait Stored: bytemuck::Pod + Default + Send + Sync + std::fmt::Debug {
    /// The type's run-time counterpart.
    const DTYPE: Dtype;
    #[doc(hidden)]
    fn memory(values: Vec<Self>) -> Memory;
    #[doc(hidden)]
    fn slice(memory: &Memory) -> &[Self];
    #[doc(hidden)]
    fn vec_mut(memory: &mut Memory) -> &mut Vec<Self>;
    #[doc(hidden)]
    fn pool() -> &'static Pool<Vec<Self>>;
}

macro_rules! stored {
    ($type:ty, $variant:ident) => {
        impl Stored for $type {
            const DTYPE: Dtype = Dtype::$variant;

            fn memory(values: Vec<Self>) -> Memory {
                Memory::$variant(values)
            }

            fn slice(memory: &Memory) -> &[Self] {
                match memory {
                    Memory::$variant(values) => values,
                    other => panic!("a buffer of {:?} read as {:?}", other.dtype(), Self::DTYPE),
                }
            }

            fn vec_mut(memory: &mut Memory) -> &mut Vec<Self> {
                match memory {
                    Memory::$variant(values) => values,
                    other => panic!("a buffer of {:?} written as {:?}", other.dtype(), Self::DTYPE),
                }
            }

            fn pool() -> &'static Pool<Vec<Self>> {
                static POOL: Pool<Vec<$type>> = Pool::new();
                &POOL
            }
        }
    };
}

stored!(f32, F32);
stored!(bf16, Bf16);
stored!(f64, F64);
stored!(u32, U32);

/// A vector of `len` elements whose contents are unspecified: every element must be written before it is read.
pub(crate) fn take<T: Stored>(len: usize) -> Vec<T> {
    let unused = if len < POOLED_ELEMENTS_MIN { None } else { T::pool().take(len) };
    let Some(mut vec) = unused else { return vec![T::default(); len] };
    // Writes only the elements by which the vector's last use was too short.
    vec.resize(len, T::default());
    vec
}

/// Keeps the memory of a vector that is no longer needed.
pub(crate) fn give<T: Stored>(vec: Vec<T>) {
    if vec.len() >= POOLED_ELEMENTS_MIN {
        T::pool().give(vec);
    }
}

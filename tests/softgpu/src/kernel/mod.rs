//! Kernels: the table that the build made, and launches of its entries.
//!
//! ```text
//!   Launch::run -> grid: blocks one after another, each thread of a block a coroutine
//!                  words: what __syncthreads, shuffles and atomics do
//!                  hooks: what every load and store does -> shadow: bounds, races, undefined bytes
//! ```

mod atomics;
mod fibers;
mod grid;
mod hooks;
mod image;
mod marks;
mod page;
mod shadow;
mod shared;
mod symbols;
mod words;

pub(crate) use image::stay_loaded;

use std::ffi::{CStr, c_char, c_void};
use std::sync::OnceLock;

use crate::history::Touched;
use crate::ops::{Op, Sticky};

const POINTER: u32 = 1;
const CONST_POINTER: u32 = 2;

/// An argument's type.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Argument {
    size: u32,
    align: u32,
    kind: u32,
}

#[repr(C)]
struct Entry {
    name: *const c_char,
    call: unsafe extern "C" fn(*mut *mut c_void),
    arguments: *const Argument,
    count: u32,
}

/// A source text and its kernels, as the build made them.
struct Built {
    text: &'static str,
    entries: &'static [Entry],
    /// The bytes of static shared memory of each kernel.
    static_shared: &'static [u64],
}

#[cfg(softgpu_kernels)]
include!(concat!(env!("OUT_DIR"), "/sources.rs"));

#[cfg(not(softgpu_kernels))]
fn built() -> Vec<Built> {
    Vec::new()
}

/// A kernel of the host.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub name: &'static str,
    pub static_shared: u64,
    call: unsafe extern "C" fn(*mut *mut c_void),
    arguments: &'static [Argument],
    /// The static shared arrays it may touch, within the thread-local variables.
    shared_arrays: OnceLock<Option<Vec<(u64, u64)>>>,
}

impl Kernel {
    fn shared_arrays(&'static self) -> Option<&'static [(u64, u64)]> {
        let all = || sources().iter().flat_map(|source| &source.kernels);
        let find = || symbols::shared_arrays(self.name, all().map(|kernel| kernel.name));
        self.shared_arrays.get_or_init(find).as_deref()
    }

    /// The types of its arguments.
    pub(crate) fn arguments(&self) -> &[Argument] {
        self.arguments
    }
}

/// A source text that NVRTC accepts.
struct Source {
    text: &'static str,
    hash: u64,
    kernels: Vec<Kernel>,
}

fn sources() -> &'static [Source] {
    static SOURCES: OnceLock<Vec<Source>> = OnceLock::new();
    SOURCES.get_or_init(|| {
        let source = |built: Built| {
            let kernels = built.entries.iter().zip(built.static_shared).map(kernel).collect();
            Source { text: built.text, hash: hash(built.text), kernels }
        };
        built().into_iter().map(source).collect()
    })
}

fn kernel((entry, static_shared): (&'static Entry, &u64)) -> Kernel {
    // SAFETY: the table holds zero-ended names and arrays of `count` arguments.
    let (name, arguments) = unsafe {
        let arguments = std::slice::from_raw_parts(entry.arguments, entry.count as usize);
        (CStr::from_ptr(entry.name), arguments)
    };
    Kernel {
        name: name.to_str().expect("the names of kernels are ASCII"),
        static_shared: *static_shared,
        call: entry.call,
        arguments,
        shared_arrays: OnceLock::new(),
    }
}

/// A number that stands for a text (FNV-1a).
fn hash(text: &str) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    text.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// The number of a source text, if the host's kernels were built from it.
pub(crate) fn source_of(text: &str) -> Option<u64> {
    sources().iter().find(|source| source.text == text).map(|source| source.hash)
}

/// Whether there is a source with this number.
pub(crate) fn has_source(hash: u64) -> bool {
    sources().iter().any(|source| source.hash == hash)
}

/// The kernel of this name in the source with this number.
pub(crate) fn find(source: u64, name: &str) -> Option<&'static Kernel> {
    let source = sources().iter().find(|known| known.hash == source)?;
    source.kernels.iter().find(|kernel| kernel.name == name)
}

/// The extents of a launch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
}

impl Shape {
    fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    fn blocks(&self) -> u64 {
        self.grid.iter().map(|size| u64::from(*size)).product()
    }
}

/// Copies of a launch's arguments, each aligned to 16 bytes.
#[derive(Debug)]
pub(crate) struct Arguments(Vec<Vec<u128>>);

impl Arguments {
    /// Copies what the caller's pointers point to.
    ///
    /// # Safety
    /// `parameters` must hold one valid pointer for each argument of the kernel.
    pub(crate) unsafe fn copy(kernel: &Kernel, parameters: *mut *mut c_void) -> Self {
        let copy = |(index, argument): (usize, &Argument)| {
            let size = argument.size as usize;
            assert!(argument.align <= 16, "arguments are aligned to at most 16 bytes");
            let mut words = vec![0_u128; size.div_ceil(16).max(1)];
            // SAFETY: the caller vouches for the pointer, and the words have room for its bytes.
            unsafe {
                let source = (*parameters.add(index)).cast::<u8>();
                std::ptr::copy_nonoverlapping(source, words.as_mut_ptr().cast(), size);
            }
            words
        };
        Self(kernel.arguments.iter().enumerate().map(copy).collect())
    }

    fn pointers(&mut self) -> Vec<*mut c_void> {
        self.0.iter_mut().map(|words| words.as_mut_ptr().cast()).collect()
    }

    /// The 8-byte words of an argument.
    fn words(&self, index: usize) -> Vec<u64> {
        let halves = |word: &u128| [*word as u64, (*word >> 64) as u64];
        self.0[index].iter().flat_map(halves).collect()
    }
}

/// A grid to run.
#[derive(Debug)]
pub(crate) struct Launch {
    pub kernel: &'static Kernel,
    pub shape: Shape,
    pub arguments: Arguments,
    pub device: usize,
}

impl Launch {
    /// Runs all blocks and returns the bytes of global memory that they touched.
    pub(crate) fn run(mut self, op: &Op) -> Result<Touched, Sticky> {
        let writable = self.writable_addresses();
        let shadow =
            shadow::Shadow::new(self.device, &op.map, &writable, self.kernel.shared_arrays());
        grid::run(self.kernel, self.shape, &mut self.arguments.pointers(), shadow)
    }

    /// Addresses that the kernel received with the right to write, and those it received as
    /// `const`. A pointer inside a struct counts as writable, for its type is not known.
    fn writable_addresses(&self) -> shadow::Rights {
        let mut rights = shadow::Rights::default();
        for (index, argument) in self.kernel.arguments.iter().enumerate() {
            let words = self.arguments.words(index);
            match argument.kind {
                POINTER => rights.writable.push(words[0]),
                CONST_POINTER => rights.constant.push(words[0]),
                _ => rights.writable.extend(words),
            }
        }
        rights
    }
}

//! Buffers in host or device memory. Nothing here computes.
//!
//! ```text
//! Device   allocates; each rank has one        Buffer   elements of one type in a device's memory
//! Window   a range of a buffer's elements      host.rs  host memory and its pool
//! Ledger   counts the memory of a rehearsal    cuda/    NVIDIA GPUs
//! Moment   the end of a device's work so far
//! ```
//!
//! Kernels see windows; operations own buffers. Values cross between host and device in few places: data is copied
//! to the device by [`Device::upload`], [`Device::stage`] and [`WindowMut::write`], and results are copied back by
//! [`Window::read`] and [`Device::read_all`].

pub mod cuda;
mod host;
mod moment;
mod pool;
mod rehearsal;

pub(crate) use host::{give, take};
pub use moment::Moment;
pub use rehearsal::Ledger;

use cuda::{Gpu, Use};
use half::bf16;
use host::Memory;
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// The type of a buffer's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// Single precision, for parameters, gradients, moments, statistics and activations.
    F32,
    /// bfloat16, for activations and operands in reduced precision.
    Bf16,
    /// Double precision, for losses and for sums that a step reports.
    F64,
    /// Unsigned integers, for token ids, row indices and positions.
    U32,
}

impl Dtype {
    /// The counterpart of a Rust type.
    pub fn of<T: Element>() -> Self {
        T::DTYPE
    }

    /// Bytes per element.
    pub const fn size(self) -> usize {
        match self {
            Self::Bf16 => 2,
            Self::F32 | Self::U32 => 4,
            Self::F64 => 8,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F64 => "f64",
            Self::U32 => "u32",
        })
    }
}

/// A type that buffers can hold.
pub trait Element: host::Stored {}

impl<T: host::Stored> Element for T {}

/// The device on which a rank computes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// This host's CPUs and memory.
    #[default]
    Host,
    /// No device: memory is only counted. Values that are written are lost, and those that are read are zeros.
    Rehearsal(Ledger),
    /// A GPU. Its errors are kept until [`Device::check`].
    Cuda(Arc<Gpu>),
}

impl Device {
    /// A short-lived buffer whose contents are unspecified: every element must be written before it is read. Its
    /// memory is reused after it is dropped.
    pub fn take(&self, dtype: Dtype, len: usize) -> Buffer {
        let memory = match self {
            Self::Host => Memory::take(dtype, len),
            Self::Rehearsal(ledger) => Memory::Absent(ledger.take(dtype, len)),
            Self::Cuda(gpu) => Memory::Cuda(gpu.buffer(Use::Passing, dtype, len)),
        };
        Buffer { device: self.clone(), memory, pooled: true }
    }

    /// A long-lived buffer of zeros, whose memory is released when it is dropped.
    pub fn zeros(&self, dtype: Dtype, len: usize) -> Buffer {
        let memory = match self {
            Self::Host => Memory::zeros(dtype, len),
            Self::Rehearsal(ledger) => Memory::Absent(ledger.keep(dtype, len)),
            Self::Cuda(gpu) => {
                let memory = gpu.buffer(Use::Lasting, dtype, len);
                gpu.clear(memory.address(), len * dtype.size());
                Memory::Cuda(memory)
            }
        };
        Buffer { device: self.clone(), memory, pooled: false }
    }

    /// A long-lived buffer that holds `values`; in host memory, they are moved instead of copied.
    pub fn upload<T: Element>(&self, values: Vec<T>) -> Buffer {
        let memory = match self {
            Self::Host => T::memory(values),
            Self::Rehearsal(ledger) => Memory::Absent(ledger.keep(T::DTYPE, values.len())),
            Self::Cuda(gpu) => {
                let memory = gpu.buffer(Use::Lasting, T::DTYPE, values.len());
                gpu.write(memory.address(), bytemuck::cast_slice(&values));
                Memory::Cuda(memory)
            }
        };
        Buffer { device: self.clone(), memory, pooled: false }
    }

    /// A short-lived buffer that holds `values`, such as the tokens of a micro-batch, and that no kernel changes. A GPU
    /// receives them while earlier kernels still run.
    pub fn stage<T: Element>(&self, values: Vec<T>) -> Buffer {
        let Self::Cuda(gpu) = self else { return self.upload(values) };
        let memory = gpu.buffer(Use::Input, T::DTYPE, values.len());
        gpu.send(memory.address(), bytemuck::cast_slice(&values));
        Buffer { device: self.clone(), memory: Memory::Cuda(memory), pooled: false }
    }

    /// The elements of several buffers in host memory, with a single wait for the device unless they are large.
    ///
    /// # Panics
    /// If the elements are of another type.
    pub fn read_all<'a, T: Element>(
        &self,
        buffers: impl IntoIterator<Item = &'a Buffer>,
    ) -> Vec<Cow<'a, [T]>> {
        let buffers = buffers.into_iter();
        let Self::Cuda(gpu) = self else { return buffers.map(Buffer::read).collect() };
        let buffers: Vec<&Buffer> = buffers.collect();
        let mut read: Vec<Vec<T>> = buffers.iter().map(|b| vec![T::default(); b.len()]).collect();
        let parts = buffers.iter().zip(&mut read).map(|(buffer, to)| {
            assert_eq!(buffer.dtype(), T::DTYPE, "a buffer read as another type");
            (buffer.all().address(), bytemuck::cast_slice_mut(to))
        });
        gpu.read(parts.collect());
        read.into_iter().map(Cow::Owned).collect()
    }

    /// The error after which this process can no longer use the device, if there was one.
    pub fn lost(&self) -> Option<cuda::Error> {
        match self {
            Self::Host | Self::Rehearsal(_) => None,
            Self::Cuda(gpu) => gpu.lost(),
        }
    }

    /// A new account of memory like this device's, for a rehearsal.
    pub fn ledger(&self) -> Ledger {
        match self {
            Self::Host => Ledger::of_host(),
            Self::Cuda(_) => Ledger::of_gpu(),
            Self::Rehearsal(ledger) if ledger.is_of_gpu() => Ledger::of_gpu(),
            Self::Rehearsal(_) => Ledger::of_host(),
        }
    }

    /// The first error of the device since the last call. What was computed since then is not valid.
    ///
    /// # Errors
    /// That error.
    pub fn check(&self) -> Result<(), cuda::Error> {
        match self {
            Self::Host | Self::Rehearsal(_) => Ok(()),
            Self::Cuda(gpu) => gpu.check(),
        }
    }
}

/// Elements of one type in a device's memory.
#[derive(Debug)]
pub struct Buffer {
    device: Device,
    memory: Memory,
    /// Whether its memory goes back to the pool.
    pooled: bool,
}

impl Buffer {
    /// The device whose memory holds this buffer.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The type of the elements.
    pub fn dtype(&self) -> Dtype {
        self.memory.dtype()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype().size()
    }

    /// A window of all elements.
    pub fn all(&self) -> Window<'_> {
        Window { buffer: self, start: 0, len: self.len() }
    }

    /// A writable window of all elements.
    pub fn all_mut(&mut self) -> WindowMut<'_> {
        let len = self.len();
        WindowMut { buffer: self, start: 0, len }
    }

    /// A window of a range of the elements.
    pub fn window(&self, range: Range<usize>) -> Window<'_> {
        self.all().window(range)
    }

    /// A writable window of a range of the elements.
    pub fn window_mut(&mut self, range: Range<usize>) -> WindowMut<'_> {
        self.all_mut().window(range)
    }

    /// The elements in host memory: borrowed if they are there already, else copied.
    ///
    /// # Panics
    /// If the elements are of another type.
    pub fn read<T: Element>(&self) -> Cow<'_, [T]> {
        self.all().read()
    }

    /// The elements of a type of activations in host memory, as f32.
    ///
    /// # Panics
    /// If the elements are neither f32 nor bf16.
    pub fn read_f32(&self) -> Cow<'_, [f32]> {
        match self.dtype() {
            Dtype::Bf16 => self.read::<bf16>().iter().map(|x| x.to_f32()).collect(),
            _ => self.read(),
        }
    }

    /// Replaces elements, starting at index `at`.
    ///
    /// # Panics
    /// If there are too few elements, or they are of another type.
    pub fn write<T: Element>(&mut self, at: usize, values: &[T]) {
        self.window_mut(at..at + values.len()).write(values);
    }

    /// The bytes of the elements, which must be in host memory.
    pub(crate) fn host_bytes(&mut self) -> &mut [u8] {
        self.memory.bytes_mut()
    }

    /// Moves the elements out.
    ///
    /// # Panics
    /// If the elements are of another type.
    pub fn into_vec<T: Element>(mut self) -> Vec<T> {
        std::mem::take(T::vec_mut(&mut self.memory))
    }
}

impl<T: Element> From<Vec<T>> for Buffer {
    fn from(values: Vec<T>) -> Self {
        Device::Host.upload(values)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.pooled {
            self.memory.give();
        }
    }
}

/// A range of a buffer's elements.
#[derive(Clone, Copy)]
pub struct Window<'a> {
    buffer: &'a Buffer,
    start: usize,
    len: usize,
}

impl<'a> Window<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The type of the elements.
    pub fn dtype(&self) -> Dtype {
        self.buffer.dtype()
    }

    /// A window of a range of the elements.
    ///
    /// # Panics
    /// If the range does not lie within this window.
    pub fn window(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        Self { start: self.start + range.start, len: range.len(), ..self }
    }

    /// The elements in host memory: borrowed if they are there already, else copied.
    ///
    /// # Panics
    /// If the elements are of another type.
    pub fn read<T: Element>(self) -> Cow<'a, [T]> {
        match &self.buffer.memory {
            Memory::Absent(_) => Cow::Owned(vec![T::default(); self.len]),
            Memory::Cuda(memory) => {
                assert_eq!(memory.dtype(), T::DTYPE, "a buffer read as another type");
                let mut read = vec![T::default(); self.len];
                memory.gpu().read(vec![(self.address(), bytemuck::cast_slice_mut(&mut read))]);
                Cow::Owned(read)
            }
            _ => Cow::Borrowed(self.host()),
        }
    }

    /// The address of the first element, which must be in the memory of a GPU.
    pub(crate) fn address(self) -> u64 {
        self.buffer.memory.address() + (self.start * self.dtype().size()) as u64
    }

    /// The elements, which must be in host memory.
    pub(crate) fn host<T: Element>(self) -> &'a [T] {
        &T::slice(&self.buffer.memory)[self.start..self.start + self.len]
    }
}

/// A writable range of a buffer's elements.
pub struct WindowMut<'a> {
    buffer: &'a mut Buffer,
    start: usize,
    len: usize,
}

impl<'a> WindowMut<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The type of the elements.
    pub fn dtype(&self) -> Dtype {
        self.buffer.dtype()
    }

    /// The device whose memory holds the elements.
    pub fn device(&self) -> &Device {
        self.buffer.device()
    }

    /// Replaces all elements.
    ///
    /// # Panics
    /// If the number of elements differs, or they are of another type.
    pub fn write<T: Element>(self, values: &[T]) {
        assert_eq!(self.len, values.len(), "a window takes as many elements as it has");
        match &self.buffer.memory {
            Memory::Absent(_) => {}
            Memory::Cuda(memory) => {
                assert_eq!(memory.dtype(), T::DTYPE, "a buffer written as another type");
                memory.gpu().write(self.address(), bytemuck::cast_slice(values));
            }
            _ => self.host().copy_from_slice(values),
        }
    }

    /// The same window, borrowed for a shorter time.
    pub fn reborrow(&mut self) -> WindowMut<'_> {
        WindowMut { buffer: self.buffer, start: self.start, len: self.len }
    }

    /// A window of a range of the elements.
    ///
    /// # Panics
    /// If the range does not lie within this window.
    pub fn window(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        Self { start: self.start + range.start, len: range.len(), ..self }
    }

    /// The same window, to read.
    pub(crate) fn shared(&self) -> Window<'_> {
        Window { buffer: self.buffer, start: self.start, len: self.len }
    }

    /// The address of the first element, which must be in the memory of a GPU.
    pub(crate) fn address(&self) -> u64 {
        self.shared().address()
    }

    /// The elements, which must be in host memory.
    pub(crate) fn host<T: Element>(self) -> &'a mut [T] {
        &mut T::vec_mut(&mut self.buffer.memory)[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_of_windows_are_ranges_of_the_buffer() {
        let mut buffer = Device::Host.upload(vec![0f32, 1., 2., 3., 4., 5.]);
        buffer.window_mut(1..5).window(1..3).host::<f32>().fill(9.);
        assert_eq!(*buffer.read::<f32>(), [0., 1., 9., 9., 4., 5.]);
        assert_eq!(buffer.window(2..6).window(1..3).host::<f32>(), [9., 4.]);
        buffer.window_mut(4..6).write(&[7f32, 8.]);
        assert_eq!(*buffer.window(3..6).read::<f32>(), [9., 7., 8.]);
        assert_eq!((buffer.len(), buffer.bytes()), (6, 24));
        assert_eq!(buffer.into_vec::<f32>(), [0., 1., 9., 9., 7., 8.]);
    }

    #[test]
    #[should_panic(expected = "4..7 of 6")]
    fn a_window_does_not_reach_beyond_its_buffer() {
        Device::Host.zeros(Dtype::F32, 6).window(4..7);
    }

    #[test]
    #[should_panic(expected = "a buffer of F32 read as U32")]
    fn reading_elements_as_another_type_panics() {
        Device::Host.zeros(Dtype::F32, 6).read::<u32>();
    }
}

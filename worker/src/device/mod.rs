//! Memory, and where it lies. Nothing here computes.
//!
//! ```text
//! Device   allocates; a rank has one           Buffer   elements of one type in a device's memory
//! Window   a range of a buffer's elements      host.rs  memory of this process, and its pool
//! ```
//!
//! Kernels see windows, operations own buffers. Values cross between a device and this process in three places: data
//! goes in through [`Device::upload`] and [`Buffer::write`], results come out through [`Buffer::read`].

mod host;

pub(crate) use host::{give, take};

use host::Memory;
use std::borrow::Cow;
use std::ops::Range;

/// The type of a buffer's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// Parameters, gradients, moments, statistics, activations.
    F32,
    /// Activations and operands in reduced precision.
    Bf16,
    /// Losses, and sums that a step reports.
    F64,
    /// Token ids, rows and positions.
    U32,
}

impl Dtype {
    /// Bytes of an element.
    pub const fn size(self) -> usize {
        match self {
            Self::Bf16 => 2,
            Self::F32 | Self::U32 => 4,
            Self::F64 => 8,
        }
    }
}

/// A type that buffers can hold.
pub trait Element: host::Stored {}

impl<T: host::Stored> Element for T {}

/// What a rank computes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The processors of this host, and its memory.
    #[default]
    Host,
}

impl Device {
    /// A buffer whose contents are unspecified: every element must be written before it is read. Its memory is used
    /// again after it is dropped.
    pub fn take(&self, dtype: Dtype, len: usize) -> Buffer {
        match self {
            Self::Host => {
                Buffer { device: self.clone(), memory: Memory::take(dtype, len), pooled: true }
            }
        }
    }

    /// A buffer of zeros that lives long: its memory is released when it is dropped.
    pub fn zeros(&self, dtype: Dtype, len: usize) -> Buffer {
        match self {
            Self::Host => {
                Buffer { device: self.clone(), memory: Memory::zeros(dtype, len), pooled: false }
            }
        }
    }

    /// A buffer that holds `values`; in this process it takes them over without a copy.
    pub fn upload<T: Element>(&self, values: Vec<T>) -> Buffer {
        match self {
            Self::Host => Buffer { device: self.clone(), memory: T::memory(values), pooled: false },
        }
    }
}

/// Elements of one type in a device's memory.
#[derive(Debug)]
pub struct Buffer {
    device: Device,
    memory: Memory,
    /// Its memory goes back to the pool.
    pooled: bool,
}

impl Buffer {
    /// Where it lies.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The type of its elements.
    pub fn dtype(&self) -> Dtype {
        self.memory.dtype()
    }

    /// How many elements it has.
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype().size()
    }

    /// All of it.
    pub fn all(&self) -> Window<'_> {
        Window { buffer: self, start: 0, len: self.len() }
    }

    /// All of it, to write to.
    pub fn all_mut(&mut self) -> WindowMut<'_> {
        let len = self.len();
        WindowMut { buffer: self, start: 0, len }
    }

    /// Some of it.
    pub fn window(&self, range: Range<usize>) -> Window<'_> {
        self.all().window(range)
    }

    /// Some of it, to write to.
    pub fn window_mut(&mut self, range: Range<usize>) -> WindowMut<'_> {
        self.all_mut().window(range)
    }

    /// Its elements in this process: borrowed where they lie in it, copied from elsewhere.
    ///
    /// # Panics
    /// If its elements are of another type.
    pub fn read<T: Element>(&self) -> Cow<'_, [T]> {
        Cow::Borrowed(self.all().host())
    }

    /// Replaces elements from `at` on.
    ///
    /// # Panics
    /// If there are fewer, or they are of another type.
    pub fn write<T: Element>(&mut self, at: usize, values: &[T]) {
        self.window_mut(at..at + values.len()).host().copy_from_slice(values);
    }

    /// Its elements, moved out.
    ///
    /// # Panics
    /// If they are of another type.
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
    /// How many elements it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The type of its elements.
    pub fn dtype(&self) -> Dtype {
        self.buffer.dtype()
    }

    /// Some of it.
    ///
    /// # Panics
    /// If it does not have them.
    pub fn window(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        Self { start: self.start + range.start, len: range.len(), ..self }
    }

    /// Its elements, which lie in this process.
    pub(crate) fn host<T: Element>(self) -> &'a [T] {
        &T::slice(&self.buffer.memory)[self.start..self.start + self.len]
    }
}

/// A range of a buffer's elements to write to.
pub struct WindowMut<'a> {
    buffer: &'a mut Buffer,
    start: usize,
    len: usize,
}

impl<'a> WindowMut<'a> {
    /// How many elements it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The type of its elements.
    pub fn dtype(&self) -> Dtype {
        self.buffer.dtype()
    }

    /// The same elements for a shorter time.
    pub fn reborrow(&mut self) -> WindowMut<'_> {
        WindowMut { buffer: self.buffer, start: self.start, len: self.len }
    }

    /// Some of it.
    ///
    /// # Panics
    /// If it does not have them.
    pub fn window(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        Self { start: self.start + range.start, len: range.len(), ..self }
    }

    /// Its elements, which lie in this process.
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
        buffer.write(4, &[7f32, 8.]);
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
    fn elements_are_read_as_what_they_are() {
        Device::Host.zeros(Dtype::F32, 6).read::<u32>();
    }
}

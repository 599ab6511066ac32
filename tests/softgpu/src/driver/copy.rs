//! Copies and fills, in stream order.
//!
//! Pinned host memory is copied asynchronously. Pageable memory is staged: a copy to the device
//! has read its source when the call returns, and a copy to the host returns when it is finished.

use std::ffi::{c_uchar, c_uint};

use super::{CUdeviceptr, CUresult, Code, Handle, current, stream_of};
use crate::history::Touched;
use crate::memory::{Place, Span};
use crate::ops::Bytes;
use crate::report;
use crate::stream::planned;
use crate::world::world;

fn device_span(address: u64, bytes: usize) -> Result<Span, Code> {
    let span = Span::new(address, bytes as u64);
    match world().memory().place_of(span) {
        Some(Place::Device(_)) => Ok(span),
        Some(Place::Pinned) | None => Err(Code::INVALID_VALUE),
    }
}

fn is_pinned(span: Span) -> bool {
    world().memory().place_of(span) == Some(Place::Pinned)
}

fn copy(to: Bytes, from: Bytes, bytes: usize) {
    // SAFETY: both ranges were checked to lie in live memory, which freeing waits for.
    unsafe { std::ptr::copy(from.0, to.0, bytes) };
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: CUdeviceptr,
    from: *const libc::c_void,
    bytes: usize,
    stream: Handle,
) -> CUresult {
    current("cuMemcpyHtoDAsync_v2", |device| {
        let stream = stream_of(device, stream)?;
        if bytes == 0 {
            return Ok(());
        }
        let writes = vec![device_span(to, bytes)?];
        if from.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        report::count("bytes_to_device", bytes as u64);
        let source = Span::new(from as u64, bytes as u64);
        let target = Bytes::at(to);
        if is_pinned(source) {
            let source_bytes = Bytes::at(source.start);
            let plan = Touched { reads: vec![source], writes };
            stream.enqueue(planned("copy to the device", plan, move || {
                copy(target, source_bytes, bytes);
            }));
            return Ok(());
        }
        // SAFETY: the caller vouches for `bytes` readable bytes at `from`.
        let staged = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) }.to_vec();
        let plan = Touched { reads: vec![], writes };
        stream.enqueue(planned("copy to the device", plan, move || {
            copy(target, Bytes(staged.as_ptr().cast_mut()), bytes);
        }));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut libc::c_void,
    from: CUdeviceptr,
    bytes: usize,
    stream: Handle,
) -> CUresult {
    current("cuMemcpyDtoHAsync_v2", |device| {
        let stream = stream_of(device, stream)?;
        if bytes == 0 {
            return Ok(());
        }
        let reads = vec![device_span(from, bytes)?];
        if to.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        report::count("bytes_to_host", bytes as u64);
        let target = Span::new(to as u64, bytes as u64);
        let pinned = is_pinned(target);
        let writes = if pinned { vec![target] } else { vec![] };
        let (to, from) = (Bytes::at(target.start), Bytes::at(from));
        stream.enqueue(planned("copy to the host", Touched { reads, writes }, move || {
            copy(to, from, bytes);
        }));
        if !pinned {
            report::count("host_waits", 1);
            stream.synchronize();
        }
        device.sticky().filter(|_| !pinned).map_or(Ok(()), |code| Err(Code(code)))
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpyDtoDAsync_v2(
    to: CUdeviceptr,
    from: CUdeviceptr,
    bytes: usize,
    stream: Handle,
) -> CUresult {
    current("cuMemcpyDtoDAsync_v2", |device| {
        let stream = stream_of(device, stream)?;
        if bytes == 0 {
            return Ok(());
        }
        let reads = vec![device_span(from, bytes)?];
        let writes = vec![device_span(to, bytes)?];
        report::count("bytes_on_device", bytes as u64);
        let (to, from) = (Bytes::at(to), Bytes::at(from));
        stream.enqueue(planned("copy on the device", Touched { reads, writes }, move || {
            copy(to, from, bytes);
        }));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemsetD8Async(
    to: CUdeviceptr,
    value: c_uchar,
    bytes: usize,
    stream: Handle,
) -> CUresult {
    current("cuMemsetD8Async", |device| {
        let stream = stream_of(device, stream)?;
        if bytes == 0 {
            return Ok(());
        }
        let plan = Touched { reads: vec![], writes: vec![device_span(to, bytes)?] };
        let to = Bytes::at(to);
        stream.enqueue(planned("fill of bytes", plan, move || {
            let to = to;
            // SAFETY: the range was checked to lie in live memory, which freeing waits for.
            unsafe { std::ptr::write_bytes(to.0, value, bytes) };
        }));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemsetD32Async(
    to: CUdeviceptr,
    value: c_uint,
    words: usize,
    stream: Handle,
) -> CUresult {
    current("cuMemsetD32Async", |device| {
        let stream = stream_of(device, stream)?;
        if words == 0 {
            return Ok(());
        }
        let bytes = words.checked_mul(4).filter(|_| to.is_multiple_of(4));
        let span = device_span(to, bytes.ok_or(Code::INVALID_VALUE)?)?;
        let plan = Touched { reads: vec![], writes: vec![span] };
        let to = Bytes::at(to);
        stream.enqueue(planned("fill of words", plan, move || {
            let to = to;
            // SAFETY: the range is aligned and was checked to lie in live memory.
            unsafe { std::slice::from_raw_parts_mut(to.0.cast::<u32>(), words) }.fill(value);
        }));
        Ok(())
    })
}

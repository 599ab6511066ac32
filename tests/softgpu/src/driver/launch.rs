//! `cuLaunchKernel`: checks the shape, copies the arguments and enqueues the grid.

use std::ffi::c_uint;
use std::sync::atomic::Ordering;

use super::context::STATIC_SHARED_BYTES;
use super::{CUresult, Code, Handle, current, module, stream_of};
use crate::history::Touched;
use crate::kernel::{Arguments, Launch, Shape};
use crate::ops::Draft;
use crate::{fault, report};

const MAX_THREADS: u64 = 1024;
const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];

fn check_shape(grid: [u32; 3], block: [u32; 3]) -> Result<(), Code> {
    let inside = |sizes: [u32; 3], most: [u32; 3]| {
        sizes.iter().zip(most).all(|(size, most)| (1..=most).contains(size))
    };
    let threads: u64 = block.iter().map(|size| u64::from(*size)).product();
    if !inside(grid, MAX_GRID) || !inside(block, MAX_BLOCK) || threads > MAX_THREADS {
        return Err(Code::INVALID_VALUE);
    }
    Ok(())
}

fn check_shared(function: &module::Function, dynamic: c_uint) -> Result<(), Code> {
    let raised = function.max_dynamic_shared.load(Ordering::SeqCst) as u64;
    let usual = (STATIC_SHARED_BYTES as u64).saturating_sub(function.kernel.static_shared);
    if u64::from(dynamic) > raised.max(usual) {
        return Err(Code::INVALID_VALUE);
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuLaunchKernel(
    function: Handle,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared_bytes: c_uint,
    stream: Handle,
    parameters: *mut *mut libc::c_void,
    extra: *mut *mut libc::c_void,
) -> CUresult {
    current("cuLaunchKernel", |device| {
        let function = module::find_function(function)?;
        let stream = stream_of(device, stream)?;
        let shape = Shape {
            grid: [grid_x, grid_y, grid_z],
            block: [block_x, block_y, block_z],
            dynamic_shared: shared_bytes,
        };
        check_shape(shape.grid, shape.block)?;
        check_shared(&function, shared_bytes)?;
        if function.device != device.index || !extra.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let kernel = function.kernel;
        if parameters.is_null() && !kernel.arguments().is_empty() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: the caller passes one valid pointer for each of the kernel's arguments.
        let arguments = unsafe { Arguments::copy(kernel, parameters) };
        report::count_launch(kernel.name);
        let fault = fault::launch(kernel.name);
        let launch = Launch { kernel, shape, arguments, device: device.index };
        stream.enqueue(Draft {
            name: kernel.name.to_owned(),
            plan: Touched::default(),
            work: Box::new(move |op| match fault {
                Some(code) => Err(code),
                None => launch.run(op),
            }),
        });
        Ok(())
    })
}

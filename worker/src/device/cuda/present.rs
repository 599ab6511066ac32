//! The GPUs of this host, as the driver shows them to this process: in `CUDA_VISIBLE_DEVICES`, in the order of
//! `CUDA_DEVICE_ORDER`.

use super::calls::driver_result;
use super::error::Error;
use super::library::Driver;
use cudarc::driver::sys;
use serde::{Deserialize, Serialize};
use std::ffi::{CStr, c_char, c_int};

/// The oldest compute capability that can be used: older GPUs have no bf16.
const OLDEST: (i32, i32) = (8, 0);

/// A GPU of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Present {
    /// Its number: `cuda:N`.
    pub number: i32,
    /// Its name, such as `NVIDIA H200`.
    pub name: String,
    /// Its unique id, such as `GPU-4b0f...`, or `MIG-...` for a slice.
    pub uuid: String,
    /// Its place on the bus, such as `0000:17:00.0`.
    pub bus: String,
    /// Bytes of its memory.
    pub memory: u64,
    /// Its compute capability.
    pub capability: (i32, i32),
    /// How many processes may use it.
    pub mode: Mode,
    /// The numbers of the GPUs whose memory it can access directly.
    pub peers: Vec<i32>,
}

/// How many processes may use a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Any number.
    Shared,
    /// One.
    Exclusive,
    /// None.
    Prohibited,
}

impl Present {
    /// Whether it is a slice of a GPU (MIG).
    pub fn is_slice(&self) -> bool {
        self.uuid.starts_with("MIG-") || self.name.contains(" MIG ")
    }

    /// Why it cannot be used, if that is so.
    pub fn refusal(&self) -> Option<String> {
        let Self { name, capability: (major, minor), .. } = self;
        if self.capability < OLDEST {
            return Some(format!(
                "{name} has compute capability {major}.{minor}; bf16 needs {}.{} (Ampere) or newer",
                OLDEST.0, OLDEST.1
            ));
        }
        let prohibited = self.mode == Mode::Prohibited;
        prohibited.then(|| {
            format!(
                "{name} is in prohibited mode\nhint: `nvidia-smi -c DEFAULT` makes it available"
            )
        })
    }
}

/// Initializes the driver and lists the GPUs.
///
/// # Errors
/// Those of the driver; a driver without GPUs gives an empty list.
pub fn list(driver: &Driver) -> Result<Vec<Present>, Error> {
    const NO_DEVICE: c_int = sys::CUresult::CUDA_ERROR_NO_DEVICE as c_int;
    let check = |call, code| driver_result(driver, call, code);
    // SAFETY: the flags must be 0.
    let code = unsafe { (driver.cuInit)(0) };
    if code == NO_DEVICE {
        return Ok(Vec::new());
    }
    check("cuInit", code)?;
    let mut count = 0;
    // SAFETY: `count` outlives the call.
    check("cuDeviceGetCount", unsafe { (driver.cuDeviceGetCount)(&mut count) })?;
    (0..count).map(|number| one(driver, number, count)).collect()
}

/// Device number `number` of `count`.
fn one(driver: &Driver, number: c_int, count: c_int) -> Result<Present, Error> {
    let check = |call, code| driver_result(driver, call, code);
    let handle = |number| -> Result<sys::CUdevice, Error> {
        let mut device = 0;
        // SAFETY: `device` outlives the call.
        check("cuDeviceGet", unsafe { (driver.cuDeviceGet)(&mut device, number) })?;
        Ok(device)
    };
    let device = handle(number)?;
    let attribute = |attribute| -> Result<i32, Error> {
        let mut value = 0;
        // SAFETY: `value` outlives the call.
        let code = unsafe { (driver.cuDeviceGetAttribute)(&mut value, attribute, device) };
        check("cuDeviceGetAttribute", code)?;
        Ok(value)
    };
    let mut memory = 0;
    // SAFETY: `memory` outlives the call.
    check("cuDeviceTotalMem", unsafe { (driver.cuDeviceTotalMem_v2)(&mut memory, device) })?;
    let mut peers = Vec::new();
    for peer in (0..count).filter(|peer| *peer != number) {
        let (mut can, peer_device) = (0, handle(peer)?);
        // SAFETY: `can` outlives the call.
        let code = unsafe { (driver.cuDeviceCanAccessPeer)(&mut can, device, peer_device) };
        check("cuDeviceCanAccessPeer", code)?;
        if can != 0 {
            peers.push(peer);
        }
    }
    type Of = sys::CUdevice_attribute;
    let name = text(256, |to, len| {
        // SAFETY: there is room for `len` characters.
        check("cuDeviceGetName", unsafe { (driver.cuDeviceGetName)(to, len, device) })
    })?;
    Ok(Present {
        number,
        uuid: uuid(driver, device, name.contains(" MIG "))?,
        name,
        bus: text(32, |to, len| {
            // SAFETY: there is room for `len` characters.
            let code = unsafe { (driver.cuDeviceGetPCIBusId)(to, len, device) };
            check("cuDeviceGetPCIBusId", code)
        })?,
        memory: memory as u64,
        capability: (
            attribute(Of::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Of::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        mode: match attribute(Of::CU_DEVICE_ATTRIBUTE_COMPUTE_MODE)? {
            2 => Mode::Prohibited,
            3 => Mode::Exclusive,
            _ => Mode::Shared,
        },
        peers,
    })
}

/// A string that `get` writes, of fewer than `len` characters.
fn text(
    len: usize,
    get: impl FnOnce(*mut c_char, c_int) -> Result<(), Error>,
) -> Result<String, Error> {
    let mut bytes = vec![0u8; len];
    get(bytes.as_mut_ptr().cast(), len as c_int)?;
    let text = CStr::from_bytes_until_nul(&bytes).unwrap_or_default();
    Ok(text.to_string_lossy().into_owned())
}

/// The unique id, as `nvidia-smi -L` writes it.
fn uuid(driver: &Driver, device: sys::CUdevice, slice: bool) -> Result<String, Error> {
    let mut uuid = sys::CUuuid { bytes: [0; 16] };
    // SAFETY: `uuid` outlives the call.
    let code = unsafe { (driver.cuDeviceGetUuid_v2)(&mut uuid, device) };
    driver_result(driver, "cuDeviceGetUuid", code)?;
    let hex: Vec<String> = uuid.bytes.iter().map(|byte| format!("{:02x}", *byte as u8)).collect();
    let part = |range: std::ops::Range<usize>| hex[range].concat();
    let parts = [part(0..4), part(4..6), part(6..8), part(8..10), part(10..16)];
    Ok(format!("{}-{}", if slice { "MIG" } else { "GPU" }, parts.join("-")))
}

/// Bytes of a GPU's memory that no process uses, and bytes of all of it.
///
/// # Errors
/// Those of the driver; a GPU in exclusive mode that another process uses is not available.
pub fn free_memory(driver: &Driver, number: i32) -> Result<[u64; 2], Error> {
    let check = |call, code| driver_result(driver, call, code);
    let mut device = 0;
    // SAFETY: `device` outlives the call.
    check("cuDeviceGet", unsafe { (driver.cuDeviceGet)(&mut device, number) })?;
    let mut context = std::ptr::null_mut();
    // SAFETY: `context` outlives the call.
    let code = unsafe { (driver.cuDevicePrimaryCtxRetain)(&mut context, device) };
    check("cuDevicePrimaryCtxRetain", code)?;
    let (mut free, mut total) = (0, 0);
    // SAFETY: the context was just retained; both numbers outlive the call.
    let (bound, code) = unsafe {
        let bound = (driver.cuCtxSetCurrent)(context);
        (bound, (driver.cuMemGetInfo_v2)(&mut free, &mut total))
    };
    // SAFETY: the context was retained above and is not used after this.
    let released = unsafe { (driver.cuDevicePrimaryCtxRelease_v2)(device) };
    check("cuCtxSetCurrent", bound)?;
    check("cuMemGetInfo", code)?;
    check("cuDevicePrimaryCtxRelease", released)?;
    Ok([free as u64, total as u64])
}

//! Devices: which are visible, and what they say of themselves.

use std::ffi::{c_char, c_int, c_uint};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{CUresult, Code, context, plain, put, ready};
use crate::coverage;
use crate::report;
use crate::settings::Settings;
use crate::stream::Random;
use crate::world::{Device, world};

const MIG_BIT: u64 = 1 << 40;

/// The devices that `CUDA_VISIBLE_DEVICES` and `CUDA_DEVICE_ORDER` leave visible, in their order.
pub(crate) fn visible(settings: &Settings) -> Vec<Arc<Device>> {
    let bus = |physical: usize| settings.pci.get(physical).copied().unwrap_or(physical as u32 + 1);
    let mut order: Vec<usize> = (0..settings.devices).collect();
    if std::env::var("CUDA_DEVICE_ORDER").is_ok_and(|order| order == "PCI_BUS_ID") {
        order.sort_by_key(|physical| bus(*physical));
    }
    if let Ok(text) = std::env::var("CUDA_VISIBLE_DEVICES") {
        order = chosen(&text, &order, settings);
    }
    if settings.mig {
        // CUDA enumerates a single compute instance.
        order.truncate(1);
    }
    let device = |(index, physical): (usize, &usize)| {
        let uuid = uuid(settings, *physical, settings.mig);
        Arc::new(Device::new(index, *physical, uuid, bus(*physical)))
    };
    order.iter().enumerate().map(device).collect()
}

/// The devices named in `CUDA_VISIBLE_DEVICES`: an invalid entry hides the rest, and an entry
/// given twice hides all.
fn chosen(text: &str, order: &[usize], settings: &Settings) -> Vec<usize> {
    let mut list = Vec::new();
    for entry in text.split(',').map(str::trim) {
        let prefix = if settings.mig { "MIG-" } else { "GPU-" };
        let found = if entry.starts_with(prefix) {
            let named = |physical: &&usize| {
                uuid_text(prefix, &uuid(settings, **physical, settings.mig)).starts_with(entry)
            };
            let mut all = order.iter().filter(named);
            all.next().filter(|_| all.next().is_none())
        } else {
            entry.parse().ok().and_then(|index: usize| order.get(index))
        };
        let Some(physical) = found else { break };
        if list.contains(physical) {
            return Vec::new();
        }
        list.push(*physical);
    }
    list
}

fn uuid(settings: &Settings, physical: usize, mig: bool) -> [u8; 16] {
    let slice = if mig { MIG_BIT } else { 0 };
    let mut random = Random::new(u64::from(settings.machine) << 16 | physical as u64 | slice);
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&random.next().to_le_bytes());
    bytes[8..].copy_from_slice(&random.next().to_le_bytes());
    bytes
}

/// A UUID as `nvidia-smi -L` writes it.
fn uuid_text(prefix: &str, bytes: &[u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    format!("{prefix}{}", parts.join("-"))
}

fn find(device: c_int) -> Result<&'static Arc<Device>, Code> {
    let index = usize::try_from(device).map_err(|_| Code::INVALID_DEVICE)?;
    world().devices.get(index).ok_or(Code::INVALID_DEVICE)
}

/// Finds a device for the other families of calls.
pub(crate) fn by_ordinal(device: c_int) -> Result<&'static Arc<Device>, Code> {
    find(device)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuInit(flags: c_uint) -> CUresult {
    plain("cuInit", || {
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        if world().devices.is_empty() {
            return Err(Code::NO_DEVICE);
        }
        report::start();
        coverage::start();
        world().initialized.store(true, Ordering::SeqCst);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> CUresult {
    plain("cuDriverGetVersion", || {
        let (major, minor) = world().settings.driver;
        // SAFETY: the caller's pointer is valid or null.
        unsafe { put(version, (major * 1000 + minor * 10) as c_int) }
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> CUresult {
    ready("cuDeviceGetCount", || {
        // SAFETY: the caller's pointer is valid or null.
        unsafe { put(count, world().devices.len() as c_int) }
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> CUresult {
    ready("cuDeviceGet", || {
        find(ordinal)?;
        // SAFETY: the caller's pointer is valid or null.
        unsafe { put(device, ordinal) }
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuDeviceGetName(
    text: *mut c_char,
    len: c_int,
    device: c_int,
) -> CUresult {
    ready("cuDeviceGetName", || {
        find(device)?;
        let settings = &world().settings;
        let suffix = if settings.mig { " MIG 1g.10gb" } else { "" };
        // SAFETY: the caller vouches for `len` bytes at `text`.
        unsafe { put_text(text, len, &format!("{}{suffix}", settings.name)) }
    })
}

/// Writes a zero-ended text of at most `len` bytes, zero included.
///
/// # Safety
/// `text` must be null or valid for writing `len` bytes.
unsafe fn put_text(text: *mut c_char, len: c_int, value: &str) -> Result<(), Code> {
    if text.is_null() || len < 1 {
        return Err(Code::INVALID_VALUE);
    }
    let kept = value.len().min(len as usize - 1);
    // SAFETY: `kept + 1 <= len`, for which the caller vouches.
    unsafe {
        std::ptr::copy_nonoverlapping(value.as_ptr(), text.cast(), kept);
        *text.add(kept) = 0;
    }
    Ok(())
}

/// The UUID of the physical device, even of a MIG slice.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuDeviceGetUuid(bytes: *mut [u8; 16], device: c_int) -> CUresult {
    ready("cuDeviceGetUuid", || {
        let physical = find(device)?.physical;
        // SAFETY: the caller's pointer is valid or null.
        unsafe { put(bytes, uuid(&world().settings, physical, false)) }
    })
}

/// The UUID of the device, or of the MIG slice.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuDeviceGetUuid_v2(
    bytes: *mut [u8; 16],
    device: c_int,
) -> CUresult {
    ready("cuDeviceGetUuid_v2", || {
        let uuid = find(device)?.uuid;
        // SAFETY: the caller's pointer is valid or null.
        unsafe { put(bytes, uuid) }
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) -> CUresult {
    ready("cuDeviceTotalMem_v2", || {
        find(device)?;
        // SAFETY: the caller's pointer is valid or null.
        unsafe { put(bytes, world().settings.memory as usize) }
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuDeviceGetPCIBusId(
    text: *mut c_char,
    len: c_int,
    device: c_int,
) -> CUresult {
    ready("cuDeviceGetPCIBusId", || {
        let id = format!("0000:{:02X}:00.0", find(device)?.pci_bus);
        // SAFETY: the caller vouches for `len` bytes at `text`.
        unsafe { put_text(text, len, &id) }
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuDeviceCanAccessPeer(
    can: *mut c_int,
    device: c_int,
    peer: c_int,
) -> CUresult {
    ready("cuDeviceCanAccessPeer", || {
        let different = find(device)?.index != find(peer)?.index;
        // SAFETY: the caller's pointer is valid or null.
        unsafe { put(can, c_int::from(different && world().settings.peers)) }
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuDeviceGetAttribute(
    value: *mut c_int,
    attribute: c_int,
    device: c_int,
) -> CUresult {
    ready("cuDeviceGetAttribute", || {
        let found = attribute_of(find(device)?, attribute).ok_or(Code::INVALID_VALUE)?;
        // SAFETY: the caller's pointer is valid or null.
        unsafe { put(value, found) }
    })
}

/// The attributes of an H100, by the numbers of `CUdevice_attribute`; the others of a
/// software GPU are 0.
fn attribute_of(device: &Device, attribute: c_int) -> Option<c_int> {
    let settings = &world().settings;
    let value = match attribute {
        1..=3 => 1024,                     // threads per block, block x, y
        4 => 64,                           // block z
        5 => i32::MAX,                     // grid x
        6 | 7 => 65_535,                   // grid y, z
        8 => context::STATIC_SHARED_BYTES, // shared memory per block
        9 | 12 | 82 => 65_536,             // constants, registers
        10 => 32,                          // warp
        11 => i32::MAX,                    // pitch
        13 => 1_980_000,                   // clock, kHz
        14 | 30 => 512,                    // texture, surface alignment
        15 | 19 | 31 | 32 | 41 => 1,       // overlap, mapping, ECC, UVA
        16 => 132,                         // multiprocessors
        20 => settings.compute_mode as c_int,
        33 => device.pci_bus as c_int,
        36 => 2_619_000,  // memory clock, kHz
        37 => 5120,       // memory bus width
        38 => 52_428_800, // L2 bytes
        39 => 2048,       // threads per multiprocessor
        40 => 3,          // copy engines
        75 => settings.capability.0 as c_int,
        76 => settings.capability.1 as c_int,
        78 => 1,       // stream priorities
        81 => 233_472, // shared memory per multiprocessor
        83 | 89 | 90 | 95 | 99 | 102 | 115 => 1,
        87 => 2,
        97 => context::OPTIN_SHARED_BYTES,
        106 => 32,   // blocks per multiprocessor
        111 => 1024, // shared memory kept by the system
        0 | 151.. | ..0 => return None,
        _ => 0,
    };
    Some(value)
}

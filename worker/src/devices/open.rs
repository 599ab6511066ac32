//! Takes the device of a rank into use.

use super::Device;
use crate::device::cuda::library::{Driver, Libraries};
use crate::device::cuda::{Gpu, Present, list};
use crate::kernels::{self, Kernels, cuda};
use anyhow::Context;
use std::sync::Arc;

/// A device in use.
#[derive(Clone)]
pub struct Opened {
    /// Its kernels.
    pub kernels: Arc<dyn Kernels>,
    /// What it is called: `cpu`, or the driver's name of the GPU.
    pub name: String,
    /// Its kind. The ranks of a generation have the same: only then do they compute equal bits.
    pub kind: String,
}

/// Takes `device` into use.
///
/// # Errors
/// The GPU or the libraries cannot be used.
pub fn open(device: &Device) -> anyhow::Result<Opened> {
    let (number, uuid) = match device {
        Device::Cpu => {
            let [name, kind] = ["cpu"; 2].map(str::to_owned);
            return Ok(Opened { kernels: kernels::host(), name, kind });
        }
        Device::Gpu { number, uuid } => (number, uuid),
    };
    let driver = Driver::load()?;
    let is_it = |gpu: &Present| match uuid {
        Some(uuid) => gpu.uuid == *uuid,
        None => gpu.number == *number,
    };
    let present = list(driver)?.into_iter().find(is_it);
    let present = present.with_context(|| match uuid {
        Some(uuid) => format!("{device} is gone: the driver no longer reports {uuid}"),
        None => format!("there is no GPU for `{device}`"),
    })?;
    if let Some(reason) = present.refusal() {
        anyhow::bail!("{device} cannot be used: {reason}");
    }
    let libraries = Libraries::load(driver)?;
    let kind = kind(&present, &libraries);
    let gpu = Gpu::open(driver, libraries, &present)
        .with_context(|| format!("{device} ({}) cannot be used", present.name))?;
    let kernels = cuda::Cuda::new(&gpu, &crate::cache::root().join("kernels"))?;
    gpu.check()?;
    tracing::info!(device = %device, name = present.name, kind, "took a GPU into use");
    Ok(Opened { kernels: Arc::new(kernels), name: present.name, kind })
}

/// What decides about the bits of results: the architecture, and the libraries that compute.
fn kind(present: &Present, libraries: &Libraries) -> String {
    let (major, minor) = present.capability;
    let (nvrtc, cublas) = (libraries.nvrtc().version(), libraries.cublas().version());
    let nccl = libraries.nccl().map_or("none".to_owned(), |nccl| nccl.version().to_string());
    format!("cuda sm_{major}{minor}, NVRTC {nvrtc}, cuBLAS {cublas}, NCCL {nccl}")
}

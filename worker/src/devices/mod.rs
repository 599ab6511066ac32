//! The devices of a node: what `--devices` asks for, and what this host has.
//!
//! ```text
//! mod.rs      the option, and the device of each rank      open.rs   takes a rank's device into use
//! report.rs   `worker devices`
//! ```

mod open;
mod report;

pub use open::{Opened, open};
pub use report::{Arguments, run};

use crate::device::cuda::Present;
use anyhow::{Context, bail, ensure};
use std::fmt;
use std::os::unix::process::CommandExt;
use std::str::FromStr;
use thiserror::Error;
use tokio::process::Command;

/// Environment of every process that uses a GPU. The order of GPUs is that of `nvidia-smi`.
const ENVIRONMENT: [(&str, &str); 1] = [("CUDA_DEVICE_ORDER", "PCI_BUS_ID")];

/// A variable that would round the operands of f32 products.
const REMOVED: &str = "NVIDIA_TF32_OVERRIDE";

/// How long listing the GPUs may take. A driver whose GPU hangs never answers.
const LISTED_WITHIN: std::time::Duration = std::time::Duration::from_secs(60);

/// The devices that `--devices` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Devices {
    /// This number of ranks on the CPU.
    Cpu(usize),
    /// All GPUs.
    AllGpus,
    /// The GPUs with these numbers.
    Gpus(Vec<i32>),
}

/// The device of one rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// The CPU.
    Cpu,
    /// A GPU.
    Gpu {
        /// Its number when it was chosen.
        number: i32,
        /// Its unique id, if it is known. If a GPU fails, others get its number.
        uuid: Option<String>,
    },
}

/// An invalid value of `--devices`.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "devices must be `cpu`, `cpu:N` with N from 1 to 64, `cuda:all`, or `cuda:` and different numbers such as \
     `cuda:0,3`, got `{0}`"
)]
pub struct DevicesError(String);

impl FromStr for Devices {
    type Err = DevicesError;

    fn from_str(text: &str) -> Result<Self, DevicesError> {
        let devices = match text.split_once(':') {
            None if text == "cpu" => Some(Self::Cpu(1)),
            Some(("cpu", n)) => n.parse().ok().filter(|n| (1..=64).contains(n)).map(Self::Cpu),
            Some(("cuda", "all")) => Some(Self::AllGpus),
            Some(("cuda", numbers)) => gpus(numbers).map(Self::Gpus),
            _ => None,
        };
        devices.ok_or_else(|| DevicesError(text.to_owned()))
    }
}

/// Different numbers, separated by commas.
fn gpus(text: &str) -> Option<Vec<i32>> {
    let mut numbers: Vec<i32> = Vec::new();
    for number in text.split(',') {
        let number = number.parse().ok().filter(|n| *n >= 0)?;
        if numbers.contains(&number) {
            return None;
        }
        numbers.push(number);
    }
    Some(numbers)
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Gpu { number, .. } => write!(f, "cuda:{number}"),
        }
    }
}

impl Device {
    /// The text from which it can be parsed again: `cpu`, `cuda:0` or `cuda:0=GPU-4b0f...`.
    pub fn argument(&self) -> String {
        match self {
            Self::Gpu { uuid: Some(uuid), .. } => format!("{self}={uuid}"),
            Self::Cpu | Self::Gpu { uuid: None, .. } => self.to_string(),
        }
    }
}

impl FromStr for Device {
    type Err = DevicesError;

    fn from_str(text: &str) -> Result<Self, DevicesError> {
        let (device, uuid) = match text.split_once('=') {
            Some((device, uuid)) => (device, Some(uuid.to_owned())),
            None => (text, None),
        };
        match device.parse()? {
            Devices::Cpu(1) if uuid.is_none() => Ok(Self::Cpu),
            Devices::Gpus(numbers) if numbers.len() == 1 => {
                Ok(Self::Gpu { number: numbers[0], uuid })
            }
            _ => Err(DevicesError(text.to_owned())),
        }
    }
}

impl Devices {
    /// Whether they are GPUs.
    pub fn are_gpus(&self) -> bool {
        !matches!(self, Self::Cpu(_))
    }

    /// The device of each rank. GPUs are looked up by another process, which may hang or die in the driver.
    ///
    /// # Errors
    /// A GPU that is asked for does not exist or cannot be used, or the driver does not work.
    pub async fn ranks(&self) -> anyhow::Result<Vec<Device>> {
        let numbers = match self {
            Self::Cpu(count) => return Ok(vec![Device::Cpu; *count]),
            Self::AllGpus => None,
            Self::Gpus(numbers) => Some(numbers),
        };
        let present = list().await?;
        let chosen: Vec<&Present> = match numbers {
            None => {
                ensure!(
                    !present.is_empty(),
                    "there is no GPU for `--devices cuda:all`\nhint: `worker devices` shows what the driver reports; \
                     CUDA_VISIBLE_DEVICES may hide GPUs; `--devices cpu` computes on the CPU"
                );
                present.iter().collect()
            }
            Some(numbers) => numbers.iter().map(|n| one(&present, *n)).collect::<Result<_, _>>()?,
        };
        for gpu in &chosen {
            if let Some(reason) = gpu.refusal() {
                bail!("cuda:{} cannot be used: {reason}", gpu.number);
            }
        }
        let device =
            |gpu: &Present| Device::Gpu { number: gpu.number, uuid: Some(gpu.uuid.clone()) };
        Ok(chosen.into_iter().map(device).collect())
    }
}

fn one(present: &[Present], number: i32) -> anyhow::Result<&Present> {
    let found = present.iter().find(|gpu| gpu.number == number);
    found.with_context(|| match present.len() {
        0 => format!("there is no GPU for `cuda:{number}`: the driver reports none"),
        1 => format!("there is no GPU for `cuda:{number}`: the only one is cuda:0"),
        n => format!("there is no GPU for `cuda:{number}`: they are cuda:0 to cuda:{}", n - 1),
    })
}

/// Lists the GPUs of this host in another process.
async fn list() -> anyhow::Result<Vec<Present>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["devices", "--list"]).kill_on_drop(true);
    prepare(command.as_std_mut());
    let output = tokio::time::timeout(LISTED_WITHIN, command.output());
    let output = output.await.with_context(|| {
        format!(
            "the NVIDIA driver did not answer within {} s\nhint: a GPU hangs; `nvidia-smi` would hang, too, and a \
             reboot helps",
            LISTED_WITHIN.as_secs()
        )
    })??;
    if output.status.success() {
        return Ok(serde_json::from_slice(&output.stdout)?);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().trim_start_matches("error: ");
    match said {
        "" => bail!("listing the GPUs ended with {}", output.status),
        said => bail!("{said}"),
    }
}

/// Starts this program again with the environment of a process that uses a GPU, unless it has that already. The driver
/// reads its environment once, so it must be right from the start.
///
/// # Errors
/// The program cannot be started.
pub fn start_prepared() -> anyhow::Result<()> {
    let set = ENVIRONMENT
        .iter()
        .all(|(name, value)| std::env::var_os(name).is_some_and(|is| is == *value));
    if set && std::env::var_os(REMOVED).is_none() {
        return Ok(());
    }
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1));
    prepare(&mut command);
    Err(command.exec().into())
}

/// Sets the environment of a process that uses a GPU.
pub fn prepare(command: &mut std::process::Command) {
    command.envs(ENVIRONMENT).env_remove(REMOVED);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_cpus_by_count_and_gpus_by_number() {
        assert_eq!("cpu".parse(), Ok(Devices::Cpu(1)));
        assert_eq!("cpu:3".parse(), Ok(Devices::Cpu(3)));
        assert_eq!("cuda:all".parse(), Ok(Devices::AllGpus));
        assert_eq!("cuda:0".parse(), Ok(Devices::Gpus(vec![0])));
        assert_eq!("cuda:3,0".parse(), Ok(Devices::Gpus(vec![3, 0])));
        for bad in ["", "gpu", "cpu:0", "cpu:x", "cpu:65", "cuda", "cuda:", "cuda:-1", "cuda:1,1"] {
            assert!(bad.parse::<Devices>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_rank_has_one_device() {
        let gpu =
            |number, uuid: Option<&str>| Device::Gpu { number, uuid: uuid.map(str::to_owned) };
        for device in [Device::Cpu, gpu(0, None), gpu(12, Some("GPU-4b0f"))] {
            assert_eq!(device.argument().parse(), Ok(device));
        }
        for bad in ["cpu:2", "cuda:all", "cuda:0,1", "cpu=GPU-1"] {
            assert!(bad.parse::<Device>().is_err(), "{bad}");
        }
    }
}

//! The settings, in typed form: what a test chooses, and how it travels in environment variables.
//!
//! Every variable starts with `SOFTGPU_`; README.md lists them. A value that does not parse stops
//! the process, because a test that runs with other settings than it asked for proves nothing.

mod fault;

use std::fmt;
use std::path::PathBuf;

pub use fault::{Fault, NcclAction, NcclPlace};

/// The order in which a block's threads and a grid's blocks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// From the lowest index to the highest.
    Forward,
    /// From the highest index to the lowest.
    Reverse,
    /// A shuffle that depends on the seed.
    Seed(u64),
}

/// What happens when a violation is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violations {
    /// It is recorded, printed, and the process aborts.
    Abort,
    /// It is only recorded.
    Record,
}

/// The settings of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Number of devices of the machine.
    pub devices: usize,
    /// Marketing name of every device.
    pub name: String,
    /// Compute capability.
    pub capability: (u32, u32),
    /// Memory of each device in bytes.
    pub memory: u64,
    /// CUDA version that the driver supports.
    pub driver: (u32, u32),
    /// Version of NVRTC and cuBLAS.
    pub cuda: (u32, u32),
    /// Version of NCCL.
    pub nccl: (u32, u32, u32),
    /// Architectures that NVRTC offers, such as 90.
    pub supported_archs: Vec<u32>,
    /// Order of threads and blocks.
    pub order: Order,
    /// Seed of random delays before each item of a stream.
    pub delays: Option<u64>,
    /// Value of `CU_DEVICE_ATTRIBUTE_COMPUTE_MODE`.
    pub compute_mode: u32,
    /// Whether the devices are MIG slices (their UUIDs then start with `MIG-`).
    pub mig: bool,
    /// Whether devices can access each other's memory.
    pub peers: bool,
    /// PCI bus numbers of the devices, fastest device first. Empty: 1, 2, 3, ...
    pub pci: Vec<u32>,
    /// Identity of the machine, part of each device's UUID, so that two processes may play two
    /// machines.
    pub machine: u32,
    /// Faults to inject.
    pub fail: Vec<Fault>,
    /// Folder in which faults that have struck are marked: each strikes once, in whichever process is the first. By
    /// default, faults strike in every process.
    pub once: Option<PathBuf>,
    /// Folder of the reports.
    pub report: Option<PathBuf>,
    /// Folder in which processes leave the counts of executed lines.
    pub coverage: Option<PathBuf>,
    /// What a violation does.
    pub violations: Violations,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            devices: 1,
            name: "NVIDIA H100 80GB HBM3".to_owned(),
            capability: (9, 0),
            memory: 1 << 30,
            driver: (13, 0),
            cuda: (13, 0),
            nccl: (2, 28, 9),
            supported_archs: vec![75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121],
            order: Order::Forward,
            delays: None,
            compute_mode: 0,
            mig: false,
            peers: true,
            pci: Vec::new(),
            machine: 0,
            fail: Vec::new(),
            once: None,
            report: None,
            coverage: None,
            violations: Violations::Abort,
        }
    }
}

impl Settings {
    /// The environment variables that pass these settings to a process.
    pub fn envs(&self) -> Vec<(String, String)> {
        let mut list = vec![
            ("DEVICES", self.devices.to_string()),
            ("NAME", self.name.clone()),
            ("CAPABILITY", pair(self.capability)),
            ("MEMORY", self.memory.to_string()),
            ("DRIVER", pair(self.driver)),
            ("CUDA", pair(self.cuda)),
            ("NCCL", format!("{}.{}.{}", self.nccl.0, self.nccl.1, self.nccl.2)),
            ("SUPPORTED_ARCHS", joined(&self.supported_archs)),
            ("ORDER", self.order.to_string()),
            ("DELAYS", self.delays.map_or_else(String::new, |seed| format!("seed:{seed}"))),
            ("COMPUTE_MODE", self.compute_mode.to_string()),
            ("MIG", u8::from(self.mig).to_string()),
            ("PEERS", u8::from(self.peers).to_string()),
            ("PCI", joined(&self.pci)),
            ("MACHINE", self.machine.to_string()),
            ("FAIL", joined(&self.fail)),
            ("VIOLATIONS", self.violations.to_string()),
        ];
        let folders =
            [("REPORT", &self.report), ("COVERAGE", &self.coverage), ("ONCE", &self.once)];
        for (key, folder) in folders {
            list.extend(folder.as_ref().map(|folder| (key, folder.display().to_string())));
        }
        list.into_iter().map(|(key, value)| (format!("SOFTGPU_{key}"), value)).collect()
    }

    /// Reads the settings from variables, where `lookup` answers names without their prefix.
    ///
    /// # Errors
    /// Names the first variable whose value does not parse.
    pub fn parse(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let mut settings = Self::default();
        let given = |key: &str| lookup(key).filter(|value| !value.is_empty());
        set(&mut settings.devices, "DEVICES", &given, |text| text.parse().ok())?;
        set(&mut settings.name, "NAME", &given, |text| Some(text.to_owned()))?;
        set(&mut settings.capability, "CAPABILITY", &given, two)?;
        set(&mut settings.memory, "MEMORY", &given, |text| text.parse().ok())?;
        set(&mut settings.driver, "DRIVER", &given, two)?;
        set(&mut settings.cuda, "CUDA", &given, two)?;
        set(&mut settings.nccl, "NCCL", &given, |text| {
            let (major, rest) = text.split_once('.')?;
            let (minor, patch) = two(rest)?;
            Some((major.parse().ok()?, minor, patch))
        })?;
        set(&mut settings.supported_archs, "SUPPORTED_ARCHS", &given, list)?;
        set(&mut settings.order, "ORDER", &given, Order::parse)?;
        set(&mut settings.delays, "DELAYS", &given, |text| Some(Some(seed(text)?)))?;
        set(&mut settings.compute_mode, "COMPUTE_MODE", &given, |text| text.parse().ok())?;
        set(&mut settings.mig, "MIG", &given, flag)?;
        set(&mut settings.peers, "PEERS", &given, flag)?;
        set(&mut settings.pci, "PCI", &given, list)?;
        set(&mut settings.machine, "MACHINE", &given, |text| text.parse().ok())?;
        set(&mut settings.fail, "FAIL", &given, |text| {
            text.split(',').map(Fault::parse).collect()
        })?;
        let folder = |text: &str| Some(Some(PathBuf::from(text)));
        set(&mut settings.once, "ONCE", &given, folder)?;
        set(&mut settings.report, "REPORT", &given, folder)?;
        set(&mut settings.coverage, "COVERAGE", &given, folder)?;
        set(&mut settings.violations, "VIOLATIONS", &given, |text| match text {
            "abort" => Some(Violations::Abort),
            "record" => Some(Violations::Record),
            _ => None,
        })?;
        Ok(settings)
    }

    /// The settings of this process.
    pub(crate) fn from_env() -> Self {
        Self::parse(|key| std::env::var(format!("SOFTGPU_{key}")).ok())
            .unwrap_or_else(|message| panic!("{message}"))
    }
}

fn set<T>(
    slot: &mut T,
    key: &str,
    given: &impl Fn(&str) -> Option<String>,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<(), String> {
    let Some(text) = given(key) else { return Ok(()) };
    *slot = parse(&text).ok_or_else(|| format!("SOFTGPU_{key}={text} is not a valid value"))?;
    Ok(())
}

fn pair((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

fn two(text: &str) -> Option<(u32, u32)> {
    let (first, second) = text.split_once('.')?;
    Some((first.parse().ok()?, second.parse().ok()?))
}

fn seed(text: &str) -> Option<u64> {
    text.strip_prefix("seed:")?.parse().ok()
}

fn flag(text: &str) -> Option<bool> {
    match text {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

fn list(text: &str) -> Option<Vec<u32>> {
    text.split(',').map(|item| item.trim().parse().ok()).collect()
}

fn joined<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

impl Order {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "forward" => Some(Self::Forward),
            "reverse" => Some(Self::Reverse),
            _ => seed(text).map(Self::Seed),
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forward => out.write_str("forward"),
            Self::Reverse => out.write_str("reverse"),
            Self::Seed(seed) => write!(out, "seed:{seed}"),
        }
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Abort => "abort",
            Self::Record => "record",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_the_environment() {
        let settings = Settings {
            devices: 3,
            order: Order::Seed(7),
            delays: Some(9),
            pci: vec![9, 4, 6],
            fail: vec![
                Fault::Launch { kernel: "add".to_owned(), nth: 2, code: 700 },
                Fault::Kill { function: "cuMemcpyDtoHAsync_v2".to_owned(), nth: 5 },
                Fault::Ecc { nth: 1 },
                Fault::Nccl {
                    rank: 1,
                    place: NcclPlace::Collective(3),
                    action: NcclAction::Error(6),
                },
            ],
            once: Some(PathBuf::from("struck")),
            report: Some(PathBuf::from("reports")),
            coverage: Some(PathBuf::from("counts")),
            ..Settings::default()
        };
        let envs = settings.envs();
        let lookup = |key: &str| {
            let name = format!("SOFTGPU_{key}");
            envs.iter().find(|(have, _)| *have == name).map(|(_, value)| value.clone())
        };
        assert_eq!(Settings::parse(lookup), Ok(settings));
    }

    #[test]
    fn a_value_that_does_not_parse_is_named() {
        let lookup = |key: &str| (key == "ORDER").then(|| "sideways".to_owned());
        let message = Settings::parse(lookup).expect_err("the order is not valid");
        assert_eq!(message, "SOFTGPU_ORDER=sideways is not a valid value");
    }
}

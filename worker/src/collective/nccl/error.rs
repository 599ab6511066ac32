//! Why NCCL cannot be used, or can no longer be used.

use std::ffi::c_int;
use std::time::Duration;

use crate::device::cuda::library::{Missing, Version};

/// A failure of NCCL on this rank, or a set of ranks that NCCL cannot connect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// This host has no usable NCCL.
    #[error(transparent)]
    Missing(#[from] Missing),

    /// This rank has a slice of a GPU, which NCCL cannot use.
    #[error(
        "a slice of a GPU (MIG) cannot sum gradients with others\n\
         hint: a run on a slice has one worker; turn MIG off for more"
    )]
    Slice,

    /// NCCL would send gradients to other hosts in the clear, which nobody has agreed to.
    #[error(
        "the GPUs are on several hosts, and NCCL sends gradients unencrypted\n\
         hint: if nobody else can read and change what this network carries, start all workers with --trust-network"
    )]
    Plaintext,

    /// The ranks have different versions of NCCL.
    #[error(
        "all ranks need the same version of NCCL, but {}\nhint: install one version on all hosts",
        by_version(versions)
    )]
    Versions {
        /// The version of each rank.
        versions: Vec<Version>,
    },

    /// A call failed, or what it had started.
    #[error("{call}: {text} ({code}){}", details(last))]
    Call {
        /// The function of NCCL.
        call: &'static str,
        /// NCCL's number for the error.
        code: c_int,
        /// NCCL's text for the number.
        text: String,
        /// NCCL's last message, which can be empty or about something else.
        last: String,
    },

    /// A call did not finish in time.
    #[error("{call} did not finish within {} s", within.as_secs_f64())]
    Slow {
        /// The function of NCCL.
        call: &'static str,
        /// The time limit.
        within: Duration,
    },
}

fn details(last: &str) -> String {
    if last.is_empty() { String::new() } else { format!(": {last}") }
}

/// "ranks 0, 2 have 2.28.9, rank 1 has 2.27.3"
fn by_version(versions: &[Version]) -> String {
    let mut distinct: Vec<Version> = Vec::new();
    for version in versions {
        if !distinct.contains(version) {
            distinct.push(*version);
        }
    }
    let ranks_with = |version: &Version| {
        let having = (0..).zip(versions).filter(|(_, has)| *has == version);
        let ranks: Vec<String> = having.map(|(rank, _): (usize, _)| rank.to_string()).collect();
        match &ranks[..] {
            [rank] => format!("rank {rank} has {version}"),
            ranks => format!("ranks {} have {version}", ranks.join(", ")),
        }
    };
    distinct.iter().map(ranks_with).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_listed_with_their_ranks() {
        let [old, new] = [Version::new(2, 27), Version::new(2, 28)];
        let error = Error::Versions { versions: vec![new, old, new] };
        let text = error.to_string();
        assert!(text.contains("but ranks 0, 2 have 2.28, rank 1 has 2.27\nhint: "), "{text}");
    }
}

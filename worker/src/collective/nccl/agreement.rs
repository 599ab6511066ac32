//! The ranks of a ring learn the id of their communicator, and that they have the same version of NCCL.

use super::communicator::{ID_BYTES, Id};
use super::error::Error as Failure;
use crate::collective::{Collective, Error};
use crate::device::cuda::library::Version;

/// Numbers that tell a version.
const PARTS: usize = 3;

/// Exchanges the versions, and rank 0's `id`, which the other ranks do not have yet.
///
/// # Errors
/// [`Failure::Versions`], which is the same on every rank, or an error of the ring.
pub(super) fn agree(
    ring: &mut dyn Collective,
    version: Version,
    id: Option<&Id>,
) -> Result<Id, Error> {
    let (rank, world_size) = (ring.rank(), ring.world_size());
    // A sum in which all terms but one are zero is exact.
    let mut message = vec![0.0; world_size * PARTS + ID_BYTES];
    let (versions, bytes) = message.split_at_mut(world_size * PARTS);
    versions[rank * PARTS..][..PARTS].copy_from_slice(&told(version));
    for (to, byte) in bytes.iter_mut().zip(id.into_iter().flatten()) {
        *to = f64::from(*byte);
    }
    ring.control(&mut message)?;
    let (versions, bytes) = message.split_at(world_size * PARTS);
    let versions: Vec<Version> = versions.chunks(PARTS).map(understood).collect();
    if versions.iter().any(|other| *other != versions[0]) {
        return Err(Failure::Versions { versions }.into());
    }
    Ok(std::array::from_fn(|index| bytes[index] as u8))
}

fn told(version: Version) -> [f64; PARTS] {
    let Version { major, minor, patch } = version;
    [major, minor, patch.map_or(0, |patch| patch + 1)].map(f64::from)
}

fn understood(parts: &[f64]) -> Version {
    let patch = (parts[2] > 0.0).then(|| parts[2] as u32 - 1);
    Version { major: parts[0] as u32, minor: parts[1] as u32, patch }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::InProcess;
    use std::time::Duration;

    /// The verdict of each rank, of which rank 0 has drawn `id`.
    fn verdicts(versions: &[Version], id: &Id) -> Vec<Result<Id, Error>> {
        let world = InProcess::world(versions.len(), Duration::from_secs(60));
        std::thread::scope(|scope| {
            let ask = |(mut rank, version): (InProcess, Version)| {
                scope.spawn(move || {
                    let drawn = (rank.rank() == 0).then_some(id);
                    agree(&mut rank, version, drawn)
                })
            };
            let threads: Vec<_> =
                world.into_iter().zip(versions.iter().copied()).map(ask).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        })
    }

    #[test]
    fn every_rank_gets_every_byte_of_the_id() {
        let id = std::array::from_fn(|index| (index * 37 + 128) as u8);
        for version in [Version::new(2, 28), Version { major: 2, minor: 30, patch: Some(0) }] {
            for verdict in verdicts(&[version; 3], &id) {
                assert_eq!(verdict.expect("the versions are equal"), id);
            }
        }
    }

    #[test]
    fn different_versions_are_refused_by_every_rank() {
        let version = |patch| Version { major: 2, minor: 28, patch };
        let versions = [version(Some(9)), version(Some(9)), version(None)];
        for verdict in verdicts(&versions, &[0; ID_BYTES]) {
            let text = verdict.expect_err("the versions differ").to_string();
            assert!(text.contains("ranks 0, 1 have 2.28.9, rank 2 has 2.28"), "{text}");
        }
    }
}

//! Versions of libraries.

use std::ffi::c_int;
use std::fmt;

/// A library's version, or the version of CUDA that a driver supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The number that changes with incompatible releases.
    pub major: u32,
    /// The number that changes with compatible releases.
    pub minor: u32,
    /// The third number, where the library has one.
    pub patch: Option<u32>,
}

impl Version {
    /// A version of two numbers.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor, patch: None }
    }

    /// The version that `cuDriverGetVersion` encodes: 12080 is 12.8.
    pub(super) fn of_driver(code: c_int) -> Self {
        let code = code.unsigned_abs();
        Self::new(code / 1000, code % 1000 / 10)
    }

    /// The version that cuBLAS encodes: 120805 is 12.8.5.
    pub(super) fn of_cublas(code: c_int) -> Self {
        let code = code.unsigned_abs();
        Self { major: code / 10_000, minor: code / 100 % 100, patch: Some(code % 100) }
    }

    /// The version that NCCL encodes: 22809 is 2.28.9, and 2804 is 2.8.4 of before 2.9.
    pub(super) fn of_nccl(code: c_int) -> Self {
        let code = code.unsigned_abs();
        if code < 10_000 {
            return Self { major: code / 1000, minor: code / 100 % 10, patch: Some(code % 100) };
        }
        Self { major: code / 10_000, minor: code / 100 % 100, patch: Some(code % 100) }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        match self.patch {
            Some(patch) => write!(f, ".{patch}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_every_library_are_decoded() {
        assert_eq!(Version::of_driver(12_080).to_string(), "12.8");
        assert_eq!(Version::of_driver(13_000).to_string(), "13.0");
        assert_eq!(Version::of_cublas(130_100).to_string(), "13.1.0");
        assert_eq!(Version::of_cublas(120_805).to_string(), "12.8.5");
        assert_eq!(Version::of_nccl(22_809).to_string(), "2.28.9");
        assert_eq!(Version::of_nccl(2_804).to_string(), "2.8.4");
    }

    #[test]
    fn a_patch_does_not_make_a_version_older_than_its_minimum() {
        assert!(Version::of_nccl(21_800) >= Version::new(2, 18));
        assert!(Version::of_nccl(21_705) < Version::new(2, 18));
    }
}

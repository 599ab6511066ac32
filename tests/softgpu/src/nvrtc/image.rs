//! Images: a small text in place of machine code, which the driver's module calls read.
//!
//! ```text
//!   softgpu cubin sm_90 13.0 0123456789abcdef\0      (or `ptx compute_90`)
//! ```

/// The longest image, its zero included.
const MAX_IMAGE: usize = 64;

/// What the driver needs to know of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Image {
    pub is_ptx: bool,
    /// Such as 90.
    pub arch: u32,
    /// Version of the compiler.
    pub cuda: (u32, u32),
    pub hash: u64,
}

impl Image {
    /// Reads an image up to its zero byte.
    ///
    /// # Safety
    /// `at` must point to a text that ends with a zero byte, or to at least 64 bytes.
    pub(crate) unsafe fn read(at: *const u8) -> Option<Self> {
        let mut bytes = Vec::new();
        for offset in 0..MAX_IMAGE {
            // SAFETY: the caller vouches for the bytes up to the zero.
            match unsafe { *at.add(offset) } {
                0 => break,
                byte => bytes.push(byte),
            }
        }
        let text = String::from_utf8(bytes).ok()?;
        let mut words = text.strip_prefix("softgpu ")?.split(' ');
        let is_ptx = match words.next()? {
            "ptx" => true,
            "cubin" => false,
            _ => return None,
        };
        let (_, arch) = words.next()?.split_once('_')?;
        let (major, minor) = words.next()?.split_once('.')?;
        Some(Self {
            is_ptx,
            arch: arch.parse().ok()?,
            cuda: (major.parse().ok()?, minor.parse().ok()?),
            hash: u64::from_str_radix(words.next()?, 16).ok()?,
        })
    }

    /// The image as it is handed out, without its zero.
    pub(super) fn text(self) -> String {
        let (kind, prefix) = if self.is_ptx { ("ptx", "compute") } else { ("cubin", "sm") };
        let (major, minor) = self.cuda;
        format!("softgpu {kind} {prefix}_{} {major}.{minor} {:016x}", self.arch, self.hash)
    }
}

//! What GPUs can do at most, according to NVIDIA's data sheets: without sparsity, bf16 with sums in f32, and f32
//! without TF32.

use crate::kernels::Peaks;

/// A GPU.
pub(super) struct Known {
    /// Its name in options.
    pub(super) name: &'static str,
    /// Words of the driver's name for it.
    words: &'static [&'static str],
    pub(super) peaks: Peaks,
}

const fn known(
    name: &'static str,
    words: &'static [&'static str],
    [bf16, f32, gigabytes]: [f64; 3],
) -> Known {
    let peaks =
        Peaks { bf16_flops: bf16 * 1e12, f32_flops: f32 * 1e12, bandwidth: gigabytes * 1e9 };
    Known { name, words, peaks }
}

/// Those with more words come before those whose words they contain. TFLOPS in bf16 and in f32, and GB/s.
const ALL: &[Known] = &[
    known("b200", &["B200"], [2250.0, 75.0, 7700.0]),
    known("h200-nvl", &["H200", "NVL"], [835.5, 60.0, 4800.0]),
    known("h200", &["H200"], [989.5, 67.0, 4800.0]),
    known("h100-nvl", &["H100", "NVL"], [835.5, 60.0, 3900.0]),
    known("h100-pcie", &["H100", "PCIe"], [756.5, 51.0, 2000.0]),
    known("h100", &["H100"], [989.5, 67.0, 3350.0]),
    known("a100-40gb", &["A100", "40GB"], [312.0, 19.5, 1555.0]),
    known("a100", &["A100"], [312.0, 19.5, 2039.0]),
    known("a40", &["A40"], [149.7, 37.4, 696.0]),
    known("a10", &["A10"], [125.0, 31.2, 600.0]),
    known("l40s", &["L40S"], [362.0, 91.6, 864.0]),
    known("l40", &["L40"], [181.0, 90.5, 864.0]),
    known("l4", &["L4"], [121.0, 30.3, 300.0]),
    known("rtx-5090", &["5090"], [209.5, 104.8, 1792.0]),
    known("rtx-4090", &["4090"], [165.2, 82.6, 1008.0]),
    known("rtx-3090", &["3090"], [71.0, 35.6, 936.0]),
];

/// The GPU with this name in options.
///
/// # Errors
/// There is none.
pub(super) fn named(name: &str) -> anyhow::Result<&'static Known> {
    ALL.iter().find(|known| known.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
        let names: Vec<&str> = ALL.iter().map(|known| known.name).collect();
        anyhow::anyhow!("the GPU `{name}` is not known\nhint: known are {}", names.join(", "))
    })
}

/// The GPU that the driver calls `name`, if it is known.
pub(super) fn of_driver(name: &str) -> Option<&'static Known> {
    let words: Vec<&str> = name.split([' ', '-']).collect();
    ALL.iter().find(|known| known.words.iter().all(|word| words.contains(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_s_names_are_recognized() {
        let of = |name| of_driver(name).map(|known| known.name);
        assert_eq!(of("NVIDIA H100 80GB HBM3"), Some("h100"));
        assert_eq!(of("NVIDIA H100 PCIe"), Some("h100-pcie"));
        assert_eq!(of("NVIDIA H200"), Some("h200"));
        assert_eq!(of("NVIDIA A100-SXM4-80GB"), Some("a100"));
        assert_eq!(of("NVIDIA A100-PCIE-40GB"), Some("a100-40gb"));
        assert_eq!(of("NVIDIA L4"), Some("l4"));
        assert_eq!(of("NVIDIA L40S"), Some("l40s"));
        assert_eq!(of("NVIDIA A10G"), None, "it has half of an A10's tensor cores");
        assert_eq!(of("NVIDIA GeForce RTX 4090"), Some("rtx-4090"));
    }
}

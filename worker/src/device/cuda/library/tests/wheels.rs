//! Loading NVIDIA's real libraries, and compiling a kernel with them. No GPU is needed.

use super::below;
use crate::device::cuda::library::{Libraries, Nvrtc, Version};
use std::ffi::CString;
use std::ptr;

/// Names Python environments with NVIDIA's wheels, separated by colons; at most one for each major
/// version of CUDA. A libcublas uses the libcublasLt that was opened first in the process.
const ENVIRONMENTS: &str = "MUSTER_TEST_CUDA_WHEELS";

#[test]
fn the_libraries_of_wheels_load_and_compile() {
    let Some(environments) = std::env::var_os(ENVIRONMENTS) else {
        println!("skipped: {ENVIRONMENTS} names no Python environments with the CUDA libraries");
        return;
    };
    for root in std::env::split_paths(&environments) {
        let environment = below(&root, &[("VIRTUAL_ENV", &root)]);
        let libraries = Libraries::find(Version::new(13, 0), &environment).unwrap();
        let chosen = libraries.candidates().last().unwrap();
        println!("{chosen}");
        assert_eq!(libraries.nvrtc().version().major, chosen.major);
        assert_eq!(libraries.cublas().version().major, chosen.major);
        let cubin = compile(libraries.nvrtc());
        assert_eq!(cubin.get(..4), Some(&b"\x7fELF"[..]));
        match libraries.nccl() {
            Ok(nccl) => assert!(nccl.version() >= Version::new(2, 18)),
            Err(missing) => println!("{missing}"),
        }
    }
}

/// The machine code of a small kernel.
fn compile(nvrtc: &Nvrtc) -> Vec<u8> {
    let source = c"extern \"C\" __global__ void twice(float* x) { x[threadIdx.x] *= 2.0f; }";
    let option = CString::new("--gpu-architecture=sm_90").unwrap();
    let mut program = ptr::null_mut();
    let mut bytes = 0;
    // SAFETY: the strings end with a zero, and every pointer is valid for its call.
    unsafe {
        let (name, none) = (c"twice.cu".as_ptr(), ptr::null());
        let status = (nvrtc.nvrtcCreateProgram)(&mut program, source.as_ptr(), name, 0, none, none);
        assert_eq!(status, 0);
        assert_eq!((nvrtc.nvrtcCompileProgram)(program, 1, &option.as_ptr()), 0);
        assert_eq!((nvrtc.nvrtcGetCUBINSize)(program, &mut bytes), 0);
        let mut cubin = vec![0; bytes];
        assert_eq!((nvrtc.nvrtcGetCUBIN)(program, cubin.as_mut_ptr().cast()), 0);
        assert_eq!((nvrtc.nvrtcDestroyProgram)(&mut program), 0);
        cubin
    }
}

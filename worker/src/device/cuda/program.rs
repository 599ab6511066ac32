//! A program of kernels, compiled by NVRTC for the GPU at hand.
//!
//! The result is kept in a folder, by source, architecture and compiler, since compiling takes seconds. A GPU that is
//! newer than the compiler gets the assembly of the newest architecture that the compiler knows; the driver translates
//! it.

use super::calls::Handle;
use super::error::Error;
use super::gpu::{Function, Gpu};
use super::library::{Nvrtc, Version};
use cudarc::driver::sys;
use std::ffi::{CStr, CString, c_char, c_int};
use std::path::Path;
use std::ptr::null_mut;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128;

/// Options of every compilation besides the architecture. Products and sums stay apart, so that all GPUs round alike.
const OPTIONS: [&str; 2] = ["--fmad=false", "--std=c++17"];

/// A loaded program.
pub(crate) struct Program {
    gpu: Arc<Gpu>,
    module: Handle<sys::CUmodule>,
}

/// What the compiler produces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// Machine code of this architecture.
    Machine(i32),
    /// Assembly of this architecture.
    Assembly(i32),
}

impl Target {
    /// The target for a GPU of architecture `gpu`, such as 90, if the compiler supports these architectures.
    fn choose(gpu: i32, supported: &[i32]) -> Option<Self> {
        if supported.contains(&gpu) {
            return Some(Self::Machine(gpu));
        }
        let older = supported.iter().copied().filter(|older| *older < gpu);
        older.max().map(Self::Assembly)
    }

    /// The options of a compilation.
    fn options(self) -> [String; 3] {
        [self.option(), OPTIONS[0].to_owned(), OPTIONS[1].to_owned()]
    }

    fn option(self) -> String {
        match self {
            Self::Machine(architecture) => format!("--gpu-architecture=sm_{architecture}"),
            Self::Assembly(architecture) => format!("--gpu-architecture=compute_{architecture}"),
        }
    }
}

impl Program {
    /// Compiles `source`, unless `cache` holds the result, and loads it.
    ///
    /// # Errors
    /// [`Error::Compiler`], or another error of the compiler or the driver.
    pub(crate) fn load(gpu: &Arc<Gpu>, source: &str, cache: &Path) -> Result<Self, Error> {
        type Of = sys::CUdevice_attribute;
        let major = gpu.attribute(Of::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = gpu.attribute(Of::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let compiler = Compiler(gpu.libraries().nvrtc());
        let architecture = 10 * major + minor;
        let supported = compiler.supported()?;
        let target = Target::choose(architecture, &supported).ok_or_else(|| Error::Compiler {
            architecture: format!("sm_{architecture}"),
            log: format!("the compiler supports {supported:?}"),
        })?;
        let options = target.options();
        let path = cache.join(file(source, &options, gpu.libraries().nvrtc().version()));

        if let Some(kept) = kept(&path) {
            match Self::of_image(gpu, &kept) {
                Ok(program) => return Ok(program),
                Err(error) => {
                    tracing::warn!(%error, path = %path.display(), "compiling the kernels again");
                }
            }
        }
        let image = compiler.compile(source, &options, target)?;
        keep(&path, &image);
        Self::of_image(gpu, &image)
    }

    fn of_image(gpu: &Arc<Gpu>, image: &[u8]) -> Result<Self, Error> {
        gpu.bind()?;
        // Assembly is text, which the driver reads up to a zero.
        let image = [image, &[0]].concat();
        let mut module = null_mut();
        let load = gpu.driver().cuModuleLoadDataEx;
        // SAFETY: the image is a whole module, followed by a zero; there are no options.
        let code = unsafe { load(&mut module, image.as_ptr().cast(), 0, null_mut(), null_mut()) };
        gpu.result("cuModuleLoadDataEx", code)?;
        Ok(Self { gpu: gpu.clone(), module: Handle(module) })
    }

    /// The kernel with this name.
    ///
    /// # Errors
    /// Those of the driver.
    pub(crate) fn function(&self, name: &str) -> Result<Function, Error> {
        let name = CString::new(name).expect("names of kernels have no zeros");
        let mut function = null_mut();
        let get = self.gpu.driver().cuModuleGetFunction;
        // SAFETY: the module is loaded, and the name ends in a zero.
        let code = unsafe { get(&mut function, self.module.0, name.as_ptr()) };
        self.gpu.result("cuModuleGetFunction", code)?;
        Ok(Function(Handle(function)))
    }
}

impl Drop for Program {
    /// Waits for its kernels; errors do not matter any more.
    fn drop(&mut self) {
        let driver = self.gpu.driver();
        if self.gpu.bind().is_ok() {
            self.gpu.wait(super::gpu::Stream::Compute);
            // SAFETY: none of its kernels runs, and none is launched after this.
            unsafe { (driver.cuModuleUnload)(self.module.0) };
        }
    }
}

/// The name of the file that keeps a compiled program: another source, other options or another compiler have another.
fn file(source: &str, options: &[String], compiler: Version) -> String {
    let hash = xxh3_128(format!("{options:?}{source}").as_bytes());
    format!("{hash:032x}-nvrtc-{compiler}.bin")
}

/// A compiled program that an earlier start has kept, if it is whole: the driver would read beyond the end of one that
/// is cut off.
fn kept(path: &Path) -> Option<Vec<u8>> {
    let mut image = std::fs::read(path).ok()?;
    let digest = image.split_off(image.len().checked_sub(16)?);
    (xxh3_128(&image).to_le_bytes() == *digest).then_some(image)
}

/// Keeps a compiled program for the next start. If that fails, it is compiled again.
fn keep(path: &Path, image: &[u8]) {
    let kept = || -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        // Several ranks may do this at the same time.
        let part = path.with_extension(proto::id::unique());
        std::fs::write(&part, [image, &xxh3_128(image).to_le_bytes()].concat())?;
        std::fs::rename(&part, path)
    };
    if let Err(error) = kept() {
        tracing::warn!(%error, path = %path.display(), "the compiled kernels cannot be kept");
    }
}

/// NVRTC. It needs no GPU.
struct Compiler(&'static Nvrtc);

impl Compiler {
    /// The architectures for which it compiles.
    fn supported(&self) -> Result<Vec<i32>, Error> {
        let mut count: c_int = 0;
        // SAFETY: `count` outlives the call.
        let code = unsafe { (self.0.nvrtcGetNumSupportedArchs)(&mut count) };
        self.result("nvrtcGetNumSupportedArchs", code)?;
        let mut supported = vec![0; usize::try_from(count).unwrap_or(0)];
        // SAFETY: there is room for as many as the compiler has.
        let code = unsafe { (self.0.nvrtcGetSupportedArchs)(supported.as_mut_ptr()) };
        self.result("nvrtcGetSupportedArchs", code)?;
        Ok(supported)
    }

    fn compile(&self, source: &str, options: &[String], target: Target) -> Result<Vec<u8>, Error> {
        let began = std::time::Instant::now();
        let text = |text: &str| CString::new(text).expect("no zeros in sources and options");
        let (source, options) = (text(source), options.iter().map(|o| text(o)).collect::<Vec<_>>());
        let mut program = null_mut();
        let (none, name) = (null_mut(), c"muster.cu".as_ptr());
        // SAFETY: all strings end in a zero and outlive the call; there are no headers.
        let code = unsafe {
            (self.0.nvrtcCreateProgram)(&mut program, source.as_ptr(), name, 0, none, none)
        };
        self.result("nvrtcCreateProgram", code)?;
        let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        let compile = self.0.nvrtcCompileProgram;
        // SAFETY: the program was created above, and the options outlive the call.
        let code = unsafe { compile(program, pointers.len() as c_int, pointers.as_ptr()) };
        let image = match code {
            0 => match target {
                Target::Machine(_) => {
                    self.output(program, self.0.nvrtcGetCUBINSize, self.0.nvrtcGetCUBIN)
                }
                Target::Assembly(_) => {
                    self.output(program, self.0.nvrtcGetPTXSize, self.0.nvrtcGetPTX)
                }
            },
            _ => self.result("nvrtcCompileProgram", code).map(|()| Vec::new()),
        };
        let image = image.map_err(|error| {
            let (size, get) = (self.0.nvrtcGetProgramLogSize, self.0.nvrtcGetProgramLog);
            let log = self.output(program, size, get).unwrap_or_default();
            let log = String::from_utf8_lossy(&log).trim_end_matches(['\0', '\n']).to_owned();
            let architecture = target.option();
            if log.is_empty() { error } else { Error::Compiler { architecture, log } }
        });
        // SAFETY: the program was created above and is not used again.
        unsafe { (self.0.nvrtcDestroyProgram)(&mut program) };
        tracing::debug!(seconds = began.elapsed().as_secs_f64(), "compiled the kernels");
        image
    }

    /// An output of the compiler: `size` tells its length, and `get` writes it.
    fn output<P: Copy>(
        &self,
        program: P,
        size: unsafe extern "C" fn(P, *mut usize) -> c_int,
        get: unsafe extern "C" fn(P, *mut c_char) -> c_int,
    ) -> Result<Vec<u8>, Error> {
        let mut bytes = 0;
        // SAFETY: the program is live, and `bytes` outlives the call.
        self.result("nvrtcGetSize", unsafe { size(program, &mut bytes) })?;
        let mut output = vec![0u8; bytes];
        // SAFETY: there is room for as many bytes as the compiler has.
        self.result("nvrtcGet", unsafe { get(program, output.as_mut_ptr().cast()) })?;
        Ok(output)
    }

    fn result(&self, call: &'static str, code: c_int) -> Result<(), Error> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the compiler's texts are static strings that end in a zero.
        let name = unsafe { CStr::from_ptr((self.0.nvrtcGetErrorString)(code)) };
        Err(Error::Call { call, code, name: name.to_string_lossy().into_owned() })
    }
}

/// Compiles `source` with the compiler at `path` for every architecture that can be used, and as the assembly that a
/// newer GPU gets; returns the architectures and the assembly. For tests.
#[cfg(test)]
pub(crate) fn compile_for_all(path: &Path, source: &str) -> Result<(Vec<i32>, String), Error> {
    let nvrtc = super::library::nvrtc_at(path).expect("a compiler");
    let compiler = Compiler(nvrtc);
    let mut architectures = compiler.supported()?;
    architectures.retain(|architecture| *architecture >= 80);
    let newer = Target::choose(i32::MAX, &architectures);
    let mut assembly = String::new();
    for target in architectures.iter().map(|of| Target::Machine(*of)).chain(newer) {
        let options = target.options();
        let image = compiler.compile(source, &options, target)?;
        let machine = image.starts_with(b"\x7fELF");
        assert_eq!(machine, matches!(target, Target::Machine(_)), "{target:?}");
        if !machine {
            assembly = String::from_utf8_lossy(&image).into_owned();
        }
    }
    Ok((architectures, assembly))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_program_belongs_to_one_source_compiler_and_set_of_options() {
        let options = Target::Machine(90).options();
        let names = [
            file("a", &options, Version::new(13, 0)),
            file("b", &options, Version::new(13, 0)),
            file("a", &Target::Machine(80).options(), Version::new(13, 0)),
            file("a", &options, Version::new(12, 8)),
        ];
        for (i, name) in names.iter().enumerate() {
            assert!(!names[..i].contains(name), "{names:?}");
        }
        assert_eq!(names[0], file("a", &options, Version::new(13, 0)));
    }

    #[test]
    fn a_kept_program_that_is_not_whole_is_compiled_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cache/program.bin");
        assert_eq!(kept(&path), None);
        keep(&path, b"an image");
        assert_eq!(kept(&path).as_deref(), Some(&b"an image"[..]));
        let whole = std::fs::read(&path).expect("it was kept");
        for damaged in [&whole[..10], &whole[..whole.len() - 1], &[&whole[..], b"x"].concat()] {
            std::fs::write(&path, damaged).expect("the folder is the test's own");
            assert_eq!(kept(&path), None, "{} of {} bytes", damaged.len(), whole.len());
        }
    }

    #[test]
    fn a_gpu_that_the_compiler_does_not_know_gets_the_newest_older_assembly() {
        let supported = [75, 80, 86, 90, 100];
        assert_eq!(Target::choose(90, &supported), Some(Target::Machine(90)));
        assert_eq!(Target::choose(120, &supported), Some(Target::Assembly(100)));
        assert_eq!(Target::choose(89, &supported), Some(Target::Assembly(86)));
        assert_eq!(Target::choose(70, &supported), None);
    }
}

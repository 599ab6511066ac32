//! A caller of the software GPU for tests: opens the library as any program would.
//!
//! Each test runs its scenario in a child process with settings of its own, and then judges the
//! report that the child left behind.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

pub mod ranks;

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use softgpu::{Report, Settings, Violations};

const CHILD: &str = "SOFTGPU_TEST_CHILD";
const FOLDER: &str = "SOFTGPU_TEST_FOLDER";

pub type Handle = *mut c_void;

/// What a child process left behind.
pub struct Outcome {
    pub report: Report,
    pub status: ExitStatus,
    pub output: String,
}

impl Outcome {
    /// The kinds of the violations, each once, sorted.
    pub fn kinds(&self) -> Vec<String> {
        let mut kinds: Vec<String> =
            self.report.violations.iter().map(|violation| violation.kind.clone()).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    }

    /// Asserts that the child ended well and broke only these rules.
    pub fn expect(&self, kinds: &[&str]) {
        assert!(self.status.success(), "{}\n{}", self.status, self.output);
        assert_eq!(self.kinds(), kinds, "{}", self.output);
    }
}

/// Settings that record violations instead of aborting.
pub fn recording() -> Settings {
    Settings { violations: Violations::Record, ..Settings::default() }
}

/// A fresh folder for the links and reports of a test.
pub fn fresh_folder(test: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let unique = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let folder = std::env::temp_dir().join(format!("softgpu-{test}-{unique}"));
    std::fs::create_dir_all(&folder).expect("the temporary folder is writable");
    folder
}

/// A command that runs the scenario of the test `name` in a child process.
pub fn command(name: &str, settings: &Settings, folder: &std::path::Path, child: &str) -> Command {
    softgpu::install(folder).expect("the library was built beside the test");
    let settings = Settings { report: Some(folder.join("report")), ..settings.clone() };
    let mut command = Command::new(std::env::current_exe().expect("a test has an executable"));
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]);
    command.envs(settings.envs()).env(CHILD, child).env(FOLDER, folder);
    command
}

/// In a child: which child this is. The folder then shows that its scenario ran.
pub fn child() -> Option<String> {
    let label = std::env::var(CHILD).ok()?;
    let folder = std::env::var(FOLDER).expect("a child knows its folder");
    let mark = PathBuf::from(folder).join(format!("ran-{label}"));
    std::fs::write(mark, "").expect("the folder is writable");
    Some(label)
}

/// Asserts that the scenario of a child ran: a wrong test name would run nothing, successfully.
pub fn assert_ran(folder: &std::path::Path, label: &str) {
    assert!(folder.join(format!("ran-{label}")).exists(), "no test of this name ran");
}

/// Runs a scenario in a child process; in the child itself, never returns.
pub fn scenario(name: &str, settings: &Settings, body: impl FnOnce()) -> Outcome {
    if child().is_some() {
        body();
        std::process::exit(0);
    }
    softgpu::available().expect("the tests need kernels, and so a C++ compiler");
    let folder = fresh_folder(name);
    let output = command(name, settings, &folder, "1").output().expect("the test can run itself");
    assert_ran(&folder, "1");
    let report = Report::read(&folder.join("report")).expect("the report is readable");
    std::fs::remove_dir_all(&folder).expect("the folder is the test's own");
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Outcome { report, status: output.status, output: text.concat() }
}

/// The opened library.
pub struct Gpu {
    library: Library,
    pub stream: Handle,
    pub module: Handle,
}

/// Calls an entry point with the given argument types and returns its code.
#[macro_export]
macro_rules! call {
    ($gpu:expr, $name:ident($($argument:expr => $type:ty),* $(,)?)) => {{
        let symbol = $gpu.symbol(stringify!($name));
        // SAFETY: the caller of the macro vouches that the types are those of the real header.
        let function: extern "C" fn($($type),*) -> u32 = unsafe { std::mem::transmute(symbol) };
        function($($argument),*)
    }};
}

impl Gpu {
    /// Opens the library without any call.
    pub fn open() -> Self {
        Self::open_as("libcuda.so.1")
    }

    /// Opens the library under one of its names.
    pub fn open_as(name: &str) -> Self {
        let folder = PathBuf::from(std::env::var(FOLDER).expect("a child knows its folder"));
        let path = folder.join(name);
        // SAFETY: the software GPU runs no code on loading that could interfere.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
        Self {
            library: library.expect("the link leads to the library"),
            stream: std::ptr::null_mut(),
            module: std::ptr::null_mut(),
        }
    }

    /// Opens the library, makes device 0 current, loads the kernels and makes a stream.
    pub fn ready() -> Self {
        let mut gpu = Self::open();
        gpu.set_device(0);
        gpu.module = gpu.load("--gpu-architecture=sm_90").expect("the kernels compile");
        gpu.stream = gpu.new_stream();
        gpu
    }

    pub fn symbol(&self, name: &str) -> *mut c_void {
        let name = CString::new(name).expect("a symbol has no zero");
        // SAFETY: the symbol is only used as a function of its documented type.
        let symbol = unsafe { self.library.get::<*mut c_void>(name.as_bytes_with_nul()) };
        symbol.unwrap_or_else(|error| panic!("{error}")).into_raw()
    }

    pub fn set_device(&self, ordinal: c_int) -> u32 {
        let init = call!(self, cuInit(0 => c_uint));
        if init != 0 {
            return init;
        }
        let mut context = std::ptr::null_mut();
        let code =
            call!(self, cuDevicePrimaryCtxRetain(&mut context => *mut Handle, ordinal => c_int));
        if code != 0 {
            return code;
        }
        call!(self, cuCtxSetCurrent(context => Handle))
    }

    /// Compiles the kernels and loads them.
    pub fn load(&self, option: &str) -> Result<Handle, u32> {
        let source = self.source();
        let mut program: Handle = std::ptr::null_mut();
        let none = std::ptr::null::<*const c_char>();
        let created = call!(self, nvrtcCreateProgram(
            &mut program => *mut Handle, source.as_ptr() => *const c_char,
            c"kernels.cu".as_ptr() => *const c_char, 0 => c_int,
            none => *const *const c_char, none => *const *const c_char));
        assert_eq!(created, 0);
        let option = CString::new(option).expect("an option has no zero");
        let options = [option.as_ptr()];
        let compiled = call!(self, nvrtcCompileProgram(
            program => Handle, 1 => c_int, options.as_ptr() => *const *const c_char));
        if compiled != 0 {
            return Err(1000 + compiled);
        }
        let mut size = 0_usize;
        assert_eq!(call!(self, nvrtcGetCUBINSize(program => Handle, &mut size => *mut usize)), 0);
        let mut image = vec![0_u8; size];
        let code = if size > 0 {
            call!(self, nvrtcGetCUBIN(program => Handle, image.as_mut_ptr() => *mut u8))
        } else {
            call!(self, nvrtcGetPTXSize(program => Handle, &mut size => *mut usize));
            image.resize(size, 0);
            call!(self, nvrtcGetPTX(program => Handle, image.as_mut_ptr() => *mut u8))
        };
        assert_eq!(code, 0);
        let mut module: Handle = std::ptr::null_mut();
        match call!(self, cuModuleLoadData(&mut module => *mut Handle, image.as_ptr() => *const u8))
        {
            0 => Ok(module),
            code => Err(code),
        }
    }

    fn source(&self) -> CString {
        CString::new(include_str!("../../samples.cu")).expect("the source has no zero")
    }

    pub fn new_stream(&self) -> Handle {
        let mut stream: Handle = std::ptr::null_mut();
        let code = call!(self, cuStreamCreate(&mut stream => *mut Handle, 1 => c_uint));
        assert_eq!(code, 0);
        stream
    }

    pub fn new_event(&self) -> Handle {
        let mut event: Handle = std::ptr::null_mut();
        assert_eq!(call!(self, cuEventCreate(&mut event => *mut Handle, 2 => c_uint)), 0);
        event
    }

    pub fn record(&self, event: Handle, stream: Handle) {
        assert_eq!(call!(self, cuEventRecord(event => Handle, stream => Handle)), 0);
    }

    pub fn wait(&self, stream: Handle, event: Handle) {
        let code = call!(self, cuStreamWaitEvent(stream => Handle, event => Handle, 0 => c_uint));
        assert_eq!(code, 0);
    }

    pub fn alloc(&self, bytes: usize) -> u64 {
        let mut address = 0;
        assert_eq!(call!(self, cuMemAlloc_v2(&mut address => *mut u64, bytes => usize)), 0);
        address
    }

    pub fn pinned(&self, bytes: usize) -> Handle {
        let mut address = std::ptr::null_mut();
        let code =
            call!(self, cuMemHostAlloc(&mut address => *mut Handle, bytes => usize, 0 => c_uint));
        assert_eq!(code, 0);
        address
    }

    /// A new allocation with this content.
    pub fn upload<T: Copy>(&self, values: &[T]) -> u64 {
        let address = self.alloc(size_of_val(values));
        self.write(address, values);
        address
    }

    pub fn write<T: Copy>(&self, address: u64, values: &[T]) {
        let code = call!(self, cuMemcpyHtoDAsync_v2(
            address => u64, values.as_ptr().cast() => *const c_void,
            size_of_val(values) => usize, self.stream => Handle));
        assert_eq!(code, 0);
    }

    /// Copies to the host; the code is that of the copy.
    pub fn try_read<T: Copy + Default>(&self, address: u64, count: usize) -> (Vec<T>, u32) {
        let mut values = vec![T::default(); count];
        let code = call!(self, cuMemcpyDtoHAsync_v2(
            values.as_mut_ptr().cast() => *mut c_void, address => u64,
            count * size_of::<T>() => usize, self.stream => Handle));
        (values, code)
    }

    pub fn read<T: Copy + Default>(&self, address: u64, count: usize) -> Vec<T> {
        let (values, code) = self.try_read(address, count);
        assert_eq!(code, 0);
        values
    }

    pub fn function(&self, name: &str) -> Handle {
        let name = CString::new(name).expect("a kernel's name has no zero");
        let mut function: Handle = std::ptr::null_mut();
        let code = call!(self, cuModuleGetFunction(
            &mut function => *mut Handle, self.module => Handle, name.as_ptr() => *const c_char));
        assert_eq!(code, 0);
        function
    }

    /// Launches on the test's stream.
    pub fn launch(&self, kernel: &str, grid: u32, block: u32, arguments: &[&dyn Argument]) {
        assert_eq!(self.launch_on(self.stream, kernel, [grid, block, 0], arguments), 0);
    }

    /// Launches with `[grid, block, dynamic shared bytes]` and returns the code.
    pub fn launch_on(
        &self,
        stream: Handle,
        kernel: &str,
        [grid, block, shared]: [u32; 3],
        arguments: &[&dyn Argument],
    ) -> u32 {
        let function = self.function(kernel);
        let mut pointers: Vec<*mut c_void> =
            arguments.iter().map(|one| (**one).pointer()).collect();
        call!(self, cuLaunchKernel(
            function => Handle, grid => c_uint, 1 => c_uint, 1 => c_uint, block => c_uint,
            1 => c_uint, 1 => c_uint, shared => c_uint, stream => Handle,
            pointers.as_mut_ptr() => *mut *mut c_void,
            std::ptr::null_mut() => *mut *mut c_void))
    }

    pub fn synchronize(&self, stream: Handle) -> u32 {
        call!(self, cuStreamSynchronize(stream => Handle))
    }

    pub fn take(&self, address: u64, bytes: usize) {
        call!(self, softgpuBlockTaken(address => u64, bytes => usize));
    }

    pub fn give(&self, address: u64, bytes: usize) {
        call!(self, softgpuBlockGiven(address => u64, bytes => usize));
    }

    pub fn touch(&self, at: Handle, bytes: usize, writes: bool) {
        call!(self, softgpuHostTouch(at => Handle, bytes => usize, writes => bool));
    }

    /// The counters as text.
    pub fn counters(&self) -> serde_json::Value {
        let mut buffer = vec![0_u8; 1 << 16];
        call!(self, softgpuCounters(buffer.as_mut_ptr() => *mut u8, buffer.len() => usize));
        let text = CStr::from_bytes_until_nul(&buffer).expect("the text ends with a zero");
        serde_json::from_slice(text.to_bytes()).expect("the counters are JSON")
    }
}

/// A kernel's argument.
pub trait Argument {
    fn pointer(&self) -> *mut c_void;
}

impl<T: Copy> Argument for T {
    fn pointer(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }
}

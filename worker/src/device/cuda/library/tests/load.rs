//! Loading, with libraries that a C compiler makes for the test. Each function of theirs returns
//! zero and does nothing. Without a compiler, the tests say that they skipped.

use super::below;
use crate::device::cuda::library::functions::Lookup;
use crate::device::cuda::library::{
    Driver, Error, Libraries, Reason, VARIABLE, Version, cublas, driver, nccl, nvrtc,
};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A folder for made libraries; none without a C compiler.
fn folder() -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir().unwrap();
    if try_compile(&folder.path().join("trial.so"), "int trial;").is_none() {
        println!("skipped: there is no working C compiler");
        return None;
    }
    Some(folder)
}

/// Compiles `source` to the library `file`.
fn compile(file: &Path, source: &str) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    try_compile(file, source).expect("the compiler works");
}

fn try_compile(file: &Path, source: &str) -> Option<()> {
    let mut compiler = Command::new("cc")
        .args(["-shared", "-fPIC", "-x", "c", "-", "-o"])
        .arg(file)
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    compiler.stdin.take()?.write_all(source.as_bytes()).ok()?;
    compiler.wait().ok()?.success().then_some(())
}

/// C code with every function of a table except `left_out`. `version` replaces one of them.
fn source<F: Lookup>(version: &str, left_out: &str) -> String {
    let mut source = format!("{version}\n");
    for name in F::NAMES {
        if *name != left_out && !version.contains(&format!("{name}(")) {
            source += &format!("int {name}(void) {{ return 0; }}\n");
        }
    }
    source
}

fn nvrtc(major: u32, minor: u32) -> String {
    let body = format!("*major = {major}; *minor = {minor}; return 0;");
    source::<nvrtc::Functions>(
        &format!("int nvrtcVersion(int *major, int *minor) {{ {body} }}"),
        "",
    )
}

fn cublas(code: u32, left_out: &str) -> String {
    let version =
        format!("int cublasGetVersion_v2(void *handle, int *code) {{ *code = {code}; return 0; }}");
    source::<cublas::Functions>(&version, left_out)
}

fn nccl(code: u32) -> String {
    source::<nccl::Functions>(
        &format!("int ncclGetVersion(int *to) {{ *to = {code}; return 0; }}"),
        "",
    )
}

fn driver(code: u32, status: u32) -> String {
    let body = format!("*to = {code}; return {status};");
    source::<driver::Functions>(&format!("int cuDriverGetVersion(int *to) {{ {body} }}"), "")
}

/// A complete set without NCCL in one folder.
fn make_set(folder: &Path, major: u32) {
    compile(&folder.join(format!("libnvrtc.so.{major}")), &nvrtc(major, 0));
    compile(&folder.join(format!("libnvrtc-builtins.so.{major}.0")), "int builtins;");
    compile(&folder.join(format!("libcublasLt.so.{major}")), "int lt;");
    compile(&folder.join(format!("libcublas.so.{major}")), &cublas(major * 10_000 + 102, ""));
}

/// Loads from the folder alone.
fn load(folder: &Path, driver: Version) -> Result<Libraries, Error> {
    Libraries::find(driver, &below(folder, &[(VARIABLE, folder)]))
}

/// Why the only candidate was rejected, and the whole error as text.
fn rejection(folder: &Path) -> (Reason, String) {
    let error = load(folder, Version::new(13, 0)).unwrap_err();
    let text = error.to_string();
    let Error::NoSet { mut candidates, .. } = error else { panic!("{text}") };
    assert_eq!(candidates.len(), 1, "{text}");
    (candidates.remove(0).rejected.unwrap(), text)
}

#[test]
fn a_complete_set_is_loaded_with_its_versions() {
    let Some(folder) = folder() else { return };
    let path = folder.path();
    make_set(path, 13);
    compile(&path.join("libnccl.so.2"), &nccl(22_809));
    let libraries = load(path, Version::new(13, 1)).unwrap();
    let [chosen] = libraries.candidates() else { panic!("{libraries:?}") };
    assert_eq!(
        chosen.to_string(),
        format!("{VARIABLE}={}, CUDA 13: NVRTC 13.0, cuBLAS 13.1.2, NCCL 2.28.9", path.display())
    );
    let names = ["libnvrtc.so.13", "libcublas.so.13", "libnccl.so.2"];
    assert_eq!(chosen.files, names.map(|name| path.join(name)));
    assert_eq!(libraries.nccl().unwrap().version().to_string(), "2.28.9");
}

#[test]
fn a_set_newer_than_the_driver_gives_way_to_an_older_one() {
    let Some(folder) = folder() else { return };
    make_set(folder.path(), 13);
    make_set(folder.path(), 12);
    let driver = Version::new(12, 8);
    let libraries = load(folder.path(), driver).unwrap();
    assert_eq!(libraries.nvrtc().version(), Version::new(12, 0));
    let rejected = libraries.candidates()[0].rejected.clone().unwrap();
    assert_eq!(rejected, Reason::Driver { major: 13, driver });
    assert_eq!(
        rejected.to_string(),
        "CUDA 13 needs a newer driver: the driver supports CUDA up to 12.8"
    );
    let hint = rejected.hint().unwrap();
    assert!(hint.contains("580 or newer") && hint.contains("nvidia-cublas-cu12"), "{hint}");
}

#[test]
fn a_missing_function_is_named_with_its_file() {
    let Some(folder) = folder() else { return };
    make_set(folder.path(), 12);
    let file = folder.path().join("libcublas.so.12");
    compile(&file, &cublas(120_805, "cublasGemmStridedBatchedEx"));
    let (reason, text) = rejection(folder.path());
    assert_eq!(
        reason.to_string(),
        format!("{} has no function cublasGemmStridedBatchedEx", file.display())
    );
    assert!(text.contains("hint: only the folders that MUSTER_CUDA_LIBRARIES names"), "{text}");
}

#[test]
fn an_old_library_is_refused_for_its_age_before_its_functions() {
    let Some(folder) = folder() else { return };
    make_set(folder.path(), 12);
    let file = folder.path().join("libnvrtc.so.12");
    let old = "int nvrtcVersion(int *major, int *minor) { *major = 11; *minor = 8; return 0; }";
    compile(&file, old);
    let (version, minimum) = (Version::new(11, 8), Version::new(12, 0));
    assert_eq!(rejection(folder.path()).0, Reason::Old { file, version, minimum });
}

#[test]
fn a_file_that_is_no_library_is_refused_with_the_loaders_message() {
    let Some(folder) = folder() else { return };
    make_set(folder.path(), 12);
    let file = folder.path().join("libnvrtc.so.12");
    fs::write(&file, "version https://git-lfs.github.com/spec/v1\n".repeat(9)).unwrap();
    let (reason, _) = rejection(folder.path());
    let text = reason.to_string();
    assert!(matches!(reason, Reason::Unopened { .. }), "{text}");
    assert!(text.starts_with(&format!("{} cannot be opened: ", file.display())), "{text}");
    assert_eq!(text.matches("libnvrtc.so.12").count(), 1, "{text}");
}

#[test]
fn a_library_for_another_processor_is_not_called_missing() {
    /// `e_machine` in the header of an ELF file, and its value for z/Architecture.
    const MACHINE: (std::ops::Range<usize>, u16) = (18..20, 22);
    let Some(folder) = folder() else { return };
    make_set(folder.path(), 12);
    let file = folder.path().join("libcublas.so.12");
    let mut bytes = fs::read(&file).unwrap();
    bytes[MACHINE.0].copy_from_slice(&MACHINE.1.to_ne_bytes());
    fs::write(&file, bytes).unwrap();
    let text = rejection(folder.path()).0.to_string();
    let wanted = "cannot be opened: it is for another kind of processor";
    assert_eq!(text, format!("{} {wanted}", file.display()));
}

#[test]
fn an_incomplete_set_says_what_it_lacks() {
    let Some(folder) = folder() else { return };
    for lacking in ["libnvrtc.so.12", "libcublas.so.12", "libnvrtc-builtins.so.12.0"] {
        make_set(folder.path(), 12);
        fs::remove_file(folder.path().join(lacking)).unwrap();
        let (reason, _) = rejection(folder.path());
        assert_eq!(reason.to_string(), format!("there is no {lacking}"));
    }
}

#[test]
fn a_rejected_set_gives_way_to_that_of_the_next_place() {
    let Some(folder) = folder() else { return };
    let root = folder.path();
    let (toolkit, venv) = (root.join("cuda"), root.join("venv"));
    make_set(&toolkit.join("lib64"), 13);
    compile(&toolkit.join("lib64/libcublas.so.13"), &cublas(130_000, "cublasSetMathMode"));
    compile(&toolkit.join("lib64/libnccl.so.2"), &nccl(22_705));
    let wheels = venv.join("lib/python3.12/site-packages/nvidia/cu13/lib");
    make_set(&wheels, 13);
    let environment = below(root, &[("CUDA_HOME", &toolkit), ("VIRTUAL_ENV", &venv)]);
    let libraries = Libraries::find(Version::new(13, 0), &environment).unwrap();
    assert_eq!(libraries.candidates().len(), 2);
    assert_eq!(libraries.cublas().file(), wheels.join("libcublas.so.13"));
    // NCCL does not depend on the set, so that of another place is used.
    assert_eq!(libraries.nccl().unwrap().file(), toolkit.join("lib64/libnccl.so.2"));
}

#[test]
fn a_folder_reached_by_two_ways_is_tried_once() {
    let Some(folder) = folder() else { return };
    let root = folder.path();
    compile(&root.join("cuda-13.0/lib64/libnvrtc.so.13"), &nvrtc(13, 0));
    std::os::unix::fs::symlink(root.join("cuda-13.0"), root.join("cuda")).unwrap();
    let (home, path) = (root.join("cuda"), root.join("cuda-13.0"));
    let environment = below(root, &[("CUDA_HOME", &home), ("CUDA_PATH", &path)]);
    let error = Libraries::find(Version::new(13, 0), &environment).unwrap_err();
    let Error::NoSet { candidates, .. } = error else { panic!("{error}") };
    assert_eq!(candidates.len(), 1);
}

#[test]
fn nccl_may_be_absent_or_too_old() {
    let Some(folder) = folder() else { return };
    make_set(folder.path(), 12);
    let driver = Version::new(12, 4);
    let missing = load(folder.path(), driver).unwrap().nccl().unwrap_err().to_string();
    assert_eq!(
        missing,
        "NCCL, which several GPUs need, is not available: libnccl.so.2 was not found\n\
         hint: `pip install nvidia-nccl-cu12` provides it; MUSTER_CUDA_LIBRARIES has to name its \
         folder too"
    );
    compile(&folder.path().join("libnccl.so.2"), &nccl(21_705));
    let missing = load(folder.path(), driver).unwrap().nccl().unwrap_err().to_string();
    assert!(
        missing.contains("libnccl.so.2 is version 2.17.5, and the oldest that works is 2.18"),
        "{missing}"
    );
}

#[test]
fn without_any_set_the_hint_names_packages_for_the_driver() {
    let environment = below(Path::new("/nowhere"), &[]);
    let text = Libraries::find(Version::new(12, 4), &environment).unwrap_err().to_string();
    assert!(text.contains("supports CUDA up to 12.4"), "{text}");
    assert!(text.contains("hint: `pip install nvidia-cuda-nvrtc-cu12 "), "{text}");
}

/// Loads the driver that `source` makes.
fn load_driver(source: &str) -> Option<Result<&'static Driver, Error>> {
    let folder = folder()?;
    compile(&folder.path().join("libcuda.so.1"), source);
    Some(Driver::find(&below(folder.path(), &[(VARIABLE, folder.path())])))
}

#[test]
fn a_driver_states_the_version_of_cuda_and_may_have_a_tests_functions() {
    let source = driver(12_080, 0) + "void softgpuBlockTaken(void) {}";
    let Some(driver) = load_driver(&source) else { return };
    let driver = driver.unwrap();
    assert_eq!(driver.version(), Version::new(12, 8));
    assert!(driver.softgpuBlockTaken.is_some());
    assert!(driver.softgpuHostTouch.is_none());
}

#[test]
fn an_old_driver_and_a_stub_are_refused_with_a_hint() {
    let Some(old) = load_driver(&driver(11_040, 0)) else { return };
    let text = old.unwrap_err().to_string();
    assert!(text.contains("is version 11.4, and the oldest that works is 12.0"), "{text}");
    assert!(text.ends_with("\nhint: update the NVIDIA driver to 525 or newer"), "{text}");
    let Some(stub) = load_driver(&driver(0, 34)) else { return };
    let text = stub.unwrap_err().to_string();
    assert!(text.contains("returned status 34\nhint: the file is the toolkit's stub"), "{text}");
}

#[test]
fn no_driver_is_a_sentence() {
    let none = Driver::find(&below(&PathBuf::from("/nowhere"), &[])).unwrap_err();
    assert!(matches!(none, Error::NoDriver), "{none}");
}

#[test]
fn libraries_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Libraries>();
    shared::<&'static Driver>();
    shared::<Error>();
}

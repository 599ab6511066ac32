//! Compiles the kernels for the host.
//!
//! ```text
//! SOURCES -> kernels_N.cu -> (preprocessor) -> names of kernels and of dynamic shared arrays
//!         -> kernels_N.cpp = prelude + source + table -> (C++ compiler) -> libsoftgpu_kernels.a
//!                                                     -> (nm) -> sources.rs
//! ```
//!
//! A machine without a C++ compiler still builds the crate; `softgpu::available` then says why no
//! kernel can run. GCC 12 or newer adds counters of executed lines; counts.c writes them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The source texts: the crate's own samples, and those of the programs to be tested. All names in
/// the samples start with `sample_`, so that they meet no others.
const SOURCES: &[&str] = &[include_str!("samples.cu"), product::SOURCE];

#[path = "../../worker/src/kernels/cuda/source.rs"]
mod product;

/// Prefixes that the crate and the kernels agree on.
const GLOBAL_MARK: &str = "SOFTGPU_GLOBAL";
const SHARED_MARK: &str = "SOFTGPU_SHARED";
/// The most dynamic shared memory that a block may have (227 KiB, as on an H100).
const DYNAMIC_SHARED_BYTES: usize = 232_448;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(softgpu_kernels, softgpu_coverage)");
    let product = "../../worker/src/kernels/cuda";
    for file in ["build.rs", "samples.cu", "prelude.h", "counts.c", product] {
        println!("cargo::rerun-if-changed={file}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    match build(&out) {
        Ok(()) => {
            println!("cargo::rustc-cfg=softgpu_kernels");
            write(&out.join("why.txt"), "");
        }
        Err(why) => {
            println!("cargo::warning=softgpu was built without kernels: {}", telling_line(&why));
            write(&out.join("why.txt"), &why);
        }
    }
}

/// A compiled source.
struct Unit {
    object: PathBuf,
    dynamic_arrays: Vec<String>,
    /// Each kernel with the bytes of its static shared arrays.
    kernels: Vec<(String, u64)>,
}

fn build(out: &Path) -> Result<(), String> {
    let compiler = cc::Build::new().cpp(true).warnings(false).try_get_compiler();
    let compiler = compiler.map_err(|error| error.to_string())?;
    let counting = counts_library(&compiler);
    let tool = kernel_compiler(counting.is_some()).map_err(|error| error.to_string())?;
    let mut units = Vec::new();
    for (index, source) in SOURCES.iter().enumerate() {
        write(&out.join(format!("kernels_{index}.cu")), source);
        units.push(build_unit(out, &tool, index)?);
    }
    let mut names: Vec<String> = units.iter().flat_map(|u| u.dynamic_arrays.clone()).collect();
    names.sort();
    names.dedup();
    let arrays = out.join("shared_arrays.c");
    write(&arrays, &shared_arrays(&names));
    write(&out.join("sources.rs"), &sources(&units));
    let mut archive = cc::Build::new();
    archive.warnings(false).pic(true).file(&arrays);
    archive.objects(units.iter().map(|unit| &unit.object));
    if counting.is_some() {
        archive.file("counts.c");
        write(&out.join("notes.rs"), &notes(units.len()));
    }
    archive.try_compile("softgpu_kernels").map_err(|error| error.to_string())?;
    if let Some(folder) = counting {
        println!("cargo::rustc-cfg=softgpu_coverage");
        println!("cargo::rustc-link-lib=static:-bundle=gcov");
        println!("cargo::rustc-link-search=native={}", folder.display());
        // Linkers would drop the section that counts.c finds by name.
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nostart-stop-gc");
    }
    Ok(())
}

fn build_unit(out: &Path, tool: &cc::Tool, index: usize) -> Result<Unit, String> {
    let manifest = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let prelude = Path::new(&manifest).join("prelude.h");
    let source = SOURCES[index];
    let body = format!("#include \"{}\"\n#line 1 \"{index}.cu\"\n{source}\n", prelude.display());
    let marked = out.join(format!("marked_{index}.cpp"));
    write(&marked, &format!("#define SOFTGPU_SCAN\n{body}"));
    let scanned = run(tool.to_command().args(["-E", "-P"]).arg(&marked))?;
    let names = kernel_names(&scanned);
    if names.is_empty() {
        return Err(format!("source {index} has no extern \"C\" __global__ function"));
    }
    let unit = out.join(format!("kernels_{index}.cpp"));
    write(&unit, &format!("{body}\n#line 1 \"softgpu-table\"\n{}", table(&names, index)));
    let object = out.join(format!("kernels_{index}.o"));
    run(tool.to_command().arg("-c").arg(&unit).arg("-o").arg(&object))?;
    let symbols = run(Command::new("nm").args(["-S", "--defined-only"]).arg(&object))?;
    let with_bytes = |name: String| {
        let bytes = shared_bytes(&symbols, &name);
        (name, bytes)
    };
    let kernels = names.into_iter().map(with_bytes).collect();
    Ok(Unit { object, dynamic_arrays: dynamic_arrays(&scanned), kernels })
}

/// The C++ compiler with the kernels' flags.
fn kernel_compiler(counting: bool) -> Result<cc::Tool, cc::Error> {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(1).warnings(false).pic(true).debug(true);
    for flag in KERNEL_FLAGS {
        build.flag(flag);
    }
    for flag in GCC_FLAGS {
        build.flag_if_supported(flag);
    }
    if host_has_fma() {
        build.flag("-mfma");
    }
    if counting {
        for flag in COUNT_FLAGS {
            build.flag(flag);
        }
        if cfg!(target_arch = "x86_64") {
            // Kernels have no atomic instructions of their own, and a lost count does not matter.
            build.flag("-Wa,-momit-lock-prefix=yes");
        }
    }
    build.try_get_compiler()
}

const KERNEL_FLAGS: &[&str] = &[
    "-fsanitize=thread",
    "-ffp-contract=off",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-math-errno",
    "-fno-strict-aliasing",
    "-fno-stack-protector",
    "-fno-omit-frame-pointer",
];

/// Flags of GCC: no wrapper around `extern __shared__` arrays, and no load or store in a place
/// where the source has none.
const GCC_FLAGS: &[&str] = &[
    "-fno-extern-tls-init",
    "-fno-tree-loop-im",
    "-fno-move-loop-stores",
    "-fno-tree-sink",
    "-fno-ssa-phiopt",
    "-fno-if-conversion",
];

/// Flags that count executed lines. Atomic counters are the only ones that `-fsanitize=thread` leaves
/// alone. They are kept in a section instead of being written by every process that exits.
const COUNT_FLAGS: &[&str] =
    &["--coverage", "-fprofile-update=atomic", "-fprofile-info-section=softgpu_counts"];

/// Runs a command and returns its output; an error is what it wrote.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where GCC keeps its `libgcov.a`, if that can write counters to any place.
fn counts_library(compiler: &cc::Tool) -> Option<PathBuf> {
    if !compiler.is_like_gnu() {
        return None;
    }
    let printed = run(compiler.to_command().arg("-print-file-name=libgcov.a")).ok()?;
    let library = PathBuf::from(printed.trim());
    let symbols = run(Command::new("nm").args(["-g", "--defined-only"]).arg(&library)).ok()?;
    symbols.contains(" __gcov_info_to_gcda").then(|| library.parent().map(Path::to_owned))?
}

/// Rust text that holds what gcov must know of the kernels besides their counters.
fn notes(units: usize) -> String {
    let note = |index| format!("(\"kernels_{index}\", include_bytes!(\"kernels_{index}.gcno\"))");
    let list = (0..units).map(note).collect::<Vec<_>>().join(", ");
    format!("const NOTES: &[(&str, &[u8])] = &[{list}];\n")
}

/// The names of the `extern "C"` kernels in preprocessed text, in the order of their appearance.
fn kernel_names(scanned: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, mark) in scanned.match_indices(GLOBAL_MARK) {
        let before = &scanned[..at];
        let start = before.rfind([';', '}', '{']).map_or(0, |index| index + 1);
        if before[start..].contains("template") {
            continue;
        }
        let rest = &scanned[at + mark.len()..];
        let Some(open) = rest.find('(') else { continue };
        if let Some(name) = last_word(&rest[..open])
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names
}

/// The names of `extern __shared__` arrays in preprocessed text.
fn dynamic_arrays(scanned: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, mark) in scanned.match_indices(SHARED_MARK) {
        if last_word(&scanned[..at]).as_deref() != Some("extern") {
            continue;
        }
        let rest = &scanned[at + mark.len()..];
        let declaration = rest.split(';').next().unwrap_or_default();
        if let Some(open) = declaration.rfind('[')
            && let Some(name) = last_word(&declaration[..open])
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names
}

fn last_word(text: &str) -> Option<String> {
    let trimmed = text.trim_end();
    let is_word = |symbol: char| symbol.is_alphanumeric() || symbol == '_';
    let start = trimmed.rfind(|symbol| !is_word(symbol)).map_or(0, |index| index + 1);
    (start < trimmed.len()).then(|| trimmed[start..].to_owned())
}

/// C++ text that registers every kernel with the types of its arguments.
fn table(kernels: &[String], index: usize) -> String {
    let mut text = format!("extern \"C\" const SoftgpuKernel softgpu_kernels_{index}[] = {{\n");
    for name in kernels {
        writeln!(text, "    softgpu_kernel<{name}>(\"{name}\"),").expect("a String takes text");
    }
    text.push_str("};\n");
    text
}

/// C text that defines the memory behind the `extern __shared__` arrays.
fn shared_arrays(names: &[String]) -> String {
    let mut text = String::from("/* Dynamic shared memory, one for each stream's thread. */\n");
    for name in names {
        writeln!(
            text,
            "__attribute__((aligned(128))) __thread unsigned char {name}[{DYNAMIC_SHARED_BYTES}];"
        )
        .expect("a String takes text");
    }
    let list: String = names.iter().map(|name| format!(" + !(out[k++] = {name})")).collect();
    let count = names.len();
    writeln!(
        text,
        "unsigned softgpu_dynamic_shared(unsigned char** out) {{ \
         int k = 0; int unused = 0{list}; (void)unused; (void)k; (void)out; return {count}; }}"
    )
    .expect("a String takes text");
    text
}

/// The bytes of a kernel's static shared arrays, from the object's symbols: the array `x` has the
/// name `_ZZ<length><kernel>E<length>x`.
fn shared_bytes(symbols: &str, kernel: &str) -> u64 {
    let prefix = format!("_ZZ{}{kernel}E", kernel.len());
    let bytes = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let size = u64::from_str_radix(words.next()?, 16).ok()?;
        words.nth(1)?.starts_with(&prefix).then_some(size)
    };
    symbols.lines().filter_map(bytes).sum()
}

/// Rust text that lists the sources and their kernels.
fn sources(units: &[Unit]) -> String {
    let mut text = String::from("unsafe extern \"C\" {\n");
    for (index, unit) in units.iter().enumerate() {
        let count = unit.kernels.len();
        writeln!(text, "    static softgpu_kernels_{index}: [Entry; {count}];")
            .expect("a String takes text");
    }
    text.push_str("}\n\nfn built() -> Vec<Built> {\n    vec![\n");
    for (index, unit) in units.iter().enumerate() {
        let bytes: Vec<u64> = unit.kernels.iter().map(|(_, bytes)| *bytes).collect();
        let lines = [
            "        Built {".to_owned(),
            format!("            text: include_str!(\"kernels_{index}.cu\"),"),
            "            // SAFETY: the build made the table with that many entries.".to_owned(),
            format!("            entries: unsafe {{ &softgpu_kernels_{index} }},"),
            format!("            static_shared: &{bytes:?},"),
            "        },\n".to_owned(),
        ];
        text.push_str(&lines.join("\n"));
    }
    text.push_str("    ]\n}\n");
    text
}

#[cfg(target_arch = "x86_64")]
fn host_has_fma() -> bool {
    std::arch::is_x86_feature_detected!("fma")
}

#[cfg(not(target_arch = "x86_64"))]
fn host_has_fma() -> bool {
    false
}

/// The line that says what is wrong.
fn telling_line(text: &str) -> &str {
    let mut lines = text.lines();
    let error = lines.clone().find(|line| line.contains("error"));
    error.or_else(|| lines.next()).unwrap_or_default()
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

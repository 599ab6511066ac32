//! The options of a compilation: which are known, and what they ask for.

use crate::world::world;

/// The architecture without an option.
const DEFAULT_ARCH: u32 = 75;

/// Options with a value, after `=` or in the next entry.
const VALUED: &[&str] = &[
    "--std",
    "-std",
    "--maxrregcount",
    "-maxrregcount",
    "--ftz",
    "-ftz",
    "--prec-sqrt",
    "-prec-sqrt",
    "--prec-div",
    "-prec-div",
    "--fmad",
    "-fmad",
    "--define-macro",
    "-D",
    "--undefine-macro",
    "-U",
    "--include-path",
    "-I",
    "--diag-suppress",
    "-diag-suppress",
    "--diag-error",
    "-diag-error",
    "--diag-warn",
    "-diag-warn",
    "--ptxas-options",
    "-Xptxas",
    "--split-compile",
    "-split-compile",
];
/// Options that stand alone.
const FLAGS: &[&str] = &[
    "--device-c",
    "-dc",
    "--device-w",
    "-dw",
    "--relocatable-device-code=true",
    "-rdc=true",
    "--relocatable-device-code=false",
    "-rdc=false",
    "--extensible-whole-program",
    "-ewp",
    "--device-debug",
    "-G",
    "--generate-line-info",
    "-lineinfo",
    "--use_fast_math",
    "-use_fast_math",
    "--extra-device-vectorization",
    "-extra-device-vectorization",
    "--disable-warnings",
    "-w",
    "--restrict",
    "-restrict",
    "--device-as-default-execution-space",
    "-default-device",
    "--device-int128",
    "-device-int128",
    "--builtin-move-forward=true",
    "--builtin-initializer-list=true",
    "--no-source-include",
    "-no-source-include",
    "--display-error-number",
    "-err-no",
    "--no-display-error-number",
    "-no-err-no",
    "--minimal",
    "-minimal",
    "--device-stack-protector=true",
];
const STANDARDS: &[&str] = &["c++03", "c++11", "c++14", "c++17", "c++20"];

/// Whether a real architecture was asked for, and its number.
///
/// # Errors
/// Says which option is wrong, in NVRTC's words.
pub(super) fn parse(options: &[String]) -> Result<(bool, u32), String> {
    let mut target = (false, DEFAULT_ARCH);
    let mut rest = options.iter();
    while let Some(option) = rest.next() {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option.as_str(), None),
        };
        if FLAGS.contains(&option.as_str()) {
            continue;
        }
        if ["-D", "-I", "-U"].iter().any(|short| name.starts_with(short) && name.len() > 2) {
            continue;
        }
        let is_arch = ["--gpu-architecture", "-arch"].contains(&name);
        if !is_arch && !VALUED.contains(&name) {
            return Err(format!("unrecognized option {option} found"));
        }
        let given = value.or_else(|| rest.next().map(String::as_str));
        let value = given.unwrap_or_default();
        if is_arch {
            target = parse_arch(value)?;
        } else {
            check_value(name, value)?;
        }
    }
    Ok(target)
}

/// Checks the value of an option whose values are few.
fn check_value(name: &str, value: &str) -> Result<(), String> {
    let long = format!("--{}", name.trim_start_matches('-'));
    let short = &long[1..];
    match long.as_str() {
        "--fmad" | "--ftz" | "--prec-sqrt" | "--prec-div"
            if !["true", "false"].contains(&value) =>
        {
            Err(format!("{long} ({short}) expects true or false"))
        }
        "--std" if !STANDARDS.contains(&value) => Err("invalid value for --std(-std)".to_owned()),
        "--maxrregcount" if value.parse::<u32>().is_err() => {
            Err(format!("{long} ({short}) expects an integer value"))
        }
        _ => Ok(()),
    }
}

fn parse_arch(value: &str) -> Result<(bool, u32), String> {
    let invalid = || "invalid value for --gpu-architecture (-arch)".to_owned();
    let (prefix, digits) = value.split_once('_').ok_or_else(invalid)?;
    let digits = digits.trim_end_matches(['a', 'f']);
    let arch: u32 = digits.parse().map_err(|_| invalid())?;
    if !world().settings.supported_archs.contains(&arch) {
        return Err(invalid());
    }
    match prefix {
        "sm" => Ok((true, arch)),
        "compute" => Ok((false, arch)),
        _ => Err(invalid()),
    }
}

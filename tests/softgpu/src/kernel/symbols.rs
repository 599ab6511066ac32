//! Where the kernels' static shared arrays lie, from this library's own symbol table.
//!
//! A shared array `x` of the kernel `k` is the thread-local symbol `_ZZ<length>kE<length>x`. A
//! library without a symbol table only loses the check of the arrays' bounds.

use std::ffi::CStr;
use std::sync::OnceLock;

use super::image::own_path;

const SECTION_BYTES: usize = 64;
const SYMBOL_BYTES: usize = 24;
const SYMBOL_TABLE: u32 = 2;
const THREAD_LOCAL: u8 = 6;
const LOCAL_OF_FUNCTION: &str = "_ZZ";

/// A shared array: its name, and its place in the library's thread-local variables.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Array {
    symbol: String,
    start: u64,
    end: u64,
}

/// The ranges of the arrays that a kernel may touch: its own and those of device functions.
/// `None` if the library has no symbol table.
pub(super) fn shared_arrays(
    kernel: &str,
    kernels: impl Iterator<Item = &'static str> + Clone,
) -> Option<Vec<(u64, u64)>> {
    let belongs = |array: &Array, name: &str| {
        array.symbol.starts_with(&format!("{LOCAL_OF_FUNCTION}{}{name}E", name.len()))
    };
    let arrays = arrays().as_ref()?.iter().filter(|array| {
        belongs(array, kernel) || !kernels.clone().any(|other| belongs(array, other))
    });
    Some(arrays.map(|array| (array.start, array.end)).collect())
}

fn arrays() -> &'static Option<Vec<Array>> {
    static ARRAYS: OnceLock<Option<Vec<Array>>> = OnceLock::new();
    ARRAYS.get_or_init(|| {
        let file = std::fs::read(own_path()?).ok()?;
        thread_locals(&file)
    })
}

/// The thread-local variables of C++ functions in a 64-bit ELF file.
fn thread_locals(file: &[u8]) -> Option<Vec<Array>> {
    let sections = number(file, 0x28, 8)? as usize;
    let count = number(file, 0x3c, 2)? as usize;
    let header = |index: usize| file.get(sections + index * SECTION_BYTES..);
    let table = (0..count)
        .filter_map(header)
        .find(|section| number(section, 4, 4) == Some(u64::from(SYMBOL_TABLE)))?;
    let (offset, bytes) = (number(table, 24, 8)? as usize, number(table, 32, 8)? as usize);
    let strings = header(number(table, 40, 4)? as usize)?;
    let strings = file.get(number(strings, 24, 8)? as usize..)?;
    let symbols = file.get(offset..offset + bytes)?.chunks_exact(SYMBOL_BYTES);
    let array = |symbol: &[u8]| {
        let name = strings.get(number(symbol, 0, 4)? as usize..)?;
        let name = CStr::from_bytes_until_nul(name).ok()?.to_str().ok()?;
        let start = number(symbol, 8, 8)?;
        (symbol[4] & 15 == THREAD_LOCAL && name.starts_with(LOCAL_OF_FUNCTION)).then(|| Array {
            symbol: name.to_owned(),
            start,
            end: start + number(symbol, 16, 8).unwrap_or(0),
        })
    };
    Some(symbols.filter_map(array).collect())
}

/// A little-endian number.
fn number(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let mut value = [0; 8];
    value[..width].copy_from_slice(bytes.get(at..at + width)?);
    Some(u64::from_le_bytes(value))
}

//! Compares how containers are read with the libraries that write them: `pyarrow`, and Python's `csv`, `gzip` and
//! `json`.
//!
//! Needs a Python with `pyarrow` (MUSTER_PEER_PYTHON). Without it, the test says that it is skipped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use data::{Body, Object};
use serde_json::Value;

/// The records of a file, read in this number of ranges.
fn records(path: &Path, ranges: u64) -> Result<Vec<Value>> {
    let bytes = Arc::new(File::open(path)?);
    let size = bytes.metadata()?.len();
    let object = Object::open(&path.display().to_string(), bytes, data::Given::default())?;
    let mut records = Vec::new();
    for range in 0..ranges {
        let range = size * range / ranges..size * (range + 1) / ranges;
        for block in object.blocks(range)? {
            for raw in block?.take_raws() {
                records.push(match raw.body {
                    Body::Json(json) => serde_json::from_slice(json)?,
                    Body::Value(row) => Value::Object(row),
                    other @ (Body::Text(_) | Body::Broken(_) | Body::CutOff(_)) => {
                        anyhow::bail!("{}: {other:?}", raw.place)
                    }
                });
            }
        }
    }
    Ok(records)
}

#[test]
fn what_other_libraries_write_is_read_as_they_read_it() -> Result<()> {
    let Some(python) = std::env::var_os("MUSTER_PEER_PYTHON").map(PathBuf::from) else {
        println!("containers: skipped, MUSTER_PEER_PYTHON is not set");
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peer/write.py");
    let output = Command::new(python).arg(script).arg(folder.path()).output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "write.py: {complaint}");
    let files = String::from_utf8(output.stdout)?;
    ensure!(files.lines().count() == 11, "{} files", files.lines().count());
    for line in files.lines() {
        let written: Value = serde_json::from_str(line)?;
        let name = written["file"].as_str().context("a name")?;
        let expected = written["records"].as_array().context("records")?;
        for ranges in [1, 7] {
            let found = records(&folder.path().join(name), ranges).context(name.to_owned())?;
            ensure!(found.len() == expected.len(), "{name}: {} records", found.len());
            let differs = found.iter().zip(expected).find(|(found, expected)| found != expected);
            ensure!(differs.is_none(), "{name} in {ranges} ranges: {differs:?}");
        }
    }
    Ok(())
}

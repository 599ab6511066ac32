//! The header of a safetensors file, for writers that stream the tensors after it.

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::collections::HashMap;

/// Name, type and shape of a tensor.
pub type Described = (String, Dtype, Vec<usize>);

/// Encodes the header: its length, then the table of contents. The bytes of `tensors` must follow it, in this order
/// and without gaps.
///
/// If `metadata` has more than one entry, their order differs between processes.
pub fn head(
    metadata: HashMap<String, String>,
    tensors: impl Iterator<Item = Described>,
) -> Vec<u8> {
    let mut end = 0;
    let tensors = tensors.map(|(name, dtype, shape)| {
        let start = end;
        end += shape.iter().product::<usize>() * dtype.bitsize() / 8;
        (name, TensorInfo { dtype, shape, data_offsets: (start, end) })
    });
    let contents = Metadata::new(Some(metadata), tensors.collect()).expect("tensors without gaps");
    let mut json = serde_json::to_vec(&contents).expect("a table of contents is plain JSON");
    // The format requires that the data start at a multiple of 8.
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut json);
    bytes
}

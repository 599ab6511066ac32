//! The head of a safetensors file, to be written before tensors that are then streamed.

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::collections::HashMap;

/// A tensor, in words: name, type, shape.
pub type Described = (String, Dtype, Vec<usize>);

/// The table of contents behind its length; the bytes of `tensors` follow it, in this order and without gaps.
///
/// One entry of `metadata` is written the same by every process; the order of several differs.
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
    // The format asks for data that starts at a multiple of 8.
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut json);
    bytes
}

//! One safetensors file: the 8-byte length of the header, the JSON header, and the values.
//!
//! The header is checked against the file's actual length, so a truncated file is refused when it is opened.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::model::Dtype;
use crate::model::error::Error;

/// The largest header that the format allows, in bytes.
const LARGEST_HEADER: u64 = 100_000_000;
/// Bytes per read: enough for the disk and for parallel conversion, whatever the tensor's size.
const PIECE: usize = 8 << 20;

/// An open file whose header matches its length.
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) places: BTreeMap<String, Place>,
    open: fs::File,
}

/// The location of a tensor in its file.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    start: u64,
    elements: usize,
}

/// A tensor's entry in the header.
#[derive(serde::Deserialize)]
struct Entry {
    dtype: safetensors::Dtype,
    shape: Vec<usize>,
    /// Start and end of the tensor's bytes, relative to the end of the header.
    data_offsets: (u64, u64),
}

impl File {
    pub(super) fn open(path: PathBuf) -> Result<Self, Error> {
        let read = |source| Error::Read { file: path.clone(), source };
        let mut open = fs::File::open(&path).map_err(read)?;
        let length = open.metadata().map_err(read)?.len();
        let mut prefix = [0; 8];
        if length < 8 {
            return Err(cut(&path, 8, length));
        }
        open.read_exact(&mut prefix).map_err(read)?;
        if prefix == *b"version " {
            return Err(Error::Weights {
                file: path,
                what: "a Git LFS pointer, not the file itself".to_owned(),
                hint: "`git lfs pull` in its folder fetches the file".to_owned(),
            });
        }
        let header = u64::from_le_bytes(prefix);
        if header > LARGEST_HEADER {
            return Err(damaged(
                &path,
                format!("the safetensors header cannot have {header} bytes"),
            ));
        }
        if length < 8 + header {
            return Err(cut(&path, 8 + header, length));
        }
        let mut text = vec![0; header as usize];
        open.read_exact(&mut text).map_err(read)?;
        let json = |source| Error::Json { file: path.clone(), source };
        let mut entries: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(&text).map_err(json)?;
        entries.remove("__metadata__");

        let entries = entries
            .into_iter()
            .map(|(name, entry)| Ok((name, serde_json::from_value::<Entry>(entry)?)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(json)?;

        let values = 8 + header;
        let end = entries.iter().map(|(_, entry)| entry.data_offsets.1).max().unwrap_or(0);
        let end = end.saturating_add(values);
        if length < end {
            return Err(cut(&path, end, length));
        }
        let mut places = BTreeMap::new();
        for (name, entry) in entries {
            let place = place(&path, &name, entry, values)?;
            places.insert(name, place);
        }
        Ok(Self { path, places, open })
    }

    /// The values of a tensor, converted to f32.
    pub(super) fn read(&mut self, place: &Place) -> Result<Vec<f32>, Error> {
        let mut values = vec![0.0; place.elements];
        let mut bytes = vec![0; PIECE.min(place.elements * place.dtype.size())];
        let mut fill = || -> io::Result<()> {
            self.open.seek(SeekFrom::Start(place.start))?;
            for piece in values.chunks_mut(PIECE / place.dtype.size()) {
                let bytes = &mut bytes[..piece.len() * place.dtype.size()];
                self.open.read_exact(bytes)?;
                place.dtype.decode(bytes, piece);
            }
            Ok(())
        };
        fill().map_err(|source| Error::Read { file: self.path.clone(), source })?;
        Ok(values)
    }
}

fn place(path: &Path, name: &str, entry: Entry, values: u64) -> Result<Place, Error> {
    let dtype = Dtype::try_from(entry.dtype).map_err(|stored| Error::Weights {
        file: path.to_owned(),
        what: format!("tensor `{name}` is stored as {stored:?}"),
        hint: "use the model's float32, bfloat16 or float16 release".to_owned(),
    })?;
    let (first, end) = entry.data_offsets;
    let elements = entry.shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
    let bytes = elements.and_then(|elements| elements.checked_mul(dtype.size()));
    match (elements, bytes) {
        (Some(elements), Some(bytes)) if end.checked_sub(first) == Some(bytes as u64) => {
            Ok(Place { dtype, shape: entry.shape, start: values + first, elements })
        }
        _ => Err(damaged(
            path,
            format!(
                "tensor `{name}` {:?} of {dtype} cannot lie in bytes {first} to {end}",
                entry.shape
            ),
        )),
    }
}

fn cut(path: &Path, must: u64, length: u64) -> Error {
    damaged(path, format!("cut short: {length} bytes of {must}"))
}

fn damaged(path: &Path, what: String) -> Error {
    let hint = "copy or download the file again".to_owned();
    Error::Weights { file: path.to_owned(), what, hint }
}

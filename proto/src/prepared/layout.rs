//! The position of each tensor in a shard's file, read from the table of contents at its start.

use std::collections::HashMap;

use safetensors::tensor::{Dtype, Metadata, SafeTensorError};
use serde::Deserialize;

use super::{Error, FORMAT_VERSION, HEADER_KEY, Header, SIGNATURE};

/// The size of the length field before the table of contents.
const LENGTH_BYTES: usize = 8;

/// The position of a tensor in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    /// Offset of its first byte.
    pub(super) start: usize,
    /// Number of elements.
    pub(super) len: usize,
    /// Bytes per element.
    width: usize,
}

impl Column {
    /// Offset of the byte after its last byte.
    pub(super) fn end(self) -> usize {
        self.start + self.len * self.width
    }
}

/// The position of each tensor.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) offsets: Column,
    pub(super) hashes: Column,
    pub(super) positions: Column,
    pub(super) objects: Column,
    pub(super) records: Column,
    pub(super) sums: Column,
    pub(super) targets: Column,
    pub(super) contents: Column,
    pub(super) settings: Column,
    pub(super) instructions: Column,
    pub(super) answers: Column,
    pub(super) flaws: Column,
    /// Ordered by place, then by record.
    pub(super) signatures: Column,
    pub(super) tokens: Column,
    pub(super) weights: Column,
}

impl Layout {
    /// How many bytes from the start are needed next, as far as it can be determined from `bytes`.
    pub(super) fn needs(bytes: &[u8]) -> Result<u64, Error> {
        let Some(length) = bytes.first_chunk() else {
            return Ok(LENGTH_BYTES as u64);
        };
        let contents = u64::from_le_bytes(*length).saturating_add(LENGTH_BYTES as u64);
        if (bytes.len() as u64) < contents {
            return Ok(contents);
        }
        Ok(Layout::read(bytes)?.1.front_end() as u64)
    }

    /// Reads the header and the layout from a shard's first bytes.
    pub(super) fn read(bytes: &[u8]) -> Result<(Header, Layout), Error> {
        use SafeTensorError as Flaw;
        let cut = |source| Error::NotSafetensors { bytes: bytes.len(), source };
        let (length, rest) = bytes.split_first_chunk().ok_or_else(|| cut(Flaw::HeaderTooSmall))?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok();
        let json = length.and_then(|length| rest.get(..length));
        let json = json.ok_or_else(|| cut(Flaw::InvalidHeaderLength))?;
        let metadata = serde_json::from_slice::<Metadata>(json);
        let metadata = metadata.map_err(|error| cut(Flaw::InvalidHeaderDeserialization(error)))?;
        let header = read_header(metadata.metadata().as_ref())?;
        Ok((header, Layout::new(&metadata, LENGTH_BYTES + json.len())?))
    }

    fn new(metadata: &Metadata, data_at: usize) -> Result<Layout, Error> {
        let column = |name, dtype| column(metadata, name, dtype, data_at);
        let layout = Layout {
            offsets: column("offsets", Dtype::U64)?,
            hashes: column("hashes", Dtype::U64)?,
            positions: column("positions", Dtype::U64)?,
            objects: column("objects", Dtype::U32)?,
            records: column("records", Dtype::U32)?,
            sums: column("sums", Dtype::F32)?,
            targets: column("targets", Dtype::U32)?,
            contents: column("contents", Dtype::U64)?,
            settings: column("settings", Dtype::U64)?,
            instructions: column("instructions", Dtype::U64)?,
            answers: column("answers", Dtype::U64)?,
            flaws: column("flaws", Dtype::U8)?,
            signatures: column("signatures", Dtype::U8)?,
            tokens: column("tokens", Dtype::U32)?,
            weights: column("weights", Dtype::F32)?,
        };
        layout.check()?;
        Ok(layout)
    }

    /// The end of the front, which is everything except signatures, tokens and weights.
    pub(super) fn front_end(&self) -> usize {
        let Layout { offsets, hashes, positions, objects, records, sums, targets, .. } = self;
        let Layout { contents, settings, instructions, answers, flaws, .. } = self;
        let of_samples = [offsets, hashes, positions, objects, records, sums, targets];
        let of_records = [contents, settings, instructions, answers, flaws];
        let ends = of_samples.into_iter().chain(of_records).map(|column| column.end());
        ends.max().unwrap_or(0)
    }

    /// Checks that all lengths agree.
    fn check(&self) -> Result<(), Error> {
        let (samples, records) = (self.hashes.len, self.contents.len);
        for (name, column, wanted) in [
            ("offsets", self.offsets, samples + 1),
            ("positions", self.positions, samples),
            ("objects", self.objects, samples),
            ("record indices", self.records, samples),
            ("sums", self.sums, samples),
            ("targets", self.targets, samples),
            ("settings", self.settings, records),
            ("instructions", self.instructions, records),
            ("answers", self.answers, records),
            ("flaws", self.flaws, records),
            ("bytes of signatures", self.signatures, SIGNATURE.saturating_mul(records)),
            ("weights", self.weights, self.tokens.len),
        ] {
            if column.len != wanted {
                let found = column.len;
                return Err(Error::Inconsistent(format!("{found} {name}, not {wanted}")));
            }
        }
        Ok(())
    }
}

fn read_header(metadata: Option<&HashMap<String, String>>) -> Result<Header, Error> {
    let json = metadata.and_then(|map| map.get(HEADER_KEY));
    let json = json.ok_or_else(|| Error::Foreign(format!("no `{HEADER_KEY}` in its metadata")))?;
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let foreign = |error: serde_json::Error| Error::Foreign(error.to_string());
    let Version { version } = serde_json::from_str(json).map_err(foreign)?;
    if version != FORMAT_VERSION {
        return Err(Error::Version { found: version });
    }
    serde_json::from_str(json).map_err(foreign)
}

fn column(metadata: &Metadata, name: &str, dtype: Dtype, data_at: usize) -> Result<Column, Error> {
    let info = metadata.info(name);
    let info = info.ok_or_else(|| Error::Inconsistent(format!("no tensor `{name}`")))?;
    let (start, end) = info.data_offsets;
    if info.dtype != dtype {
        let (found, shape) = (info.dtype, &info.shape);
        let text = format!("`{name}` as {found:?} {shape:?}, not as {dtype:?}");
        return Err(Error::Inconsistent(text));
    }
    let width = dtype.bitsize() / 8;
    Ok(Column { start: data_at + start, len: (end - start) / width, width })
}

//! Restores a training state from a checkpoint's state files. Each file is read and verified by one rank, which then
//! broadcasts its contents to the others.
//!
//! A file arrives in pieces, and each piece is copied to its destination at once, so that memory does not grow with
//! the size of a file. Whether a file is intact is known only at its end; until then, its contents are not trusted
//! and no error in them is reported.

use super::State;
use super::receive::receive;
use super::state::Part;
use crate::collective::{self, Collective};
use crate::model::Dtype;
use crate::ops::ParamId;
use bytes::Bytes;
use proto::manifest::File;
use proto::plan::share;
use safetensors::tensor::{Metadata, TensorInfo};
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use thiserror::Error;

/// Why a checkpoint cannot be restored.
#[derive(Debug, Error)]
pub enum Error {
    /// An object is not a valid state file.
    #[error("`{key}` is not a state file: {reason}")]
    Format {
        /// Key of the object.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor does not have the shape that the model needs, so the checkpoint belongs to another model.
    #[error("`{key}` holds `{tensor}` with {got} elements, but the model has {expected}")]
    Shape {
        /// Key of the object.
        key: String,
        /// Name of the tensor.
        tensor: String,
        /// Number of elements in the file.
        got: usize,
        /// Number of elements in the model.
        expected: usize,
    },
    /// A tensor or file was not saved, or not read.
    #[error("the checkpoint lacks `{0}`")]
    Missing(String),
    /// A peer was lost during the restore.
    #[error(transparent)]
    Collective(#[from] collective::Error),
}

/// An event while a rank's state files are fetched. Files are named by their index in the manifest; several may be
/// fetched concurrently.
pub enum Fetched {
    /// The next bytes of a file, not yet verified. Offset 0 starts the file, again if it arrived damaged before.
    Piece {
        /// Index of the file.
        file: usize,
        /// Number of bytes before these.
        offset: u64,
        /// The bytes; a multiple of four, except at the end of the file.
        body: Bytes,
    },
    /// The file is complete and was verified.
    Whole(usize),
}

/// The state files that rank `rank` of `world` reads.
pub fn share_of(state: &[File], rank: usize, world: usize) -> Vec<usize> {
    owners(state, world)
        .into_iter()
        .enumerate()
        .filter(|(_, r)| *r == rank)
        .map(|(i, _)| i)
        .collect()
}

/// Which rank reads which file: a function of the manifest and the world size.
fn owners(state: &[File], world: usize) -> Vec<usize> {
    let bytes: Vec<_> = state.iter().map(|f| f.bytes).collect();
    let mut owners = vec![0; state.len()];
    for (rank, files) in share(&bytes, world).into_iter().enumerate() {
        files.into_iter().for_each(|i| owners[i] = rank);
    }
    owners
}

/// Restores `state` from the manifest's `files`; `mine` yields the files of this rank (see [`share_of`]).
///
/// # Errors
/// A file is not a state file of this model, something is missing, or `mine` yields an error; `state` is then
/// unspecified until it is restored again.
pub fn restore<E: From<Error>>(
    state: &mut State,
    collective: &mut dyn Collective,
    files: &[File],
    mine: impl IntoIterator<Item = Result<Fetched, E>>,
) -> Result<(), E> {
    let (rank, world) = (collective.rank(), collective.world_size());
    let mut updates = 0;
    let mut left: BTreeSet<usize> = share_of(files, rank, world).into_iter().collect();
    let mut readings: HashMap<usize, Reading<'_>> = HashMap::new();
    for fetched in mine {
        match fetched? {
            Fetched::Piece { file, offset, body } => {
                if offset == 0 {
                    readings.insert(file, Reading::of(&files[file]));
                }
                readings.get_mut(&file).expect("a file starts with offset 0").add(state, &body);
            }
            Fetched::Whole(file) => {
                let missing = || Error::Missing(files[file].key.clone());
                updates = readings.remove(&file).ok_or_else(missing)?.end()?;
                left.remove(&file);
            }
        }
    }
    if let Some(&file) = left.first() {
        return Err(Error::Missing(files[file].key.clone()).into());
    }
    state.set_updates(updates);
    let owners = owners(files, world);
    // Every file records the number of updates, so the reader of the first file provides it.
    let first = owners.first().copied().unwrap_or(0);
    let tensors = files
        .iter()
        .zip(&owners)
        .flat_map(|(file, rank)| file.tensors.iter().map(move |tensor| (tensor.as_str(), *rank)));
    let readers: HashMap<&str, usize> = tensors.collect();
    let reader = |part: Part, name: &str| {
        let tensor = format!("{}/{name}", part.name());
        readers.get(tensor.as_str()).copied().ok_or(Error::Missing(tensor))
    };
    Ok(receive(state, collective, first, reader)?)
}

/// A state file that is being read.
struct Reading<'a> {
    file: &'a File,
    /// Number of bytes received.
    at: u64,
    /// The contents so far, or their error, which counts only if the file turns out to be intact.
    outcome: Result<Content, Error>,
}

enum Content {
    /// The beginning of the file, while the header is incomplete.
    Begun(Vec<u8>),
    Known(Table),
}

/// The destination of a tensor; `None` for a frozen parameter, which older versions stored, too.
type Place = Option<(Part, ParamId)>;

/// A state file's header.
struct Table {
    updates: u64,
    /// The tensors with their byte ranges in the file, in order.
    tensors: Vec<(Range<u64>, Place)>,
}

impl<'a> Reading<'a> {
    fn of(file: &'a File) -> Self {
        Self { file, at: 0, outcome: Ok(Content::Begun(Vec::new())) }
    }

    fn add(&mut self, state: &mut State, body: &Bytes) {
        let from = self.at;
        self.at += body.len() as u64;
        match &mut self.outcome {
            Ok(Content::Begun(head)) => {
                head.extend_from_slice(body);
                match Table::read(self.file, head, state) {
                    Ok(None) => {}
                    Ok(Some(table)) => {
                        table.fill(state, 0, head);
                        self.outcome = Ok(Content::Known(table));
                    }
                    Err(error) => self.outcome = Err(error),
                }
            }
            Ok(Content::Known(table)) => table.fill(state, from, body),
            Err(_) => {}
        }
    }

    /// The number of updates recorded in the file, once it is complete.
    fn end(self) -> Result<u64, Error> {
        match self.outcome? {
            Content::Known(table) if self.at == self.file.bytes => Ok(table.updates),
            Content::Known(_) | Content::Begun(_) => Err(Error::Format {
                key: self.file.key.clone(),
                reason: format!("got {} of {} bytes", self.at, self.file.bytes),
            }),
        }
    }
}

/// Size of the header length with which a safetensors file begins, in bytes.
const LENGTH: usize = size_of::<u64>();

impl Table {
    /// The header at the beginning of `bytes`; `None` while it is incomplete.
    fn read(file: &File, bytes: &[u8], state: &State) -> Result<Option<Self>, Error> {
        let format = |reason: String| Error::Format { key: file.key.clone(), reason };
        let Some((length, rest)) = bytes.split_first_chunk::<LENGTH>() else { return Ok(None) };
        let length = u64::from_le_bytes(*length);
        if length > file.bytes {
            return Err(format(format!("its header cannot have {length} bytes")));
        }
        let Some(json) = rest.get(..length as usize) else { return Ok(None) };
        let table: Metadata = serde_json::from_slice(json).map_err(|e| format(e.to_string()))?;
        let begins = LENGTH as u64 + length;
        if begins + table.data_len() as u64 != file.bytes || !begins.is_multiple_of(4) {
            return Err(format("its length does not match its header".into()));
        }
        let updates = table.metadata().as_ref().and_then(|m| m.get("updates")?.parse().ok());
        let updates =
            updates.ok_or_else(|| format("it does not record the number of updates".into()))?;
        let infos = table.tensors();
        let tensors = file.tensors.iter().map(|name| {
            let info = infos.get(name).ok_or_else(|| format(format!("it lacks `{name}`")))?;
            let (from, to) = info.data_offsets;
            Ok((begins + from as u64..begins + to as u64, place(state, &file.key, name, info)?))
        });
        let mut tensors = tensors.collect::<Result<Vec<_>, Error>>()?;
        tensors.sort_unstable_by_key(|(range, _)| range.start);
        Ok(Some(Self { updates, tensors }))
    }

    /// Copies bytes of the file, which start at offset `from`, to their destinations.
    fn fill(&self, state: &mut State, from: u64, bytes: &[u8]) {
        let to = from + bytes.len() as u64;
        let first = self.tensors.partition_point(|(range, _)| range.end <= from);
        for (range, place) in &self.tensors[first..] {
            let (start, end) = (range.start.max(from), range.end.min(to));
            if start >= end {
                break;
            }
            let Some((part, p)) = *place else { continue };
            let bytes = &bytes[(start - from) as usize..(end - from) as usize];
            let mut values = vec![0.0; bytes.len() / size_of::<f32>()];
            Dtype::F32.decode(bytes, &mut values);
            state
                .part_mut(part, p)
                .write((start - range.start) as usize / size_of::<f32>(), &values);
        }
    }
}

/// The destination of a tensor, whose type and shape are checked.
fn place(state: &State, key: &str, tensor: &str, info: &TensorInfo) -> Result<Place, Error> {
    let format = |reason: String| Error::Format { key: key.to_owned(), reason };
    let unknown = || format(format!("the model has no `{tensor}`"));
    if info.dtype != Dtype::F32.into() {
        return Err(format(format!("`{tensor}` is not f32")));
    }
    let (kind, name) = tensor.split_once('/').ok_or_else(unknown)?;
    let part = Part::ALL.into_iter().find(|part| part.name() == kind).ok_or_else(unknown)?;
    let parameters = state.model().parameters();
    let p = parameters.find(name).ok_or_else(unknown)?;
    let expected = state.part(part, p).len();
    let got = info.shape.iter().product();
    if got != expected {
        let (key, tensor) = (key.to_owned(), tensor.to_owned());
        return Err(Error::Shape { key, tensor, got, expected });
    }
    Ok(parameters.trainable(p).then_some((part, p)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::{AbortHandle, InProcess};
    use crate::replica::{PartFile, Room, Saved, fixture, snapshot};
    use proto::manifest::{Checkpoint, Digests};
    use proto::tensors::head;
    use std::time::Duration;

    /// Frozen parameters: the embedding, and one of a layer.
    const FROZEN: [usize; 2] = [0, 3];

    /// A state with frozen parameters in which everything else is moved away from its initial value by up to `shift`.
    fn state(shift: f32) -> State {
        let mut state = fixture::state_with(&FROZEN.map(ParamId));
        state.set_updates(5 * shift as u64);
        for p in state.ids() {
            if !state.model().parameters().trainable(p) {
                continue;
            }
            for (part, by) in Part::ALL.into_iter().zip([shift, 0.25 * shift, 0.5 * shift]) {
                let buffer = state.part_mut(part, p);
                let moved: Vec<f32> = buffer.read::<f32>().iter().map(|x| x + by).collect();
                buffer.write(0, &moved);
            }
        }
        state
    }

    fn saved(state: &State) -> Vec<PartFile> {
        let room = Room::default().reserve(&AbortHandle::new()).expect("it is free");
        let saved = Saved { dtype: Dtype::F32, file_bytes: u64::MAX };
        let files = snapshot(state, 1, (0, 1), saved, room).files;
        files.into_iter().filter(|file| file.key.starts_with(Checkpoint::STATE)).collect()
    }

    /// The states of `world` ranks after restoring `parts` into states that were `from` away from the base.
    fn restored(parts: &[PartFile], world: usize, from: f32) -> Vec<State> {
        let files: Vec<File> = parts
            .iter()
            .map(|part| File {
                key: part.key.clone(),
                bytes: part.body.len() as u64,
                digests: Digests::of(&part.body),
                tensors: part.tensors.clone(),
            })
            .collect();
        let rank = |mut collective: InProcess| {
            let mut state = state(from);
            let mine = share_of(&files, collective.rank(), world).into_iter().flat_map(|file| {
                let piece = Fetched::Piece { file, offset: 0, body: parts[file].body.clone() };
                [Ok::<_, Error>(piece), Ok(Fetched::Whole(file))]
            });
            restore(&mut state, &mut collective, &files, mine).expect("the checkpoint is valid");
            state
        };
        std::thread::scope(|scope| {
            let ranks = InProcess::world(world, Duration::from_secs(60)).into_iter();
            let threads: Vec<_> = ranks.map(|c| scope.spawn(|| rank(c))).collect();
            threads.into_iter().map(|t| t.join().expect("a rank")).collect()
        })
    }

    #[test]
    fn only_trained_state_is_stored_and_restored_bit_by_bit() {
        let before = state(1.0);
        let parts = saved(&before);
        let parameters = before.model().parameters();
        let frozen = FROZEN.map(|p| format!("master/{}", parameters.name(ParamId(p))));
        let stored: Vec<_> = parts.iter().flat_map(|part| &part.tensors).collect();
        assert_eq!(stored.len(), 3 * (parameters.len() - FROZEN.len()));
        assert!(frozen.iter().all(|name| !stored.contains(&name)), "{stored:?}");
        for world in 1..4 {
            // It makes no difference whether the state was used before.
            for after in [0.0, 3.0].into_iter().flat_map(|from| restored(&parts, world, from)) {
                assert_eq!(after.digest(), before.digest(), "{world} ranks");
            }
        }
    }

    #[test]
    fn frozen_parameters_in_old_checkpoints_are_ignored() {
        let before = state(1.0);
        let mut parts = saved(&before);
        let parameters = before.model().parameters();
        for p in FROZEN.map(ParamId) {
            let name = format!("master/{}", parameters.name(p));
            let elements = parameters.elements(p);
            let metadata = HashMap::from([("updates".to_owned(), before.updates().to_string())]);
            let described = (name.clone(), Dtype::F32.into(), vec![elements]);
            let mut body = head(metadata, std::iter::once(described));
            body.extend(std::iter::repeat_n(7.0f32.to_le_bytes(), elements).flatten());
            let key = format!("{}/older-{}", Checkpoint::STATE, p.0);
            parts.push(PartFile { key, body: body.into(), tensors: vec![name] });
        }
        for after in restored(&parts, 2, 0.0) {
            assert_eq!(after.digest(), before.digest());
        }
    }
}

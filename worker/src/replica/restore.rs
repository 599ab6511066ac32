//! From a checkpoint's state files back to a training: every file is read and verified by one rank, which then tells
//! the others what is in it.
//!
//! A file comes in pieces, and each is put in its place as it comes: memory does not grow with the size of a file. Only
//! at a file's end is it known whether it is what was written; until then nothing that it says counts.

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
    /// Not a state file.
    #[error("`{key}` is not a state file: {reason}")]
    Format {
        /// The object.
        key: String,
        /// Why.
        reason: String,
    },
    /// It belongs to another model.
    #[error("`{key}` holds `{tensor}` with {got} elements, the model has {expected}")]
    Shape {
        /// The object.
        key: String,
        /// The tensor.
        tensor: String,
        /// Elements in the file.
        got: usize,
        /// Elements in the model.
        expected: usize,
    },
    /// Something was not saved, or not read.
    #[error("the checkpoint lacks `{0}`")]
    Missing(String),
    /// A peer was lost meanwhile.
    #[error(transparent)]
    Collective(#[from] collective::Error),
}

/// What a rank hears of its state files, each named by its place in the manifest; of several in turn.
pub enum Fetched {
    /// The next bytes of a file, not proven yet. At 0 it begins: once more, if it had come damaged.
    Piece {
        /// Which.
        file: usize,
        /// Bytes before these.
        offset: u64,
        /// A multiple of four bytes, unless they are the last.
        body: Bytes,
    },
    /// What came of a file is what was written.
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

/// Brings `state` to what the manifest's `files` describe; `mine` yields those of this rank, see [`share_of`].
///
/// # Errors
/// If a file is not a state file of this model, or something is missing, or what `mine` yields; `state` is then
/// unspecified, until it is restored again.
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
                readings.get_mut(&file).expect("a file begins at 0").add(state, &body);
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
    // Every file says how many updates it has seen; its reader is asked.
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

/// A state file, as far as it has come.
struct Reading<'a> {
    file: &'a File,
    /// Bytes that have come.
    at: u64,
    /// What is wrong with it, should it be what was written.
    outcome: Result<Content, Error>,
}

enum Content {
    /// The beginning, in which the table of contents is not whole.
    Begun(Vec<u8>),
    Known(Table),
}

/// Where a tensor belongs; nowhere if it is frozen: older versions stored that, too.
type Place = Option<(Part, ParamId)>;

/// A state file's table of contents.
struct Table {
    updates: u64,
    /// By their bytes in the file, in order.
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

    /// The updates that it has seen, now that all of it has come.
    fn end(self) -> Result<u64, Error> {
        match self.outcome? {
            Content::Known(table) if self.at == self.file.bytes => Ok(table.updates),
            Content::Known(_) | Content::Begun(_) => Err(Error::Format {
                key: self.file.key.clone(),
                reason: format!("{} of {} bytes came", self.at, self.file.bytes),
            }),
        }
    }
}

/// Bytes of the length that a safetensors file begins with.
const LENGTH: usize = size_of::<u64>();

impl Table {
    /// The table of contents that the bytes begin with; none while it is not whole.
    fn read(file: &File, bytes: &[u8], state: &State) -> Result<Option<Self>, Error> {
        let format = |reason: String| Error::Format { key: file.key.clone(), reason };
        let Some((length, rest)) = bytes.split_first_chunk::<LENGTH>() else { return Ok(None) };
        let length = u64::from_le_bytes(*length);
        if length > file.bytes {
            return Err(format(format!("a table of contents of {length} bytes")));
        }
        let Some(json) = rest.get(..length as usize) else { return Ok(None) };
        let table: Metadata = serde_json::from_slice(json).map_err(|e| format(e.to_string()))?;
        let begins = LENGTH as u64 + length;
        if begins + table.data_len() as u64 != file.bytes || !begins.is_multiple_of(4) {
            return Err(format("it is not as long as its table of contents says".into()));
        }
        let updates = table.metadata().as_ref().and_then(|m| m.get("updates")?.parse().ok());
        let updates =
            updates.ok_or_else(|| format("it does not say how many updates it has seen".into()))?;
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

    /// Puts bytes of the file, `from` there on, where they belong.
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

/// Where a tensor of so many elements belongs.
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

    /// Parameters that are frozen: the embedding, and one of a layer.
    const FROZEN: [usize; 2] = [0, 3];

    /// A training of which some parameters are frozen, and everything else is `shift` from where it began.
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

    /// What each of `world` ranks has that restores `parts` into a state that is `from` from the base.
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
            restore(&mut state, &mut collective, &files, mine).expect("it is sound");
            state
        };
        std::thread::scope(|scope| {
            let ranks = InProcess::world(world, Duration::from_secs(60)).into_iter();
            let threads: Vec<_> = ranks.map(|c| scope.spawn(|| rank(c))).collect();
            threads.into_iter().map(|t| t.join().expect("a rank")).collect()
        })
    }

    #[test]
    fn only_what_is_trained_is_stored_and_a_restore_gives_the_same_bits() {
        let before = state(1.0);
        let parts = saved(&before);
        let parameters = before.model().parameters();
        let frozen = FROZEN.map(|p| format!("master/{}", parameters.name(ParamId(p))));
        let stored: Vec<_> = parts.iter().flat_map(|part| &part.tensors).collect();
        assert_eq!(stored.len(), 3 * (parameters.len() - FROZEN.len()));
        assert!(frozen.iter().all(|name| !stored.contains(&name)), "{stored:?}");
        for world in 1..4 {
            // Whether the state was used before makes no difference.
            for after in [0.0, 3.0].into_iter().flat_map(|from| restored(&parts, world, from)) {
                assert_eq!(after.digest(), before.digest(), "{world} ranks");
            }
        }
    }

    #[test]
    fn a_checkpoint_with_frozen_masters_is_read_and_they_stay_as_the_base_has_them() {
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

//! Which rank stores what: a function of only the parameters and the world size.
//!
//! A model is cut into files as in `transformers`, independently of the world size: parameters in order, up to a
//! maximum size. A rank that stores a model file stores less optimizer state, so that all ranks store about the same
//! number of bytes.

use crate::model::Dtype;
use crate::ops::ParamId;
use proto::plan::share;
use std::ops::Range;

/// Maximum size of a file of optimizer state in bytes. A restore assigns whole files to ranks, so they must not be
/// large.
const STATE_BYTES: u64 = 256 << 20;

/// The properties of a parameter that determine who stores it.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub(super) elements: u64,
    pub(super) trainable: bool,
}

impl Size {
    /// Bytes of the master and both moments of a trained parameter. A frozen one has no state, since it is in the
    /// base model.
    fn of_state(self) -> u64 {
        if self.trainable { 12 * self.elements } else { 0 }
    }
}

/// One file of a model.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ModelFile {
    /// Number of the file, starting at 1.
    pub(super) number: usize,
    /// Total number of files.
    pub(super) of: usize,
    /// The consecutive parameters in the file.
    pub(super) parameters: Range<usize>,
}

/// One rank's share of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Share {
    /// Model files.
    pub(super) model: Vec<ModelFile>,
    /// Files of optimizer state, each with whole parameters.
    pub(super) state: Vec<Vec<ParamId>>,
}

impl Share {
    /// Bytes of its tensors.
    pub(super) fn bytes(&self, sizes: &[Size], save: Dtype) -> u64 {
        let of_state: u64 = self.state.iter().flatten().map(|p| sizes[p.0].of_state()).sum();
        let saved = self.model.iter().flat_map(|file| &sizes[file.parameters.clone()]);
        of_state + saved.map(|p| p.elements * save.size() as u64).sum::<u64>()
    }
}

/// Every rank's share of a checkpoint.
pub(super) fn shares(sizes: &[Size], save: Dtype, file_bytes: u64, world: usize) -> Vec<Share> {
    let saved = |p: &Size| p.elements * save.size() as u64;
    let files = model_files(&sizes.iter().map(saved).collect::<Vec<_>>(), file_bytes);
    let of_files = files.iter().map(|f| sizes[f.parameters.clone()].iter().map(saved).sum());
    let costs: Vec<u64> = of_files.chain(sizes.iter().map(|p| p.of_state())).collect();
    let of_rank = |mut mine: Vec<usize>| {
        mine.sort_unstable();
        let (model, state): (Vec<_>, Vec<_>) = mine.into_iter().partition(|i| *i < files.len());
        let state = state.into_iter().map(|i| ParamId(i - files.len()));
        let state: Vec<_> = state.filter(|p| sizes[p.0].trainable).collect();
        Share {
            model: model.into_iter().map(|i| files[i].clone()).collect(),
            state: in_files(state, |p| sizes[p.0].of_state()),
        }
    };
    share(&costs, world).into_iter().map(of_rank).collect()
}

fn model_files(bytes: &[u64], file_bytes: u64) -> Vec<ModelFile> {
    let cuts = cut(bytes.iter().copied(), file_bytes);
    let of = cuts.len();
    let file = |(parameters, number)| ModelFile { number, of, parameters };
    cuts.into_iter().zip(1..).map(file).collect()
}

fn in_files(parameters: Vec<ParamId>, bytes: impl Fn(ParamId) -> u64) -> Vec<Vec<ParamId>> {
    let cuts = cut(parameters.iter().map(|p| bytes(*p)), STATE_BYTES);
    cuts.into_iter().map(|range| parameters[range].to_vec()).collect()
}

/// Cuts consecutive items into ranges of at most `limit` in total, or of a single larger item.
fn cut(sizes: impl Iterator<Item = u64>, limit: u64) -> Vec<Range<usize>> {
    let mut cuts: Vec<Range<usize>> = Vec::new();
    let mut filled = 0;
    for (i, size) in sizes.enumerate() {
        match cuts.last_mut().filter(|_| filled + size <= limit) {
            Some(range) => (range.end, filled) = (i + 1, filled + size),
            None => {
                cuts.push(i..i + 1);
                filled = size;
            }
        }
    }
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(elements: &[u64]) -> Vec<Size> {
        elements.iter().map(|&elements| Size { elements, trainable: true }).collect()
    }

    #[test]
    fn model_files_do_not_depend_on_the_world_size() {
        let sizes = sizes(&[100, 30, 30, 30, 200, 5, 5]);
        let files = |world| {
            let shares = shares(&sizes, Dtype::F32, 400, world);
            let mut files: Vec<_> = shares.into_iter().flat_map(|s| s.model).collect();
            files.sort_by_key(|f| f.number);
            files
        };
        let alone = files(1);
        let cuts: Vec<_> = alone.iter().map(|f| f.parameters.clone()).collect();
        assert_eq!(cuts, [0..1, 1..4, 4..5, 5..7]);
        assert!(alone.iter().all(|f| f.of == 4));
        for world in 2..6 {
            assert_eq!(files(world), alone);
        }
    }

    #[test]
    fn each_state_is_stored_once_and_ranks_store_about_equally_many_bytes() {
        let sizes = sizes(&[1000, 10, 900, 20, 800, 700, 700, 700, 5]);
        for world in 1..5 {
            let shares = shares(&sizes, Dtype::Bf16, 4000, world);
            let mut seen: Vec<_> = shares.iter().flat_map(|s| s.state.concat()).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..sizes.len()).map(ParamId).collect::<Vec<_>>());
            let loads: Vec<_> = shares.iter().map(|s| s.bytes(&sizes, Dtype::Bf16)).collect();
            let (least, most) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
            // The difference is at most the largest item that cannot be divided.
            assert!(most - least <= 12_000, "{loads:?}");
        }
    }

    #[test]
    fn a_frozen_parameter_is_stored_in_the_model_but_not_in_the_state() {
        let mut sizes = sizes(&[1000, 10, 900]);
        sizes[0].trainable = false;
        for world in 1..4 {
            let shares = shares(&sizes, Dtype::Bf16, 4000, world);
            let mut state: Vec<_> = shares.iter().flat_map(|s| s.state.concat()).collect();
            state.sort_unstable();
            assert_eq!(state, [ParamId(1), ParamId(2)]);
            let model: usize =
                shares.iter().flat_map(|s| &s.model).map(|f| f.parameters.len()).sum();
            assert_eq!(model, 3);
        }
    }

    #[test]
    fn state_is_cut_into_files_that_a_restore_can_distribute() {
        let large = STATE_BYTES / 12;
        let shares = shares(&sizes(&[large, large + 1, 1, 1]), Dtype::F32, u64::MAX, 1);
        let files: Vec<Vec<usize>> =
            shares[0].state.iter().map(|f| f.iter().map(|p| p.0).collect()).collect();
        assert_eq!(files, [vec![0], vec![1], vec![2, 3]]);
    }
}

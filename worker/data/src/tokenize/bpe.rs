//! Byte pair encoding of one word: Sennrich et al., "Neural machine translation of rare words with
//! subword units", 2016, on bytes.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use foldhash::fast::RandomState;

/// The token that two neighbours merge into.
#[derive(Clone, Copy)]
struct Merge {
    /// Pairs of lower rank are merged first; no two pairs have the same rank.
    rank: u32,
    id: u32,
}

/// The part of the vocabulary that merging needs.
pub(super) struct Bpe {
    bytes: [Option<u32>; 256],
    merges: HashMap<(u32, u32), Merge, RandomState>,
    /// Words that are looked up before anything is merged.
    whole: HashMap<Vec<u8>, u32, RandomState>,
}

/// A token, and the number of a word's bytes that it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) id: u32,
    pub(super) bytes: usize,
}

/// The capacity that is kept after a word, so that a word of megabytes (white space, say) does not
/// hold on to more.
const KEPT_SYMBOLS: usize = 1 << 12;

/// Buffers for merging, reused from word to word.
#[derive(Default)]
pub(super) struct Scratch {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<(u32, usize)>>,
}

/// An element of the linked list of a word's tokens so far. Its index never changes; merging
/// removes its right neighbour from the list.
struct Symbol {
    piece: Piece,
    left: usize,
    right: usize,
    /// The merge of the pair with the right neighbour, if there is one.
    merge: Option<Merge>,
}

/// Stands for a missing neighbour.
const NONE: usize = usize::MAX;

impl Bpe {
    /// `merges` are (left, right, merged), in order of priority; if a pair occurs twice, the later
    /// one counts. `whole` are the words that need no merging.
    pub(super) fn new(
        bytes: [Option<u32>; 256],
        merges: impl IntoIterator<Item = (u32, u32, u32)>,
        whole: HashMap<Vec<u8>, u32, RandomState>,
    ) -> Bpe {
        let merges = (0..).zip(merges);
        let merges = merges.map(|(rank, (left, right, id))| ((left, right), Merge { rank, id }));
        Bpe { bytes, merges: merges.collect(), whole }
    }

    /// Encodes a word. None if it has a byte that the vocabulary cannot spell.
    pub(super) fn encode(&self, word: &[u8], scratch: &mut Scratch) -> Option<Vec<Piece>> {
        if let Some(&id) = self.whole.get(word) {
            return Some(vec![Piece { id, bytes: word.len() }]);
        }
        let Scratch { symbols, queue } = scratch;
        symbols.clear();
        symbols.shrink_to(KEPT_SYMBOLS);
        for (at, &byte) in word.iter().enumerate() {
            let piece = Piece { id: self.bytes[usize::from(byte)]?, bytes: 1 };
            let right = if at + 1 < word.len() { at + 1 } else { NONE };
            symbols.push(Symbol { piece, left: at.wrapping_sub(1), right, merge: None });
        }
        queue.clear();
        queue.shrink_to(KEPT_SYMBOLS);
        for at in 0..symbols.len() {
            self.enqueue(symbols, queue, at);
        }
        // Of equal pairs, the leftmost is merged first.
        while let Some(Reverse((rank, at))) = queue.pop() {
            match symbols[at].merge {
                Some(merge) if merge.rank == rank => self.merge(symbols, queue, at, merge),
                // The pair no longer exists.
                _ => {}
            }
        }
        // The first symbol is never removed from the list.
        let following = |symbol: &&Symbol| symbols.get(symbol.right);
        let alive = std::iter::successors(symbols.first(), following);
        Some(alive.map(|symbol| symbol.piece).collect())
    }

    fn merge(
        &self,
        symbols: &mut [Symbol],
        queue: &mut BinaryHeap<Reverse<(u32, usize)>>,
        at: usize,
        merge: Merge,
    ) {
        let taken = symbols[at].right;
        let bytes = symbols[at].piece.bytes + symbols[taken].piece.bytes;
        let right = symbols[taken].right;
        symbols[taken].merge = None;
        symbols[at].piece = Piece { id: merge.id, bytes };
        symbols[at].right = right;
        if right != NONE {
            symbols[right].left = at;
        }
        self.enqueue(symbols, queue, at);
        let left = symbols[at].left;
        if left != NONE {
            self.enqueue(symbols, queue, left);
        }
    }

    /// Records how the pair that starts at `at` would merge, and queues it.
    fn enqueue(
        &self,
        symbols: &mut [Symbol],
        queue: &mut BinaryHeap<Reverse<(u32, usize)>>,
        at: usize,
    ) {
        let right = symbols.get(symbols[at].right);
        let pair = right.map(|right| (symbols[at].piece.id, right.piece.id));
        let merge = pair.and_then(|pair| self.merges.get(&pair)).copied();
        symbols[at].merge = merge;
        queue.extend(merge.map(|merge| Reverse((merge.rank, at))));
    }
}

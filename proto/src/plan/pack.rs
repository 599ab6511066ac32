//! Decides which samples share a pack, by best fit decreasing over a whole set.
//!
//! Samples are placed from the longest to the shortest, each into the pack with the least space that is enough for
//! it. Packs are found by their space, so each sample costs one look-up in a small bit tree, whatever the number of
//! packs. Which *lengths* share a pack depends only on the lengths; the random stream only chooses among samples of
//! equal length, and the order of the packs. So every epoch over the same samples has the same number of packs.

use super::random::Random;

/// The sample ids of each pack, stored in two flat lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packs {
    /// The start of each pack in `samples`, and the end of the last one.
    starts: Vec<u32>,
    samples: Vec<u32>,
}

impl Packs {
    /// The number of packs.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Whether there are no packs.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The samples of one pack, longest first.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn pack(&self, index: usize) -> &[u32] {
        &self.samples[self.starts[index] as usize..self.starts[index + 1] as usize]
    }

    /// All packs in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u32]> {
        (0..self.len()).map(|index| self.pack(index))
    }
}

/// The order of packs and samples, and the minimum number of packs.
pub(super) struct Order<'a> {
    /// Chooses among samples of equal length and shuffles the packs. With `None`, samples of equal length are taken
    /// in the order given, and packs stay in the order in which they were opened.
    pub(super) random: Option<&'a mut Random>,
    /// Packs are split until there are at least this number of packs, or every pack has one sample.
    pub(super) packs: u32,
}

/// Packs `samples` into rows of `capacity` tokens. No sample may be longer than that.
pub(super) fn best_fit(
    samples: Vec<u32>,
    length: impl Fn(u32) -> u32,
    capacity: u32,
    mut order: Order<'_>,
) -> Packs {
    let sorted = longest_first(samples, &length, capacity, &mut order.random);
    let (mut pack_of, mut packs) = place(&sorted, &length, capacity);
    if packs < order.packs {
        packs = split(&mut pack_of, packs, order.packs);
    }
    let mut position: Vec<u32> = (0..packs).collect();
    if let Some(random) = &mut order.random {
        random.shuffle(&mut position);
    }
    let mut starts = vec![0u32; packs as usize + 1];
    for &pack in &pack_of {
        starts[position[pack as usize] as usize + 1] += 1;
    }
    for index in 1..starts.len() {
        starts[index] += starts[index - 1];
    }
    let mut samples = vec![0u32; sorted.len()];
    for (&sample, &pack) in sorted.iter().zip(&pack_of) {
        let slot = &mut starts[position[pack as usize] as usize];
        samples[*slot as usize] = sample;
        *slot += 1;
    }
    // The loop has moved each start to the end of its pack, which is the start of the next one.
    starts.pop();
    starts.insert(0, 0);
    Packs { starts, samples }
}

/// The number of packs that [`best_fit`] returns, given the number of samples of each length.
pub(super) fn count(samples_by_length: &[u32]) -> u32 {
    let capacity = samples_by_length.len() - 1;
    let mut spaces = Spaces::new(capacity);
    let mut open = vec![0u32; capacity + 1];
    let mut packs = 0;
    for length in (1..=capacity).rev() {
        for _ in 0..samples_by_length[length] {
            let space = match spaces.at_least(length) {
                Some(space) => {
                    open[space] -= 1;
                    if open[space] == 0 {
                        spaces.remove(space);
                    }
                    space
                }
                None => {
                    packs += 1;
                    capacity
                }
            };
            open[space - length] += 1;
            spaces.insert(space - length);
        }
    }
    packs
}

/// Sorts by descending length. Samples of equal length are shuffled by the random stream, or keep their order.
fn longest_first(
    samples: Vec<u32>,
    length: impl Fn(u32) -> u32,
    capacity: u32,
    random: &mut Option<&mut Random>,
) -> Vec<u32> {
    // Counting sort: class c holds the samples of `capacity - c` tokens.
    let class = |sample| (capacity - length(sample)) as usize;
    let mut ends = vec![0u32; capacity as usize + 1];
    for &sample in &samples {
        ends[class(sample)] += 1;
    }
    let mut start = 0;
    for end in &mut ends {
        (start, *end) = (start + *end, start);
    }
    let mut sorted = vec![0u32; samples.len()];
    for &sample in &samples {
        let slot = &mut ends[class(sample)];
        sorted[*slot as usize] = sample;
        *slot += 1;
    }
    if let Some(random) = random {
        let mut start = 0;
        for end in ends {
            random.shuffle(&mut sorted[start..end as usize]);
            start = end as usize;
        }
    }
    sorted
}

/// Returns the pack of each sample, and the number of packs.
fn place(sorted: &[u32], length: impl Fn(u32) -> u32, capacity: u32) -> (Vec<u32>, u32) {
    const NONE: u32 = u32::MAX;
    let capacity = capacity as usize;
    let mut spaces = Spaces::new(capacity);
    // Packs with equal space form a linked stack: `top[space]` is its first pack, `below[pack]` the next one.
    let mut top = vec![NONE; capacity + 1];
    let mut below: Vec<u32> = Vec::new();
    let mut pack_of = Vec::with_capacity(sorted.len());
    for &sample in sorted {
        let length = length(sample) as usize;
        let (pack, space) = match spaces.at_least(length) {
            Some(space) => {
                let pack = top[space];
                top[space] = below[pack as usize];
                if top[space] == NONE {
                    spaces.remove(space);
                }
                (pack, space)
            }
            None => {
                below.push(NONE);
                (below.len() as u32 - 1, capacity)
            }
        };
        let left = space - length;
        below[pack as usize] = top[left];
        top[left] = pack;
        spaces.insert(left);
        pack_of.push(pack);
    }
    (pack_of, below.len() as u32)
}

/// Moves short samples to new packs until there are `wanted` packs, or every pack has one sample.
fn split(pack_of: &mut [u32], packs: u32, wanted: u32) -> u32 {
    let mut samples = vec![0u32; packs as usize];
    for &pack in &*pack_of {
        samples[pack as usize] += 1;
    }
    let mut packs = packs;
    for pack in pack_of.iter_mut().rev() {
        if packs == wanted {
            break;
        }
        let left = &mut samples[*pack as usize];
        if *left >= 2 {
            *left -= 1;
            *pack = packs;
            packs += 1;
        }
    }
    packs
}

/// A set of bounded numbers that finds its smallest member at or above a given number. It is a tree of 64-bit
/// words: a bit in an upper level says whether the word below it has any bit set.
struct Spaces {
    levels: Vec<Vec<u64>>,
}

impl Spaces {
    fn new(most: usize) -> Spaces {
        let mut levels = Vec::new();
        let mut bits = most + 1;
        loop {
            let words = bits.div_ceil(64);
            levels.push(vec![0; words]);
            if words == 1 {
                return Spaces { levels };
            }
            bits = words;
        }
    }

    fn insert(&mut self, mut at: usize) {
        for level in &mut self.levels {
            level[at / 64] |= 1 << (at % 64);
            at /= 64;
        }
    }

    fn remove(&mut self, mut at: usize) {
        for level in &mut self.levels {
            level[at / 64] &= !(1 << (at % 64));
            if level[at / 64] != 0 {
                return;
            }
            at /= 64;
        }
    }

    fn at_least(&self, from: usize) -> Option<usize> {
        let mut at = from;
        let mut height = 0;
        // Go up until a word has a bit at or after ours ...
        let mut found = loop {
            let level = self.levels.get(height)?;
            let word = level.get(at / 64)? & (u64::MAX << (at % 64));
            if word != 0 {
                break at / 64 * 64 + word.trailing_zeros() as usize;
            }
            at = at / 64 + 1;
            height += 1;
        };
        // ... then down along the first bits.
        for level in self.levels[..height].iter().rev() {
            found = found * 64 + level[found].trailing_zeros() as usize;
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packs(lengths: &[u32], capacity: u32) -> Vec<Vec<u32>> {
        let ids = (0..lengths.len() as u32).collect();
        let order = Order { random: None, packs: 0 };
        let packs = best_fit(ids, |id| lengths[id as usize], capacity, order);
        let lengths_of = |pack: &[u32]| pack.iter().map(|&id| lengths[id as usize]).collect();
        packs.iter().map(lengths_of).collect()
    }

    #[test]
    fn the_least_space_that_fits_is_taken() {
        // 6 leaves a space of 4, and 5 leaves 5. So 4 joins 6, and 3 joins 5.
        assert_eq!(packs(&[3, 4, 5, 6], 10), vec![vec![6, 4], vec![5, 3]]);
        assert_eq!(packs(&[10, 10], 10), vec![vec![10], vec![10]]);
        assert_eq!(packs(&[], 10), Vec::<Vec<u32>>::new());
    }

    #[test]
    fn spaces_agree_with_a_sorted_set() {
        let mut random = Random::new(&[3]);
        for most in [1usize, 63, 64, 4095, 4096, 300_000] {
            let mut numbers: Vec<usize> = (0..=most).collect();
            random.shuffle(&mut numbers);
            let (mut spaces, mut set) = (Spaces::new(most), std::collections::BTreeSet::new());
            for (turn, &number) in numbers.iter().take(2000).enumerate() {
                spaces.insert(number);
                set.insert(number);
                if turn % 3 == 0 {
                    let gone = numbers[turn / 2];
                    spaces.remove(gone);
                    set.remove(&gone);
                }
                let from = numbers[numbers.len() - 1 - turn % numbers.len()];
                assert_eq!(spaces.at_least(from), set.range(from..).next().copied());
            }
        }
    }

    #[test]
    fn splitting_reaches_the_wanted_number_and_keeps_every_sample() {
        let ids: Vec<u32> = (0..9).collect();
        for (wanted, expected) in [(0, 1), (1, 1), (4, 4), (9, 9), (20, 9)] {
            let order = Order { random: None, packs: wanted };
            let packs = best_fit(ids.clone(), |_| 1, 9, order);
            assert_eq!(packs.len(), expected);
            assert!(packs.iter().all(|pack| !pack.is_empty()));
            let mut all: Vec<u32> = packs.iter().flatten().copied().collect();
            all.sort_unstable();
            assert_eq!(all, ids);
        }
    }
}

//! Distributes the packs of a step over the ranks.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Returns the packs of each of `world_size` ranks, as indices into `costs`, most expensive first.
///
/// This is Graham's longest-processing-time-first algorithm: the most expensive remaining pack goes to the rank
/// with the least work. Ties go to the pack and the rank with the lower index. The most loaded rank has at most 4/3
/// of the load that it would have in an optimal distribution. If there are more ranks than packs, some ranks get
/// none. Neighbours in a rank's list cost about the same, which suits micro-batches.
///
/// # Panics
/// If `world_size` is 0.
pub fn share(costs: &[u64], world_size: usize) -> Vec<Vec<usize>> {
    assert!(world_size > 0, "a step has at least one rank");
    let mut packs: Vec<usize> = (0..costs.len()).collect();
    packs.sort_by_key(|&pack| (Reverse(costs[pack]), pack));
    let mut ranks: BinaryHeap<Reverse<(u64, usize)>> =
        (0..world_size).map(|rank| Reverse((0, rank))).collect();
    let mut shares = vec![Vec::new(); world_size];
    for pack in packs {
        let Some(mut least) = ranks.peek_mut() else {
            break;
        };
        let Reverse((load, rank)) = &mut *least;
        *load = load.saturating_add(costs[pack]);
        shares[*rank].push(pack);
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_goes_first_to_the_least_loaded() {
        // Graham's worst case: 5 5 4 4 3 3 3 on three ranks results in 11, 8 and 8, where 9 each is possible.
        let shares = share(&[3, 4, 5, 3, 5, 4, 3], 3);
        assert_eq!(shares, vec![vec![2, 0, 6], vec![4, 3], vec![1, 5]]);
    }

    #[test]
    fn ranks_without_packs_have_empty_shares() {
        assert_eq!(share(&[1, 2], 4), vec![vec![1], vec![0], vec![], vec![]]);
        assert_eq!(share(&[], 2), vec![Vec::<usize>::new(), vec![]]);
    }

    #[test]
    fn every_pack_belongs_to_exactly_one_rank() {
        let costs: Vec<u64> = (0..97).map(|i| (i * 7919) % 101).collect();
        for world_size in 1..=40 {
            let mut all = share(&costs, world_size).concat();
            all.sort_unstable();
            assert_eq!(all, (0..97).collect::<Vec<_>>());
        }
    }
}

//! Groups of records, formed by pairs (union-find) or by equal keys.

use rayon::prelude::*;

/// Disjoint sets of the numbers 0..n. Each is represented by its least member.
#[derive(Debug)]
pub(super) struct Groups {
    parents: Vec<u32>,
}

impl Groups {
    /// One group for each member.
    pub(super) fn new(members: usize) -> Groups {
        Groups { parents: (0..members as u32).collect() }
    }

    /// The least member of a member's group.
    pub(super) fn first(&mut self, mut member: u32) -> u32 {
        while self.parents[member as usize] != member {
            let above = self.parents[member as usize];
            let next = self.parents[above as usize];
            self.parents[member as usize] = next;
            member = next;
        }
        member
    }

    /// Joins the groups of two members.
    pub(super) fn join(&mut self, a: u32, b: u32) {
        let (a, b) = (self.first(a), self.first(b));
        // A parent is never greater than its child, whatever the order of the pairs.
        self.parents[a.max(b) as usize] = a.min(b);
    }
}

/// Calls `group` with the records of each key that several records share, ascending, in the order
/// of the keys.
pub(super) fn by_key<K: Ord + Send + Copy>(
    keys: impl ParallelIterator<Item = (K, u32)>,
    group: impl FnMut(&[(K, u32)]),
) {
    let mut keyed: Vec<(K, u32)> = keys.collect();
    keyed.par_sort_unstable();
    keyed.chunk_by(|a, b| a.0 == b.0).filter(|same| same.len() > 1).for_each(group);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_member_represents_its_group_in_any_order_of_pairs() {
        let pairs = [(4, 7), (9, 2), (7, 9), (1, 3), (5, 5)];
        let firsts = |order: &mut dyn Iterator<Item = &(u32, u32)>| -> Vec<u32> {
            let mut groups = Groups::new(10);
            order.for_each(|&(a, b)| groups.join(a, b));
            (0..10).map(|member| groups.first(member)).collect()
        };
        let forward = firsts(&mut pairs.iter());
        assert_eq!(forward, [0, 1, 2, 1, 2, 5, 6, 2, 8, 2]);
        assert_eq!(firsts(&mut pairs.iter().rev()), forward);
    }
}

//! Verifies that all ranks hold the same state before they take a step together.
//!
//! Each rank reads its own base model, and a folder need not hold the same files on every host. A checkpoint arrives
//! in parts, each read by one rank and broadcast to the others. If the ranks' states differed, they would average the
//! gradients of different models, and a checkpoint would mix them. Every rank receives every digest and reaches the
//! same verdict.

use super::digest::Digest;
use super::divergence::{Divergence, Expected, Origin};
use super::error::Error;
use crate::collective::Collective;

/// Exchanges the digests of all ranks. Succeeds if they are equal, and equal to the one that is `recorded` for
/// `origin` if any rank knows it.
///
/// # Errors
/// [`Error::Diverged`], which is the same on every rank, or [`Error::Collective`].
pub fn agree(
    collective: &mut dyn Collective,
    mine: Digest,
    origin: Origin,
    recorded: Option<Digest>,
) -> Result<(), Error> {
    let (rank, world) = (collective.rank(), collective.world_size());
    // A sum in which all terms but one are zero is exact.
    let mut all = vec![[0.0; TOLD]; world];
    all[rank] = told(mine, recorded);
    collective.control(all.as_flattened_mut())?;
    let digests: Vec<Digest> = all.iter().map(|message| decoded(&message[1..=WORDS])).collect();
    // Only some ranks may know the recorded digest, if it was recorded while their duties were being sent.
    let knows = all.iter().find(|message| message[0] > 0.0);
    let recorded = knows.map(|message| decoded(&message[1 + WORDS..]));
    verdict(&digests, origin, recorded).map_or(Ok(()), |divergence| Err(divergence.into()))
}

/// The ranks that differ, in rank order; `None` if none does.
fn verdict(digests: &[Digest], origin: Origin, recorded: Option<Digest>) -> Option<Divergence> {
    let holders = |digest: &Digest| digests.iter().filter(|d| *d == digest).count();
    let majority = digests.iter().find(|digest| 2 * holders(digest) > digests.len());
    let expected = match (recorded, majority) {
        (Some(recorded), _) => Expected::Recorded(recorded),
        (None, Some(majority)) => Expected::Majority(*majority),
        (None, None) => Expected::Unknown,
    };
    let differs = |digest: &Digest| match expected {
        Expected::Recorded(expected) | Expected::Majority(expected) => *digest != expected,
        Expected::Unknown => true,
    };
    let all = digests.iter().copied().enumerate();
    let ranks: Vec<_> = all.filter(|(_, digest)| differs(digest)).collect();
    (!ranks.is_empty()).then_some(Divergence { origin, expected, ranks })
}

/// Number of 32-bit words as which a digest is sent, since an f64 holds each of them exactly.
const WORDS: usize = 4;
/// Length of one rank's message: whether it knows the recorded digest, its own digest, and the recorded one.
const TOLD: usize = 1 + 2 * WORDS;

fn told(mine: Digest, recorded: Option<Digest>) -> [f64; TOLD] {
    let mut message = [0.0; TOLD];
    message[0] = f64::from(u8::from(recorded.is_some()));
    message[1..=WORDS].copy_from_slice(&encoded(mine));
    message[1 + WORDS..].copy_from_slice(&encoded(recorded.unwrap_or(Digest(0))));
    message
}

fn encoded(digest: Digest) -> [f64; WORDS] {
    std::array::from_fn(|i| f64::from((digest.0 >> (32 * i)) as u32))
}

fn decoded(words: &[f64]) -> Digest {
    Digest(words.iter().rev().fold(0, |digest, word| digest << 32 | *word as u128))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::InProcess;
    use crate::ops::ParamId;
    use crate::replica::State;
    use crate::replica::fixture::{flip, state};
    use crate::replica::state::Part;
    use std::time::Duration;

    fn digests(numbers: &[u128]) -> Vec<Digest> {
        numbers.iter().map(|n| Digest(*n)).collect()
    }

    fn named(numbers: &[u128], recorded: Option<u128>) -> Option<Vec<usize>> {
        let divergence = verdict(&digests(numbers), Origin::Base, recorded.map(Digest))?;
        Some(divergence.ranks.into_iter().map(|(rank, _)| rank).collect())
    }

    #[test]
    fn equal_digests_are_no_divergence() {
        assert_eq!(named(&[7], None), None);
        assert_eq!(named(&[7, 7, 7], None), None);
        assert_eq!(named(&[7, 7], Some(7)), None);
    }

    #[test]
    fn ranks_that_differ_from_the_recorded_digest_are_named() {
        assert_eq!(named(&[8], Some(7)), Some(vec![0]));
        assert_eq!(named(&[8, 7, 8], Some(7)), Some(vec![0, 2]));
        assert_eq!(named(&[8, 8], Some(7)), Some(vec![0, 1]));
    }

    #[test]
    fn without_a_record_the_minority_is_named_or_else_all_ranks() {
        assert_eq!(named(&[7, 8], None), Some(vec![0, 1]));
        assert_eq!(named(&[7, 8, 7], None), Some(vec![1]));
        assert_eq!(named(&[7, 8, 9], None), Some(vec![0, 1, 2]));
        assert_eq!(named(&[7, 8, 8, 7], None), Some(vec![0, 1, 2, 3]));
        assert_eq!(named(&[9, 8, 8, 8, 7], None), Some(vec![0, 4]));
    }

    #[test]
    fn a_divergence_is_reported_with_its_digests() {
        let text = |numbers: &[u128], origin, recorded: Option<u128>| {
            let divergence = verdict(&digests(numbers), origin, recorded.map(Digest));
            divergence.expect("they differ").to_string().replace(&"0".repeat(31), "")
        };
        assert_eq!(
            text(&[1, 2, 1], Origin::Base, None),
            "the ranks do not hold the same state: rank 1 has digest 2, most ranks have 1\n\
             hint: `model.base` must name the same files on every host, and they must not change"
        );
        assert_eq!(
            text(&[1, 2], Origin::Checkpoint, None),
            "the ranks do not hold the same state: rank 0 has digest 1, rank 1 has digest 2"
        );
        assert_eq!(
            text(&[1, 1, 2], Origin::Configuration, None),
            "the ranks do not read the same `config.json`: rank 2 has digest 2, most ranks have 1\n\
             hint: `model.base` must name the same files on every host, and they must not change"
        );
        assert_eq!(
            text(&[1, 2], Origin::Checkpoint, Some(1)),
            "the restored state is not the one that was saved: rank 1 has digest 2, expected 1"
        );
    }

    #[test]
    fn decoded_digests_equal_what_was_encoded() {
        for digest in [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210] {
            assert_eq!(decoded(&encoded(Digest(digest))), Digest(digest));
        }
    }

    /// The verdict of each of `world` ranks, after `change` was applied to the state of rank `odd`.
    fn ask(world: usize, odd: usize, change: fn(&mut State)) -> Vec<Result<(), Error>> {
        std::thread::scope(|scope| {
            let ranks = InProcess::world(world, Duration::from_secs(60)).into_iter();
            let ask = |mut collective: InProcess| {
                let mut state = state();
                state.set_updates(3);
                if collective.rank() == odd {
                    change(&mut state);
                }
                agree(&mut collective, state.digest(), Origin::Checkpoint, None)
            };
            let threads: Vec<_> = ranks.map(|c| scope.spawn(move || ask(c))).collect();
            threads.into_iter().map(|t| t.join().expect("a rank")).collect()
        })
    }

    #[test]
    fn all_ranks_report_the_same_divergence_after_one_flipped_bit() {
        let changes: [fn(&mut State); 3] = [
            |state| flip(state.part_mut(Part::Master, ParamId(1)), 0),
            |state| flip(state.part_mut(Part::V, ParamId(0)), 2),
            |state| state.set_updates(4),
        ];
        for (world, named) in [(2, vec![0, 1]), (3, vec![1]), (4, vec![1])] {
            for change in changes {
                let verdicts: Vec<Divergence> = ask(world, 1, change)
                    .into_iter()
                    .map(|verdict| match verdict {
                        Err(Error::Diverged(divergence)) => divergence,
                        other => panic!("{other:?}"),
                    })
                    .collect();
                assert!(verdicts.iter().all(|verdict| *verdict == verdicts[0]), "{verdicts:?}");
                let ranks: Vec<_> = verdicts[0].ranks.iter().map(|(rank, _)| *rank).collect();
                assert_eq!(ranks, named, "{world} ranks");
            }
            let equal = ask(world, 1, |_| {});
            assert!(equal.iter().all(Result::is_ok), "{equal:?}");
        }
    }

    #[test]
    fn a_record_that_one_rank_knows_counts_for_all() {
        let verdicts: Vec<_> = std::thread::scope(|scope| {
            let ranks = InProcess::world(2, Duration::from_secs(60)).into_iter();
            let ask = |mut collective: InProcess| {
                let recorded = (collective.rank() == 1).then_some(Digest(1 << 100));
                agree(&mut collective, Digest(5), Origin::Base, recorded)
            };
            let threads: Vec<_> = ranks.map(|c| scope.spawn(move || ask(c))).collect();
            threads.into_iter().map(|t| t.join().expect("a rank")).collect()
        });
        let texts: Vec<_> =
            verdicts.into_iter().map(|v| v.expect_err("5 is wrong").to_string()).collect();
        assert_eq!(texts[0], texts[1]);
        assert!(texts[0].contains("rank 0 has digest") && texts[0].contains("rank 1 has digest"));
    }
}

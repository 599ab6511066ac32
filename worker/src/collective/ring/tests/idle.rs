//! Tests of a ring between calls: it notices the death of a rank, and nothing else.

use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::collective::ring::header;
use crate::collective::ring::links::Links;
use crate::collective::ring::notice::Notice;
use crate::collective::ring::wake::Wake;
use crate::collective::{Call, Kind};

const SOON: Duration = Duration::from_secs(1);

fn unix_rings(size: usize) -> Vec<Ring> {
    rings(size, &patient())
}

/// Receives a message when `ring` has ended.
fn end_of(ring: &Ring) -> Receiver<()> {
    let (end, ended) = channel();
    ring.lifeline().on_end(move || {
        let _ = end.send(());
    });
    ended
}

/// The error with which `ring` ends soon, without any call.
fn error_while_idle(ring: &Ring) -> Error {
    end_of(ring).recv_timeout(SOON).expect("the end is noticed without a call");
    ring.lifeline().error().expect("it has ended")
}

#[test]
fn a_death_is_noticed_by_all_idle_ranks_within_a_second() {
    for world_size in 2..=5 {
        for dead in 0..world_size {
            let mut world = unix_rings(world_size);
            let corpse = world.remove(dead);
            // Closes the links without a notice, as a process does that is killed.
            corpse.abort_handle().abort();
            for ring in &mut world {
                let error = error_while_idle(ring);
                let named = matches!(error, Error::Broken { rank, call: None, .. } if rank == dead);
                assert!(named, "rank {dead} of {world_size}: {error}");
                assert_eq!(error.to_string(), format!("lost rank {dead} between calls"));
                let later = ring.barrier().expect_err("the ring has ended");
                assert_eq!(later.to_string(), error.to_string());
            }
        }
    }
}

#[test]
fn an_abort_is_no_death_for_the_rank_itself() {
    let world = unix_rings(2);
    let ended = end_of(&world[0]);
    world[0].abort_handle().abort();
    ended.recv_timeout(SOON).expect("an abort is an end");
    assert!(matches!(world[0].lifeline().error(), Some(Error::Aborted)));
}

#[test]
fn a_rank_that_ends_its_ring_and_drops_it_at_once_has_not_left_gracefully() {
    for _ in 0..50 {
        let mut world = unix_rings(2);
        let zero = world.remove(0);
        zero.lifeline().end(Error::Aborted);
        drop(zero);
        let error = error_while_idle(&world[0]);
        assert!(matches!(error, Error::Broken { rank: 0, .. }), "{error}");
    }
}

#[test]
fn a_rank_that_ends_its_ring_is_lost_to_the_others() {
    let mut world = unix_rings(3);
    let reason = Error::NoSuchRank { rank: 7, world_size: 3 };
    world[1].lifeline().end(reason.clone());
    for rank in [0, 2] {
        let error = error_while_idle(&world[rank]);
        assert!(matches!(error, Error::Broken { rank: 1, .. }), "{error}");
    }
    let later = world[1].barrier().expect_err("the ring has ended");
    assert_eq!(later.to_string(), reason.to_string());
}

fn is_loss(error: &Error, of: Call) -> bool {
    matches!(error, Error::Broken { rank: 0, call: Some(call), .. } if *call == of)
}

#[test]
fn a_rank_that_misses_a_counted_reduction_has_not_left_gracefully() {
    let reduction = Call { number: 0, kind: Kind::Reduce(Dtype::F32), len: 9 };

    let mut world = unix_rings(2);
    let mut one = world.remove(1);
    assert_eq!(one.count(Dtype::F32, 9).expect("nothing is broken"), reduction);
    drop(world);
    let error = error_while_idle(&one);
    assert!(is_loss(&error, reduction), "{error}");

    let mut world = unix_rings(2);
    let mut one = world.remove(1);
    drop(world);
    one.count(Dtype::F32, 9).expect("rank 0 may still leave gracefully");
    let error = error_while_idle(&one);
    assert!(is_loss(&error, reduction), "{error}");
}

#[test]
fn different_numbers_of_counted_reductions_are_a_mismatch() {
    let mut world = unix_rings(2);
    world[0].count(Dtype::F32, 9).expect("nothing is broken");
    let errors = std::thread::scope(|scope| {
        let threads: Vec<_> =
            world.iter_mut().map(|ring| scope.spawn(|| ring.control(&mut [1.0]))).collect();
        threads.into_iter().filter_map(|t| t.join().expect("no panic").err()).collect::<Vec<_>>()
    });
    assert!(errors.iter().any(|e| matches!(e, Error::Mismatch { .. })), "{errors:?}");
}

/// The links of rank 1 of a world of two, and those of rank 0: to the next and to the previous rank.
fn links() -> (Links, [Link; 2]) {
    let members = members(2);
    let connect = |rank: usize| {
        let (listener, member) = &members[rank];
        let stop = Stop::new().expect("a socket pair");
        let links = neighbours(listener, member, &patient(), &stop);
        (links.expect("the handshake is right"), Arc::new(stop))
    };
    std::thread::scope(|scope| {
        let zero = scope.spawn(|| connect(0).0);
        let ((next, previous), stop) = connect(1);
        let (zero_next, zero_previous) = zero.join().expect("no panic");
        let links = Links::new(&members[1].1, next, previous, stop, patient().stall);
        (links, [zero_next, zero_previous])
    })
}

/// Whether an idle rank sleeps on until it is woken.
fn sleeps_on(links: &mut Links) -> bool {
    let wake = Wake::new().expect("a socket pair");
    wake.arm();
    let (report, reported) = channel();
    std::thread::scope(|scope| {
        let wake = &wake;
        scope.spawn(move || report.send(links.idle(wake.descriptor()).is_ok()));
        let early = reported.recv_timeout(Duration::from_millis(100));
        wake.wake();
        early.is_err() && reported.recv_timeout(SOON) == Ok(true)
    })
}

#[test]
fn early_bytes_wake_nobody() {
    let (mut one, [zero_next, _zero_previous]) = links();
    let header = header::encode(Call { number: 0, kind: Kind::Barrier, len: 0 });
    say(&zero_next, &sealed(&zero_next, &header));
    assert!(sleeps_on(&mut one));
}

#[test]
fn a_graceful_leave_is_no_error_and_wakes_only_once() {
    let (mut one, [zero_next, zero_previous]) = links();
    let notice = Notice::Left(0).encode();
    say(&zero_previous, &records::seal_notice(&zero_previous.secret, notice));
    drop((zero_next, zero_previous));
    let wake = Wake::new().expect("a socket pair");
    one.idle(wake.descriptor()).expect("it made as many calls as this rank");
    assert!(sleeps_on(&mut one));
}

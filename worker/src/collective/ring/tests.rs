//! Tests of what only a ring does: authenticating its neighbours, and surviving malformed bytes on the wire.

mod idle;
mod tapped;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use proto::protocol::Accusation;

use super::connect::{Link, neighbours};
use super::stop::Stop;
use super::*;

const KEY: [u8; 32] = [7; 32];

fn options(connect_within: Duration) -> Options {
    Options { connect_within, ..Options::default() }
}

pub(in crate::collective) fn patient() -> Options {
    options(Duration::from_secs(60))
}

/// Listeners and memberships of a world of `size` in generation 5 of run `tulip`.
fn members(size: usize) -> Vec<(Listener, Membership)> {
    let listen = |_| Listener::bind("127.0.0.1:0").expect("loopback has free ports");
    let listeners: Vec<_> = (0..size).map(listen).collect();
    let addresses: Vec<_> = listeners.iter().map(|l| l.local_addr().to_string()).collect();
    let member = |(rank, listener)| {
        let run = "tulip".to_owned();
        (
            listener,
            Membership {
                run,
                generation: 5,
                rank,
                addresses: addresses.clone(),
                key: KEY,
                encrypt: false,
            },
        )
    };
    listeners.into_iter().enumerate().map(member).collect()
}

/// The ranks of a ring, for the conformance suite.
pub(in crate::collective) fn ring_world(
    size: usize,
    stall: Duration,
    same_host: SameHost,
    encrypt: bool,
) -> Vec<Box<dyn Collective>> {
    let options = Options { stall, same_host, ..patient() };
    let mut members = members(size);
    members.iter_mut().for_each(|(_, membership)| membership.encrypt = encrypt);
    connected(&members, &options).into_iter().map(|ring| Box::new(ring) as _).collect()
}

pub(in crate::collective) fn rings(size: usize, options: &Options) -> Vec<Ring> {
    connected(&members(size), options)
}

fn connected(members: &[(Listener, Membership)], options: &Options) -> Vec<Ring> {
    std::thread::scope(|scope| {
        let connect = |(listener, membership): &(Listener, Membership)| {
            Ring::connect(listener, membership, options, AbortHandle::new())
        };
        let threads: Vec<_> =
            members.iter().map(|member| scope.spawn(move || connect(member))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Ring, Error>>| {
            thread.join().expect("no panic").expect("the ring forms")
        };
        threads.into_iter().map(join).collect()
    })
}

/// Lets a stranger try to be rank 0 of a world whose rank 1 waits, then the real rank 0; returns the error that the
/// stranger got.
fn told_to_a_stranger(change: impl FnOnce(&mut Membership)) -> Error {
    let mut members = members(2);
    let (listener_1, member_1) = members.pop().expect("rank 1");
    let (listener_0, member_0) = members.pop().expect("rank 0");
    let mut stranger = member_0.clone();
    change(&mut stranger);
    std::thread::scope(|scope| {
        let one =
            scope.spawn(|| Ring::connect(&listener_1, &member_1, &patient(), AbortHandle::new()));
        let elsewhere = Listener::bind("127.0.0.1:0").expect("loopback has free ports");
        let refused = Ring::connect(&elsewhere, &stranger, &patient(), AbortHandle::new())
            .expect_err("a stranger is refused");
        let zero = Ring::connect(&listener_0, &member_0, &patient(), AbortHandle::new());
        let mut zero = zero.expect("the stranger disturbed nothing");
        let mut one = one.join().expect("no panic").expect("the stranger disturbed nothing");
        let barrier = scope.spawn(move || one.barrier());
        zero.barrier().expect("the ring works");
        barrier.join().expect("no panic").expect("the ring works");
        refused
    })
}

fn refusal(error: &Error) -> Refusal {
    match error {
        Error::Refused { rank: 1, refusal, .. } => *refusal,
        other => panic!("not a refusal by rank 1: {other}"),
    }
}

#[test]
fn stale_generation_is_refused() {
    let error = told_to_a_stranger(|stranger| stranger.generation = 4);
    assert_eq!(refusal(&error), Refusal::Generation { given: 4, expected: 5 });
    let text = error.to_string();
    assert!(text.ends_with("refused this rank: expected generation 5, got 4"), "{text}");
}

#[test]
fn other_run_is_refused() {
    let error = told_to_a_stranger(|stranger| stranger.run = "daisy".to_owned());
    assert_eq!(refusal(&error), Refusal::Run);
}

#[test]
fn wrong_key_is_refused() {
    let error = told_to_a_stranger(|stranger| stranger.key[31] ^= 1);
    assert_eq!(refusal(&error), Refusal::Proof);
}

#[test]
fn wrong_world_is_refused() {
    let error = told_to_a_stranger(|stranger| stranger.addresses.push("127.0.0.1:9".to_owned()));
    assert_eq!(refusal(&error), Refusal::WorldSize { given: 3, expected: 2 });
}

#[test]
fn wrong_rank_is_refused() {
    let mut members = members(3);
    let (listener_2, member_2) = members.pop().expect("rank 2");
    let (_, mut wrong) = members.pop().expect("rank 1");
    // Rank 1 belongs before rank 2, but introduces itself to rank 2 as rank 0.
    wrong.rank = 0;
    wrong.addresses[1] = wrong.addresses[2].clone();
    let abort = AbortHandle::new();
    std::thread::scope(|scope| {
        scope.spawn(|| Ring::connect(&listener_2, &member_2, &patient(), abort.clone()));
        let elsewhere = Listener::bind("127.0.0.1:0").expect("loopback has free ports");
        let error = Ring::connect(&elsewhere, &wrong, &patient(), AbortHandle::new())
            .expect_err("rank 0 does not belong before rank 2");
        assert_eq!(refusal(&error), Refusal::Rank { given: 0, expected: 1 });
        abort.abort();
    });
}

#[test]
fn later_generation_waits_until_the_other_rank_catches_up() {
    let members = members(2);
    let later = |rank: usize| Membership { generation: 6, ..members[rank].1.clone() };
    let abort = AbortHandle::new();
    std::thread::scope(|scope| {
        let stuck =
            scope.spawn(|| Ring::connect(&members[1].0, &members[1].1, &patient(), abort.clone()));
        let ahead =
            scope.spawn(|| Ring::connect(&members[0].0, &later(0), &patient(), AbortHandle::new()));
        abort.abort();
        // It sees either its own abort first, or the other rank's later generation.
        let error = stuck.join().expect("no panic").expect_err("its generation is over");
        assert!(matches!(error, Error::Aborted | Error::Refused { .. }), "{error}");
        Ring::connect(&members[1].0, &later(1), &patient(), AbortHandle::new())
            .expect("the same listener serves the next generation");
        ahead.join().expect("no panic").expect("the other rank has caught up");
    });
}

#[test]
fn unwanted_connections_disturb_nothing() {
    let members = members(2);
    let knock = || TcpStream::connect(members[1].0.local_addr()).expect("it listens");
    let silent: Vec<_> = (0..5).map(|_| knock()).collect();
    let mut scanner = knock();
    scanner.write_all(&[b'x'; 10_000]).expect("the buffer has room");
    drop(knock());
    let mut half = knock();
    half.write_all(b"muster ring v1\r\n").expect("the buffer has room");
    drop(half);
    std::thread::scope(|scope| {
        let ranks: Vec<_> = members
            .iter()
            .map(|(listener, member)| {
                scope.spawn(|| Ring::connect(listener, member, &patient(), AbortHandle::new()))
            })
            .collect();
        for rank in ranks {
            rank.join().expect("no panic").expect("the ring forms");
        }
    });
    drop((silent, scanner));
}

#[test]
fn missing_neighbours_are_named() {
    let soon = options(Duration::from_millis(80));
    let connect = |members: &[(Listener, Membership)]| {
        Ring::connect(&members[0].0, &members[0].1, &soon, AbortHandle::new())
            .expect_err("there are no other ranks")
    };
    // The addresses belong to listeners that never answer, so either side may give up first.
    let text = connect(&members(3)).to_string();
    assert!(
        text == "rank 2 did not connect within 0.08 s"
            || text.starts_with("no answer from rank 1 at 127.0.0.1:"),
        "{text}"
    );
}

#[test]
fn a_server_that_is_not_a_rank_is_rejected() {
    let mut members = members(2);
    let server = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    members[0].1.addresses[1] = server.local_addr().expect("it is bound").to_string();
    let soon = options(Duration::from_millis(200));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut client, _) = server.accept().expect("a rank comes");
            client.write_all(&[b'#'; 4096]).expect("the buffer has room");
            let _ = client.read(&mut [0; 4096]);
        });
        Ring::connect(&members[0].0, &members[0].1, &soon, AbortHandle::new())
            .expect_err("no rank is there");
    });
}

#[test]
fn abort_ends_connecting_within_a_second() {
    let members = members(2);
    let abort = AbortHandle::new();
    let at = Instant::now();
    std::thread::scope(|scope| {
        let alone =
            scope.spawn(|| Ring::connect(&members[0].0, &members[0].1, &patient(), abort.clone()));
        abort.abort();
        assert!(matches!(alone.join().expect("no panic"), Err(Error::Aborted)));
    });
    assert!(at.elapsed() < Duration::from_secs(1), "took {:?}", at.elapsed());
}

#[test]
fn port_in_use_is_named() {
    let (taken, _) = members(1).remove(0);
    let address = taken.local_addr().to_string();
    let error = Listener::bind(&address).expect_err("the port is taken");
    assert_eq!(error.to_string(), format!("could not listen on {address}"));
}

#[test]
fn rank_outside_the_world_is_refused() {
    let (listener, mut member) = members(2).remove(0);
    member.rank = 2;
    let error = Ring::connect(&listener, &member, &patient(), AbortHandle::new())
        .expect_err("there are ranks 0 and 1");
    assert_eq!(error.to_string(), "there is no rank 2 in a world of 2");
}

#[test]
fn membership_does_not_print_its_key() {
    let (_, member) = members(1).remove(0);
    assert!(!format!("{member:?}").contains("7, 7"));
}

/// The accusations by ranks 0 and 2 of a world of three in which rank 1 does not take part; `missing` gets its
/// listener.
fn accusations_without_rank_1(missing: impl FnOnce(Listener)) -> [Option<Accusation>; 2] {
    let mut members = members(3);
    let (listener, _) = members.remove(1);
    missing(listener);
    let soon = options(Duration::from_secs(1));
    std::thread::scope(|scope| {
        let connect = |(listener, member): &(Listener, Membership)| {
            Ring::connect(listener, member, &soon, AbortHandle::new())
                .expect_err("rank 1 is missing")
                .accusation()
        };
        let threads = [&members[0], &members[1]].map(|m| scope.spawn(move || connect(m)));
        threads.map(|thread| thread.join().expect("no panic"))
    })
}

#[test]
fn a_missing_rank_is_accused_by_both_its_neighbours() {
    let accused = |met| Some(Accusation { rank: 1, connecting: true, met: Some(met) });
    let mut silent = None;
    assert_eq!(accusations_without_rank_1(|l| silent = Some(l)), [accused(2), accused(0)]);
    let refuses_connections = accusations_without_rank_1(drop);
    assert_eq!(refuses_connections, [accused(2), accused(0)]);
}

#[test]
fn a_rank_reachable_in_one_direction_only_counts_as_met() {
    let mut members = members(2);
    // Rank 1 listens at its published address; rank 0 does not.
    let elsewhere = Listener::bind("127.0.0.1:0").expect("loopback has free ports");
    for (_, member) in &mut members {
        member.addresses[0] = elsewhere.local_addr().to_string();
    }
    let soon = options(Duration::from_secs(1));
    let accusations = std::thread::scope(|scope| {
        let connect = |(listener, member): &(Listener, Membership)| {
            Ring::connect(listener, member, &soon, AbortHandle::new())
                .expect_err("rank 0 cannot be reached")
                .accusation()
        };
        let threads = [&members[0], &members[1]].map(|m| scope.spawn(move || connect(m)));
        threads.map(|thread| thread.join().expect("no panic"))
    });
    let accused = |rank| Some(Accusation { rank, connecting: true, met: Some(rank) });
    assert_eq!(accusations, [accused(1), accused(0)]);
}

#[test]
fn a_rank_that_refuses_counts_as_reached() {
    let error = told_to_a_stranger(|stranger| stranger.run = "daisy".to_owned());
    let accusation = error.accusation().expect("rank 1 refused");
    assert_eq!((accusation.rank, accusation.connecting), (1, false));
}

#[test]
fn a_rank_that_dies_during_a_call_is_accused_by_all_others() {
    for world_size in 2..=5 {
        let mut world =
            ring_world(world_size, Duration::from_secs(60), SameHost::UnixSocket, false);
        let dead = 1;
        let corpse = world.remove(dead);
        let accusations: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = world
                .into_iter()
                .map(|mut rank| {
                    scope.spawn(move || {
                        let error = rank.control(&mut [1.0]).expect_err("rank 1 is dead");
                        (rank.rank(), error.accusation().expect("rank 1 is accused"))
                    })
                })
                .collect();
            drop(corpse);
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        for (rank, accusation) in accusations {
            let neighbours = [(rank + 1) % world_size, (rank + world_size - 1) % world_size];
            let met = neighbours.into_iter().find(|n| *n != dead).map(|n| n as u32);
            let right = Accusation { rank: dead as u32, connecting: false, met };
            assert_eq!(accusation, right, "by rank {rank} of {world_size}");
        }
    }
}

/// What an impostor does after sending its malformed bytes.
enum Then {
    /// It keeps its links open, so that rank 1 sees the malformed bytes and not a closed link.
    Stays,
    Leaves,
}

/// Rank 1 reduces four values with an impostor as rank 0, which controls both links.
fn reduce_with(impostor: impl FnOnce(&Link, &Link), then: Then) -> Error {
    let members = members(2);
    std::thread::scope(|scope| {
        let one = scope.spawn(|| {
            let (listener, member) = &members[1];
            let mut ring = Ring::connect(listener, member, &patient(), AbortHandle::new())
                .expect("the handshake is right");
            ring.reduce(vec![1.0f32; 4].into()).and_then(Pending::wait)
        });
        let stop = Stop::new().expect("a socket pair");
        let (next, previous) = neighbours(&members[0].0, &members[0].1, &patient(), &stop)
            .expect("the handshake is right");
        impostor(&next, &previous);
        let _links = match then {
            Then::Stays => Some((next, previous)),
            Then::Leaves => {
                drop((next, previous));
                None
            }
        };
        one.join().expect("nothing that comes over a wire panics").expect_err("rank 0 lies")
    })
}

/// The header of call 0, a reduction of four values.
const HEADER: [u8; 24] = [0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];

fn say(link: &Link, bytes: &[u8]) {
    let sent = link.stream.send(bytes).expect("the link is open");
    assert_eq!(sent, Some(bytes.len()));
}

/// The first record of a link.
fn sealed(link: &Link, bytes: &[u8]) -> Vec<u8> {
    let mut record = bytes.to_vec();
    let nonce = ring::aead::Nonce::assume_unique_for_key([0; 12]);
    let key = link.secret.key(secret::Use::Values(0));
    key.seal_in_place_append_tag(nonce, ring::aead::Aad::empty(), &mut record).expect("short");
    record
}

#[test]
fn impossible_header_breaks_and_does_not_panic() {
    let error = reduce_with(|next, _| say(next, &sealed(next, &[0xff; 24])), Then::Stays);
    assert!(matches!(error, Error::Broken { rank: 0, .. }), "{error}");
}

#[test]
fn header_that_is_not_encrypted_breaks() {
    let plain = [&HEADER[..], &[0; 16]].concat();
    let error = reduce_with(|next, _| say(next, &plain), Then::Stays);
    assert!(matches!(error, Error::Broken { rank: 0, .. }), "{error}");
}

#[test]
fn absurd_length_is_a_mismatch_and_allocates_nothing() {
    let mut header = HEADER;
    header[8..16].fill(0xff);
    let error = reduce_with(|next, _| say(next, &sealed(next, &header)), Then::Stays);
    assert!(matches!(error, Error::Mismatch { rank: 0, .. }), "{error}");
}

#[test]
fn end_within_a_header_or_a_value_is_a_break() {
    for count in [0, 39, 40, 45] {
        let all = |next: &Link| [&sealed(next, &HEADER)[..], &[0; 5]].concat();
        let error = reduce_with(|next, _| say(next, &all(next)[..count]), Then::Leaves);
        assert!(matches!(error, Error::Broken { rank: 0, .. }), "{error}");
    }
}

#[test]
fn noise_instead_of_a_notice_accuses_no_other_rank() {
    let notice = |rank: u32| {
        let bytes = [b"lost".as_slice(), &rank.to_le_bytes()].concat();
        <[u8; 8]>::try_from(bytes).expect("eight bytes")
    };
    let plain = [&notice(1)[..], &[0; 16]].concat();
    let error = reduce_with(|_, previous| say(previous, &plain), Then::Leaves);
    assert!(matches!(error, Error::Broken { rank: 0, .. }), "{error}");
    let nobody = |link: &Link| records::seal_notice(&link.secret, notice(99));
    let error = reduce_with(|_, previous| say(previous, &nobody(previous)), Then::Leaves);
    assert!(matches!(error, Error::Broken { rank: 0, .. }), "{error}");
}

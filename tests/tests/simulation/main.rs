//! Simulates failures with the real core and the real sessions: streams break, processes die or fall silent, and the
//! coordinator dies between two commands, sleeps, is closed and resumed, or is replaced while it runs. Time is
//! virtual, and the seed alone decides the history, so a failing seed is a complete bug report:
//! `MUSTER_SEED=17 cargo test -p muster-tests --test simulation`.
//!
//! ```text
//! Core <--- messages with latency, lost with their stream ---> Session (one per process)
//!   | journal (survives)                                          | training threads in lockstep, uploads
//!   '------------------- invariants: ledger.rs --------------------'
//! ```

mod coordinators;
mod data;
mod ledger;
mod training;
mod world;

use ledger::STEPS;
use proto::event::Fact;
use world::World;

/// Number of seeds, unless `MUSTER_SEEDS` sets another.
const SEEDS: u64 = 3000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|v| v.parse().expect("a number of seeds, or a seed"))
}

#[test]
fn whatever_breaks_every_step_is_committed_once_and_the_run_ends_well() {
    let seeds = match number("MUSTER_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MUSTER_SEEDS").unwrap_or(SEEDS),
    };
    let one = seeds.end - seeds.start == 1;
    let (mut regroups, mut restores, mut restarts) = (0, 0, 0);
    let (mut rivals, mut deposed) = (0, 0);
    for seed in seeds {
        let caught = std::panic::catch_unwind(|| World::new(seed).run());
        let world = caught.unwrap_or_else(|_| panic!("seed {seed} broke an invariant"));
        let last = world.ledger.journal.last();
        match world.cancelled {
            true => assert_eq!(last, Some(&Fact::Cancelled), "seed {seed}"),
            false => {
                assert!(matches!(last, Some(Fact::Succeeded { .. })), "seed {seed}: {last:?}");
                world.ledger.assert_every_step_once(seed);
            }
        }
        regroups += world.ledger.generations.len().saturating_sub(1);
        restores += world.ledger.generations.values().filter(|g| g.start.is_some()).count();
        restarts += world.restarts;
        rivals += world.rivals;
        deposed += world.deposed;
    }
    println!("{regroups} regroups, {restores} restores, {restarts} restarts, {STEPS} steps a run");
    println!("{rivals} coordinators beside another, {deposed} deposed");
    assert!(one || regroups > 1000 && restores > 500 && restarts > 500, "too little went wrong");
    assert!(one || rivals > 500 && deposed > 200, "too few took over");
}

//! Deaths while a rank copies its share of a checkpoint from its GPU.

use super::{assert_as_on_the_cpu, assert_no_violation, fixture, on_the_cpu, with_fault};
use muster_tests::Ended;
use softgpu::Fault;

/// The copy from the GPU at which a rank is killed, the step whose snapshot it belongs to, and the checkpoint before.
/// A snapshot makes about a hundred copies, and everything before the first one about fifty.
const KILLS: [(u64, u64, u64); 2] = [(100, 2, 0), (205, 4, 2)];

/// The last step before a death, and the step from which the run went on.
fn went_back(ended: &Ended) -> Option<(u64, u64)> {
    let steps: Vec<_> = ended.all("step").iter().map(|step| step.count("step")).collect();
    println!("steps {steps:?}");
    let back = steps.windows(2).find(|pair| pair[1] <= pair[0])?;
    Some((back[0], back[1] - 1))
}

#[test]
fn a_rank_that_dies_in_a_snapshot_costs_only_a_restore() {
    let fixture = fixture();
    fixture.respec("max_steps: 6", "max_steps: 4");
    fixture.respec("checkpoint: {every: 3,", "checkpoint: {every: 2,");
    fixture.respec("at_start: true", "at_start: false");
    let wanted = on_the_cpu(&fixture);
    for (nth, saved, before) in KILLS {
        let fail = vec![Fault::Kill { function: "cuMemcpyDtoHAsync_v2".into(), nth }];
        let Some((ended, gpu)) = with_fault(&fixture, fail) else { return };
        let ended = ended.with_code(0);
        let name = format!("killed at copy {nth}");
        println!("{name}: {:?}", ended.all("incident"));
        assert!(ended.stderr.contains("SIGKILL"), "{name}: {}", ended.stderr);
        assert_eq!(went_back(&ended), Some((saved, before)), "{name}: {}", ended.stderr);
        assert_as_on_the_cpu(&name, &ended, &wanted);
        assert_no_violation(&gpu);
    }
}

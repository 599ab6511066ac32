//! Kills a process at every stage of a save, with real processes and a real S3 server. The newest commit is restored,
//! the run ends like an undisturbed one, and no files are left over.
//!
//! A proxy in front of the server pauses at the request that marks a stage, and then a process is killed. Needs
//! SeaweedFS (MUSTER_TEST_WEED).

use anyhow::{Context, Result, ensure};
use muster_tests::ignored::run_ignored;
use muster_tests::model::assert_bit_equal;
use muster_tests::proxy::{Moment, Pause, Proxy, Stage};
use muster_tests::seaweed::{BUCKET, SeaweedFs, here};
use muster_tests::stored::{Stored, starts};
use muster_tests::undisturbed::Reference;
use muster_tests::{Ended, Fixture, Process};
use proto::event::Fact;
use proto::id::{Lineage, WorkerId};
use rustix::process::Signal;
use std::sync::Arc;
use storage::Storage;

/// Steps of the run. Each has a checkpoint, of which only the newest is kept.
const STEPS: u64 = 3;
/// The step whose save is disturbed. There is a checkpoint before it to go back to, and a step after it.
const SAVE: u64 = 2;
const FOLDER: &str = "step-00000002-l1";
const BEFORE: &str = "step-00000001-l1";
const COMMIT: &str = r#"{"event":"checkpointed","lineage":1,"step":2"#;
/// The commit of the save before. The disturbed save waits for it, since otherwise one rank might store its part of
/// the one while another still stores its part of the other.
const COMMITTED_BEFORE: Stage = Stage {
    moment: Moment::After,
    method: "PUT",
    target: &["/journal/"],
    body: r#"{"event":"checkpointed","lineage":1,"step":1"#,
};

/// A stage with its description, and whether the save can be restored from then on.
type Scene = (&'static str, Stage, Saved);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Saved {
    NotYet,
    Whole,
}

const fn scene(
    what: &'static str,
    moment: Moment,
    request: (&'static str, &'static [&'static str], &'static str),
    saved: Saved,
) -> Scene {
    let (method, target, body) = request;
    (what, Stage { moment, method, target, body }, saved)
}

/// The stages in order. The larger state files are uploaded in two parts.
const SCENES: [Scene; 12] = {
    use Moment::{After, Before};
    use Saved::{NotYet, Whole};
    let upload = ("POST", &[FOLDER, "/state/", "?uploads"] as _, "");
    let complete = ("POST", &[FOLDER, "/state/"] as _, "<CompleteMultipartUpload");
    let manifest = ("PUT", &[FOLDER, "/manifest.json"] as _, "");
    let commit = ("PUT", &["/journal/"] as _, COMMIT);
    [
        scene("an upload is to begin", Before, upload, NotYet),
        scene("an upload has begun", After, upload, NotYet),
        scene("half is uploaded", Before, ("PUT", &[FOLDER, "partNumber=2"], ""), NotYet),
        scene("all parts of a file are uploaded", Before, complete, NotYet),
        scene("they are one file", After, complete, NotYet),
        scene("all files are stored", Before, manifest, NotYet),
        scene("the manifest is stored", After, manifest, Whole),
        scene("the commit is to be journaled", Before, commit, Whole),
        scene("the commit is journaled", After, commit, Whole),
        scene("the save before goes", After, ("DELETE", &[BEFORE, "/manifest.json"], ""), Whole),
        scene("its files go", Before, ("DELETE", &[BEFORE, "/state/"], ""), Whole),
        // By then the last save is committed, and no other one follows.
        scene("it goes itself", Before, ("DELETE", &[FOLDER, "/manifest.json"], ""), Whole),
    ]
};

#[test]
fn whichever_process_dies_during_a_save_the_newest_commit_is_restored() -> Result<()> {
    let name = "whichever_process_dies_during_a_save_the_newest_commit_is_restored";
    let Some(server) = SeaweedFs::start(name) else { return Ok(()) };
    run_ignored("at_every_stage", &server.environment())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by `whichever_process_dies_during_a_save_the_newest_commit_is_restored`"]
async fn at_every_stage() -> Result<()> {
    let wanted = Arc::new(Reference::of(&fixture()));
    // Both run at the same time, since much of the time is spent waiting for the consequences of a death.
    let coordinators = tokio::spawn({
        let wanted = wanted.clone();
        async move {
            for (number, scene) in SCENES.iter().enumerate() {
                let run = OnS3::new(&format!("coordinator/{number}"))?;
                run.coordinator_dies(scene, &wanted).await.context(scene.0)?;
            }
            anyhow::Ok(())
        }
    });
    let workers = tokio::spawn(async move {
        for (number, scene) in SCENES.iter().enumerate() {
            let run = OnS3::new(&format!("worker/{number}"))?;
            run.worker_dies(scene, number % 2, &wanted).await.context(scene.0)?;
        }
        anyhow::Ok(())
    });
    coordinators.await?.context("the coordinator")?;
    workers.await?.context("a worker")
}

#[test]
fn a_checkpoint_survives_a_worker_that_is_terminated_while_storing_its_part() -> Result<()> {
    let name = "a_checkpoint_survives_a_worker_that_is_terminated_while_storing_its_part";
    let Some(server) = SeaweedFs::start(name) else { return Ok(()) };
    run_ignored("a_worker_leaves", &server.environment())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by `a_checkpoint_survives_a_worker_that_is_terminated_while_storing_its_part`"]
async fn a_worker_leaves() -> Result<()> {
    let run = OnS3::new("leaves")?;
    let (_, begins, _) = SCENES[0];
    let pause = run.pause_at(begins);
    let mut process = run.start(&[]);
    let rank = rank_of(&pause.reached()).context("it is a rank's request")?;
    // Every rank has begun to store its part before it commits the next step.
    process.step(SAVE + 1);
    let leaving = Stage { body: "was told to leave", ..COMMITTED_BEFORE };
    run.proxy.hold_back(["/state/state-r0-", "/state/state-r1-"][rank], leaving);
    let worker = run.member(rank).await?;
    process.signal_to(&format!("--slot {worker} "), Signal::TERM);
    pause.resume();
    let ended = process.end().with_code(0);
    // All ranks stop after the next step, which is the last one.
    let starts = run.ended_well(Saved::Whole, &[&ended], &Reference::of(&fixture())).await?;
    ensure!(starts == [0], "{starts:?}");
    Ok(())
}

fn fixture() -> Fixture {
    let fixture = Fixture::new();
    fixture.respec("max_steps: 40", &format!("max_steps: {STEPS}"));
    fixture.respec("{every: 8, keep: 100}", "{every: 1, keep: 1}");
    // With evaluations, the best checkpoint would also be kept.
    fixture.respec("  eval: {holdout: 0.1, every: checkpoint, at_start: true}\n", "");
    fixture
}

/// A run whose output is on S3, behind its own proxy.
struct OnS3 {
    fixture: Fixture,
    proxy: Proxy,
    storage: Storage,
}

impl OnS3 {
    fn new(output: &str) -> Result<Self> {
        let (fixture, output) = (fixture(), format!("s3://{BUCKET}/{output}"));
        fixture.respec("./runs", &output);
        Ok(Self { fixture, proxy: Proxy::start(here()), storage: Storage::open(&output)? })
    }

    /// Pauses in the second save, which does not begin before the first is committed.
    fn pause_at(&self, stage: Stage) -> Pause {
        self.proxy.hold_back(FOLDER, COMMITTED_BEFORE);
        // Workers leave once the model is published, and there would be none left to kill.
        self.proxy.hold_back("/README.md", stage);
        self.proxy.pause_at(stage)
    }

    fn start(&self, more: &[&str]) -> Process {
        let arguments = [&["--workers", "2"], more].concat();
        let environment = SeaweedFs::environment_at(self.proxy.address());
        Process::run_in(&self.fixture, &arguments, &environment)
    }

    async fn stored(&self) -> Result<Stored<'_>> {
        Stored::find(&self.storage).await?.context("there is a run")
    }

    async fn coordinator_dies(&self, (_, stage, saved): &Scene, wanted: &Reference) -> Result<()> {
        let pause = self.pause_at(*stage);
        let process = self.start(&[]);
        pause.reached();
        process.signal(Signal::KILL);
        let killed = process.end();
        pause.resume_without_clients();

        let resume_step = self.stored().await?.resume_step().await?;
        match saved {
            Saved::NotYet => ensure!(resume_step == SAVE - 1, "{resume_step}"),
            // Training continues while the save before is deleted.
            Saved::Whole => ensure!(resume_step >= SAVE, "{resume_step}"),
        }
        let resumed = self.start(&["--resume"]).end().with_code(0);
        let starts = self.ended_well(*saved, &[&killed, &resumed], wanted).await?;
        ensure!(starts == [0, resume_step], "{starts:?}, not {resume_step}");
        Ok(())
    }

    /// Kills the worker whose request marks the stage, or `rank` if it is the coordinator's request.
    async fn worker_dies(
        &self,
        (_, stage, saved): &Scene,
        rank: usize,
        wanted: &Reference,
    ) -> Result<()> {
        let pause = self.pause_at(*stage);
        let process = self.start(&[]);
        let own = rank_of(&pause.reached());
        let worker = self.member(own.unwrap_or(rank)).await?;
        process.kill(&format!("--slot {worker} "));
        match own {
            Some(_) => pause.resume_without_request(),
            None => pause.resume(),
        }
        let ended = process.end().with_code(0);
        let starts = self.ended_well(*saved, &[&ended], wanted).await?;
        match (saved, own) {
            (Saved::NotYet, Some(_)) => ensure!(starts == [0, SAVE - 1], "{starts:?}"),
            // The coordinator completes the save. Near the end, the run may not have needed the dead worker any more.
            (Saved::NotYet | Saved::Whole, _) => {
                ensure!(starts[0] == 0 && starts[1..].iter().all(|s| *s >= SAVE), "{starts:?}");
            }
        }
        Ok(())
    }

    async fn member(&self, rank: usize) -> Result<WorkerId> {
        let history = self.stored().await?.history().await?;
        let members = history.into_iter().find_map(|event| match event {
            Fact::Generation { members, .. } => Some(members),
            _ => None,
        });
        members.and_then(|mut m| (rank < m.len()).then(|| m.swap_remove(rank))).context("a member")
    }

    /// Checks that samples and model are those of the undisturbed run, that only the last checkpoint is left, and
    /// that an abandoned save was repeated. Returns the step at which each generation began.
    async fn ended_well(
        &self,
        saved: Saved,
        runs: &[&Ended],
        wanted: &Reference,
    ) -> Result<Vec<u64>> {
        wanted.assert_same_samples(runs);
        let stored = self.stored().await?;
        assert_bit_equal(&stored.weights().await?, &wanted.weights);
        let history = stored.history().await?;
        let starts = starts(&history);
        let lineages = u64::try_from(starts.len())?;
        let commits = history.iter().filter_map(|event| match event {
            Fact::Checkpointed { lineage, step, .. } => Some((*lineage, *step)),
            _ => None,
        });
        let commits: Vec<_> = commits.collect();
        let committed = |lineage, step| commits.contains(&(Lineage(lineage), step));
        ensure!(saved == Saved::NotYet || committed(1, SAVE), "{history:#?}");
        if starts.last() == Some(&(SAVE - 1)) {
            ensure!(!committed(1, SAVE) && committed(lineages, SAVE));
        }
        let (whole, strays) = stored.checkpoints().await?;
        let steps: Vec<_> = whole.iter().map(|id| id.step).collect();
        ensure!(steps == [STEPS], "{whole:?}");
        ensure!(strays.is_empty(), "left over: {strays:#?}");
        Ok(starts)
    }
}

/// The rank to whose part of a checkpoint a request belongs.
fn rank_of(target: &str) -> Option<usize> {
    let (_, rest) = target.split_once("/state-r")?;
    rest.split('-').next()?.parse().ok()
}

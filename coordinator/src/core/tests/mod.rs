//! The core's behaviour as exact lists of commands: an event goes in, and all commands that must follow come out.

mod ends;
mod losses;
mod lost;
mod progress;
mod ranges;
mod replay;
mod saves;
mod skipped;
mod trouble;
mod turns;
mod whole;

use super::*;
use proto::event::Failure;
use proto::id::{Generation, Incarnation, Lineage, WorkerId};
use proto::manifest::{self, Checkpoint, Digests, File};
use proto::protocol::{
    Attachment, Cause, Directive, Dismissal, Duty, Hello, Load, Place, Prepare, RawShard,
    SavedPart, ShardOutcome, SourceSum, Start, StepDone, Train,
};
use proto::receipt::{Receipt, Skipped};

const EPOCH: Epoch = Epoch(7);

/// A core with virtual time.
struct Bench {
    core: Core,
    now: Duration,
}

impl Bench {
    fn new() -> Self {
        Self { core: Core::new(Timing::default(), EPOCH, [0; 32]), now: Duration::ZERO }
    }

    /// Handles an event and returns its commands, with two exceptions: every ring address is dialled successfully at
    /// once, and the recorded steps in directives, which have their own test, are set to 0.
    fn handle(&mut self, event: Event) -> Vec<Command> {
        let mut out = self.handle_all(event);
        for command in &mut out {
            if let Command::Direct { directive, .. } = command {
                directive.heard = 0;
            }
        }
        out
    }

    fn handle_all(&mut self, event: Event) -> Vec<Command> {
        let mut out = self.core.handle(self.now, event);
        while let Some(at) = out.iter().position(|c| matches!(c, Command::Dial { .. })) {
            let Command::Dial { worker, incarnation, .. } = out.remove(at) else { unreachable!() };
            let dialled = Event::Dialled { worker, incarnation, outcome: Ok(()) };
            out.extend(self.core.handle(self.now, dialled));
        }
        out
    }

    fn report(&mut self, stream: u64, report: Report) -> Vec<Command> {
        self.handle(Event::Reported { stream: Stream(stream), report })
    }

    /// Lets time pass while the workers on `streams` beat.
    fn pass(&mut self, ms: u64, streams: &[u64]) -> Vec<Command> {
        let (end, beat) = (self.now + Duration::from_millis(ms), self.core.timing.beat);
        let mut out = Vec::new();
        while self.now < end {
            self.now = (self.now + beat).min(end);
            for stream in streams {
                out.extend(self.report(*stream, beats()));
            }
            out.extend(self.handle(Event::Tick));
        }
        out
    }

    /// Lets the process of a worker die, on the stream of the same number, and another one take its slot.
    fn replace(&mut self, number: u64, stream: u64) -> Vec<Command> {
        self.handle(Event::Hangup { stream: Stream(number) });
        self.report(stream, hello_anew(number))
    }

    fn submit(&mut self) -> Vec<Command> {
        self.handle(submission(1, "r", "key"))
    }

    /// A bench with workers 1 and 2 on streams of the same numbers, and a run of 4 steps whose plan is stored.
    fn planned() -> Self {
        let mut bench = Self::new();
        bench.report(1, hello(1));
        bench.report(2, hello(2));
        bench.submit();
        bench.handle(surveyed(1));
        bench.report(1, prepared(0));
        bench.handle(planned());
        bench
    }

    /// The same bench in generation 1.
    fn training() -> Self {
        let mut bench = Self::planned();
        bench.report(1, loaded());
        bench.report(2, loaded());
        assert_eq!(bench.phase(), "training");
        bench
    }

    /// The same bench with a committed checkpoint after `step` steps.
    fn checkpointed(step: u64) -> Self {
        let mut bench = Self::training();
        bench.checkpoint(1, step);
        bench
    }

    fn checkpoint(&mut self, lineage: u64, step: u64) -> Vec<Command> {
        self.part(1, lineage, step);
        self.part(2, lineage, step);
        self.handle(sealed(lineage, step))
    }

    fn part(&mut self, worker: u64, lineage: u64, step: u64) -> Vec<Command> {
        self.report(worker, part(worker, lineage, step))
    }

    fn phase(&self) -> &'static str {
        self.core.status(&run()).expect("it was submitted").phase
    }

    /// A new core that adopts a run with this history, and its commands.
    fn adopted(history: Vec<Fact>, resume: bool) -> (Self, Vec<Command>) {
        let mut bench = Self::new();
        let out = bench.core.adopt(bench.now, past(settings(), history), None, resume);
        (bench, out)
    }
}

/// The run `r` as recorded in its journal.
fn past(settings: Settings, history: Vec<Fact>) -> Past {
    Past { run: run(), settings, history }
}

fn run() -> RunId {
    RunId::new("r")
}

fn worker(number: u64) -> WorkerId {
    WorkerId::new(format!("w{number}"))
}

fn settings() -> Settings {
    Settings {
        name: "r".into(),
        identity: "spec".into(),
        goal: Goal::Model,
        min_workers: 2,
        max_workers: 2,
        keep: 2,
        evaluates: true,
        evaluate_at_start: false,
        trained: vec!["a".into(), "b".into()],
        evaluated: vec!["a".into(), "b".into()],
    }
}

fn submission(ticket: u64, run: &str, key: &str) -> Event {
    Event::Submit {
        ticket: Ticket(ticket),
        run: RunId::new(run),
        idempotency_key: key.into(),
        spec_yaml: "spec".into(),
        settings: settings(),
        by: None,
    }
}

// ------------------------------------------------------------------------------------- reports of workers

fn hello(number: u64) -> Report {
    Report::Hello(Hello {
        protocol: proto::PROTOCOL,
        worker: worker(number),
        incarnation: Incarnation::new(format!("process {number}")),
        device: "cpu".into(),
        threads: 1,
        ring: ring(number),
        attachment: None,
        last_end: None,
    })
}

/// The first report of another process in the same slot.
fn hello_anew(number: u64) -> Report {
    let Report::Hello(hello) = hello(number) else { unreachable!("it is one") };
    Report::Hello(Hello { incarnation: Incarnation::new("another"), ..hello })
}

/// The first report on a new stream of a process that is training.
fn hello_from(number: u64, generation: u64, step: u64) -> Report {
    let Report::Hello(hello) = hello(number) else { unreachable!("it is one") };
    let attachment = Attachment { place: place(generation), step };
    Report::Hello(Hello { attachment: Some(attachment), ..hello })
}

fn ring(number: u64) -> String {
    format!("10.0.0.{number}:1")
}

fn beats() -> Report {
    Report::Beat { step: 0, phase: proto::protocol::Phase::Idle, collective: 0 }
}

fn loaded() -> Report {
    Report::Loaded { run: run(), base_digest: "base".into() }
}

fn prepared(shard: u32) -> Report {
    let outcome = ShardOutcome { parts: vec![3], ..ShardOutcome::default() };
    Report::ShardPrepared { run: run(), shard, outcome }
}

fn place(lineage: u64) -> Place {
    Place { run: run(), generation: Generation(lineage), lineage: Lineage(lineage) }
}

/// A report that `step`, counted from 0, is committed.
fn step_done(worker: u64, lineage: u64, step: u64) -> Report {
    let done = StepDone {
        step,
        loss: 2.5,
        learning_rate: 0.1,
        grad_norm: 1.0,
        applied: true,
        samples: worker,
        samples_digest: 16 * worker,
        tokens: 100 * worker,
        trained_tokens: 10 * worker,
        compute: Duration::from_millis(200 * worker),
        reduce_wait: Duration::from_millis(300),
        sources: Vec::new(),
    };
    Report::StepDone(place(lineage), done)
}

/// A report that the last of `step` committed steps was skipped.
fn skipped(lineage: u64, step: u64) -> Report {
    Report::Skipped(place(lineage), skipped_step(step))
}

fn skipped_step(step: u64) -> Skipped {
    Skipped::new(step, vec![format!("a.jsonl, line {step}")])
}

fn evaluated(lineage: u64, step: u64, sums: &[(u32, f64, f64)]) -> Report {
    let sum = |s: &(u32, f64, f64)| SourceSum {
        source: s.0,
        loss_sum: s.1,
        weight: s.2,
        trained_tokens: 5,
    };
    Report::Evaluated(place(lineage), step, sums.iter().map(sum).collect())
}

fn file(folder: &str, worker: u64) -> File {
    let key = format!("{folder}/r{worker}");
    File { key, bytes: 1, digests: Digests::of(b"0"), tensors: Vec::new() }
}

fn begun(lineage: u64, step: u64) -> Report {
    Report::PartBegun(place(lineage), step)
}

fn part_failed(lineage: u64, step: u64) -> Report {
    Report::PartFailed(place(lineage), step, "full".into())
}

fn leaving() -> Report {
    Report::Leaving { deadline: Duration::from_secs(20) }
}

fn part(worker: u64, lineage: u64, step: u64) -> Report {
    let files = vec![file(Checkpoint::MODEL, worker), file(Checkpoint::STATE, worker)];
    Report::PartSaved(
        place(lineage),
        step,
        SavedPart { files, digest: format!("state {step}"), pause: Duration::ZERO },
    )
}

fn stopped(generation: u64, step: u64) -> Report {
    Report::Stopped { run: run(), generation: Generation(generation), step }
}

fn trouble(generation: u64, cause: Cause) -> Report {
    let generation = Generation(generation);
    Report::Trouble {
        run: run(),
        generation,
        step: 1,
        cause,
        message: "broken".into(),
        shard: None,
        accusation: None,
    }
}

// ------------------------------------------------------------------------------------- results of long work

fn shard(index: u32) -> RawShard {
    let url = format!("file:///{index}");
    RawShard { index, source: 0, url, bytes: 10, etag: None, modified_ms: 0, range: 0..10 }
}

fn surveyed(shards: u32) -> Event {
    let shards = (0..shards).map(shard).collect();
    let outcome = Ok(Survey { fingerprint: "f".into(), shards, cached: false });
    Event::Surveyed { run: run(), outcome }
}

fn planned() -> Event {
    let outline = PlanOutline {
        digest: "d".into(),
        steps: 4,
        receipt: Receipt::default(),
        summary: serde_json::Value::Null,
    };
    Event::Planned { run: run(), outcome: Ok(outline) }
}

fn sealed(lineage: u64, step: u64) -> Event {
    let outcome = Ok(format!("sha {step}"));
    Event::Sealed { run: run(), lineage: Lineage(lineage), step, outcome }
}

fn published() -> Event {
    Event::Published { run: run(), outcome: Ok("model".into()) }
}

// ------------------------------------------------------------------------------------- expected commands

fn journal<const N: usize>(events: [Fact; N]) -> Command {
    Command::Journal { run: run(), events: events.into() }
}

fn notify(notice: Notice) -> Command {
    Command::Notify { run: run(), notice }
}

fn direct(stream: u64, duty: Duty) -> Command {
    let beat = match duty {
        Duty::Idle => Duration::from_secs(2),
        _ => Timing::default().beat,
    };
    let directive = Directive { epoch: EPOCH, beat, duty, heard: 0 };
    Command::Direct { stream: Stream(stream), directive }
}

fn close(stream: u64) -> Command {
    Command::Close { stream: Stream(stream) }
}

fn answer(ticket: u64, run: &str) -> Command {
    Command::Answer { ticket: Ticket(ticket), answer: Ok(RunId::new(run)) }
}

fn load() -> Load {
    Load { run: run(), spec_yaml: "spec".into(), fingerprint: "f".into(), plan_digest: "d".into() }
}

fn prepare(shards: &[u32]) -> Duty {
    let shards = shards.iter().copied().map(shard).collect();
    Duty::Prepare(Prepare { run: run(), spec_yaml: "spec".into(), fingerprint: "f".into(), shards })
}

/// HKDF-SHA256 by hand (RFC 5869, sections 2.2 and 2.3), of a secret of zeros.
fn ring_key(generation: u64) -> [u8; 32] {
    let hmac = |key: &[u8], text: &[u8]| {
        ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key), text)
    };
    let extracted = hmac(&[0; 32], &[0; 32]);
    let info = [b"muster generation".as_slice(), &generation.to_le_bytes(), b"r", &[1]].concat();
    hmac(extracted.as_ref(), &info).as_ref().try_into().expect("32 bytes")
}

/// The duty of a rank in a generation of `workers` that begins at the checkpoint `from` (lineage, step).
fn train(generation: u64, workers: &[u64], rank: u32, from: Option<(u64, u64)>) -> Train {
    Train {
        load: load(),
        generation: Generation(generation),
        lineage: Lineage(generation),
        rank,
        members: workers.iter().map(|w| ring(*w)).collect(),
        ring_key: ring_key(generation),
        checkpoint: from.map(|(l, s)| Start {
            manifest: proto::key::manifest(&run(), Lineage(l), s),
            sha256: format!("sha {s}"),
        }),
        evaluate_first: false,
        stop: false,
        base_digest: Some("base".into()),
    }
}

fn generation(number: u64, step: u64, members: &[u64]) -> (Fact, Notice) {
    let members: Vec<_> = members.iter().map(|m| worker(*m)).collect();
    let history = Fact::Generation {
        generation: Generation(number),
        lineage: Lineage(number),
        step,
        members: members.clone(),
    };
    let notice = Notice::Generation {
        generation: number,
        lineage: number,
        world_size: members.len(),
        workers: members,
        step,
        redone: 0,
    };
    (history, notice)
}

/// The fact that is journaled with the first generation.
fn based() -> Fact {
    Fact::Based { digest: "base".into() }
}

fn checkpointed(lineage: u64, step: u64) -> Fact {
    let manifest_sha256 = format!("sha {step}");
    Fact::Checkpointed { lineage: Lineage(lineage), step, manifest_sha256 }
}

fn incident(number: Option<u64>, message: &str) -> [Command; 2] {
    let (worker, message) = (number.map(worker), message.to_owned());
    [
        journal([Fact::Incident { worker: worker.clone(), message: message.clone() }]),
        notify(Notice::Incident { worker, message }),
    ]
}

fn waiting(detail: &str) -> Command {
    notify(Notice::Waiting { detail: detail.into() })
}

fn seal(lineage: u64, step: u64) -> Command {
    seal_with(lineage, step, &[])
}

fn seal_with(lineage: u64, step: u64, skipped: &[u64]) -> Command {
    let checkpoint = Checkpoint {
        run: run(),
        lineage: Lineage(lineage),
        step,
        plan_digest: "d".into(),
        model: vec![file(Checkpoint::MODEL, 1), file(Checkpoint::MODEL, 2)],
        state: vec![file(Checkpoint::STATE, 1), file(Checkpoint::STATE, 2)],
        receipt: None,
        state_digest: Some(format!("state {step}")),
    };
    Command::Seal { checkpoint, skipped: skipped.iter().copied().map(skipped_step).collect() }
}

fn receipt(skipped: &[u64]) -> Command {
    Command::Receipt { run: run(), skipped: skipped.iter().copied().map(skipped_step).collect() }
}

fn checkpoint_notice(lineage: u64, step: u64) -> Command {
    let path = proto::key::checkpoint(&run(), Lineage(lineage), step);
    notify(Notice::Checkpoint { step, path })
}

/// The command to retain these checkpoints of one lineage, of which the last is the newest.
fn retain(lineage: u64, steps: &[u64], best: Option<u64>) -> Command {
    let place = |step: u64| CheckpointId { lineage: Lineage(lineage), step };
    let kept: Vec<_> = steps.iter().copied().map(place).collect();
    let latest = *kept.last().expect("something is kept");
    let retained = Retained { kept, latest, best: best.map(place) };
    Command::Retain { run: run(), retained }
}

//! Ring all-reduce between processes, compared with PyTorch's gloo: `cargo bench -p worker --bench all_reduce`.
//!
//! The rank processes of all contenders run from the start; in each round, the contenders run in turn while the
//! others sleep. A repetition is timed on every rank, from the end of a barrier until the sum is there, and takes as
//! long as its slowest rank. All contenders sum the same number of values in place, one of them in bf16 and the others
//! in f32, and the sum is checked outside the timed part. The CPU time of all ranks is shown, too: it is what the
//! all-reduce takes away from the training step, and it hardly depends on other load on the machine.
//!
//! MUSTER_PEER_PYTHON names a Python that has torch; without it, gloo is skipped. Arguments (after `--`) are the
//! number of rounds and, optionally, of processes: `-- 5 2`.

use std::io::{BufRead, BufReader, Write, stdin};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use half::bf16;
use worker::collective::{AbortHandle, Collective, Listener, Membership, Options, Ring, SameHost};
use worker::device::Element;

const SIZES_MIB: [usize; 2] = [25, 512];
const ROUNDS: usize = 7;

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [mode, rank, world_size, transport, dtype] = &arguments[..]
        && mode == "rank"
    {
        let place = (number(rank), number(world_size));
        return match dtype.as_str() {
            "bf16" => rank_process(place, transport, bf16::from_f32),
            _ => rank_process(place, transport, |x| x),
        };
    }
    let rounds = arguments.first().map_or(ROUNDS, |rounds| number(rounds));
    match arguments.get(1) {
        Some(world_size) => compare(number(world_size), rounds),
        None => [2, 4].into_iter().for_each(|world_size| compare(world_size, rounds)),
    }
}

fn number(argument: &str) -> usize {
    argument.parse().expect("arguments are numbers")
}

fn compare(world_size: usize, rounds: usize) {
    let folder =
        std::env::temp_dir().join(format!("all-reduce-{}-{world_size}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the temporary folder can be written");
    let mut contenders = vec![
        Contender::ring(["unix", "f32"], "ring, unix sockets", world_size),
        Contender::ring(["unix", "bf16"], "the same in bf16", world_size),
        Contender::ring(["tcp", "f32"], "ring, tcp", world_size),
        Contender::ring(["encrypted", "f32"], "the same, encrypted", world_size),
    ];
    match std::env::var("MUSTER_PEER_PYTHON") {
        Ok(python) => contenders.push(Contender::gloo(&python, &folder, world_size)),
        Err(_) => println!("MUSTER_PEER_PYTHON is unset: skipping gloo"),
    }
    for size_mib in SIZES_MIB {
        let repetitions = if size_mib < 100 { 9 } else { 3 };
        let round = |_| contenders.iter_mut().map(|c| c.run(size_mib << 18, repetitions)).collect();
        let figures: Vec<Vec<Figure>> = (0..rounds).map(round).collect();
        report(world_size, size_mib, &contenders, &figures);
    }
    contenders.into_iter().for_each(Contender::finish);
    std::fs::remove_dir_all(&folder).expect("the folder is ours");
}

fn report(world_size: usize, size_mib: usize, contenders: &[Contender], rounds: &[Vec<Figure>]) {
    println!("\n{size_mib} MiB of f32 between {world_size} processes, {} rounds", rounds.len());
    let gigabytes = (size_mib << 20) as f64 / 1e9;
    let gloo = contenders.iter().position(|contender| contender.name == "gloo");
    for (index, contender) in contenders.iter().enumerate() {
        let over_rounds = |figure: &dyn Fn(&[Figure]) -> f64| {
            median(rounds.iter().map(|round| figure(round)).collect())
        };
        let seconds = over_rounds(&|round| round[index].seconds);
        let busy = over_rounds(&|round| round[index].busy);
        print!(
            "  {:<18} {:7.1} ms {:6.2} GB/s, {:6.1} ms of CPU time",
            contender.name,
            seconds * 1e3,
            gigabytes / seconds,
            busy * 1e3,
        );
        if let Some(gloo) = gloo.filter(|&gloo| gloo != index) {
            let faster = over_rounds(&|round| round[gloo].seconds / round[index].seconds);
            let cheaper = over_rounds(&|round| round[gloo].busy / round[index].busy);
            print!(": {faster:.2}x as fast as gloo, {cheaper:.2}x as cheap");
        }
        println!();
    }
}

/// The median over one implementation's repetitions in one round.
struct Figure {
    /// Time until the slowest rank had the sum.
    seconds: f64,
    /// CPU time of all ranks together.
    busy: f64,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The rank processes of one implementation.
struct Contender {
    name: &'static str,
    ranks: Vec<Rank>,
}

struct Rank {
    process: Child,
    commands: ChildStdin,
    replies: BufReader<ChildStdout>,
}

impl Contender {
    /// A ring over this transport, with values of this type.
    fn ring(settings: [&str; 2], name: &'static str, world_size: usize) -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let spawn = |rank: usize| {
            let rank = rank.to_string();
            let world_size = world_size.to_string();
            let arguments = ["rank", &rank, &world_size].into_iter().chain(settings);
            Rank::spawn(Command::new(&program).args(arguments))
        };
        let mut ranks: Vec<_> = (0..world_size).map(spawn).collect();
        let addresses: Vec<_> = ranks.iter_mut().map(Rank::reply).collect();
        ranks.iter_mut().for_each(|rank| rank.command(&addresses.join(" ")));
        Self::ready(name, ranks)
    }

    fn gloo(python: &str, folder: &Path, world_size: usize) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/peer/all_reduce.py");
        let spawn = |rank: usize| {
            let mut command = Command::new(python);
            command.arg(&script).args([rank.to_string(), world_size.to_string()]);
            Rank::spawn(command.arg(folder.join("store")))
        };
        Self::ready("gloo", (0..world_size).map(spawn).collect())
    }

    fn ready(name: &'static str, mut ranks: Vec<Rank>) -> Self {
        for rank in &mut ranks {
            assert_eq!(rank.reply(), "ready", "{name}");
        }
        Self { name, ranks }
    }

    fn run(&mut self, len: usize, repetitions: usize) -> Figure {
        self.ranks.iter_mut().for_each(|rank| rank.command(&format!("{len} {repetitions}")));
        let mut slowest = vec![0f64; repetitions];
        let mut busy = vec![0f64; repetitions];
        for rank in &mut self.ranks {
            let reply = rank.reply();
            let figures = reply.split_whitespace().map(|s| s.parse().expect("seconds"));
            let figures: Vec<f64> = figures.collect();
            for (repetition, pair) in figures.chunks(2).enumerate() {
                slowest[repetition] = slowest[repetition].max(pair[0]);
                busy[repetition] += pair[1];
            }
        }
        Figure { seconds: median(slowest), busy: median(busy) }
    }

    fn finish(self) {
        for Rank { mut process, commands, .. } in self.ranks {
            drop(commands);
            process.wait().expect("it was started");
        }
    }
}

impl Rank {
    fn spawn(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the rank process starts");
        let commands = process.stdin.take().expect("it was piped");
        let replies = BufReader::new(process.stdout.take().expect("it was piped"));
        Self { process, commands, replies }
    }

    fn command(&mut self, line: &str) {
        writeln!(self.commands, "{line}").expect("the rank process lives");
    }

    fn reply(&mut self) -> String {
        let mut line = String::new();
        self.replies.read_line(&mut line).expect("the rank process speaks UTF-8");
        line.trim_end().to_owned()
    }
}

/// The body of a rank process: forms the ring, then reduces on command.
fn rank_process<T: Element + PartialEq>(
    (rank, world_size): (usize, usize),
    transport: &str,
    of: fn(f32) -> T,
) {
    let mut lines = stdin().lines().map(|line| line.expect("commands are UTF-8"));
    let listener = Listener::bind("127.0.0.1:0").expect("loopback has free ports");
    println!("{}", listener.local_addr());
    let addresses = lines.next().expect("addresses come first");
    let membership = Membership {
        run: "benchmark".to_owned(),
        generation: 1,
        rank,
        addresses: addresses.split_whitespace().map(str::to_owned).collect(),
        key: [1; 32],
        encrypt: transport == "encrypted",
    };
    let budget = Duration::from_secs(60);
    let same_host = if transport == "unix" { SameHost::UnixSocket } else { SameHost::Tcp };
    let options = Options { connect_within: budget, stall: budget, same_host };
    let mut ring = Ring::connect(&listener, &membership, &options, AbortHandle::new())
        .expect("the ring forms");
    println!("ready");

    let mut bucket = Vec::new();
    for line in lines {
        let (len, repetitions) = line.split_once(' ').expect("a command has two numbers");
        bucket.resize(number(len), of(0.0));
        let mut figures = Vec::new();
        for _ in 0..number(repetitions) {
            bucket.fill(of((rank + 1) as f32));
            ring.barrier().expect("the ring holds");
            let (start, busy) = (Instant::now(), processor_seconds());
            let pending = ring.reduce(bucket.into()).expect("the ring holds");
            bucket = pending.wait().expect("the ring holds").into_vec();
            figures.push(start.elapsed().as_secs_f64().to_string());
            figures.push((processor_seconds() - busy).to_string());
            let sum = of((world_size * (world_size + 1) / 2) as f32);
            assert!(bucket.iter().all(|&value| value == sum));
        }
        println!("{}", figures.join(" "));
    }
}

/// CPU time of all threads of this process, as counted by Linux.
fn processor_seconds() -> f64 {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else {
        return 0.0;
    };
    let nanoseconds = |thread: std::io::Result<std::fs::DirEntry>| -> Option<f64> {
        let counts = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        counts.split_whitespace().next()?.parse().ok()
    };
    threads.filter_map(nanoseconds).sum::<f64>() / 1e9
}

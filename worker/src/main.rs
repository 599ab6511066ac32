//! `worker`: the program that runs on every node.

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use proto::print;
use proto::protocol::Dismissal;
use proto::spec::duration;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use wire::credentials::Credentials;
use worker::address::{self, RingAddress};
use worker::agent::Agent;
use worker::devices::{self, Device, Devices, Opened};
use worker::session::{Exit, Identity};
use worker::supervise::{self, Node};

// Activations are large, short-lived and the same size at every step. An allocator that keeps freed memory (see
// `supervise::KEEP_MEMORY`) spares the kernel from zeroing the same pages again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long an exiting rank waits for threads that are still blocked.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Exit code for options that cannot be used here; the same as clap's.
const EXIT_OPTIONS: u8 = 2;

/// Default log filter of a node and its ranks: their own events, and only warnings from other crates.
const LOG_OF_A_NODE: &str = "warn,worker=info,proto=info,data=info";

const ENVIRONMENT: &str = "\
Environment:
  MUSTER_LOG     Log filter, e.g. `debug` or `warn,worker=debug`
                 [default: `info` for Muster, `warn` for everything else]
  MUSTER_LOG_FORMAT
                 `text` or `json`: one object per line, with run, generation, rank and step
                 [default: text]
  MUSTER_CACHE   Folder for downloaded remote models and compiled GPU kernels
                 [default: muster in XDG_CACHE_HOME, else .cache/muster in HOME]
  MUSTER_CUDA_LIBRARIES
                 Folders of the CUDA libraries, separated by colons
                 [default: searched; `worker devices` shows where]
  MUSTER_ALLOW   What specs may name, separated by commas: folders, s3://BUCKET[/PREFIX],
                 https://HOST[/PATH], hf://[OWNER[/NAME]]  [default: everything]
  CUDA_VISIBLE_DEVICES, NCCL_*
                 As in NVIDIA's own documentation
  POD_NAME       Default for --name
  HF_TOKEN, HF_ENDPOINT, AWS_*, AZURE_*, GOOGLE_*
                 Credentials and endpoints of the stores that a run uses

Exit code: 0 the run has succeeded, 1 gave up after repeated crashes, 2 invalid options or refused, 64 to 66 the run has
failed (64 spec or base, 65 data, 66 infrastructure), 67 it was cancelled, 71 all GPUs are damaged, 75 stopped on
request, or the coordinator has closed before the run's end.";

/// Prepares data and trains, one process per device, under a coordinator.
#[derive(Parser)]
#[command(name = "worker", version, args_conflicts_with_subcommands = true)]
#[command(after_help = ENVIRONMENT)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Args)]
struct NodeArgs {
    /// URL of the coordinator, such as https://coordinator:7070
    #[arg(
        long,
        value_name = "URL",
        env = "MUSTER_COORDINATOR",
        default_value = "http://127.0.0.1:7070",
        value_parser = wire::address::parse
    )]
    coordinator: String,
    #[command(flatten)]
    credentials: CredentialsArgs,
    /// Devices to compute on: cpu, cpu:2 (two ranks), cuda:all, or GPUs by number, such as cuda:0,3; each gets its own
    /// rank process
    #[arg(long, default_value = "cpu")]
    devices: Devices,
    /// Compute threads per rank [default: an equal share of the cores]
    #[arg(long)]
    threads: Option<usize>,
    /// Name of this node, unique in the pool; its ranks are NAME-0, NAME-1, ... [default: POD_NAME, else the host's
    /// name and a random part]
    #[arg(long, env = "MUSTER_NAME")]
    name: Option<String>,
    /// Where other nodes reach the ranks of this node: HOST[:PORT[-PORT]]; each rank takes the first free port, e.g.
    /// 10.0.0.7:7100-7110 or [2001:db8::1]:7100-7110 [default: the local address used to reach the coordinator, any
    /// port]
    #[arg(long, env = "MUSTER_RING_ADDRESS")]
    ring_address: Option<RingAddress>,
    /// How long the ranks may take to leave after SIGTERM, such as 90s; a checkpoint that is stored in that time loses
    /// no step. A container needs 10 seconds more than this
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUSTER_GRACE",
        default_value = "20s",
        value_parser = duration::parse
    )]
    grace: Duration,
}

#[derive(Args)]
struct CredentialsArgs {
    /// Folder with the certificates and the token for the coordinator: tls.crt, tls.key, ca.crt, token
    #[arg(long, value_name = "FOLDER", env = "MUSTER_CREDENTIALS")]
    credentials: Option<PathBuf>,
    /// Connect without encryption to a coordinator on another host: everybody in the network can then read and change
    /// everything
    #[arg(long, env = "MUSTER_INSECURE", value_parser = clap::builder::FalseyValueParser::new())]
    insecure: bool,
    /// Let NCCL send gradients to GPUs of other hosts. It cannot encrypt: everybody in the network can read and change
    /// them
    #[arg(long, env = "MUSTER_TRUST_NETWORK", value_parser = clap::builder::FalseyValueParser::new())]
    trust_network: bool,
}

impl From<CredentialsArgs> for Credentials {
    fn from(CredentialsArgs { credentials, insecure, trust_network }: CredentialsArgs) -> Self {
        Self::new(credentials, insecure).trusting_the_network(trust_network)
    }
}

#[derive(Subcommand)]
enum Command {
    /// Runs one rank process; started by the supervisor.
    #[command(hide = true)]
    Rank {
        #[arg(long)]
        coordinator: String,
        #[command(flatten)]
        credentials: CredentialsArgs,
        #[arg(long)]
        slot: String,
        #[arg(long)]
        threads: usize,
        #[arg(long, value_parser = duration::parse)]
        grace: Duration,
        /// How the previous process in this slot ended.
        #[arg(long)]
        last_end: Option<String>,
        /// Where peers reach this rank.
        #[arg(long)]
        ring_address: Option<RingAddress>,
        #[arg(long, default_value = "cpu")]
        device: Device,
    },
    /// Times a few steps of the run whose resolved spec is read from standard input; started by `coordinator plan`.
    #[command(hide = true)]
    Measure(worker::measure::Arguments),
    /// Answers prompts with a model.
    Generate(worker::generate::Arguments),
    /// Shows the GPUs of this host, and the CUDA libraries that would be used.
    Devices(devices::Arguments),
    /// Measures how fast steps of a model are on this host, or estimates how fast they would be on a GPU.
    Bench(worker::bench::Arguments),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return print_usage(&error),
    };
    print::log(match cli.command {
        None | Some(Command::Rank { .. }) => LOG_OF_A_NODE,
        Some(_) => "warn",
    });
    if let Err(error) = storage::allow::Allowed::here() {
        print::note(format_args!("error: {error}"));
        return EXIT_OPTIONS.into();
    }
    let outcome = match cli.command {
        None => node(cli.node),
        Some(Command::Rank {
            coordinator,
            credentials,
            slot,
            threads,
            grace,
            last_end,
            ring_address,
            device,
        }) => {
            let coordinator = (coordinator, credentials.into());
            rank(RankArgs { coordinator, slot, threads, grace, last_end, ring_address, device })
        }
        Some(Command::Measure(arguments)) => worker::measure::run(&arguments),
        Some(Command::Generate(arguments)) => {
            worker::generate::run(&arguments).map(|()| ExitCode::SUCCESS)
        }
        Some(Command::Devices(arguments)) => devices::run(&arguments),
        Some(Command::Bench(arguments)) => worker::bench::run(&arguments),
    };
    outcome.unwrap_or_else(|error| failed(&error))
}

/// Prints help, the version, or a usage error; returns clap's exit code.
fn print_usage(usage: &clap::Error) -> ExitCode {
    match usage.print() {
        Ok(()) => ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(1)),
        Err(error) => failed(&print::Error::from(error).into()),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    if let Some(print::Error::Unread) = error.downcast_ref() {
        return ExitCode::from(print::EXIT_UNREAD);
    }
    print::note(format_args!("error: {}", proto::error::chain(error.as_ref())));
    ExitCode::from(1)
}

fn node(args: NodeArgs) -> anyhow::Result<ExitCode> {
    let runtime = runtime()?;
    let ranks = match runtime.block_on(args.devices.ranks()) {
        Ok(ranks) => ranks,
        Err(error) => {
            print::note(format_args!("error: {error:#}"));
            return Ok(EXIT_OPTIONS.into());
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, Into::into);
    let threads = args.threads.unwrap_or((cores / ranks.len()).max(1));
    let name = args.name.filter(|name| !name.is_empty()).unwrap_or_else(default_name);
    if let Some(address) = &args.ring_address
        && let Err(error) = address.check(ranks.len())
    {
        print::note(format_args!("error: {}", proto::error::chain(&error)));
        return Ok(EXIT_OPTIONS.into());
    }
    let node = Node {
        coordinator: args.coordinator,
        credentials: args.credentials.into(),
        name,
        threads,
        ring_address: args.ring_address,
        grace: args.grace,
    };
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (count, counted) = tokio::sync::watch::channel(0);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                count.send_modify(|count| *count += 1);
            }
        });
        let signalled = |times| {
            let mut counted = counted.clone();
            async move {
                // The sender lives as long as this process, so this cannot fail.
                let _ = counted.wait_for(|count| *count >= times).await;
            }
        };
        Ok(tokio::select! {
            code = supervise::supervise(&node, &ranks, signalled(1)) => code?,
            // A second signal means stop at once: ranks end with their supervisor.
            () = signalled(2) => supervise::EXIT_DRAINED.into(),
            // A graceful drain would wait for a coordinator that is gone; ranks end with their supervisor.
            () = parent_gone() => supervise::EXIT_DRAINED.into(),
        })
    })
}

/// A unique node name. Two containers can have the same host name and process id, hence the random part. It is drawn
/// once, so that restarted ranks keep their slots.
fn default_name() -> String {
    let pod = std::env::var("POD_NAME").ok().filter(|pod| !pod.is_empty());
    pod.unwrap_or_else(|| {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        format!("{host}-{}", &proto::id::unique()[..6])
    })
}

/// Resolves when the process that launched this one is gone, if that process asked for this through the environment;
/// otherwise never.
async fn parent_gone() {
    if std::env::var_os("MUSTER_LIVES_WITH_PARENT").is_some() {
        supervise::orphaned().await;
    } else {
        std::future::pending().await
    }
}

/// The arguments of a rank process.
struct RankArgs {
    coordinator: (String, Credentials),
    slot: String,
    threads: usize,
    grace: Duration,
    last_end: Option<String>,
    ring_address: Option<RingAddress>,
    device: Device,
}

fn rank(args: RankArgs) -> anyhow::Result<ExitCode> {
    let RankArgs { coordinator, slot, threads, grace, last_end, ring_address, device } = args;
    if device != Device::Cpu {
        // It changes the environment, so it comes before any other thread.
        worker::collective::prepare_nccl();
    }
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|i| format!("compute-{i}"))
        .build_global()
        .context("the compute threads cannot be started")?;
    let Opened { kernels, kind, .. } = devices::open(&device)?;
    let runtime = runtime()?;
    let exit = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut orphaned = std::pin::pin!(supervise::orphaned());
        let listening = tokio::select! {
            listening = address::listen(&slot, ring_address, coordinator.0.clone()) => listening,
            _ = terminate.recv() => return Ok(Ok(Exit::Drained)),
            () = &mut orphaned => std::process::exit(1),
        };
        let (listener, ring) = listening.context("peers cannot reach this rank")?;
        let identity = Identity {
            worker: proto::id::WorkerId::new(slot),
            incarnation: proto::id::Incarnation::new(proto::id::unique()),
            device: kind,
            threads: threads.try_into().unwrap_or(u32::MAX),
            ring,
            last_end,
        };
        let terminated = async move {
            terminate.recv().await;
        };
        let agent = Agent::new(coordinator, identity, listener, kernels).with_grace(grace);
        let mut moved = agent.moved();
        tokio::spawn(async move {
            while moved.changed().await.is_ok() {
                let coordinator = moved.borrow_and_update().clone();
                // The next process in this slot connects there. If the supervisor is gone, it starts no other
                // process.
                let _ = print::line(coordinator);
            }
        });
        anyhow::Ok(tokio::select! {
            exit = agent.work(terminated) => exit,
            // There is no supervisor left to report to, and the coordinator will notice by itself.
            () = orphaned => std::process::exit(1),
        })
    })?;
    // A thread blocked on a file system that never answers must not keep the process alive forever.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    Ok(match exit {
        Err(error) => {
            print::note(format_args!("error: {device} can no longer be used: {error}"));
            let damaged = error.is_hardware();
            let code = if damaged { supervise::EXIT_DAMAGED } else { supervise::EXIT_BROKEN };
            worker::device::cuda::exit_at_once(code)
        }
        Ok(Exit::Dismissed(Dismissal::Closing)) => supervise::EXIT_CLOSED.into(),
        Ok(Exit::Dismissed(why)) => {
            proto::exit::of_dismissal(why).unwrap_or(supervise::EXIT_REFUSED).into()
        }
        Ok(Exit::Drained) => supervise::EXIT_DRAINED.into(),
        Ok(Exit::Refused(reason)) => {
            print::note(format_args!("error: the coordinator refused this worker: {reason}"));
            supervise::EXIT_REFUSED.into()
        }
    })
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

//! What a user types, and what they see.

mod advice;
mod checkpoint;
mod doctor;
mod embedded;
mod follow;
mod generate;
mod inspect;
mod mixture;
mod outlook;
mod plan;
mod preview;
mod remote;
mod run;
mod serve;
mod show;
mod typed;

use crate::core::Fault;
use clap::{Parser, Subcommand};
use proto::event::Failure;
use proto::print;
use proto::text::visible;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};
use storage::Storage;
use tokio::net::TcpSocket;

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Exit {
    Done = 0,
    /// Machines, processes, storage.
    Infrastructure = 1,
    /// The spec, the base model, the arguments.
    User = 2,
    /// The data set.
    Data = 3,
    /// Cancelled by a user.
    Cancelled = 4,
    /// Stopped gracefully; goes on with `--resume`.
    Paused = 75,
    /// The reader of standard output has gone.
    Unread = print::EXIT_UNREAD,
}

impl From<Failure> for Exit {
    fn from(kind: Failure) -> Self {
        match kind {
            Failure::User => Self::User,
            Failure::Data => Self::Data,
            Failure::Infrastructure => Self::Infrastructure,
        }
    }
}

/// An error, and whose fault it is.
struct Refusal {
    exit: Exit,
    error: anyhow::Error,
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self { exit: fault.kind.into(), error: anyhow::Error::msg(fault.message) }
    }
}

impl From<print::Error> for Refusal {
    fn from(error: print::Error) -> Self {
        let exit = match error {
            print::Error::Unread => Exit::Unread,
            print::Error::Refused(_) => Exit::Infrastructure,
        };
        Self { exit, error: error.into() }
    }
}

type Outcome = Result<Exit, Refusal>;

/// Says whose fault an error is.
trait Blame<T> {
    fn blame(self, exit: Exit) -> Result<T, Refusal>;
}

impl<T, E: Into<anyhow::Error>> Blame<T> for Result<T, E> {
    fn blame(self, exit: Exit) -> Result<T, Refusal> {
        self.map_err(|error| Refusal { exit, error: error.into() })
    }
}

/// The end of `coordinator --help`.
const AFTER_HELP: &str = "\
Exit codes:
  0    done
  1    infrastructure: machines, processes, storage, a coordinator that does not answer
  2    user error: the spec, the base model, the arguments
  3    data error: the data set, a damaged checkpoint
  4    cancelled by a user
  75   stopped gracefully; `run --resume` goes on
  141  the reader of standard output has gone

Environment:
  MUSTER_LOG          what is logged to standard error: error, warn, info, debug or trace,
                      for one module too (warn,coordinator::runtime::journal=debug)
                      [default: info for `serve`, otherwise warn]
  MUSTER_COORDINATOR  default of --coordinator
  MUSTER_TIMEOUT      default of --timeout
  MUSTER_OUTPUT       default of `serve --output`, and the place that `doctor` checks
  MUSTER_LISTEN       default of `serve --listen`
  MUSTER_ADVERTISE    default of `serve --advertise`
  MUSTER_CACHE        where models from a store or a hub are kept [default: ~/.cache/muster]
  MUSTER_WORKER       the `worker` program [default: beside this one, otherwise in the PATH]
  NO_COLOR            if set, `inspect` prints no colours

Credentials of stores come from the variables of their own tools:
  AWS_*, GOOGLE_*, AZURE_*, HF_TOKEN, HF_ENDPOINT";

/// Tunes language models to follow instructions, on many workers at once.
#[derive(Parser)]
#[command(name = "coordinator", version, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Prepare the data, train on local worker processes and leave a model folder, all in one command
    Run(run::Arguments),
    /// Coordinate a pool of workers and the runs that are submitted to it
    Serve(serve::Arguments),
    /// Queue a run at a standing coordinator, or resume one that ended without success
    Submit(remote::Submit),
    /// List the runs and the workers of a standing coordinator
    List(remote::List),
    /// Show how a run is doing
    Status(remote::Status),
    /// Follow a run until it ends
    Watch(remote::Watch),
    /// Cancel a run
    Cancel(remote::Cancel),
    /// Show a run's data before it runs: what becomes of every record, lengths, findings, samples with their mask
    Inspect(inspect::Arguments),
    /// Show what a run would do: packs, steps, tokens, memory, time
    Plan(plan::Arguments),
    /// List, verify, export and prune a run's checkpoints
    #[command(subcommand)]
    Checkpoint(checkpoint::Command),
    /// Check whether a place can hold runs, and how fast it is
    Doctor(doctor::Arguments),
    /// Answer prompts with a model folder
    Generate(generate::Arguments),
    /// Print the JSON Schema of run specs
    Schema,
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(Cli { command }) => command,
        Err(said) => return told(&said),
    };
    print::log(if matches!(command, Command::Serve(_)) { "info" } else { "warn" });
    let outcome = match command {
        Command::Run(arguments) => block_on(run::run(arguments)),
        Command::Serve(arguments) => block_on(serve::serve(arguments)),
        Command::Submit(arguments) => block_on(remote::submit(arguments)),
        Command::List(arguments) => block_on(remote::list(arguments)),
        Command::Status(arguments) => block_on(remote::status(arguments)),
        Command::Watch(arguments) => block_on(remote::watch(arguments)),
        Command::Cancel(arguments) => block_on(remote::cancel(arguments)),
        Command::Inspect(arguments) => block_on(inspect::inspect(arguments)),
        Command::Plan(arguments) => block_on(plan::plan(arguments)),
        Command::Checkpoint(command) => block_on(checkpoint::checkpoint(command)),
        Command::Doctor(arguments) => block_on(doctor::doctor(arguments)),
        Command::Generate(arguments) => generate::generate(arguments),
        Command::Schema => {
            let schema = serde_json::to_string_pretty(&proto::spec::schema());
            let printed = print::line(schema.expect("a schema is JSON"));
            printed.map(|()| Exit::Done).map_err(Into::into)
        }
    };
    ended(outcome)
}

/// Prints help, a version, or what is wrong with the arguments.
fn told(said: &clap::Error) -> ExitCode {
    match said.print() {
        Ok(()) => ExitCode::from(u8::try_from(said.exit_code()).unwrap_or(Exit::User as u8)),
        Err(error) => ended(Err(print::Error::from(error).into())),
    }
}

fn ended(outcome: Outcome) -> ExitCode {
    let exit = outcome.unwrap_or_else(|Refusal { exit, error }| {
        // As of a program that SIGPIPE ends, nobody hears of it.
        if exit != Exit::Unread {
            print::note(format_args!("error: {}", visible(&proto::error::chain(error.as_ref()))));
        }
        exit
    });
    ExitCode::from(exit as u8)
}

/// Connections that wait for a coordinator to take them.
const BACKLOG: u32 = 1024;

/// Takes an address without answering there. Whoever held a run or a pool before is asked then: at the address of the
/// one before, a coordinator that answered already would ask itself.
fn reserve(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A port that was in use a moment ago; but of free ones, none that another has reserved.
    socket.set_reuseaddr(address.port() != 0)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Proves that what is to be written to answers.
async fn probe(storage: &Storage, what: &'static str) -> Result<(), Refusal> {
    storage.probe().await.map_err(|error| {
        let exit = if error.is_users() { Exit::User } else { Exit::Infrastructure };
        Refusal { exit, error: anyhow::Error::from(error).context(what) }
    })
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis().try_into().unwrap_or(u64::MAX)
}

fn block_on(work: impl Future<Output = Outcome>) -> Outcome {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.blame(Exit::Infrastructure)?;
    let outcome = runtime.block_on(work);
    // A thread that reads standard input or stores a last object must not hold the end up.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    outcome
}

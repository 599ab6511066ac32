//! What a user types, and what they see.

mod checkpoint;
mod doctor;
mod embedded;
mod generate;
mod inspect;
mod mixture;
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
use proto::storage::Storage;
use proto::text::visible;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};
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

/// Tunes language models to follow instructions, on many workers at once.
///
/// Exit codes: 0 done, 1 infrastructure, 2 user error, 3 data error, 4 cancelled, 75 stopped in order
/// (--resume goes on).
#[derive(Parser)]
#[command(name = "coordinator", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Do it all here: prepare the data, train on local worker processes, leave a model folder
    Run(run::Arguments),
    /// Coordinate a pool of workers and take runs from `submit`
    Serve(serve::Arguments),
    /// Queue a run at a standing coordinator
    Submit(remote::Submit),
    /// Show every run of a standing coordinator
    List(remote::List),
    /// Show how a run is doing
    Status(remote::Status),
    /// Follow a run until it ends
    Watch(remote::Watch),
    /// End a run
    Cancel(remote::Cancel),
    /// Show a run's data before it runs: what becomes of every record, lengths, findings, samples with their mask
    Inspect(inspect::Arguments),
    /// Show what a run would do: packs, steps, tokens, memory, time
    Plan(plan::Arguments),
    /// List, verify, export and prune a run's checkpoints
    #[command(subcommand)]
    Checkpoint(checkpoint::Command),
    /// Try whether a place can hold runs: what Muster relies on, how fast it is
    Doctor(doctor::Arguments),
    /// Let a model folder answer a prompt
    Generate(generate::Arguments),
    /// Print the JSON Schema of run specs
    Schema,
}

/// Runs the command line.
pub fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("MUSTER_LOG")
                .unwrap_or_else(|_| "warn".into()),
        )
        .with_target(false)
        // It would panic where nobody reads standard error any more.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let outcome = match Cli::parse().command {
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

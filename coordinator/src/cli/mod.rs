//! The commands of the `coordinator` program, and their output.

mod advice;
mod certs;
mod checkpoint;
mod credentials;
mod devices;
mod doctor;
mod embedded;
mod follow;
mod generate;
mod inspect;
mod kubernetes;
mod mixture;
mod outlook;
mod plan;
mod preview;
mod remote;
mod run;
mod serve;
mod show;
mod token;
mod typed;

use crate::core::Fault;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use proto::event::Failure;
use proto::print;
use proto::text::visible;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};
use storage::Storage;
use storage::allow::Allowed;
use tokio::net::TcpSocket;

/// The exit code of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Exit {
    Done = 0,
    /// An error of machines, processes or storage.
    Infrastructure = 1,
    /// An error in the spec, the base model or the arguments.
    User = 2,
    /// An error in the data set.
    Data = 3,
    /// A user has cancelled the run.
    Cancelled = 4,
    /// The run has stopped gracefully and can be continued with `--resume`.
    Paused = 75,
    /// The reader of standard output has closed it.
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

/// An error with its exit code.
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

/// Gives an error its exit code, which says whose fault it is.
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
  75   stopped gracefully; `run --resume` continues the run
  141  the reader of standard output has closed it

Environment:
  MUSTER_LOG          log level on standard error: error, warn, info, debug or trace; a module
                      can have its own (warn,coordinator::runtime::journal=debug)
                      [default: info for `serve`, otherwise warn]
  MUSTER_LOG_FORMAT   `text` or `json`: one object per line, with run, generation, rank and step
  MUSTER_COORDINATOR  default of --coordinator
  MUSTER_CREDENTIALS  default of --credentials
  MUSTER_INSECURE     if set to 1, the same as --insecure
  MUSTER_TIMEOUT      default of --timeout
  MUSTER_OUTPUT       default of `serve --output` and of the place that `doctor` checks
  MUSTER_LISTEN       default of `serve --listen`
  MUSTER_ADVERTISE    default of `serve --advertise`
  MUSTER_ALLOW        what specs may name, separated by commas: folders, s3://BUCKET[/PREFIX],
                      https://HOST[/PATH], hf://[OWNER[/NAME]] [default: everything]
  MUSTER_CACHE        folder for models from a store or a hub [default: ~/.cache/muster]
  MUSTER_WORKER       the `worker` program [default: beside this one, otherwise in the PATH]
  NO_COLOR            if set, `inspect` prints no colours

Credentials for stores are taken from the variables of their own tools:
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
    /// Prepare the data, train with local worker processes and write a model folder, all in one command
    Run(run::Arguments),
    /// Coordinate a pool of workers and the runs that are submitted to it
    Serve(serve::Arguments),
    /// Submit a run to a standing coordinator, or resume one that ended without success
    Submit(Box<remote::Submit>),
    /// List the runs and the workers of a standing coordinator
    List(remote::List),
    /// Show the status of a run
    Status(remote::Status),
    /// Follow a run until it ends
    Watch(remote::Watch),
    /// Cancel a run
    Cancel(remote::Cancel),
    /// Show a run's data before it runs: the outcome of every record, lengths, findings, samples with their mask
    Inspect(inspect::Arguments),
    /// Show what a run would do: packs, steps, tokens, memory, time
    Plan(plan::Arguments),
    /// List, verify, export and prune a run's checkpoints
    #[command(subcommand)]
    Checkpoint(checkpoint::Command),
    /// Check whether a folder or a store is suitable for runs, and how fast it is
    Doctor(doctor::Arguments),
    /// Generate answers to prompts with a model folder
    Generate(generate::Arguments),
    /// Make or renew certificates for a coordinator, its workers and its users
    Certs(certs::Arguments),
    /// Make a token with which workers join, or users submit runs
    Token(token::Arguments),
    /// Run as a Kubernetes Job
    #[command(subcommand)]
    Kubernetes(kubernetes::Command),
    /// Print the JSON Schema of run specs
    Schema,
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    let command = match parse() {
        Ok(Cli { command }) => command,
        Err(error) => return print_usage(&error),
    };
    let stands = matches!(command, Command::Serve(_) | Command::Kubernetes(_));
    let level = if stands { "info" } else { "warn" };
    // The client of Kubernetes logs what is returned as an error, too.
    print::log(&format!("{level},kube_client=off,kube_runtime=off"));
    if let Err(error) = Allowed::here() {
        return exit_code(Err(error).blame(Exit::User));
    }
    let outcome = match command {
        Command::Kubernetes(command) => return kubernetes::run(command),
        Command::Run(arguments) => block_on(run::run(arguments)),
        Command::Serve(arguments) => block_on(serve::serve(arguments)),
        Command::Submit(arguments) => block_on(remote::submit(*arguments)),
        Command::List(arguments) => block_on(remote::list(arguments)),
        Command::Status(arguments) => block_on(remote::status(arguments)),
        Command::Watch(arguments) => block_on(remote::watch(arguments)),
        Command::Cancel(arguments) => block_on(remote::cancel(arguments)),
        Command::Inspect(arguments) => block_on(inspect::inspect(arguments)),
        Command::Plan(arguments) => block_on(plan::plan(arguments)),
        Command::Checkpoint(command) => block_on(checkpoint::checkpoint(command)),
        Command::Doctor(arguments) => block_on(doctor::doctor(arguments)),
        Command::Generate(arguments) => generate::generate(arguments),
        Command::Certs(arguments) => certs::certs(&arguments),
        Command::Token(arguments) => token::token(arguments),
        Command::Schema => {
            let schema = serde_json::to_string_pretty(&proto::spec::schema());
            let printed = print::line(schema.expect("a schema is JSON"));
            printed.map(|()| Exit::Done).map_err(Into::into)
        }
    };
    exit_code(outcome)
}

fn parse() -> Result<Cli, clap::Error> {
    // The options of a Job mean nothing to a standing coordinator.
    let of_job = |group: clap::ArgGroup| group.requires("launch");
    let command = Cli::command();
    let command = command.mut_subcommand("submit", |submit| submit.mut_group("Options", of_job));
    Cli::from_arg_matches(&command.try_get_matches()?)
}

/// Prints help, a version, or an error in the arguments.
fn print_usage(usage: &clap::Error) -> ExitCode {
    match usage.print() {
        Ok(()) => ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(Exit::User as u8)),
        Err(error) => exit_code(Err(print::Error::from(error).into())),
    }
}

/// Prints the error, if any, and returns the exit code.
fn exit_code(outcome: Outcome) -> ExitCode {
    let exit = outcome.unwrap_or_else(|Refusal { exit, error }| {
        // A closed standard output is no error to report; programs that SIGPIPE ends print nothing either.
        if exit != Exit::Unread {
            print::note(format_args!("error: {}", visible(&proto::error::chain(error.as_ref()))));
        }
        exit
    });
    ExitCode::from(exit as u8)
}

/// Maximum number of connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// Binds an address without listening. The previous holder of a run or a pool is asked in between: a coordinator with
/// the same address that already listened would ask itself.
fn reserve(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A given port may have been in use a moment ago. A free port must not be one that another process has reserved.
    socket.set_reuseaddr(address.port() != 0)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Checks that a storage that will be written to answers.
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

fn block_on<T>(work: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.blame(Exit::Infrastructure)?;
    let outcome = runtime.block_on(work);
    // A thread that reads standard input or stores a last object must not delay the end.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    outcome
}

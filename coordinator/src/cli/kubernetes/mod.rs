//! `coordinator kubernetes`: runs as Kubernetes Jobs.
//!
//! ```text
//! pod   what every pod of a Job runs: a worker, and the coordinator in the pod with index 0
//! ```

mod pod;

use clap::Subcommand;
use std::process::ExitCode;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Run one pod of an Indexed Job: a worker, and the coordinator in the pod with index 0
    Pod(pod::Arguments),
}

pub(super) fn run(command: Command) -> ExitCode {
    match command {
        Command::Pod(arguments) => pod::run(arguments),
    }
}

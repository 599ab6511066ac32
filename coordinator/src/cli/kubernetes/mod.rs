//! `coordinator kubernetes`: runs as Kubernetes Jobs.
//!
//! ```text
//! render        prints the objects of a Job, which `manifest` makes
//! credentials   prints a Secret with the certificates of a Job
//! pod           what every pod of a Job runs: a worker, and the coordinator in the pod with index 0
//! ```

mod credentials;
mod manifest;
mod pod;
mod render;

use super::{block_on, exit_code};

use clap::Subcommand;
use std::process::ExitCode;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Print a Job for a run, to be applied with kubectl: the Job, its Service and its ConfigMap
    Render(Box<render::Arguments>),
    /// Print a Secret with certificates for a Job; it contains a private key
    Credentials(credentials::Arguments),
    /// Run one pod of an Indexed Job: a worker, and the coordinator in the pod with index 0
    Pod(Box<pod::Arguments>),
}

pub(super) fn run(command: Command) -> ExitCode {
    match command {
        Command::Render(arguments) => exit_code(block_on(render::render(*arguments))),
        Command::Credentials(arguments) => exit_code(credentials::print(&arguments)),
        Command::Pod(arguments) => pod::run(&arguments),
    }
}

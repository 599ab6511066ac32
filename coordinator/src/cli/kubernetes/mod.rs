//! `coordinator kubernetes`: runs as Kubernetes Jobs.
//!
//! ```text
//! render        prints the objects of a Job, which `manifest` makes
//! credentials   prints a Secret with the certificates of a Job
//! pod           what every pod of a Job runs: a worker, and the coordinator in the pod with index 0
//! ```
//!
//! With `--launch kubernetes`, the commands of a standing coordinator are about Jobs:
//!
//! ```text
//! submit        launch     creates the objects
//! watch         follow     what Kubernetes does with a Job, and what its first pod prints
//! list, status, cancel     view
//! ```

mod credentials;
mod follow;
mod grace;
mod launch;
mod manifest;
mod place;
mod pod;
mod progress;
mod render;
mod view;

pub(super) use follow::watch;
pub(super) use launch::{Asked, submit};
pub(super) use place::Place;
pub(super) use render::Options;
pub(super) use view::{cancel, list, status};

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

//! `coordinator generate`: runs `worker generate`, since this program knows no tensors.

use super::{Blame, Exit, Outcome};
use crate::launch;
use anyhow::Context;
use clap::Args;
use proto::print;
use std::process::Command;

#[derive(Args)]
pub(super) struct Arguments {
    /// A model folder and a prompt, then any option of `worker generate`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, num_args = 0..)]
    arguments: Vec<String>,
}

pub(super) fn generate(arguments: Arguments) -> Outcome {
    let program = launch::program().blame(Exit::Infrastructure)?;
    let status = Command::new(&program)
        .arg("generate")
        .args(arguments.arguments)
        .status()
        .with_context(|| format!("`{}` cannot be started", program.display()))
        .blame(Exit::Infrastructure)?;
    Ok(match status.code() {
        Some(0) => Exit::Done,
        Some(2) => Exit::User,
        Some(code) if code == i32::from(print::EXIT_UNREAD) => Exit::Unread,
        _ => Exit::Infrastructure,
    })
}

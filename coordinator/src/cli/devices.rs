//! The devices of local workers, as `--devices` and `--workers` ask for them.

use super::{Blame, Exit, Refusal};
use crate::launch;
use anyhow::anyhow;
use proto::spec::Spec;
use std::path::Path;

/// The devices as the `worker` program takes them, and the number of workers that they are.
pub(super) async fn chosen(
    devices: &str,
    workers: Option<u32>,
    spec: &Spec,
    program: &Path,
) -> Result<(String, u32), Refusal> {
    if devices == "cpu" {
        let workers = workers.unwrap_or(spec.workers().min);
        return Ok((format!("cpu:{workers}"), workers));
    }
    let count = launch::count(program, devices).await.blame(Exit::User)?;
    match workers {
        Some(asked) if asked != count => {
            let error = anyhow!(
                "`--devices {devices}` is {count} workers, but `--workers` asks for {asked}\n\
                 hint: leave out `--workers`, or name as many GPUs"
            );
            Err(Refusal { exit: Exit::User, error })
        }
        _ => Ok((devices.to_owned(), count)),
    }
}

//! `coordinator doctor`: checks whether a folder or a store is suitable for runs, and whether this host's GPUs are. It
//! tries everything that Muster relies on of a store, in a scratch folder that it deletes again.

mod checks;
mod gpus;

use super::{Blame, Exit, Outcome};
use checks::{Finding, Verdict, examine};
use clap::Args;
use proto::print;
use storage::Storage;

#[derive(Args)]
pub(super) struct Arguments {
    /// The place to check: a folder, s3://bucket/prefix, gs://... or az://...; about 100 MiB are written and deleted
    #[arg(env = "MUSTER_OUTPUT", default_value = "./runs")]
    url: String,
    /// Devices that workers on this host should have: cpu, cuda:all, or GPUs by number, such as cuda:0,3
    #[arg(long, default_value = "cpu")]
    devices: String,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

pub(super) async fn doctor(arguments: Arguments) -> Outcome {
    let storage = Storage::open(&arguments.url).blame(Exit::User)?;
    super::probe(&storage, "it cannot hold runs").await?;
    let mut printed = Ok(());
    let mut report = |finding: &Finding| {
        if !arguments.json && printed.is_ok() {
            printed = print::line(finding);
        }
    };
    let mut findings = examine(&storage, &mut report).await;
    let gpus = gpus::examine(&arguments.devices).await;
    report(&gpus);
    findings.push(gpus);
    printed?;
    let fits = |f: &Finding| f.verdict != Verdict::No || !f.needed;
    let fit = findings.iter().all(fits);
    if arguments.json {
        let report = serde_json::json!({"url": storage.url(), "fit": fit, "checks": findings});
        print::line(report)?;
    } else if fit {
        print::line(format_args!("{} can hold runs", storage.url()))?;
    } else {
        let (of_store, of_host) = findings.split_at(findings.len() - 1);
        if !of_store.iter().all(fits) {
            print::line(format_args!("{} cannot hold runs", storage.url()))?;
        }
        if !of_host.iter().all(fits) {
            print::line(format_args!("workers on this host cannot use {}", arguments.devices))?;
        }
    }
    Ok(if fit { Exit::Done } else { Exit::Infrastructure })
}

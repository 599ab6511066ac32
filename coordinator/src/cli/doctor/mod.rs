//! `coordinator doctor`: checks whether a folder or a store is suitable for runs. It tries everything that Muster
//! relies on, in a scratch folder that it deletes again.

mod checks;

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
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

pub(super) async fn doctor(arguments: Arguments) -> Outcome {
    let storage = Storage::open(&arguments.url).blame(Exit::User)?;
    super::probe(&storage, "it cannot hold runs").await?;
    let mut printed = Ok(());
    let report = |finding: &Finding| {
        if !arguments.json && printed.is_ok() {
            printed = print::line(finding);
        }
    };
    let findings = examine(&storage, report).await;
    printed?;
    let fit = findings.iter().all(|f| f.verdict != Verdict::No || !f.needed);
    if arguments.json {
        let report = serde_json::json!({"url": storage.url(), "fit": fit, "checks": findings});
        print::line(report)?;
    } else if fit {
        print::line(format_args!("{} can hold runs", storage.url()))?;
    } else {
        print::line(format_args!("{} cannot hold runs", storage.url()))?;
    }
    Ok(if fit { Exit::Done } else { Exit::Infrastructure })
}

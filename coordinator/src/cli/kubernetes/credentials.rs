//! `coordinator kubernetes credentials`: prints a Secret with the certificates of a Job.
//!
//! All pods of a Job use the same certificate. Its authority exists only while this command runs, so that nobody can
//! issue another one.

use super::manifest;
use crate::cli::certs::{Authority, Issued, Wanted, host_name, uri};
use crate::cli::{Blame, Exit, Outcome, Refusal};
use crate::service::certificate;
use crate::service::grants::Scope;
use clap::Args;
use proto::print;
use serde_json::{Value, json};

#[derive(Args)]
pub(in crate::cli) struct Arguments {
    /// Name of the run, as `render --run` has it
    run: String,
    /// Number of the Job for this run
    #[arg(long, default_value_t = 1)]
    attempt: u32,
    /// Namespace [default: the one that kubectl uses]
    #[arg(long)]
    namespace: Option<String>,
    /// Number of days for which the certificate is valid
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(i64).range(1..=3650))]
    days: i64,
}

pub(super) fn print(arguments: &Arguments) -> Outcome {
    let Arguments { run, attempt, namespace, days } = arguments;
    let job = manifest::job_name(run, *attempt);
    let secret = secret(&job, namespace.as_deref(), *days)?;
    let text = serde_yaml_ng::to_string(&secret).blame(Exit::Infrastructure)?;
    print::text(format_args!("---\n{text}"))?;
    Ok(Exit::Done)
}

/// A Secret with new certificates for a Job.
pub(super) fn secret(job: &str, namespace: Option<&str>, days: i64) -> Result<Value, Refusal> {
    // The last names are those of the probes and of `kubectl port-forward`.
    let hosts = [manifest::first_host(job), "localhost".into(), "127.0.0.1".into(), "::1".into()];
    let mut names = hosts.iter().map(|host| host_name(host)).collect::<Result<Vec<_>, _>>()?;
    names.push(uri(&certificate::uri(Scope::Join, &format!("{job}-")))?);
    let authority = Authority::make()?;
    let wanted = Wanted { common: job, names, server: true, days };
    let Issued { certificate, key } = authority.issue(wanted)?;
    let mut secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": manifest::credentials_name(job) },
        "type": "kubernetes.io/tls",
        "stringData": { "tls.crt": certificate, "tls.key": key, "ca.crt": authority.certificate },
    });
    if let Some(namespace) = namespace {
        secret["metadata"]["namespace"] = json!(namespace);
    }
    Ok(secret)
}

//! `coordinator kubernetes render`: prints the objects of a Job.

use super::manifest::{self, Job, Placement, Resources, Secrets};
use crate::cli::typed::Typed;
use crate::cli::{Blame, Exit, Outcome, Refusal};
use crate::runtime::naming;
use anyhow::anyhow;
use clap::Args;
use proto::print;
use proto::spec::{Location, Spec, duration};
use std::path::PathBuf;
use std::time::Duration;

/// The longest name of a Job whose pods' host names, with up to four digits of index, are valid.
const NAME: usize = 58;

#[derive(Args)]
pub(in crate::cli) struct Arguments {
    /// The run spec, a YAML file or an object such as s3://bucket/run.yaml
    spec: PathBuf,
    /// Image with the programs of Muster; a digest (IMAGE@sha256:...) names it for good
    #[arg(long)]
    image: String,
    /// Number of pods; each has a worker, or one per GPU [default: the spec's workers.min]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    workers: Option<u32>,
    /// Number of GPUs of each pod
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=64))]
    gpus: u32,
    /// Name of the run; with the name of an existing run, the Job continues it [default: a new name]
    #[arg(long, value_name = "NAME")]
    run: Option<String>,
    /// Number of the Job for this run; a Job's name is RUN-ATTEMPT
    #[arg(long, default_value_t = 1)]
    attempt: u32,
    /// Namespace [default: the one that kubectl uses]
    #[arg(long)]
    namespace: Option<String>,
    /// CPUs of each pod, such as 8 or 500m
    #[arg(long, value_name = "QUANTITY")]
    cpu: Option<String>,
    /// Memory of each pod, such as 64Gi
    #[arg(long, value_name = "QUANTITY")]
    memory: Option<String>,
    /// Size limit of /dev/shm, which counts as memory
    #[arg(long, value_name = "QUANTITY", default_value = "1Gi")]
    shm: String,
    /// Size limit of the folders for downloaded models and temporary files
    #[arg(long, value_name = "QUANTITY", default_value = "20Gi")]
    scratch: String,
    /// Secret with the certificates of the Job (tls.crt, tls.key, ca.crt) [default:
    /// RUN-ATTEMPT-credentials, which `coordinator kubernetes credentials` makes]
    #[arg(long, value_name = "NAME", conflicts_with = "insecure")]
    credentials: Option<String>,
    /// Work without encryption and without credentials
    #[arg(long)]
    insecure: bool,
    /// Secret whose entries become environment variables, such as AWS_ACCESS_KEY_ID; may be repeated
    #[arg(long = "env-secret", value_name = "NAME")]
    env_secrets: Vec<String>,
    /// Environment variable of the pods, such as HTTPS_PROXY=http://proxy:3128; may be repeated
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = pair)]
    environment: Vec<(String, String)>,
    /// Label that a node must have; may be repeated
    #[arg(long = "node-selector", value_name = "LABEL=VALUE", value_parser = pair)]
    node_selector: Vec<(String, String)>,
    /// Taint that the pods tolerate; may be repeated
    #[arg(long = "toleration", value_name = "KEY[=VALUE][:EFFECT]", value_parser = toleration)]
    tolerations: Vec<[String; 3]>,
    /// Run all pods on nodes with the same value of this label, such as topology.kubernetes.io/zone
    #[arg(long, value_name = "LABEL")]
    colocate: Option<String>,
    /// Priority class of the pods
    #[arg(long, value_name = "NAME")]
    priority_class: Option<String>,
    /// Secret with the credentials of the image's registry; may be repeated
    #[arg(long = "pull-secret", value_name = "NAME")]
    pull_secrets: Vec<String>,
    /// Service account of the pods
    #[arg(long, value_name = "NAME")]
    service_account: Option<String>,
    /// Kueue's local queue; the Job is created suspended, and Kueue admits it
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// How long workers may take to leave when a pod is evicted: the time of a step and of storing a checkpoint
    #[arg(long, value_name = "DURATION", default_value = "120s", value_parser = duration::parse)]
    grace: Duration,
}

pub(super) async fn render(arguments: Arguments) -> Outcome {
    let Typed { spec, .. } = Typed::read(&arguments.spec).await?;
    let job = job(arguments, spec)?;
    for object in job.objects() {
        print::text("---\n")?;
        print::text(serde_yaml_ng::to_string(&object).expect("an object is YAML"))?;
    }
    Ok(Exit::Done)
}

/// What the arguments ask for.
fn job(arguments: Arguments, spec: Spec) -> Result<Job, Refusal> {
    if let Location::File(path) = spec.output() {
        let path = path.display();
        let error = anyhow!(
            "output: `{path}` is a folder, which the pods of a Job do not share\n\
             hint: name a bucket, such as s3://bucket/prefix"
        );
        return Err(error).blame(Exit::User);
    }
    let pods = arguments.workers.unwrap_or(spec.workers().min);
    let ranks = pods * arguments.gpus.max(1);
    // The run waits for all pods, as they have been asked for.
    let spec = spec.with_workers(ranks, ranks);
    let run = arguments.run.unwrap_or_else(|| naming::fresh(&spec).to_string());
    let name = manifest::job_name(&run, arguments.attempt);
    let credentials = arguments.credentials.unwrap_or_else(|| manifest::credentials_name(&name));
    let job = Job {
        attempt: arguments.attempt,
        namespace: arguments.namespace,
        spec_yaml: spec.resolved_yaml(),
        image: arguments.image,
        pods,
        placement: Placement {
            node_selector: arguments.node_selector,
            tolerations: arguments.tolerations,
            colocate: arguments.colocate,
            priority_class: arguments.priority_class,
            service_account: arguments.service_account,
        },
        resources: Resources {
            cpu: arguments.cpu,
            memory: arguments.memory,
            gpus: arguments.gpus,
            shared_memory: arguments.shm,
            scratch: arguments.scratch,
        },
        secrets: Secrets {
            credentials: (!arguments.insecure).then_some(credentials),
            environment: arguments.env_secrets,
            pull: arguments.pull_secrets,
        },
        environment: arguments.environment,
        grace: arguments.grace,
        queue: arguments.queue,
        run,
    };
    let is_label = name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !name.starts_with('-')
        && name.len() <= NAME;
    if !is_label {
        let error = anyhow!(
            "`{name}` cannot be the name of a Job: it must have at most {NAME} characters, lower-case letters, digits \
             and hyphens\n\
             hint: choose another `name` in the spec, or another --run"
        );
        return Err(error).blame(Exit::User);
    }
    Ok(job)
}

fn pair(text: &str) -> anyhow::Result<(String, String)> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let (name, value) = pair.ok_or_else(|| anyhow!("write NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

fn toleration(text: &str) -> anyhow::Result<[String; 3]> {
    let (taint, effect) = text.rsplit_once(':').unwrap_or((text, ""));
    anyhow::ensure!(
        ["", "NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect),
        "the effect must be NoSchedule, PreferNoSchedule or NoExecute, got `{effect}`"
    );
    let (key, value) = taint.split_once('=').unwrap_or((taint, ""));
    anyhow::ensure!(!key.is_empty(), "write KEY, KEY=VALUE or KEY=VALUE:EFFECT");
    Ok([key, value, effect].map(str::to_owned))
}

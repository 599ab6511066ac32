//! `coordinator kubernetes render`: prints the objects of a Job.

use super::grace::{self, Wanted};
use super::manifest::{self, Job, Placement, Resources, Secrets};
use crate::cli::typed::Typed;
use crate::cli::{Blame, Exit, Outcome, Refusal};
use crate::runtime::naming;
use anyhow::anyhow;
use clap::Args;
use proto::print;
use proto::spec::{Location, Spec, bytes, duration};
use std::path::PathBuf;
use std::time::Duration;

/// The longest name of a Job whose pods' host names, with up to four digits of index, are valid.
const NAME: usize = 58;

#[derive(Args)]
pub(in crate::cli) struct Arguments {
    /// The run spec, a YAML file or an object such as s3://bucket/run.yaml
    spec: PathBuf,
    /// Namespace [default: the one that kubectl uses]
    #[arg(long)]
    namespace: Option<String>,
    /// Work without encryption and without credentials
    #[arg(long, conflicts_with = "credentials_secret")]
    insecure: bool,
    #[command(flatten)]
    options: Options,
}

/// What a Job can be asked for.
#[derive(Args)]
#[command(next_help_heading = "Options of a Job")]
pub(in crate::cli) struct Options {
    /// Image with the programs of Muster; a digest (IMAGE@sha256:...) names it for good
    #[arg(long)]
    image: Option<String>,
    /// Number of pods; each has a worker, or one per GPU [default: the spec's workers.min]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    workers: Option<u32>,
    /// Number of GPUs of each pod
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=64))]
    gpus: u32,
    /// Name of the run; with the name of an existing run, the Job continues it [default: a new name]
    #[arg(long, value_name = "NAME")]
    pub(super) run: Option<String>,
    /// Number of the Job for this run; a Job's name is RUN-ATTEMPT [default: 1]
    #[arg(long)]
    pub(super) attempt: Option<u32>,
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
    /// Secret with the certificates of the Job (tls.crt, tls.key, ca.crt) [default: RUN-ATTEMPT-credentials, which
    /// `coordinator kubernetes credentials` prints, and --launch kubernetes makes]
    #[arg(long, value_name = "NAME")]
    pub(super) credentials_secret: Option<String>,
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
    /// [default: 120s, or derived from --upload-rate]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    grace: Option<Duration>,
    /// How much a pod writes to the store in a second, such as 200MB; the grace is derived from it and the size of a
    /// checkpoint
    #[arg(long, value_name = "SIZE", value_parser = size)]
    upload_rate: Option<u64>,
    /// Let NCCL send gradients between pods, which it does without encryption
    #[arg(long)]
    trust_network: bool,
}

pub(super) async fn render(arguments: Arguments) -> Outcome {
    let Arguments { spec, namespace, insecure, options } = arguments;
    let Typed { spec, .. } = Typed::read(&spec).await?;
    let job = job(options, spec, namespace, insecure).await?;
    for object in job.objects() {
        print::text("---\n")?;
        print::text(serde_yaml_ng::to_string(&object).expect("an object is YAML"))?;
    }
    Ok(Exit::Done)
}

/// What the options ask for.
pub(super) async fn job(
    options: Options,
    spec: Spec,
    namespace: Option<String>,
    insecure: bool,
) -> Result<Job, Refusal> {
    let Some(image) = options.image.clone() else {
        let error = anyhow!("--image must name the image with the programs of Muster");
        return Err(error).blame(Exit::User);
    };
    if let Location::File(path) = spec.output() {
        let path = path.display();
        let error = anyhow!(
            "output: `{path}` is a folder, which the pods of a Job do not share\n\
             hint: name a bucket, such as s3://bucket/prefix"
        );
        return Err(error).blame(Exit::User);
    }
    let pods = options.workers.unwrap_or(spec.workers().min);
    if pods > 1 && options.gpus > 0 && !options.trust_network && !insecure {
        return Err(untrusted()).blame(Exit::User);
    }
    let wanted = Wanted { grace: options.grace, upload_rate: options.upload_rate, pods };
    let grace = grace::choose(&spec, wanted).await?;
    let ranks = pods * options.gpus.max(1);
    // The run waits for all pods, as they have been asked for.
    let spec = spec.with_workers(ranks, ranks);
    let run = options.run.unwrap_or_else(|| naming::fresh(&spec).to_string());
    let attempt = options.attempt.unwrap_or(1);
    let name = manifest::job_name(&run, attempt);
    let own_secret = || manifest::credentials_name(&name);
    let credentials = options.credentials_secret.unwrap_or_else(own_secret);
    let mut environment = options.environment;
    if options.trust_network {
        environment.push(("MUSTER_TRUST_NETWORK".to_owned(), "true".to_owned()));
    }
    let job = Job {
        attempt,
        namespace,
        spec_yaml: spec.resolved_yaml(),
        image,
        pods,
        placement: Placement {
            node_selector: options.node_selector,
            tolerations: options.tolerations,
            colocate: options.colocate,
            priority_class: options.priority_class,
            service_account: options.service_account,
        },
        resources: Resources {
            cpu: options.cpu,
            memory: options.memory,
            gpus: options.gpus,
            shared_memory: options.shm,
            scratch: options.scratch,
        },
        secrets: Secrets {
            credentials: (!insecure).then_some(credentials),
            environment: options.env_secrets,
            pull: options.pull_secrets,
        },
        environment,
        grace,
        queue: options.queue,
        run,
    };
    check_name(&name)?;
    Ok(job)
}

/// The error for GPUs of several pods in a network that nobody has called trusted.
fn untrusted() -> anyhow::Error {
    anyhow!(
        "GPUs of several pods exchange gradients through NCCL, which cannot encrypt\n\
         hint: write --trust-network if nobody else can read or change what the cluster's network carries"
    )
}

/// Checks that a Job and its pods can have this name.
fn check_name(name: &str) -> Result<(), Refusal> {
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
    Ok(())
}

fn pair(text: &str) -> anyhow::Result<(String, String)> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let (name, value) = pair.ok_or_else(|| anyhow!("write NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

fn size(text: &str) -> anyhow::Result<u64> {
    let parsed = bytes::parse(text).filter(|size| *size > 0);
    parsed.ok_or_else(|| anyhow!("expected a size such as `200MB` or `1GiB`, got `{text}`"))
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

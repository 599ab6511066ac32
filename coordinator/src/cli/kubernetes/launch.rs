//! `submit --launch kubernetes`: creates the objects that `render` prints, and follows the Job.

use super::place::{Place, refused};
use super::render::{self, Options};
use super::{credentials, follow};
use crate::cli::typed::Typed;
use crate::cli::{Blame, Exit, Outcome, Refusal};
use ::kubernetes::{Cluster, Launched, Objects, State};
use anyhow::anyhow;
use proto::print;
use serde_json::{Value, json};
use std::path::Path;

/// Validity, in days, of certificates that `submit` makes.
const DAYS: i64 = 90;

/// What the arguments of `submit` ask for beside the Job.
pub(in crate::cli) struct Asked<'a> {
    pub(in crate::cli) spec: Option<&'a Path>,
    /// The run that the Job continues.
    pub(in crate::cli) resume: Option<String>,
    pub(in crate::cli) insecure: bool,
    pub(in crate::cli) follow: bool,
    pub(in crate::cli) json: bool,
}

pub(in crate::cli) async fn submit(asked: Asked<'_>, options: Options, place: &Place) -> Outcome {
    let Some(spec) = asked.spec else {
        let error = anyhow!("--launch kubernetes needs the spec, also to continue a run");
        return Err(error).blame(Exit::User);
    };
    let Typed { spec, .. } = Typed::read(spec).await?;
    let cluster = place.connect().await?;
    let is_named = options.run.is_some() || asked.resume.is_some();
    let options = match asked.resume {
        Some(run) => next_attempt(&cluster, run, options).await?,
        None => options,
    };
    let brings_credentials = options.credentials_secret.is_some();
    let namespace = place.namespace.clone();
    let job = render::job(options, spec, namespace, asked.insecure).await?;
    let mut objects: Vec<Value> = job.objects().into();
    if !asked.insecure && !brings_credentials {
        objects.push(credentials::secret(&job.name(), place.namespace.as_deref(), DAYS)?);
    }
    if !is_named {
        // Another command would draw another name.
        print::note(format_args!("run {}; to repeat this command, add --run {0}", job.run));
    }
    let launched = cluster.launch(Objects::new(objects).map_err(refused)?).await;
    let launched = launched.map_err(refused)?;
    say(&launched, &job.run, job.attempt, &cluster, asked.json)?;
    if asked.follow {
        return follow::follow((&cluster, place), &job.run, &launched.job, asked.json).await;
    }
    Ok(Exit::Done)
}

/// The options for the Job that continues a run. Its number is that after the last one. While the last one has not
/// ended, it keeps that number: then the same command finds its own Job again, and another one is refused.
async fn next_attempt(
    cluster: &Cluster,
    run: String,
    mut options: Options,
) -> Result<Options, Refusal> {
    if options.run.is_some() || options.attempt.is_some() {
        let error = anyhow!("--resume chooses the name of the Job; leave out --run and --attempt");
        return Err(error).blame(Exit::User);
    }
    let known = cluster.job(&run).await.map_err(refused)?;
    let numbered = known.iter().filter_map(|job| Some((job.attempt?, &job.state)));
    let Some((last, state)) = numbered.max_by_key(|(attempt, _)| *attempt) else {
        let error = anyhow!(
            "no Job of run `{run}` in namespace `{}`\n\
             hint: if its Jobs were deleted, --run and --attempt name the next one",
            cluster.namespace()
        );
        return Err(error).blame(Exit::User);
    };
    options.run = Some(run);
    let has_ended = state.is_final() || *state == State::Deleting;
    options.attempt = Some(if has_ended { last + 1 } else { last });
    Ok(options)
}

fn say(
    launched: &Launched,
    run: &str,
    attempt: u32,
    cluster: &Cluster,
    as_json: bool,
) -> Result<(), Refusal> {
    let (job, namespace) = (&launched.job, cluster.namespace());
    if as_json {
        let line = json!({ "run": run, "attempt": attempt, "job": job, "namespace": namespace });
        return Ok(print::line(line)?);
    }
    print::line(run)?;
    let existed = if launched.existed { " existed already" } else { "" };
    print::note(format_args!("Job {job} in namespace {namespace}{existed}"));
    if launched.suspended {
        print::note("it is suspended until its queue admits it");
    }
    Ok(())
}

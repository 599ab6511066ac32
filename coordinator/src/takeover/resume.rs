//! Finds the run that `--resume` means. It never is a pool's run, nor one that another coordinator is working on.

use super::holder::{self, Held};
use crate::checkpoints;
use crate::runtime::journal;
use proto::event::{Fact, Holder, Journaled, PoolEvent};
use proto::id::RunId;
use proto::key;
use proto::protocol::Dismissal;
use proto::spec::{self, Spec, compatible_for_resume};
use std::collections::BTreeSet;
use storage::Storage;
use thiserror::Error;
use wire::credentials::Credentials;

/// Why no run can be resumed.
#[derive(Debug, Error)]
pub enum Error {
    /// No run of that name can go on.
    #[error(
        "no run of `{name}` under `{url}` can be resumed\nhint: leave --resume out to start one"
    )]
    Nothing {
        /// The spec's name.
        name: String,
        /// The output.
        url: String,
    },
    /// All runs of that name that could go on belong to a pool.
    #[error(
        "run `{run}` belongs to the pool under `{url}`, and only the pool's coordinator goes on with it\n\
         hint: `coordinator watch {run}` follows it while it is going on; if it ended without success, \
         `coordinator submit --resume {run}` starts another attempt; leave --resume out to start a new run here"
    )]
    OfPool {
        /// The newest of these runs.
        run: RunId,
        /// The output.
        url: String,
    },
    /// Another coordinator is working on the run.
    #[error(transparent)]
    Held(#[from] Held),
    /// The spec differs in something that a resumed run must keep.
    #[error("run `{run}` cannot be resumed with this spec")]
    Changed {
        /// The run.
        run: RunId,
        /// What differs.
        #[source]
        source: Box<spec::Error>,
    },
    /// A journal cannot be replayed.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// An error of the store.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

/// A run that can go on.
#[derive(Debug)]
pub struct Resumable {
    /// The run.
    pub run: RunId,
    /// The given spec, with the run's original date and with the revisions of hub names that it began with.
    pub spec: Spec,
    /// The holder that claimed the run last.
    pub before: Option<Holder>,
    /// Whether to take over the run even if that holder is still working on it.
    pub take_over: bool,
    /// The credentials with which that holder is asked.
    pub credentials: Credentials,
}

/// What is known of a run that is named.
#[derive(Debug)]
pub enum Known {
    /// There is no such run yet.
    New,
    /// It has ended in this way.
    Ended(Dismissal),
    /// It can go on.
    Resumable(Box<Resumable>),
}

/// Looks up the run of this name, to go on with it, even if another coordinator is still working on it. An end that a
/// coordinator on another host has written does not stop a run that failed: it may be tried again.
///
/// # Errors
/// [`Error::Changed`] if the spec does not fit the run, or an error of the store.
pub async fn look_up(
    storage: &Storage,
    run: &RunId,
    spec: Spec,
    credentials: Credentials,
) -> Result<Known, Error> {
    let history = journal::read::<Fact>(storage, &key::journal(run)).await?;
    let before = history.iter().rev().find_map(Fact::claimed_by).cloned();
    if let Some(how) = how_ended(&history) {
        let elsewhere = before.as_ref().is_none_or(|before| before.host != holder::host());
        if !elsewhere || !matches!(how, Dismissal::Failed(_)) {
            return Ok(Known::Ended(how));
        }
    }
    let yaml = history.iter().rev().find_map(|fact| match fact {
        Fact::Submitted { spec_yaml } | Fact::Resumed { spec_yaml, .. } => Some(spec_yaml.as_str()),
        _ => None,
    });
    let Some(yaml) = yaml else { return Ok(Known::New) };
    let changed = |source| Error::Changed { run: run.clone(), source: Box::new(source) };
    let old = Spec::from_resolved(yaml).map_err(changed)?;
    let spec = spec.dated(old.data().date).pinned_as(&old);
    compatible_for_resume(&old, &spec).map_err(changed)?;
    let run = run.clone();
    let found = Resumable { run, spec, before, take_over: true, credentials };
    Ok(Known::Resumable(Box::new(found)))
}

/// How the run of a history has ended; `None` if it has not, or can be continued.
pub fn how_ended(history: &[Fact]) -> Option<Dismissal> {
    let end = |fact: &Fact| match fact {
        Fact::Succeeded { .. } => Some(Some(Dismissal::Succeeded)),
        Fact::Failed { kind, .. } => Some(Some(Dismissal::Failed(*kind))),
        Fact::Cancelled => Some(Some(Dismissal::Cancelled)),
        Fact::Resumed { .. } | Fact::Claimed { .. } | Fact::Paused { .. } => Some(None),
        _ => None,
    };
    history.iter().rev().find_map(end).flatten()
}

/// Finds the newest run of this spec's name that was not cancelled, has not succeeded, and does not belong to a pool.
///
/// # Errors
/// [`Error::Nothing`] or [`Error::OfPool`] if there is none, [`Error::Changed`] if the spec does not fit the run,
/// [`Error::Held`] if another coordinator is working on it, unless `take_over`.
pub async fn find(
    storage: &Storage,
    spec: Spec,
    take_over: bool,
    credentials: Credentials,
) -> Result<Resumable, Error> {
    let prefix = format!("{}-", spec.name());
    let pool = pool(storage).await?;
    let mut of_pool = None;
    let folders = storage.folders("").await?;
    // A run's name ends in date, time and a random mark, so sorted names are sorted by time.
    for name in folders.into_iter().rev().filter(|n| is_run_of(n, &prefix)) {
        let run = RunId::new(name);
        let history = journal::read::<Fact>(storage, &key::journal(&run)).await?;
        if checkpoints::is_over(&history) && !pool.contains(&run) {
            continue;
        }
        if pool.contains(&run) {
            of_pool.get_or_insert(run);
            continue;
        }
        let yaml = history.iter().rev().find_map(|e| match e {
            Fact::Submitted { spec_yaml } | Fact::Resumed { spec_yaml, .. } => {
                Some(spec_yaml.as_str())
            }
            _ => None,
        });
        let Some(yaml) = yaml else { continue };
        let changed = |source| Error::Changed { run: run.clone(), source: Box::new(source) };
        let old = Spec::from_resolved(yaml).map_err(changed)?;
        let spec = spec.dated(old.data().date).pinned_as(&old);
        compatible_for_resume(&old, &spec).map_err(changed)?;
        let before = history.iter().rev().find_map(Fact::claimed_by).cloned();
        if !take_over && let Some(before) = &before {
            holder::leave_run(before, &run, &credentials).await?;
        }
        return Ok(Resumable { run, spec, before, take_over, credentials });
    }
    let url = storage.url().to_owned();
    Err(match of_pool {
        Some(run) => Error::OfPool { run, url },
        None => Error::Nothing { name: spec.name().to_owned(), url },
    })
}

/// The runs of the pool that has the same output.
async fn pool(storage: &Storage) -> Result<BTreeSet<RunId>, Error> {
    let run = |event| match event {
        PoolEvent::Submitted { run, .. } => Some(run),
        PoolEvent::Opened { .. } | PoolEvent::Resumed { .. } => None,
    };
    let past = journal::read::<PoolEvent>(storage, key::POOL_JOURNAL).await?;
    Ok(past.into_iter().filter_map(run).collect())
}

/// Whether a folder's name consists of the prefix, a date, a time and a mark.
fn is_run_of(folder: &str, prefix: &str) -> bool {
    folder
        .strip_prefix(prefix)
        .is_some_and(|rest| rest.split('-').map(str::len).eq([8, 6, 4]) && rest.is_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::journal::Journal;

    #[test]
    fn a_run_belongs_to_the_spec_with_exactly_its_name() {
        assert!(is_run_of("a-20261121-034500-1f2e", "a-"));
        assert!(!is_run_of("a-b-20261121-034500-1f2e", "a-"));
        assert!(!is_run_of("a-20261121", "a-"));
    }

    #[tokio::test]
    async fn a_resumed_run_keeps_its_day_unless_the_user_names_another() {
        let output = tempfile::tempdir().expect("a folder");
        let storage = Storage::open(&output.path().to_string_lossy()).expect("opens");
        let spec = |date: &str| {
            let yaml = format!(
                "name: a\nmodel: {{base: m}}\ndata: {{train: [{{source: d}}]{date}}}\noutput: {}\n",
                output.path().display()
            );
            spec::parse(&yaml, output.path()).expect("valid")
        };
        let started = spec(", date: 2026-11-20");
        let run = RunId::new("a-20261120-034500-1f2e");
        let (mut journal, _) =
            Journal::open::<Fact>(&storage, key::journal(&run)).await.expect("opens");
        let submitted = Fact::Submitted { spec_yaml: started.resolved_yaml() };
        journal.append(vec![submitted]).await.expect("stored");

        let found = find(&storage, spec(""), false, Credentials::none()).await.expect("the run");
        assert_eq!((found.run, &found.spec), (run.clone(), &started));
        let refused = find(&storage, spec(", date: 2026-11-21"), false, Credentials::none()).await;
        let refused = refused.expect_err("another day");
        let refused = proto::error::chain(&refused);
        assert!(refused.contains("`data.date` cannot change from `2026-11-20`"), "{refused}");

        // Once the run belongs to a pool, it cannot be resumed here, but an older run can.
        let submitted = PoolEvent::Submitted { run: run.clone(), idempotency_key: "k".into() };
        let (mut pool, _) =
            Journal::open::<PoolEvent>(&storage, key::POOL_JOURNAL.into()).await.expect("opens");
        pool.append(vec![submitted]).await.expect("stored");
        let refused =
            find(&storage, spec(""), true, Credentials::none()).await.expect_err("the pool's");
        assert!(matches!(&refused, Error::OfPool { run: of, .. } if *of == run), "{refused}");
        let older = RunId::new("a-20261119-034500-1f2e");
        let (mut journal, _) =
            Journal::open::<Fact>(&storage, key::journal(&older)).await.expect("opens");
        let submitted = Fact::Submitted { spec_yaml: started.resolved_yaml() };
        journal.append(vec![submitted]).await.expect("stored");
        assert_eq!(
            find(&storage, spec(""), false, Credentials::none()).await.expect("the older").run,
            older
        );
    }
}

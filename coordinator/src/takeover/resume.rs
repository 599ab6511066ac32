//! Which run `--resume` means: never one of a pool, nor one that another coordinator is at.

use super::holder::{self, Held};
use crate::checkpoints;
use crate::runtime::journal;
use proto::event::{Fact, Holder, Journaled, PoolEvent};
use proto::id::RunId;
use proto::key;
use proto::spec::{self, Spec, compatible_for_resume};
use std::collections::BTreeSet;
use storage::Storage;
use thiserror::Error;

/// Why there is nothing to resume.
#[derive(Debug, Error)]
pub enum Error {
    /// No run of that name has anything left to do.
    #[error(
        "no run of `{name}` under `{url}` can be resumed\nhint: leave --resume out to start one"
    )]
    Nothing {
        /// The spec's name.
        name: String,
        /// The output.
        url: String,
    },
    /// The only runs of that name are a pool's.
    #[error(
        "run `{run}` belongs to the pool under `{url}`, and only the pool's coordinator goes on with it\n\
         hint: `coordinator watch {run}` follows it while it is going on; if it ended without success, \
         `coordinator submit --resume {run}` starts another attempt; leave --resume out to start a new run here"
    )]
    OfPool {
        /// The newest of them.
        run: RunId,
        /// The output.
        url: String,
    },
    /// Another coordinator is at it.
    #[error(transparent)]
    Held(#[from] Held),
    /// The spec has changed in what a resumed run must keep.
    #[error("run `{run}` cannot be resumed with this spec")]
    Changed {
        /// The run.
        run: RunId,
        /// What has changed.
        #[source]
        source: Box<spec::Error>,
    },
    /// A journal cannot be replayed.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// The store refused or broke.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

/// A run that can go on.
#[derive(Debug)]
pub struct Resumable {
    /// The run.
    pub run: RunId,
    /// What it goes on under: the given spec, on the run's own day, with the hub's names standing for what they stood
    /// for when it began.
    pub spec: Spec,
    /// Who claimed it last.
    pub before: Option<Holder>,
    /// Whether that one may still be at it.
    pub take_over: bool,
}

/// The newest run of this spec's name that has not ended for good and is no pool's.
///
/// # Errors
/// [`Error::Nothing`] or [`Error::OfPool`] if there is none, [`Error::Changed`] if the spec asks for another run,
/// [`Error::Held`] if another coordinator is at it, unless this one is to `take_over`.
pub async fn find(storage: &Storage, spec: Spec, take_over: bool) -> Result<Resumable, Error> {
    let prefix = format!("{}-", spec.name());
    let pool = pool(storage).await?;
    let mut of_pool = None;
    let folders = storage.folders("").await?;
    // A run's name ends in date, time and mark: sorted names are sorted by time.
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
            holder::leave_run(before, &run).await?;
        }
        return Ok(Resumable { run, spec, before, take_over });
    }
    let url = storage.url().to_owned();
    Err(match of_pool {
        Some(run) => Error::OfPool { run, url },
        None => Error::Nothing { name: spec.name().to_owned(), url },
    })
}

/// The runs of the pool that shares this output.
async fn pool(storage: &Storage) -> Result<BTreeSet<RunId>, Error> {
    let run = |event| match event {
        PoolEvent::Submitted { run, .. } => Some(run),
        PoolEvent::Opened { .. } | PoolEvent::Resumed { .. } => None,
    };
    let past = journal::read::<PoolEvent>(storage, key::POOL_JOURNAL).await?;
    Ok(past.into_iter().filter_map(run).collect())
}

/// Whether a folder's name is the spec's, followed by a date, a time and a mark, and nothing else.
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

        let found = find(&storage, spec(""), false).await.expect("the run");
        assert_eq!((found.run, &found.spec), (run.clone(), &started));
        let refused = find(&storage, spec(", date: 2026-11-21"), false).await;
        let refused = refused.expect_err("another day");
        let refused = proto::error::chain(&refused);
        assert!(refused.contains("`data.date` cannot change from `2026-11-20`"), "{refused}");

        // Once it is a pool's, it is nobody's to resume; an older one is.
        let submitted = PoolEvent::Submitted { run: run.clone(), idempotency_key: "k".into() };
        let (mut pool, _) =
            Journal::open::<PoolEvent>(&storage, key::POOL_JOURNAL.into()).await.expect("opens");
        pool.append(vec![submitted]).await.expect("stored");
        let refused = find(&storage, spec(""), true).await.expect_err("the pool's");
        assert!(matches!(&refused, Error::OfPool { run: of, .. } if *of == run), "{refused}");
        let older = RunId::new("a-20261119-034500-1f2e");
        let (mut journal, _) =
            Journal::open::<Fact>(&storage, key::journal(&older)).await.expect("opens");
        let submitted = Fact::Submitted { spec_yaml: started.resolved_yaml() };
        journal.append(vec![submitted]).await.expect("stored");
        assert_eq!(find(&storage, spec(""), false).await.expect("the older").run, older);
    }
}

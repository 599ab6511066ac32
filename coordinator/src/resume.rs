//! Which run `--resume` means.

use crate::journal::{self, Journal};
use proto::event::Event;
use proto::id::RunId;
use proto::key;
use proto::spec::{self, Spec, compatible_for_resume};
use proto::storage::{self, Storage};
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

/// The newest run of this spec's name that has not ended for good, and the spec that it goes on
/// under: the given one, on the run's own day, with the hub's names standing for what they stood for when it began.
///
/// # Errors
/// [`Error::Nothing`] if there is none, [`Error::Changed`] if the spec asks for another run.
pub async fn find(storage: &Storage, spec: Spec) -> Result<(RunId, Spec), Error> {
    let prefix = format!("{}-", spec.name());
    let folders = storage.folders("").await?;
    // A run's name ends in date, time and mark: sorted names are sorted by time.
    for name in folders.into_iter().rev().filter(|n| is_run_of(n, &prefix)) {
        let run = RunId::new(name);
        let (_, history) = Journal::open::<Event>(storage, key::journal(&run)).await?;
        let ended = |e: &Event| matches!(e, Event::Succeeded { .. } | Event::Cancelled);
        if history.iter().any(ended) {
            continue;
        }
        let yaml = history.iter().rev().find_map(|e| match e {
            Event::Submitted { spec_yaml } => Some(spec_yaml.as_str()),
            _ => None,
        });
        let Some(yaml) = yaml else { continue };
        let changed = |source| Error::Changed { run: run.clone(), source: Box::new(source) };
        let old = Spec::from_resolved(yaml).map_err(changed)?;
        let spec = spec.dated(old.data().date).pinned_as(&old);
        compatible_for_resume(&old, &spec).map_err(changed)?;
        return Ok((run, spec));
    }
    Err(Error::Nothing { name: spec.name().to_owned(), url: storage.url().to_owned() })
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
            Journal::open::<Event>(&storage, key::journal(&run)).await.expect("opens");
        let submitted = Event::Submitted { spec_yaml: started.resolved_yaml() };
        journal.append(vec![submitted]).await.expect("stored");

        let (found, resumed) = find(&storage, spec("")).await.expect("the run");
        assert_eq!((found, &resumed), (run, &started));
        let refused = find(&storage, spec(", date: 2026-11-21")).await.expect_err("another day");
        let refused = proto::error::chain(&refused);
        assert!(refused.contains("`data.date` cannot change from `2026-11-20`"), "{refused}");
    }
}

//! History on object storage: numbered batches of events, each created if absent.
//!
//! Whoever loses a number has been deposed by another writer, and learns it here. Numbers are never reused and entries
//! never deleted, since a deleted number could be created again by a stale writer.
//!
//! Nothing here trusts a listing to be complete: it only says how far the journal reaches at least, and reads go on
//! from there. Nothing trusts a single answer either: an entry that comes damaged is read again, and a write whose
//! outcome is unknown is repeated, the same bytes under the same number, until it is known.

#[cfg(test)]
mod tests;

use bytes::Bytes;
use futures::StreamExt;
use proto::event::{Entry, EntryError, Fact, Holder};
use proto::id;
use proto::key;
use proto::storage::{self, Cause, Created, Patience, Storage};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use thiserror::Error;
use tokio::time::Instant;

/// Entries that are fetched at once while a journal is replayed.
const AHEAD: usize = 16;
/// Reads of an entry that comes damaged, before it is called so.
const READS: usize = 4;
/// How long a write whose outcome is unknown is repeated, beyond the storage's own patience with each attempt: workers
/// go on stepping while the store is away, and those of `coordinator run` would end with it.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// How long one that was refused is: a signature can break on the wire.
const ALLOWED_WITHIN: Duration = Duration::from_secs(2);
/// Pauses between repetitions: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// What can go wrong with a journal.
#[derive(Debug, Error)]
pub enum Error {
    /// Another coordinator has written the entry: this one must stop.
    #[error("another coordinator took over: it wrote `{url}/{key}`{}", hint(.by))]
    Deposed {
        /// The storage.
        url: String,
        /// The entry.
        key: String,
        /// Who, if the entry is a claim; else it is what the one before wrote last.
        by: Option<Holder>,
    },
    /// The journal cannot be replayed.
    #[error("the journal entry `{url}/{key}` cannot be used")]
    Unusable {
        /// The storage.
        url: String,
        /// The entry.
        key: String,
        /// Why.
        #[source]
        source: EntryError,
    },
    /// An entry is not there, and a later one is.
    #[error("the journal entry `{url}/{key}` is missing, though later ones are there")]
    Missing {
        /// The storage.
        url: String,
        /// The entry.
        key: String,
    },
    /// Whether an entry was written cannot be found out.
    #[error(
        "whether `{url}/{key}` was written is unknown after {} seconds\n\
         hint: start again once the storage answers; what was written is then found",
        .waited.as_secs()
    )]
    Unsettled {
        /// The storage.
        url: String,
        /// The entry.
        key: String,
        /// For how long it was tried.
        waited: Duration,
        /// What came of the last attempt.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store refused or broke.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

fn hint(by: &Option<Holder>) -> String {
    let hint = |h: &Holder| format!("\nhint: it is on host `{}` and answers at {}", h.host, h.url);
    by.as_ref().map(hint).unwrap_or_default()
}

/// The writing end of a journal.
pub struct Journal {
    storage: Storage,
    folder: String,
    next: u64,
    settled_within: Duration,
}

impl Journal {
    /// Replays the journal in `folder` and goes on from its end.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Unusable`], [`Error::Storage`].
    pub async fn open<E: Fact>(storage: &Storage, folder: String) -> Result<(Self, Vec<E>), Error> {
        let storage = storage.patient(Patience::Journal)?;
        let (next, events) = replay(&storage, &folder).await?;
        Ok((Self { storage, folder, next, settled_within: SETTLED_WITHIN }, events))
    }

    /// Appends a batch; it is durable when this returns.
    ///
    /// # Errors
    /// [`Error::Deposed`] if another writer holds the number, [`Error::Unsettled`] if the outcome is unknown: the
    /// journal must not be written to then.
    pub async fn append<E: Fact>(&mut self, events: Vec<E>) -> Result<(), Error> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_ms = since.as_millis().try_into().unwrap_or(0);
        // The same bytes whenever it is repeated: what an earlier attempt wrote is known again by its token.
        let body = Bytes::from(Entry { token: id::unique(), at_ms, events }.encode());
        let key = key::journal_entry(&self.folder, self.next);
        let began = Instant::now();
        let (mut pause, longest) = PAUSES;
        loop {
            let (source, within) = match self.storage.create(&key, body.clone()).await {
                Ok(Created::Ours) => {
                    self.next += 1;
                    return Ok(());
                }
                Ok(Created::Theirs(found)) => match claimant::<E>(&found) {
                    Ok(by) => return Err(self.deposed(key, by)),
                    // Ours, perhaps, and damaged on the way back.
                    Err(damage) => (damage.into(), self.settled_within),
                },
                Err(error) if is_refusal(&error) => {
                    let within = self.settled_within.min(ALLOWED_WITHIN);
                    (Box::from(error), within)
                }
                Err(error) => (error.into(), self.settled_within),
            };
            let waited = began.elapsed();
            if waited + pause > within {
                let url = self.storage.url().to_owned();
                return Err(Error::Unsettled { url, key, waited, source });
            }
            tracing::warn!(key, error = proto::error::chain(&*source), "writing it once more");
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(longest);
        }
    }

    /// Makes sure that nobody has written behind this writer's back.
    ///
    /// # Errors
    /// [`Error::Deposed`] if somebody has; [`Error::Unusable`] or [`Error::Storage`] if that cannot be known now.
    pub async fn check<E: Fact>(&self) -> Result<(), Error> {
        let Some(entry) = fetch::<E>(&self.storage, &self.folder, self.next).await? else {
            return Ok(());
        };
        let key = key::journal_entry(&self.folder, self.next);
        Err(self.deposed(key, claim(&entry)))
    }

    /// Where the next entry goes, for a look at it beside the writer.
    pub fn end(&self) -> End {
        let key = key::journal_entry(&self.folder, self.next);
        End { storage: self.storage.clone(), key }
    }

    fn deposed(&self, key: String, by: Option<Holder>) -> Error {
        Error::Deposed { url: self.storage.url().to_owned(), key, by }
    }
}

/// A number that was free when its journal's writer gave it out.
pub struct End {
    storage: Storage,
    key: String,
}

impl End {
    /// Whether there is an entry now: the writer's own, or another's. What cannot be known is no.
    pub async fn is_taken(&self) -> bool {
        matches!(self.storage.head(&self.key).await, Ok(Some(_)))
    }
}

/// Everything that a journal says, for whoever does not write to it.
///
/// # Errors
/// As [`Journal::open`].
pub async fn read<E: Fact>(storage: &Storage, folder: &str) -> Result<Vec<E>, Error> {
    Ok(replay(&storage.patient(Patience::Journal)?, folder).await?.1)
}

/// The number after the last entry, and the events of all.
async fn replay<E: Fact>(storage: &Storage, folder: &str) -> Result<(u64, Vec<E>), Error> {
    let objects = storage.list(folder).await?;
    let numbers = objects.iter().filter_map(|o| key::journal_number(&o.key));
    let mut next = numbers.max().map_or(0, |last| last.saturating_add(1));
    let mut events = Vec::new();
    let mut listed = futures::stream::iter(0..next)
        .map(|number| async move { (number, fetch(storage, folder, number).await) })
        .buffered(AHEAD);
    while let Some((number, entry)) = listed.next().await {
        let (url, key) = (storage.url().to_owned(), key::journal_entry(folder, number));
        let entry: Entry<E> = entry?.ok_or(Error::Missing { url, key })?;
        events.extend(entry.events);
    }
    while let Some(entry) = fetch(storage, folder, next).await? {
        events.extend(entry.events);
        next += 1;
    }
    Ok((next, events))
}

async fn fetch<E: Fact>(
    storage: &Storage,
    folder: &str,
    number: u64,
) -> Result<Option<Entry<E>>, Error> {
    let key = key::journal_entry(folder, number);
    let mut reads = 0;
    loop {
        let bytes = match storage.read(&key).await {
            Err(storage::Error::NotFound { .. }) => return Ok(None),
            read => read?,
        };
        reads += 1;
        match Entry::decode(&bytes) {
            Ok(entry) => return Ok(Some(entry)),
            Err(EntryError::Damaged(_)) if reads < READS => {}
            Err(source) => {
                return Err(Error::Unusable { url: storage.url().to_owned(), key, source });
            }
        }
    }
}

/// Who claims the journal with this entry; an error if the bytes may not be what was written.
fn claimant<E: Fact>(entry: &[u8]) -> Result<Option<Holder>, EntryError> {
    match Entry::<E>::decode(entry) {
        Ok(entry) => Ok(claim(&entry)),
        Err(EntryError::Foreign(_)) => Ok(None),
        Err(damage @ EntryError::Damaged(_)) => Err(damage),
    }
}

fn claim<E: Fact>(entry: &Entry<E>) -> Option<Holder> {
    entry.events.iter().find_map(Fact::claimed_by).cloned()
}

/// Whether the store says that this writer may not, rather than that it could not.
fn is_refusal(error: &storage::Error) -> bool {
    match error {
        storage::Error::Access { source, .. } => match source {
            Cause::Answer { status, .. } => matches!(status, 401 | 403),
            Cause::NoCredentials { .. } | Cause::Region => true,
            Cause::Unreachable { .. } | Cause::Hub(_) | Cause::Store(_) => false,
        },
        storage::Error::Location { .. }
        | storage::Error::NotFound { .. }
        | storage::Error::Changed { .. }
        | storage::Error::Damaged { .. } => false,
    }
}

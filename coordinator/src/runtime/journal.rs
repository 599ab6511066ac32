//! A journal: history in object storage, as numbered batches of events that are each created only if absent.
//!
//! A writer that finds its number taken has been deposed by another writer. Numbers are never reused and entries are
//! never deleted, since a stale writer could create a deleted entry again.
//!
//! A listing need not be complete: it is a lower bound for the journal's length, and reads continue from there. A
//! single reply is not trusted either: a damaged entry is read again, and a write whose outcome is unknown is repeated,
//! with the same bytes under the same number, until its outcome is known.

#[cfg(test)]
mod tests;

use bytes::Bytes;
use futures::StreamExt;
use proto::event::{Entry, EntryError, Holder, Journaled};
use proto::id;
use proto::key;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use storage::{Created, Patience, Storage};
use thiserror::Error;
use tokio::time::Instant;

/// Number of entries that are fetched concurrently while a journal is replayed.
const AHEAD: usize = 16;
/// Number of damaged reads after which an entry counts as damaged.
const READS: usize = 4;
/// How long a write whose outcome is unknown is repeated, in addition to the storage's own retries within each attempt.
/// [`Journal::patient`] changes it.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// The shortest and the longest pause between repetitions.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// Errors of a journal.
#[derive(Debug, Error)]
pub enum Error {
    /// Another coordinator has written the entry: this one must stop.
    #[error("another coordinator took over: it wrote `{url}/{key}`{}", hint(.by))]
    Deposed {
        /// The storage.
        url: String,
        /// The entry.
        key: String,
        /// The new holder, if the entry is a claim. `None` if it is an ordinary entry of the previous holder.
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
    /// An entry is missing, though a later one exists.
    #[error("the journal entry `{url}/{key}` is missing, though later ones exist")]
    Missing {
        /// The storage.
        url: String,
        /// The entry.
        key: String,
    },
    /// It is unknown whether an entry was written.
    #[error(
        "whether `{url}/{key}` was written is unknown after {} seconds\n\
         hint: start again once the storage answers; the entry is then found if it was written",
        .waited.as_secs()
    )]
    Unsettled {
        /// The storage.
        url: String,
        /// The entry.
        key: String,
        /// How long the write was repeated.
        waited: Duration,
        /// The error of the last attempt.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A storage operation failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

fn hint(by: &Option<Holder>) -> String {
    let hint = |h: &Holder| format!("\nhint: it is on host `{}` and answers at {}", h.host, h.url);
    by.as_ref().map(hint).unwrap_or_default()
}

/// The store's last error for an entry that it has not accepted yet. Clones refer to the same value.
#[derive(Clone, Default)]
pub struct Trouble(Arc<Mutex<Option<String>>>);

impl Trouble {
    /// The last error, as text.
    pub fn last(&self) -> Option<String> {
        self.0.lock().expect("no code panics while holding the lock").clone()
    }

    fn set(&self, what: Option<String>) {
        *self.0.lock().expect("no code panics while holding the lock") = what;
    }
}

/// The writing end of a journal.
pub struct Journal {
    storage: Storage,
    folder: String,
    next: u64,
    /// When the first entry was written, in milliseconds since 1970.
    began_ms: u64,
    settled_within: Duration,
    trouble: Trouble,
}

impl Journal {
    /// Replays the journal in `folder`, and opens it to append to it.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Unusable`], [`Error::Storage`].
    pub async fn open<E: Journaled>(
        storage: &Storage,
        folder: String,
    ) -> Result<(Self, Vec<E>), Error> {
        let storage = storage.patient(Patience::Journal)?;
        let Replayed { next, began_ms, events } = replay(&storage, &folder).await?;
        let (settled_within, trouble) = (SETTLED_WITHIN, Trouble::default());
        Ok((Self { storage, folder, next, began_ms, settled_within, trouble }, events))
    }

    /// A journal without entries. If another writer has begun it, the first append is deposed.
    pub fn fresh(storage: &Storage, folder: String, within: Duration) -> Self {
        // A store whose client cannot be made with another patience keeps the one it has.
        let storage = storage.patient(Patience::Journal).unwrap_or_else(|_| storage.clone());
        let (began_ms, trouble) = (now_ms(), Trouble::default());
        Self { storage, folder, next: 0, began_ms, settled_within: within, trouble }
    }

    /// The same journal, which repeats a write whose outcome is unknown for at most `within`.
    pub fn patient(self, within: Duration) -> Self {
        Self { settled_within: within, ..self }
    }

    /// Opens a journal again to append to it, and retries storage errors for at most `within`. Meanwhile the last error
    /// is in `trouble`.
    ///
    /// # Errors
    /// The errors of [`Self::open`].
    pub async fn reopen<E: Journaled>(
        storage: &Storage,
        folder: String,
        within: Duration,
        trouble: &Trouble,
    ) -> Result<Self, Error> {
        let began = Instant::now();
        let (mut pause, longest) = PAUSES;
        loop {
            match Self::open::<E>(storage, folder.clone()).await {
                Ok((journal, _)) => {
                    let trouble = trouble.clone();
                    return Ok(Self { settled_within: within, trouble, ..journal });
                }
                Err(Error::Storage(error)) if began.elapsed() < within => {
                    trouble.set(Some(proto::error::chain(&error)));
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(longest);
        }
    }

    /// When the first entry was written, in milliseconds since 1970.
    pub fn began_ms(&self) -> u64 {
        self.began_ms
    }

    /// Shows why an entry is not written yet.
    pub fn trouble(&self) -> Trouble {
        self.trouble.clone()
    }

    /// Appends a batch, which is durable when this returns.
    ///
    /// # Errors
    /// [`Error::Deposed`] if another writer took the number, [`Error::Unsettled`] if the outcome is unknown. In both
    /// cases the journal must not be written to again.
    pub async fn append<E: Journaled>(&mut self, events: Vec<E>) -> Result<(), Error> {
        let at_ms = now_ms();
        // Repetitions write the same bytes. The token in them identifies an entry written by an earlier attempt.
        let body = Bytes::from(Entry { token: id::unique(), at_ms, events }.encode());
        let key = key::journal_entry(&self.folder, self.next);
        let began = Instant::now();
        let (mut pause, longest) = PAUSES;
        loop {
            let source: Box<dyn std::error::Error + Send + Sync> =
                match self.storage.create(&key, body.clone()).await {
                    Ok(Created::Ours) => {
                        self.next += 1;
                        self.trouble.set(None);
                        return Ok(());
                    }
                    Ok(Created::Theirs(found)) => match claimant::<E>(&found) {
                        Ok(by) => return Err(self.deposed(key, by)),
                        // The entry may be ours, and damaged while it was read.
                        Err(damage) => damage.into(),
                    },
                    // Permission errors are retried as well: credentials are renewed, and clocks are set.
                    Err(error) => error.into(),
                };
            let waited = began.elapsed();
            if waited.saturating_add(pause) > self.settled_within {
                let url = self.storage.url().to_owned();
                return Err(Error::Unsettled { url, key, waited, source });
            }
            let error = proto::error::chain(&*source);
            tracing::warn!(key, error, "writing the journal entry again");
            self.trouble.set(Some(error));
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(longest);
        }
    }

    /// Checks that no other writer has appended to the journal.
    ///
    /// # Errors
    /// [`Error::Deposed`] if another writer has; [`Error::Unusable`] or [`Error::Storage`] if that is unknown.
    #[cfg(test)]
    pub async fn check<E: Journaled>(&self) -> Result<(), Error> {
        let Some(entry) = fetch::<E>(&self.storage, &self.folder, self.next).await? else {
            return Ok(());
        };
        let key = key::journal_entry(&self.folder, self.next);
        Err(self.deposed(key, claim(&entry)))
    }

    /// The position of the next entry, to check it while the writer goes on.
    pub fn end(&self) -> End {
        let (storage, folder) = (self.storage.clone(), self.folder.clone());
        End { storage, folder, number: self.next }
    }

    /// The error that this journal is lost, if `found` is at the position of its next entry.
    pub fn is_lost(&self, found: Found) -> Option<Error> {
        let key = key::journal_entry(&self.folder, found.number);
        (found.number == self.next).then(|| self.deposed(key, found.by))
    }

    fn deposed(&self, key: String, by: Option<Holder>) -> Error {
        Error::Deposed { url: self.storage.url().to_owned(), key, by }
    }
}

/// The position after a journal's last entry, as its writer knew it when it called [`Journal::end`].
pub struct End {
    storage: Storage,
    folder: String,
    number: u64,
}

/// An entry found at [`End`], written by the journal's own writer or by another.
#[derive(Debug)]
pub struct Found {
    number: u64,
    by: Option<Holder>,
}

impl End {
    /// The entry that is there now; `None` if there is none or it cannot be read.
    pub async fn found<E: Journaled>(&self) -> Option<Found> {
        match fetch::<E>(&self.storage, &self.folder, self.number).await {
            Ok(entry) => entry.map(|entry| Found { number: self.number, by: claim(&entry) }),
            Err(error) => {
                let error = proto::error::chain(&error);
                tracing::debug!(
                    folder = self.folder,
                    error,
                    "the end of the journal cannot be read"
                );
                None
            }
        }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis().try_into().unwrap_or(0)
}

/// Reads all events of a journal without opening it for writing.
///
/// # Errors
/// The errors of [`Journal::open`].
pub async fn read<E: Journaled>(storage: &Storage, folder: &str) -> Result<Vec<E>, Error> {
    Ok(replay(&storage.patient(Patience::Journal)?, folder).await?.events)
}

/// The content of a journal.
struct Replayed<E> {
    /// The number after the last entry.
    next: u64,
    /// When the first entry was written; 0 if there is none.
    began_ms: u64,
    events: Vec<E>,
}

async fn replay<E: Journaled>(storage: &Storage, folder: &str) -> Result<Replayed<E>, Error> {
    let objects = storage.list(folder).await?;
    let numbers = objects.iter().filter_map(|o| key::journal_number(&o.key));
    let mut next = numbers.max().map_or(0, |last| last.saturating_add(1));
    let mut events = Vec::new();
    let mut began_ms = 0;
    let mut listed = futures::stream::iter(0..next)
        .map(|number| async move { (number, fetch(storage, folder, number).await) })
        .buffered(AHEAD);
    while let Some((number, entry)) = listed.next().await {
        let (url, key) = (storage.url().to_owned(), key::journal_entry(folder, number));
        let entry: Entry<E> = entry?.ok_or(Error::Missing { url, key })?;
        began_ms = if number == 0 { entry.at_ms } else { began_ms };
        events.extend(entry.events);
    }
    while let Some(entry) = fetch(storage, folder, next).await? {
        began_ms = if next == 0 { entry.at_ms } else { began_ms };
        events.extend(entry.events);
        next += 1;
    }
    Ok(Replayed { next, began_ms, events })
}

async fn fetch<E: Journaled>(
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

/// The holder that claims the journal with this entry, if the entry is a claim.
///
/// # Errors
/// If the bytes may differ from what was written.
fn claimant<E: Journaled>(entry: &[u8]) -> Result<Option<Holder>, EntryError> {
    match Entry::<E>::decode(entry) {
        Ok(entry) => Ok(claim(&entry)),
        Err(EntryError::Foreign(_)) => Ok(None),
        Err(damage @ EntryError::Damaged(_)) => Err(damage),
    }
}

fn claim<E: Journaled>(entry: &Entry<E>) -> Option<Holder> {
    entry.events.iter().find_map(Journaled::claimed_by).cloned()
}

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
use proto::event::{Entry, EntryError, Holder, Journaled};
use proto::id;
use proto::key;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use storage::{Created, Patience, Storage};
use thiserror::Error;
use tokio::time::Instant;

/// Entries that are fetched at once while a journal is replayed.
const AHEAD: usize = 16;
/// Reads of an entry that comes damaged, before it is called so.
const READS: usize = 4;
/// How long a write whose outcome is unknown is repeated, beyond the storage's own patience with each attempt, unless
/// the journal is made more [patient](Journal::patient).
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
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

/// What the store has said last to an entry that it has not taken yet. Clones are the same.
#[derive(Clone, Default)]
pub struct Trouble(Arc<Mutex<Option<String>>>);

impl Trouble {
    /// In words.
    pub fn last(&self) -> Option<String> {
        self.0.lock().expect("held only to copy").clone()
    }

    fn set(&self, what: Option<String>) {
        *self.0.lock().expect("held only to copy") = what;
    }
}

/// The writing end of a journal.
pub struct Journal {
    storage: Storage,
    folder: String,
    next: u64,
    /// When its first entry was written, in milliseconds since 1970.
    began_ms: u64,
    settled_within: Duration,
    trouble: Trouble,
}

impl Journal {
    /// Replays the journal in `folder` and goes on from its end.
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

    /// A journal that nobody has written to yet: whoever is not the first learns it by the first entry.
    pub fn fresh(storage: &Storage, folder: String, within: Duration) -> Self {
        // Of a store whose client cannot be made with another patience its own has to do.
        let storage = storage.patient(Patience::Journal).unwrap_or_else(|_| storage.clone());
        let (began_ms, trouble) = (now_ms(), Trouble::default());
        Self { storage, folder, next: 0, began_ms, settled_within: within, trouble }
    }

    /// The same, which repeats a write whose outcome is unknown for that long.
    pub fn patient(self, within: Duration) -> Self {
        Self { settled_within: within, ..self }
    }

    /// Opens a journal to append to it once more, however long the storage is away up to `within`; what it says
    /// meanwhile goes to `trouble`.
    ///
    /// # Errors
    /// As [`Self::open`].
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

    /// When its first entry was written, in milliseconds since 1970.
    pub fn began_ms(&self) -> u64 {
        self.began_ms
    }

    /// What keeps it from being written to.
    pub fn trouble(&self) -> Trouble {
        self.trouble.clone()
    }

    /// Appends a batch; it is durable when this returns.
    ///
    /// # Errors
    /// [`Error::Deposed`] if another writer holds the number, [`Error::Unsettled`] if the outcome is unknown: the
    /// journal must not be written to then.
    pub async fn append<E: Journaled>(&mut self, events: Vec<E>) -> Result<(), Error> {
        let at_ms = now_ms();
        // The same bytes whenever it is repeated: what an earlier attempt wrote is known again by its token.
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
                        // Ours, perhaps, and damaged on the way back.
                        Err(damage) => damage.into(),
                    },
                    // Also where the store says that this writer may not: credentials are renewed, and clocks are set.
                    Err(error) => error.into(),
                };
            let waited = began.elapsed();
            if waited.saturating_add(pause) > self.settled_within {
                let url = self.storage.url().to_owned();
                return Err(Error::Unsettled { url, key, waited, source });
            }
            let error = proto::error::chain(&*source);
            tracing::warn!(key, error, "writing it once more");
            self.trouble.set(Some(error));
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(longest);
        }
    }

    /// Makes sure that nobody has written behind this writer's back.
    ///
    /// # Errors
    /// [`Error::Deposed`] if somebody has; [`Error::Unusable`] or [`Error::Storage`] if that cannot be known now.
    #[cfg(test)]
    pub async fn check<E: Journaled>(&self) -> Result<(), Error> {
        let Some(entry) = fetch::<E>(&self.storage, &self.folder, self.next).await? else {
            return Ok(());
        };
        let key = key::journal_entry(&self.folder, self.next);
        Err(self.deposed(key, claim(&entry)))
    }

    /// Where the next entry goes, for a look at it beside the writer.
    pub fn end(&self) -> End {
        let (storage, folder) = (self.storage.clone(), self.folder.clone());
        End { storage, folder, number: self.next }
    }

    /// The loss of this journal, if `found` is where its next entry goes.
    pub fn is_lost(&self, found: Found) -> Option<Error> {
        let key = key::journal_entry(&self.folder, found.number);
        (found.number == self.next).then(|| self.deposed(key, found.by))
    }

    fn deposed(&self, key: String, by: Option<Holder>) -> Error {
        Error::Deposed { url: self.storage.url().to_owned(), key, by }
    }
}

/// A number that was free when its journal's writer gave it out.
pub struct End {
    storage: Storage,
    folder: String,
    number: u64,
}

/// An entry that was found at a journal's end: the writer's own, or another's.
#[derive(Debug)]
pub struct Found {
    number: u64,
    by: Option<Holder>,
}

impl End {
    /// The entry that is there now. What cannot be known is none.
    pub async fn found<E: Journaled>(&self) -> Option<Found> {
        match fetch::<E>(&self.storage, &self.folder, self.number).await {
            Ok(entry) => entry.map(|entry| Found { number: self.number, by: claim(&entry) }),
            Err(error) => {
                let error = proto::error::chain(&error);
                tracing::debug!(folder = self.folder, error, "the journal cannot be looked at");
                None
            }
        }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis().try_into().unwrap_or(0)
}

/// Everything that a journal says, for whoever does not write to it.
///
/// # Errors
/// As [`Journal::open`].
pub async fn read<E: Journaled>(storage: &Storage, folder: &str) -> Result<Vec<E>, Error> {
    Ok(replay(&storage.patient(Patience::Journal)?, folder).await?.events)
}

/// What a journal holds.
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

/// Who claims the journal with this entry; an error if the bytes may not be what was written.
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

//! History on object storage: numbered batches of events, each created if absent.
//!
//! Whoever loses a number has been deposed by another writer, and learns it here. Numbers are never reused and entries
//! never deleted, since a deleted number could be created again by a stale writer.

use proto::event::Entry;
use proto::id;
use proto::key;
use proto::storage::{self, Created, Patience, Storage};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::{SystemTime, UNIX_EPOCH};
use thiserror::Error;

/// What can go wrong with a journal.
#[derive(Debug, Error)]
pub enum Error {
    /// Another coordinator has written the entry: this one must stop.
    #[error("another coordinator took over: it wrote `{url}/{key}`")]
    Deposed {
        /// The storage.
        url: String,
        /// The entry.
        key: String,
    },
    /// The journal cannot be replayed.
    #[error("the journal entry `{key}` is unusable: {reason}")]
    Unusable {
        /// The entry.
        key: String,
        /// Why.
        reason: String,
    },
    /// The store refused or broke.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

/// The writing end of a journal.
pub struct Journal {
    storage: Storage,
    folder: String,
    next: u64,
}

impl Journal {
    /// Replays the journal in `folder` and goes on from its end.
    ///
    /// # Errors
    /// [`Error::Unusable`] for a gap in the numbers or an entry of another format, [`Error::Storage`].
    pub async fn open<E: DeserializeOwned>(
        storage: &Storage,
        folder: String,
    ) -> Result<(Self, Vec<E>), Error> {
        let mut events = Vec::new();
        let mut next = 0;
        for object in storage.list(&folder).await? {
            let Some(number) = key::journal_number(&object.key) else {
                continue;
            };
            let unusable = |reason: String| Error::Unusable { key: object.key.clone(), reason };
            if number != next {
                return Err(unusable(format!("number {next} is missing before it")));
            }
            let bytes = storage.read(&object.key).await?;
            let entry: Entry<E> =
                serde_json::from_slice(&bytes).map_err(|e| unusable(e.to_string()))?;
            events.extend(entry.events);
            next += 1;
        }
        Ok((Self { storage: storage.patient(Patience::Journal)?, folder, next }, events))
    }

    /// Appends a batch; it is durable when this returns.
    ///
    /// # Errors
    /// [`Error::Deposed`] if another writer holds the number, [`Error::Storage`] if the outcome is unknown.
    pub async fn append<E: Serialize>(&mut self, events: Vec<E>) -> Result<(), Error> {
        let key = key::journal_entry(&self.folder, self.next);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_ms = since.as_millis().try_into().unwrap_or(0);
        let entry = Entry { token: id::unique(), at_ms, events };
        let body = serde_json::to_vec(&entry).expect("events are JSON");
        match self.storage.create(&key, body).await? {
            Created::Ours => {
                self.next += 1;
                Ok(())
            }
            Created::Theirs(_) => Err(Error::Deposed { url: self.storage.url().into(), key }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::event::Event;
    use proto::id::Epoch;

    fn claimed(epoch: u64) -> Event {
        Event::Claimed { epoch: Epoch(epoch) }
    }

    #[tokio::test]
    async fn a_journal_is_replayed_in_order() {
        let storage = Storage::memory();
        let (mut journal, none) = Journal::open::<Event>(&storage, "j".into()).await.unwrap();
        assert_eq!(none, []);
        for epoch in 1..=12 {
            journal.append(vec![claimed(epoch)]).await.unwrap();
        }
        let (_, events) = Journal::open::<Event>(&storage, "j".into()).await.unwrap();
        assert_eq!(events, (1..=12).map(claimed).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn of_two_writers_one_is_deposed() {
        let storage = Storage::memory();
        let (mut one, _) = Journal::open::<Event>(&storage, "j".into()).await.unwrap();
        let (mut two, _) = Journal::open::<Event>(&storage, "j".into()).await.unwrap();
        two.append(vec![claimed(2)]).await.unwrap();
        let error = one.append(vec![claimed(1)]).await.unwrap_err();
        assert!(matches!(error, Error::Deposed { .. }), "{error}");
        let (_, events) = Journal::open::<Event>(&storage, "j".into()).await.unwrap();
        assert_eq!(events, [claimed(2)]);
    }

    #[tokio::test]
    async fn a_gap_is_an_error() {
        let storage = Storage::memory();
        let (mut journal, _) = Journal::open::<Event>(&storage, "j".into()).await.unwrap();
        journal.append(vec![claimed(1)]).await.unwrap();
        journal.append(vec![claimed(2)]).await.unwrap();
        storage.delete("j/0000000000.json").await.unwrap();
        let error = Journal::open::<Event>(&storage, "j".into()).await.err().unwrap();
        assert!(error.to_string().contains("number 0 is missing"), "{error}");
    }
}

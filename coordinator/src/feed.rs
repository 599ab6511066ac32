//! What has been said about a run: kept for whoever starts watching late, stored as metrics, passed on as it happens.

use crate::core::Notice;
use bytes::Bytes;
use proto::id::RunId;
use proto::key;
use proto::storage::{self, Created, Storage};
use std::sync::Arc;
use tokio::sync::broadcast;

/// Notices that a watcher can be behind before it loses some.
const WATCHER_LAG: usize = 4096;
/// Notices kept for late watchers: the oldest are forgotten first.
const REMEMBERED: usize = 100_000;
/// Notices in one metrics object, at most.
const CHUNK: usize = 1000;

/// One run's notices.
pub(crate) struct Feed {
    run: RunId,
    past: std::collections::VecDeque<Arc<Notice>>,
    now: broadcast::Sender<Arc<Notice>>,
    unstored: Vec<Arc<Notice>>,
    chunk: u64,
}

/// The past, and what comes.
pub struct Watch {
    /// What was said before.
    pub past: Vec<Arc<Notice>>,
    /// What is said from now on.
    pub now: broadcast::Receiver<Arc<Notice>>,
}

impl Feed {
    pub(crate) fn new(run: RunId, chunk: u64) -> Self {
        let (now, _) = broadcast::channel(WATCHER_LAG);
        Self { run, past: Default::default(), now, unstored: Vec::new(), chunk }
    }

    pub(crate) fn watch(&self) -> Watch {
        Watch { past: self.past.iter().cloned().collect(), now: self.now.subscribe() }
    }

    /// Passes a notice on; true if the unstored ones should be stored now.
    pub(crate) fn say(&mut self, notice: Notice) -> bool {
        let notice = Arc::new(notice);
        let landmark = notice.last() || matches!(*notice, Notice::Checkpoint { .. });
        self.past.push_back(notice.clone());
        if self.past.len() > REMEMBERED {
            self.past.pop_front();
        }
        self.unstored.push(notice.clone());
        // Nobody watching is fine.
        let _ = self.now.send(notice);
        landmark || self.unstored.len() >= CHUNK
    }

    /// Stores what is not yet stored as the next chunk. Another coordinator's is never overwritten.
    pub(crate) async fn store(&mut self, storage: &Storage) -> Result<(), storage::Error> {
        if self.unstored.is_empty() {
            return Ok(());
        }
        let mut lines = Vec::new();
        for notice in &self.unstored {
            serde_json::to_writer(&mut lines, notice.as_ref()).expect("notices are JSON");
            lines.push(b'\n');
        }
        let lines = Bytes::from(lines);
        loop {
            let created =
                storage.create(&key::metrics(&self.run, self.chunk), lines.clone()).await?;
            self.chunk += 1;
            if created == Created::Ours {
                break;
            }
        }
        self.unstored.clear();
        Ok(())
    }
}

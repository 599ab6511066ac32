//! Watches: streams of changes, with bookmarks and the ways in which they end.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, stream};
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;

use crate::clock::Time;
use crate::error::ApiError;
use crate::faults::FaultKind;
use crate::http::list::{self, Selection};
use crate::http::route::Route;
use crate::json::Json;
use crate::kinds::Kind;
use crate::state::{Interruption, Shared, State};
use crate::store::{Change, Event};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);

/// A watch in progress.
struct Watch {
    shared: Arc<Shared>,
    changes: Receiver<u64>,
    kind: &'static Kind,
    namespace: String,
    selection: Selection,
    /// The revision up to which changes were delivered.
    seen: u64,
    pending: VecDeque<Bytes>,
    ends_at: Time,
    /// When the next bookmark is due, if the client wants them.
    bookmark_at: Option<Time>,
    interruptions: u64,
    fault: Option<FaultKind>,
    /// No more events follow.
    over: bool,
}

/// Starts a watch.
///
/// # Errors
/// 400 or 422 for parameters that cannot be, 504 for a resource version of the future.
pub(super) fn start(
    shared: &Arc<Shared>,
    route: &Route,
    fault: Option<FaultKind>,
) -> Result<impl Stream<Item = Result<Bytes, io::Error>> + Send + use<>, ApiError> {
    let selection = Selection::parse(route)?;
    let bookmarks = route.query.flag("allowWatchBookmarks");
    let initial = initial_events(route)?;
    let timeout = route
        .query
        .get("timeoutSeconds")
        .and_then(|text| text.parse().ok())
        .map(Duration::from_secs);
    let now = shared.clock.now();
    let mut watch = Watch {
        changes: shared.subscribe(),
        shared: shared.clone(),
        kind: route.kind,
        namespace: route.namespace.clone(),
        selection,
        seen: 0,
        pending: VecDeque::new(),
        ends_at: now.after(timeout.filter(|timeout| !timeout.is_zero()).unwrap_or(DEFAULT_TIMEOUT)),
        bookmark_at: bookmarks.then(|| now.after(BOOKMARK_INTERVAL)),
        interruptions: 0,
        fault,
        over: false,
    };
    let wanted = list::version(&route.query)?;
    shared.read(|state| {
        watch.interruptions =
            state.interruptions.get(route.kind.resource).map_or(0, |(count, _)| *count);
        watch.position(state, wanted, initial)
    })?;
    Ok(stream::unfold(
        watch,
        |mut watch| async move { watch.next().await.map(|chunk| (chunk, watch)) },
    ))
}

/// The value of `sendInitialEvents`, with the rules on `resourceVersionMatch`.
fn initial_events(route: &Route) -> Result<Option<bool>, ApiError> {
    let matching = route.query.get("resourceVersionMatch");
    let given = route.query.get("sendInitialEvents").map(|value| value == "true" || value == "1");
    let mut errors = crate::field_errors::FieldErrors::default();
    match (given, matching) {
        (None, Some(_)) => {
            let detail =
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            errors.forbidden("resourceVersionMatch", detail);
        }
        (Some(_), None) => {
            let detail = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            errors.forbidden("resourceVersionMatch", detail);
        }
        (Some(_), Some(other)) if other != "NotOlderThan" => {
            errors.not_supported("resourceVersionMatch", other, &["NotOlderThan"]);
        }
        _ => {}
    }
    let subject =
        crate::error::Subject { group: "meta.k8s.io", resource: "", kind: "ListOptions", name: "" };
    errors.into_result(subject).map(|()| given)
}

fn line(kind: &str, object: &Value) -> Bytes {
    let mut text = json!({"type": kind, "object": object}).to_string();
    text.push('\n');
    Bytes::from(text)
}

impl Watch {
    /// Sets where the watch starts, and queues the state that comes first.
    fn position(
        &mut self,
        state: &State,
        wanted: Option<u64>,
        initial: Option<bool>,
    ) -> Result<(), ApiError> {
        let store = &state.registry.store;
        let lag =
            if let Some(FaultKind::StaleRead { revisions }) = self.fault { revisions } else { 0 };
        let current = store.revision().saturating_sub(lag).max(store.compacted());
        if let Some(wanted) = wanted.filter(|wanted| *wanted > current) {
            return Err(list::too_large(wanted, current));
        }
        let from_state = initial.unwrap_or(wanted.is_none_or(|wanted| wanted == 0));
        self.seen = match wanted {
            Some(wanted) if !from_state && wanted > 0 => wanted,
            _ => current,
        };
        if !from_state {
            return Ok(());
        }
        let objects =
            store.list_at(self.kind.resource, &self.namespace, current).unwrap_or_default();
        for (_, object) in objects.iter().filter(|(_, object)| self.selection.matches(object)) {
            self.pending.push_back(line("ADDED", object));
        }
        if initial == Some(true) && self.bookmark_at.is_some() {
            let bookmark = self.bookmark(true);
            self.pending.push_back(bookmark);
        }
        Ok(())
    }

    fn bookmark(&self, initial_end: bool) -> Bytes {
        let mut object = json!({
            "kind": self.kind.kind, "apiVersion": self.kind.api_version(),
            "metadata": {"resourceVersion": self.seen.to_string(), "creationTimestamp": null},
        });
        if initial_end {
            object.put_entry("metadata.annotations", "k8s.io/initial-events-end", "true");
        }
        line("BOOKMARK", &object)
    }

    /// The next chunk; `None` ends the stream.
    async fn next(&mut self) -> Option<Result<Bytes, io::Error>> {
        loop {
            if let Some(chunk) = self.pending.pop_front() {
                return Some(Ok(chunk));
            }
            if self.over {
                return None;
            }
            let shared = self.shared.clone();
            // Every change up to here is seen by the look that follows.
            self.changes.borrow_and_update();
            let interruption = shared.read(|state| self.look(state));
            if !self.pending.is_empty() {
                continue;
            }
            match (interruption, &self.fault) {
                (Some(Interruption::End), _) | (None, Some(FaultKind::WatchEnds)) => return None,
                (Some(Interruption::Stall), _) | (None, Some(FaultKind::WatchStalls)) => {
                    std::future::pending().await
                }
                (Some(Interruption::Break), _) => {
                    return Some(Err(io::Error::new(
                        io::ErrorKind::ConnectionReset,
                        "interrupted on purpose",
                    )));
                }
                (None, _) => {}
            }
            if !self.wait().await {
                return None;
            }
        }
    }

    /// Queues the changes since the last look, and notices interruptions.
    fn look(&mut self, state: &State) -> Option<Interruption> {
        let store = &state.registry.store;
        match store.changes_after(self.seen) {
            Err(compacted) => {
                let message =
                    format!("too old resource version: {} ({})", self.seen, compacted.oldest);
                let status = ApiError::expired(message).status();
                self.pending.push_back(line("ERROR", &status));
                self.over = true;
            }
            Ok(changes) => {
                let lines: Vec<Bytes> = changes.filter_map(|event| self.describe(event)).collect();
                self.pending.extend(lines);
                self.seen = self.seen.max(store.revision());
            }
        }
        let (count, kind) = state.interruptions.get(self.kind.resource)?;
        (*count > self.interruptions).then_some(*kind)
    }

    /// A change as this watch sees it: an object that enters the selection is added, one that leaves it is deleted.
    fn describe(&self, event: &Event) -> Option<Bytes> {
        let here = event.key.resource == self.kind.resource
            && (self.namespace.is_empty() || event.key.namespace == self.namespace);
        if !here {
            return None;
        }
        let was = event.previous.as_ref().is_some_and(|previous| self.selection.matches(previous));
        let is = event.change != Change::Deleted && self.selection.matches(&event.object);
        match (was, is) {
            (false, true) => Some(line("ADDED", &event.object)),
            (true, true) => Some(line("MODIFIED", &event.object)),
            (true, false) => {
                let mut last = event.previous.as_deref().cloned().unwrap_or_default();
                last.put("metadata.resourceVersion", event.revision.to_string());
                Some(line("DELETED", &last))
            }
            (false, false) => None,
        }
    }

    /// Waits for a change or a bookmark, and returns whether the watch goes on.
    async fn wait(&mut self) -> bool {
        let due = self.bookmark_at.map_or(self.ends_at, |bookmark| bookmark.min(self.ends_at));
        tokio::select! {
            changed = self.changes.changed() => changed.is_ok(),
            () = self.shared.clock.sleep_until(due) => {
                let now = self.shared.clock.now();
                if self.bookmark_at.is_some_and(|at| at <= now) {
                    self.bookmark_at = Some(now.after(BOOKMARK_INTERVAL));
                    let bookmark = self.bookmark(false);
                    self.pending.push_back(bookmark);
                }
                now < self.ends_at
            }
        }
    }
}

//! The objects that are followed, as the API server last showed them.

use crate::JOB_NAME;
use crate::call::Call;
use crate::cluster::{Cluster, warnings_only};
use crate::patience::Patience;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt, future};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::ResourceExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, watcher};
use kube::runtime::{WatchStreamExt, watcher::Config};
use std::collections::BTreeMap;
use std::time::Duration;

/// Why a watch failed.
pub(super) type Failure = watcher::Error;

/// News of a watch.
pub(super) enum Update {
    Job(Box<watcher::Event<Job>>),
    Pod(Box<watcher::Event<Pod>>),
    Warning(Box<watcher::Event<Event>>),
    /// The watch goes on by itself if it can.
    Failed {
        call: Call,
        error: Failure,
    },
}

/// The Job of a name, its pods and the namespace's warnings, which somebody may not be allowed to
/// read.
pub(super) fn updates(cluster: &Cluster, job: &str) -> BoxStream<'static, Update> {
    let seconds = u32::try_from(cluster.patience.silence.as_secs()).unwrap_or(u32::MAX).max(1);
    let config = Config::default().timeout(seconds);
    let patience = cluster.patience;
    let jobs =
        watcher(cluster.api::<Job>(), config.clone().fields(&format!("metadata.name={job}")));
    let pods = watcher(cluster.api::<Pod>(), config.clone().labels(&format!("{JOB_NAME}={job}")));
    let warnings = warnings_only().field_selector.unwrap_or_default();
    let warnings = watcher(cluster.api::<Event>(), config.fields(&warnings));
    let of_jobs = paced(jobs, patience, cluster.call::<Job>("watch", None), Update::Job);
    let of_pods = paced(pods, patience, cluster.call::<Pod>("watch", None), Update::Pod);
    let call = cluster.call::<Event>("watch", None);
    let of_warnings = paced(warnings, patience, call, Update::Warning).take_while(|update| {
        let is_refused = match update {
            Update::Failed { call, error } => {
                client_error(error).is_some_and(|error| call.fatal(error).is_some())
            }
            Update::Job(_) | Update::Pod(_) | Update::Warning(_) => false,
        };
        future::ready(!is_refused)
    });
    stream::select_all([of_jobs, of_pods, of_warnings.boxed()]).boxed()
}

/// The failure of the request, if there was one.
pub(super) fn client_error(error: &Failure) -> Option<&kube::Error> {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => Some(error),
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => None,
    }
}

fn paced<K: Send + 'static>(
    events: impl Stream<Item = Result<watcher::Event<K>, Failure>> + Send + 'static,
    patience: Patience,
    call: Call,
    update: fn(Box<watcher::Event<K>>) -> Update,
) -> BoxStream<'static, Update> {
    let pace = Pace { patience, count: 0 };
    let updates = events.backoff(pace).map(move |event| match event {
        Ok(event) => update(Box::new(event)),
        Err(error) => Update::Failed { call: call.clone(), error },
    });
    updates.boxed()
}

/// The pauses between failures of a watch.
struct Pace {
    patience: Patience,
    count: u32,
}

impl Iterator for Pace {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.patience.pause(self.count);
        self.count += 1;
        Some(pause)
    }
}

impl Backoff for Pace {
    fn reset(&mut self) {
        self.count = 0;
    }
}

/// What is known.
#[derive(Default)]
pub(super) struct Model {
    pub(super) jobs: Collection<Job>,
    pub(super) pods: Collection<Pod>,
    pub(super) warnings: Collection<Event>,
}

impl Model {
    /// Whether the Job and its pods have been listed, so that what is missing does not exist.
    pub(super) fn is_listed(&self) -> bool {
        self.jobs.is_listed && self.pods.is_listed
    }
}

/// Objects of one kind, by uid.
pub(super) struct Collection<K> {
    current: BTreeMap<String, K>,
    /// A list that is being read, and replaces the current objects when it is complete.
    next: BTreeMap<String, K>,
    is_listed: bool,
}

impl<K> Default for Collection<K> {
    fn default() -> Self {
        Self { current: BTreeMap::new(), next: BTreeMap::new(), is_listed: false }
    }
}

impl<K: ResourceExt> Collection<K> {
    pub(super) fn apply(&mut self, event: watcher::Event<K>) {
        let key = |object: &K| object.uid().unwrap_or_else(|| object.name_any());
        match event {
            watcher::Event::Init => self.next.clear(),
            watcher::Event::InitApply(object) => drop(self.next.insert(key(&object), object)),
            watcher::Event::InitDone => {
                self.current = std::mem::take(&mut self.next);
                self.is_listed = true;
            }
            watcher::Event::Apply(object) => drop(self.current.insert(key(&object), object)),
            watcher::Event::Delete(object) => drop(self.current.remove(&key(&object))),
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &K> {
        self.current.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};

    fn pod(name: &str) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.to_owned());
        pod
    }

    #[test]
    fn a_list_replaces_what_was_known_only_once_it_is_complete() {
        let mut pods = Collection::default();
        let names =
            |pods: &Collection<Pod>| pods.all().map(ResourceExt::name_any).collect::<Vec<_>>();
        for event in [Init, InitApply(pod("a")), InitApply(pod("b"))] {
            pods.apply(event);
        }
        assert!(names(&pods).is_empty() && !pods.is_listed);
        pods.apply(InitDone);
        pods.apply(Delete(pod("a")));
        pods.apply(Apply(pod("c")));
        assert_eq!(names(&pods), ["b", "c"]);
        for event in [Init, InitApply(pod("d"))] {
            pods.apply(event);
        }
        assert_eq!(names(&pods), ["b", "c"]);
        pods.apply(InitDone);
        assert_eq!(names(&pods), ["d"]);
    }
}

//! Tokens of service accounts, for which the API server of a Kubernetes cluster vouches (TokenReview).
//!
//! A pod gets such a token as a file if it asks for one with the audience [`AUDIENCE`]. It allows the pod to join as a
//! worker of its own name, and nothing else. Answers are kept for a while, so that many workers that come back at once
//! do not ask the API server many times for each.

use super::grants::Scope;
use super::tokens::{Entry, hash};
use ::kubernetes::{Bearer, Cluster, Patience};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// The audience that a token must have been issued for.
pub(crate) const AUDIENCE: &str = "muster";
/// How long an answer counts. A deleted pod's token is refused after that.
const KEPT: Duration = Duration::from_secs(60);
/// Maximum number of kept answers of each kind; beyond it, those of the kind are forgotten.
const MOST: usize = 10_000;
/// Maximum length of a token.
const TOKEN_BYTES: usize = 8 << 10;
/// Maximum number of questions at a time.
const AT_ONCE: usize = 16;
/// How long a question may take: less than a new connection has until its first request.
const PATIENCE: Patience = Patience {
    request: Duration::from_secs(3),
    repetition: Duration::from_secs(5),
    ..Patience::DEFAULT
};

/// Asks the API server about tokens.
pub(crate) struct Reviews {
    cluster: Cluster,
    questions: Semaphore,
    known: Mutex<Known>,
}

/// Answers by the hashes of tokens. Those of strangers do not displace those of workers.
#[derive(Default)]
struct Known {
    accepted: BTreeMap<String, (Instant, Entry)>,
    refused: BTreeMap<String, Instant>,
}

/// Why nobody was asked, or what the answer was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreviewed {
    #[error("too many unknown tokens at a time")]
    Busy,
    #[error(transparent)]
    Cluster(#[from] ::kubernetes::Error),
}

impl Reviews {
    pub(crate) fn new(cluster: Cluster) -> Self {
        let (cluster, questions) = (cluster.with_patience(PATIENCE), Semaphore::new(AT_ONCE));
        Self { cluster, questions, known: Mutex::default() }
    }

    /// What a token allows; `None` if it is no valid token of a pod in the coordinator's own namespace.
    ///
    /// # Errors
    /// [`Unreviewed`].
    pub(crate) async fn find(&self, token: &str) -> Result<Option<Entry>, Unreviewed> {
        // Those of service accounts have three parts (RFC 7519); nothing else is passed on.
        if token.len() > TOKEN_BYTES || token.split('.').count() != 3 {
            return Ok(None);
        }
        let key = hash(token);
        if let Some(known) = self.known().find(&key) {
            return Ok(known);
        }
        let _question = self.questions.try_acquire().map_err(|_| Unreviewed::Busy)?;
        let bearer = self.cluster.review(token, AUDIENCE).await?;
        let entry = bearer.and_then(|bearer| entry(bearer, self.cluster.namespace(), &key));
        self.known().keep(key, entry.clone());
        Ok(entry)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("nothing panics while it holds the lock")
    }
}

impl Known {
    /// The answer for a token, if there is a recent one.
    fn find(&self, key: &str) -> Option<Option<Entry>> {
        let recent = |at: &Instant| at.elapsed() < KEPT;
        if let Some((_, entry)) = self.accepted.get(key).filter(|(at, _)| recent(at)) {
            return Some(Some(entry.clone()));
        }
        self.refused.get(key).filter(|at| recent(at)).map(|_| None)
    }

    fn keep(&mut self, key: String, entry: Option<Entry>) {
        match entry {
            Some(entry) => {
                if self.accepted.len() >= MOST {
                    self.accepted.clear();
                }
                self.accepted.insert(key, (Instant::now(), entry));
            }
            None => {
                if self.refused.len() >= MOST {
                    self.refused.clear();
                }
                self.refused.insert(key, Instant::now());
            }
        }
    }
}

/// What the token of a pod allows.
fn entry(bearer: Bearer, namespace: &str, sha256: &str) -> Option<Entry> {
    let own = format!("system:serviceaccount:{namespace}:");
    let pod = bearer.pod.filter(|_| bearer.username.starts_with(&own))?;
    Some(Entry {
        sha256: sha256.to_owned(),
        scope: Scope::Join,
        name: format!("pod {} ({})", pod.name, pod.uid),
        prefix: format!("{}-", pod.name),
        expires: None,
        of_pod: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::kubernetes::BoundPod;

    fn bearer(username: &str, pod: Option<&str>) -> Bearer {
        let pod = pod.map(|name| BoundPod { name: name.into(), uid: "u-1".into() });
        Bearer { username: username.into(), groups: Vec::new(), pod }
    }

    #[test]
    fn only_pods_of_the_own_namespace_may_join_and_only_in_their_own_name() {
        let account = "system:serviceaccount:train:workers";
        let found = entry(bearer(account, Some("gpu-7")), "train", "h").expect("a pod");
        assert_eq!((found.scope, found.prefix.as_str()), (Scope::Join, "gpu-7-"));
        assert_eq!(found.name, "pod gpu-7 (u-1)");
        assert_eq!(entry(bearer(account, None), "train", "h"), None);
        assert_eq!(entry(bearer(account, Some("gpu-7")), "other", "h"), None);
        assert_eq!(entry(bearer(account, Some("gpu-7")), "trai", "h"), None);
        assert_eq!(entry(bearer("admin", Some("gpu-7")), "train", "h"), None);
    }
}

//! Tokens of service accounts, for which the API server of a Kubernetes cluster vouches (TokenReview).
//!
//! A pod gets such a token as a file if it asks for one with the audience [`AUDIENCE`]. It allows the pod to join as a
//! worker of its own name, and nothing else. Answers are kept for a while, so that many workers that come back at once
//! do not ask the API server many times for each.

use super::grants::Scope;
use super::tokens::{Entry, hash};
use ::kubernetes::{Bearer, Cluster};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// The audience that a token must have been issued for.
pub(crate) const AUDIENCE: &str = "muster";
/// How long an answer counts. A deleted pod's token is refused after that.
const KEPT: Duration = Duration::from_secs(60);
/// Maximum number of kept answers; beyond it, all are forgotten.
const MOST: usize = 10_000;

/// Asks the API server about tokens.
pub(crate) struct Reviews {
    cluster: Cluster,
    known: Mutex<BTreeMap<String, (Instant, Option<Entry>)>>,
}

impl Reviews {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self { cluster, known: Mutex::default() }
    }

    /// What a token allows; `None` if it is no valid token of a pod in the coordinator's own namespace.
    ///
    /// # Errors
    /// That of the API server.
    pub(crate) async fn find(&self, token: &str) -> Result<Option<Entry>, ::kubernetes::Error> {
        let key = hash(token);
        if let Some((at, known)) = self.known().get(&key)
            && at.elapsed() < KEPT
        {
            return Ok(known.clone());
        }
        let bearer = self.cluster.review(token, AUDIENCE).await?;
        let entry = bearer.and_then(|bearer| entry(bearer, self.cluster.namespace(), &key));
        let mut known = self.known();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(key, (Instant::now(), entry.clone()));
        Ok(entry)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, (Instant, Option<Entry>)>> {
        self.known.lock().expect("nothing panics while it holds the lock")
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

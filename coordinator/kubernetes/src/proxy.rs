//! The exceptions from the environment's proxy.
//!
//! `kube` takes the proxy from `HTTPS_PROXY`, but compares `NO_PROXY` with the host of the proxy
//! instead of the cluster's.

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use kube::Config;

/// Reaches the cluster without the environment's proxy if `NO_PROXY` says so.
///
/// The proxy that a kubeconfig names for its cluster has no exceptions.
pub(crate) fn heed_exceptions(config: &mut Config) {
    let proxy = variable("HTTPS_PROXY").and_then(|proxy| proxy.parse::<Uri>().ok());
    let exceptions = variable("NO_PROXY").unwrap_or_default();
    if config.proxy_url == proxy && is_exempt(&config.cluster_url, &exceptions) {
        config.proxy_url = None;
    }
}

/// A variable by its name in capitals or in small letters, unless it is empty.
fn variable(name: &str) -> Option<String> {
    let names = [name.to_owned(), name.to_lowercase()];
    names.iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}

fn is_exempt(url: &Uri, exceptions: &str) -> bool {
    let matcher = Matcher::builder().all("http://proxy").no(exceptions).build();
    matcher.intercept(url).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_are_hosts_domains_and_networks() {
        let is_exempt = |exceptions: &str, url: &str| is_exempt(&url.parse().unwrap(), exceptions);
        assert!(is_exempt("10.0.0.0/8,.corp.example", "https://10.1.2.3:6443"));
        assert!(is_exempt("10.0.0.0/8,.corp.example", "https://k8s.corp.example"));
        assert!(is_exempt("127.0.0.1", "https://127.0.0.1:6443"));
        assert!(!is_exempt("10.0.0.0/8", "https://k8s.corp.example"));
        assert!(!is_exempt("", "https://k8s.corp.example"));
    }
}

//! From a method and a path to a verb on a resource.

use std::collections::BTreeMap;

use hyper::Method;

use crate::error::ApiError;
use crate::kinds::{self, Kind};

/// The query parameters.
#[derive(Clone, Debug, Default)]
pub(super) struct Query(BTreeMap<String, Vec<String>>);

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        let mut query: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            query.entry(decode(name)).or_default().push(decode(value));
        }
        Self(query)
    }

    /// The first value of a parameter that is not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.first().map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Whether a parameter is `true` or `1`.
    pub(super) fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some("true" | "1" | "True"))
    }
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape =
            text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (bytes[at], escape) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                at += 3;
            }
            (b'+', _) => {
                decoded.push(b' ');
                at += 1;
            }
            (byte, _) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// A request for a resource.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) verb: &'static str,
    pub(super) kind: &'static Kind,
    /// Empty for cluster-scoped resources and for all namespaces.
    pub(super) namespace: String,
    /// Empty for collections.
    pub(super) name: String,
    /// Empty for the object itself.
    pub(super) subresource: String,
    pub(super) query: Query,
}

impl Route {
    /// `pods` or `pods/log`.
    pub(super) fn resource(&self) -> String {
        if self.subresource.is_empty() {
            self.kind.resource.to_owned()
        } else {
            format!("{}/{}", self.kind.resource, self.subresource)
        }
    }
}

/// Reads a path of `/api/v1` or `/apis/GROUP/VERSION`.
pub(super) fn parse(method: &Method, path: &str, query: Query) -> Result<Route, ApiError> {
    let segments: Vec<String> = path.split('/').filter(|one| !one.is_empty()).map(decode).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (group, rest) = match segments.as_slice() {
        ["api", "v1", rest @ ..] => ("", rest),
        ["apis", group, "v1", rest @ ..] => (*group, rest),
        _ => return Err(ApiError::no_such_path()),
    };
    let (namespace, rest) = match rest {
        // `namespaces/NAME` and `namespaces/NAME/status` are the namespace itself.
        ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => ("", rest),
        ["namespaces", namespace, rest @ ..] => (*namespace, rest),
        _ => ("", rest),
    };
    let (resource, name, subresource) = match rest {
        [resource] => (*resource, "", ""),
        [resource, name] => (*resource, *name, ""),
        [resource, name, subresource] => (*resource, *name, *subresource),
        _ => return Err(ApiError::no_such_path()),
    };
    let kind = kinds::find(group, resource).ok_or_else(ApiError::no_such_path)?;
    let misplaced = !kind.namespaced && !namespace.is_empty()
        || kind.namespaced && namespace.is_empty() && !name.is_empty();
    if misplaced {
        return Err(ApiError::no_such_path());
    }
    let verb = verb(method, name, &query)?;
    Ok(Route {
        verb,
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        subresource: subresource.to_owned(),
        query,
    })
}

fn verb(method: &Method, name: &str, query: &Query) -> Result<&'static str, ApiError> {
    let watches = query.flag("watch");
    let verb = match (method.as_str(), name.is_empty()) {
        ("GET", true) if watches => "watch",
        ("GET", true) => "list",
        ("GET" | "HEAD", false) => "get",
        ("POST", _) => "create",
        ("PUT", false) => "update",
        ("PATCH", false) => "patch",
        ("DELETE", false) => "delete",
        ("DELETE", true) => "deletecollection",
        _ => return Err(ApiError::method_not_allowed()),
    };
    Ok(verb)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_verbs_and_resources() {
        let cases = [
            ("GET", "/api/v1/namespaces", "list namespaces  "),
            ("GET", "/api/v1/namespaces/a", "get namespaces  a"),
            ("GET", "/api/v1/namespaces/a/pods", "list pods a "),
            ("GET", "/api/v1/pods", "list pods  "),
            ("GET", "/api/v1/namespaces/a/pods/b/log", "get pods/log a b"),
            ("POST", "/apis/batch/v1/namespaces/a/jobs", "create jobs a "),
            ("PATCH", "/apis/batch/v1/namespaces/a/jobs/b/status", "patch jobs/status a b"),
            ("DELETE", "/api/v1/nodes/n", "delete nodes  n"),
            ("DELETE", "/api/v1/namespaces/a/pods", "deletecollection pods a "),
        ];
        for (method, path, expected) in cases {
            let route =
                parse(&Method::from_bytes(method.as_bytes()).unwrap(), path, Query::default())
                    .unwrap();
            let found =
                format!("{} {} {} {}", route.verb, route.resource(), route.namespace, route.name);
            assert_eq!(found, expected, "{method} {path}");
        }
        for path in [
            "/api/v2/pods",
            "/apis/apps/v1/deployments",
            "/api/v1/pods/a",
            "/api/v1/namespaces/a/nodes",
        ] {
            assert!(parse(&Method::GET, path, Query::default()).is_err(), "{path}");
        }
        assert!(Query::parse("watch=1&a=b%3Dc+d").get("a").is_some_and(|value| value == "b=c d"));
    }
}

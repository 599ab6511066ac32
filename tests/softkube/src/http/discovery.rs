//! Discovery: what the server serves, for kubectl and clients that look.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::kinds::{self, Kind};

/// The version that the cluster claims to be.
pub(crate) const VERSION: (&str, &str, &str) = ("1", "34", "v1.34.0");

/// The answer to a path that is not that of a resource.
pub(super) fn answer(path: &str) -> Option<Value> {
    let segments: Vec<&str> = path.split('/').filter(|one| !one.is_empty()).collect();
    match segments.as_slice() {
        ["version"] => Some(version()),
        ["api"] => Some(
            json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        ),
        ["apis"] => Some(json!({
            "kind": "APIGroupList", "apiVersion": "v1", "groups": groups().map(group).collect::<Vec<_>>(),
        })),
        ["api", "v1"] => Some(resources("")),
        ["apis", name] => groups().find(|one| one == name).map(|name| {
            let mut group = group(name);
            group["kind"] = "APIGroup".into();
            group["apiVersion"] = "v1".into();
            group
        }),
        ["openapi", "v3"] => Some(openapi_index()),
        ["openapi", "v3", "api", "v1"] => Some(openapi("")),
        ["openapi", "v3", "apis", name, "v1"] => groups().find(|one| one == name).map(openapi),
        ["apis", name, "v1"] => groups().find(|one| one == name).map(resources),
        _ => None,
    }
}

fn version() -> Value {
    let (major, minor, git_version) = VERSION;
    json!({
        "major": major, "minor": minor, "gitVersion": git_version, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "2025-08-27T10:13:36Z", "goVersion": "", "compiler": "softkube", "platform": "linux/amd64",
    })
}

fn groups() -> impl Iterator<Item = &'static str> {
    let names: BTreeSet<&str> =
        kinds::all().iter().map(|kind| kind.group).filter(|group| !group.is_empty()).collect();
    names.into_iter()
}

fn group(name: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

/// The documents of OpenAPI v3, one for each group.
fn openapi_index() -> Value {
    let entry =
        |path: String| (path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}")}));
    let paths =
        groups().map(|group| entry(format!("apis/{group}/v1"))).chain([entry("api/v1".to_owned())]);
    json!({"paths": paths.collect::<serde_json::Map<_, _>>()})
}

/// What kubectl looks for before it leaves the validation of fields to the server. There are no schemas.
fn openapi(group: &str) -> Value {
    let root = if group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{group}/v1") };
    let path = |kind: &Kind| {
        let place = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
        let parameters: Vec<Value> = ["dryRun", "fieldManager", "fieldValidation", "force"]
            .iter()
            .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string"}}))
            .collect();
        let patch = json!({
            "parameters": parameters, "x-kubernetes-action": "patch",
            "x-kubernetes-group-version-kind": {"group": group, "version": "v1", "kind": kind.kind},
        });
        (format!("{root}{place}/{}/{{name}}", kind.resource), json!({"patch": patch}))
    };
    let here = kinds::all().iter().filter(|kind| kind.group == group && kind.stored);
    json!({
        "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": VERSION.2},
        "paths": here.map(path).collect::<serde_json::Map<_, _>>(), "components": {"schemas": {}},
    })
}

fn resources(group: &str) -> Value {
    let here = kinds::all().iter().filter(|kind| kind.group == group);
    let group_version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
    json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version,
        "resources": here.flat_map(entries).collect::<Vec<_>>(),
    })
}

fn entries(kind: &Kind) -> Vec<Value> {
    let verbs: &[&str] = if kind.stored {
        &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
    } else {
        &["create"]
    };
    let entry = |name: String, kind_name: &str, verbs: &[&str]| {
        json!({
            "name": name, "singularName": "", "namespaced": kind.namespaced, "kind": kind_name, "verbs": verbs,
        })
    };
    let mut main = entry(kind.resource.to_owned(), kind.kind, verbs);
    main["singularName"] = kind.kind.to_lowercase().into();
    if !kind.short_names.is_empty() {
        main["shortNames"] = json!(kind.short_names);
    }
    if matches!(kind.resource, "pods" | "jobs" | "services") {
        main["categories"] = json!(["all"]);
    }
    let mut entries = vec![main];
    if kind.status {
        entries.push(entry(
            format!("{}/status", kind.resource),
            kind.kind,
            &["get", "patch", "update"],
        ));
    }
    match kind.resource {
        "pods" => {
            entries.push(entry("pods/log".to_owned(), "Pod", &["get"]));
            entries.push(entry("pods/eviction".to_owned(), "Eviction", &["create"]));
        }
        "serviceaccounts" => {
            entries.push(entry("serviceaccounts/token".to_owned(), "TokenRequest", &["create"]))
        }
        _ => {}
    }
    entries
}

//! Pod Security admission: the `baseline` and `restricted` levels.
//!
//! Covers the checks on security contexts, host namespaces, host ports and volume types. Checks of AppArmor, SELinux,
//! sysctls, `/proc` mounts and Windows are left out.

use serde_json::Value;

use crate::json::Json;

const BASELINE_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
const RESTRICTED_VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// What a pod spec violates at a level, as `reason (detail), ...`; `None` when it is allowed.
pub(crate) fn violations(spec: &Value, level: &str) -> Option<String> {
    let mut found = match level {
        "baseline" | "restricted" => baseline(spec, level),
        _ => Vec::new(),
    };
    if level == "restricted" {
        found.extend(restricted(spec));
    }
    (!found.is_empty()).then(|| found.join(", "))
}

fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    spec.list("initContainers").iter().chain(spec.list("containers"))
}

/// `container "a"` or `containers "a", "b"`, of those for which the test holds.
fn naming(spec: &Value, holds: impl Fn(&Value) -> bool) -> Option<String> {
    let names: Vec<String> = containers(spec)
        .filter(|one| holds(one))
        .map(|one| format!("\"{}\"", one.str("name")))
        .collect();
    match names.len() {
        0 => None,
        1 => Some(format!("container {}", names[0])),
        _ => Some(format!("containers {}", names.join(", "))),
    }
}

fn baseline(spec: &Value, level: &str) -> Vec<String> {
    let mut found = Vec::new();
    let namespaces: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|field| spec.flag(field))
        .map(|field| format!("{field}=true"))
        .collect();
    if !namespaces.is_empty() {
        found.push(format!("host namespaces ({})", namespaces.join(", ")));
    }
    if let Some(who) = naming(spec, |one| one.flag("securityContext.privileged")) {
        found.push(format!("privileged ({who} must not set securityContext.privileged=true)"));
    }
    let added = |one: &Value| {
        let added = one.list("securityContext.capabilities.add").iter();
        added.filter_map(Value::as_str).any(|name| !BASELINE_CAPABILITIES.contains(&name))
    };
    if level == "baseline"
        && let Some(who) = naming(spec, added)
    {
        found.push(format!(
            "non-default capabilities ({who} must not include the added ones in securityContext.capabilities.add)"
        ));
    }
    let host_paths: Vec<String> = spec
        .list("volumes")
        .iter()
        .filter(|volume| volume.has("hostPath"))
        .map(|volume| format!("\"{}\"", volume.str("name")))
        .collect();
    if !host_paths.is_empty() {
        let noun = if host_paths.len() == 1 { "volume" } else { "volumes" };
        found.push(format!("hostPath volumes ({noun} {})", host_paths.join(", ")));
    }
    let host_port =
        |one: &Value| one.list("ports").iter().any(|port| port.int("hostPort").unwrap_or(0) != 0);
    if let Some(who) = naming(spec, host_port) {
        found.push(format!("hostPort ({who} uses a hostPort)"));
    }
    found
}

fn restricted(spec: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let escalation =
        |one: &Value| one.at("securityContext.allowPrivilegeEscalation") != &Value::Bool(false);
    if let Some(who) = naming(spec, escalation) {
        let rule = "must set securityContext.allowPrivilegeEscalation=false";
        found.push(format!("allowPrivilegeEscalation != false ({who} {rule})"));
    }
    found.extend(capabilities(spec));
    for volume in spec.list("volumes") {
        let kind = volume
            .as_object()
            .into_iter()
            .flat_map(serde_json::Map::keys)
            .find(|field| *field != "name");
        if let Some(kind) = kind.filter(|kind| !RESTRICTED_VOLUMES.contains(&kind.as_str())) {
            let name = volume.str("name");
            found.push(format!(
                "restricted volume types (volume \"{name}\" uses restricted volume type \"{kind}\")"
            ));
        }
    }
    found.extend(non_root(spec));
    let seccomp = |owner: &Value| {
        matches!(owner.str("securityContext.seccompProfile.type"), "RuntimeDefault" | "Localhost")
    };
    if !seccomp(spec)
        && let Some(who) = naming(spec, |one| !seccomp(one))
    {
        let rule =
            "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
        found.push(format!("seccompProfile (pod or {who} {rule})"));
    }
    found
}

fn capabilities(spec: &Value) -> Option<String> {
    let keeps = |one: &Value| {
        !one.list("securityContext.capabilities.drop").iter().any(|name| name == "ALL")
    };
    let adds = |one: &Value| {
        one.list("securityContext.capabilities.add").iter().any(|name| name != "NET_BIND_SERVICE")
    };
    let dropping = naming(spec, keeps)
        .map(|who| format!("{who} must set securityContext.capabilities.drop=[\"ALL\"]"));
    let adding = naming(spec, adds).map(|who| {
        let rule = "must not include more than \"NET_BIND_SERVICE\" in";
        format!("{who} {rule} securityContext.capabilities.add")
    });
    let details: Vec<String> = dropping.into_iter().chain(adding).collect();
    (!details.is_empty()).then(|| format!("unrestricted capabilities ({})", details.join("; ")))
}

fn non_root(spec: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let stated = |owner: &Value| owner.at("securityContext.runAsNonRoot").as_bool();
    if let Some(who) = naming(spec, |one| stated(one).or(stated(spec)) != Some(true)) {
        let rule = "must set securityContext.runAsNonRoot=true";
        found.push(format!("runAsNonRoot != true (pod or {who} {rule})"));
    }
    let root = |owner: &Value| owner.int("securityContext.runAsUser") == Some(0);
    let who: Vec<String> =
        root(spec).then(|| "pod".to_owned()).into_iter().chain(naming(spec, root)).collect();
    if !who.is_empty() {
        found.push(format!("runAsUser=0 ({} must not set runAsUser=0)", who.join(" and ")));
    }
    found
}

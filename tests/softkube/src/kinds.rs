//! The resources that the API server serves.

use crate::error::Subject;

/// A served resource.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// The plural name in paths, such as `jobs`.
    pub(crate) resource: &'static str,
    pub(crate) kind: &'static str,
    /// The API group; empty for core.
    pub(crate) group: &'static str,
    pub(crate) short_names: &'static [&'static str],
    pub(crate) namespaced: bool,
    /// Whether the status is written through `/status` only.
    pub(crate) status: bool,
    /// Whether objects are kept; reviews are answered and forgotten.
    pub(crate) stored: bool,
}

const KINDS: &[Kind] = &[
    core("namespaces", "Namespace").cluster().with_status().short(&["ns"]),
    core("nodes", "Node").cluster().with_status().short(&["no"]),
    core("pods", "Pod").with_status().short(&["po"]),
    core("services", "Service").with_status().short(&["svc"]),
    core("configmaps", "ConfigMap").short(&["cm"]),
    core("secrets", "Secret"),
    core("serviceaccounts", "ServiceAccount").short(&["sa"]),
    core("events", "Event").short(&["ev"]),
    core("resourcequotas", "ResourceQuota").with_status().short(&["quota"]),
    core("jobs", "Job").in_group("batch").with_status(),
    core("poddisruptionbudgets", "PodDisruptionBudget")
        .in_group("policy")
        .with_status()
        .short(&["pdb"]),
    core("tokenreviews", "TokenReview").in_group("authentication.k8s.io").cluster().review(),
    core("selfsubjectaccessreviews", "SelfSubjectAccessReview")
        .in_group("authorization.k8s.io")
        .cluster()
        .review(),
];

const fn core(resource: &'static str, kind: &'static str) -> Kind {
    Kind {
        resource,
        kind,
        group: "",
        short_names: &[],
        namespaced: true,
        status: false,
        stored: true,
    }
}

impl Kind {
    const fn in_group(self, group: &'static str) -> Self {
        Self { group, ..self }
    }

    const fn cluster(self) -> Self {
        Self { namespaced: false, ..self }
    }

    const fn with_status(self) -> Self {
        Self { status: true, ..self }
    }

    const fn review(self) -> Self {
        Self { stored: false, ..self }
    }

    const fn short(self, short_names: &'static [&'static str]) -> Self {
        Self { short_names, ..self }
    }

    /// `v1` or `batch/v1`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { "v1".to_owned() } else { format!("{}/v1", self.group) }
    }

    /// The subject of an error about the object `name`.
    pub(crate) fn subject<'a>(&'a self, name: &'a str) -> Subject<'a> {
        Subject { group: self.group, resource: self.resource, kind: self.kind, name }
    }
}

/// All served resources.
pub(crate) fn all() -> &'static [Kind] {
    KINDS
}

/// The resource with this plural name in this group.
pub(crate) fn find(group: &str, resource: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.group == group && kind.resource == resource)
}

/// The resource with this plural name, in whichever group has it.
pub(crate) fn by_resource(resource: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.resource == resource)
}

/// The resource of an `apiVersion` and `kind`, as owner references name it.
pub(crate) fn by_kind(api_version: &str, kind: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|candidate| candidate.kind == kind && candidate.api_version() == api_version)
}

/// A resource that is known to be served.
///
/// # Panics
/// When no resource has the name; callers pass literals.
pub(crate) fn known(resource: &str) -> &'static Kind {
    by_resource(resource).expect("callers name served resources")
}

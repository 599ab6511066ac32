//! Users, tokens and permissions.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::base64;
use crate::clock::Time;
use crate::json::Json;
use crate::registry::{Registry, Target};

/// The audience of the API server itself.
pub(crate) const API_AUDIENCE: &str = "https://kubernetes.default.svc.cluster.local";
const ADMIN_GROUP: &str = "system:masters";
/// How long the token of a pod outlives the end of its grace period.
const DELETED_POD_LEEWAY: Duration = Duration::from_secs(60);

/// A user with a static token.
#[derive(Clone, Debug)]
pub struct User {
    /// The name that rules and logs use.
    pub name: String,
    /// Groups besides `system:authenticated`; members of `system:masters` may do everything.
    pub groups: Vec<String>,
    /// The bearer token.
    pub token: String,
}

impl User {
    /// A user without further groups.
    pub fn new(name: &str, token: &str) -> Self {
        Self { name: name.to_owned(), groups: Vec::new(), token: token.to_owned() }
    }

    /// A user who may do everything.
    pub fn admin(name: &str, token: &str) -> Self {
        Self { groups: vec![ADMIN_GROUP.to_owned()], ..Self::new(name, token) }
    }
}

/// A permission: a subject may use verbs on resources, in one namespace or everywhere.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The name of a user, such as `system:serviceaccount:NAMESPACE:NAME`, or of a group.
    pub subject: String,
    /// Verbs such as `get`, or `*`.
    pub verbs: Vec<String>,
    /// Plural names such as `jobs` and `pods/log`, or `*`.
    pub resources: Vec<String>,
    /// The namespace; `None` grants cluster-wide.
    pub namespace: Option<String>,
}

impl Rule {
    /// A rule from lists separated by commas, such as `"get,list"` and `"pods,pods/log"`.
    pub fn new(subject: &str, verbs: &str, resources: &str, namespace: Option<&str>) -> Self {
        let list = |text: &str| text.split(',').map(|one| one.trim().to_owned()).collect();
        Self {
            subject: subject.to_owned(),
            verbs: list(verbs),
            resources: list(resources),
            namespace: namespace.map(str::to_owned),
        }
    }
}

/// Who makes a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

impl Identity {
    /// `user` of a token review.
    pub(crate) fn describe(&self) -> Value {
        let mut user = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            user.put("uid", self.uid.as_str());
        }
        for (key, values) in &self.extra {
            user.put_entry("extra", key, values.clone());
        }
        user
    }
}

/// What a token was issued for.
#[derive(Clone, Debug)]
struct Issued {
    namespace: String,
    account: String,
    account_uid: String,
    /// Name and uid of the pod that the token is bound to.
    pod: Option<(String, String)>,
    audiences: Vec<String>,
    expires: Time,
}

/// A wanted service account token.
#[derive(Clone, Debug)]
pub(crate) struct TokenSpec<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) account: &'a str,
    pub(crate) account_uid: &'a str,
    pub(crate) pod: Option<(String, String)>,
    pub(crate) audiences: Vec<String>,
    pub(crate) lifetime: Duration,
}

/// The known users, tokens and rules.
#[derive(Debug)]
pub(crate) struct Auth {
    users: Vec<User>,
    rules: Vec<Rule>,
    issued: BTreeMap<String, Issued>,
}

impl Auth {
    pub(crate) fn new(users: Vec<User>, rules: Vec<Rule>) -> Self {
        Self { users, rules, issued: BTreeMap::new() }
    }

    pub(crate) fn add_rule(&mut self, rule: Rule) {
        self.rules.push(rule);
    }

    /// Issues a token and returns it with its expiry.
    pub(crate) fn issue(
        &mut self,
        registry: &mut Registry,
        spec: &TokenSpec<'_>,
    ) -> (String, Time) {
        let now = registry.now();
        let expires = now.after(spec.lifetime);
        let mut claims = json!({
            "iss": API_AUDIENCE, "aud": spec.audiences, "iat": now.seconds(), "nbf": now.seconds(),
            "exp": expires.seconds(), "sub": format!("system:serviceaccount:{}:{}", spec.namespace, spec.account),
            "kubernetes.io": {
                "namespace": spec.namespace,
                "serviceaccount": {"name": spec.account, "uid": spec.account_uid},
            },
        });
        if let Some((name, uid)) = &spec.pod {
            claims["kubernetes.io"]["pod"] = json!({"name": name, "uid": uid});
        }
        let header = json!({"alg": "RS256", "kid": "softkube"}).to_string();
        let signature = format!("{:016x}{:016x}", registry.random.next(), registry.random.next());
        let parts =
            [header, claims.to_string(), signature].map(|part| base64::encode_url(part.as_bytes()));
        let token = parts.join(".");
        let issued = Issued {
            namespace: spec.namespace.to_owned(),
            account: spec.account.to_owned(),
            account_uid: spec.account_uid.to_owned(),
            pod: spec.pod.clone(),
            audiences: spec.audiences.clone(),
            expires,
        };
        self.issued.insert(token.clone(), issued);
        (token, expires)
    }

    /// Who a token belongs to and for which of the audiences it is good; `None` when it is not valid.
    pub(crate) fn authenticate(
        &self,
        registry: &Registry,
        token: &str,
        audiences: &[String],
    ) -> Option<(Identity, Vec<String>)> {
        if let Some(user) = self.users.iter().find(|user| user.token == token) {
            let mut groups = user.groups.clone();
            groups.push("system:authenticated".to_owned());
            let identity = Identity { name: user.name.clone(), groups, ..Identity::default() };
            return Some((identity, audiences.to_vec()));
        }
        let issued = self.issued.get(token)?;
        let good: Vec<String> =
            audiences.iter().filter(|one| issued.audiences.contains(one)).cloned().collect();
        let valid =
            !good.is_empty() && issued.expires > registry.now() && is_bound(registry, issued);
        valid.then(|| (account_identity(issued), good))
    }

    /// Whether someone may use a verb on a resource (`pods/log`) in a namespace (empty: cluster scope).
    pub(crate) fn allows(
        &self,
        identity: &Identity,
        verb: &str,
        resource: &str,
        namespace: &str,
    ) -> bool {
        let is_admin = identity.groups.iter().any(|group| group == ADMIN_GROUP);
        let covers =
            |list: &[String], wanted: &str| list.iter().any(|one| one == "*" || one == wanted);
        let grants = |rule: &Rule| {
            let subject = rule.subject == identity.name || identity.groups.contains(&rule.subject);
            let here = rule.namespace.as_deref().is_none_or(|one| one == namespace);
            subject && here && covers(&rule.verbs, verb) && covers(&rule.resources, resource)
        };
        is_admin || self.rules.iter().any(grants)
    }
}

/// Whether the service account and the pod of a token still exist.
fn is_bound(registry: &Registry, issued: &Issued) -> bool {
    let account = registry.get(Target::new("serviceaccounts", &issued.namespace, &issued.account));
    let account_exists =
        account.is_ok_and(|account| account.str("metadata.uid") == issued.account_uid);
    let pod_exists = issued.pod.as_ref().is_none_or(|(name, uid)| {
        let pod = registry.get(Target::new("pods", &issued.namespace, name));
        pod.is_ok_and(|pod| {
            let deadline = pod.text("metadata.deletionTimestamp").and_then(Time::parse);
            let gone = deadline
                .is_some_and(|deadline| deadline.after(DELETED_POD_LEEWAY) < registry.now());
            pod.str("metadata.uid") == uid && !gone
        })
    });
    account_exists && pod_exists
}

fn account_identity(issued: &Issued) -> Identity {
    let mut extra = BTreeMap::new();
    if let Some((name, uid)) = &issued.pod {
        extra.insert("authentication.kubernetes.io/pod-name".to_owned(), vec![name.clone()]);
        extra.insert("authentication.kubernetes.io/pod-uid".to_owned(), vec![uid.clone()]);
    }
    Identity {
        name: format!("system:serviceaccount:{}:{}", issued.namespace, issued.account),
        uid: issued.account_uid.clone(),
        groups: vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{}", issued.namespace),
            "system:authenticated".to_owned(),
        ],
        extra,
    }
}

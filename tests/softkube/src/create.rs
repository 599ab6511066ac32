//! Creating objects.

use serde_json::Value;

use crate::admission;
use crate::defaults;
use crate::error::ApiError;
use crate::json::{Json, omit_empty};
use crate::kinds::{self, Kind};
use crate::managed;
use crate::prepare;
use crate::registry::{Registry, Target, Write};
use crate::validate;

/// The longest prefix of a generated name; the random suffix follows.
const GENERATED_PREFIX_BYTES: usize = 58;
const SUFFIX_LENGTH: usize = 5;
const NAME_ATTEMPTS: usize = 8;

impl Registry {
    /// Creates an object in a namespace (empty for cluster-scoped kinds) and returns it as stored.
    ///
    /// # Errors
    /// What the API server answers: 400, 403, 404 for the namespace, 409 or 422.
    pub(crate) fn create(
        &mut self,
        kind: &'static Kind,
        namespace: &str,
        mut object: Value,
        write: &Write<'_>,
    ) -> Result<Value, ApiError> {
        omit_empty(&mut object);
        self.check_namespace(kind, namespace, &object)?;
        if !object.str("metadata.resourceVersion").is_empty() {
            return Err(ApiError::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        if kind.namespaced {
            object.put("metadata.namespace", namespace);
        }
        let prefix = object.str("metadata.generateName").to_owned();
        let generated = object.str("metadata.name").is_empty() && !prefix.is_empty();
        let attempts = if generated { NAME_ATTEMPTS } else { 1 };
        for attempt in 1..=attempts {
            let mut candidate = object.clone();
            if generated {
                candidate.put("metadata.name", self.generate_name(&prefix));
            }
            match self.create_named(kind, candidate, write) {
                Err(error) if error.reason == "AlreadyExists" && attempt < attempts => {}
                result => return result,
            }
        }
        Err(ApiError::internal("a generated name was not found"))
    }

    /// Creates an object whose configuration is owned by server-side apply.
    ///
    /// # Errors
    /// As [`Registry::create`].
    pub(crate) fn create_applied(
        &mut self,
        kind: &'static Kind,
        namespace: &str,
        config: Value,
        write: &Write<'_>,
    ) -> Result<Value, ApiError> {
        let created = self.create(kind, namespace, config.clone(), write)?;
        let mut bare = created.clone();
        bare.cut("metadata.managedFields");
        let applied = managed::apply(kind, &bare, &config, true, self.writer(write))?;
        let mut owned = created;
        owned.put("metadata.managedFields", applied.at("metadata.managedFields").clone());
        if write.dry_run {
            return Ok(owned);
        }
        let name = owned.str("metadata.name").to_owned();
        let target = Target { kind, namespace, name: &name };
        Ok(self.store.amend(&target.key(), owned))
    }

    fn check_namespace(
        &self,
        kind: &Kind,
        namespace: &str,
        object: &Value,
    ) -> Result<(), ApiError> {
        let stated = object.str("metadata.namespace");
        if !kind.namespaced {
            return Ok(());
        }
        if !stated.is_empty() && stated != namespace {
            let message = "the namespace of the provided object does not match the namespace sent on the request";
            return Err(ApiError::bad_request(message));
        }
        let found = self.get(Target::new("namespaces", "", namespace))?;
        if found.text("status.phase") != Some("Terminating") {
            return Ok(());
        }
        let cause = format!(
            "unable to create new content in namespace {namespace} because it is being terminated"
        );
        let mut error = ApiError::forbidden(kind.subject(object.str("metadata.name")), &cause);
        let field = "metadata.namespace";
        let message = format!("namespace {namespace} is being terminated");
        error.details["causes"] = serde_json::json!([
            {"reason": "NamespaceTerminating", "message": message, "field": field}
        ]);
        Err(error)
    }

    fn generate_name(&mut self, prefix: &str) -> String {
        let mut end = prefix.len().min(GENERATED_PREFIX_BYTES);
        while !prefix.is_char_boundary(end) {
            end -= 1;
        }
        format!("{}{}", &prefix[..end], self.random.suffix(SUFFIX_LENGTH))
    }

    fn create_named(
        &mut self,
        kind: &'static Kind,
        mut object: Value,
        write: &Write<'_>,
    ) -> Result<Value, ApiError> {
        let uid = self.random.uuid();
        for field in [
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "selfLink",
            "managedFields",
        ] {
            object.cut(&format!("metadata.{field}"));
        }
        object.put("metadata.uid", uid);
        object.put("metadata.creationTimestamp", self.now().rfc3339());
        defaults::apply(kind, &mut object);
        admission::mutate(self, kind, &mut object)?;
        let address = self.next_address();
        prepare::create(kind, &mut object, address);
        let name = object.str("metadata.name").to_owned();
        validate::create(kind, &object).into_result(kind.subject(&name))?;
        admission::review(self, kind, &object)?;
        let target = Target { kind, namespace: object.str("metadata.namespace"), name: &name };
        if self.store.get(&target.key()).is_some() {
            return Err(ApiError::already_exists(kind.subject(&name)));
        }
        let mut stored = object.clone();
        managed::track_update(kind, &Value::Null, &mut stored, self.writer(write));
        if write.dry_run {
            return Ok(stored);
        }
        let stored = self.store_object(target, stored);
        self.after_create(kind, &name);
        Ok(stored)
    }

    /// A new namespace gets its default service account and the cluster's certificate, as controllers add them.
    fn after_create(&mut self, kind: &Kind, name: &str) {
        if kind.resource != "namespaces" {
            return;
        }
        let write = Write::controller("kube-controller-manager");
        let account = serde_json::json!({"metadata": {"name": "default"}});
        let certificate = serde_json::json!({
            "metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": self.certificate()},
        });
        for (resource, object) in [("serviceaccounts", account), ("configmaps", certificate)] {
            // The namespace was just created, so nothing can be in the way.
            let created = self.create(kinds::known(resource), name, object, &write);
            debug_assert!(created.is_ok(), "{created:?}");
        }
    }
}

//! The patch formats: JSON patch, merge patch and strategic merge patch.
//!
//! Server-side apply is in `managed`, because it needs the owners of fields.

mod json_patch;
mod strategic;

use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::kinds::Kind;
use crate::schema;

/// The format of a patch, from its content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl Format {
    /// Reads a `Content-Type` header.
    pub(crate) fn from_content_type(content_type: &str) -> Option<Self> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/apply-patch+yaml" => Some(Self::Apply),
            _ => None,
        }
    }
}

/// Applies a patch that names its changes to an object of a kind.
///
/// # Errors
/// 400 for a malformed patch, 422 for one that does not fit the object.
pub(crate) fn apply(
    format: Format,
    kind: &Kind,
    object: &Value,
    patch: &Value,
) -> Result<Value, ApiError> {
    let mut patched = object.clone();
    match format {
        Format::Json => patched = json_patch::apply(patched, patch)?,
        Format::Merge => merge(&mut patched, patch),
        Format::Strategic => strategic::apply(&schema::of_kind(kind.kind), &mut patched, patch)?,
        Format::Apply => {
            return Err(ApiError::internal("server-side apply does not come through here"));
        }
    }
    Ok(patched)
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let fields = target.as_object_mut().expect("the target was just made an object");
    for (name, change) in changes {
        if change.is_null() {
            fields.remove(name);
        } else {
            merge(fields.entry(name).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds;

    /// The examples of RFC 7386, appendix A.
    #[test]
    fn merge_patches_follow_the_examples_of_the_rfc() {
        let cases = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a": "b"}), json!(["c"]), json!(["c"])),
            (json!({"a": "foo"}), json!(null), json!(null)),
            (json!({"a": "foo"}), json!("bar"), json!("bar")),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ];
        for (target, patch, expected) in cases {
            let mut patched = target.clone();
            merge(&mut patched, &patch);
            assert_eq!(patched, expected, "{target} + {patch}");
        }
    }

    #[test]
    fn json_patches_change_and_test_values() {
        let object = json!({"a": [1, 2], "b": {"c/d": 3}});
        let cases = [
            (
                json!([{"op": "add", "path": "/a/1", "value": 9}]),
                Some(json!({"a": [1, 9, 2], "b": {"c/d": 3}})),
            ),
            (
                json!([{"op": "add", "path": "/a/-", "value": 9}]),
                Some(json!({"a": [1, 2, 9], "b": {"c/d": 3}})),
            ),
            (json!([{"op": "remove", "path": "/a/0"}]), Some(json!({"a": [2], "b": {"c/d": 3}}))),
            (
                json!([{"op": "replace", "path": "/b/c~1d", "value": 4}]),
                Some(json!({"a": [1, 2], "b": {"c/d": 4}})),
            ),
            (
                json!([{"op": "move", "from": "/a", "path": "/x"}]),
                Some(json!({"x": [1, 2], "b": {"c/d": 3}})),
            ),
            (
                json!([{"op": "copy", "from": "/a/0", "path": "/b/e"}]),
                Some(json!({"a": [1, 2], "b": {"c/d": 3, "e": 1}})),
            ),
            (json!([{"op": "test", "path": "/a/0", "value": 1}]), Some(object.clone())),
            (json!([{"op": "test", "path": "/a/0", "value": 2}]), None),
            (json!([{"op": "remove", "path": "/none"}]), None),
            (json!([{"op": "add", "path": "/a/7", "value": 1}]), None),
            (json!([{"op": "jump", "path": "/a"}]), None),
        ];
        for (patch, expected) in cases {
            let patched = apply(Format::Json, kinds::known("jobs"), &object, &patch);
            assert_eq!(patched.ok(), expected, "{patch}");
        }
    }

    #[test]
    fn strategic_patches_merge_lists_by_their_key() {
        let job = json!({"metadata": {"finalizers": ["a/b", "c/d"], "labels": {"x": "1"}},
            "spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i", "args": ["1"]}, {"name": "d"}],
                "tolerations": [{"key": "k"}]}}}});
        let template = "spec.template.spec";
        let cases = [
            (
                json!({"metadata": {"labels": {"y": "2", "x": null}}}),
                "metadata.labels",
                json!({"y": "2"}),
            ),
            (
                json!({"metadata": {"finalizers": ["e/f"]}}),
                "metadata.finalizers",
                json!(["a/b", "c/d", "e/f"]),
            ),
            (
                json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a/b"]}}),
                "metadata.finalizers",
                json!(["c/d"]),
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "j", "args": ["2"]}]}}}}),
                "spec.template.spec.containers",
                json!([{"name": "c", "image": "j", "args": ["2"]}, {"name": "d"}]),
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": [{"name": "d", "$patch": "delete"}]}}}}),
                "spec.template.spec.containers",
                json!([{"name": "c", "image": "i", "args": ["1"]}]),
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": [{"$patch": "replace"}, {"name": "e"}]}}}}),
                "spec.template.spec.containers",
                json!([{"name": "e"}]),
            ),
            (
                json!({"spec": {"template": {"spec": {"tolerations": [{"key": "l"}]}}}}),
                "spec.template.spec.tolerations",
                json!([{"key": "l"}]),
            ),
            (
                json!({"metadata": {"labels": {"$patch": "replace", "z": "3"}}}),
                "metadata.labels",
                json!({"z": "3"}),
            ),
        ];
        for (patch, path, expected) in cases {
            let patched = apply(Format::Strategic, kinds::known("jobs"), &job, &patch).unwrap();
            assert_eq!(crate::json::Json::at(&patched, path), &expected, "{patch}");
        }
        assert!(job.pointer(&format!("/{}", template.replace('.', "/"))).is_some());
    }
}

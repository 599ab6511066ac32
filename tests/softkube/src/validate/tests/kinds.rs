//! Cases for pods, Services, ConfigMaps, Secrets and disruption budgets.

use serde_json::{Value, json};

use crate::json::Json;
use crate::validate::create;
use crate::{defaults, kinds, prepare};

/// Validates an object as if a client had created it, and returns the fields with errors.
fn fields_of(resource: &str, mut object: Value) -> Vec<String> {
    let kind = kinds::known(resource);
    defaults::apply(kind, &mut object);
    prepare::create(kind, &mut object, [0, 1]);
    create(kind, &object).iter().map(|error| format!("{} {}", error.reason, error.field)).collect()
}

#[test]
fn invalid_pod_specs_are_refused() {
    let text = include_str!("../../../tests/tables/pod_validation.json");
    let cases: Value = serde_json::from_str(text).unwrap();
    for case in cases.as_array().unwrap() {
        let mut spec = json!({"containers": [{"name": "c", "image": "i"}]});
        for (key, value) in case.entries("spec") {
            spec.put(key, value.clone());
        }
        for (key, value) in case.entries("container") {
            spec.list_mut("containers")[0].put(key, value.clone());
        }
        if case.has("volume") {
            let mut volume = case["volume"].clone();
            volume.put("name", "v");
            spec.put("volumes", json!([volume]));
        }
        let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec});
        let found = fields_of("pods", pod);
        let want = case.list("want");
        let want = format!("{} spec.{}", want[0].as_str().unwrap(), want[1].as_str().unwrap());
        assert!(found.contains(&want), "{want}: {found:?}");
    }
}

#[test]
fn other_kinds_are_checked() {
    let meta = |name: &str| json!({"name": name, "namespace": "n"});
    let port = |name: &str, number: i64| json!({"name": name, "port": number});
    let service = |spec: Value| ("services", json!({"metadata": meta("s"), "spec": spec}));
    let cases = [
        (service(json!({"clusterIP": "None"})), ""),
        (service(json!({})), "FieldValueRequired spec.ports"),
        (
            service(json!({"ports": [port("", 1), port("b", 2)]})),
            "FieldValueRequired spec.ports[0].name",
        ),
        (
            service(json!({"ports": [port("a", 1), port("b", 1)]})),
            "FieldValueDuplicate spec.ports[1]",
        ),
        (service(json!({"ports": [port("a", 0)]})), "FieldValueInvalid spec.ports[0].port"),
        (
            service(json!({"ports": [port("a", 1)], "ipFamilyPolicy": "Any"})),
            "FieldValueNotSupported spec.ipFamilyPolicy",
        ),
        (
            ("services", json!({"metadata": meta("1s"), "spec": {"clusterIP": "None"}})),
            "FieldValueInvalid metadata.name",
        ),
        (
            ("configmaps", json!({"metadata": meta("c"), "data": {"a/b": ""}})),
            "FieldValueInvalid data[a/b]",
        ),
        (
            ("secrets", json!({"metadata": meta("s"), "type": "kubernetes.io/tls"})),
            "FieldValueRequired data[tls.crt]",
        ),
        (("configmaps", json!({"metadata": meta("C")})), "FieldValueInvalid metadata.name"),
        (
            (
                "poddisruptionbudgets",
                json!({"metadata": meta("b"), "spec": {"minAvailable": 1, "maxUnavailable": 1}}),
            ),
            "FieldValueInvalid spec",
        ),
    ];
    for ((resource, object), want) in cases {
        let found = fields_of(resource, object);
        assert_eq!(found.first().map_or("", String::as_str), want, "{found:?}");
    }
}

//! The API over HTTP: verbs, errors, patches, deletion and permissions.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use serde_json::{Value, json};
use softkube::{Cluster, Options, Rule, User};
use support::{CONFIG_MAPS, Client, JOBS, PODS, config_map, job, manual_cluster, pod};

#[tokio::test]
async fn objects_are_created_read_updated_and_deleted() {
    let cluster = manual_cluster().await;
    let client = Client::new(&cluster);
    let created = client.post(CONFIG_MAPS, &config_map("a", "1")).await;
    assert_eq!(created.code, 201);
    assert_eq!(created.body["metadata"]["managedFields"][0]["manager"], "tester");
    assert!(created.body["metadata"]["uid"].is_string());
    assert_eq!(
        client.post(CONFIG_MAPS, &config_map("a", "1")).await.body["reason"],
        "AlreadyExists"
    );
    let path = format!("{CONFIG_MAPS}/a");
    let mut object = client.get(&path).await.body;
    object["data"]["key"] = "2".into();
    let updated = client.put(&path, &object).await;
    assert_eq!(updated.code, 200);
    let stale = client.put(&path, &object).await;
    assert_eq!((stale.code, &stale.body["reason"]), (409, &json!("Conflict")));
    let unchanged = client.put(&path, &updated.body).await;
    assert_eq!(
        unchanged.body["metadata"]["resourceVersion"],
        updated.body["metadata"]["resourceVersion"]
    );
    let deleted = client.delete(&path).await;
    assert_eq!((deleted.code, &deleted.body["status"]), (200, &json!("Success")));
    let gone = client.get(&path).await;
    assert_eq!((gone.code, &gone.body["message"]), (404, &json!("configmaps \"a\" not found")));
}

#[tokio::test]
async fn jobs_are_completed_with_their_defaults() {
    let cluster = manual_cluster().await;
    let client = Client::new(&cluster);
    let created = client.post(JOBS, &job("train", json!({}))).await.body;
    let uid = created["metadata"]["uid"].as_str().unwrap();
    assert_eq!(created["spec"]["backoffLimit"], 6);
    assert_eq!(created["spec"]["completionMode"], "NonIndexed");
    assert_eq!(created["spec"]["podReplacementPolicy"], "TerminatingOrFailed");
    assert_eq!(
        created["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"],
        uid
    );
    let labels = &created["spec"]["template"]["metadata"]["labels"];
    assert_eq!(labels["job-name"], "train");
    assert_eq!(labels["controller-uid"], uid);
    assert_eq!(
        created["metadata"]["labels"],
        json!(null),
        "labels are defaulted before the template gets its own"
    );
    assert_eq!(created["metadata"]["generation"], 1);
    let template = &created["spec"]["template"]["spec"];
    assert_eq!(template["terminationGracePeriodSeconds"], 30);
    assert_eq!(template["containers"][0]["imagePullPolicy"], "IfNotPresent");
    assert_eq!(template["containers"][0]["resources"], json!({}));
}

#[tokio::test]
async fn invalid_objects_are_refused_with_their_causes() {
    let cluster = manual_cluster().await;
    let client = Client::new(&cluster);
    let invalid = client.post(JOBS, &job("train", json!({"parallelism": -1}))).await;
    assert_eq!(invalid.code, 422);
    let message = "Job.batch \"train\" is invalid: spec.parallelism: Invalid value: -1: must be greater than or equal \
        to 0";
    assert_eq!(invalid.body["message"], message);
    let cause = json!({"reason": "FieldValueInvalid", "field": "spec.parallelism",
        "message": "Invalid value: -1: must be greater than or equal to 0"});
    assert_eq!(invalid.body["details"]["causes"], json!([cause]));
    let mistyped = client.post(JOBS, &job("train", json!({"parallelism": "2"}))).await;
    assert_eq!(mistyped.code, 400);
    let large = client.post(CONFIG_MAPS, &config_map("big", &"x".repeat(1024 * 1024 + 1))).await;
    assert_eq!(large.body["details"]["causes"][0]["reason"], "FieldValueTooLong");
    let elsewhere = client.post("/api/v1/namespaces/none/configmaps", &config_map("a", "1")).await;
    assert_eq!(
        (elsewhere.code, &elsewhere.body["message"]),
        (404, &json!("namespaces \"none\" not found"))
    );
}

#[tokio::test]
async fn unknown_fields_are_warned_of_refused_or_ignored() {
    let cluster = manual_cluster().await;
    let client = Client::new(&cluster);
    let object = job("train", json!({"replicas": 2}));
    let strict = client.post(&format!("{JOBS}?fieldValidation=Strict"), &object).await;
    assert_eq!(strict.code, 400);
    let message = "Job in version \"v1\" cannot be handled as a Job: strict decoding error: unknown field \
        \"spec.replicas\"";
    assert_eq!(strict.body["message"], message);
    let warned = client.post(&format!("{JOBS}?dryRun=All"), &object).await;
    assert_eq!(
        (warned.code, warned.warnings.as_slice()),
        (201, &[r#"299 - "unknown field \"spec.replicas\"""#.to_owned()][..])
    );
    let ignored = client.post(&format!("{JOBS}?fieldValidation=Ignore"), &object).await;
    assert_eq!((ignored.code, ignored.warnings.len()), (201, 0));
    assert!(ignored.body["spec"].get("replicas").is_none());
    assert_eq!(cluster.ledger().iter().filter(|created| created.key.resource == "jobs").count(), 1);
}

#[tokio::test]
async fn names_are_generated() {
    let cluster = manual_cluster().await;
    let client = Client::new(&cluster);
    let mut object = config_map("", "1");
    object["metadata"] = json!({"generateName": "run-"});
    let first = client.post(CONFIG_MAPS, &object).await.body;
    let second = client.post(CONFIG_MAPS, &object).await.body;
    let name = first["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("run-") && name.len() == 9, "{name}");
    assert_ne!(first["metadata"]["name"], second["metadata"]["name"]);
}

#[tokio::test]
async fn a_job_changes_only_where_it_may() {
    let cluster = manual_cluster().await;
    let client = Client::new(&cluster);
    let spec = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2});
    client.post(JOBS, &job("train", spec)).await;
    let path = format!("{JOBS}/train");
    let refused = [
        (json!({"spec": {"template": {"spec": {"priorityClassName": "x"}}}}), "spec.template"),
        (json!({"spec": {"completions": 3}}), "spec.completions"),
        (json!({"spec": {"completionMode": "NonIndexed"}}), "spec.completionMode"),
        (json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}}), "spec.selector"),
        (json!({"spec": {"backoffLimitPerIndex": 1}}), "spec.backoffLimitPerIndex"),
    ];
    for (patch, field) in refused {
        let answer = client.patch("merge", &path, &patch).await;
        let fields: Vec<&Value> = answer.body["details"]["causes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|cause| &cause["field"])
            .collect();
        assert!(answer.code == 422 && fields.contains(&&json!(field)), "{patch}: {}", answer.body);
    }
    let scaled =
        client.patch("merge", &path, &json!({"spec": {"completions": 3, "parallelism": 3}})).await;
    assert_eq!((scaled.code, &scaled.body["metadata"]["generation"]), (200, &json!(2)));
    let status = client.patch("merge", &path, &json!({"status": {"active": 9}})).await;
    assert_ne!(
        status.body["status"]["active"], 9,
        "the status is written through its subresource only"
    );
}

#[tokio::test]
async fn a_suspended_job_that_never_started_may_be_redirected() {
    let cluster = manual_cluster().await;
    let client = Client::new(&cluster);
    client.post(JOBS, &job("train", json!({"suspend": true}))).await;
    cluster.settle();
    let selector = json!({"spec": {"template": {"spec": {"nodeSelector": {"zone": "a"}}}}});
    assert_eq!(client.patch("merge", &format!("{JOBS}/train"), &selector).await.code, 200);
    client.patch("merge", &format!("{JOBS}/train"), &json!({"spec": {"suspend": false}})).await;
    cluster.settle();
    let selector = json!({"spec": {"template": {"spec": {"nodeSelector": {"zone": "b"}}}}});
    assert_eq!(client.patch("merge", &format!("{JOBS}/train"), &selector).await.code, 422);
}

#[tokio::test]
async fn server_side_apply_owns_fields_and_reports_conflicts() {
    let cluster = manual_cluster().await;
    let client = Client::new(&cluster);
    let path = format!("{CONFIG_MAPS}/a");
    let config = |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data});
    let nameless = client.patch("apply", &path, &config(json!({}))).await;
    assert_eq!(nameless.code, 422);
    let created = client
        .patch("apply", &format!("{path}?fieldManager=one"), &config(json!({"x": "1", "y": "1"})))
        .await;
    assert_eq!(created.code, 201);
    assert_eq!(created.body["metadata"]["managedFields"][0]["operation"], "Apply");
    let other = client
        .patch("apply", &format!("{path}?fieldManager=two"), &config(json!({"y": "2"})))
        .await;
    assert_eq!(other.code, 409);
    assert_eq!(
        other.body["message"],
        "Apply failed with 1 conflict: conflict with \"one\": .data.y"
    );
    assert_eq!(other.body["details"]["causes"][0]["reason"], "FieldManagerConflict");
    let forced = client
        .patch("apply", &format!("{path}?fieldManager=two&force=true"), &config(json!({"y": "2"})))
        .await;
    assert_eq!(forced.body["data"], json!({"x": "1", "y": "2"}));
    let shrunk = client
        .patch("apply", &format!("{path}?fieldManager=one"), &config(json!({"z": "1"})))
        .await;
    assert_eq!(
        shrunk.body["data"],
        json!({"y": "2", "z": "1"}),
        "fields that are applied no longer are removed"
    );
    let again = client
        .patch("apply", &format!("{path}?fieldManager=one"), &config(json!({"z": "1"})))
        .await;
    assert_eq!(
        again.body["metadata"]["resourceVersion"],
        shrunk.body["metadata"]["resourceVersion"]
    );
    let unknown = client
        .patch(
            "apply",
            &format!("{path}?fieldManager=one"),
            &json!({"kind": "ConfigMap", "spec": 1}),
        )
        .await;
    assert_eq!(unknown.code, 500);
}

#[tokio::test]
async fn patches_of_all_formats_change_an_object() {
    let cluster = manual_cluster().await;
    let client = Client::new(&cluster);
    client.post(CONFIG_MAPS, &config_map("a", "1")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let steps = [
        ("merge", json!({"data": {"key": "2"}}), 200),
        ("strategic-merge", json!({"metadata": {"finalizers": ["a.b/c"]}}), 200),
        ("json", json!([{"op": "test", "path": "/data/key", "value": "2"}]), 200),
        ("json", json!([{"op": "test", "path": "/data/key", "value": "3"}]), 422),
        ("merge", json!({"metadata": {"resourceVersion": "1"}}), 409),
    ];
    for (format, patch, code) in steps {
        assert_eq!(client.patch(format, &path, &patch).await.code, code, "{format} {patch}");
    }
    let text = client.send("PATCH", &path, "text/plain", &json!({})).await.unwrap();
    assert_eq!(text.status().as_u16(), 415);
}

#[tokio::test]
async fn deletion_honours_preconditions_finalizers_and_propagation() {
    let cluster = manual_cluster().await;
    let client = Client::new(&cluster);
    client.post(JOBS, &job("a", json!({}))).await;
    cluster.settle();
    let path = format!("{JOBS}/a");
    let precondition = json!({"preconditions": {"uid": "other"}});
    let response = client.send("DELETE", &path, "application/json", &precondition).await.unwrap();
    assert_eq!(response.status().as_u16(), 409);
    let orphaning = client.delete(&path).await;
    assert!(
        orphaning.warnings[0].contains("child pods are preserved by default when jobs are deleted")
    );
    assert_eq!(orphaning.body["metadata"]["finalizers"], json!(["orphan"]));
    cluster.settle();
    cluster.view(|view| {
        assert!(view.get("jobs", "default", "a").is_none());
        let pod = view.list("pods", "default")[0];
        assert!(pod["metadata"].get("ownerReferences").is_none());
        assert!(pod["metadata"].get("finalizers").is_none(), "the Job controller lets the pod go");
    });
    client.post(JOBS, &job("b", json!({}))).await;
    cluster.settle();
    let foreground = client.delete(&format!("{JOBS}/b?propagationPolicy=Foreground")).await;
    assert_eq!(foreground.body["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    cluster.settle();
    assert_eq!(cluster.view(|view| view.list("jobs", "default").len()), 0);
    client.post(JOBS, &job("c", json!({}))).await;
    cluster.settle();
    let background = client.delete(&format!("{JOBS}/c?propagationPolicy=Background")).await;
    assert_eq!((background.code, background.warnings.len()), (200, 0));
    cluster.settle();
    assert_eq!(cluster.view(|view| view.pods_of("default", "c").len()), 0);
}

#[tokio::test]
async fn a_namespace_goes_with_its_content() {
    let cluster = manual_cluster().await;
    let client = Client::new(&cluster);
    client.post("/api/v1/namespaces", &json!({"metadata": {"name": "team"}})).await;
    let pods = "/api/v1/namespaces/team/pods";
    client.post(pods, &pod("p")).await;
    cluster.settle();
    cluster
        .modify("pods", "team", "p", |pod| pod["metadata"]["finalizers"] = json!(["a.b/c"]))
        .unwrap();
    let deleting = client.delete("/api/v1/namespaces/team").await;
    assert_eq!(deleting.body["status"]["phase"], "Terminating");
    cluster.settle();
    let refused = client.post(pods, &pod("q")).await;
    assert_eq!(refused.body["details"]["causes"][0]["reason"], "NamespaceTerminating");
    cluster.modify("pods", "team", "p", |pod| pod["metadata"]["finalizers"] = json!([])).unwrap();
    cluster.settle();
    assert_eq!(client.get("/api/v1/namespaces/team").await.code, 404);
}

#[tokio::test]
async fn users_may_do_what_their_rules_say() {
    let options = Options {
        users: vec![User::new("ada", "ada-token")],
        rules: vec![Rule::new("ada", "get,list", "jobs", Some("default"))],
        ..Options::default()
    };
    let cluster = Cluster::start(options).await.unwrap();
    let stranger = Client::with_token(&cluster, "wrong").get(JOBS).await;
    assert_eq!((stranger.code, &stranger.body["reason"]), (401, &json!("Unauthorized")));
    let ada = Client::with_token(&cluster, "ada-token");
    assert_eq!(ada.get(JOBS).await.code, 200);
    let forbidden = ada.post(JOBS, &job("train", json!({}))).await;
    assert_eq!(forbidden.code, 403);
    let message = "jobs.batch is forbidden: User \"ada\" cannot create resource \"jobs\" in API group \"batch\" in the \
        namespace \"default\"";
    assert_eq!(forbidden.body["message"], message);
    let attributes =
        json!({"verb": "list", "resource": "jobs", "group": "batch", "namespace": "default"});
    let review = json!({"spec": {"resourceAttributes": attributes}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(ada.post(path, &review).await.body["status"]["allowed"], true);
}

#[tokio::test]
async fn service_account_tokens_authenticate_for_their_audiences_while_their_pod_exists() {
    let cluster = manual_cluster().await;
    let client = Client::new(&cluster);
    let created = client.post(PODS, &pod("p")).await.body;
    let bound =
        json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": created["metadata"]["uid"]});
    let request = json!({"spec": {"audiences": ["muster"], "boundObjectRef": bound}});
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let token =
        client.post(path, &request).await.body["status"]["token"].as_str().unwrap().to_owned();
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let review = |audience: &str| json!({"spec": {"token": token, "audiences": [audience]}});
    let status = client.post(reviews, &review("muster")).await.body["status"].clone();
    assert_eq!(status["authenticated"], true);
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:default");
    assert_eq!(status["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    assert_eq!(status["audiences"], json!(["muster"]));
    assert!(
        client.post(reviews, &review("other")).await.body["status"].get("authenticated").is_none()
    );
    client.delete(&format!("{PODS}/p?gracePeriodSeconds=0")).await;
    assert!(
        client.post(reviews, &review("muster")).await.body["status"].get("authenticated").is_none()
    );
}

#[tokio::test]
async fn restricted_namespaces_refuse_pods_and_warn_of_jobs() {
    let cluster = manual_cluster().await;
    let client = Client::new(&cluster);
    let labels = json!({
        "pod-security.kubernetes.io/enforce": "restricted",
        "pod-security.kubernetes.io/warn": "restricted",
    });
    client
        .post("/api/v1/namespaces", &json!({"metadata": {"name": "safe", "labels": labels}}))
        .await;
    let refused = client.post("/api/v1/namespaces/safe/pods", &pod("p")).await;
    assert_eq!(refused.code, 403);
    let message = "pods \"p\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != \
        false (container \"main\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities \
        (container \"main\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or \
        container \"main\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"main\" must \
        set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")";
    assert_eq!(refused.body["message"], message);
    let warned = client.post("/apis/batch/v1/namespaces/safe/jobs", &job("train", json!({}))).await;
    assert!(
        warned.code == 201 && warned.warnings[0].contains("would violate PodSecurity"),
        "{warned:?}"
    );
    let mut good = pod("q");
    good["spec"]["securityContext"] =
        json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    good["spec"]["containers"][0]["securityContext"] =
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    assert_eq!(client.post("/api/v1/namespaces/safe/pods", &good).await.code, 201);
}

#[tokio::test]
async fn logs_are_tailed_and_followed() {
    let cluster = manual_cluster().await;
    let client = Client::new(&cluster);
    client.post(PODS, &pod("p")).await;
    cluster.settle();
    let early = client.get(&format!("{PODS}/p/log")).await;
    assert_eq!(
        early.body["message"],
        "container \"main\" in pod \"p\" is waiting to start: ContainerCreating"
    );
    cluster.kubelet().run("default", "p").unwrap();
    for line in ["one", "two", "three"] {
        cluster.kubelet().log("default", "p", "main", line).unwrap();
    }
    assert_eq!(client.get(&format!("{PODS}/p/log?tailLines=2")).await.body, "two\nthree\n");
    let mut follow = client
        .send("GET", &format!("{PODS}/p/log?follow=true&tailLines=0"), "", &Value::Null)
        .await
        .unwrap();
    cluster.kubelet().log("default", "p", "main", "four").unwrap();
    assert_eq!(follow.chunk().await.unwrap().unwrap(), "four\n");
    cluster.kubelet().exit("default", "p", 0).unwrap();
    assert!(follow.chunk().await.unwrap().is_none());
}

#[tokio::test]
async fn what_is_not_served_is_not_found() {
    let cluster = manual_cluster().await;
    let client = Client::new(&cluster);
    assert_eq!(client.get("/apis/apps/v1/namespaces/default/deployments").await.code, 404);
    assert_eq!(client.get("/version").await.body["gitVersion"], "v1.34.0");
    client.post(PODS, &pod("p")).await;
    assert_eq!(client.post(&format!("{PODS}/p/exec"), &json!({})).await.code, 404);
    assert_eq!(client.put(CONFIG_MAPS, &config_map("a", "1")).await.code, 405);
}

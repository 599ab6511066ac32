//! What the API server refuses is said in words that a user can act on.

#![allow(clippy::unwrap_used)]

mod support;

use kubernetes::{Cluster, Error, Objects, Patience};
use serde_json::{Value, json};
use softkube::{Cluster as Kube, FaultKind, FaultRule, Options, Rule, Tls};
use std::time::Duration;
use support::{
    PATIENCE, SPACE, client, client_of, cluster, created, dependents, job, objects, requests,
    stored,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A client who may do what the rules say: verbs, and the resources that they go with.
async fn limited(kube: &Kube, rules: &[(&str, &str)]) -> Cluster {
    kube.create("serviceaccounts", SPACE, json!({ "metadata": { "name": "tester" } })).unwrap();
    for (verbs, resources) in rules {
        let subject = format!("system:serviceaccount:{SPACE}:tester");
        kube.allow(Rule::new(&subject, verbs, resources, Some(SPACE)));
    }
    let token = kube.service_account_token(SPACE, "tester").unwrap();
    client_of(kube, &kube.kubeconfig_for("tester", &token)).await
}

#[tokio::test]
async fn a_missing_permission_is_named_at_once() {
    let kube = cluster().await;
    let client = limited(&kube, &[]).await;
    let error = client.launch(objects()).await.unwrap_err();
    let Error::Forbidden { verb, resource, .. } = &error else { panic!("{error}") };
    assert_eq!((*verb, resource.as_str()), ("create", "jobs.batch"));
    let text = error.to_string();
    assert!(
        text.starts_with("not allowed to create jobs.batch in namespace `default`: "),
        "{text}"
    );
    assert!(text.contains("`kubectl auth can-i create jobs.batch --namespace default`"), "{text}");
    assert_eq!(requests(&kube), ["create jobs"], "it is not repeated");
    let text = client.jobs().await.unwrap_err().to_string();
    assert!(text.starts_with("not allowed to list jobs.batch in namespace `default`"), "{text}");
}

#[tokio::test]
async fn a_launch_that_may_not_create_everything_removes_its_job_if_it_may() {
    let kube = cluster().await;
    let most = ("create", "jobs,configmaps,services");
    let client = limited(&kube, &[most, ("get,delete", "jobs")]).await;
    let error = client.launch(objects()).await.unwrap_err();
    assert!(error.to_string().starts_with("not allowed to create secrets"), "{error}");
    kube.settle();
    for (resource, name) in [("jobs", "tune-1"), ("configmaps", "tune-1"), ("services", "tune-1")] {
        assert_eq!(stored(&kube, resource, name), Value::Null, "{resource}");
    }

    let kube = cluster().await;
    let client = limited(&kube, &[most, ("get", "jobs")]).await;
    let error = client.launch(objects()).await.unwrap_err();
    let Error::Incomplete { source, .. } = &error else { panic!("{error}") };
    assert!(source.to_string().starts_with("not allowed to create secrets"), "{source}");
    assert_eq!(stored(&kube, "jobs", "tune-1")["spec"]["suspend"], true);
}

#[tokio::test]
async fn a_job_that_another_launcher_has_created_is_not_removed() {
    let kube = cluster().await;
    let first = support::client(&kube).await;
    let first = first.with_patience(Patience { repetition: Duration::ZERO, ..PATIENCE });
    kube.fault(FaultRule::once("create", "configmaps", FaultKind::InternalError));
    first.launch(objects()).await.unwrap_err();
    let most = ("create", "jobs,configmaps,services");
    let client = limited(&kube, &[most, ("get,delete", "jobs")]).await;
    let error = client.launch(objects()).await.unwrap_err();
    assert!(matches!(error, Error::Incomplete { .. }), "{error}");
    first.launch(objects()).await.unwrap();
    support::assert_complete(&kube, "the first launcher again");
}

#[tokio::test]
async fn a_job_whose_launch_somebody_else_has_completed_is_not_removed() {
    let kube = cluster().await;
    let client =
        limited(&kube, &[("create", "jobs,configmaps,services"), ("get,delete", "jobs")]).await;
    kube.fault(FaultRule::once("delete", "jobs", FaultKind::Delay(Duration::from_secs(1))));
    let other = support::client(&kube).await;
    let second = async {
        kube.wait("the refusal", |view| {
            view.requests().iter().any(|one| one.resource == "secrets").then_some(())
        })
        .await
        .unwrap();
        other.launch(objects()).await.unwrap();
    };
    let (first, ()) = futures::join!(client.launch(objects()), second);
    first.unwrap();
    assert!(requests(&kube).contains(&"delete jobs".to_owned()));
    support::assert_complete(&kube, "completed by another");
}

#[tokio::test]
async fn unknown_credentials_are_an_error_at_once() {
    let kube = cluster().await;
    let client = client_of(&kube, &kube.kubeconfig_for("nobody", "wrong")).await;
    let error = client.launch(objects()).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    assert!(error.to_string().contains("hint: log in to the cluster again"), "{error}");
    assert_eq!(kube.requests().len(), 1);
}

#[tokio::test]
async fn invalid_objects_are_explained_field_by_field() {
    let kube = cluster().await;
    let client = client(&kube).await;
    let mut wrong = job(2);
    wrong["spec"]["parallelism"] = json!(-1);
    wrong["spec"]["template"]["spec"]["containers"][0]["name"] = json!("No Name");
    let error = client.launch(Objects::new([wrong]).unwrap()).await.unwrap_err();
    let Error::Refused { what, reasons } = &error else { panic!("{error}") };
    assert_eq!(what, "jobs.batch `tune-1`");
    let has = |text: &str| reasons.iter().any(|reason| reason.starts_with(text));
    assert!(has("spec.parallelism: Invalid value: -1"), "{reasons:?}");
    assert!(has("spec.template.spec.containers[0].name: Invalid value"), "{reasons:?}");
    let lines = error.to_string().lines().count();
    assert_eq!(lines, 1 + reasons.len(), "{error}");
    assert_eq!(kube.requests().len(), 1, "it is not repeated");
}

#[tokio::test]
async fn a_quota_is_told_apart_from_a_missing_permission() {
    let kube = cluster().await;
    let client = client(&kube).await;
    let quota = |hard: Value| json!({ "metadata": { "name": "small" }, "spec": { "hard": hard } });
    kube.create("resourcequotas", SPACE, quota(json!({ "count/jobs.batch": "0" }))).unwrap();
    kube.settle();
    let error = client.launch(objects()).await.unwrap_err();
    assert!(matches!(error, Error::Quota { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("exceeded quota: small") && text.contains("`kubectl describe quota"),
        "{text}"
    );
    assert_eq!(created(&kube, "jobs"), 0);

    kube.delete("resourcequotas", SPACE, "small").unwrap();
    kube.create("resourcequotas", SPACE, quota(json!({ "pods": "1" }))).unwrap();
    kube.settle();
    client.launch(objects()).await.unwrap();
    let overview = async || client.job("tune").await.unwrap().remove(0);
    kube.wait("the event", |view| {
        let events = view.events(SPACE, "tune-1");
        events.iter().any(|(reason, _)| reason == "FailedCreate").then_some(())
    })
    .await
    .unwrap();
    let trouble: Vec<String> = overview().await.trouble.iter().map(ToString::to_string).collect();
    let told = trouble.iter().any(|text| text.contains("quota does not allow more pods"));
    assert!(told, "{trouble:?}");
}

#[tokio::test]
async fn a_namespace_that_does_not_exist_is_named() {
    let kube = cluster().await;
    let client = Cluster::from_kubeconfig(&kube.kubeconfig(), None, Some("nowhere")).await.unwrap();
    assert_eq!(client.namespace(), "nowhere");
    let error = client.launch(objects()).await.unwrap_err();
    assert!(matches!(error, Error::NoPlace { .. }), "{error:?}");
    assert!(error.to_string().contains("nowhere"), "{error}");
    let mut placed = job(1);
    placed["metadata"]["namespace"] = json!("elsewhere");
    let error = client.launch(Objects::new([placed]).unwrap()).await.unwrap_err();
    assert!(
        error.to_string().contains("they name namespace `elsewhere`, not `nowhere`"),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up_after_a_while() {
    let mut kube = cluster().await;
    let repetition = Duration::from_millis(100);
    let client = client(&kube).await.with_patience(Patience { repetition, ..PATIENCE });
    kube.stop_server().await;
    let error = client.jobs().await.unwrap_err();
    let Error::Unreachable { what, .. } = &error else { panic!("{error}") };
    assert_eq!(what, "list jobs.batch");
    assert!(error.to_string().contains("hint: it is safe to try again"), "{error}");
    kube.restart_server().await.unwrap();
    assert!(client.jobs().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_request_that_hangs_is_repeated() {
    let kube = cluster().await;
    let client = client(&kube).await;
    let client = client.with_patience(Patience { request: Duration::from_millis(100), ..PATIENCE });
    for verb in ["create", "get", "patch"] {
        let hangs = FaultKind::Delay(Duration::from_secs(3600));
        kube.fault(FaultRule::once(verb, "jobs", hangs));
    }
    let started = std::time::Instant::now();
    client.launch(objects()).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(5));
    support::assert_complete(&kube, "hanging requests");
}

/// A server that answers every request in the same way, and counts them.
async fn answering(answer: &'static str) -> (String, tokio::sync::watch::Receiver<u32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (count, counted) = tokio::sync::watch::channel(0);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            count.send_modify(|count| *count += 1);
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (url, counted)
}

#[tokio::test]
async fn retry_after_of_an_answer_in_plain_text_is_obeyed() {
    let answer = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\ncontent-type: text/plain\r\n\
        content-length: 8\r\nconnection: close\r\n\r\nToo many";
    let (url, counted) = answering(answer).await;
    let user = "users: [{name: a, user: {token: a}}]";
    let kubeconfig = format!(
        "{{clusters: [{{name: a, cluster: {{server: '{url}'}}}}], contexts: [{{name: a, \
         context: {{cluster: a, user: a}}}}], {user}, current-context: a}}"
    );
    let client = Cluster::from_kubeconfig(&kubeconfig, None, None).await.unwrap();
    let client = client.with_patience(Patience { repetition: Duration::from_secs(3), ..PATIENCE });
    let error = client.jobs().await.unwrap_err();
    let Error::Unreachable { tried, source, .. } = &error else { panic!("{error}") };
    assert_eq!(source.to_string(), "the server answers: too many requests");
    assert!(*tried < Duration::from_secs(1), "a pause of 7 s is beyond the bound: {tried:?}");
    assert_eq!(*counted.borrow(), 1);
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_is_explained() {
    let kube = cluster().await;
    let error =
        Cluster::from_kubeconfig(&kube.kubeconfig(), Some("other"), None).await.unwrap_err();
    assert!(matches!(error, Error::Configuration { .. }), "{error:?}");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("other"), "{source}");
    assert!(Cluster::from_kubeconfig("not: [", None, None).await.is_err());
}

#[tokio::test]
async fn https_works_with_the_authority_of_the_kubeconfig() {
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned()];
    let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    let tls = Tls {
        chain: vec![certificate.der().to_vec()],
        key: key.serialize_der(),
        authority_pem: certificate.pem(),
    };
    let kube = Kube::start(Options { tls: Some(tls), ..Options::default() }).await.unwrap();
    let client = Cluster::from_kubeconfig(&kube.kubeconfig(), None, None).await.unwrap();
    client
        .launch(Objects::new(dependents("x").into_iter().chain([job(1)])).unwrap())
        .await
        .unwrap();
    support::assert_complete(&kube, "https");
}

#[tokio::test]
async fn a_token_is_reviewed_with_its_audience_and_its_pod() {
    let kube = cluster().await;
    let client = client(&kube).await;
    kube.create("serviceaccounts", SPACE, json!({ "metadata": { "name": "worker" } })).unwrap();
    client.launch(objects()).await.unwrap();
    let pod = support::pod(&kube, 0).await;
    let uid = stored(&kube, "pods", &pod)["metadata"]["uid"].as_str().unwrap().to_owned();
    let token = support::bound_token(&kube, "worker", &pod, "muster").await;
    let bearer = client.review(&token, "muster").await.unwrap().unwrap();
    assert_eq!(bearer.username, "system:serviceaccount:default:worker");
    assert!(bearer.groups.contains(&"system:serviceaccounts:default".to_owned()), "{bearer:?}");
    let bound = bearer.pod.unwrap();
    assert_eq!((bound.name, bound.uid), (pod.clone(), uid));
    assert_eq!(client.review(&token, "another").await.unwrap(), None);
    assert_eq!(client.review("nonsense", "muster").await.unwrap(), None);
    let unbound = kube.service_account_token(SPACE, "worker").unwrap();
    assert_eq!(client.review(&unbound, "muster").await.unwrap(), None);
    kube.delete("pods", SPACE, &pod).unwrap();
    kube.advance(Duration::from_secs(120));
    assert_eq!(client.review(&token, "muster").await.unwrap(), None);
    let limited = limited(&kube, &[]).await;
    let text = limited.review(&token, "muster").await.unwrap_err().to_string();
    let start = "not allowed to create tokenreviews.authentication.k8s.io in the whole cluster";
    assert!(text.starts_with(start), "{text}");
}

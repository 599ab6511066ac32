//! A software Kubernetes for tests.
//!
//! An API server with the Job controller, scheduler, node lifecycle controller, garbage collector and a controllable
//! kubelet, in one process and without privileges.
//!
//! It behaves like Kubernetes 1.34.3 with the feature gates of that version at their defaults. The behaviour was taken
//! from Kubernetes' source and documentation; the case tables of its tests run here too (`tests/tables`). Of what later
//! versions change, one matters to suspended Jobs: 1.36 clears `status.startTime` on suspension, 1.34 keeps it, so that
//! a Job resumed after its old `activeDeadlineSeconds` fails at once.
//!
//! ```no_run
//! use serde_json::json;
//! use softkube::{Cluster, Options};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = Cluster::start(Options::default()).await?;
//! // Point any Kubernetes client at `cluster.url()` or `cluster.kubeconfig()`. The test itself needs no HTTP:
//! let template = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "trainer"}]}});
//! cluster.create("jobs", "default", json!({"metadata": {"name": "train"}, "spec": {"template": template}}))?;
//! let pod = cluster
//!     .wait("a pod", |view| Some(view.pods_of("default", "train").first()?["metadata"]["name"].as_str()?.to_owned()))
//!     .await?;
//! cluster.kubelet().run("default", &pod)?;
//! cluster.kubelet().exit("default", &pod, 0)?;
//! cluster
//!     .wait("completion", |view| {
//!         let job = view.get("jobs", "default", "train")?;
//!         view.condition(job, "Complete").then_some(())
//!     })
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! What is not served answers 404, 405 or 415. Deliberately absent: persistent volumes, controllers other than Job,
//! preferred scheduling and priority classes, exec and port-forward, table output, protobuf and YAML bodies, and
//! admission webhooks. Where Kubernetes waits for a period (batched syncs, caches, the pod garbage collector), softkube
//! acts at once; where it waits for a deadline or a back-off, it waits on [`Clock`].

mod admission;
mod auth;
mod base64;
mod clock;
mod cluster;
mod control;
mod create;
mod defaults;
mod delete;
mod dns;
mod error;
mod faults;
mod field_errors;
mod fieldset;
mod http;
mod indexes;
mod job;
mod json;
mod kinds;
mod kubelet;
mod managed;
mod moves;
mod names;
mod options;
mod patch;
mod pods;
mod prepare;
mod quantity;
mod random;
mod registry;
mod schema;
mod security;
mod selector;
mod signals;
mod state;
mod store;
mod update;
mod validate;
mod view;

pub use auth::{Rule, User};
pub use clock::{Clock, ClockMode, Time};
pub use cluster::{Cluster, WaitTimeout};
pub use error::ApiError;
pub use faults::{FaultKind, FaultRule, Outcome, RequestRecord};
pub use http::server::Tls;
pub use kubelet::start::{ContainerStart, Mount};
pub use moves::Kubelet;
pub use options::{NodeSpec, Options};
pub use state::Interruption;
pub use store::{Change, Created, Key};
pub use view::View;

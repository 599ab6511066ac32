//! The handle by which a test moves pods.

use crate::error::ApiError;
use crate::json::Json;
use crate::kubelet::agent::Host;
use crate::kubelet::manual::{self, Manual};
use crate::kubelet::status::Exit;
use crate::registry::Target;
use crate::state::{Form, Shared, State};

/// Moves the pods of a cluster that was started with [`crate::Cluster::start`].
///
/// Methods that take no container act on all containers of the pod. All of them fail with 404 when the pod does not
/// exist, and with 400 when it is not in a state that allows the move or when pods run as processes.
#[derive(Clone, Copy)]
pub struct Kubelet<'a> {
    shared: &'a Shared,
}

impl<'a> Kubelet<'a> {
    pub(crate) fn new(shared: &'a Shared) -> Self {
        Self { shared }
    }

    fn act<R>(
        &self,
        act: impl FnOnce(&mut Manual, &mut Host<'_>) -> Result<R, ApiError>,
    ) -> Result<R, ApiError> {
        // The pod may have been scheduled a moment ago.
        self.shared.settle();
        let result = self.shared.write(|state| {
            let State { form, registry, logs, auth, silent, .. } = state;
            let Form::Manual(manual) = form else {
                return Err(ApiError::bad_request("the pods of this cluster run as processes"));
            };
            act(manual, &mut Host { registry, logs, auth, silent })
        });
        self.shared.settle();
        result
    }

    fn exit_with(
        &self,
        place: (&str, &str),
        container: Option<&str>,
        exit: &Exit,
    ) -> Result<(), ApiError> {
        self.act(|_, host| {
            manual::exit(host, Target::new("pods", place.0, place.1), container, exit)
        })
    }

    /// Starts the pod: init containers complete, and containers run and are ready unless they have a probe.
    ///
    /// # Errors
    /// See [`Kubelet`].
    pub fn run(&self, namespace: &str, pod: &str) -> Result<(), ApiError> {
        self.act(|manual, host| manual.run(host, Target::new("pods", namespace, pod), None))
    }

    /// Starts one container.
    ///
    /// # Errors
    /// See [`Kubelet`].
    pub fn run_container(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Result<(), ApiError> {
        self.act(|manual, host| {
            manual.run(host, Target::new("pods", namespace, pod), Some(container))
        })
    }

    /// Sets the readiness of the running containers.
    ///
    /// # Errors
    /// See [`Kubelet`].
    pub fn set_ready(&self, namespace: &str, pod: &str, ready: bool) -> Result<(), ApiError> {
        self.act(|_, host| {
            manual::set_ready(host.registry, Target::new("pods", namespace, pod), ready)
        })
    }

    /// Ends the running containers with an exit code; those that restart enter `CrashLoopBackOff`.
    ///
    /// # Errors
    /// See [`Kubelet`].
    pub fn exit(&self, namespace: &str, pod: &str, code: i32) -> Result<(), ApiError> {
        self.exit_with((namespace, pod), None, &Exit::code(code))
    }

    /// Ends one container with an exit code.
    ///
    /// # Errors
    /// See [`Kubelet`].
    pub fn exit_container(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        code: i32,
    ) -> Result<(), ApiError> {
        self.exit_with((namespace, pod), Some(container), &Exit::code(code))
    }

    /// Ends the running containers by a signal; the exit code is 128 more.
    ///
    /// # Errors
    /// See [`Kubelet`].
    pub fn signal(&self, namespace: &str, pod: &str, signal: i32) -> Result<(), ApiError> {
        self.exit_with((namespace, pod), None, &Exit::signal(signal))
    }

    /// Ends the running containers for lack of memory.
    ///
    /// # Errors
    /// See [`Kubelet`].
    pub fn kill_out_of_memory(&self, namespace: &str, pod: &str) -> Result<(), ApiError> {
        let exit = Exit { reason: Some("OOMKilled"), ..Exit::code(137) };
        self.exit_with((namespace, pod), None, &exit)
    }

    /// Ends the running containers with exit code 1 and a termination message.
    ///
    /// # Errors
    /// See [`Kubelet`].
    pub fn crash(&self, namespace: &str, pod: &str, message: &str) -> Result<(), ApiError> {
        let exit = Exit { message: message.to_owned(), ..Exit::code(1) };
        self.exit_with((namespace, pod), None, &exit)
    }

    /// Makes the pulls of the pod's images fail, until [`Kubelet::run`]: `ErrImagePull` and `ImagePullBackOff`
    /// alternate.
    ///
    /// # Errors
    /// See [`Kubelet`].
    pub fn fail_image_pull(&self, namespace: &str, pod: &str) -> Result<(), ApiError> {
        self.act(|manual, host| {
            manual.fail_image_pull(host.registry, Target::new("pods", namespace, pod))
        })
    }

    /// Makes the containers of a pod ignore SIGTERM, so that its deletion takes the whole grace period.
    ///
    /// # Errors
    /// See [`Kubelet`].
    pub fn ignore_term(&self, namespace: &str, pod: &str) -> Result<(), ApiError> {
        self.act(|manual, host| {
            manual.ignore_term(host.registry, Target::new("pods", namespace, pod))
        })
    }

    /// Adds a line to the output of a container.
    ///
    /// # Errors
    /// See [`Kubelet`].
    pub fn log(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        line: &str,
    ) -> Result<(), ApiError> {
        self.act(|_, host| {
            let pod = host.registry.get(Target::new("pods", namespace, pod))?;
            let now = host.registry.now();
            host.logs.append(pod.str("metadata.uid"), container, now, line);
            Ok(())
        })
    }
}

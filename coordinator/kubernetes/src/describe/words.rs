//! Kubernetes' codes and reasons in words.

/// An exit code of the container that works on a run.
pub(super) fn exit(code: i32, reason: &str) -> String {
    let meaning = match code {
        _ if reason == "OOMKilled" => "was killed for lack of memory",
        0 => "has ended without an error",
        64 => "has failed: the spec, the base model or the arguments are wrong",
        65 => "has failed: the data set is wrong",
        66 => "has failed: machines, processes or storage",
        67 => "has ended: the run was cancelled",
        75 => "has stopped gracefully before the end of the run",
        137 => "was killed",
        143 => "was stopped before it could finish",
        126..=128 => "could not be started",
        129..=192 => "was ended by a signal",
        _ => "has crashed",
    };
    format!("{meaning} (exit code {code})")
}

/// The exit code in the message of a Job that its `podFailurePolicy` has failed, such as `Container
/// muster for pod ml/tune-1-0-x failed with exit code 65 matching FailJob rule at index 0`.
pub(super) fn exit_code_of_policy(message: &str) -> Option<i32> {
    let (_, rest) = message.split_once("failed with exit code ")?;
    rest.split_whitespace().next()?.parse().ok()
}

/// A reason of the condition `DisruptionTarget`.
pub(super) fn disruption(reason: &str, message: &str) -> String {
    let cause = match reason {
        "PreemptionByScheduler" => "preempted: its place was given to a pod with a higher priority",
        "DeletionByTaintManager" => {
            "evicted: its node is lost, or has a taint that the pod does not tolerate"
        }
        "EvictionByEvictionAPI" => {
            "evicted on request, for example because its node is being drained"
        }
        "DeletionByPodGC" => "given up: its node is gone",
        "TerminationByKubelet" => "ended by its node: a lack of resources, or the node shuts down",
        _ => return format!("taken away ({reason}): {message}"),
    };
    cause.to_owned()
}

/// A reason why a container waits.
pub(super) fn waiting(reason: &str) -> &str {
    match reason {
        "ContainerCreating" | "PodInitializing" => "starting",
        "CrashLoopBackOff" => "waits before it is started again",
        reason if is_image(reason) => "its image cannot be pulled",
        reason if is_config(reason) => "its container cannot be created",
        _ => reason,
    }
}

/// Whether a container waits because of its image.
pub(super) fn is_image(reason: &str) -> bool {
    matches!(
        reason,
        "ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "ImageInspectError"
            | "RegistryUnavailable"
            | "SignatureValidationFailed"
    )
}

/// Whether a container waits because of what it refers to, or how it is to be run.
pub(super) fn is_config(reason: &str) -> bool {
    matches!(
        reason,
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" | "StartError"
    )
}

/// A time in the unit that suits it.
pub(super) fn duration(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200.. => format!("{} h", seconds / 3600),
    }
}

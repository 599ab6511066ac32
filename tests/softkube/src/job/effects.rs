//! What a synchronization may do.

use serde_json::Value;

use crate::error::ApiError;
use crate::job::status::Status;

/// The actions of the Job controller on the cluster.
pub(crate) trait Effects {
    /// Creates a pod from a completed template: metadata with `generateName`, and a spec.
    fn create_pod(&mut self, pod: Value) -> Result<(), ApiError>;
    /// Starts the deletion of a pod; it keeps its finalizer.
    fn delete_pod(&mut self, name: &str) -> Result<(), ApiError>;
    /// Removes the tracking finalizer of a pod.
    fn release_pod(&mut self, name: &str) -> Result<(), ApiError>;
    /// Writes the status of the Job.
    fn write_status(&mut self, status: &Status) -> Result<(), ApiError>;
    /// Emits an event about the Job; the type is `Normal` or `Warning`.
    fn event(&mut self, kind: &str, reason: &str, message: &str);
}

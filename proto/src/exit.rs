//! Exit codes that a run's end gives to the processes of its workers.
//!
//! They follow `sysexits.h`, where codes begin at 64: shells and container runtimes use the lower ones and those above
//! 125 themselves. A Kubernetes Job ends for good on the codes of a failed run, and replaces a pod with any other code.

use crate::event::Failure;
use crate::protocol::Dismissal;

/// The run has succeeded.
pub const SUCCEEDED: u8 = 0;
/// The run has failed: the spec, the base model or the arguments are wrong.
pub const FAILED_USER: u8 = 64;
/// The run has failed: the data set is wrong.
pub const FAILED_DATA: u8 = 65;
/// The run has failed: machines, processes or storage.
pub const FAILED_INFRASTRUCTURE: u8 = 66;
/// A user has cancelled the run.
pub const CANCELLED: u8 = 67;
/// The process has stopped gracefully before the run's end, which it does not decide.
pub const STOPPED: u8 = 75;

/// The exit code of a worker that is dismissed; `None` if it was refused, which says nothing about a run.
pub fn of_dismissal(why: Dismissal) -> Option<u8> {
    match why {
        Dismissal::Refused => None,
        Dismissal::Closing => Some(STOPPED),
        Dismissal::Succeeded => Some(SUCCEEDED),
        Dismissal::Failed(kind) => Some(of_failure(kind)),
        Dismissal::Cancelled => Some(CANCELLED),
    }
}

/// The exit code of a failed run.
pub fn of_failure(kind: Failure) -> u8 {
    match kind {
        Failure::User => FAILED_USER,
        Failure::Data => FAILED_DATA,
        Failure::Infrastructure => FAILED_INFRASTRUCTURE,
    }
}

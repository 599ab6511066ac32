//! Errors as faults of a run: what was wrong, with all its causes, and whose fault it is.

use crate::core::Fault;
use proto::error::chain;
use proto::event::Failure;
use std::error::Error;

/// A fault with the whole chain of causes.
pub(crate) fn of(kind: Failure, error: &(dyn Error + 'static)) -> Fault {
    Fault { kind, message: chain(error) }
}

/// The fault for something that the spec names and that cannot be read: the user's if it is missing or forbidden.
pub(crate) fn unreadable(field: &str, error: &storage::Error) -> Fault {
    let kind = if error.is_users() { Failure::User } else { Failure::Infrastructure };
    Fault { kind, message: format!("{field}: {}", chain(error)) }
}

//! The gRPC side of the protocol: messages, their conversion to the types of `proto::protocol`, and connections to a
//! coordinator.
//!
//! ```text
//! messages    generated from muster.proto; re-exported here        address      parses a coordinator's URL
//! reports     converts reports to and from domain types            credentials  certificates and tokens
//! directives  converts directives to and from domain types         connect      connects to a coordinator
//! ```
//!
//! Messages of a peer never cause a panic: an invalid message results in an [`Error`](struct@Error) that names the
//! field.

pub mod address;
pub mod connect;
pub mod credentials;
mod directives;
mod messages;
mod reports;

pub use messages::*;

use std::time::Duration;
use thiserror::Error;

/// The descriptors of all messages and services, for clients that ask for them by reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// An invalid message.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{field}`: {reason}")]
pub struct Error {
    /// The field's path in the message.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

fn refuse<T>(field: &'static str, reason: impl Into<String>) -> Result<T, Error> {
    Err(Error { field, reason: reason.into() })
}

/// Checks that a name has between 1 and 512 bytes.
fn named(field: &'static str, value: String) -> Result<String, Error> {
    match value.len() {
        1..=512 => Ok(value),
        n => refuse(field, format!("must have 1 to 512 bytes, has {n}")),
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate as wire;
    use proto::event::Failure;
    use proto::id::{Epoch, Generation, Lineage, RunId};
    use proto::protocol::{Directive, Dismissal, Duty, Load, Report, Start, Train};

    #[test]
    fn a_train_directive_round_trips() {
        let directive = Directive {
            epoch: Epoch(3),
            beat: Duration::from_millis(500),
            duty: Duty::Train(Train {
                load: Load {
                    run: RunId::new("r"),
                    spec_yaml: "name: r".into(),
                    fingerprint: "f".into(),
                    plan_digest: "d".into(),
                },
                generation: Generation(4),
                lineage: Lineage(2),
                rank: 1,
                members: vec!["a:1".into(), "b:2".into()],
                ring_key: [7; 32],
                checkpoint: Some(Start { manifest: "c".into(), sha256: "5".into() }),
                evaluate_first: true,
                stop: false,
                base_digest: Some("b".into()),
            }),
            heard: 9,
        };
        let wire = wire::Directive::from(directive.clone());
        assert_eq!(Directive::try_from(wire), Ok(directive));
    }

    #[test]
    fn every_dismissal_round_trips() {
        let failures = [Failure::User, Failure::Data, Failure::Infrastructure];
        let others =
            [Dismissal::Refused, Dismissal::Closing, Dismissal::Succeeded, Dismissal::Cancelled];
        for why in failures.map(Dismissal::Failed).into_iter().chain(others) {
            let duty = Duty::Dismissed { reason: "r".into(), why };
            let directive =
                Directive { epoch: Epoch(1), beat: Duration::from_millis(500), duty, heard: 0 };
            let wire = wire::Directive::from(directive.clone());
            assert_eq!(Directive::try_from(wire), Ok(directive));
        }
    }

    #[test]
    fn invalid_messages_are_refused_and_the_field_is_named() {
        let empty = Report::try_from(wire::Report { what: None }).unwrap_err();
        assert_eq!(empty.field, "report.what");
        let beat = wire::Report { what: Some(wire::report::What::Beat(wire::Beat::default())) };
        assert_eq!(Report::try_from(beat).unwrap_err().field, "beat.phase");
        let train = wire::Directive {
            duty: Some(wire::directive::Duty::Train(wire::Train {
                run: "r".into(),
                fingerprint: "f".into(),
                plan_digest: "d".into(),
                rank: 2,
                members: vec!["a:1".into()],
                ..Default::default()
            })),
            ..Default::default()
        };
        assert_eq!(Directive::try_from(train).unwrap_err().field, "train.rank");
    }
}

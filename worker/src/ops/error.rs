//! Errors of operations.

/// Why an operation could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The shapes of operands do not match.
    #[error("{op}: expected {expected}, got {got}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// What was expected.
        expected: String,
        /// What was given.
        got: String,
    },
    /// A token id has no row in the embedding.
    #[error("token {token} is outside the vocabulary of {vocabulary}")]
    Token {
        /// The token id.
        token: u32,
        /// Number of rows of the embedding.
        vocabulary: usize,
    },
    /// A document is longer than the rotary tables.
    #[error("position {position} is outside the rotary tables of {positions} positions")]
    Position {
        /// The last position that was asked for.
        position: usize,
        /// Number of rows of the tables.
        positions: usize,
    },
    /// The operation has no backward.
    #[error("{op} has no backward: use it on `Tape::inference`")]
    NoBackward {
        /// The operation.
        op: &'static str,
    },
}

/// The result of an operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Returns [`Error::Shape`] unless `fits`.
pub(super) fn expect_shape(
    op: &'static str,
    fits: bool,
    expected: impl FnOnce() -> String,
    got: impl FnOnce() -> String,
) -> Result<()> {
    if fits { Ok(()) } else { Err(Error::Shape { op, expected: expected(), got: got() }) }
}

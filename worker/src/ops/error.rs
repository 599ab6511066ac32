//! What an operation refuses.

/// Why an operation could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Two operands do not fit each other.
    #[error("{op}: expected {expected}, got {got}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// What would have fitted.
        expected: String,
        /// What was given.
        got: String,
    },
    /// A token id has no row in the embedding.
    #[error("token {token} is outside the vocabulary of {vocabulary}")]
    Token {
        /// The token id.
        token: u32,
        /// Rows of the embedding.
        vocabulary: usize,
    },
    /// A document is longer than the rotary tables.
    #[error("position {position} is outside the rotary tables of {positions} positions")]
    Position {
        /// The last position asked for.
        position: usize,
        /// Rows of the tables.
        positions: usize,
    },
    /// The operation exists only without a backward.
    #[error("{op} has no backward: use it on `Tape::inference`")]
    NoBackward {
        /// The operation.
        op: &'static str,
    },
}

/// The result of an operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Refuses a shape that does not fit.
pub(super) fn expect_shape(
    op: &'static str,
    fits: bool,
    expected: impl FnOnce() -> String,
    got: impl FnOnce() -> String,
) -> Result<()> {
    if fits { Ok(()) } else { Err(Error::Shape { op, expected: expected(), got: got() }) }
}

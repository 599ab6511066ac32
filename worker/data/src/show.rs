//! A sample in readable form: its text, cut where trained and untrained tokens meet.

use proto::prepared::Sample;
use serde::Serialize;
use tokenizers::Tokenizer;

use super::error::PrepareError;
use super::folder::Folder;
use super::options::Options;
use super::vocabulary::Grown;

/// A run of tokens with the same weight.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Piece {
    /// The text of the tokens, special tokens included.
    pub text: String,
    /// The weight of each token as a target; 0 means that it is not trained.
    pub weight: f32,
}

/// Turns tokens back into text.
#[derive(Debug)]
pub struct Decoder(Tokenizer);

impl Decoder {
    /// A decoder for a base's tokenizer and the tokens that `options` add to it.
    ///
    /// # Errors
    /// [`PrepareError::Tokenizer`], [`PrepareError::AddTokens`].
    pub fn new(folder: &Folder, options: &Options) -> Result<Decoder, PrepareError> {
        let read = |file: &[u8]| Tokenizer::from_bytes(file).map_err(PrepareError::Tokenizer);
        let (file, own) = (&folder.tokenizer, folder.added_tokens());
        let tokenizer = read(file)?;
        let grown = Grown::new(file, &tokenizer, own, &options.special_tokens());
        match grown.map_err(PrepareError::AddTokens)? {
            Some(grown) => read(&grown.file).map(Decoder),
            None => Ok(Decoder(tokenizer)),
        }
    }

    /// The sample's text, cut into pieces of one weight each.
    pub fn pieces(&self, sample: &Sample) -> Vec<Piece> {
        pieces(&self.0, sample)
    }
}

/// The text with each run of trained tokens as `⟦text⟧`, or as `⟦0.5|text⟧` if its weight is not 1.
pub fn bracketed(tokenizer: &Tokenizer, sample: &Sample) -> String {
    let bracket = |Piece { text, weight }| match weight {
        0.0 => text,
        1.0 => format!("⟦{text}⟧"),
        weight => format!("⟦{weight}|{text}⟧"),
    };
    pieces(tokenizer, sample).into_iter().map(bracket).collect()
}

fn pieces(tokenizer: &Tokenizer, sample: &Sample) -> Vec<Piece> {
    let mut from = 0;
    let mut piece = |run: &[f32]| {
        let ids = &sample.tokens[from..from + run.len()];
        from += run.len();
        let text = tokenizer.decode(ids, false).unwrap_or_else(|error| format!("<{error}>"));
        Piece { text, weight: run[0] }
    };
    sample.weights.chunk_by(|a, b| a == b).map(&mut piece).collect()
}

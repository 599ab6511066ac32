//! Cuts a text's tokens, as they arrive, into samples that overlap by one token, so that every
//! token except the first is a target exactly once.

use proto::prepared::{Features, Sample};
use proto::receipt::Place;
use xxhash_rust::xxh3::xxh3_64;

use super::encode::{Encoder, without_first};
use super::prepared::PreparedRecord;
use super::record::Reject;

/// A text that arrives in pieces, each of which is a record of its own.
#[derive(Debug)]
pub(super) struct Document {
    cutter: Cutter,
    /// The most recent piece: the sample that begins in it ends in the next.
    last: Option<PreparedRecord>,
}

/// A tokenized piece.
#[derive(Debug)]
pub(super) struct Piece {
    /// What the quality checks know about the piece.
    pub(super) features: Features,
    /// The piece's tokens, without those that surround the whole text.
    pub(super) tokens: Vec<u32>,
}

impl Document {
    /// An empty text whose samples get at most `max_tokens` tokens.
    pub(super) fn new(max_tokens: usize) -> Document {
        Document { cutter: Cutter::new(max_tokens), last: None }
    }

    /// Adds a piece and returns the one before it.
    ///
    /// # Errors
    /// A text that begins with two BOS tokens.
    pub(super) fn extend(
        &mut self,
        encoder: &Encoder,
        piece: Piece,
        place: Place,
    ) -> Result<Option<PreparedRecord>, Reject> {
        let tokens = match self.cutter.is_empty() {
            false => piece.tokens,
            true => [encoder.opening(), &piece.tokens].concat(),
        };
        if self.cutter.is_empty() {
            encoder.refuse_doubled_bos(&tokens)?;
        }
        let samples = self.cutter.extend(&tokens, place.position());
        Ok(self.begin(piece.features, samples))
    }

    /// Ends the text with `closing` and returns its last piece. The next piece begins another text.
    pub(super) fn close(&mut self, closing: &[u32]) -> Option<PreparedRecord> {
        let samples = self.cutter.close(closing);
        let mut last = self.last.take()?;
        last.samples.extend(samples);
        (!last.samples.is_empty()).then_some(last)
    }

    /// Starts a piece in which all of `samples` begin except the first, which began in the previous
    /// piece.
    fn begin(&mut self, features: Features, samples: Vec<Sample>) -> Option<PreparedRecord> {
        let mut samples = samples.into_iter();
        let mut last = self.last.take();
        if let Some(last) = &mut last {
            last.samples.extend(samples.next());
        }
        match last {
            // Two pieces that together do not fill a sample continue as one.
            Some(short) if short.samples.is_empty() => {
                self.last = Some(short);
                None
            }
            before => {
                self.last = Some(PreparedRecord { features, samples: samples.collect() });
                before
            }
        }
    }
}

/// Cuts tokens into samples.
#[derive(Debug)]
struct Cutter {
    max_tokens: usize,
    /// The tokens that are in no sample yet, after the one that ends the previous sample.
    pending: Vec<u32>,
    /// The position of the piece in which the pending tokens begin.
    position: u64,
}

impl Cutter {
    fn new(max_tokens: usize) -> Cutter {
        Cutter { max_tokens: max_tokens.max(2), pending: Vec::new(), position: 0 }
    }

    fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Adds tokens of the piece at `position` and returns each full sample that is followed by more
    /// tokens.
    fn extend(&mut self, tokens: &[u32], position: u64) -> Vec<Sample> {
        let before = self.pending.len();
        if before == 0 {
            self.position = position;
        }
        self.pending.extend_from_slice(tokens);
        let mut samples = Vec::new();
        let mut start = 0;
        while self.pending.len() - start > self.max_tokens {
            let tokens = &self.pending[start..start + self.max_tokens];
            samples.push(sample(tokens, self.position));
            start += self.max_tokens - 1;
            if start >= before {
                self.position = position;
            }
        }
        self.pending.drain(..start);
        samples
    }

    /// Ends the text with `closing` and returns its last samples.
    fn close(&mut self, closing: &[u32]) -> Vec<Sample> {
        if self.pending.is_empty() {
            return Vec::new();
        }
        let closing = if self.pending.ends_with(closing) { &[] } else { closing };
        let mut samples = self.extend(closing, self.position);
        let rest = std::mem::take(&mut self.pending);
        samples.extend((rest.len() > 1).then(|| sample(&rest, self.position)));
        samples
    }
}

/// Cuts a whole text into samples.
pub(super) fn chunks(tokens: &[u32], max_tokens: usize, position: u64) -> Vec<Sample> {
    let mut cutter = Cutter::new(max_tokens);
    let mut samples = cutter.extend(tokens, position);
    samples.extend(cutter.close(&[]));
    samples
}

fn sample(tokens: &[u32], position: u64) -> Sample {
    let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    Sample {
        tokens: tokens.to_vec(),
        weights: without_first(vec![1.0; tokens.len()]),
        hash: xxh3_64(&bytes),
        position,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::prepared::{Flaws, SIGNATURE, Signature};

    #[test]
    fn pieces_are_cut_like_the_whole_text() {
        for length in 0..40u32 {
            let tokens: Vec<u32> = (0..length).collect();
            let whole = chunks(&tokens, 5, 1);
            let targets: Vec<u32> = whole.iter().flat_map(|s| s.tokens[1..].to_vec()).collect();
            assert_eq!(targets, tokens.get(1..).unwrap_or_default(), "every target once");
            for size in 1..8 {
                let mut cutter = Cutter::new(5);
                let mut samples: Vec<Sample> =
                    tokens.chunks(size).flat_map(|piece| cutter.extend(piece, 1)).collect();
                samples.extend(cutter.close(&[]));
                assert_eq!(samples, whole, "{length} tokens in pieces of {size}");
            }
        }
    }

    #[test]
    fn a_sample_has_the_position_of_the_piece_it_begins_in() {
        let mut cutter = Cutter::new(4);
        assert_eq!(cutter.extend(&[0, 1], 1), []);
        let mut samples = cutter.extend(&[2, 3, 4, 5, 6, 7], 9);
        samples.extend(cutter.close(&[8]));
        let positions: Vec<u64> = samples.iter().map(|s| s.position).collect();
        assert_eq!(positions, [1, 9, 9]);
    }

    #[test]
    fn every_sample_belongs_to_one_piece_and_no_piece_is_empty() {
        let features = |content| Features {
            content,
            exchange: None,
            flaws: Flaws::default(),
            signature: Signature([0; SIGNATURE]),
        };
        // The samples that each piece brings, of which the first began in the previous piece; then
        // the expected pieces and their numbers of samples.
        for (brought, expected) in [
            (vec![0, 2, 1], vec![(0, 1), (1, 2), (2, 1)]),
            (vec![3, 0, 1], vec![(0, 3), (1, 1), (2, 1)]),
            (vec![0, 0, 2], vec![(0, 1), (2, 2)]),
            (vec![0], vec![(0, 1)]),
        ] {
            let mut document = Document::new(4);
            let mut given = Vec::new();
            for (content, samples) in (0..).zip(brought) {
                given.extend(document.begin(features(content), vec![Sample::default(); samples]));
            }
            document.cutter.pending = vec![1, 2];
            given.extend(document.close(&[]));
            let found: Vec<_> =
                given.iter().map(|r| (r.features.content, r.samples.len())).collect();
            assert_eq!(found, expected);
        }
    }
}

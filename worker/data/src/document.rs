//! A text's tokens as they come, cut into samples that overlap by one token, so that every token but
//! the first is a target exactly once.

use proto::prepared::{Features, Sample};
use proto::receipt::Place;
use xxhash_rust::xxh3::xxh3_64;

use super::encode::{Encoder, without_first};
use super::prepared::PreparedRecord;
use super::record::Reject;

/// A text that comes in pieces, each of which is a record of its own.
#[derive(Debug)]
pub(super) struct Document {
    cutter: Cutter,
    /// The piece that came last: the sample that begins in it ends in the next.
    last: Option<PreparedRecord>,
}

/// A tokenized piece.
#[derive(Debug)]
pub(super) struct Piece {
    /// What the quality checks know of it.
    pub(super) features: Features,
    /// Its tokens, without what stands around the whole text.
    pub(super) tokens: Vec<u32>,
}

impl Document {
    /// A text without tokens yet; samples get at most `max_tokens`.
    pub(super) fn new(max_tokens: usize) -> Document {
        Document { cutter: Cutter::new(max_tokens), last: None }
    }

    /// Adds a piece, and gives the one before it.
    ///
    /// # Errors
    /// A doubled first token.
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

    /// Ends the text with `closing`, and gives its last piece. The next piece begins another text.
    pub(super) fn close(&mut self, closing: &[u32]) -> Option<PreparedRecord> {
        let samples = self.cutter.close(closing);
        let mut last = self.last.take()?;
        last.samples.extend(samples);
        (!last.samples.is_empty()).then_some(last)
    }

    /// Begins a piece in which all but the first of `samples` begin: that one began in the last.
    fn begin(&mut self, features: Features, samples: Vec<Sample>) -> Option<PreparedRecord> {
        let mut samples = samples.into_iter();
        let mut last = self.last.take();
        if let Some(last) = &mut last {
            last.samples.extend(samples.next());
        }
        match last {
            // Not even two pieces fill a sample: they go on as one.
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

/// Tokens that are being cut.
#[derive(Debug)]
struct Cutter {
    max_tokens: usize,
    /// Tokens of which no sample was made yet, but for the first: it ends the sample before.
    pending: Vec<u32>,
    /// Where the piece stands in which they begin.
    position: u64,
}

impl Cutter {
    fn new(max_tokens: usize) -> Cutter {
        Cutter { max_tokens: max_tokens.max(2), pending: Vec::new(), position: 0 }
    }

    fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Adds tokens of the piece at `position`, and gives full samples as long as more follows them.
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

    /// Ends the text with `closing`, and gives its last samples.
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

/// A whole text's samples.
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
    fn pieces_are_cut_as_the_whole_is() {
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
    fn a_sample_stands_where_the_piece_is_in_which_it_begins() {
        let mut cutter = Cutter::new(4);
        assert_eq!(cutter.extend(&[0, 1], 1), []);
        let mut samples = cutter.extend(&[2, 3, 4, 5, 6, 7], 9);
        samples.extend(cutter.close(&[8]));
        let positions: Vec<u64> = samples.iter().map(|s| s.position).collect();
        assert_eq!(positions, [1, 9, 9]);
    }

    #[test]
    fn every_sample_belongs_to_one_piece_and_every_piece_that_is_given_has_one() {
        let features = |content| Features {
            content,
            exchange: None,
            flaws: Flaws::default(),
            signature: Signature([0; SIGNATURE]),
        };
        // Samples that each piece brings, with that which began before; and who has how many in the end.
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

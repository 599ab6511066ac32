//! Prepares a range of an object: blocks of raw records in, prepared records out, in memory that
//! does not grow with the object.

use std::ops::Range;
use std::sync::Arc;

use proto::prepared::Unit;
use proto::receipt::{Counts, Example, Reason};
use proto::spec::Format;
use rayon::prelude::*;

use super::detect::{Detection, detect};
use super::document::{Document, Piece};
use super::encode::Encoder;
use super::error::PrepareError;
use super::options::SourceOptions;
use super::prepare::Preparer;
use super::prepared::PreparedRecord;
use super::quality::features;
use super::read::{self, Block, Blocks, Body, Container, Given, Raw, ReadAt};
use super::record::{Record, Reject, Shape};
use super::trees::Trees;

/// The preparation of a range, as an iterator over the prepared records of each block.
pub struct Preparation<'a> {
    preparer: &'a Preparer,
    object: String,
    container: Container,
    detection: Option<Detection>,
    shape: Shape,
    opened: read::Object,
    blocks: Blocks,
    /// The trees that the rows form, if the format has trees.
    trees: Option<Trees>,
    /// The text that the pieces form, if the object is a single text.
    document: Option<Document>,
}

/// Eligible records in order, and counts of what became of each record that was read.
type Made = (Vec<PreparedRecord>, Counts);

impl Preparer {
    /// Opens an object and detects its format, to prepare the records that begin in `range`. The
    /// format is that of the object's first records, whichever range is read.
    ///
    /// # Errors
    /// Objects that cannot be read at all, or whose format is unknown.
    pub fn open<'a>(
        &'a self,
        object: &str,
        bytes: Arc<dyn ReadAt>,
        range: Range<u64>,
        source: &SourceOptions,
    ) -> Result<Preparation<'a>, PrepareError> {
        let fields: Vec<&str> = source.fields.values().map(String::as_str).collect();
        let given = Given { is_text: source.format == Format::Text, fields: &fields };
        let opened = read::Object::open(object, bytes, given)?;
        let container = opened.container();
        let mut head = opened.head()?;
        let raws = head.take_raws();
        for raw in &raws {
            // A short object may hold nothing else from which to detect a format.
            if let Body::CutOff(reason) = &raw.body {
                let reject = Reject::new(Reason::BrokenEnd, reason.clone());
                self.may_drop(&reject, object, raw.place)?;
            }
        }
        let detection = detect(object, container, &raws, source)?;
        let settled = || Shape::new(source, source.format);
        let shape = detection.as_ref().map_or_else(settled, |found| found.shape(source));
        let shape = shape.with_media(self.media());
        let document = || Document::new(self.max_tokens());
        Ok(Preparation {
            preparer: self,
            object: object.to_owned(),
            container,
            detection,
            trees: shape.is_of_trees().then(|| Trees::new(range.clone())),
            shape,
            blocks: opened.blocks(range)?,
            opened,
            document: (container == Container::Document).then(document),
        })
    }
}

impl Preparation<'_> {
    /// The format and why it was chosen; none if the object has no records.
    pub fn detection(&self) -> Option<&Detection> {
        self.detection.as_ref()
    }

    /// The unit in which samples' positions count.
    pub fn unit(&self) -> Unit {
        self.container.unit()
    }

    /// The number of lines or rows in the range, once the iterator has ended.
    pub fn positions(&self) -> u64 {
        self.blocks.positions()
    }

    fn records(&self, raws: Vec<Raw<'_>>) -> Result<Made, PrepareError> {
        self.preparer.records(&self.object, raws, &self.shape)
    }

    /// Tokenizes each piece of a text and joins the results.
    fn pieces(&self, document: &mut Document, block: &mut Block) -> Result<Made, PrepareError> {
        let (shape, encoder) = (&self.shape, self.preparer.encoder());
        let encode = |raw: Raw<'_>| (raw.place, piece(raw.body, shape, encoder));
        let encoded: Vec<_> = block.take_raws().into_par_iter().map(encode).collect();
        let (mut records, mut counts) = Made::default();
        for (place, piece) in encoded {
            let added = piece.and_then(|piece| document.extend(encoder, piece, place));
            match added {
                Ok(before) => {
                    counts.read += 1;
                    counts.eligible += 1;
                    records.extend(before);
                }
                Err(reject) => {
                    self.preparer.may_drop(&reject, &self.object, place)?;
                    // What follows the gap is a separate text.
                    records.extend(document.close(&[]));
                    let object = self.object.clone();
                    let example = Example { object, place, reason: reject.detail };
                    counts.drop_record(reject.reason, example, reject.tokens_lost);
                }
            }
        }
        records.iter().for_each(|record| counts.add_samples(&record.samples));
        Ok((records, counts))
    }
}

impl Iterator for Preparation<'_> {
    type Item = Result<Made, PrepareError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut block = match self.blocks.next() {
            Some(Ok(block)) => block,
            Some(Err(error)) => return Some(Err(error.into())),
            None => {
                if let Some(mut trees) = self.trees.take() {
                    let last = trees.finish(&self.opened, self.blocks.positions());
                    let last = last.map_err(PrepareError::from);
                    return Some(last.and_then(|last| self.records(last)));
                }
                let record = self.document.take()?.close(self.preparer.encoder().closing())?;
                let mut counts = Counts::default();
                counts.add_samples(&record.samples);
                return Some(Ok((vec![record], counts)));
            }
        };
        let Some(mut document) = self.document.take() else {
            let raws = block.take_raws();
            return Some(match &mut self.trees {
                None => self.records(raws),
                Some(trees) => {
                    let whole = trees.take(raws);
                    self.records(whole)
                }
            });
        };
        let made = self.pieces(&mut document, &mut block);
        self.document = Some(document);
        Some(made)
    }
}

/// Tokenizes one piece of a text.
fn piece(body: Body<'_>, shape: &Shape, encoder: &Encoder) -> Result<Piece, Reject> {
    let record = shape.parse(body)?.record;
    let features = features(&record, record.hash());
    match (record, encoder.eos()) {
        (Record::Text(text), Some(_)) => Ok(Piece { features, tokens: encoder.piece(&text)? }),
        (Record::Text(_), None) => {
            Err(Reject::new(Reason::Malformed, PrepareError::NoEndToken.to_string()))
        }
        (Record::Conversation(_) | Record::Completion { .. }, _) => {
            unreachable!("a text has no fields")
        }
    }
}

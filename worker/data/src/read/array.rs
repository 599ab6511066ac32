//! Reads a JSON array element by element, never whole in memory. An array that breaks off loses
//! everything that follows, because nothing shows where its next record starts.

use std::io::{self, BufRead};

use memchr::memchr_iter;
use proto::receipt::Place;

use super::block::Block;
use super::scan::{Scan, Seen};
use super::unpack::Input;
use super::{RECORD_BYTES, ReadError, Records, TOO_LARGE};

/// An array that is being walked.
pub(super) struct Array {
    input: Input,
    line: u64,
    records: u64,
    /// Whether the array is a field of an object.
    is_field: bool,
    next: Expected,
}

/// The next thing to be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// `[`.
    Opening,
    /// An element, or `]` if the array is empty.
    First,
    /// An element after a comma.
    Element,
    /// `,` or `]`.
    Separator,
    /// The end of the object whose only field is the array.
    Closing,
    /// Nothing more.
    End,
}

impl Array {
    pub(super) fn new(input: Input) -> Array {
        Array { input, line: 1, records: 0, is_field: false, next: Expected::Opening }
    }

    fn place(&self) -> Place {
        Place::Record { record: self.records + 1, line: self.line }
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> io::Result<Option<u8>> {
        loop {
            let chunk = self.input.fill_buf()?;
            let blank = chunk.iter().position(|byte| !byte.is_ascii_whitespace());
            let found = blank.map(|at| chunk[at]);
            let step = blank.unwrap_or(chunk.len());
            if found.is_none() && step == 0 {
                return Ok(None);
            }
            self.line += newlines(&chunk[..step]);
            self.input.consume(step);
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    /// Adds the next element to the block. Gives the reason if the element breaks off.
    fn take_value(&mut self, block: &mut Block) -> io::Result<Result<(), String>> {
        let (mark, place) = (block.mark(), self.place());
        let mut scan = Scan::default();
        let mut bytes = 0;
        loop {
            let chunk = self.input.fill_buf()?;
            let (step, ended) = match scan.see(chunk) {
                Seen::More if chunk.is_empty() && scan.may_end() => (0, true),
                Seen::More if chunk.is_empty() => {
                    return Ok(Err("it ends in the middle of this record".into()));
                }
                Seen::More => (chunk.len(), false),
                Seen::End(at) => (at, true),
                Seen::Bad(at, reason) => {
                    self.line += newlines(&chunk[..at]);
                    let line = self.line;
                    return Ok(Err(format!("{reason}, in line {line}")));
                }
            };
            bytes += step as u64;
            if bytes <= RECORD_BYTES {
                block.extend(&chunk[..step]);
            }
            self.line += newlines(&chunk[..step]);
            self.input.consume(step);
            if !ended {
                continue;
            }
            self.records += 1;
            if bytes <= RECORD_BYTES {
                block.push_json(place, mark..block.mark());
            } else {
                block.forget(mark);
                block.push_broken(place, TOO_LARGE);
            }
            return Ok(Ok(()));
        }
    }

    /// Reads one element, or what separates two, beginning with `byte`. Gives the reason if
    /// the array is broken.
    fn step(&mut self, byte: Option<u8>, block: &mut Block) -> io::Result<Result<(), String>> {
        let broken = |reason: String| Ok(Err(reason));
        self.next = match (self.next, byte) {
            (Expected::Opening, Some(byte)) => {
                self.input.consume(1);
                // Before the bracket there may be a byte order mark, or an object's first name.
                self.is_field |= byte == b'{';
                if byte == b'[' { Expected::First } else { Expected::Opening }
            }
            (Expected::First | Expected::Separator, Some(b']')) => {
                self.input.consume(1);
                if self.is_field { Expected::Closing } else { Expected::End }
            }
            (Expected::Closing, Some(b'}')) => {
                self.input.consume(1);
                Expected::End
            }
            (Expected::Closing, Some(other)) => {
                let other = char::from(other);
                return broken(format!(
                    "`{other}` follows the list: the object has more fields than this list, and \
                     only the list is read"
                ));
            }
            (Expected::First | Expected::Element, Some(_)) => {
                if let Err(reason) = self.take_value(block)? {
                    return broken(reason);
                }
                Expected::Separator
            }
            (Expected::Separator, Some(b',')) => {
                self.input.consume(1);
                Expected::Element
            }
            (Expected::Separator, Some(other)) => {
                let other = char::from(other);
                return broken(format!("expected `,` or `]`, got `{other}`"));
            }
            (Expected::End, Some(other)) => {
                return broken(format!("`{}` after the array's end", char::from(other)));
            }
            (
                Expected::Opening | Expected::First | Expected::Element | Expected::Separator,
                None,
            ) => {
                return broken("it ends without `]`".into());
            }
            (Expected::Closing, None) => return broken("it ends without `}`".into()),
            (Expected::End, None) => Expected::End,
        };
        Ok(Ok(()))
    }
}

impl Records for Array {
    fn next(&mut self, block: &mut Block) -> Result<bool, ReadError> {
        let ended = self.next == Expected::End;
        let mark = block.mark();
        let byte = self.peek();
        let place = self.place();
        let reason = match byte.and_then(|byte| self.step(byte, block)) {
            Ok(Ok(())) => return Ok(!ended),
            Ok(Err(reason)) => format!("the array breaks off here: {reason}"),
            Err(error) => self.input.explain(error)?,
        };
        block.forget(mark);
        block.push_cut_off(place, reason);
        Ok(false)
    }

    fn positions(&self) -> u64 {
        self.line
    }
}

fn newlines(bytes: &[u8]) -> u64 {
    memchr_iter(b'\n', bytes).count() as u64
}

//! A stream of an object's bytes, unpacked if they are packed. The packing is recognized by the
//! first bytes, not by the object's name. Memory is bounded, and so is the size to which a small
//! archive may unpack.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

use super::ReadError;
use super::source::Window;

/// The number of bytes unpacked at a time.
const BUFFER_BYTES: usize = 128 << 10;
/// The most bytes unpacked per byte read: text yields 3 to 10, records with much boilerplate 50.
const LARGEST_RATIO: u64 = 200;
/// Up to this size, any ratio is accepted.
const HARMLESS_BYTES: u64 = 256 << 20;

/// How an object's bytes are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// Not packed.
    Plain,
    /// One gzip member or more.
    Gzip,
    /// One zstd frame or more.
    Zstd,
}

impl Packing {
    /// Recognizes the packing by the first bytes.
    pub(super) fn of(head: &[u8]) -> Packing {
        match head {
            [0x1f, 0x8b, ..] => Packing::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Packing::Zstd,
            _ => Packing::Plain,
        }
    }

    /// The name without the ending that stands for the packing.
    pub(super) fn strip(self, name: &str) -> &str {
        let endings: &[&str] = match self {
            Packing::Plain => &[],
            Packing::Gzip => &[".gz", ".gzip"],
            Packing::Zstd => &[".zst", ".zstd"],
        };
        endings.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name)
    }
}

/// An object's unpacked bytes.
pub(super) struct Input {
    object: String,
    stream: Stream,
    /// The number of bytes taken out of the stream.
    taken: u64,
    exploded: bool,
}

enum Stream {
    Plain(Window),
    Gzip(Box<BufReader<MultiGzDecoder<Window>>>),
    Zstd(BufReader<zstd::Decoder<'static, Window>>),
}

impl Input {
    pub(super) fn new(object: &str, window: Window, packing: Packing) -> Result<Input, ReadError> {
        let stream = match packing {
            Packing::Plain => Stream::Plain(window),
            Packing::Gzip => {
                let decoder = MultiGzDecoder::new(window);
                Stream::Gzip(Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder)))
            }
            Packing::Zstd => {
                let decoder = zstd::Decoder::with_buffer(window);
                let decoder = decoder.map_err(|source| ReadError::source(object, source))?;
                Stream::Zstd(BufReader::with_capacity(BUFFER_BYTES, decoder))
            }
        };
        Ok(Input { object: object.to_owned(), stream, taken: 0, exploded: false })
    }

    /// The object's name.
    pub(super) fn object(&self) -> &str {
        &self.object
    }

    /// Explains a read error: gives the reason why the records end here, or the error that makes
    /// the whole object unusable.
    pub(super) fn explain(&self, error: io::Error) -> Result<String, ReadError> {
        if self.window().failed() {
            return Err(ReadError::source(&self.object, error));
        }
        if self.exploded {
            let found = "an archive that unpacks to more than 200 times its size";
            return Err(ReadError::unreadable(
                &self.object,
                found,
                "unpack it first, if you trust it",
            ));
        }
        let packed = match self.stream {
            Stream::Plain(_) => "",
            Stream::Gzip(_) => "gzip ",
            Stream::Zstd(_) => "zstd ",
        };
        Ok(format!("the {packed}data break off here: {error}"))
    }

    fn window(&self) -> &Window {
        match &self.stream {
            Stream::Plain(window) => window,
            Stream::Gzip(gzip) => gzip.get_ref().get_ref(),
            Stream::Zstd(zstd) => zstd.get_ref().get_ref(),
        }
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.taken > HARMLESS_BYTES && self.taken / LARGEST_RATIO > self.window().taken() {
            self.exploded = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        match &mut self.stream {
            Stream::Plain(window) => window.fill_buf(),
            Stream::Gzip(gzip) => gzip.fill_buf(),
            Stream::Zstd(zstd) => zstd.fill_buf(),
        }
    }

    fn consume(&mut self, amount: usize) {
        self.taken += amount as u64;
        match &mut self.stream {
            Stream::Plain(window) => window.consume(amount),
            Stream::Gzip(gzip) => gzip.consume(amount),
            Stream::Zstd(zstd) => zstd.consume(amount),
        }
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

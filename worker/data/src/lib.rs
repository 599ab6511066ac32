//! Turns the bytes of a source into samples with the right mask, and samples into batches.
//!
//! ```text
//! bytes --read--> blocks of raw records --record--> Record --template, spans--> text + trained bytes
//!       --encode--> Sample (tokens, weights)
//!       --quality--> Features (hashes, flaws, MinHash signature)
//! Sample --proto::prepared--> shard ... shard --batch--> Batch (tokens, document starts, targets)
//! ```
//!
//! Every record that is read either becomes samples or is listed in the receipt with its place and
//! the reason. A record never causes a panic and never stops the others. This crate knows no object
//! storage (an object is a name and byte ranges) and no tensors. Only [`Options`] and
//! [`SourceOptions`] read the run spec.

mod batch;
mod calls;
mod chats;
mod control;
mod conversation;
mod detect;
mod document;
mod encode;
mod error;
mod folder;
mod hex;
mod jinja;
mod json;
mod left_out;
mod marks;
mod nulls;
mod options;
mod preparation;
mod prepare;
mod prepared;
mod python;
mod quality;
mod read;
mod recipe;
mod record;
mod show;
mod spans;
mod template;
#[cfg(test)]
mod tests;
mod tokenize;
mod trees;
mod turns;
mod vocabulary;

pub use batch::{Batch, Target, assemble};
pub use conversation::{Conversation, Message, Role};
pub use detect::{DetectError, Detection, detect};
pub use error::PrepareError;
pub use folder::{Folder, FolderError};
pub use options::{ChatTemplate, Options, SourceOptions};
pub use preparation::Preparation;
pub use prepare::{Prepared, Preparer};
pub use prepared::PreparedRecord;
pub use proto::spec::{
    BrokenEnd, ControlTokens, Format, LeftOut, Media, Think, TooLong, TrainOn, Turns,
};
pub use quality::features;
pub use read::{Block, Blocks, Body, Container, Given, Object, Raw, ReadAt, ReadError};
pub use recipe::Recipe;
pub use record::{Parsed, Record, Reject, Shape};
pub use show::{Decoder, Piece, bracketed};
pub use spans::Marked;
pub use template::{Marking, Rendered, Template, TemplateError};
pub use vocabulary::NewToken;

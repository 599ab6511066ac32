//! Collectives: what they are, and how a rank takes part in its stream's thread.

use std::sync::Arc;

use super::comm::Comm;
use super::frames::Kind;
use super::reduce::{Element, Reduction};
use crate::history::Touched;
use crate::memory::Span;
use crate::ops::{Bytes, Draft};
use crate::report::violation;
use crate::settings::{NcclAction, NcclPlace};
use crate::stream::Stream;
use crate::{fault, report};

/// The bytes that describe a collective on the wire.
pub(super) const DESCRIPTION_BYTES: usize = 32;

/// What a collective does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    AllReduce(Reduction),
    ReduceScatter(Reduction),
    Broadcast { root: u32 },
    AllGather,
}

/// A collective, equal on all ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    pub what: What,
    pub element: Element,
    /// The count that the caller passed.
    pub count: u64,
    codes: (u32, u32),
}

impl Call {
    /// A call from the numbers that the caller passed.
    pub(super) fn new(
        what: What,
        element_code: u32,
        reduction_code: u32,
        count: usize,
    ) -> Option<Self> {
        let element = Element::from_code(element_code)?;
        let codes = (element_code, reduction_code);
        Some(Self { what, element, count: count as u64, codes })
    }

    fn to_bytes(self) -> [u8; DESCRIPTION_BYTES] {
        let (code, root) = match self.what {
            What::AllReduce(_) => (0, 0),
            What::ReduceScatter(_) => (1, 0),
            What::Broadcast { root } => (2, root),
            What::AllGather => (3, 0),
        };
        let mut bytes = [0; DESCRIPTION_BYTES];
        for (index, word) in [code, root, self.codes.0, self.codes.1].into_iter().enumerate() {
            bytes[index * 4..][..4].copy_from_slice(&word.to_le_bytes());
        }
        bytes[16..24].copy_from_slice(&self.count.to_le_bytes());
        bytes
    }

    /// Reads a description.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |index: usize| {
            let bytes = bytes.get(index * 4..index * 4 + 4)?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?))
        };
        let reduction = Reduction::from_code(word(3)?);
        let what = match word(0)? {
            0 => What::AllReduce(reduction?),
            1 => What::ReduceScatter(reduction?),
            2 => What::Broadcast { root: word(1)? },
            3 => What::AllGather,
            _ => return None,
        };
        let count = u64::from_le_bytes(bytes.get(16..24)?.try_into().ok()?);
        Self::new(what, word(2)?, word(3)?, count as usize)
    }

    fn name(&self) -> &'static str {
        match self.what {
            What::AllReduce(_) => "ncclAllReduce",
            What::ReduceScatter(_) => "ncclReduceScatter",
            What::Broadcast { .. } => "ncclBroadcast",
            What::AllGather => "ncclAllGather",
        }
    }
}

/// A rank's part of a collective, ready for its stream.
pub(super) struct Part {
    pub comm: Arc<Comm>,
    pub stream: Arc<Stream>,
    pub call: Call,
    pub from: Bytes,
    pub to: Bytes,
}

impl Part {
    /// Enqueues the part as the communicator's next collective.
    pub(super) fn enqueue(self) {
        report::count("nccl_collectives", 1);
        let sequence = self.comm.next_collective();
        let (sent, received) = self.spans();
        let (call, comm) = (self.call, Arc::clone(&self.comm));
        self.stream.enqueue(Draft {
            name: format!("{} {} of rank {}", call.name(), sequence, comm.rank),
            plan: Touched { reads: sent.into_iter().collect(), writes: vec![received] },
            work: Box::new(move |_| {
                comm.in_turn(sequence, || run(&comm, call, sequence, sent, received));
                Ok(Touched::default())
            }),
        });
    }

    /// The bytes that this rank sends, if any, and those that it receives.
    fn spans(&self) -> (Option<Span>, Span) {
        let bytes = self.call.count * self.call.element.bytes() as u64;
        let ranks = u64::from(self.comm.ranks);
        let (from, to) = (self.from.0 as u64, self.to.0 as u64);
        match self.call.what {
            What::AllReduce(_) => (Some(Span::new(from, bytes)), Span::new(to, bytes)),
            What::ReduceScatter(_) => (Some(Span::new(from, bytes * ranks)), Span::new(to, bytes)),
            What::AllGather => (Some(Span::new(from, bytes)), Span::new(to, bytes * ranks)),
            What::Broadcast { root } => {
                let sends = root == self.comm.rank;
                (sends.then(|| Span::new(from, bytes)), Span::new(to, bytes))
            }
        }
    }
}

/// Takes part in a collective; returns without a result once the communicator is aborted.
fn run(comm: &Comm, call: Call, sequence: u64, sent: Option<Span>, received: Span) {
    match fault::nccl(comm.rank, NcclPlace::Collective(sequence)) {
        Some(NcclAction::Hang) => return comm.wait_for_abort(),
        Some(NcclAction::Kill) => fault::kill_process(),
        Some(NcclAction::Slow(delay_ms)) => {
            std::thread::sleep(std::time::Duration::from_millis(delay_ms));
        }
        Some(NcclAction::Error(code)) => {
            comm.fail(code, "an injected error");
            return comm.wait_for_abort();
        }
        None => {}
    }
    let mut bytes = call.to_bytes().to_vec();
    if let Some(span) = sent {
        let length = (span.end - span.start) as usize;
        // SAFETY: the operation's plan was checked: the range lies in live memory.
        bytes.extend_from_slice(unsafe {
            std::slice::from_raw_parts(span.start as *const u8, length)
        });
    }
    match comm.exchange(&bytes) {
        Some((Kind::Answer, answer)) if answer.len() as u64 == received.end - received.start => {
            // SAFETY: the operation's plan was checked, and the answer has the range's length.
            unsafe {
                let to = received.start as *mut u8;
                std::ptr::copy_nonoverlapping(answer.as_ptr(), to, answer.len());
            }
        }
        Some((Kind::Mismatch, text)) => {
            let text = String::from_utf8_lossy(&text).into_owned();
            violation("nccl.mismatch", &format!("the ranks disagree: {text}"), &[]);
            comm.wait_for_abort();
        }
        Some(_) | None => comm.wait_for_abort(),
    }
}

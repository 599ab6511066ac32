//! A rank's two links, and one call over them.
//!
//! Values go to the next rank and come from the previous one; the way back carries nothing but the notice
//! of a loss. Reading, adding and writing alternate on one thread, and it sleeps only when neither link
//! can move.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::flow::Flow;
use super::handshake::Membership;
use super::header;
use super::stop::Stop;
use super::stream::Stream;
use super::transfer::{Incoming, Outgoing, Received, SCRATCH_VALUES};
use crate::collective::{AbortHandle, Call, Error, Kind};

/// How long a rank that sees its previous one go waits to be told who went first. A notice goes round a
/// healthy ring in far less.
const NOTICE_GRACE: Duration = Duration::from_millis(200);

const NOTICE_BYTES: usize = 8;
const NOTICE_MARK: [u8; 4] = *b"lost";

/// Owned by whichever thread makes the call.
#[derive(Debug)]
pub(super) struct Links {
    rank: usize,
    world_size: usize,
    calls: u64,
    next: Arc<Stream>,
    previous: Arc<Stream>,
    stop: Arc<Stop>,
    stall: Duration,
    scratch: Vec<f32>,
}

impl Links {
    pub(super) fn new(
        membership: &Membership,
        next: Stream,
        previous: Stream,
        stop: Arc<Stop>,
        stall: Duration,
    ) -> Self {
        Self {
            rank: membership.rank,
            world_size: membership.addresses.len(),
            calls: 0,
            next: Arc::new(next),
            previous: Arc::new(previous),
            stop,
            stall,
            scratch: vec![0.0; SCRATCH_VALUES],
        }
    }

    /// Lets an abort reach the neighbours even while no call is under way here.
    pub(super) fn close_on(&self, abort: &AbortHandle) {
        for stream in [&self.next, &self.previous] {
            let stream = Arc::downgrade(stream);
            abort.on_abort(move || {
                if let Some(stream) = stream.upgrade() {
                    stream.shut_down();
                }
            });
        }
    }

    pub(super) fn reduce(&mut self, bucket: &mut [f32]) -> Result<(), Error> {
        let flow = Flow::reduce(self.rank, self.world_size, bucket.len());
        self.pass(
            Kind::Reduce,
            bucket.len(),
            &flow,
            bytemuck::cast_slice_mut(bucket),
        )
    }

    pub(super) fn control(&mut self, values: &mut [f64]) -> Result<(), Error> {
        let len = values.len();
        let mut slots = vec![0.0; self.world_size * len];
        slots[self.rank * len..][..len].copy_from_slice(values);
        let flow = Flow::gather(self.rank, self.world_size, size_of_val(values));
        self.pass(
            Kind::Control,
            len,
            &flow,
            bytemuck::cast_slice_mut(&mut slots),
        )?;
        for (index, value) in values.iter_mut().enumerate() {
            *value = slots[index..].iter().step_by(len).sum();
        }
        Ok(())
    }

    pub(super) fn broadcast(&mut self, root: usize, values: &mut [f32]) -> Result<(), Error> {
        let flow = Flow::broadcast(self.rank, self.world_size, root, size_of_val(values));
        let kind = Kind::Broadcast { root: root as u32 };
        self.pass(kind, values.len(), &flow, bytemuck::cast_slice_mut(values))
    }

    pub(super) fn barrier(&mut self) -> Result<(), Error> {
        let flow = Flow::gather(self.rank, self.world_size, 1);
        self.pass(Kind::Barrier, 0, &flow, &mut vec![0; self.world_size])
    }

    /// Tells the previous rank whom this one has lost, and closes both links.
    pub(super) fn close(self, error: &Error) {
        if let Error::Broken { rank, .. } = error {
            let mut notice = [0; NOTICE_BYTES];
            notice[..4].copy_from_slice(&NOTICE_MARK);
            notice[4..].copy_from_slice(&(*rank as u32).to_le_bytes());
            // If that rank is the one that is gone, nobody is there to be told.
            let _ = self.previous.send(&notice);
        }
    }

    fn pass(&mut self, kind: Kind, len: usize, flow: &Flow, bytes: &mut [u8]) -> Result<(), Error> {
        let call = Call {
            number: self.calls,
            kind,
            len: len as u64,
        };
        self.calls += 1;
        let mut out = Outgoing::new(call, flow);
        let mut into = Incoming::new(flow);
        loop {
            if self.stop.is_stopped() {
                return Err(Error::Aborted);
            }
            let received = self.receive(call, &mut into, bytes)?;
            let released = flow.own + into.passed();
            let sent = out
                .send(&self.next, &bytes[..], released)
                .map_err(|source| self.next_is_gone(call, source))?;
            if into.is_done() && out.is_done() {
                return Ok(());
            }
            if !received && !sent {
                let sending = (!out.is_done()).then(|| out.has_more(released));
                self.wait(call, !into.is_done(), sending)?;
            }
        }
    }

    fn receive(
        &mut self,
        call: Call,
        into: &mut Incoming<'_>,
        bytes: &mut [u8],
    ) -> Result<bool, Error> {
        let scratch = bytemuck::cast_slice_mut(&mut self.scratch);
        let received = into
            .receive(&self.previous, bytes, scratch)
            .map_err(|source| self.previous_is_gone(call, source))?;
        if let Received::Header(header) = received {
            let rank = self.previous_rank();
            match header::decode(&header) {
                Some(theirs) if theirs == call => {}
                Some(theirs) => {
                    return Err(Error::Mismatch {
                        rank,
                        theirs,
                        ours: call,
                    });
                }
                None => return Err(self.lost(call, rank, io::ErrorKind::InvalidData.into())),
            }
        }
        Ok(!matches!(received, Received::Nothing))
    }

    /// Sleeps until a link can move. `sending` is whether bytes are at hand, if any are left to send.
    fn wait(&self, call: Call, receiving: bool, sending: Option<bool>) -> Result<(), Error> {
        let room = if sending == Some(true) {
            PollFlags::OUT
        } else {
            PollFlags::empty()
        };
        let previous = PollFd::from_borrowed_fd(self.previous.as_fd(), PollFlags::IN);
        let next = PollFd::from_borrowed_fd(self.next.as_fd(), PollFlags::IN | room);
        let mut sockets = [previous, self.stop.alarm(), next];
        // A neighbour that this call needs no more may have closed: it must not be watched.
        let watched = match (receiving, sending) {
            (true, Some(_)) => &mut sockets[..],
            (true, None) => &mut sockets[..2],
            (false, _) => &mut sockets[1..],
        };
        let patience = self.stop.until(Instant::now() + self.stall);
        let patient = patience
            .poll(watched)
            .map_err(Error::host("poll the links"))?;
        if self.stop.is_stopped() {
            return Err(Error::Aborted);
        }
        if !patient {
            let rank = if receiving {
                self.previous_rank()
            } else {
                self.next_rank()
            };
            return Err(Error::Timeout {
                rank,
                call,
                stall: self.stall,
            });
        }
        let gone = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        if sending.is_some() && sockets[2].revents().intersects(gone) {
            return Err(self.next_is_gone(call, io::ErrorKind::ConnectionReset.into()));
        }
        Ok(())
    }

    fn next_is_gone(&self, call: Call, source: io::Error) -> Error {
        match self.notice() {
            Some(rank) => self.lost(call, rank, self.reported()),
            None => self.lost(call, self.next_rank(), source),
        }
    }

    /// The previous rank may have left because it had lost another: that other one's name is on its way
    /// round the ring, against the stream.
    fn previous_is_gone(&self, call: Call, source: io::Error) -> Error {
        let next = PollFd::from_borrowed_fd(self.next.as_fd(), PollFlags::IN);
        let patience = self.stop.until(Instant::now() + NOTICE_GRACE);
        // Without an answer the previous rank is named, which is right where one rank is lost.
        let _ = patience.poll(&mut [next, self.stop.alarm()]);
        match self.notice() {
            Some(rank) => self.lost(call, rank, self.reported()),
            None => self.lost(call, self.previous_rank(), source),
        }
    }

    /// The rank that the next one says is lost.
    fn notice(&self) -> Option<usize> {
        let mut notice = [0; NOTICE_BYTES];
        let whole = matches!(self.next.receive(&mut notice), Ok(Some(NOTICE_BYTES)));
        let (mark, rank) = notice.split_first_chunk::<4>()?;
        let rank = u32::from_le_bytes(rank.try_into().ok()?) as usize;
        (whole && *mark == NOTICE_MARK && rank < self.world_size).then_some(rank)
    }

    fn reported(&self) -> io::Error {
        io::Error::other(format!("rank {} reports it", self.next_rank()))
    }

    fn lost(&self, call: Call, rank: usize, source: io::Error) -> Error {
        if self.stop.is_stopped() {
            return Error::Aborted;
        }
        Error::Broken {
            rank,
            call,
            source: Arc::new(source),
        }
    }

    fn next_rank(&self) -> usize {
        (self.rank + 1) % self.world_size
    }

    fn previous_rank(&self) -> usize {
        (self.rank + self.world_size - 1) % self.world_size
    }
}

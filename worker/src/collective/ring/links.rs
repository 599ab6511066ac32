//! A rank's two links, and the calls over them.
//!
//! Values go to the next rank and come from the previous one; the opposite direction carries only a rank's final
//! notice. Reading, adding and writing alternate on one thread, which sleeps only when neither link can make
//! progress.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::connect::Link;
use super::flow::Flow;
use super::handshake::Membership;
use super::header;
use super::notice::Notice;
use super::records::{self, Opener, SEALED_NOTICE_BYTES, Sealer};
use super::secret::Secret;
use super::stop::Stop;
use super::stream::Stream;
use super::transfer::{Incoming, Outgoing, Received, SCRATCH_VALUES};
use crate::collective::{AbortHandle, Call, Error, Kind};
use crate::device::{Buffer, Dtype};

/// How long a rank whose previous rank has closed its link waits for a notice that names the rank that was lost
/// first. A notice travels around a healthy ring much faster than this.
const NOTICE_GRACE: Duration = Duration::from_millis(200);

/// The links of a rank, owned by the thread that makes the current call.
pub(super) struct Links {
    rank: usize,
    world_size: usize,
    /// Whether reductions are encrypted, as everything else is.
    encrypt: bool,
    calls: u64,
    next: Arc<Stream>,
    sealer: Sealer,
    previous: Arc<Stream>,
    opener: Opener,
    /// The secrets of the two links, for the notices that travel on them: to the previous rank, and from the next one.
    notices: [Secret; 2],
    /// How many calls the next rank made before it left gracefully, if it has left. It is no longer needed, unless
    /// there is something to send to it.
    next_left_after: Option<u64>,
    /// The last call, if its values travel elsewhere.
    elsewhere: Option<Call>,
    stop: Arc<Stop>,
    stall: Duration,
    scratch: Vec<f32>,
}

impl Links {
    pub(super) fn new(
        membership: &Membership,
        next: Link,
        previous: Link,
        stop: Arc<Stop>,
        stall: Duration,
    ) -> Self {
        Self {
            rank: membership.rank,
            world_size: membership.addresses.len(),
            encrypt: membership.encrypt,
            calls: 0,
            next: Arc::new(next.stream),
            sealer: Sealer::new(next.secret.clone()),
            previous: Arc::new(previous.stream),
            opener: Opener::new(previous.secret.clone()),
            notices: [previous.secret, next.secret],
            next_left_after: None,
            elsewhere: None,
            stop,
            stall,
            scratch: vec![0.0; SCRATCH_VALUES],
        }
    }

    /// Makes an abort close both links, so that neighbours notice it even while no call is in flight here.
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

    pub(super) fn reduce(&mut self, bucket: &mut Buffer) -> Result<(), Error> {
        let (len, dtype) = (bucket.len(), bucket.dtype());
        let flow = Flow::reduce(self.rank, self.world_size, len, dtype);
        self.pass(Kind::Reduce(dtype), len, &flow, bucket.host_bytes())
    }

    pub(super) fn control(&mut self, values: &mut [f64]) -> Result<(), Error> {
        let len = values.len();
        let mut slots = vec![0.0; self.world_size * len];
        slots[self.rank * len..][..len].copy_from_slice(values);
        let flow = Flow::gather(self.rank, self.world_size, size_of_val(values));
        self.pass(Kind::Control, len, &flow, bytemuck::cast_slice_mut(&mut slots))?;
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

    /// Counts a reduction whose values travel elsewhere, so that ranks that made different numbers of them notice.
    pub(super) fn count(&mut self, dtype: Dtype, len: usize) -> Result<(), Error> {
        let call = self.begin(Kind::Reduce(dtype), len)?;
        self.elsewhere = Some(call);
        Ok(())
    }

    /// Sleeps between calls until `wake` is readable or the ring is stopped. The death of a rank ends the sleep with
    /// its error.
    ///
    /// Only the next rank is watched. Its link is the one on which a notice arrives, so it distinguishes a rank that
    /// died from one that left gracefully. From the previous rank there come only values, perhaps of a call that this
    /// rank has not made yet, and the end of the stream, which says nothing of the reason; its own previous rank knows
    /// the reason and sends a notice around the ring.
    pub(super) fn idle(&mut self, wake: PollFd<'_>) -> Result<(), Error> {
        let next = PollFd::from_borrowed_fd(self.next.as_fd(), PollFlags::IN);
        let mut sockets = [self.stop.alarm(), wake, next];
        let watched = &mut sockets[..2 + usize::from(self.next_left_after.is_none())];
        match poll(watched, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::host("poll the links")(errno.into())),
        }
        if self.stop.is_stopped() || sockets[2].revents().is_empty() {
            return Ok(());
        }
        match self.last_words() {
            // The next rank has completed all calls that this rank has made.
            Some(Notice::Left(calls)) if u64::from(calls) >= self.calls => {
                self.next_left_after = Some(calls.into());
                Ok(())
            }
            last_words => {
                let source = io::ErrorKind::ConnectionReset.into();
                Err(self.gone(self.elsewhere, self.next_rank(), last_words, source))
            }
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_stopped()
    }

    /// Leaves gracefully; no call is in flight.
    pub(super) fn leave(self) {
        self.say(Notice::Left(u32::try_from(self.calls).unwrap_or(u32::MAX)));
    }

    /// Closes both links; the previous rank is notified which rank was lost.
    pub(super) fn close(self, error: &Error) {
        if let Error::Broken { rank, .. } = error {
            self.say(Notice::Lost(*rank as u32));
        }
    }

    fn say(&self, notice: Notice) {
        let sealed = records::seal_notice(&self.notices[0], notice.encode());
        // This direction carries nothing else, so a few bytes fit its buffer. If sending fails, the previous rank is
        // gone.
        let _ = self.previous.send(&sealed);
    }

    /// Begins the next call, unless the next rank has left without it.
    fn begin(&mut self, kind: Kind, len: usize) -> Result<Call, Error> {
        let call = Call { number: self.calls, kind, len: len as u64 };
        self.calls += 1;
        self.elsewhere = None;
        if self.next_left_after.is_some_and(|calls| calls <= call.number) {
            return Err(self.next_is_gone(call, io::ErrorKind::ConnectionReset.into()));
        }
        Ok(call)
    }

    fn pass(&mut self, kind: Kind, len: usize, flow: &Flow, bytes: &mut [u8]) -> Result<(), Error> {
        let call = self.begin(kind, len)?;
        let is_sealed = self.encrypt || !matches!(kind, Kind::Reduce(_));
        let mut out = Outgoing::new(call, flow, is_sealed);
        let mut into = Incoming::new(flow, is_sealed);
        loop {
            if self.stop.is_stopped() {
                return Err(Error::Aborted);
            }
            let received = self.receive(call, &mut into, bytes)?;
            let released = flow.own + into.passed();
            let sent = out
                .send((&self.next, &mut self.sealer), &bytes[..], released)
                .map_err(|source| self.next_is_gone(call, source))?;
            let all_sent = out.is_done(&self.sealer);
            if into.is_done() && all_sent {
                return Ok(());
            }
            if !received && !sent {
                let sending = (!all_sent).then(|| out.has_more(&self.sealer, released));
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
            .receive((&self.previous, &mut self.opener), bytes, scratch)
            .map_err(|source| self.previous_is_gone(call, source))?;
        if let Received::Header(header) = received {
            let rank = self.previous_rank();
            match header::decode(&header) {
                Some(theirs) if theirs == call => {}
                Some(theirs) => {
                    let met = self.other_than(rank);
                    return Err(Error::Mismatch { rank, met, theirs, ours: call });
                }
                None => return Err(self.lost(Some(call), rank, io::ErrorKind::InvalidData.into())),
            }
        }
        Ok(!matches!(received, Received::Nothing))
    }

    /// Sleeps until a link can make progress. `sending` is `None` if nothing is left to send; otherwise it says
    /// whether bytes are ready to be sent.
    fn wait(&mut self, call: Call, receiving: bool, sending: Option<bool>) -> Result<(), Error> {
        let room = if sending == Some(true) { PollFlags::OUT } else { PollFlags::empty() };
        let previous = PollFd::from_borrowed_fd(self.previous.as_fd(), PollFlags::IN);
        let next = PollFd::from_borrowed_fd(self.next.as_fd(), PollFlags::IN | room);
        let mut sockets = [previous, self.stop.alarm(), next];
        // A neighbour that this call no longer needs may leave. Its closed link must not wake us over and over.
        let watch_next = sending.is_some() || self.next_left_after.is_none();
        let watched = &mut sockets[usize::from(!receiving)..2 + usize::from(watch_next)];
        let patience = self.stop.until(Instant::now() + self.stall);
        let patient = patience.poll(watched).map_err(Error::host("poll the links"))?;
        if self.stop.is_stopped() {
            return Err(Error::Aborted);
        }
        if !patient {
            let rank = if receiving { self.previous_rank() } else { self.next_rank() };
            let met = self.other_than(rank);
            return Err(Error::Timeout { rank, met, call, stall: self.stall });
        }
        let last_words = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        if watch_next && sockets[2].revents().intersects(last_words) {
            match self.last_words() {
                // The next rank has completed this call, so it has received everything that it needed.
                Some(Notice::Left(calls)) if u64::from(calls) > call.number => {
                    self.next_left_after = Some(calls.into());
                }
                last_words => {
                    let source = io::ErrorKind::ConnectionReset.into();
                    return Err(self.gone(Some(call), self.next_rank(), last_words, source));
                }
            }
        }
        Ok(())
    }

    fn next_is_gone(&self, call: Call, source: io::Error) -> Error {
        self.gone(Some(call), self.next_rank(), self.last_words(), source)
    }

    /// The previous rank may have left because it had lost another rank, whose number is then travelling around the
    /// ring, against the direction of the data.
    fn previous_is_gone(&self, call: Call, source: io::Error) -> Error {
        let next = PollFd::from_borrowed_fd(self.next.as_fd(), PollFlags::IN);
        let patience = self.stop.until(Instant::now() + NOTICE_GRACE);
        // Without a notice, the previous rank is blamed, which is right if only one rank was lost.
        let _ = patience.poll(&mut [next, self.stop.alarm()]);
        self.gone(Some(call), self.previous_rank(), self.last_words(), source)
    }

    /// The error for a lost rank: the one named by the next rank's notice, else `suspect`.
    fn gone(
        &self,
        call: Option<Call>,
        suspect: usize,
        last_words: Option<Notice>,
        source: io::Error,
    ) -> Error {
        match last_words {
            Some(Notice::Lost(rank)) => self.lost(call, rank as usize, self.reported()),
            Some(Notice::Left(_)) | None => self.lost(call, suspect, source),
        }
    }

    /// The notice that the next rank has sent, if any.
    fn last_words(&self) -> Option<Notice> {
        let mut sealed = [0; SEALED_NOTICE_BYTES];
        match self.next.receive(&mut sealed) {
            Ok(Some(SEALED_NOTICE_BYTES)) => {
                let notice = records::open_notice(&self.notices[1], sealed)?;
                Notice::decode(&notice, self.world_size)
            }
            Ok(_) | Err(_) => None,
        }
    }

    fn reported(&self) -> io::Error {
        io::Error::other(format!("reported by rank {}", self.next_rank()))
    }

    fn lost(&self, call: Option<Call>, rank: usize, source: io::Error) -> Error {
        if self.stop.is_stopped() {
            return Error::Aborted;
        }
        Error::Broken { rank, met: self.other_than(rank), call, source: Arc::new(source) }
    }

    /// A neighbour other than `rank`, if there is one.
    fn other_than(&self, rank: usize) -> Option<usize> {
        [self.next_rank(), self.previous_rank()].into_iter().find(|neighbour| *neighbour != rank)
    }

    fn next_rank(&self) -> usize {
        (self.rank + 1) % self.world_size
    }

    fn previous_rank(&self) -> usize {
        (self.rank + self.world_size - 1) % self.world_size
    }
}

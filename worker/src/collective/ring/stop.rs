//! Waiting for sockets until a deadline; stopping the ring interrupts the wait at once.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::stream::Stream;

/// A stop flag that other threads can set, which wakes all waiting threads.
#[derive(Debug)]
pub(super) struct Stop {
    stopped: AtomicBool,
    /// Readable once `lever` is shut down, and from then on, so no waiting thread can miss it.
    alarm: UnixStream,
    lever: UnixStream,
}

impl Stop {
    pub(super) fn new() -> io::Result<Self> {
        let (alarm, lever) = UnixStream::pair()?;
        Ok(Self { stopped: AtomicBool::new(false), alarm, lever })
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Shutting down our own socket pair cannot fail in a way that matters.
        let _ = self.lever.shutdown(Shutdown::Both);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// A descriptor that makes `poll` return when the ring is stopped.
    pub(super) fn alarm(&self) -> PollFd<'_> {
        PollFd::new(&self.alarm, PollFlags::IN)
    }

    pub(super) fn until(&self, deadline: Instant) -> Patience<'_> {
        Patience { stop: self, deadline }
    }
}

/// How long a caller waits: until a deadline, or until the ring is stopped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience<'a> {
    stop: &'a Stop,
    deadline: Instant,
}

impl Patience<'_> {
    /// Waits for one of `sockets`; returns false once the deadline has passed or the ring is stopped.
    pub(super) fn poll(&self, sockets: &mut [PollFd<'_>]) -> io::Result<bool> {
        let left = self.left();
        if self.has_ended() {
            return Ok(false);
        }
        let timeout = Timespec::try_from(left).ok();
        match poll(sockets, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(!self.has_ended()),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.stop.is_stopped() || self.left().is_zero()
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_stopped()
    }

    /// A descriptor that makes `poll` return when the ring is stopped.
    pub(super) fn alarm(&self) -> PollFd<'_> {
        self.stop.alarm()
    }

    pub(super) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Waits for `moment` before another attempt.
    pub(super) fn pause(&self, moment: Duration) -> io::Result<()> {
        let pause = Self { deadline: self.deadline.min(Instant::now() + moment), ..*self };
        pause.poll(&mut [self.stop.alarm()]).map(drop)
    }

    pub(super) fn read_exact(&self, stream: &Stream, mut bytes: &mut [u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match stream.receive(bytes)? {
                Some(count) => bytes = &mut bytes[count..],
                None => self.ready(stream, PollFlags::IN)?,
            }
        }
        Ok(())
    }

    pub(super) fn write_all(&self, stream: &Stream, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match stream.send(bytes)? {
                Some(count) => bytes = &bytes[count..],
                None => self.ready(stream, PollFlags::OUT)?,
            }
        }
        Ok(())
    }

    fn ready(&self, stream: &Stream, flags: PollFlags) -> io::Result<()> {
        let patient =
            self.poll(&mut [PollFd::from_borrowed_fd(stream.as_fd(), flags), self.stop.alarm()])?;
        if patient { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
    }
}

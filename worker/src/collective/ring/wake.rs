//! Wakes the communication thread, which sleeps on sockets, when a job is queued.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags};

/// A descriptor that becomes readable when another thread calls [`Wake::wake`] while this is armed. A thread that is
/// busy is not armed, and costs the other no system call.
#[derive(Debug)]
pub(super) struct Wake {
    armed: AtomicBool,
    sleeper: UnixStream,
    waker: UnixStream,
}

impl Wake {
    pub(super) fn new() -> std::io::Result<Self> {
        let (sleeper, waker) = UnixStream::pair()?;
        Ok(Self { armed: AtomicBool::new(false), sleeper, waker })
    }

    /// From now on, `wake` makes the descriptor readable. The thread looks for work after this call, not before.
    pub(super) fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    /// Makes the descriptor unreadable again.
    pub(super) fn disarm(&self) {
        if !self.armed.swap(false, Ordering::SeqCst) {
            // Another thread disarmed it, so its byte is there or about to be. The socket pair cannot fail.
            let _ = (&self.sleeper).read(&mut [0]);
        }
    }

    /// Wakes the thread if it may be asleep.
    pub(super) fn wake(&self) {
        if self.armed.swap(false, Ordering::SeqCst) {
            // There is never more than this byte in the socket's buffer, so this does not block.
            let _ = (&self.waker).write(&[0]);
        }
    }

    pub(super) fn descriptor(&self) -> PollFd<'_> {
        PollFd::new(&self.sleeper, PollFlags::IN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{Timespec, poll};

    fn is_readable(wake: &Wake) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [wake.descriptor()], Some(&now)).expect("it is open") > 0
    }

    #[test]
    fn a_call_is_heard_only_while_armed_and_only_once() {
        let wake = Wake::new().expect("a socket pair");
        wake.wake();
        assert!(!is_readable(&wake));
        wake.arm();
        assert!(!is_readable(&wake));
        wake.wake();
        wake.wake();
        assert!(is_readable(&wake));
        wake.disarm();
        assert!(!is_readable(&wake));
        wake.arm();
        wake.disarm();
        assert!(!is_readable(&wake));
    }
}

//! One connection to a neighbour: nonblocking, over TCP or a Unix socket.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Wraps a TCP connection. Buffer sizes are left to the kernel: it grows them up to `tcp_wmem` and `tcp_rmem`,
    /// whereas a size set by hand no longer grows and is limited to `wmem_max`, which is 208 KiB on most hosts.
    pub(super) fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }

    pub(super) fn unix(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self::Unix(stream))
    }

    /// Reads available bytes; `None` if there are none. The end of the stream is an error.
    pub(super) fn receive(&self, bytes: &mut [u8]) -> io::Result<Option<usize>> {
        let count = match self {
            Self::Tcp(stream) => (&*stream).read(bytes),
            Self::Unix(stream) => (&*stream).read(bytes),
        };
        match unless_busy(count)? {
            Some(0) if !bytes.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        }
    }

    /// Sends as many bytes as the socket's buffer takes; `None` if it is full.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        unless_busy(match self {
            Self::Tcp(stream) => (&*stream).write(bytes),
            Self::Unix(stream) => (&*stream).write(bytes),
        })
    }

    /// Ends the connection for both sides, even while other threads use it.
    pub(super) fn shut_down(&self) {
        // This fails if the peer has already closed the connection, which is fine.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

fn unless_busy(count: io::Result<usize>) -> io::Result<Option<usize>> {
    match count {
        Ok(count) => Ok(Some(count)),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
            _ => Err(error),
        },
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

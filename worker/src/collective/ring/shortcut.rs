//! Neighbours on one host switch to a Unix socket once they have authenticated each other, since it costs half as
//! much per byte as TCP over loopback.
//!
//! The acceptor listens under a name that only the two of them can compute and that is visible only on its host
//! (Linux's abstract socket names: no file, nothing to clean up). If the connector finds it, they share a host. No
//! addresses are compared, and nothing needs to be configured.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use super::handshake::{PROOF_BYTES, Purpose, Transcript};
use super::stop::Patience;
use super::stream::Stream;

/// The connector's choice, sent over TCP: switch to the Unix socket, or stay on TCP.
const CHANGE_OVER: u8 = b'u';
const STAY: u8 = b't';

/// Interval at which the acceptor polls. The connector has already connected when it announces the switch.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// The acceptor's listening Unix socket; `None` where abstract names are not available.
pub(super) fn offer(transcript: &Transcript, key: &[u8; 32]) -> Option<UnixListener> {
    let door = listen(&name(transcript, key)).ok()?;
    door.set_nonblocking(true).ok()?;
    Some(door)
}

/// The acceptor's side, after its welcome: returns the link that the connector chose.
pub(super) fn follow(
    tcp: Stream,
    door: Option<UnixListener>,
    transcript: &Transcript,
    key: &[u8; 32],
    patience: Patience<'_>,
) -> io::Result<Stream> {
    let mut choice = [0];
    patience.read_exact(&tcp, &mut choice)?;
    let Some(door) = door.filter(|_| choice == [CHANGE_OVER]) else {
        return Ok(tcp);
    };
    loop {
        match door.accept() {
            Ok((stream, _)) => {
                let unix = Stream::unix(stream)?;
                let mut proof = [0; PROOF_BYTES];
                patience.read_exact(&unix, &mut proof)?;
                if transcript.verify(key, Purpose::Socket, &proof) {
                    return Ok(unix);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                patience.pause(LOOK_AGAIN)?
            }
            Err(error) => return Err(error),
        }
        if patience.has_ended() {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// The connector's side, after the welcome: returns the link that it chose.
pub(super) fn choose(
    tcp: Stream,
    wanted: bool,
    transcript: &Transcript,
    key: &[u8; 32],
    patience: Patience<'_>,
) -> io::Result<Stream> {
    let found = wanted.then(|| connect(&name(transcript, key)).ok()).flatten();
    let Some(stream) = found else {
        patience.write_all(&tcp, &[STAY])?;
        return Ok(tcp);
    };
    let unix = Stream::unix(stream)?;
    patience.write_all(&unix, &transcript.proof(key, Purpose::Socket))?;
    patience.write_all(&tcp, &[CHANGE_OVER])?;
    Ok(unix)
}

fn name(transcript: &Transcript, key: &[u8; 32]) -> [u8; PROOF_BYTES] {
    transcript.proof(key, Purpose::SocketName)
}

#[cfg(target_os = "linux")]
fn address(name: &[u8]) -> io::Result<std::os::unix::net::SocketAddr> {
    use std::os::linux::net::SocketAddrExt;
    std::os::unix::net::SocketAddr::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn address(_: &[u8]) -> io::Result<std::os::unix::net::SocketAddr> {
    Err(io::ErrorKind::Unsupported.into())
}

fn listen(name: &[u8]) -> io::Result<UnixListener> {
    UnixListener::bind_addr(&address(name)?)
}

fn connect(name: &[u8]) -> io::Result<UnixStream> {
    UnixStream::connect_addr(&address(name)?)
}

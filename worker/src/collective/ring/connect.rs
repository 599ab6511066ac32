//! How a rank establishes its two links: it connects to the next rank and accepts the previous one, concurrently.
//!
//! Unwanted connections are normal: port scanners, ranks of a generation that has ended, or a process that inherited
//! a port. They are refused one by one while the rank waits for the one that belongs here.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::handshake::{self, Membership, Nonce, Refusal};
use super::secret::Secret;
use super::stop::{Patience, Stop};
use super::stream::Stream;
use super::{Options, SameHost, shortcut};
use crate::collective::Error;

/// Maximum number of connections that have not identified themselves; beyond it, the oldest is dropped.
const MAX_VISITORS: usize = 64;

/// Time limit of one attempt to connect.
const ATTEMPT: Duration = Duration::from_secs(2);

/// Pause between attempts.
const BREATH: Duration = Duration::from_millis(20);

/// The socket on which a rank accepts its previous rank, in every generation of its life.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Listens on `address`, `host:port`; port 0 takes a free one.
    ///
    /// # Errors
    /// [`Error::Host`] if the address is not this host's or the port is in use.
    pub fn bind(address: &str) -> Result<Self, Error> {
        let bind = || {
            let socket = TcpListener::bind(address)?;
            socket.set_nonblocking(true)?;
            let address = socket.local_addr()?;
            Ok(Self { socket, address })
        };
        bind().map_err(Error::host(format!("listen on {address}")))
    }

    /// The bound address, with the actual port in place of 0. It can be published to peers, unless the host is
    /// `0.0.0.0`.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

/// A connection whose other end has proved which rank it is.
pub(super) struct Link {
    pub(super) stream: Stream,
    pub(super) secret: Secret,
}

/// Establishes the links to the next rank and from the previous rank.
pub(super) fn neighbours(
    listener: &Listener,
    membership: &Membership,
    options: &Options,
    stop: &Stop,
) -> Result<(Link, Link), Error> {
    if membership.addresses.len() == 1 {
        // The only rank of a ring is its own neighbour, so that calls need no special case.
        let pair = || {
            let (next, previous) = UnixStream::pair()?;
            let secret = Secret::new(&membership.key, &nonce()?, &[]);
            let link = |stream| Link { stream, secret: secret.clone() };
            Ok((link(Stream::unix(next)?), link(Stream::unix(previous)?)))
        };
        return pair().map_err(Error::host("open a socket pair"));
    }
    let patience = stop.until(Instant::now() + options.connect_within);
    let side = Side { membership, options, patience };
    let (next, previous) = std::thread::scope(|scope| {
        let next = scope.spawn(|| side.reach().inspect_err(|_| stop.stop()));
        let previous = side.admit(listener).inspect_err(|_| stop.stop());
        (next.join().expect("connecting to a rank does not panic"), previous)
    });
    match (next, previous) {
        (Ok(next), Ok(previous)) => Ok((next, previous)),
        (Ok(_), Err(error)) => Err(error.having_met(side.next_rank())),
        (Err(error), Ok(_)) => Err(error.having_met(side.previous_rank())),
        // The side that fails first stops the other, whose error is then only `Aborted`.
        (Err(Error::Aborted), Err(error)) | (Err(error), Err(_)) => Err(error),
    }
}

/// Inputs common to both sides of the handshake.
#[derive(Clone, Copy)]
struct Side<'a> {
    membership: &'a Membership,
    options: &'a Options,
    patience: Patience<'a>,
}

enum Failure {
    Io(io::Error),
    Refused(Refusal),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Side<'_> {
    fn world_size(&self) -> usize {
        self.membership.addresses.len()
    }

    fn next_rank(&self) -> usize {
        (self.membership.rank + 1) % self.world_size()
    }

    fn previous_rank(&self) -> usize {
        (self.membership.rank + self.world_size() - 1) % self.world_size()
    }

    /// Connects to the next rank, retrying until the time limit.
    fn reach(&self) -> Result<Link, Error> {
        let (rank, met) = (self.next_rank(), None);
        let address = self.membership.addresses[rank].clone();
        loop {
            let source = match self.attempt(&address) {
                Ok(link) => return Ok(link),
                // The next rank does not know this generation yet, but it will soon.
                Err(Failure::Refused(Refusal::Generation { given, expected }))
                    if expected < given =>
                {
                    io::Error::other(format!("it is still in generation {expected}"))
                }
                Err(Failure::Refused(refusal)) => {
                    return Err(Error::Refused { rank, met, address, refusal });
                }
                Err(Failure::Io(error)) => error,
            };
            self.patience.pause(BREATH).map_err(Error::host("wait"))?;
            if self.patience.is_stopped() {
                return Err(Error::Aborted);
            }
            if self.patience.has_ended() {
                let (within, source) = (self.options.connect_within, Arc::new(source));
                return Err(Error::Unreachable { rank, met, address, within, source });
            }
        }
    }

    fn attempt(&self, address: &str) -> Result<Link, Failure> {
        let tcp = self.dial(address)?;
        let no_acceptor =
            || io::Error::new(io::ErrorKind::InvalidData, "the peer at this address is not a rank");

        let mut greeting = [0; handshake::GREETING_BYTES];
        self.patience.read_exact(&tcp, &mut greeting)?;
        let nonce = nonce()?;
        let (transcript, hello) =
            handshake::hello(self.membership, &greeting, &nonce).ok_or_else(no_acceptor)?;
        self.patience.write_all(&tcp, &hello)?;
        let mut answer = [0; handshake::ANSWER_BYTES];
        self.patience.read_exact(&tcp, &mut answer)?;
        handshake::heed(self.membership, &transcript, &answer)
            .ok_or_else(no_acceptor)?
            .map_err(Failure::Refused)?;

        let wanted = self.options.same_host == SameHost::UnixSocket;
        let key = &self.membership.key;
        let stream = shortcut::choose(tcp, wanted, &transcript, key, self.patience)?;
        Ok(Link { stream, secret: transcript.secret(self.membership) })
    }

    fn dial(&self, address: &str) -> io::Result<Stream> {
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in address.to_socket_addrs()? {
            // A timeout of zero would be an error; the caller notices the end of its time limit anyway.
            let within = self.patience.left().clamp(BREATH, ATTEMPT);
            match TcpStream::connect_timeout(&address, within) {
                Ok(stream) => return Stream::tcp(stream),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Accepts connections until one of them is the previous rank.
    fn admit(&self, listener: &Listener) -> Result<Link, Error> {
        let mut visitors: Vec<Visitor> = Vec::new();
        let mut refused = None;
        loop {
            self.wait_for_visitors(listener, &visitors).map_err(Error::host("poll"))?;
            if self.patience.is_stopped() {
                return Err(Error::Aborted);
            }
            if self.patience.has_ended() {
                let (rank, met) = (self.previous_rank(), None);
                let within = self.options.connect_within;
                return Err(Error::Absent { rank, met, within, refused });
            }
            while let Some(stream) = accept(listener).map_err(Error::host("accept"))? {
                visitors.extend(Visitor::greet(stream));
            }
            visitors.drain(..visitors.len().saturating_sub(MAX_VISITORS));

            for mut visitor in std::mem::take(&mut visitors) {
                match visitor.listen() {
                    Ok(false) => visitors.push(visitor),
                    Ok(true) => match self.answer(visitor) {
                        Ok(link) => return Ok(link),
                        Err(Failure::Refused(refusal)) => refused = Some(refusal),
                        // The connection broke. If it was the previous rank, it will connect again.
                        Err(Failure::Io(_)) => {}
                    },
                    Err(_) => {}
                }
            }
        }
    }

    fn wait_for_visitors(&self, listener: &Listener, visitors: &[Visitor]) -> io::Result<bool> {
        let sockets = visitors.iter().map(|visitor| visitor.stream.as_fd());
        let mut sockets: Vec<_> = [listener.socket.as_fd()]
            .into_iter()
            .chain(sockets)
            .map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::IN))
            .chain([self.patience.alarm()])
            .collect();
        self.patience.poll(&mut sockets)
    }

    fn answer(&self, visitor: Visitor) -> Result<Link, Failure> {
        let Visitor { stream, challenge, hello, .. } = visitor;
        let key = &self.membership.key;
        let judgement = handshake::judge(self.membership, &challenge, &hello);
        let offered = self.options.same_host == SameHost::UnixSocket;
        let door = match &judgement {
            Ok(transcript) if offered => shortcut::offer(transcript, key),
            Ok(_) | Err(_) => None,
        };
        let answer = handshake::answer(self.membership, &judgement);
        // `send` does not block, so a stranger cannot hold up the others. A fresh connection's buffer has room for
        // this.
        stream.send(&answer)?;
        let transcript = judgement.map_err(Failure::Refused)?;
        let stream = shortcut::follow(stream, door, &transcript, key, self.patience)?;
        Ok(Link { stream, secret: transcript.secret(self.membership) })
    }
}

/// A connection that has not identified itself yet.
struct Visitor {
    stream: Stream,
    challenge: Nonce,
    hello: [u8; handshake::HELLO_BYTES],
    heard: usize,
}

impl Visitor {
    /// Sends the greeting; `None` if the connection is already closed.
    fn greet(stream: TcpStream) -> Option<Self> {
        let stream = Stream::tcp(stream).ok()?;
        let challenge = nonce().ok()?;
        stream.send(&handshake::greeting(&challenge)).ok()?;
        Some(Self { stream, challenge, hello: [0; handshake::HELLO_BYTES], heard: 0 })
    }

    /// Receives available bytes of the hello; returns true once it is complete.
    fn listen(&mut self) -> io::Result<bool> {
        while self.heard < self.hello.len() {
            match self.stream.receive(&mut self.hello[self.heard..])? {
                Some(count) => self.heard += count,
                None => return Ok(false),
            }
        }
        Ok(true)
    }
}

fn accept(listener: &Listener) -> io::Result<Option<TcpStream>> {
    use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
    match listener.socket.accept() {
        Ok((stream, _)) => Ok(Some(stream)),
        Err(error) => match error.kind() {
            WouldBlock | ConnectionAborted | Interrupted => Ok(None),
            _ => Err(error),
        },
    }
}

fn nonce() -> io::Result<Nonce> {
    let mut nonce = Nonce::default();
    getrandom::fill(&mut nonce).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(nonce)
}

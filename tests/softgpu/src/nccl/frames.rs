//! Frames between a rank and the server: a kind, a length and the bytes.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

/// How often a waiting rank looks whether it was aborted.
pub(super) const POLL: Duration = Duration::from_millis(5);

/// What kind of frame follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A rank introduces itself, in JSON.
    Hello,
    /// The server refuses, in JSON: a code and a text.
    Refused,
    /// All ranks are there.
    Welcome,
    /// A rank's part of a collective: 32 bytes of description, then data.
    Part,
    /// The result of a collective.
    Answer,
    /// The ranks called different collectives, in text.
    Mismatch,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::Hello, Self::Refused, Self::Welcome, Self::Part, Self::Answer, Self::Mismatch];

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// Writes a frame; false if `stop` said so first.
pub(super) fn send(
    socket: &UnixStream,
    kind: Kind,
    bytes: &[u8],
    stop: &dyn Fn() -> bool,
) -> io::Result<bool> {
    let mut header = [0; 9];
    header[0] = kind as u8;
    header[1..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    Ok(drain(socket, &header, stop)? && drain(socket, bytes, stop)?)
}

fn drain(mut socket: &UnixStream, mut bytes: &[u8], stop: &dyn Fn() -> bool) -> io::Result<bool> {
    while !bytes.is_empty() {
        if stop() {
            return Ok(false);
        }
        match socket.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Reads a frame; `None` if `stop` said so first.
pub(super) fn receive(
    socket: &UnixStream,
    stop: &dyn Fn() -> bool,
) -> io::Result<Option<(Kind, Vec<u8>)>> {
    let mut header = [0; 9];
    if !fill(socket, &mut header, stop)? {
        return Ok(None);
    }
    let [code, length @ ..] = header;
    let kind = Kind::from_code(code).ok_or(ErrorKind::InvalidData)?;
    let mut bytes = vec![0; u64::from_le_bytes(length) as usize];
    Ok(fill(socket, &mut bytes, stop)?.then_some((kind, bytes)))
}

fn fill(mut socket: &UnixStream, buffer: &mut [u8], stop: &dyn Fn() -> bool) -> io::Result<bool> {
    let mut filled = 0;
    while filled < buffer.len() {
        if stop() {
            return Ok(false);
        }
        match socket.read(&mut buffer[filled..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// What a rank says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello {
    pub rank: u32,
    pub ranks: u32,
    pub version: u32,
    /// Names the machine.
    pub host: String,
    pub pci_bus: u32,
    /// Whether several ranks may share a device.
    pub may_share: bool,
}

impl Hello {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let value = json!({
            "rank": self.rank,
            "ranks": self.ranks,
            "version": self.version,
            "host": self.host,
            "pci_bus": self.pci_bus,
            "may_share": self.may_share,
        });
        value.to_string().into_bytes()
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        let number = |key: &str| value[key].as_u64().and_then(|number| u32::try_from(number).ok());
        Some(Self {
            rank: number("rank")?,
            ranks: number("ranks")?,
            version: number("version")?,
            host: value["host"].as_str()?.to_owned(),
            pci_bus: number("pci_bus")?,
            may_share: value["may_share"].as_bool()?,
        })
    }
}

//! The server of one communicator: brings the ranks together and answers their collectives.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::Failure;
use super::collectives::{Call, DESCRIPTION_BYTES, What};
use super::frames::{self, Hello, Kind};
use super::reduce::reduce;

/// The bytes of an `ncclUniqueId`.
pub(super) const ID_BYTES: usize = 128;
const PREFIX: &str = "softgpu-nccl";

/// Starts a server and returns the id that leads to it.
pub(super) fn start() -> io::Result<[u8; ID_BYTES]> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static AT_EXIT: Once = Once::new();
    // SAFETY: the function is static and does not unwind.
    AT_EXIT.call_once(|| unsafe {
        libc::atexit(finish_answers);
    });
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    let count = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("{PREFIX}-{}-{count}-{since}", std::process::id());
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    std::thread::Builder::new().name("softgpu-nccl".to_owned()).spawn(move || serve(&listener))?;
    let mut id = [0; ID_BYTES];
    id[..name.len()].copy_from_slice(name.as_bytes());
    Ok(id)
}

/// Connects to the server that an id leads to; `None` if the id was not made here.
pub(super) fn connect(id: &[u8; ID_BYTES]) -> Option<io::Result<UnixStream>> {
    let text = std::str::from_utf8(id).ok()?.trim_end_matches('\0');
    text.starts_with(PREFIX)
        .then(|| UnixStream::connect_addr(&SocketAddr::from_abstract_name(text)?))
}

/// The server's waits are never stopped.
fn never() -> bool {
    false
}

struct Rank {
    socket: UnixStream,
    hello: Hello,
}

/// Serves one communicator. A rank that dies leaves the others waiting: their sockets stay open
/// until they close them.
fn serve(listener: &UnixListener) {
    let Some(ranks) = gather(listener) else { return };
    let refused = refusal(&ranks);
    answering(|| match &refused {
        Some((Failure(code), text)) => {
            let bytes = json!({ "code": code, "text": text }).to_string().into_bytes();
            send_all(&ranks, Kind::Refused, &bytes);
        }
        None => send_all(&ranks, Kind::Welcome, &[]),
    });
    if refused.is_none() {
        while answer(&ranks).is_ok() {}
    }
    linger(&ranks);
}

/// Sends one frame to all ranks; a rank that has gone needs none.
fn send_all(ranks: &[Rank], kind: Kind, bytes: &[u8]) {
    for rank in ranks {
        let _ = frames::send(&rank.socket, kind, bytes, &never);
    }
}

/// Accepts ranks until all are there, in the order of their numbers.
fn gather(listener: &UnixListener) -> Option<Vec<Rank>> {
    let mut ranks: Vec<Rank> = Vec::new();
    loop {
        let (socket, _) = listener.accept().ok()?;
        let Ok(Some((Kind::Hello, bytes))) = frames::receive(&socket, &never) else { continue };
        let Some(hello) = Hello::parse(&bytes) else { continue };
        ranks.push(Rank { socket, hello });
        let expected = ranks.iter().map(|rank| rank.hello.ranks).min().unwrap_or(0);
        if ranks.len() >= expected as usize {
            ranks.sort_by_key(|rank| rank.hello.rank);
            return Some(ranks);
        }
    }
}

/// Why these ranks cannot form a communicator, in NCCL's words.
fn refusal(ranks: &[Rank]) -> Option<(Failure, String)> {
    for (index, one) in ranks.iter().enumerate() {
        let one = &one.hello;
        if one.rank as usize != index || one.ranks as usize != ranks.len() {
            let text = format!("Bootstrap : mismatch in rank {} of {}", one.rank, one.ranks);
            return Some((Failure::INVALID_ARGUMENT, text));
        }
        for other in ranks[..index].iter().map(|other| &other.hello) {
            if other.version != one.version {
                let text = format!(
                    "Mismatched NCCL version detected : rank {} version {} rank {} version {}",
                    other.rank, other.version, one.rank, one.version
                );
                return Some((Failure::INVALID_USAGE, text));
            }
            let shared = other.host == one.host && other.pci_bus == one.pci_bus;
            if shared && !(one.may_share && other.may_share) {
                let text = format!(
                    "Duplicate GPU detected : rank {} and rank {} both on CUDA device {:x}",
                    other.rank,
                    one.rank,
                    one.pci_bus << 12
                );
                return Some((Failure::INVALID_USAGE, text));
            }
        }
    }
    None
}

/// How many servers are sending answers.
static ANSWERING: AtomicU64 = AtomicU64::new(0);
/// How long the process waits at its exit for answers to be sent.
const EXIT_POLLS: u32 = 400;

fn answering<T>(act: impl FnOnce() -> T) -> T {
    ANSWERING.fetch_add(1, Ordering::SeqCst);
    let result = act();
    ANSWERING.fetch_sub(1, Ordering::SeqCst);
    result
}

/// Lets answers go out before the process exits: the first rank to get its answer may be the
/// server's own, and must not take the others' with it.
extern "C" fn finish_answers() {
    for _ in 0..EXIT_POLLS {
        if ANSWERING.load(Ordering::SeqCst) == 0 {
            return;
        }
        std::thread::sleep(frames::POLL);
    }
}

/// Answers one collective.
fn answer(ranks: &[Rank]) -> io::Result<()> {
    let mut parts = Vec::new();
    for rank in ranks {
        match frames::receive(&rank.socket, &never)? {
            Some((Kind::Part, bytes)) if bytes.len() >= DESCRIPTION_BYTES => parts.push(bytes),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    let description = &parts[0][..DESCRIPTION_BYTES];
    let odd = parts.iter().position(|part| &part[..DESCRIPTION_BYTES] != description);
    let call = Call::parse(description).ok_or(io::ErrorKind::InvalidData)?;
    if let Some(odd) = odd {
        let other = Call::parse(&parts[odd]);
        let text = format!("rank 0 calls {call:?}, rank {odd} calls {other:?}");
        answering(|| send_all(ranks, Kind::Mismatch, text.as_bytes()));
        return Ok(());
    }
    let data: Vec<&[u8]> = parts.iter().map(|part| &part[DESCRIPTION_BYTES..]).collect();
    let all = match call.what {
        What::AllReduce(how) | What::ReduceScatter(how) => reduce(&data, call.element, how),
        What::Broadcast { root } => data[root as usize].to_vec(),
        What::AllGather => data.concat(),
    };
    answering(|| send_shares(ranks, &call, &all))
}

fn send_shares(ranks: &[Rank], call: &Call, all: &[u8]) -> io::Result<()> {
    let scattered = matches!(call.what, What::ReduceScatter(_));
    for (index, rank) in ranks.iter().enumerate() {
        let share = all.len() / ranks.len();
        let own = if scattered { &all[index * share..][..share] } else { all };
        frames::send(&rank.socket, Kind::Answer, own, &never)?;
    }
    Ok(())
}

/// Keeps the sockets open until their owners have closed them.
fn linger(ranks: &[Rank]) {
    for rank in ranks {
        while let Ok(Some(_)) = frames::receive(&rank.socket, &never) {}
    }
}

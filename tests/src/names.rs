//! A name server for the pods of a test, as Kubernetes' DNS is for those of a cluster. It knows IPv4 addresses only.

use std::io;
use std::net::Ipv4Addr;
use tokio::net::UdpSocket;

/// The size of a query without extensions, and of a small answer.
const MESSAGE_BYTES: usize = 512;
const HEADER_BYTES: usize = 12;
/// It is an answer, recursion was wanted, and recursion is available.
const ANSWER: u16 = 0x8180;
const NO_SUCH_NAME: u16 = 3;
const TYPE_A: u16 = 1;
/// A pointer to the name in the question, then type A, class IN, a lifetime of 0 s, and 4 bytes of data.
const RECORD: [u8; 12] = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4];

/// Answers queries with the addresses that `look_up` finds for a name, for as long as the socket works.
///
/// # Errors
/// That of the socket.
pub async fn serve(socket: UdpSocket, look_up: impl Fn(&str) -> Vec<Ipv4Addr>) -> io::Result<()> {
    let mut query = [0; MESSAGE_BYTES];
    loop {
        let (length, client) = socket.recv_from(&mut query).await?;
        let Some(answer) = answer(&query[..length], &look_up) else { continue };
        socket.send_to(&answer, client).await?;
    }
}

/// The answer to a query (RFC 1035, section 4); `None` if it is none.
fn answer(query: &[u8], look_up: impl Fn(&str) -> Vec<Ipv4Addr>) -> Option<Vec<u8>> {
    let mut labels = Vec::new();
    let mut at = HEADER_BYTES;
    while let length @ 1.. = usize::from(*query.get(at)?) {
        let label = query.get(at + 1..at + 1 + length)?;
        labels.push(String::from_utf8_lossy(label).into_owned());
        at += 1 + length;
    }
    // A zero ends the name. The type and the class follow.
    let question = query.get(HEADER_BYTES..at + 5)?;
    let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    let addresses = look_up(&labels.join("."));
    let code = if addresses.is_empty() { NO_SUCH_NAME } else { 0 };
    let records = if kind == TYPE_A { &addresses[..] } else { &[] };
    let mut answer = query[..2].to_vec();
    for field in [ANSWER | code, 1, u16::try_from(records.len()).ok()?, 0, 0] {
        answer.extend(field.to_be_bytes());
    }
    answer.extend(question);
    for address in records {
        answer.extend(RECORD);
        answer.extend(address.octets());
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: [u8; 19] = [7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1];

    #[test]
    fn a_query_for_a_known_name_is_answered_with_its_addresses() {
        let look_up = |name: &str| match name {
            "a" => vec![Ipv4Addr::new(10, 88, 0, 7)],
            _ => Vec::new(),
        };
        let known = answer(&QUESTION, look_up).expect("an answer");
        assert_eq!(known[..12], [7, 9, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(known[12..19], QUESTION[12..]);
        assert_eq!(known[19..31], RECORD);
        assert_eq!(known[31..], [10, 88, 0, 7]);
        // It has no IPv6 address, but it exists.
        let mut other = QUESTION;
        other[16] = 28;
        assert_eq!(answer(&other, look_up).expect("an answer")[2..8], [0x81, 0x80, 0, 1, 0, 0]);
        other[13] = b'b';
        assert_eq!(answer(&other, look_up).expect("an answer")[2..8], [0x81, 0x83, 0, 1, 0, 0]);
        assert_eq!(answer(&QUESTION[..15], look_up), None);
    }
}

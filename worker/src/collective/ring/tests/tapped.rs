//! Tests of a ring whose network somebody listens to, or changes.

use std::sync::{Arc, Mutex};

use super::*;
use crate::collective::ring::handshake::HELLO_BYTES;

/// Somebody between rank 0 and rank 1, who sees all bytes from rank 0 and may change one of them.
struct Tap {
    heard: Arc<Mutex<Vec<u8>>>,
    /// Number of the byte in which one bit is flipped.
    flip: Option<usize>,
}

impl Tap {
    fn listening() -> Self {
        Self { heard: Arc::default(), flip: None }
    }

    fn changing(byte: usize) -> Self {
        Self { flip: Some(byte), ..Self::listening() }
    }

    /// Passes everything on between rank 0 and the rank that listens at `to`; returns where rank 0 connects.
    fn between(&self, to: &str) -> String {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let address = socket.local_addr().expect("it is bound").to_string();
        let (to, heard, flip) = (to.to_owned(), self.heard.clone(), self.flip);
        std::thread::spawn(move || {
            let (zero, _) = socket.accept().expect("rank 0 connects");
            let one = TcpStream::connect(to).expect("rank 1 listens");
            let back = [&one, &zero].map(|s| s.try_clone().expect("a socket can be cloned"));
            std::thread::spawn(move || pass(&back[0], &back[1], |_| {}));
            let mut count = 0;
            pass(&zero, &one, |bytes| {
                if let Some(flip) = flip.and_then(|flip| flip.checked_sub(count))
                    && flip < bytes.len()
                {
                    bytes[flip] ^= 1;
                }
                count += bytes.len();
                heard.lock().expect("no panic").extend_from_slice(bytes);
            });
        });
        address
    }

    fn heard(&self) -> Vec<u8> {
        self.heard.lock().expect("no panic").clone()
    }
}

fn pass(mut from: &TcpStream, mut to: &TcpStream, mut see: impl FnMut(&mut [u8])) {
    let mut bytes = vec![0; 4096];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        see(&mut bytes[..count]);
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
    let _ = from.shutdown(std::net::Shutdown::Both);
}

/// Lets two ranks do `work`, with `tap` on the link from rank 0 to rank 1.
fn work_with<T: Send>(
    tap: &Tap,
    encrypt: bool,
    work: impl Fn(&mut Ring) -> Result<T, Error> + Sync,
) -> [Result<T, Error>; 2] {
    let mut members = members(2);
    let options = Options { same_host: SameHost::Tcp, ..options(Duration::from_secs(5)) };
    for (_, membership) in &mut members {
        membership.encrypt = encrypt;
    }
    members[0].1.addresses[1] = tap.between(&members[1].1.addresses[1]);
    std::thread::scope(|scope| {
        let start = |(listener, membership): &(Listener, Membership)| {
            let mut ring = Ring::connect(listener, membership, &options, AbortHandle::new())?;
            work(&mut ring)
        };
        let ranks: Vec<_> =
            members.iter().map(|member| scope.spawn(move || start(member))).collect();
        let results = ranks.into_iter().map(|rank| rank.join().expect("no panic"));
        results.collect::<Vec<_>>().try_into().unwrap_or_else(|_| unreachable!("two ranks"))
    })
}

/// Numbers that are easy to recognize, more than a record has room for.
fn values(first: u32) -> Vec<f32> {
    (0..40_000).map(|i| f32::from_bits(0x4100_0000 + first + i)).collect()
}

/// Whether any eight bytes in a row of `secret` were heard, at any of their positions.
fn was_heard(heard: &[u8], secret: &[u8]) -> bool {
    let windows: std::collections::HashSet<&[u8]> = heard.windows(8).collect();
    secret.chunks_exact(8).any(|eight| windows.contains(eight))
}

fn reduce(ring: &mut Ring) -> Result<Vec<f32>, Error> {
    let bucket = Buffer::from(values(100_000 * ring.rank() as u32));
    Ok(ring.reduce(bucket)?.wait()?.all().read::<f32>().into_owned())
}

#[test]
fn a_listener_reads_no_state_no_message_and_no_gradient_that_is_to_be_encrypted() {
    let secret: Vec<u8> = values(0).iter().flat_map(|value| value.to_le_bytes()).collect();
    let tap = Tap::listening();
    for result in work_with(&tap, false, |ring| {
        let mut state = Buffer::from(values(0));
        ring.broadcast(0, state.all_mut())?;
        let mut message = vec![f64::from_bits(0x4142_4344_4546_4748); 1000];
        ring.control(&mut message)
    }) {
        result.expect("the ring works");
    }
    assert!(tap.heard().len() > secret.len() + 8000, "it listened to all of it");
    assert!(!was_heard(&tap.heard(), &secret));
    assert!(!was_heard(&tap.heard(), &[0x48, 0x47, 0x46, 0x45, 0x44, 0x43, 0x42, 0x41]));

    for (encrypt, is_heard) in [(false, true), (true, false)] {
        let tap = Tap::listening();
        let sums = work_with(&tap, encrypt, reduce).map(|sum| sum.expect("the ring works"));
        let right: Vec<f32> = values(0).iter().zip(values(100_000)).map(|(a, b)| a + b).collect();
        assert!(sums.iter().all(|sum| *sum == right));
        assert_eq!(was_heard(&tap.heard(), &secret), is_heard, "encrypt: {encrypt}");
    }
}

#[test]
fn a_changed_byte_breaks_the_ring_and_never_a_sum() {
    let tap = Tap::listening();
    let right = work_with(&tap, true, reduce).map(|sum| sum.expect("the ring works"));
    let end = tap.heard().len();
    // After the handshake: all bytes of the header, and some of the values.
    let (begin, values) = (HELLO_BYTES + 1, HELLO_BYTES + 1 + 40);
    for byte in (begin..values).chain((values..end).step_by(end / 20)).chain([end - 1]) {
        let sums = work_with(&Tap::changing(byte), true, reduce);
        assert!(sums[1].is_err(), "byte {byte} of {end}");
        for sum in sums.iter().filter_map(|sum| sum.as_ref().ok()) {
            assert_eq!(*sum, right[0], "byte {byte} of {end}");
        }
    }
}

#[test]
fn ranks_that_disagree_about_encryption_break_the_first_call() {
    let mut members = members(2);
    members[1].1.encrypt = true;
    std::thread::scope(|scope| {
        for (listener, membership) in &members {
            scope.spawn(move || {
                let ring = Ring::connect(listener, membership, &patient(), AbortHandle::new());
                reduce(&mut ring.expect("the handshake says nothing of it")).expect_err("no sum");
            });
        }
    });
}

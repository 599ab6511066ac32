//! An in-memory store that injects faults: lost requests and replies, flipped bits, stale listings.

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result,
};
use std::fmt;
use std::sync::{Arc, Mutex};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Put,
    Get,
    List,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    None,
    /// The request is lost.
    Lost,
    /// A put happens, and its reply is lost.
    Unanswered,
    /// A put happens, but the reply is that the object exists, as for the client's own retry.
    Denied,
    /// One bit of the object flips while it is read.
    Flipped,
    /// The listing lacks the entries at these positions.
    Stale(&'static [usize]),
}

type Faults = Box<dyn FnMut(Operation) -> Fault + Send>;

pub(super) struct Faulty {
    inner: Arc<InMemory>,
    faults: Mutex<Faults>,
}

impl Faulty {
    pub(super) fn new(faults: impl FnMut(Operation) -> Fault + Send + 'static) -> Self {
        Self { inner: Arc::default(), faults: Mutex::new(Box::new(faults)) }
    }

    pub(super) fn unbroken(&self) -> Arc<InMemory> {
        self.inner.clone()
    }

    fn fault(&self, operation: Operation) -> Fault {
        (self.faults.lock().unwrap())(operation)
    }
}

/// Random numbers below a bound. Splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators").
pub(super) fn random(seed: u64) -> impl FnMut(u64) -> u64 + Send + 'static {
    let mut state = seed.wrapping_mul(0x5851_f42d_4c95_7f2d);
    move |bound| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Injects every kind of fault, with a frequency that depends on the seed.
pub(super) fn some_of_all(seed: u64) -> impl FnMut(Operation) -> Fault + Send + 'static {
    let mut random = random(!seed);
    let one_in = random(7) + 2;
    move |operation| {
        if random(one_in) > 0 {
            return Fault::None;
        }
        match (operation, random(3)) {
            (_, 0) => Fault::Lost,
            (Operation::Put, 1) => Fault::Unanswered,
            (Operation::Put, _) => Fault::Denied,
            (Operation::Get, _) => Fault::Flipped,
            (Operation::List, 1) => Fault::Stale(&[1, 4, 9]),
            (Operation::List, _) => Fault::Stale(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        }
    }
}

fn lost() -> Error {
    Error::Generic { store: "faulty", source: "chance".into() }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, at: &Path, body: PutPayload, how: PutOptions) -> Result<PutResult> {
        let fault = self.fault(Operation::Put);
        if matches!(fault, Fault::Lost) {
            return Err(lost());
        }
        let put = self.inner.put_opts(at, body, how).await;
        match fault {
            Fault::Unanswered => Err(lost()),
            Fault::Denied => {
                Err(Error::AlreadyExists { path: at.to_string(), source: "chance".into() })
            }
            Fault::None | Fault::Lost | Fault::Flipped | Fault::Stale(_) => put,
        }
    }

    async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
        let fault = self.fault(Operation::Get);
        if matches!(fault, Fault::Lost) {
            return Err(lost());
        }
        let mut got = self.inner.get_opts(at, how).await?;
        if matches!(fault, Fault::Flipped) {
            let mut body = self.inner.get(at).await?.bytes().await?.to_vec();
            let middle = body.len() / 2;
            body[middle] ^= 1;
            let body = futures::stream::iter([Ok(body.into())]);
            got.payload = GetResultPayload::Stream(body.boxed());
        }
        Ok(got)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let hidden = match self.fault(Operation::List) {
            Fault::Lost => return futures::stream::iter([Err(lost())]).boxed(),
            Fault::Stale(hidden) => hidden,
            Fault::None | Fault::Unanswered | Fault::Denied | Fault::Flipped => &[],
        };
        let numbered = self.inner.list(prefix).enumerate();
        let shown = numbered.filter(|(n, _)| futures::future::ready(!hidden.contains(n)));
        shown.map(|(_, object)| object).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, how).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, how).await
    }
}

//! A real S3 server behind a proxy that injects faults. Every operation on storage ends with the right result or an
//! error, and what was acknowledged is stored.
//!
//! For every seed, a random sequence of operations is compared with a model that has the possible contents of each
//! key. Needs SeaweedFS (MUSTER_TEST_WEED). MUSTER_SEEDS sets the number of seeds.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future, stream};
use muster_tests::ignored::run_ignored;
use muster_tests::proxy::{Fault, Faults, Injected, Proxy, Random};
use muster_tests::seaweed::{BUCKET, SeaweedFs};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use storage::{Created, Error, Patience, Storage};

const SEEDS: u64 = 300;
/// Operations per seed.
const OPERATIONS: usize = 12;
/// Keys per seed.
const KEYS: usize = 3;
/// Probability of each fault for a request.
const RATE: f64 = 0.02;
/// Probability of faults that apply to few requests.
const RARE: f64 = 0.05;
/// Seeds that run at the same time. Most of the time they wait for an answer that does not come.
const AT_ONCE: usize = 24;
/// Every seed that is a multiple of this writes objects of more than one part.
const LARGE: u64 = 12;
/// Size of an object of more than one part.
const LARGE_BYTES: usize = 9 << 20;
/// Short, so that a silence ends soon.
const PATIENCE: Duration = Duration::from_secs(3);

#[test]
fn no_fault_loses_or_changes_what_was_acknowledged() -> Result<()> {
    let name = "no_fault_loses_or_changes_what_was_acknowledged";
    let Some(server) = SeaweedFs::start(name) else { return Ok(()) };
    let mut environment = Proxy::before(server.address());
    run_ignored("under_faults", &environment)?;
    run_ignored("truncated_listings", &environment)?;
    // Requests are unsigned, so that the proxy may remove headers.
    environment.push(("AWS_SKIP_SIGNATURE", "true".into()));
    run_ignored("a_store_without_checksums", &environment)
}

#[tokio::test]
#[ignore = "run by `no_fault_loses_or_changes_what_was_acknowledged` in the server's environment"]
async fn a_store_without_checksums() -> Result<()> {
    let proxy = Proxy::here();
    let storage = Storage::open(&format!("s3://{BUCKET}/unverified"))?;
    let storage = storage.patient(Patience::Within(PATIENCE))?;
    let faults = Faults::all(1, 0.0).with(Fault::FlipRequest, 0.4);
    proxy.inject(faults.ignoring("x-amz-checksum-sha256"));
    let mut acknowledged = Vec::new();
    for key in (0..40).map(|key| key.to_string()) {
        let body = format!("document {key}");
        match storage.create(&key, body.clone()).await {
            Ok(created) => {
                ensure!(created == Created::Ours);
                acknowledged.push((key, body));
            }
            Err(error) => ensure!(matches!(error, Error::Damaged { .. }), "{error}"),
        }
    }
    ensure!(proxy.injected().len() > 10 && acknowledged.len() > 30, "{acknowledged:?}");
    proxy.inject(Faults::none());
    for (key, body) in acknowledged {
        ensure!(storage.read(&key).await? == body);
    }
    Ok(())
}

#[tokio::test]
#[ignore = "run by `no_fault_loses_or_changes_what_was_acknowledged` in the server's environment"]
async fn truncated_listings() -> Result<()> {
    let proxy = Proxy::here();
    let storage = Storage::open(&format!("s3://{BUCKET}/garbled"))?;
    let mut keys: Vec<_> = (0..20).map(|i| format!("some/{}/key", (b'a' + i) as char)).collect();
    for key in &keys {
        storage.put(key, "there").await?;
    }
    keys.sort();
    // Only the end of the answer is missing.
    proxy.inject(Faults::none().first(Fault::CutBody, "GET", "?"));
    let listed: Vec<_> = storage.list("some").await?.into_iter().map(|o| o.key).collect();
    ensure!(listed == keys, "{listed:?}");
    let folders: Vec<_> = storage.folders("some").await?;
    ensure!(folders.len() == keys.len(), "{folders:?}");
    ensure!(storage.unfinished("some").await? == Some(Vec::new()));
    let injected = proxy.injected();
    ensure!(injected.len() == 3 && proxy.requests() == 6, "{injected:?}");
    Ok(())
}

#[tokio::test]
#[ignore = "run by `no_fault_loses_or_changes_what_was_acknowledged` in the server's environment"]
async fn under_faults() -> Result<()> {
    let proxy = Proxy::here();
    let storage = Storage::open(&format!("s3://{BUCKET}"))?.patient(Patience::Within(PATIENCE))?;
    let seeds = std::env::var("MUSTER_SEEDS").map_or(Ok(SEEDS), |n| n.parse())?;

    let rare = [Fault::Conflict, Fault::LostWin, Fault::StaleListing, Fault::FlipRequest];
    proxy.inject(rare.into_iter().fold(Faults::all(1, RATE), |f, fault| f.with(fault, RARE)));
    let run = |seed| {
        let (storage, proxy) = (&storage, &proxy);
        async move { Model::new(storage, seed).run(proxy).await.context(format!("seed {seed}")) }
    };
    let models: Vec<_> =
        stream::iter(0..seeds).map(run).buffer_unordered(AT_ONCE).try_collect().await?;
    let injected = proxy.injected();
    let (settled, unsettled) =
        models.iter().fold((0, 0), |(a, b), m| (a + m.settled, b + m.unsettled));
    println!(
        "{seeds} seeds: {} requests, {} faults; {settled} operations settled, {unsettled} in an error",
        proxy.requests(),
        injected.len()
    );
    for fault in Fault::ALL {
        ensure!(injected.iter().any(|b| b.fault == fault), "{fault:?} was never injected");
    }
    // Most faults are overcome: only silences last longer than this patience.
    ensure!(unsettled * 5 < settled, "{unsettled} of {settled}");

    proxy.inject(Faults::none());
    for model in models {
        model.holds_in_the_end().await.context(format!("seed {}", model.seed))?;
    }
    for upload in storage.unfinished("").await?.expect("this store lists uploads") {
        storage.abandon(&upload).await?;
    }
    ensure!(storage.unfinished("").await? == Some(Vec::new()));
    Ok(())
}

/// The possible contents of a key.
type Holds = BTreeSet<Option<Bytes>>;

struct Model<'a> {
    storage: &'a Storage,
    seed: u64,
    random: Random,
    keys: BTreeMap<String, Holds>,
    /// Keys that may have existed at some time.
    ever: BTreeSet<String>,
    bodies: u64,
    settled: u32,
    unsettled: u32,
}

impl<'a> Model<'a> {
    fn new(storage: &'a Storage, seed: u64) -> Self {
        let keys = (0..KEYS).map(|k| (format!("{seed}/{k}"), Holds::from([None])));
        let (random, ever) = (Random::new(seed), BTreeSet::new());
        Self {
            storage,
            seed,
            random,
            keys: keys.collect(),
            ever,
            bodies: 0,
            settled: 0,
            unsettled: 0,
        }
    }

    async fn run(mut self, proxy: &Proxy) -> Result<Self> {
        for _ in 0..OPERATIONS {
            let key = format!("{}/{}", self.seed, self.random.below(KEYS));
            match self.random.below(9) {
                0 | 1 => self.create(&key, 1).await,
                2 => self.create(&key, 3).await,
                3 => self.put(&key).await,
                4 | 5 => self.read(&key, proxy).await,
                6 => self.read_range(&key).await,
                7 => self.list(proxy).await,
                _ => self.delete(&key).await,
            }?;
        }
        Ok(self)
    }

    /// A body unlike any other.
    fn body(&mut self) -> Bytes {
        self.bodies += 1;
        let filler = "x".repeat(self.random.below(3000));
        format!("{} of seed {} {filler}", self.bodies, self.seed).into()
    }

    /// Counts an operation, and returns its result unless it failed.
    fn settle<T>(&mut self, result: Result<T, Error>) -> Option<T> {
        match result {
            Ok(result) => {
                self.settled += 1;
                Some(result)
            }
            Err(_) => {
                self.unsettled += 1;
                None
            }
        }
    }

    fn holds(&mut self, key: &str) -> &mut Holds {
        self.keys.get_mut(key).expect("the keys are fixed")
    }

    /// Checks that what was found is possible, and records it as the only possibility.
    fn known(&mut self, key: &str, held: Option<Bytes>) -> Result<()> {
        let holds = self.holds(key);
        ensure!(holds.contains(&held), "{}", unlike(key, &held, holds));
        *holds = Holds::from([held]);
        Ok(())
    }

    /// Creates a key with several writers at the same time.
    async fn create(&mut self, key: &str, writers: usize) -> Result<()> {
        let bodies: Vec<_> = (0..writers).map(|_| self.body()).collect();
        self.ever.insert(key.to_owned());
        let storage = self.storage;
        let creates = bodies.iter().map(|body| storage.create(key, body.clone()));
        let created = future::join_all(creates).await;
        let before = self.holds(key).clone();
        if before.contains(&None) {
            self.holds(key).extend(bodies.iter().cloned().map(Some));
        }
        let ours = created.iter().filter(|c| matches!(c, Ok(Created::Ours))).count();
        ensure!(ours <= 1, "{key} has {ours} winners");
        ensure!(ours == 0 || before.contains(&None), "{key} was there");
        let all_settled = created.iter().all(Result::is_ok);
        ensure!(!all_settled || ours == 1 || before != Holds::from([None]), "{key} has no winner");
        for (created, body) in created.into_iter().zip(bodies) {
            match self.settle(created) {
                Some(Created::Ours) => self.known(key, Some(body))?,
                Some(Created::Theirs(found)) => self.known(key, Some(found))?,
                None => {}
            }
        }
        Ok(())
    }

    async fn put(&mut self, key: &str) -> Result<()> {
        let mut body = self.body();
        self.ever.insert(key.to_owned());
        let put = if self.seed.is_multiple_of(LARGE) {
            let mut large = body.to_vec();
            large.resize(LARGE_BYTES, b'y');
            body = large.into();
            let pieces: Vec<_> =
                body.chunks(1 << 20).map(|c| Ok::<_, Error>(body.slice_ref(c))).collect();
            self.storage.put_stream(key, body.len() as u64, stream::iter(pieces)).await.map(drop)
        } else {
            self.storage.put(key, body.clone()).await
        };
        match self.settle(put) {
            Some(()) => *self.holds(key) = Holds::from([Some(body)]),
            None => drop(self.holds(key).insert(Some(body))),
        }
        Ok(())
    }

    async fn delete(&mut self, key: &str) -> Result<()> {
        let deleted = self.storage.delete(key).await;
        match self.settle(deleted) {
            Some(()) => *self.holds(key) = Holds::from([None]),
            None => drop(self.holds(key).insert(None)),
        }
        Ok(())
    }

    async fn read(&mut self, key: &str, proxy: &Proxy) -> Result<()> {
        let read = match self.storage.read(key).await {
            Err(Error::NotFound { .. }) => Ok(None),
            read => read.map(Some),
        };
        let Some(held) = self.settle(read) else { return Ok(()) };
        let large = held.as_ref().is_some_and(|body| body.len() >= LARGE_BYTES);
        if large
            && !self.holds(key).contains(&held)
            && proxy.injected().iter().any(|b| flips(b, key))
        {
            // An object that was written in parts has no checksum here; its writers keep a digest of it.
            return Ok(());
        }
        self.known(key, held)
    }

    /// Reads a range. It has no checksum either, so only its length is checked.
    async fn read_range(&mut self, key: &str) -> Result<()> {
        let read = self.storage.read_range(key, 2..9, None).await;
        if let Some(part) = self.settle(read) {
            ensure!(part.len() == 7 && self.holds(key) != &Holds::from([None]), "{key}: {part:?}");
        }
        Ok(())
    }

    async fn list(&mut self, proxy: &Proxy) -> Result<()> {
        let listed = self.storage.list(&self.seed.to_string()).await;
        let Some(listed) = self.settle(listed) else { return Ok(()) };
        let words = format!("prefix={}%2F", self.seed);
        let mut injected = proxy.injected().into_iter();
        if injected.any(|b| b.fault == Fault::StaleListing && b.target.contains(&words)) {
            ensure!(listed.iter().all(|o| self.ever.contains(&o.key)), "{listed:?}");
            return Ok(());
        }
        for (key, holds) in &self.keys {
            let found = listed.iter().find(|o| o.key == *key).map(|o| o.bytes);
            let possible = |held: &Option<Bytes>| held.as_ref().map(|b| b.len() as u64) == found;
            ensure!(
                holds.iter().any(possible),
                "{key} is listed with {found:?} bytes, not {holds:?}"
            );
        }
        Ok(())
    }

    /// Checks the contents of all keys without faults.
    async fn holds_in_the_end(&self) -> Result<()> {
        let mut there = Vec::new();
        for (key, holds) in &self.keys {
            let held = match self.storage.read(key).await {
                Err(Error::NotFound { .. }) => None,
                read => Some(read?),
            };
            ensure!(holds.contains(&held), "{}", unlike(key, &held, holds));
            there.extend(held.map(|_| key.clone()));
        }
        let listed = self.storage.list(&self.seed.to_string()).await?;
        let listed: Vec<_> = listed.into_iter().map(|o| o.key).collect();
        ensure!(listed == there, "{listed:?} and {there:?}");
        Ok(())
    }
}

fn flips(injected: &Injected, key: &str) -> bool {
    injected.fault == Fault::FlipAnswer && injected.target == format!("/{BUCKET}/{key}?")
}

/// A message with the beginnings of what was found and of what is possible.
fn unlike(key: &str, held: &Option<Bytes>, holds: &Holds) -> String {
    let short = |held: &Option<Bytes>| match held {
        Some(body) => format!("`{}...`", String::from_utf8_lossy(&body[..body.len().min(20)])),
        None => "nothing".into(),
    };
    let may: Vec<_> = holds.iter().map(short).collect();
    format!("{key} is {}, not one of {}", short(held), may.join(", "))
}

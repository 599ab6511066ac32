//! Checks of everything that Muster relies on, each tried once against a storage.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future, stream};
use proto::error::chain;
use proto::id;
use serde::Serialize;
use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use storage::{Created, Error, Storage};
use xxhash_rust::xxh3::xxh3_64;

/// Number of writers that race for one key.
const RACERS: usize = 16;
/// Number of small documents that are timed.
const SMALL: usize = 20;
/// The size of a large object, and of its pieces.
const LARGE: u64 = 64 << 20;
const PIECE: usize = 4 << 20;
/// Maximum difference of the clocks. Stores refuse signatures from a clock that is wrong by 15 minutes.
const SKEW: Duration = Duration::from_secs(300);

/// The outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Ok,
    No,
    /// The check is not possible here.
    Unknown,
}

/// The result of one check.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) verdict: Verdict,
    /// Whether Muster needs this.
    pub(super) needed: bool,
    /// What was observed.
    pub(super) seen: String,
    /// What a failed check means for Muster, and a hint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) otherwise: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::No => "no",
            Verdict::Unknown => "unknown",
        };
        write!(f, "{verdict:7}  {:18}  {}", self.check, self.seen)?;
        for line in self.otherwise.iter().flat_map(|o| o.lines()) {
            write!(f, "\n{:29}{line}", "")?;
        }
        Ok(())
    }
}

/// An observation: what the check found, as text.
enum Seen {
    Passed(String),
    Failed(String),
    Unclear(String),
}

type Tried = Result<Seen, Error>;

/// Runs all checks, passes each finding to `report` at once, and deletes everything that it wrote.
pub(super) async fn examine(storage: &Storage, mut report: impl FnMut(&Finding)) -> Vec<Finding> {
    let scratch = Scratch { storage, folder: format!("doctor-{}", &id::unique()[..12]) };
    let mut findings = Vec::new();
    let mut note = |check, needed, otherwise: &str, tried: Tried| {
        let (verdict, seen) = match tried {
            Ok(Seen::Passed(seen)) => (Verdict::Ok, seen),
            Ok(Seen::Failed(seen)) => (Verdict::No, seen),
            Ok(Seen::Unclear(seen)) => (Verdict::Unknown, seen),
            Err(error) => (Verdict::No, chain(&error)),
        };
        let otherwise = (verdict != Verdict::Ok).then(|| otherwise.to_owned());
        let finding = Finding { check, verdict, needed, seen, otherwise };
        report(&finding);
        findings.push(finding);
    };
    note("write and read", true, WRITE, scratch.round_trip().await);
    note("create-if-absent", true, CREATE, scratch.create_if_absent().await);
    note("race of creators", true, CREATE, scratch.race().await);
    note("listing", true, LISTING, scratch.listing().await);
    note("ranged reads", true, RANGES, scratch.ranges().await);
    note("pinned reads", true, PINS, scratch.pins().await);
    note("large objects", true, PARTS, scratch.large().await);
    note("given-up uploads", false, GIVEN_UP, scratch.given_up().await);
    note("clock", false, CLOCK, scratch.clock().await);
    note("latency", false, SPEED, scratch.latency().await);
    note("throughput", false, SPEED, scratch.throughput().await);
    note("removal", true, REMOVAL, scratch.removal().await);
    findings
}

const WRITE: &str = "nothing can be stored here\nhint: check the permissions of these credentials";
const CREATE: &str = "two coordinators could both believe that a run is theirs, and undo each other's work\n\
    hint: use a store that honours `If-None-Match: *` on writes, as S3, SeaweedFS, MinIO, R2, Google's and Azure do";
const LISTING: &str = "a restarted coordinator could miss checkpoints and metrics that were just stored\n\
    hint: use a store whose listings show writes and deletions at once; switch off any cache in front of it";
const RANGES: &str = "data sets and checkpoints are read in ranges\n\
    hint: switch off any proxy or cache that answers instead of the store";
const PINS: &str = "a data set that is replaced during a run could go unnoticed\n\
    hint: use a store that returns ETags";
const PARTS: &str =
    "checkpoints are written in parts\nhint: allow multipart uploads in the bucket's policy";
const GIVEN_UP: &str = "parts of interrupted uploads may stay, and cost as much as objects do\n\
    hint: give the bucket a lifecycle rule that aborts incomplete multipart uploads; Azure drops them after a week";
const CLOCK: &str = "stores refuse signatures if clocks differ by 15 minutes, and ages of objects are wrong\n\
    hint: synchronize this machine's clock with NTP";
const SPEED: &str = "hint: run the check again, or closer to the store";
const REMOVAL: &str =
    "old checkpoints would never be deleted\nhint: allow deletions in the bucket's policy";

struct Scratch<'a> {
    storage: &'a Storage,
    folder: String,
}

impl Scratch<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }

    async fn round_trip(&self) -> Tried {
        let key = self.key("document");
        for body in ["first", "second"] {
            self.storage.put(&key, body).await?;
            let found = self.storage.read(&key).await?;
            if found != body {
                let found = String::from_utf8_lossy(&found);
                return Ok(Seen::Failed(format!("`{body}` was written, but `{found}` was read")));
            }
        }
        Ok(Seen::Passed("written, overwritten, and read back at once".into()))
    }

    async fn create_if_absent(&self) -> Tried {
        let key = self.key("created");
        let created =
            [self.storage.create(&key, "first").await?, self.storage.create(&key, "second").await?];
        Ok(match created {
            [Created::Ours, Created::Theirs(found)] if found == "first" => {
                Seen::Passed("the second of two writers is refused".into())
            }
            [Created::Ours, Created::Ours] => {
                Seen::Failed("the second of two writers overwrites what the first wrote".into())
            }
            other => Seen::Failed(format!("two writers got {other:?}")),
        })
    }

    async fn race(&self) -> Tried {
        let key = self.key("raced-for");
        let creates = (0..RACERS).map(|racer| self.storage.create(&key, racer.to_string()));
        let created = future::try_join_all(creates).await?;
        let winners = created.iter().filter(|c| **c == Created::Ours).count();
        let won = created.iter().position(|c| *c == Created::Ours).unwrap_or(RACERS).to_string();
        let agrees = |c: &Created| *c == Created::Ours || *c == Created::Theirs(won.clone().into());
        if winners == 1 && created.iter().all(agrees) && self.storage.read(&key).await? == won {
            return Ok(Seen::Passed(format!(
                "of {RACERS} concurrent writers one wins, and all agree"
            )));
        }
        Ok(Seen::Failed(format!(
            "of {RACERS} concurrent writers {winners} won, or they do not agree on the winner"
        )))
    }

    async fn listing(&self) -> Tried {
        let key = self.key("listed/one");
        let is_listed = async || -> Result<bool, Error> {
            let found = self.storage.list(&self.key("listed")).await?;
            Ok(found.iter().any(|o| o.key == key && o.bytes == 5))
        };
        self.storage.put(&key, "there").await?;
        if !is_listed().await? {
            return Ok(Seen::Failed("a written object is not listed".into()));
        }
        self.storage.delete(&key).await?;
        if is_listed().await? {
            return Ok(Seen::Failed("a deleted object is still listed".into()));
        }
        Ok(Seen::Passed("shows writes and deletions at once".into()))
    }

    async fn ranges(&self) -> Tried {
        let key = self.key("ranged");
        self.storage.put(&key, "0123456789").await?;
        for (range, wanted) in [(2..5, "234"), (0..1, "0"), (8..90, "89")] {
            let found = self.storage.read_range(&key, range.clone(), None).await?;
            if found != wanted {
                let found = String::from_utf8_lossy(&found);
                return Ok(Seen::Failed(format!("bytes {range:?} of ten digits are `{found}`")));
            }
        }
        Ok(Seen::Passed("any range of an object".into()))
    }

    async fn pins(&self) -> Tried {
        let key = self.key("pinned");
        self.storage.put(&key, "0123456789").await?;
        let Some(etag) = self.storage.head(&key).await?.and_then(|o| o.etag) else {
            return Ok(Seen::Failed("this store returns no ETag".into()));
        };
        self.storage.read_range(&key, 0..4, Some(&etag)).await?;
        self.storage.put(&key, "9876543210").await?;
        Ok(match self.storage.read_range(&key, 0..4, Some(&etag)).await {
            Err(Error::Changed { .. }) => Seen::Passed("a replaced object is noticed".into()),
            Err(error) => return Err(error),
            Ok(_) => Seen::Failed("a replaced object has the same ETag".into()),
        })
    }

    async fn large(&self) -> Tried {
        let (key, pieces) = (self.key("large"), pieces(5));
        let bytes = pieces.iter().map(|p| p.len() as u64).sum();
        let stream = stream::iter(pieces.iter().cloned().map(Ok::<_, Error>));
        self.storage.put_stream(&key, bytes, stream).await?;
        if self.storage.read(&key).await? != pieces.concat() {
            return Ok(Seen::Failed("the bytes that were read differ from those written".into()));
        }
        Ok(Seen::Passed(format!("{} MiB written in parts", bytes >> 20)))
    }

    async fn given_up(&self) -> Tried {
        let key = self.key("given-up");
        let broken = Error::NotFound { url: self.storage.url().into(), key: key.clone() };
        let stream = stream::iter(pieces(3).into_iter().map(Ok).chain([Err(broken)]));
        if self.storage.put_stream::<Error>(&key, LARGE, stream).await.is_ok() {
            return Ok(Seen::Failed("half an object was accepted as a whole one".into()));
        }
        if self.storage.head(&key).await?.is_some() {
            return Ok(Seen::Failed("half an upload became an object".into()));
        }
        let all = match self.storage.unfinished("").await {
            Ok(Some(all)) => all,
            Ok(None) => return Ok(Seen::Unclear("this store does not list uploads".into())),
            Err(error) => return Ok(Seen::Unclear(chain(&error))),
        };
        if all.iter().any(|u| u.key == key) {
            return Ok(Seen::Failed("an upload that was given up still exists".into()));
        }
        let old = all.iter().map(|u| u.age).max().unwrap_or_default().as_secs() / 3600;
        Ok(Seen::Passed(match all.len() {
            0 => "no unfinished upload is left".into(),
            n => format!(
                "none of ours is left; {n} other uploads here are unfinished, the oldest for {old} h"
            ),
        }))
    }

    async fn clock(&self) -> Tried {
        let key = self.key("clock");
        self.storage.put(&key, "now").await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let Some(object) = self.storage.head(&key).await? else {
            return Ok(Seen::Failed("a written object is missing".into()));
        };
        let skew = now.abs_diff(Duration::from_millis(object.modified_ms));
        let seen = format!("the store's clock and ours differ by at most {} s", skew.as_secs() + 1);
        Ok(if skew < SKEW { Seen::Passed(seen) } else { Seen::Failed(seen) })
    }

    async fn latency(&self) -> Tried {
        let (mut writes, mut reads) = (Vec::new(), Vec::new());
        for i in 0..SMALL {
            let key = self.key(&format!("small/{i}"));
            let began = Instant::now();
            self.storage.create(&key, vec![b'x'; 1024]).await?;
            writes.push(began.elapsed());
            let began = Instant::now();
            self.storage.read(&key).await?;
            reads.push(began.elapsed());
        }
        let (writes, reads) = (quantiles(writes), quantiles(reads));
        Ok(Seen::Passed(format!("a small write takes {writes}, a small read {reads}")))
    }

    async fn throughput(&self) -> Tried {
        let key = self.key("throughput");
        let pieces = pieces(LARGE as usize / PIECE);
        let began = Instant::now();
        let stream = stream::iter(pieces.into_iter().map(Ok::<_, Error>));
        let etag = self.storage.put_stream(&key, LARGE, stream).await?;
        let up = began.elapsed();
        let began = Instant::now();
        let read = self.storage.pieces(&key, LARGE, etag.as_deref());
        read.try_for_each(|_| future::ready(Ok(()))).await?;
        let down = began.elapsed();
        let rate = |took: Duration| LARGE as f64 / 1e6 / took.as_secs_f64();
        let (mib, up, down) = (LARGE >> 20, rate(up), rate(down));
        Ok(Seen::Passed(format!(
            "{mib} MiB at {up:.0} MB/s up, {down:.0} MB/s down, four parts at once"
        )))
    }

    async fn removal(&self) -> Tried {
        let all = self.storage.list(&self.folder).await?;
        let deletes = all.iter().map(|o| self.storage.delete(&o.key));
        stream::iter(deletes).buffer_unordered(RACERS).try_collect::<()>().await?;
        let left = self.storage.list(&self.folder).await?.len();
        if left > 0 {
            return Ok(Seen::Failed(format!("{left} of {} objects are still listed", all.len())));
        }
        if let Some(folder) = self.storage.local_path(&self.folder) {
            // Other stores have no empty folders, but a file system does.
            let _ = std::fs::remove_dir_all(folder);
        }
        Ok(Seen::Passed("everything that was written here is deleted".into()))
    }
}

/// A number of pieces of incompressible bytes.
fn pieces(count: usize) -> Vec<Bytes> {
    let words = (0..PIECE as u64 / 8).flat_map(|i| xxh3_64(&i.to_le_bytes()).to_le_bytes());
    vec![words.collect::<Vec<_>>().into(); count]
}

fn quantiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let millis = |share: f64| times[(times.len() as f64 * share) as usize].as_secs_f64() * 1e3;
    format!("{:.1} ms ({:.1} ms at the 95th percentile)", millis(0.5), millis(0.95))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn examined(storage: &Storage) -> Vec<Finding> {
        let findings = examine(storage, |_| ()).await;
        assert_eq!(findings.len(), 12);
        assert_eq!(storage.list("").await.unwrap(), [], "it cleans up");
        findings
    }

    #[tokio::test]
    async fn memory_and_a_folder_pass_all_checks() {
        let folder = tempfile::tempdir().unwrap();
        let local = Storage::open(folder.path().to_str().unwrap()).unwrap();
        for storage in [Storage::memory(), local] {
            let findings = examined(&storage).await;
            assert!(findings.iter().all(|f| f.verdict == Verdict::Ok), "{findings:#?}");
        }
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_failed_check_is_shown_with_its_meaning_and_a_hint() {
        let finding = Finding {
            check: "listing",
            verdict: Verdict::No,
            needed: true,
            seen: "a written object is not listed".into(),
            otherwise: Some(LISTING.to_owned()),
        };
        let text = finding.to_string();
        let lines: Vec<_> = text.lines().map(str::trim_start).collect();
        assert_eq!(lines[0], "no       listing             a written object is not listed");
        assert!(lines[1].starts_with("a restarted coordinator") && lines[2].starts_with("hint: "));
    }
}

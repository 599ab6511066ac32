//! The log of the first pod, across broken connections and replacements, each line once.

use super::{Output, Seen};
use crate::CONTAINER;
use crate::cluster::Cluster;
use crate::describe;
use crate::error::Error;
use futures::channel::mpsc::UnboundedReceiver;
use futures::future::{Either, select};
use futures::io::AsyncBufRead;
use futures::{AsyncBufReadExt, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::LogParams;
use std::collections::BTreeMap;
use std::io;
use std::pin::{Pin, pin};
use tokio::time::{sleep, timeout};

/// The longest line; the rest of a longer one is left out.
const LINE_BYTES: usize = 1 << 20;
/// How often the log of a container that has ended is asked for. It may be gone, or its node may
/// be.
const LAST_TRIES: u32 = 5;

/// A pod whose log is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) pod: String,
    pub(super) uid: String,
}

impl Source {
    pub(super) fn of(pod: &Pod) -> Option<Self> {
        Some(Self { pod: pod.metadata.name.clone()?, uid: pod.metadata.uid.clone()? })
    }
}

/// Follows the logs of pods, one after the other.
///
/// The log of a pod that has been replaced gets only a short time to end: its node may be lost, so
/// that it never would.
pub(super) async fn follow(
    cluster: Cluster,
    mut sources: UnboundedReceiver<Source>,
    output: Output,
) {
    let mut next = sources.next().await;
    while let Some(source) = next {
        let log = pin!(follow_pod(&cluster, &source, output.clone()));
        next = match select(log, sources.next()).await {
            Either::Left(((), wait)) => wait.await,
            Either::Right((next, log)) => {
                let _ = timeout(cluster.patience.drain, log).await;
                next
            }
        };
    }
}

/// How one stream of a log ended.
enum Ending {
    /// The API server ended it.
    Complete,
    /// It broke, or was silent for too long.
    Broken,
}

/// Follows the log of a pod until its container has ended and everything has been read, or the pod
/// is gone.
async fn follow_pod(cluster: &Cluster, source: &Source, mut output: Output) {
    let mut position = Position::default();
    let mut failures = 0;
    loop {
        let Some(has_ended) = container_has_ended(cluster, source).await else { return };
        match read(cluster, source, &mut position, &mut output).await {
            // A stream may also be ended by a restart of the API server. Only one that was opened
            // after the container's end is sure to be complete.
            Ok(Ending::Complete) if has_ended => return,
            Ok(Ending::Complete | Ending::Broken) => failures = 0,
            Err(error) => {
                let call = cluster.call::<Pod>("get", Some(&source.pod));
                if let Some(error @ (Error::Forbidden { .. } | Error::Unauthorized { .. })) =
                    call.fatal(&error)
                {
                    let note = format!("the log of pod `{}` cannot be read: {error}", source.pod);
                    return output.say(Ok(Seen::Note(note))).await;
                }
                failures += 1;
                if has_ended && failures >= LAST_TRIES {
                    return;
                }
            }
        }
        sleep(cluster.patience.pause(failures)).await;
    }
}

/// Whether the container has ended; `None` if the pod is gone. As long as nobody answers, it has
/// not.
async fn container_has_ended(cluster: &Cluster, source: &Source) -> Option<bool> {
    let pods = cluster.api::<Pod>();
    match timeout(cluster.patience.request, pods.get_opt(&source.pod)).await {
        Ok(Ok(None)) => None,
        Ok(Ok(Some(pod))) if pod.metadata.uid.as_ref() != Some(&source.uid) => None,
        Ok(Ok(Some(pod))) => Some(describe::is_over(&pod)),
        Ok(Err(_)) | Err(_) => Some(false),
    }
}

/// Reads the log from a position on.
async fn read(
    cluster: &Cluster,
    source: &Source,
    position: &mut Position,
    output: &mut Output,
) -> Result<Ending, kube::Error> {
    let parameters = LogParams {
        container: Some(CONTAINER.to_owned()),
        follow: true,
        timestamps: true,
        since_time: position.since(),
        ..LogParams::default()
    };
    let pods = cluster.api::<Pod>();
    let mut log = pin!(pods.log_stream(&source.pod, &parameters).await?);
    position.rewind();
    loop {
        let mut line = Vec::new();
        match timeout(cluster.patience.silence, read_line(log.as_mut(), &mut line)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return Ok(Ending::Complete),
            Ok(Err(_)) | Err(_) => return Ok(Ending::Broken),
        }
        let text = String::from_utf8_lossy(&line);
        if let Some(text) = position.advance(&text) {
            let (pod, line) = (source.pod.clone(), text.to_owned());
            output.say(Ok(Seen::Log { pod, line })).await;
        }
    }
}

/// Reads a line without its end; `false` at the end of the log.
async fn read_line<R: AsyncBufRead>(mut log: Pin<&mut R>, line: &mut Vec<u8>) -> io::Result<bool> {
    let mut is_empty = true;
    loop {
        let available = log.fill_buf().await?;
        if available.is_empty() {
            return Ok(!is_empty);
        }
        is_empty = false;
        let end = available.iter().position(|byte| *byte == b'\n');
        let part = &available[..end.unwrap_or(available.len())];
        let room = LINE_BYTES.saturating_sub(line.len());
        line.extend_from_slice(&part[..part.len().min(room)]);
        let used = part.len() + usize::from(end.is_some());
        log.as_mut().consume(used);
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// How far a log has been read.
///
/// Times say which lines were read, but not in which order they follow: several lines may have the
/// same time, and those of standard output and standard error are not always in the order of their
/// times.
#[derive(Debug, Default)]
struct Position {
    /// How many lines were read, by time, from the beginning of the latest second on.
    read: BTreeMap<Timestamp, usize>,
    /// Where the present stream begins, unless it begins with the log.
    since: Option<Timestamp>,
    /// Lines that the present stream is still to repeat.
    repeats: BTreeMap<Timestamp, usize>,
}

impl Position {
    /// Where a stream has to begin that misses nothing. `kube` would round up to the next whole
    /// second.
    fn since(&self) -> Option<Timestamp> {
        self.read.last_key_value().and_then(|(last, _)| second(*last))
    }

    /// A stream begins that repeats lines from there on.
    fn rewind(&mut self) {
        self.since = self.since();
        self.repeats = self.read.clone();
    }

    /// The text of a line that begins with its time, unless it was read before.
    fn advance<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        let (time, text) = line.split_once(' ').unwrap_or((line, ""));
        // The kubelet stamps only the first part of a very long line.
        let Ok(time) = time.parse::<Timestamp>() else { return Some(line) };
        if self.since.is_some_and(|since| time < since) {
            return None;
        }
        if let Some(count) = self.repeats.get_mut(&time).filter(|count| **count > 0) {
            *count -= 1;
            return None;
        }
        *self.read.entry(time).or_default() += 1;
        if let Some(since) = self.since() {
            self.read = self.read.split_off(&since);
        }
        Some(text)
    }
}

fn second(time: Timestamp) -> Option<Timestamp> {
    Timestamp::from_second(time.as_second()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_once_whatever_their_times_are() {
        let log = [
            "2026-01-01T00:00:01.000000001Z a",
            "2026-01-01T00:00:01.7Z b",
            "2026-01-01T00:00:01.7Z c",
            "2026-01-01T00:00:01.7Z d",
            "2026-01-01T00:00:01.6Z out of order",
            "2026-01-01T00:00:02Z ",
        ];
        let mut position = Position::default();
        let mut read = |lines: &[&str]| {
            position.rewind();
            let texts = lines.iter().filter_map(|line| position.advance(line));
            texts.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(read(&log[..3]), ["a", "b", "c"]);
        assert_eq!(read(&log[..5]), ["d", "out of order"]);
        assert_eq!(read(&log[2..]), [""]);
        assert_eq!(read(&log), [""; 0]);
        assert_eq!(read(&["no time"]), ["no time"]);
        assert_eq!(position.since().unwrap().to_string(), "2026-01-01T00:00:02Z");
        assert_eq!(position.read.len(), 1, "only the latest second is remembered");
    }

    #[tokio::test]
    async fn lines_may_be_no_text_and_are_cut_at_the_limit() {
        let mut bytes = b"ab\n\xff\n\n".to_vec();
        bytes.extend(vec![b'x'; LINE_BYTES + 5]);
        bytes.extend(b"\nlast");
        let mut log = pin!(futures::io::BufReader::new(futures::io::Cursor::new(bytes)));
        let mut lines = Vec::new();
        loop {
            let mut line = Vec::new();
            if !read_line(log.as_mut(), &mut line).await.unwrap() {
                break;
            }
            lines.push(line);
        }
        assert_eq!(lines[..3], [b"ab".to_vec(), vec![0xff], Vec::new()]);
        assert_eq!((lines[3].len(), lines[4].as_slice()), (LINE_BYTES, b"last".as_slice()));
    }
}

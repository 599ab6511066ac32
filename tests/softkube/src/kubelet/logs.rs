//! The output of containers.

use std::collections::BTreeMap;

use crate::clock::Time;

/// Lines that are kept for each run of a container.
const LINES_LIMIT: usize = 100_000;

/// A line of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) at: Time,
    pub(crate) text: String,
}

/// The output of one container.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    pub(crate) lines: Vec<Line>,
    /// The output of the run before the last restart.
    pub(crate) previous: Option<Vec<Line>>,
    /// Whether the container has ended, so that no line follows.
    pub(crate) ended: bool,
}

/// The output of all containers, by pod uid and container name.
#[derive(Debug, Default)]
pub(crate) struct Logs(BTreeMap<(String, String), Log>);

impl Logs {
    fn log(&mut self, uid: &str, container: &str) -> &mut Log {
        self.0.entry((uid.to_owned(), container.to_owned())).or_default()
    }

    pub(crate) fn get(&self, uid: &str, container: &str) -> Option<&Log> {
        self.0.get(&(uid.to_owned(), container.to_owned()))
    }

    /// Starts the output of a new run.
    pub(crate) fn start(&mut self, uid: &str, container: &str, restarted: bool) {
        let log = self.log(uid, container);
        if restarted {
            log.previous = Some(std::mem::take(&mut log.lines));
        }
        log.ended = false;
    }

    pub(crate) fn append(&mut self, uid: &str, container: &str, at: Time, text: &str) {
        let log = self.log(uid, container);
        log.lines.push(Line { at, text: text.to_owned() });
        if log.lines.len() > LINES_LIMIT {
            log.lines.remove(0);
        }
    }

    pub(crate) fn end(&mut self, uid: &str, container: &str) {
        self.log(uid, container).ended = true;
    }
}

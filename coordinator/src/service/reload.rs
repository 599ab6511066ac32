//! Values that are made from files, and made again when the files change.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use wire::credentials::Error;

type Make<T> = Box<dyn Fn() -> Result<T, Error> + Send + Sync>;

/// A value that follows the contents of files. If the files change to something unusable, the last usable value
/// stays.
pub(crate) struct Reloaded<T> {
    files: Vec<PathBuf>,
    make: Make<T>,
    state: Mutex<State<T>>,
}

struct State<T> {
    stamps: Vec<Option<Stamp>>,
    value: Arc<T>,
}

/// Changes whenever a file is replaced or written to: its device, inode, length, and time of change in nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);

impl<T> Reloaded<T> {
    /// Makes the value for the first time. `make` reads `files`.
    ///
    /// # Errors
    /// The error of `make`.
    pub(crate) fn new(
        files: Vec<PathBuf>,
        make: impl Fn() -> Result<T, Error> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let stamps = stamps(&files);
        let value = Arc::new(make()?);
        Ok(Self { files, make: Box::new(make), state: Mutex::new(State { stamps, value }) })
    }

    /// The value for the current contents of the files.
    pub(crate) fn current(&self) -> Arc<T> {
        let mut state = self.state.lock().expect("nothing panics while it holds the lock");
        // Read before the files, so that a change in between is noticed the next time.
        let stamps = stamps(&self.files);
        if stamps != state.stamps {
            state.stamps = stamps;
            match (self.make)() {
                Ok(value) => {
                    state.value = Arc::new(value);
                    tracing::info!(files = ?self.files, "credentials were renewed");
                }
                Err(error) => {
                    let why = proto::error::chain(&error);
                    tracing::warn!(
                        why,
                        "changed credentials are unusable; the previous ones stay in use"
                    );
                }
            }
        }
        state.value.clone()
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |file: &PathBuf| {
        let found = fs::metadata(file).ok()?;
        Some((found.dev(), found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
    };
    files.iter().map(stamp).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_value_follows_its_file_and_outlives_contents_that_cannot_be_used() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens");
        fs::write(&file, "1").unwrap();
        let made = Arc::new(AtomicU32::new(0));
        let reloaded = Reloaded::new(vec![file.clone()], {
            let (file, made) = (file.clone(), made.clone());
            move || {
                made.fetch_add(1, Ordering::Relaxed);
                let text = fs::read_to_string(&file).unwrap_or_default();
                let reason = format!("is `{text}`");
                text.parse::<u32>().map_err(|_| Error::Malformed { path: file.clone(), reason })
            }
        })
        .unwrap();
        assert_eq!((*reloaded.current(), *reloaded.current()), (1, 1));
        assert_eq!(made.load(Ordering::Relaxed), 1, "it is read again only after a change");
        // Replaced, as a Secret's files are.
        let next = folder.path().join("next");
        fs::write(&next, "2").unwrap();
        fs::rename(&next, &file).unwrap();
        assert_eq!(*reloaded.current(), 2);
        fs::write(&file, "none").unwrap();
        assert_eq!(*reloaded.current(), 2);
        fs::write(&file, "3").unwrap();
        assert_eq!(*reloaded.current(), 3);
    }
}

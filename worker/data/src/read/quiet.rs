//! Catches expected panics: those of a library over damaged input become errors.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Whether this thread's panics are caught and reported elsewhere.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Does `work`. If it panics, returns the message, which is then not printed to standard error.
/// Panics of other threads, and of this one before and after, are reported as usual.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static DELEGATE: Once = Once::new();
    DELEGATE.call_once(delegate);
    let was_quiet = QUIET.replace(true);
    // The caller discards anything that the work leaves half done.
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    QUIET.set(was_quiet);
    outcome.map_err(|payload| message(&*payload))
}

/// Installs a panic hook that passes all panics except those of quiet threads to the previous hook.
fn delegate() {
    let told = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !QUIET.get() {
            told(info);
        }
    }));
}

fn message(payload: &(dyn Any + Send)) -> String {
    let constant = || payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = payload.downcast_ref::<String>().cloned().or_else(constant);
    text.unwrap_or_else(|| "it panicked without a message".into())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::thread;

    use super::*;

    #[test]
    fn only_what_is_caught_here_is_quiet() {
        static HEARD: Mutex<Vec<String>> = Mutex::new(Vec::new());
        let told = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let said = info.payload_as_str().unwrap_or_default();
            match said.starts_with("probe") {
                true => HEARD.lock().expect("held only to push").push(said.to_owned()),
                false => told(info),
            }
        }));
        // Another test in this process may have run first.
        delegate();
        assert_eq!(caught(|| 7), Ok(7));
        let within: Result<(), _> = caught(|| {
            let other = thread::spawn(|| panic!("probe: another thread"));
            assert!(other.join().is_err());
            panic!("probe: {}", "quiet")
        });
        assert_eq!(within, Err("probe: quiet".into()));
        let after = thread::spawn(|| {
            assert_eq!(
                caught(|| panic!("probe: quiet too")),
                Err::<(), _>("probe: quiet too".into())
            );
            panic!("probe: after");
        });
        assert!(after.join().is_err());
        let heard = HEARD.lock().expect("held only to push");
        assert_eq!(*heard, ["probe: another thread", "probe: after"]);
    }
}

//! Panics that are expected: a library's own over damaged input, caught and told as errors.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Whether this thread's panics are caught and told elsewhere.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Does `work`; its message where it panics, which does not stand on standard error as well. Panics
/// of other threads, and of this one before and after, are told as ever.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static DELEGATE: Once = Once::new();
    DELEGATE.call_once(delegate);
    let was_quiet = QUIET.replace(true);
    // What the work leaves half done is its caller's to throw away.
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    QUIET.set(was_quiet);
    outcome.map_err(|payload| message(&*payload))
}

/// Puts a hook before the process's own, to which it leaves all but the panics of quiet threads.
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
    text.unwrap_or_else(|| "for no reason that it tells".into())
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
        // Other tests of this process may have been first.
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

//! Groups: what a thread collects between `ncclGroupStart` and `ncclGroupEnd`.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use super::collectives::Part;
use super::comm::Comm;
use super::{Failure, call, explain};

/// How long the first collective of a nonblocking communicator stays in progress: its channels
/// are set up in the background, and nothing is in the stream before that.
const SETUP: Duration = Duration::from_millis(3);

#[derive(Default)]
struct Group {
    depth: u32,
    inits: Vec<Arc<Comm>>,
    parts: Vec<Part>,
    failure: Option<Failure>,
}

thread_local! {
    static GROUP: RefCell<Group> = RefCell::default();
}

/// Waits for a communicator that is being made: at once, or at the end of the group.
pub(super) fn made(comm: Arc<Comm>) -> Result<(), Failure> {
    let grouped = GROUP.with_borrow(|group| group.depth > 0);
    if grouped {
        GROUP.with_borrow_mut(|group| group.inits.push(comm));
        return Ok(());
    }
    if comm.blocking { comm.wait() } else { Err(Failure::IN_PROGRESS) }
}

/// Submits a collective: at once, or at the end of the group.
pub(super) fn submit(part: Part) -> Result<(), Failure> {
    let grouped = GROUP.with_borrow(|group| group.depth > 0);
    if grouped {
        GROUP.with_borrow_mut(|group| group.parts.push(part));
        return Ok(());
    }
    run(vec![part])
}

/// Notes the failure of a call in a group, which the group's end returns again.
pub(super) fn note(result: Result<(), Failure>) -> Result<(), Failure> {
    GROUP.with_borrow_mut(|group| {
        if group.depth > 0 {
            group.failure = group.failure.or(result.err());
        }
    });
    result
}

/// Enqueues parts; those of a nonblocking communicator's first collective in the background.
fn run(parts: Vec<Part>) -> Result<(), Failure> {
    let mut in_progress = false;
    let mut parts = parts.into_iter().peekable();
    while let Some(part) = parts.next() {
        if part.comm.blocking || part.comm.is_set_up() {
            part.enqueue();
            continue;
        }
        in_progress = true;
        let comm = Arc::clone(&part.comm);
        let mut batch = vec![part];
        while let Some(next) = parts.next_if(|next| Arc::ptr_eq(&next.comm, &comm)) {
            batch.push(next);
        }
        comm.in_background(move || {
            std::thread::sleep(SETUP);
            batch.into_iter().for_each(Part::enqueue);
            Ok(())
        });
    }
    if in_progress { Err(Failure::IN_PROGRESS) } else { Ok(()) }
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn ncclGroupStart() -> u32 {
    call("ncclGroupStart", || {
        GROUP.with_borrow_mut(|group| group.depth += 1);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn ncclGroupEnd() -> u32 {
    call("ncclGroupEnd", || {
        let ended = GROUP.with_borrow_mut(|group| match group.depth {
            0 => Err(Failure::INVALID_USAGE),
            1 => Ok(Some(std::mem::take(group))),
            _ => {
                group.depth -= 1;
                Ok(None)
            }
        });
        let group = match ended {
            Ok(Some(group)) => group,
            Ok(None) => return Ok(()),
            Err(failure) => {
                explain("ncclGroupEnd: not in a group call.");
                return Err(failure);
            }
        };
        if let Some(failure) = group.failure {
            return Err(failure);
        }
        let mut result = Ok(());
        for comm in group.inits {
            let one = if comm.blocking { comm.wait() } else { Err(Failure::IN_PROGRESS) };
            result = result.and(one);
        }
        let submitted = run(group.parts);
        result.and(submitted)
    })
}

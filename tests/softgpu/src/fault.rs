//! Counts of calls, and the faults that strike at a chosen count.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::settings::{Fault, NcclAction, NcclPlace};
use crate::world::world;

const ECC_UNCORRECTABLE: u32 = 214;

/// The code that the current call of an entry point must return instead of working.
pub(crate) fn call(function: &str) -> Option<u32> {
    let nth = count(&format!("call:{function}"), |fault| match fault {
        Fault::Call { function: name, .. } | Fault::Kill { function: name, .. } => name == function,
        _ => false,
    })?;
    world().settings.fail.iter().find_map(|fault| match fault {
        Fault::Call { function: name, nth: at, code } if name == function && *at == nth => {
            strikes(fault).then_some(*code)
        }
        Fault::Kill { function: name, nth: at } if name == function && *at == nth => {
            strikes(fault).then(|| kill_process())
        }
        _ => None,
    })
}

/// Ends the process as a lost machine would.
pub(crate) fn kill_process() -> ! {
    // SAFETY: the signal goes to this process only.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    loop {
        std::thread::park();
    }
}

/// The code with which the current allocation fails.
pub(crate) fn alloc() -> Option<u32> {
    let nth = count("alloc", |fault| matches!(fault, Fault::Alloc { .. }))?;
    world().settings.fail.iter().find_map(|fault| {
        match fault {
            Fault::Alloc { nth: at, code } if *at == nth => Some(*code),
            _ => None,
        }
        .filter(|_| strikes(fault))
    })
}

/// The sticky error that the current launch of `kernel` ends with.
pub(crate) fn launch(kernel: &str) -> Option<u32> {
    let is_launch = |fault: &Fault| matches!(fault, Fault::Launch { .. } | Fault::Ecc { .. });
    let of_any = count("launch", is_launch)?;
    let of_kernel = count(&format!("launch:{kernel}"), is_launch)?;
    world().settings.fail.iter().find_map(|fault| {
        match fault {
            Fault::Ecc { nth } if *nth == of_any => Some(ECC_UNCORRECTABLE),
            Fault::Launch { kernel: name, nth, code } if name == "*" && *nth == of_any => {
                Some(*code)
            }
            Fault::Launch { kernel: name, nth, code } if name == kernel && *nth == of_kernel => {
                Some(*code)
            }
            _ => None,
        }
        .filter(|_| strikes(fault))
    })
}

/// What a rank does at a place of its communicator's life.
pub(crate) fn nccl(of_rank: u32, at: NcclPlace) -> Option<NcclAction> {
    world().settings.fail.iter().find_map(|fault| {
        match fault {
            Fault::Nccl { rank, place, action } if *rank == of_rank && *place == at => {
                Some(*action)
            }
            _ => None,
        }
        .filter(|_| strikes(fault))
    })
}

/// Whether a fault strikes: always, unless it has struck in some process and is to strike once.
fn strikes(fault: &Fault) -> bool {
    let Some(folder) = &world().settings.once else { return true };
    let mark = folder.join(fault.to_string().replace(['/', ':'], "-"));
    let _ = std::fs::create_dir_all(folder);
    std::fs::File::create_new(mark).is_ok()
}

/// Counts this event, from 1, if any fault could concern it.
fn count(key: &str, concerns: impl Fn(&Fault) -> bool) -> Option<u64> {
    if !world().settings.fail.iter().any(concerns) {
        return None;
    }
    static COUNTS: OnceLock<Mutex<HashMap<String, u64>>> = OnceLock::new();
    let counts = COUNTS.get_or_init(Mutex::default);
    let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
    let nth = counts.entry(key.to_owned()).or_default();
    *nth += 1;
    Some(*nth)
}

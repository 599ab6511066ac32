//! Ranks for tests: one child process each, and the calls that make a communicator.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use softgpu::{Fault, NcclAction, NcclPlace, Report, Settings};

use super::{Gpu, Handle, Outcome, assert_ran, child, command, fresh_folder, recording};
use crate::call;

pub const DEADLINE: Duration = Duration::from_secs(20);
pub const F32: c_int = 7;
pub const BF16: c_int = 9;
pub const SUM: c_int = 0;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Id(pub [u8; 128]);

#[repr(C)]
pub struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
    rest: [c_int; 32],
}

/// Runs one process for each of the settings; in a child, runs `body` with its rank.
pub fn ranks(test: &str, settings: &[Settings], body: impl FnOnce(u32)) -> Vec<Outcome> {
    if let Some(rank) = child() {
        body(rank.parse().expect("a child's label is its rank"));
        std::process::exit(0);
    }
    let folder = fresh_folder(test);
    let start = |(rank, settings): (usize, &Settings)| {
        let mut command = command(test, settings, &folder, &rank.to_string());
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the test can run itself")
    };
    let children: Vec<Child> = settings.iter().enumerate().map(start).collect();
    let deadline = Instant::now() + DEADLINE;
    let finish = |mut child: Child| {
        while child.try_wait().expect("a child can be asked").is_none() {
            if Instant::now() > deadline {
                child.kill().expect("a running child can be killed");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let output = child.wait_with_output().expect("the child has ended");
        let text = [output.stdout, output.stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
        Outcome { report: Report::default(), status: output.status, output: text.concat() }
    };
    let mut outcomes: Vec<Outcome> = children.into_iter().map(finish).collect();
    for rank in 0..settings.len() {
        assert_ran(&folder, &rank.to_string());
    }
    let report = Report::read(&folder.join("report")).expect("the report is readable");
    for outcome in &mut outcomes {
        outcome.report = report.clone();
    }
    std::fs::remove_dir_all(&folder).expect("the folder is the test's own");
    outcomes
}

pub fn all_succeed(outcomes: &[Outcome]) {
    for outcome in outcomes {
        outcome.expect(&[]);
    }
}

/// Settings of ranks that each play a machine of their own.
pub fn machines(count: u32) -> Vec<Settings> {
    (0..count).map(|machine| Settings { machine, ..recording() }).collect()
}

pub fn folder() -> PathBuf {
    PathBuf::from(std::env::var("SOFTGPU_TEST_FOLDER").expect("a child knows its folder"))
}

/// Rank 0 makes the id and passes it on in a file.
pub fn shared_id(gpu: &Gpu, rank: u32) -> Id {
    let path = folder().join("id");
    let mut id = Id([0; 128]);
    if rank == 0 {
        assert_eq!(call!(gpu, ncclGetUniqueId(&mut id => *mut Id)), 0);
        let partial = folder().join("id-partial");
        std::fs::write(&partial, id.0).expect("the folder is writable");
        std::fs::rename(partial, path).expect("the folder is writable");
        return id;
    }
    loop {
        if let Ok(bytes) = std::fs::read(&path) {
            id.0.copy_from_slice(&bytes);
            return id;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn try_init(gpu: &Gpu, count: c_int, rank: u32) -> (Handle, u32) {
    let id = shared_id(gpu, rank);
    let mut comm: Handle = std::ptr::null_mut();
    let code = call!(gpu, ncclCommInitRank(
        &mut comm => *mut Handle, count => c_int, id => Id, rank as c_int => c_int));
    (comm, code)
}

pub fn init(gpu: &Gpu, count: c_int, rank: u32) -> Handle {
    let (comm, code) = try_init(gpu, count, rank);
    assert_eq!(code, 0);
    comm
}

pub fn all_reduce(gpu: &Gpu, comm: Handle, at: u64, count: usize, element: c_int) -> u32 {
    call!(gpu, ncclAllReduce(
        at => u64, at => u64, count => usize, element => c_int, SUM => c_int,
        comm => Handle, gpu.stream => Handle))
}

pub fn async_error(gpu: &Gpu, comm: Handle) -> u32 {
    let mut code = 0;
    assert_eq!(call!(gpu, ncclCommGetAsyncError(comm => Handle, &mut code => *mut u32)), 0);
    code
}

pub fn last_error(gpu: &Gpu) -> String {
    let null: Handle = std::ptr::null_mut();
    // SAFETY: the type is the header's, and the text ends with a zero.
    unsafe {
        let function = gpu.symbol("ncclGetLastError");
        let function: unsafe extern "C" fn(Handle) -> *const c_char = std::mem::transmute(function);
        CStr::from_ptr(function(null)).to_string_lossy().into_owned()
    }
}

pub fn with_fault(
    mut settings: Vec<Settings>,
    place: NcclPlace,
    action: NcclAction,
) -> Vec<Settings> {
    for settings in &mut settings {
        settings.fail = vec![Fault::Nccl { rank: 1, place, action }];
    }
    settings
}

pub fn nonblocking(gpu: &Gpu, rank: u32) -> Handle {
    let id = shared_id(gpu, rank);
    let config =
        Config { size: 80, magic: 0xcafe_beef, version: 22809, blocking: 0, rest: [i32::MIN; 32] };
    let mut comm: Handle = std::ptr::null_mut();
    let code = call!(gpu, ncclCommInitRankConfig(
        &mut comm => *mut Handle, 2 => c_int, id => Id, rank as c_int => c_int,
        std::ptr::from_ref(&config).cast() => *const c_void));
    assert_eq!(code, 7);
    comm
}

pub fn poll(gpu: &Gpu, comm: Handle) -> u32 {
    loop {
        match async_error(gpu, comm) {
            7 => std::thread::sleep(Duration::from_millis(1)),
            code => return code,
        }
    }
}

//! A running program: its events, each with a deadline, and signals to it and to the processes that it has started.
//!
//! Every program has a mark in its environment, which the processes that it starts inherit. By the mark, a test tells
//! its ranks from those of other tests, and finds processes that were left behind.

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// The pause between two checks of whether a program still runs.
const POLL: Duration = Duration::from_millis(20);
const MARK: &str = "MUSTER_TEST_MARK";

/// One line of `--json` output.
#[derive(Clone, Debug)]
pub struct Event(pub Value);

impl Event {
    /// The kind of the event.
    pub fn kind(&self) -> &str {
        self.text("event")
    }

    /// A field that is text.
    pub fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or_else(|| panic!("`{key}` of {}", self.0))
    }

    /// A field that is a count.
    pub fn count(&self, key: &str) -> u64 {
        self.0[key].as_u64().unwrap_or_else(|| panic!("`{key}` of {}", self.0))
    }

    /// A field that is a number.
    pub fn number(&self, key: &str) -> f64 {
        self.0[key].as_f64().unwrap_or_else(|| panic!("`{key}` of {}", self.0))
    }
}

/// How a program ended, and everything that it printed.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output, line by line.
    pub events: Vec<Event>,
    /// Standard error.
    pub stderr: String,
}

impl Ended {
    /// The events of one kind, in order.
    pub fn all(&self, kind: &str) -> Vec<&Event> {
        self.events.iter().filter(|e| e.kind() == kind).collect()
    }

    /// The only event of a kind.
    pub fn only(&self, kind: &str) -> &Event {
        let [event] = self.all(kind)[..] else {
            panic!("one `{kind}`, not {:?}\n{}", self.all(kind), self.stderr)
        };
        event
    }

    /// Checks that the program ended with `code`.
    pub fn with_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{:?}", self.stderr, self.events.last());
        self
    }
}

/// A running program. When this is dropped, the program and the processes that it has started are killed.
pub struct Process {
    child: Child,
    mark: String,
    lines: Receiver<String>,
    events: Vec<Event>,
    stderr: Arc<(Mutex<String>, Condvar)>,
    /// Ends when no process has standard error open any more.
    listening: Option<JoinHandle<()>>,
}

/// Lets this process open as many files as the system permits.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .expect("it is permitted");
}

impl Process {
    /// Starts a program.
    pub fn start<A: AsRef<std::ffi::OsStr>>(program: &Path, arguments: &[A]) -> Self {
        Self::start_in(program, arguments, &[])
    }

    /// Starts a program with additional environment variables.
    pub fn start_in<A: AsRef<std::ffi::OsStr>>(
        program: &Path,
        arguments: &[A],
        environment: &[(&'static str, String)],
    ) -> Self {
        Self::start_to(Stdio::piped(), program, arguments, environment)
    }

    /// Starts a program with standard output redirected; if it is not a pipe, no output can be read here.
    pub fn start_to<A: AsRef<std::ffi::OsStr>>(
        stdout: Stdio,
        program: &Path,
        arguments: &[A],
        environment: &[(&'static str, String)],
    ) -> Self {
        let mark = proto::id::unique();
        let mut child = Command::new(program)
            .args(arguments)
            .env(MARK, &mark)
            .env("MUSTER_LOG", "warn")
            .env("MUSTER_WORKER", crate::programs::worker())
            .envs(environment.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", program.display()));
        let (sender, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    // The receiver may have been dropped.
                    let _ = sender.send(line);
                }
            });
        }
        let stderr = Arc::<(Mutex<String>, Condvar)>::default();
        let (mut pipe, text) = (child.stderr.take().expect("piped"), stderr.clone());
        let listening = std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(n @ 1..) = pipe.read(&mut piece) {
                let words = String::from_utf8_lossy(&piece[..n]);
                text.0.lock().expect("held only to copy").push_str(&words);
                text.1.notify_all();
            }
        });
        Self { child, mark, lines, events: Vec::new(), stderr, listening: Some(listening) }
    }

    /// Starts `coordinator run SPEC --json` with further arguments.
    pub fn run(fixture: &crate::Fixture, arguments: &[&str]) -> Self {
        Self::run_in(fixture, arguments, &[])
    }

    /// Starts the same command with additional environment variables.
    pub fn run_in(
        fixture: &crate::Fixture,
        arguments: &[&str],
        environment: &[(&'static str, String)],
    ) -> Self {
        let spec = fixture.path("spec.yaml");
        let mut all = vec!["run", spec.to_str().expect("a temporary path"), "--json"];
        all.extend(arguments);
        Self::start_in(&crate::programs::coordinator(), &all, environment)
    }

    /// Standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.0.lock().expect("held only to copy").clone()
    }

    /// Waits for a line of standard error that begins with `words`, and returns the rest of the line.
    pub fn wait_for_line(&self, words: &str) -> String {
        let find = |text: &str| {
            let mut lines = text.split_inclusive('\n').filter_map(|l| l.strip_suffix('\n'));
            lines.find_map(|l| l.strip_prefix(words)).map(str::to_owned)
        };
        let text = self.stderr.0.lock().expect("held only to copy");
        let is_missing = |text: &mut String| find(text).is_none();
        let waited = self.stderr.1.wait_timeout_while(text, PATIENCE, is_missing);
        let (text, _) = waited.expect("held only to copy");
        find(&text).unwrap_or_else(|| panic!("no `{words}` in:\n{text}"))
    }

    /// Waits until standard error contains `words`.
    pub fn wait_for_text(&self, words: &str) {
        let text = self.stderr.0.lock().expect("held only to copy");
        let is_missing = |text: &mut String| !text.contains(words);
        let waited = self.stderr.1.wait_timeout_while(text, PATIENCE, is_missing);
        let (text, _) = waited.expect("held only to copy");
        assert!(text.contains(words), "no `{words}` in:\n{text}");
    }

    /// Does the same as [`Self::wait_for_line`], but returns `None` if the program ends first.
    pub fn wait_for_line_or_end(&self, words: &str) -> Option<String> {
        let until = Instant::now() + PATIENCE;
        let find =
            |text: &str| text.lines().find_map(|line| line.strip_prefix(words).map(str::to_owned));
        while Instant::now() < until {
            let listening = self.listening.as_ref().is_some_and(|thread| !thread.is_finished());
            let text = self.stderr.0.lock().expect("held only to copy");
            let is_missing = |text: &mut String| find(text).is_none();
            let waited = self.stderr.1.wait_timeout_while(text, POLL, is_missing);
            let found = find(&waited.expect("held only to copy").0);
            if found.is_some() || !listening {
                return found;
            }
        }
        panic!("neither `{words}` nor an end:\n{}", self.stderr())
    }

    /// Waits for the next event that is `wanted`; [`Self::end`] returns the events before it, too.
    pub fn event(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        let until = Instant::now() + PATIENCE;
        loop {
            let Some(event) = self.next(until) else {
                panic!("no {what}\n{}\n{:#?}", self.stderr(), self.events.last());
            };
            if wanted(&event) {
                return event;
            }
        }
    }

    /// Waits for a `step` event with at least this number of committed steps.
    pub fn step(&mut self, step: u64) -> Event {
        let what = format!("step {step}");
        self.event(&what, |e| e.kind() == "step" && e.count("step") >= step)
    }

    fn line(&mut self, until: Instant) -> Option<String> {
        match self.lines.recv_timeout(until - Instant::now()) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Timeout) => {
                let last = self.events.last();
                panic!("nothing in {PATIENCE:?} after {last:#?}\n{}", self.stderr())
            }
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    fn next(&mut self, until: Instant) -> Option<Event> {
        let line = self.line(until)?;
        let value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("`{line}`: {e}"));
        self.events.push(Event(value));
        self.events.last().cloned()
    }

    /// Waits for the end of a program that prints JSON, if anything.
    pub fn end(mut self) -> Ended {
        let until = Instant::now() + PATIENCE;
        while self.next(until).is_some() {}
        let (code, stderr) = self.wait();
        Ended { code, events: std::mem::take(&mut self.events), stderr }
    }

    /// Waits for the end of a program that prints no JSON, and checks that it ended with `code`. Returns standard
    /// output and standard error.
    pub fn end_with_text(mut self, code: i32) -> (String, String) {
        let until = Instant::now() + PATIENCE;
        let lines = std::iter::from_fn(|| self.line(until));
        let stdout = lines.map(|line| line + "\n").collect();
        let (ended, stderr) = self.wait();
        assert_eq!(ended, Some(code), "{stderr}");
        (stdout, stderr)
    }

    /// Waits for a program that has closed its output, and checks that it leaves no process behind. Returns its exit
    /// code and standard error.
    fn wait(&mut self) -> (Option<i32>, String) {
        assert!(exited(self.pid(), PATIENCE), "it is still running\n{}", self.stderr());
        let code = self.child.wait().expect("it has ended").code();
        assert_eq!(self.remaining_within(PATIENCE), Vec::<String>::new(), "left behind");
        let listening = self.listening.take().expect("joined once");
        listening.join().expect("it only reads");
        (code, self.stderr())
    }

    /// The process id of the program.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The process id as a number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the program only.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).expect("it runs");
    }

    /// The process among those that the program has started whose command line contains `words`.
    pub fn child_matching(&self, words: &str) -> Pid {
        let own = self.pid();
        let found: Vec<_> = marked(&self.mark)
            .into_iter()
            .filter(|(pid, line)| *pid != own && line.contains(words))
            .collect();
        let [(pid, _)] = &found[..] else { panic!("one `{words}`, not {found:?}") };
        *pid
    }

    /// Sends a signal to a process that the program has started.
    pub fn signal_to(&self, words: &str, signal: Signal) {
        rustix::process::kill_process(self.child_matching(words), signal).expect("it was found");
    }

    /// Kills a process that the program has started with SIGKILL.
    pub fn kill(&self, words: &str) {
        let pid = self.child_matching(words);
        rustix::process::kill_process(pid, Signal::KILL).expect("it was found");
        assert!(exited(pid, PATIENCE), "{words} outlived `kill -9`");
    }

    /// Waits for at most `limit` until the program and everything that it has started have ended. Returns the command
    /// lines of those that have not.
    pub fn remaining_within(&self, limit: Duration) -> Vec<String> {
        let until = Instant::now() + limit;
        // A killed process loses its mark while one of its threads may still hold its files and ports.
        exited(self.pid(), limit);
        for (pid, _) in marked(&self.mark) {
            exited(pid, until.saturating_duration_since(Instant::now()));
        }
        marked(&self.mark).into_iter().map(|(_, line)| line).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Processes that a failed test leaves behind must not disturb the next test.
        for (pid, _) in marked(&self.mark) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// Every running process with this mark, and its command line.
fn marked(mark: &str) -> Vec<(Pid, String)> {
    with_variable(&format!("{MARK}={mark}"))
}

/// Kills every process that has this variable in its environment, such as `NAME=VALUE`, and waits for their end.
pub fn kill_all_with(variable: &str) {
    let found = with_variable(variable);
    assert!(!found.is_empty(), "no process has {variable}");
    for (pid, _) in &found {
        // It may have ended with another one.
        let _ = rustix::process::kill_process(*pid, Signal::KILL);
    }
    for (pid, line) in found {
        assert!(exited(pid, PATIENCE), "{line} outlived `kill -9`");
    }
}

/// Every running process with this variable in its environment, and its command line.
fn with_variable(wanted: &str) -> Vec<(Pid, String)> {
    let mut found = Vec::new();
    for entry in Path::new("/proc").read_dir().expect("Linux").flatten() {
        let pid = entry.file_name().to_str().and_then(|n| n.parse().ok()).and_then(Pid::from_raw);
        let Some(pid) = pid else { continue };
        // A process may end during this; one that has ended has no environment.
        let read = |name| std::fs::read(entry.path().join(name)).unwrap_or_default();
        if read("environ").split(|b| *b == 0).any(|v| v == wanted.as_bytes()) {
            let line = read("cmdline").split(|b| *b == 0).map(String::from_utf8_lossy).fold(
                String::new(),
                |line, word| {
                    if line.is_empty() { word.into() } else { line + " " + &word }
                },
            );
            found.push((pid, line.trim_end().to_owned()));
        }
    }
    found
}

/// Waits until a process has ended. Returns false if it has not within `limit`.
fn exited(pid: Pid, limit: Duration) -> bool {
    let Ok(handle) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return true };
    let limit = Timespec::try_from(limit).expect("a short time");
    let mut polled = [PollFd::new(&handle, PollFlags::IN)];
    rustix::event::poll(&mut polled, Some(&limit)).expect("one descriptor can be polled") == 1
}

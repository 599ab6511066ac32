//! NCCL's settings, which are environment variables, and its messages.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, PipeReader};
use std::os::fd::{AsRawFd, IntoRawFd};

/// Would make every communicator use one fixed id, also those of later generations.
const FIXED_ID: &str = "NCCL_COMM_ID";
const VERBOSITY: &str = "NCCL_DEBUG";
const MESSAGES: &str = "NCCL_DEBUG_FILE";

/// Prepares the environment for NCCL, logs its settings, and lets its messages go to the log of this process. Its
/// standard output, NCCL's choice, has another reader. To be called before the process starts any thread.
///
/// The messages come through a pipe, since NCCL would truncate a file that standard error goes to.
pub fn prepare() {
    for (name, value) in settings(std::env::vars_os()) {
        if name == FIXED_ID {
            tracing::warn!(
                ?value,
                "NCCL_COMM_ID is ignored, since every generation has its own id"
            );
            // SAFETY: there is no other thread that could read the environment.
            unsafe { std::env::remove_var(name) };
        } else {
            tracing::info!(?name, ?value, "a setting of NCCL");
        }
    }
    if std::env::var_os(VERBOSITY).is_none() {
        // SAFETY: as above.
        unsafe { std::env::set_var(VERBOSITY, "WARN") };
    }
    if std::env::var_os(MESSAGES).is_none()
        && let Ok((messages, pipe)) = std::io::pipe()
    {
        // SAFETY: as above.
        unsafe { std::env::set_var(MESSAGES, format!("/proc/self/fd/{}", pipe.as_raw_fd())) };
        // NCCL opens the pipe by this number at any later time, so this end stays open as long as the process.
        let _ = pipe.into_raw_fd();
        let started = std::thread::Builder::new().name("nccl-messages".into());
        if let Err(error) = started.spawn(|| log(messages)) {
            tracing::warn!(%error, "NCCL's messages are lost");
        }
    }
}

/// The settings among the variables of an environment, by name.
fn settings(variables: impl Iterator<Item = (OsString, OsString)>) -> Vec<(OsString, OsString)> {
    let is_setting = |name: &OsStr| name.as_encoded_bytes().starts_with(b"NCCL_");
    let mut settings: Vec<_> = variables.filter(|(name, _)| is_setting(name)).collect();
    settings.sort();
    settings
}

fn log(messages: PipeReader) {
    for line in BufReader::new(messages).split(b'\n').map_while(Result::ok) {
        let message = String::from_utf8_lossy(&line);
        if message.contains(" WARN ") {
            tracing::warn!(%message, "NCCL warns");
        } else {
            tracing::info!(%message, "NCCL reports");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_those_of_nccl_by_name() {
        let variables = [("NCCL_P2P_DISABLE", "1"), ("HOME", "/root"), ("NCCL_COMM_ID", "a:1")];
        let owned = variables.map(|(name, value)| (name.into(), value.into()));
        let names: Vec<_> = settings(owned.into_iter()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["NCCL_COMM_ID", "NCCL_P2P_DISABLE"]);
    }
}

//! Asks the last holder of a journal whether it still holds it, before another coordinator claims that journal.
//!
//! A coordinator reads its journal before it answers. So the answer is reliable, and a coordinator that was replaced
//! without noticing finds out when it is asked.

use proto::event::Holder;
use proto::id::{self, RunId};
use std::time::Duration;
use thiserror::Error;
use tonic::transport::Uri;
use wire::HoldsRequest;
use wire::address::is_loopback;
use wire::connect::{self, Options, Unconnected};
use wire::credentials::Credentials;
use wire::runs_client::RunsClient;

/// A host that accepts no connection for this long is taken to be down.
const CONNECT: Duration = Duration::from_secs(2);
/// Time for an answer after the connection. The coordinator may be busy replaying its own journals.
const ANSWER: Duration = Duration::from_secs(10);

/// The answer of the last holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It still holds the run or the pool.
    Holds,
    /// It does not hold it any more, or no coordinator answers, or another one does.
    Gone,
    /// It accepts the connection but does not answer.
    Silent,
    /// It cannot be asked with these credentials.
    Untrusted,
}

/// Another coordinator holds what was to be claimed.
#[derive(Debug, Error)]
#[error("{what} is held by a coordinator on host `{}`, which {} at {}\nhint: {hint}", .by.host, .does, .by.url)]
pub struct Held {
    /// The pool's prefix, or the run.
    what: String,
    by: Holder,
    does: &'static str,
    hint: &'static str,
}

/// This process as a holder that answers at `url`.
pub fn here(url: String) -> Holder {
    Holder { token: id::unique(), host: host(), url }
}

/// This host's name.
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Checks that the last holder of the pool under `url` is gone, so that the pool can be claimed.
///
/// # Errors
/// [`Held`], if it still holds the pool, or accepts connections without answering.
pub async fn leave_pool(by: &Holder, url: &str, with: &Credentials) -> Result<(), Held> {
    let hint =
        "work with that one (`--coordinator`), stop it first, or take its place with --take-over";
    leave((by, with), None, format!("`{url}`"), hint).await
}

/// Checks that the last holder of `run` is gone, so that the run can be claimed.
///
/// # Errors
/// [`Held`], if it still holds the run, or accepts connections without answering.
pub async fn leave_run(by: &Holder, run: &RunId, with: &Credentials) -> Result<(), Held> {
    let hint = "stop it first, or take the run from it with --take-over";
    leave((by, with), Some(run), format!("run `{run}`"), hint).await
}

async fn leave(
    (by, with): (&Holder, &Credentials),
    run: Option<&RunId>,
    what: String,
    hint: &'static str,
) -> Result<(), Held> {
    let does = match ask(by, run, with).await {
        Answer::Gone => return Ok(()),
        Answer::Holds => "answers",
        Answer::Silent => "accepts connections but does not answer",
        Answer::Untrusted => "cannot be asked with these credentials",
    };
    Err(Held { what, by: by.clone(), does, hint })
}

/// Asks `holder` whether it still holds `run`, or its pool.
pub async fn ask(holder: &Holder, run: Option<&RunId>, with: &Credentials) -> Answer {
    let Ok(uri) = holder.url.parse::<Uri>() else { return Answer::Gone };
    // The loopback address of another host cannot be reached from here.
    if is_loopback(&uri) && holder.host != host() {
        return Answer::Gone;
    }
    let options = Options { connect: CONNECT, ..Options::QUESTION };
    let channel = match connect::channel(&holder.url, with, options).await {
        Ok(channel) => channel,
        Err(Unconnected::Malformed { .. } | Unconnected::Unreachable { .. }) => {
            return Answer::Gone;
        }
        Err(Unconnected::Credentials(_) | Unconnected::Untrusted { .. }) => {
            return Answer::Untrusted;
        }
    };
    let run = run.map(ToString::to_string).unwrap_or_default();
    let mut client = RunsClient::new(channel);
    match tokio::time::timeout(ANSWER, client.holds(HoldsRequest { run })).await {
        Ok(Ok(reply)) if reply.get_ref().token == holder.token => Answer::Holds,
        Ok(Ok(_) | Err(_)) => Answer::Gone,
        Err(_) => Answer::Silent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, url: String) -> Holder {
        Holder { token: "t".into(), host: host.into(), url }
    }

    #[tokio::test]
    async fn an_unreachable_holder_is_gone_and_another_hosts_loopback_is_not_asked() {
        // The discard port.
        let none = Credentials::none();
        let unreachable = at(&host(), "http://127.0.0.1:9".into());
        assert_eq!(ask(&unreachable, None, &none).await, Answer::Gone);
        assert_eq!(ask(&at(&host(), "no address".into()), None, &none).await, Answer::Gone);
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        assert_eq!(ask(&at("another", url), None, &none).await, Answer::Gone);
        // What it would be asked, or answer, could be forged.
        let plain = at("another", "http://192.0.2.1:7070".into());
        assert_eq!(ask(&plain, None, &none).await, Answer::Untrusted);
    }
}

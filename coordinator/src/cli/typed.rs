//! Reads the run spec that a user names: a file on this machine, or an object in a store.

use super::{Blame, Exit, Refusal};
use crate::core::Fault;
use crate::data::survey::{self, Scope};
use anyhow::{Context, anyhow};
use proto::spec::{self, Location, Spec};
use std::path::Path;
use storage::Storage;

/// A run spec that this version can run.
pub(super) struct Typed {
    /// The text as the user wrote it.
    pub(super) text: String,
    /// The parsed spec.
    pub(super) spec: Spec,
}

impl Typed {
    /// Reads the spec at `place`. Errors in its content name the place.
    pub(super) async fn read(place: &Path) -> Result<Self, Refusal> {
        let (text, location) = match place.to_str().filter(|place| place.contains("://")) {
            Some(url) => stored(url).await?,
            None => local(place).blame(Exit::User)?,
        };
        let spec = match spec::parse_at(&text, &location) {
            Err(error @ spec::Error::Invalid(_)) => Err(error).context(place.display().to_string()),
            parsed => parsed.map_err(Into::into),
        };
        let spec = spec.blame(Exit::User)?;
        match spec.unsupported() {
            Some(refusal) => Err(Refusal { exit: Exit::User, error: refusal.into() }),
            None => Ok(Self { text, spec }),
        }
    }
}

/// Checks that the paths in the spec exist on this host, before the run is submitted to a coordinator elsewhere.
///
/// # Errors
/// The first path that is missing or cannot be read. Workers may see other paths, so the caller offers `--no-check`.
pub(super) async fn check_local(spec: &Spec) -> Result<(), Refusal> {
    survey::check(spec, Scope::OnThisHost).await.map_err(|fault| {
        let hint = "hint: paths are looked up on this host; add --no-check if only the workers can see them";
        Fault { message: format!("{}\n{hint}", fault.message), ..fault }.into()
    })
}

fn local(path: &Path) -> Result<(String, Location), spec::Error> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| spec::Error::Read { path: path.to_owned(), source })?;
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    Ok((text, Location::File(path)))
}

async fn stored(url: &str) -> Result<(String, Location), Refusal> {
    let here = std::env::current_dir().blame(Exit::User)?;
    let location = Location::parse(url, &here);
    let location = location
        .map_err(|e| anyhow!("`{url}` names no run spec: {e}\nhint: {}", e.hint()))
        .blame(Exit::User)?;
    if let Some(path) = location.as_file() {
        return local(path).blame(Exit::User);
    }
    if location.split().is_none() {
        return Err(spec::Error::NoFile(location)).blame(Exit::User);
    }
    let (storage, key) = Storage::containing(url).blame(Exit::User)?;
    // The parser refuses a longer text.
    let body = storage.read_range(&key, 0..spec::MAX_BYTES as u64 + 1, None).await;
    let body = body.map_err(|error| {
        let exit = if error.is_users() { Exit::User } else { Exit::Infrastructure };
        Refusal { exit, error: anyhow::Error::from(error).context("run spec") }
    })?;
    let text = String::from_utf8(body.into());
    let text =
        text.with_context(|| format!("the run spec `{url}` is not UTF-8")).blame(Exit::User)?;
    Ok((text, location))
}

//! What a worker reads before it prepares a run's data or trains it: the spec, the base's folder, the chat template.

pub(crate) mod access;

use crate::cache;
use crate::session::Trouble;
use proto::error::chain;
use proto::protocol::Cause;
use proto::spec::{ChatTemplate, Spec};
use std::path::PathBuf;
use storage::Storage;

/// Makes failures of this cause from their messages.
pub(crate) fn trouble(cause: Cause) -> impl Fn(String) -> Trouble {
    move |message| Trouble::new(cause, message)
}

/// A failure of the storage.
pub(crate) fn storage_trouble(error: storage::Error) -> Trouble {
    Trouble::new(Cause::Storage, chain(&error))
}

/// Parses the spec of a run as its coordinator resolved it.
pub(crate) fn parse(spec_yaml: &str) -> Result<Spec, Trouble> {
    Spec::from_resolved(spec_yaml).map_err(|e| Trouble::new(Cause::Internal, chain(&e)))
}

/// The base's folder on this host; a remote base is fetched first.
pub(crate) async fn base(spec: &Spec) -> Result<PathBuf, Trouble> {
    cache::folder(&spec.base()).await.map_err(|e| match e.is_users() {
        true => trouble(Cause::Model)(format!("model.base: {}", chain(&e))),
        false => trouble(Cause::Storage)(format!("model.base: {}", chain(&e))),
    })
}

/// The text of the chat template's file, if the spec names one.
pub(crate) async fn template(spec: &Spec) -> Result<Option<String>, Trouble> {
    let ChatTemplate::File(location) = &spec.data().chat_template else { return Ok(None) };
    let refuse = |e: String| trouble(Cause::Model)(format!("data.chat_template: {e}"));
    let unread = |e: storage::Error| refuse(chain(&e));
    let (storage, key) = Storage::containing(&location.to_string()).map_err(unread)?;
    let body = storage.confined().map_err(unread)?.read(&key).await.map_err(unread)?;
    let text = String::from_utf8(body.to_vec());
    text.map(Some).map_err(|e| refuse(format!("`{location}` is not UTF-8: {e}")))
}

/// The data options that the spec asks for; `template` is the text of the template file that it names.
pub(crate) fn options(spec: &Spec, template: Option<String>) -> Result<data::Options, Trouble> {
    let undated = || trouble(Cause::Internal)("the resolved spec has no `data.date`".into());
    data::Options::of(spec, template).ok_or_else(undated)
}

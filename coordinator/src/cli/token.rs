//! `coordinator token`: makes a token, and adds its hash to the list of a coordinator.

use super::certs::{SECRET, store};
use super::{Blame, Exit, Outcome};
use crate::service::grants::Scope;
use crate::service::tokens::{self, Entry, Tokens};
use anyhow::{Context, anyhow};
use chrono::{TimeDelta, Utc};
use clap::Args;
use proto::print;
use proto::spec::duration;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Args)]
pub(super) struct Arguments {
    /// The coordinator's credentials folder; the token's hash is added to its list `tokens`
    folder: PathBuf,
    /// What the token is for
    #[arg(long, value_enum)]
    scope: Scope,
    /// Who gets the token; it is recorded with what they do
    #[arg(long)]
    name: String,
    /// The beginning of the names of the workers that may use it [default: any name]
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,
    /// How long the token is accepted, such as 12h or 30d [default: until its line is deleted from the list]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    expires: Option<Duration>,
    /// Folder in which to store the token, as the file `token` [default: print it]
    #[arg(long, value_name = "FOLDER")]
    to: Option<PathBuf>,
}

pub(super) fn token(arguments: Arguments) -> Outcome {
    let Arguments { folder, scope, name, prefix, expires, to } = arguments;
    if !prefix.is_empty() && scope != Scope::Join {
        let error = anyhow!("--prefix is about the names of workers, so it needs `--scope join`");
        return Err(error).blame(Exit::User);
    }
    let list = folder.join("tokens");
    let mut lines = match fs::read_to_string(&list) {
        Ok(lines) => lines,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).context(list.display().to_string()).blame(Exit::User),
    };
    if !lines.is_empty() {
        // A list that the coordinator could not read would stay without effect.
        Tokens::read(&list).blame(Exit::User)?;
    }
    let token = tokens::fresh(scope).blame(Exit::Infrastructure)?;
    let expires = expires
        .map(|after| TimeDelta::from_std(after).map(|after| Utc::now() + after))
        .transpose()
        .context("--expires")
        .blame(Exit::User)?;
    let entry = Entry { sha256: tokens::hash(&token), scope, name, prefix, expires, of_pod: false };
    if !lines.is_empty() && !lines.ends_with('\n') {
        lines.push('\n');
    }
    lines.push_str(&serde_json::to_string(&entry).expect("an entry is JSON"));
    lines.push('\n');
    store(&list, &lines, SECRET)?;
    match to {
        Some(folder) => store(&folder.join("token"), &format!("{token}\n"), SECRET)?,
        None => print::line(token)?,
    }
    Ok(Exit::Done)
}

//! The options with which commands prove who they are.

use clap::Args;
use std::path::PathBuf;
use wire::credentials::Credentials;

#[derive(Args, Clone)]
pub(super) struct Arguments {
    /// Folder with the certificates and the token for the coordinator: tls.crt, tls.key, ca.crt, token
    #[arg(long, value_name = "FOLDER", env = "MUSTER_CREDENTIALS")]
    credentials: Option<PathBuf>,
    /// Connect without encryption to a coordinator on another host: everybody in the network can then read and change
    /// everything
    #[arg(long, env = "MUSTER_INSECURE", value_parser = clap::builder::FalseyValueParser::new())]
    pub(in crate::cli) insecure: bool,
}

impl Arguments {
    pub(super) fn read(&self) -> Credentials {
        Credentials::new(self.credentials.clone(), self.insecure)
    }
}

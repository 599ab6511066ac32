//! Which runs a command is about: those of a standing coordinator, or the Jobs of a Kubernetes cluster.

use crate::cli::{Exit, Refusal};
use ::kubernetes::{Cluster, Error};
use clap::{Args, ValueEnum};

#[derive(Args)]
pub(in crate::cli) struct Place {
    /// Make each run a Job of a Kubernetes cluster, the one that kubectl uses, instead of asking a standing coordinator
    #[arg(long, value_name = "WHERE", value_enum)]
    launch: Option<Launch>,
    /// With --launch: context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME", requires = "launch")]
    context: Option<String>,
    /// With --launch: namespace of the Jobs [default: the one that kubectl uses]
    #[arg(long, value_name = "NAME", requires = "launch")]
    pub(super) namespace: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Launch {
    /// Jobs of a Kubernetes cluster
    Kubernetes,
}

impl Place {
    /// Whether the command is about Jobs.
    pub(in crate::cli) fn is_cluster(&self) -> bool {
        match self.launch {
            Some(Launch::Kubernetes) => true,
            None => false,
        }
    }

    /// The arguments with which another command is about the same Jobs.
    pub(super) fn arguments(&self) -> String {
        let named = |option: &str, value: &Option<String>| {
            value.as_ref().map(|value| format!(" {option} {value}")).unwrap_or_default()
        };
        let (context, namespace) =
            (named("--context", &self.context), named("--namespace", &self.namespace));
        format!("--launch kubernetes{context}{namespace}")
    }

    /// Reaches the cluster.
    pub(super) async fn connect(&self) -> Result<Cluster, Refusal> {
        let connected = Cluster::connect(self.context.as_deref(), self.namespace.as_deref()).await;
        connected.map_err(refused)
    }
}

/// The refusal for an error of the cluster.
pub(super) fn refused(error: Error) -> Refusal {
    let exit = match &error {
        Error::Unreachable { .. }
        | Error::Incomplete { .. }
        | Error::Deleting { .. }
        | Error::Vanished { .. } => Exit::Infrastructure,
        Error::Configuration { .. }
        | Error::Objects { .. }
        | Error::Unauthorized { .. }
        | Error::Forbidden { .. }
        | Error::Quota { .. }
        | Error::Refused { .. }
        | Error::NoPlace { .. }
        | Error::Exists { .. }
        | Error::Taken { .. }
        | Error::NotFound { .. } => Exit::User,
    };
    Refusal { exit, error: error.into() }
}

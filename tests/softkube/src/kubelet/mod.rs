//! The kubelet, in two forms behind one trait: moved by the test, or running local processes.

pub(crate) mod agent;
mod env;
mod https;
pub(crate) mod logs;
pub(crate) mod manual;
mod mounts;
mod probe;
pub(crate) mod processes;
mod report;
mod run;
pub(crate) mod start;
pub(crate) mod status;
mod volumes;

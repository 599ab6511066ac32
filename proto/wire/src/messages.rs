//! The generated gRPC types. They are used only at the edges, where they are converted to domain types.

#![allow(missing_docs, unreachable_pub, clippy::all)]

tonic::include_proto!("muster.v1");

//! The generated gRPC types. Named only at the edges, where they become domain types.

#![allow(missing_docs, unreachable_pub, clippy::all)]

tonic::include_proto!("muster.v1");

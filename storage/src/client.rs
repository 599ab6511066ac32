//! HTTP clients: their TLS library and their timeouts.

use crate::patience::Limits;
use object_store::ClientOptions;
use std::sync::Once;

/// Options for clients of stores that are not configured from the environment.
pub(crate) fn options(limits: Limits) -> ClientOptions {
    use_ring();
    ClientOptions::new().with_connect_timeout(limits.connect).with_timeout(limits.request)
}

/// Sets the TLS library of the process, unless one is set already.
pub(crate) fn use_ring() {
    static CHOSEN: Once = Once::new();
    CHOSEN.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

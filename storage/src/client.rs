//! HTTP clients: which TLS library they use, and how long they wait.

use crate::patience::Limits;
use object_store::ClientOptions;
use std::sync::Once;

/// The client of a store that is not configured from the environment.
pub(crate) fn options(limits: Limits) -> ClientOptions {
    use_ring();
    ClientOptions::new().with_connect_timeout(limits.connect).with_timeout(limits.request)
}

/// Chooses the TLS library once for the whole process; one that is chosen already stays.
pub(crate) fn use_ring() {
    static CHOSEN: Once = Once::new();
    CHOSEN.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

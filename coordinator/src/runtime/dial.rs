//! Checks that peers can connect to a worker, by connecting to it from the coordinator before it becomes a member.

use std::time::Duration;
use tokio::net::TcpStream;

/// A host that accepts no connection within this time counts as unreachable.
const WITHIN: Duration = Duration::from_secs(3);

/// Connects to `ring` (`host:port`) and closes the connection.
///
/// # Errors
/// The reason, as text.
pub(super) async fn dial(ring: &str) -> Result<(), String> {
    match tokio::time::timeout(WITHIN, TcpStream::connect(ring)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", WITHIN.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_listener_is_reached_and_a_closed_port_is_not() {
        let listener = tokio::net::TcpListener::bind("[::1]:0").await;
        let listener = match listener {
            Ok(listener) => listener,
            // The host has no IPv6.
            Err(_) => tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(),
        };
        let ring = listener.local_addr().unwrap().to_string();
        assert_eq!(dial(&ring).await, Ok(()));
        drop(listener);
        assert!(dial(&ring).await.is_err());
    }
}

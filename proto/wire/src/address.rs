//! Addresses of coordinators as users write them: `https://host:port`, or `http://host:port` without TLS.

use std::net::IpAddr;
use thiserror::Error;
use tonic::transport::Uri;

/// A text that is not an address of a coordinator.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("write https://host:port, or http://host:port for a coordinator without TLS")]
pub struct Malformed;

/// Checks that `text` is an address with a host, a port and nothing else, and returns it unchanged.
///
/// # Errors
/// [`Malformed`] for any other text.
pub fn parse(text: &str) -> Result<String, Malformed> {
    let uri = text.parse::<Uri>().map_err(|_| Malformed)?;
    let names_both = uri.host().is_some_and(|host| !host.is_empty()) && uri.port().is_some();
    let names_more = uri.path_and_query().is_some_and(|path| path.as_str() != "/");
    if matches!(uri.scheme_str(), Some("http" | "https")) && names_both && !names_more {
        Ok(text.to_owned())
    } else {
        Err(Malformed)
    }
}

/// Whether the address uses TLS.
pub fn is_encrypted(uri: &Uri) -> bool {
    uri.scheme_str() == Some("https")
}

/// Whether the address is on the loopback, which only processes of its own host can reach.
pub fn is_loopback(uri: &Uri) -> bool {
    let host = host(uri);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The host of an address, without the brackets of an IPv6 address.
pub fn host(uri: &Uri) -> &str {
    uri.host().unwrap_or_default().trim_matches(['[', ']'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_exactly_a_scheme_a_host_and_a_port() {
        for good in [
            "http://127.0.0.1:7070",
            "http://coordinator:7070/",
            "http://[::1]:7070",
            "https://coordinator.example.com:7070",
        ] {
            assert_eq!(parse(good).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "127.0.0.1:7070",
            "coordinator",
            "ftp://host:7070",
            "http://host",
            "https://host",
            "http://:7070",
            "http://host:7070/pool",
        ] {
            assert_eq!(parse(bad), Err(Malformed), "{bad}");
        }
    }

    #[test]
    fn loopback_addresses_are_recognized() {
        for url in
            ["http://127.0.0.1:7070", "http://127.9.9.9:1", "http://[::1]:1", "http://localhost:1"]
        {
            assert!(is_loopback(&url.parse().unwrap()), "{url}");
        }
        for url in ["http://10.0.0.1:7070", "http://localhost.example.com:1", "http://[fe80::1]:1"]
        {
            assert!(!is_loopback(&url.parse().unwrap()), "{url}");
        }
    }
}

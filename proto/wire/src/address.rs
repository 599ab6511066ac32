//! Addresses of coordinators as users write them: `http://host:port`.

use thiserror::Error;
use tonic::transport::Uri;

/// A text that is not an address of a coordinator.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("write http://host:port")]
pub struct Malformed;

/// Checks that `text` is an address with a host, a port and nothing else, and returns it unchanged.
///
/// # Errors
/// [`Malformed`] for any other text.
pub fn parse(text: &str) -> Result<String, Malformed> {
    let uri = text.parse::<Uri>().map_err(|_| Malformed)?;
    let names_both = uri.host().is_some_and(|host| !host.is_empty()) && uri.port().is_some();
    let names_more = uri.path_and_query().is_some_and(|path| path.as_str() != "/");
    if uri.scheme_str() == Some("http") && names_both && !names_more {
        Ok(text.to_owned())
    } else {
        Err(Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_exactly_a_scheme_a_host_and_a_port() {
        for good in ["http://127.0.0.1:7070", "http://coordinator:7070/", "http://[::1]:7070"] {
            assert_eq!(parse(good).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "127.0.0.1:7070",
            "coordinator",
            "ftp://host:7070",
            "https://host:7070",
            "http://host",
            "http://:7070",
            "http://host:7070/pool",
        ] {
            assert_eq!(parse(bad), Err(Malformed), "{bad}");
        }
    }
}

//! Where a coordinator is, as users write it: `http://host:port`.

use thiserror::Error;
use tonic::transport::Uri;

/// A text that is no such address.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("write http://host:port")]
pub struct Malformed;

/// The address itself, where it names a host and a port and nothing else.
///
/// # Errors
/// [`Malformed`].
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
    fn a_scheme_a_host_and_a_port_are_an_address() {
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

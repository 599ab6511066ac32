//! The address at which peers reach a node's ranks: that of `--ring-address`, else the local address used to reach
//! the coordinator.

use crate::agent::pause;
use crate::collective::{self, Listener};
use std::collections::BTreeSet;
use std::fmt;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

/// A host and a range of ports; each rank of a node takes the first free port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingAddress {
    /// A host name or IP address; an IPv6 address has no brackets here.
    host: String,
    /// The range of ports; `0..=0` stands for any free port.
    ports: RangeInclusive<u16>,
}

/// Why ranks cannot listen at their address.
#[derive(Debug, Error)]
pub enum Error {
    /// The text is not an address.
    #[error(
        "`{0}` is not HOST, HOST:PORT or HOST:PORT-PORT\n\
         hint: put an IPv6 address in brackets: [2001:db8::1]:7100-7110"
    )]
    Form(String),
    /// There are more ranks than ports.
    #[error(
        "`{address}` has too few ports: {ports}, and this node needs {ranks}\n\
         hint: name as many ports as ranks, or leave them out"
    )]
    TooFew {
        /// The requested address.
        address: RingAddress,
        /// Number of ports in the address.
        ports: usize,
        /// Number of ranks of the node.
        ranks: usize,
    },
    /// Too many of the ports are in use.
    #[error(
        "`{address}` has too few free ports: {free}, and this node needs {ranks}\n\
         hint: choose other ports, or stop the programs that listen there"
    )]
    InUse {
        /// The requested address.
        address: RingAddress,
        /// Number of free ports.
        free: usize,
        /// Number of ranks that need a port.
        ranks: usize,
    },
    /// The name cannot be resolved.
    #[error("`{host}` cannot be resolved")]
    Unknown {
        /// The host name.
        host: String,
        /// The resolver's error.
        #[source]
        source: std::io::Error,
    },
    /// This host has no route to the coordinator.
    #[error("this host has no route to `{coordinator}`")]
    NoRoute {
        /// URL of the coordinator.
        coordinator: String,
        /// The operating system's error.
        #[source]
        source: std::io::Error,
    },
    /// The operating system refuses to listen there.
    #[error(transparent)]
    Listen(#[from] collective::Error),
}

impl Error {
    /// Whether a later attempt may succeed with nothing changed here, for example once a name server has restarted or
    /// an interface has come up.
    fn may_pass(&self) -> bool {
        matches!(self, Self::Unknown { .. } | Self::NoRoute { .. })
    }
}

impl FromStr for RingAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::Form(text.to_owned());
        let (host, ports) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, ports) = rest.split_once(']').ok_or_else(bad)?;
                host.parse::<Ipv6Addr>().map_err(|_| bad())?;
                let ports = match ports {
                    "" => None,
                    ports => Some(ports.strip_prefix(':').ok_or_else(bad)?),
                };
                (host, ports)
            }
            None => match text.split_once(':') {
                Some((host, ports)) => (host, Some(ports)),
                None => (text, None),
            },
        };
        if host.is_empty() || host.contains(['/', ' ']) {
            return Err(bad());
        }
        let port = |text: &str| text.parse().ok().filter(|port| *port > 0);
        let ports = match ports.map(|ports| ports.split_once('-').unwrap_or((ports, ports))) {
            None => 0..=0,
            Some((first, last)) => port(first).ok_or_else(bad)?..=port(last).ok_or_else(bad)?,
        };
        if ports.is_empty() {
            return Err(bad());
        }
        Ok(Self { host: host.to_owned(), ports })
    }
}

impl fmt::Display for RingAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.bracketed())?;
        match (self.ports.start(), self.ports.end()) {
            (0, _) => Ok(()),
            (first, last) if first == last => write!(f, ":{first}"),
            (first, last) => write!(f, ":{first}-{last}"),
        }
    }
}

impl RingAddress {
    /// Checks that `ranks` ranks can each get a port now, before any rank is started.
    ///
    /// # Errors
    /// [`enum@Error`].
    pub fn check(&self, ranks: usize) -> Result<(), Error> {
        let ip = self.listening_ip()?;
        if *self.ports.start() == 0 {
            return Ok(());
        }
        if self.ports.len() < ranks {
            let (address, ports) = (self.clone(), self.ports.len());
            return Err(Error::TooFew { address, ports, ranks });
        }
        // Keeps the ports bound until enough are found.
        let mut found = Vec::new();
        for port in self.ports.clone() {
            if found.len() < ranks {
                found.extend(bind(ip, port)?);
            }
        }
        match found.len() {
            free if free < ranks => Err(Error::InUse { address: self.clone(), free, ranks }),
            _ => Ok(()),
        }
    }

    /// Listens on the first free port. Returns the listener and the address to publish to peers.
    ///
    /// # Errors
    /// [`enum@Error`].
    pub fn listen(&self) -> Result<(Listener, String), Error> {
        let ip = self.listening_ip()?;
        for port in self.ports.clone() {
            if let Some(listener) = bind(ip, port)? {
                let published = format!("{}:{}", self.bracketed(), listener.local_addr().port());
                return Ok((listener, published));
            }
        }
        Err(Error::InUse { address: self.clone(), free: 0, ranks: 1 })
    }

    /// The IP address to bind. If the host is an address of this machine, that address, so that no other network is
    /// exposed; else all addresses of its family, since a proxy or NAT in front passes connections on.
    fn listening_ip(&self) -> Result<IpAddr, Error> {
        let unknown = |source| Error::Unknown { host: self.host.clone(), source };
        let found = (self.host.as_str(), 0).to_socket_addrs().map_err(unknown)?;
        let found: Vec<_> = found.map(|address| address.ip()).collect();
        let first = found.first().ok_or_else(|| unknown(ErrorKind::NotFound.into()))?;
        // Debian resolves a host's own name to 127.0.1.1, where no peer can reach it.
        let loopback_is_meant = self.host == "localhost" || self.host.parse::<IpAddr>().is_ok();
        let is_local = |ip: &&IpAddr| {
            (loopback_is_meant || !ip.is_loopback()) && UdpSocket::bind((**ip, 0)).is_ok()
        };
        Ok(found.iter().find(is_local).copied().unwrap_or(match first {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        }))
    }

    fn bracketed(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }
}

/// A listener on `port`; `None` if the port is in use.
fn bind(ip: IpAddr, port: u16) -> Result<Option<Listener>, Error> {
    match Listener::bind(&SocketAddr::new(ip, port).to_string()) {
        Ok(listener) => Ok(Some(listener)),
        Err(collective::Error::Host { source, .. }) if source.kind() == ErrorKind::AddrInUse => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Listens for the peers of the rank in this slot: at `ring_address`, else at the local address used to reach the
/// coordinator. Retries for as long as a name cannot be resolved or there is no route.
///
/// # Errors
/// [`Error::InUse`], [`Error::Listen`].
pub async fn listen(
    slot: &str,
    ring_address: Option<RingAddress>,
    coordinator: String,
) -> Result<(Listener, String), Error> {
    let attempt = Arc::new(move || match &ring_address {
        Some(address) => address.listen(),
        None => listen_on_route_to(&coordinator),
    });
    let mut logged = BTreeSet::new();
    loop {
        let attempt = attempt.clone();
        // Resolving a name blocks.
        let listening = tokio::task::spawn_blocking(move || attempt()).await;
        match listening.expect("listening does not panic") {
            Err(error) if error.may_pass() => {
                let why = proto::error::chain(&error);
                if logged.insert(why.clone()) {
                    tracing::warn!(slot, why, "cannot determine an address for peers; retrying");
                }
                pause().await;
            }
            outcome => return outcome,
        }
    }
}

/// Listens on any free port of the local address used to reach the coordinator; peers can reach that address, too.
fn listen_on_route_to(coordinator: &str) -> Result<(Listener, String), Error> {
    let ip = own_ip(coordinator)?;
    let listener = Listener::bind(&SocketAddr::new(ip, 0).to_string())?;
    let published = listener.local_addr().to_string();
    Ok((listener, published))
}

fn own_ip(coordinator: &str) -> Result<IpAddr, Error> {
    let authority = coordinator.split_once("://").map_or(coordinator, |(_, rest)| rest);
    let authority = authority.trim_end_matches('/');
    let unknown = |source| Error::Unknown { host: authority.to_owned(), source };
    let mut found = authority.to_socket_addrs().map_err(unknown)?;
    let target = found.next().ok_or_else(|| unknown(ErrorKind::NotFound.into()))?;
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let ask = || {
        // Connecting a datagram socket sends nothing: it only selects the route that packets would take.
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(target)?;
        Ok(socket.local_addr()?.ip())
    };
    ask().map_err(|source| Error::NoRoute { coordinator: coordinator.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> RingAddress {
        text.parse().unwrap()
    }

    #[test]
    fn hosts_ports_and_ranges_are_parsed_and_printed_alike() {
        for text in [
            "node1",
            "node1:7100",
            "node1:7100-7110",
            "10.0.0.7:7100-7110",
            "[2001:db8::1]",
            "[2001:db8::1]:7100",
            "[2001:db8::1]:7100-7110",
        ] {
            assert_eq!(address(text).to_string(), text);
        }
        for bad in [
            "",
            ":7100",
            "node1:",
            "node1:0",
            "node1:x",
            "node1:7110-7100",
            "node1:7100-",
            "node1:70000",
            "2001:db8::1",
            "[2001:db8::1",
            "[node1]:7100",
            "[::1]7100",
            "http://node1:7100",
        ] {
            assert!(bad.parse::<RingAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn each_rank_takes_the_first_free_port_of_the_range() {
        let (taken, _) = address("127.0.0.1").listen().unwrap();
        let port = taken.local_addr().port();
        let range = address(&format!("127.0.0.1:{port}-{}", port.saturating_add(50)));
        range.check(2).unwrap();
        let (first, published) = range.listen().unwrap();
        assert_eq!(published, first.local_addr().to_string());
        let (second, _) = range.listen().unwrap();
        assert!(port < first.local_addr().port());
        assert!(first.local_addr().port() < second.local_addr().port());
    }

    #[test]
    fn an_unusable_address_is_reported_before_any_rank_starts() {
        let (taken, _) = address("127.0.0.1").listen().unwrap();
        let port = taken.local_addr().port();
        let refusal = |text: &str, ranks| {
            let error = address(text).check(ranks).unwrap_err();
            proto::error::chain(&error)
        };
        let one = format!("127.0.0.1:{port}");
        assert!(
            refusal(&one, 1)
                .starts_with(&format!("`{one}` has too few free ports: 0, and this node needs 1"))
        );
        assert!(
            refusal(&one, 2)
                .starts_with(&format!("`{one}` has too few ports: 1, and this node needs 2"))
        );
        assert!(
            refusal("no.such.host.invalid:7100", 1)
                .starts_with("`no.such.host.invalid` cannot be resolved")
        );
    }

    #[test]
    fn the_address_of_a_proxy_is_published_and_not_bound() {
        // A documentation address (RFC 5737), which belongs to no machine.
        let (listener, published) = address("203.0.113.7").listen().unwrap();
        assert!(listener.local_addr().ip().is_unspecified());
        assert_eq!(published, format!("203.0.113.7:{}", listener.local_addr().port()));
    }

    #[test]
    fn ipv6_addresses_are_published_in_brackets() {
        if UdpSocket::bind("[::1]:0").is_err() {
            return println!("skipped: this host has no IPv6");
        }
        let (listener, published) = listen_on_route_to("http://[::1]:7070").unwrap();
        assert_eq!(published, format!("[::1]:{}", listener.local_addr().port()));
        let (listener, published) = address("[::1]").listen().unwrap();
        assert_eq!(published, format!("[::1]:{}", listener.local_addr().port()));
    }
}

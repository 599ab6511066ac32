//! HTTP clients: their TLS library, their timeouts, and where they may go for a spec.

use crate::allow::{Allowed, Refused, check_host, is_of_link};
use crate::patience::Limits;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::HeaderMap;
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, ClientBuilder, Url};
use std::sync::{Arc, Once};
use std::time::Duration;

/// Maximum number of redirects of a request, as in curl's documentation and reqwest's default.
const REDIRECTS: usize = 10;

/// Makes clients for what a spec names: they ask no address of the host's own link, and follow no redirect to a place
/// that is not allowed.
#[derive(Debug)]
pub(crate) struct Guarded {
    pub(crate) limits: Limits,
    pub(crate) headers: HeaderMap,
    pub(crate) redirects: Redirects,
}

/// Where a server may redirect to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Redirects {
    /// To what specs may name.
    Allowed(&'static Allowed),
    /// To any host, as the operator trusts the server.
    Anywhere,
}

impl HttpConnector for Guarded {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = guarded((self.limits.connect, self.limits.request), self.redirects)
            .default_headers(self.headers.clone())
            .build();
        let generic =
            |e| object_store::Error::Generic { store: "HTTP client", source: Box::new(e) };
        let client = client.map_err(generic)?;
        Ok(HttpClient::new(Checked { client, redirects: self.redirects }))
    }
}

/// A client that checks each request. Its refusals are not taken for a failure of the network, which would be retried.
#[derive(Debug)]
struct Checked {
    client: Client,
    redirects: Redirects,
}

#[async_trait::async_trait]
impl HttpService for Checked {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let refused = |refused: Refused| HttpError::new(HttpErrorKind::Unknown, refused);
        if let Redirects::Allowed(allowed) = self.redirects
            && let Ok(url) = Url::parse(&request.uri().to_string())
        {
            allowed.check_url(&url).map_err(refused)?;
        }
        self.client.call(request).await.map_err(|error| match Refused::among(&error) {
            Some(found) => refused(found),
            None => error,
        })
    }
}

/// A guarded client with these timeouts: for connecting, and for a request.
pub(crate) fn guarded(
    (connect, request): (Duration, Duration),
    redirects: Redirects,
) -> ClientBuilder {
    use_ring();
    Client::builder()
        .connect_timeout(connect)
        .timeout(request)
        .dns_resolver(Arc::new(Resolver))
        .redirect(Policy::custom(move |attempt| {
            if attempt.previous().len() > REDIRECTS {
                return attempt.error("too many redirects");
            }
            match check_redirect(&attempt, redirects) {
                Ok(()) => attempt.follow(),
                Err(refused) => attempt.error(refused),
            }
        }))
}

fn check_redirect(attempt: &Attempt<'_>, redirects: Redirects) -> Result<(), Refused> {
    let (from, to) = (attempt.previous().last(), attempt.url());
    if from.map(Url::scheme) == Some("https") && to.scheme() != "https" {
        return Err(Refused::Plain(to.host_str().unwrap_or_default().to_owned()));
    }
    match redirects {
        Redirects::Allowed(allowed) => allowed.check_url(to),
        Redirects::Anywhere => check_host(to),
    }
}

/// Resolves names as the system does, and leaves out addresses of the host's own link.
struct Resolver;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let name = name.as_str().to_owned();
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let (link, rest): (Vec<_>, Vec<_>) = found.partition(|at| is_of_link(at.ip()));
            match (rest.is_empty(), link.first()) {
                (true, Some(_)) => Err(Refused::Link(name).into()),
                _ => Ok(Box::new(rest.into_iter()) as Addrs),
            }
        })
    }
}

/// Sets the TLS library of the process, unless one is set already.
pub(crate) fn use_ring() {
    static CHOSEN: Once = Once::new();
    CHOSEN.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

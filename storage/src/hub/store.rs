//! A read-only store for a repository on the hub at a commit. Listings use the hub's API; files are read like those
//! of any web server.
//!
//! A commit never changes, so objects have neither ETag nor time. The hub redirects to a content delivery network,
//! whose ETags and times differ from day to day.

use super::{File, Hub};
use crate::client::{Guarded, Redirects};
use crate::patience::Patience;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::http::{HttpBuilder, HttpStore};
use object_store::path::Path;
use object_store::{
    ClientOptions, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use proto::spec::hub::{Commit, Kind};
use std::fmt;

/// A repository at a commit.
#[derive(Debug)]
pub(crate) struct HubStore {
    hub: Hub,
    kind: Kind,
    repo: String,
    commit: Commit,
    files: HttpStore,
}

impl HubStore {
    pub(crate) fn new(
        hub: Hub,
        kind: Kind,
        repo: &str,
        commit: &Commit,
        patience: Patience,
    ) -> Result<Self> {
        let (limits, headers) = (patience.limits(), hub.headers().clone());
        let guarded = Guarded { limits, headers, redirects: Redirects::Anywhere };
        let files = HttpBuilder::new()
            .with_url(hub.resolve_url(kind, repo, commit))
            .with_client_options(ClientOptions::new().with_allow_http(true))
            .with_http_connector(guarded)
            .with_retry(patience.limits().retry())
            .build()?;
        Ok(Self { hub, kind, repo: repo.to_owned(), commit: commit.clone(), files })
    }

    fn read_only<T>(&self, operation: &str) -> Result<T> {
        let (operation, implementer) = (operation.to_owned(), self.to_string());
        Err(Error::NotImplemented { operation, implementer })
    }
}

impl fmt::Display for HubStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf://{}{}@{}", self.kind.prefix(), self.repo, self.commit)
    }
}

#[async_trait::async_trait]
impl ObjectStore for HubStore {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let options = GetOptions { if_match: None, ..options };
        let mut found = self.files.get_opts(location, options).await?;
        found.meta.e_tag = None;
        found.meta.last_modified = Default::default();
        Ok(found)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (hub, repo, commit) = (self.hub.clone(), self.repo.clone(), self.commit.clone());
        let (kind, prefix) = (self.kind, prefix.map(ToString::to_string).unwrap_or_default());
        let listed = async move {
            let generic = |e: super::Error| Error::Generic { store: "hub", source: Box::new(e) };
            let files = hub.files(kind, &repo, &commit, &prefix).await.map_err(generic)?;
            let object = |file: File| {
                Ok(ObjectMeta {
                    location: Path::parse(&file.path)?,
                    last_modified: Default::default(),
                    size: file.bytes,
                    e_tag: None,
                    version: None,
                })
            };
            Ok::<_, Error>(futures::stream::iter(files.into_iter().map(object)))
        };
        futures::stream::once(listed).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        self.read_only("list_with_delimiter")
    }

    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        self.read_only("put")
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.read_only("put")
    }

    fn delete_stream(
        &self,
        _: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        futures::stream::iter([self.read_only("delete")]).boxed()
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        self.read_only("copy")
    }
}

//! The kinds of stores, and hints for their errors.

/// The kind of a store, on which the meaning of its errors depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Local,
    S3,
    Gcs,
    Azure,
    Web,
    Hub,
}

impl Kind {
    /// How to fix the most likely cause of an error reply with this status and code.
    pub(crate) fn hint(self, status: u16, code: &str) -> Option<&'static str> {
        match (self, status, code) {
            (Self::S3, _, "NoSuchBucket") => {
                Some("name a bucket that exists; Muster does not create buckets")
            }
            (Self::S3, _, "InvalidAccessKeyId" | "SignatureDoesNotMatch") => Some(
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not a key pair of this endpoint",
            ),
            (Self::S3, _, "ExpiredToken") => Some("AWS_SESSION_TOKEN has expired: renew it"),
            (Self::Gcs | Self::Azure, 404, _) => {
                Some("name a bucket or container that exists; Muster does not create it")
            }
            (Self::Azure, 401 | 403, _) => Some(
                "check AZURE_STORAGE_ACCOUNT_KEY, or the permissions of this identity in the container",
            ),
            (Self::S3, 403, "") => {
                Some("check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the bucket's policy")
            }
            (Self::S3 | Self::Gcs, 401 | 403, _) => {
                Some("these credentials do not allow this: check the bucket's policy")
            }
            (Self::Hub, 401 | 403, _) => {
                Some("set HF_TOKEN to a token that may read it; accept the terms if it is gated")
            }
            (Self::Web, 401 | 403, _) => Some("only URLs that need no sign-in can be read"),
            (Self::Web, 405 | 501, _) => {
                Some("the server must support HEAD requests and GET requests with a range")
            }
            _ => None,
        }
    }

    /// How to set credentials for this kind of store.
    pub(crate) fn credentials(self) -> Option<&'static str> {
        match self {
            Self::S3 => Some(
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, \
                 or AWS_SKIP_SIGNATURE=true for a public bucket; profiles are not read",
            ),
            Self::Gcs => Some("set GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT"),
            Self::Azure => {
                Some("set AZURE_STORAGE_ACCOUNT_KEY, or a client's id, secret and tenant")
            }
            Self::Local | Self::Web | Self::Hub => None,
        }
    }

    /// Whether objects can have custom metadata.
    pub(crate) fn keeps_attributes(self) -> bool {
        match self {
            Self::S3 | Self::Gcs | Self::Azure => true,
            Self::Local | Self::Web | Self::Hub => false,
        }
    }

    /// The hint if credentials could not be requested from a service.
    pub(crate) fn identity(self) -> &'static str {
        match self {
            Self::S3 => "check AWS_ENDPOINT_URL_STS, AWS_REGION and the network",
            Self::Azure | Self::Gcs | Self::Local | Self::Web | Self::Hub => {
                "check the configuration of the credentials, and the network"
            }
        }
    }

    /// The hint if the store cannot be reached.
    pub(crate) fn address(self) -> &'static str {
        match self {
            Self::S3 => "check AWS_ENDPOINT_URL, AWS_REGION and AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
            Self::Azure => "check AZURE_STORAGE_ACCOUNT_NAME and AZURE_ENDPOINT",
            Self::Hub => "check HF_ENDPOINT",
            Self::Local | Self::Gcs | Self::Web => "check the address and the network",
        }
    }
}

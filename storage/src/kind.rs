//! The kinds of stores, and the hints that go with their refusals.

/// What kind of store a storage is in: what its errors mean differs.
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
    /// What usually mends an answer of this status and code.
    pub(crate) fn hint(self, status: u16, code: &str) -> Option<&'static str> {
        match (self, status, code) {
            (Self::S3, _, "NoSuchBucket") => Some("name a bucket that is there; Muster makes none"),
            (Self::S3, _, "InvalidAccessKeyId" | "SignatureDoesNotMatch") => Some(
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not a pair that this endpoint knows",
            ),
            (Self::S3, _, "ExpiredToken") => Some("AWS_SESSION_TOKEN has expired: renew it"),
            (Self::Gcs | Self::Azure, 404, _) => {
                Some("name a bucket or container that is there; Muster makes none")
            }
            (Self::Azure, 401 | 403, _) => Some(
                "look at AZURE_STORAGE_ACCOUNT_KEY, or at what this identity may do in the container",
            ),
            (Self::S3, 403, "") => Some(
                "look at AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or at the bucket's policy",
            ),
            (Self::S3 | Self::Gcs, 401 | 403, _) => {
                Some("these credentials may not do this here: look at the bucket's policy")
            }
            (Self::Hub, 401 | 403, _) => {
                Some("set HF_TOKEN to a token that may read it; a gated one has terms to accept")
            }
            (Self::Web, 401 | 403, _) => Some("only addresses that need no sign-in can be read"),
            (Self::Web, 405 | 501, _) => {
                Some("the server must answer HEAD and ranged GET requests")
            }
            _ => None,
        }
    }

    /// Where credentials are looked for.
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

    /// Whether a note can go with an object.
    pub(crate) fn keeps_attributes(self) -> bool {
        match self {
            Self::S3 | Self::Gcs | Self::Azure => true,
            Self::Local | Self::Web | Self::Hub => false,
        }
    }

    /// What decides who is asked for credentials.
    pub(crate) fn identity(self) -> &'static str {
        match self {
            Self::S3 => "look at AWS_ENDPOINT_URL_STS, AWS_REGION, and at the network",
            Self::Azure | Self::Gcs | Self::Local | Self::Web | Self::Hub => {
                "look at the credentials' configuration, and at the network"
            }
        }
    }

    /// What decides whom is talked to.
    pub(crate) fn address(self) -> &'static str {
        match self {
            Self::S3 => "look at AWS_ENDPOINT_URL, AWS_REGION and AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
            Self::Azure => "look at AZURE_STORAGE_ACCOUNT_NAME and AZURE_ENDPOINT",
            Self::Hub => "look at HF_ENDPOINT",
            Self::Local | Self::Gcs | Self::Web => "look at the address, and at the network",
        }
    }
}

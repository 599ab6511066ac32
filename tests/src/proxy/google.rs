//! Google's XML API before an S3 server: the two differ in the names of headers. It is how Google documents it, not
//! Google.

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue, IF_NONE_MATCH};

/// Google's names, and S3's.
const NAMES: [(&str, &str); 2] =
    [("x-goog-meta-", "x-amz-meta-"), ("x-goog-copy-source", "x-amz-copy-source")];
/// The generation of an object that is not there is 0.
const GENERATION: &str = "x-goog-if-generation-match";

/// What it lets write; an S3 server knows nothing of it, and refuses any other.
pub(super) const TOKEN: &str = "token-of-google";

/// What Google is asked, as S3 is asked it.
pub(super) fn request(headers: &mut HeaderMap) {
    let bearer =
        headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    if bearer == Some(TOKEN) {
        headers.remove(AUTHORIZATION);
    }
    if headers.remove(GENERATION).is_some_and(|generation| generation == "0") {
        headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
    }
    for (google, s3) in NAMES {
        rename(headers, google, s3);
    }
}

/// What S3 answers, as Google answers it.
pub(super) fn answer(headers: &mut HeaderMap) {
    for (google, s3) in NAMES {
        rename(headers, s3, google);
    }
}

fn rename(headers: &mut HeaderMap, from: &str, to: &str) {
    let renamed = headers.iter().filter_map(|(name, value)| {
        let name = format!("{to}{}", name.as_str().strip_prefix(from)?);
        Some((HeaderName::try_from(name).expect("a header's name"), value.clone()))
    });
    let renamed: Vec<_> = renamed.collect();
    headers.extend(renamed);
}

//! Translates Google's XML API to S3's: the two differ in the names of headers. It follows Google's documentation and
//! is not tested against Google.

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue, IF_NONE_MATCH};

/// Google's names, and S3's.
const NAMES: [(&str, &str); 2] =
    [("x-goog-meta-", "x-amz-meta-"), ("x-goog-copy-source", "x-amz-copy-source")];
/// A precondition on an object's generation, which is 0 for an object that does not exist.
const GENERATION: &str = "x-goog-if-generation-match";

/// The bearer token that is accepted. It is removed before the S3 server sees it; the server refuses any other token.
pub(super) const TOKEN: &str = "token-of-google";

/// Translates a request to Google into one to S3.
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

/// Translates an answer of S3 into one of Google.
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

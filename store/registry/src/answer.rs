//! Answers: errors as JSON, bytes with what caches need to know.

use std::fmt;

use axum::body::Body;
use axum::http::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    IF_NONE_MATCH, RETRY_AFTER,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use serde::Serialize;
use store_repo::{ReadError, StorageError};
use wire::api::ErrorBody;

/// What has a digest for its name never changes.
const FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// What may be another one the next time.
const NEVER: HeaderValue = HeaderValue::from_static("no-store");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// An error of this face.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    status: StatusCode,
    error: String,
    /// A header that says more.
    also: Option<(HeaderName, String)>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, error: String) -> Problem {
        Problem { status, error, also: None }
    }

    pub(crate) fn bad(error: String) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, error)
    }

    pub(crate) fn not_found(error: String) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, error)
    }

    /// A method that is not among these.
    pub(crate) fn method(error: String, allowed: &str) -> Problem {
        let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, error);
        Problem { also: Some((ALLOW, allowed.to_owned())), ..problem }
    }

    /// A range that is not in a resource of `len` bytes (RFC 9110, section 15.5.17).
    pub(crate) fn range(len: u64) -> Problem {
        let error = format!("the range is not in the pack, which has {len} bytes");
        let problem = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, error);
        Problem { also: Some((CONTENT_RANGE, format!("bytes */{len}"))), ..problem }
    }

    pub(crate) fn with_status(self, status: StatusCode) -> Problem {
        Problem { status, ..self }
    }

    /// Too much at once: to be tried again after some seconds.
    pub(crate) fn later(status: StatusCode, error: String, secs: u64) -> Problem {
        Problem { also: Some((RETRY_AFTER, secs.to_string())), ..Problem::new(status, error) }
    }

    /// As an HTTP answer.
    pub(crate) fn answer(self) -> Response {
        let mut answer = json(self.status, &ErrorBody { error: self.error });
        let headers = answer.headers_mut();
        if let Some((name, value)) = self.also
            && let Some(value) = text(value)
        {
            headers.insert(name, value);
        }
        answer
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Problem {
        match error {
            ReadError::Unknown { .. } => Problem::not_found(error.to_string()),
            other => failed(&other),
        }
    }
}

impl From<StorageError> for Problem {
    fn from(error: StorageError) -> Problem {
        match error {
            StorageError::Missing { .. } => Problem::not_found(error.to_string()),
            other => failed(&other),
        }
    }
}

/// The causes are for the server's log: they may name places on its disk.
pub(crate) fn failed(error: &dyn std::error::Error) -> Problem {
    tracing::error!("{}", wire::chain(error));
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

/// A document, which may be another one the next time.
pub(crate) fn json(status: StatusCode, document: &impl Serialize) -> Response {
    let mut answer = Response::new(Body::from(serde_json::to_vec(document).unwrap_or_default()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    answer.headers_mut().insert(CACHE_CONTROL, NEVER);
    answer
}

fn text(value: String) -> Option<HeaderValue> {
    HeaderValue::from_str(&value).ok()
}

/// Which bytes are sent, and what they are of.
pub(crate) struct Content {
    /// Strong name of the whole, without quotes.
    pub etag: String,
    /// Whether the whole never changes.
    pub immutable: bool,
    /// Whether ranges of it can be asked for.
    pub ranges: bool,
    /// Bytes of the body.
    pub len: u64,
    /// For a part: its first and last byte, and the length of the whole.
    pub part: Option<(u64, u64, u64)>,
}

impl Content {
    /// Something whole with an unchanging name.
    pub(crate) fn whole(etag: String, len: u64) -> Content {
        Content { etag, immutable: true, ranges: false, len, part: None }
    }

    /// The answer with this body (RFC 9110, sections 8.8.3 and 14.4).
    pub(crate) fn answer(self, body: Body) -> Response {
        let mut answer = Response::new(body);
        if self.part.is_some() {
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        self.describe(answer.headers_mut());
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, OCTETS);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(self.len));
        if let Some((first, last, len)) = self.part
            && let Some(value) = text(format!("bytes {first}-{last}/{len}"))
        {
            headers.insert(CONTENT_RANGE, value);
        }
        answer
    }

    /// The answer to someone who has it already (RFC 9110, section 15.4.5).
    pub(crate) fn not_modified(self) -> Response {
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        self.describe(answer.headers_mut());
        answer
    }

    /// Whether the client said that it has this (RFC 9110, section 13.1.2).
    pub(crate) fn is_at(&self, request: &HeaderMap) -> bool {
        let quoted = format!("\"{}\"", self.etag);
        request
            .get_all(IF_NONE_MATCH)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(|tag| tag.trim().trim_start_matches("W/"))
            .any(|tag| tag == "*" || tag == quoted)
    }

    fn describe(&self, headers: &mut HeaderMap) {
        if let Some(value) = text(format!("\"{}\"", self.etag)) {
            headers.insert(ETAG, value);
        }
        headers.insert(CACHE_CONTROL, if self.immutable { FOR_EVER } else { NEVER });
        if self.ranges {
            headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        }
    }
}

/// Bytes at hand as an answer, unless the client has them.
pub(crate) fn bytes(content: Content, request: &HeaderMap, bytes: Bytes) -> Response {
    match content.is_at(request) {
        true => content.not_modified(),
        false => content.answer(Body::from(bytes)),
    }
}

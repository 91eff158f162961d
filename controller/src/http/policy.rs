//! The policy that is in force, and another in its place.

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::header::{ETAG, IF_MATCH};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use wire::Digest;
use wire::admin::PolicyStatus;

use super::App;
use super::body::{Failure, Text};

/// The digest that `If-Match` names: a change without one might overwrite
/// somebody else's.
pub(super) struct InsteadOf(Digest);

impl<S: Send + Sync> FromRequestParts<S> for InsteadOf {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<InsteadOf, Failure> {
        let tag = parts.headers.get(IF_MATCH).and_then(|value| value.to_str().ok());
        let quoted = tag.and_then(|tag| tag.trim().strip_prefix('"')?.strip_suffix('"'));
        match quoted.map(str::parse) {
            Some(Ok(digest)) => Ok(InsteadOf(digest)),
            _ => Err(Failure::new(
                StatusCode::PRECONDITION_REQUIRED,
                "the request does not say which policy it replaces: give the ETag of \
                 GET /v1/policy as If-Match",
            )),
        }
    }
}

pub(super) async fn show(State(app): State<App>) -> Response {
    tagged(app.controller.policy().status())
}

pub(super) async fn replace(
    State(app): State<App>,
    InsteadOf(digest): InsteadOf,
    Text(text): Text,
) -> Result<Response, Failure> {
    let replaced = app.controller.replace_policy(text, digest).await;
    app.answer(replaced).map(|super::Json(status)| tagged(status))
}

fn tagged(status: PolicyStatus) -> Response {
    let tag = status.digest.map(|digest| [(ETAG, format!("\"{digest}\""))]);
    (tag, Json(status)).into_response()
}

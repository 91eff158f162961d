//! Requests and answers as JSON; every refusal is an [`ErrorBody`] that says
//! what was wrong.

use std::fmt::Display;
use std::str::FromStr;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wire::api::ErrorBody;

use crate::policy::{self, ReplaceError};
use crate::service::ControllerError;

/// Longest body of an operator's request, in bytes, but for a policy.
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// A refusal: its status and what went wrong.
pub(super) struct Failure {
    status: StatusCode,
    error: String,
}

impl Failure {
    pub fn new(status: StatusCode, error: impl Into<String>) -> Failure {
        Failure { status, error: error.into() }
    }

    fn bad(error: impl Into<String>) -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, error)
    }
}

impl From<ControllerError> for Failure {
    fn from(error: ControllerError) -> Failure {
        let status = match &error {
            ControllerError::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
            ControllerError::Missing(_) => StatusCode::NOT_FOUND,
            ControllerError::Conflict(_) => StatusCode::CONFLICT,
            ControllerError::Images { .. } | ControllerError::Busy => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            ControllerError::Policy(error) => status_of(error),
            ControllerError::Db(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        if status.is_server_error() {
            tracing::error!(error = wire::chain(&error), "request failed");
        } else {
            tracing::warn!(%error, "request refused");
        }
        Failure { status, error: error.to_string() }
    }
}

fn status_of(error: &ReplaceError) -> StatusCode {
    match error {
        ReplaceError::NoFile | ReplaceError::ReadOnly { .. } | ReplaceError::Wrong { .. } => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        ReplaceError::Stale { .. } | ReplaceError::Edited { .. } => StatusCode::PRECONDITION_FAILED,
        ReplaceError::Unwritten { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, axum::Json(ErrorBody { error: self.error })).into_response()
    }
}

/// A JSON body of at most so many bytes, and an answer of any length.
pub(super) struct Json<T, const BYTES_MAX: usize = REQUEST_BYTES_MAX>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl<S: Send + Sync, T: DeserializeOwned, const BYTES_MAX: usize> FromRequest<S>
    for Json<T, BYTES_MAX>
{
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Json<T, BYTES_MAX>, Failure> {
        let bytes = body(request, state, BYTES_MAX).await?;
        serde_json::from_slice(&bytes)
            .map(Json)
            .map_err(|error| Failure::bad(format!("the body is not the JSON expected: {error}")))
    }
}

/// A body of text, as long as a policy may be.
pub(super) struct Text(pub String);

impl<S: Send + Sync> FromRequest<S> for Text {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Text, Failure> {
        let bytes = body(request, state, policy::BYTES_MAX).await?;
        match String::from_utf8(bytes.into()) {
            Ok(text) => Ok(Text(text)),
            Err(_) => Err(Failure::bad("the body is not text in UTF-8")),
        }
    }
}

async fn body<S: Send + Sync>(
    mut request: Request,
    state: &S,
    bytes_max: usize,
) -> Result<Bytes, Failure> {
    DefaultBodyLimit::max(bytes_max).apply(&mut request);
    Bytes::from_request(request, state).await.map_err(|rejection| {
        let status = rejection.status();
        let error = match status {
            StatusCode::PAYLOAD_TOO_LARGE => {
                format!("the body is too long: {bytes_max} bytes are most here")
            }
            _ => format!("the body could not be read: {}", rejection.body_text()),
        };
        Failure { status, error }
    })
}

/// The id in the path.
pub(super) struct Id<T>(pub T);

impl<S, T> FromRequestParts<S> for Id<T>
where
    S: Send + Sync,
    T: FromStr<Err: Display> + Send,
{
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Id<T>, Failure> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let Path(text) = path.map_err(|error| Failure::bad(error.body_text()))?;
        text.parse().map(Id).map_err(|error: T::Err| Failure::bad(error.to_string()))
    }
}

/// The query's fields.
pub(super) struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Query<T>, Failure> {
        let query = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        match query {
            Ok(axum::extract::Query(fields)) => Ok(Query(fields)),
            Err(error) => Err(Failure::bad(error.body_text())),
        }
    }
}

//! The routes of uploads.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::Response;
use axum::routing::{get, post};
use bytes::Bytes;
use serde::Deserialize;
use store_format::frame::FRAME_MAX;
use store_format::upload::{COMMIT_BYTES_MAX, IDS_BYTES_MAX, decode_ids, encode_ids};
use wire::Reference;
use wire::upload::{Begun, State as Progress};

use crate::answer::{Problem, json};
use crate::metrics::Metrics;
use crate::uploads::{Uploads, problem};

/// How long a body may take to come.
const BODY_WAIT: Duration = Duration::from_secs(10 * 60);

/// What the routes share.
#[derive(Clone)]
struct Shared {
    /// None where uploads are not taken.
    uploads: Option<Arc<Uploads>>,
    metrics: Arc<Metrics>,
}

type Answer = Result<Response, Problem>;

/// The routes of uploads, to be merged into a larger router; without `uploads`
/// they say that none are taken.
pub fn upload_routes(uploads: Option<Arc<Uploads>>, metrics: Arc<Metrics>) -> Router {
    let only_post = |method, uri| other_method(method, uri, "POST");
    Router::new()
        .route("/v1/uploads", post(begin).fallback(only_post))
        .route(
            "/v1/uploads/{upload}",
            get(state).delete(end).fallback(|method, uri| other_method(method, uri, "GET, DELETE")),
        )
        .route("/v1/uploads/{upload}/missing", post(missing).fallback(only_post))
        .route("/v1/uploads/{upload}/frames", post(frame).fallback(only_post))
        .route("/v1/uploads/{upload}/commit", post(commit).fallback(only_post))
        .with_state(Shared { uploads, metrics })
}

async fn other_method(method: Method, uri: Uri, allowed: &'static str) -> Response {
    let error = format!("{method} is not possible for {}: use {allowed}", uri.path());
    Problem::method(error, allowed).answer()
}

async fn begin(State(shared): State<Shared>) -> Response {
    let answer = async {
        let uploads = shared.uploads()?;
        let upload = uploads.begin().await?;
        let silence_secs = uploads.limits.silence.as_secs();
        Ok(json(StatusCode::CREATED, &Begun { upload, silence_secs }))
    };
    shared.finish(answer.await)
}

async fn state(State(shared): State<Shared>, Path(upload): Path<String>) -> Response {
    let answer = || shared.uploads()?.using(&upload)?.open.state().map(progress);
    shared.finish(answer())
}

async fn end(State(shared): State<Shared>, Path(upload): Path<String>) -> Response {
    let answer = async {
        shared.uploads()?.end(&upload).await?;
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::NO_CONTENT;
        Ok(answer)
    };
    shared.finish(answer.await)
}

async fn missing(
    State(shared): State<Shared>,
    Path(upload): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        let using = shared.uploads()?.using_body(&upload).await?;
        let bytes = read(&headers, body, IDS_BYTES_MAX).await?;
        let ids = decode_ids(&bytes).map_err(|error| Problem::bad(error.to_string()))?;
        let upload = Arc::clone(&using.open.upload);
        let missing = upload.missing(ids, using).await.map_err(problem)?;
        let mut answer = Response::new(Body::from(encode_ids(&missing)));
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(answer)
    };
    shared.finish(answer.await)
}

async fn frame(
    State(shared): State<Shared>,
    Path(upload): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        let using = shared.uploads()?.using_body(&upload).await?;
        let bytes = read(&headers, body, FRAME_MAX as usize).await?;
        let len = bytes.len() as u64;
        let upload = Arc::clone(&using.open.upload);
        let received = upload.frame(bytes, using).await.map_err(problem)?;
        shared.metrics.add_upload_bytes(len);
        Ok(json(StatusCode::OK, &received))
    };
    shared.finish(answer.await)
}

/// What stands behind the `?` of a commit.
#[derive(Deserialize)]
struct Name {
    reference: Option<String>,
}

async fn commit(
    State(shared): State<Shared>,
    Path(upload): Path<String>,
    name: Result<Query<Name>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        let uploads = shared.uploads()?;
        let using = uploads.using_body(&upload).await?;
        let Query(name) = name.map_err(|error| Problem::bad(error.body_text()))?;
        let reference = name.reference.map(|text| reference(&text)).transpose()?;
        let body = read(&headers, body, COMMIT_BYTES_MAX).await?;
        uploads.commit(&using.open, body, reference).await.map(progress)
    };
    shared.finish(answer.await)
}

fn reference(text: &str) -> Result<Reference, Problem> {
    text.parse().map_err(|error: wire::ReferenceError| Problem::bad(error.to_string()))
}

fn progress(state: Progress) -> Response {
    let status = match state {
        Progress::Verifying { .. } => StatusCode::ACCEPTED,
        _ => StatusCode::OK,
    };
    json(status, &state)
}

/// A body whose length is announced, and small enough, before any of it is read.
async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, Problem> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let Some(len) = announced.and_then(|text| text.parse::<u64>().ok()) else {
        let error = "the request does not say how long it is: send Content-Length";
        return Err(Problem::new(StatusCode::LENGTH_REQUIRED, error.to_owned()));
    };
    if len > limit as u64 {
        let error = format!("the request has {len} bytes, and {limit} is the limit: send less");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, error));
    }
    match tokio::time::timeout(BODY_WAIT, to_bytes(body, limit)).await {
        Ok(Ok(bytes)) if bytes.len() as u64 == len => Ok(bytes),
        Ok(_) => Err(Problem::bad("the request ended early: send it again".to_owned())),
        Err(_) => {
            let error = "the request took too long to come: send it again".to_owned();
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, error))
        }
    }
}

impl Shared {
    fn uploads(&self) -> Result<&Arc<Uploads>, Problem> {
        self.uploads.as_ref().ok_or_else(|| {
            let error = "this server takes no uploads: set `uploads = true` in [store] of its \
                         configuration, where all who reach it may store images";
            Problem::new(StatusCode::FORBIDDEN, error.to_owned())
        })
    }

    fn finish(&self, answer: Answer) -> Response {
        answer.unwrap_or_else(|problem| {
            self.metrics.failed_request();
            problem.answer()
        })
    }
}

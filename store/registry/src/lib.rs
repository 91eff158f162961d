//! The HTTP face of a store: images and packs for those who install them, and
//! uploads from those who make them.
//!
//! | route | answer |
//! |---|---|
//! | `GET /v1/images/{digest}` | the image's envelope |
//! | `GET /v1/images/{digest}/table` | its chunk table |
//! | `GET /v1/images/{digest}/locations` | where its chunks are |
//! | `GET /v1/packs/{pack}` | a pack, or one range of it |
//!
//! `HEAD` works for all of these. Where uploads are taken (`docs/upload.md`):
//!
//! | route | answer |
//! |---|---|
//! | `POST /v1/uploads` | begins an upload |
//! | `GET`, `DELETE /v1/uploads/{upload}` | how far it is; ends it |
//! | `POST /v1/uploads/{upload}/missing` | which of some chunks the store lacks |
//! | `POST /v1/uploads/{upload}/frames` | takes chunks |
//! | `POST /v1/uploads/{upload}/commit` | stores the image |
//!
//! Errors are JSON: [`wire::api::ErrorBody`].

mod answer;
mod images;
mod metrics;
mod packs;
mod upload;
mod uploads;

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, Uri};
use axum::response::Response;
use axum::routing::get;
use store_repo::Repo;

pub use metrics::{Metrics, MetricsSnapshot};
pub use upload::upload_routes;
pub use uploads::{Limits, Uploads};

use answer::Problem;

/// What the routes share.
#[derive(Clone)]
struct Shared {
    repo: Arc<Repo>,
    metrics: Arc<Metrics>,
}

/// The routes over a store, and an error for every other path.
pub fn router(repo: Arc<Repo>, metrics: Arc<Metrics>) -> Router {
    routes(repo, metrics).fallback(unknown)
}

/// [`router`] without an answer for other paths, to be merged into a larger one.
pub fn routes(repo: Arc<Repo>, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/v1/images/{digest}", get(images::envelope).fallback(method))
        .route("/v1/images/{digest}/table", get(images::table).fallback(method))
        .route("/v1/images/{digest}/locations", get(images::locations).fallback(method))
        .route("/v1/packs/{pack}", get(packs::pack).fallback(method))
        .with_state(Shared { repo, metrics })
}

async fn unknown(uri: Uri) -> Response {
    Problem::not_found(format!("there is nothing at {}", uri.path())).answer()
}

async fn method(method: Method, uri: Uri) -> Response {
    let error = format!("{method} is not possible for {}: use GET or HEAD", uri.path());
    Problem::method(error, "GET, HEAD").answer()
}

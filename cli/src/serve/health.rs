//! `GET /healthz` and `GET /metrics`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bootsvc_server::BootServer;
use controller::Controller;
use serde::Serialize;
use tracing::error;
use wire::api::ErrorBody;

use super::census;
use super::metrics::{self, Metrics};

/// What the two routes need.
#[derive(Clone)]
pub struct Health {
    /// Whom to count.
    pub controller: Arc<Controller>,
    /// Leases.
    pub boot: Option<Arc<BootServer>>,
    /// What was counted.
    pub metrics: Arc<Metrics>,
}

/// The answer of `/healthz`.
#[derive(Debug, Serialize)]
struct Healthy {
    /// Always `ok`; a server that is not has another status.
    status: &'static str,
    version: &'static str,
    /// Why the policy file as it is now is not in force.
    policy_error: Option<String>,
}

/// The two routes.
pub fn router(health: Health) -> Router {
    Router::new().route("/healthz", get(healthz)).route("/metrics", get(scrape)).with_state(health)
}

/// Asks the database, which everything else depends on.
async fn healthz(State(health): State<Health>) -> Response {
    match health.controller.runs(None, 1).await {
        Ok(_) => Json(Healthy {
            status: "ok",
            version: env!("CARGO_PKG_VERSION"),
            policy_error: health.controller.policy().status().error,
        })
        .into_response(),
        Err(cause) => unavailable(&cause.into()),
    }
}

async fn scrape(State(health): State<Health>) -> Response {
    let text = match census::take(&health.controller, health.boot.as_deref()).await {
        Ok(census) => health.metrics.text(&census).map_err(anyhow::Error::from),
        Err(cause) => Err(cause.into()),
    };
    match text {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(cause) => unavailable(&cause),
    }
}

fn unavailable(cause: &anyhow::Error) -> Response {
    let error = format!("{cause:#}");
    error!(cause = error, "the server is not healthy");
    (StatusCode::SERVICE_UNAVAILABLE, Json(ErrorBody { error })).into_response()
}

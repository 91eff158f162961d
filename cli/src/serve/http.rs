//! The HTTP face: all routes on one socket that is bound early, so that
//! mistakes show early, and drained late.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use bootsvc_server::BootServer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use wire::api::ErrorBody;

use super::health::{self, Health};
use super::metrics::{self, Metrics};
use super::parts::Parts;
use crate::exit::{Code, Failure};

/// How long running transfers may go on after the server was told to stop.
pub const DRAIN: Duration = Duration::from_secs(10);

/// Takes the port.
pub async fn bind(listen: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(listen).await.map_err(|error| {
        let next = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "another process has it (`ss -ltnp` names it): stop that, or change [http] listen"
                    .to_owned()
            }
            std::io::ErrorKind::AddrNotAvailable => {
                format!("no interface has {}: change [http] listen", listen.ip())
            }
            std::io::ErrorKind::PermissionDenied => {
                "ports below 1024 need root: change [http] listen".to_owned()
            }
            _ => "change [http] listen".to_owned(),
        };
        anyhow::Error::new(error)
            .context(Failure::new(Code::Failed, format!("cannot listen on {listen}")).next(next))
    })
}

/// Every route of the server.
pub fn router(parts: &Parts, boot: Option<&Arc<BootServer>>, stop: &CancellationToken) -> Router {
    let controller = parts.controller.clone();
    let store = Arc::new(store_registry::Metrics::default());
    let counted = Metrics::new(controller.metrics(), store.clone(), boot.map(|b| b.counters()));
    let health =
        Health { controller: controller.clone(), boot: boot.cloned(), metrics: counted.clone() };
    let agents = controller::router(controller, controller::system_clock)
        .layer(middleware::from_fn_with_state(stop.clone(), until_stopped));
    boot.map_or_else(Router::new, |boot| boot.router())
        .merge(store_registry::routes(parts.repo.clone(), store.clone()))
        .merge(store_registry::upload_routes(parts.uploads.clone(), store))
        .merge(agents)
        .merge(health::router(health))
        .fallback(nothing_here)
        .layer(middleware::from_fn_with_state(counted, metrics::count))
}

async fn nothing_here(uri: Uri) -> Response {
    let error = format!("there is nothing at {}", uri.path());
    (StatusCode::NOT_FOUND, Json(ErrorBody { error })).into_response()
}

/// Whoever follows a log is let go when the server stops, and asks the next one.
async fn until_stopped(
    State(stop): State<CancellationToken>,
    request: Request,
    next: Next,
) -> Response {
    if !request.uri().path().ends_with(wire::admin::LOG) {
        return next.run(request).await;
    }
    tokio::select! {
        response = next.run(request) => response,
        () = stop.cancelled() => {
            let error = "the server stops; ask again in a moment".to_owned();
            (StatusCode::SERVICE_UNAVAILABLE, Json(ErrorBody { error })).into_response()
        }
    }
}

/// Serves until `stop`, then lets running answers finish for at most [`DRAIN`].
/// Returns whether all of them did.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
) -> anyhow::Result<bool> {
    let listener = listener.tap_io(|stream| {
        // The end of an answer shall not wait until the rest is acknowledged.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection without TCP_NODELAY");
        }
    });
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let server =
        axum::serve(listener, service).with_graceful_shutdown(stop.clone().cancelled_owned());
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = server.into_future() => {
            served.context("cannot go on answering HTTP").map(|()| true)
        }
        () = overdue => Ok(false),
    }
}

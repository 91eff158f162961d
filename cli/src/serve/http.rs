//! The HTTP socket: bound early so that mistakes show early, drained late.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use tokio::net::TcpListener;

use crate::exit::{Code, Failure};

/// How long running transfers may go on after the server was told to stop.
pub const DRAIN: Duration = Duration::from_secs(10);

/// Takes the port.
pub async fn bind(listen: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(listen).await.map_err(|error| {
        let next = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!("another process has it (`ss -ltnp` names it): stop that, or change [http] listen")
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

/// Serves until `stop` ends, then lets running answers finish for at most [`DRAIN`].
/// Returns whether all of them did.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()> + Send + Clone + 'static,
) -> anyhow::Result<bool> {
    let server = axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(stop.clone());
    let overdue = async {
        stop.await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = server => served.context("cannot go on answering HTTP").map(|()| true),
        () = overdue => Ok(false),
    }
}

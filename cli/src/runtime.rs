//! Running library calls until they end or somebody presses Ctrl-C.

use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{Code, Failure};

/// How long work that cannot be interrupted may take to notice.
const LINGER: Duration = Duration::from_secs(1);

/// Runs `work`. On SIGINT or SIGTERM it is dropped, which removes its
/// unfinished files, and the command ends with [`Code::Interrupted`].
pub fn run<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = build()?;
    let result = runtime.block_on(async {
        let told_to_stop = told_to_stop()?;
        tokio::select! {
            result = work => result,
            name = told_to_stop => Err(interrupted(name)),
        }
    });
    runtime.shutdown_timeout(LINGER);
    result
}

/// Threads for library calls.
pub fn build() -> anyhow::Result<Runtime> {
    Builder::new_multi_thread().enable_all().build().context("cannot start worker threads")
}

/// Listens for SIGINT and SIGTERM from this call on; the future names the first.
pub fn told_to_stop() -> anyhow::Result<impl Future<Output = &'static str>> {
    let listen = |kind| signal(kind).context("cannot listen for signals");
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        }
    })
}

fn interrupted(signal: &str) -> anyhow::Error {
    Failure::new(Code::Interrupted, format!("interrupted by {signal}"))
        .next("run it again: what is stored already is not stored twice")
        .into()
}

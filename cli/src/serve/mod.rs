//! `ingot serve`: store, network boot and controller in one process.
//!
//! Everything that can be wrong is found before the first machine is answered,
//! in the order in which people can mend it: configuration, folders, policy,
//! ports, interface, boot assets.

mod advertise;
mod attached;
mod boot;
mod builds;
mod census;
mod glue;
mod health;
mod http;
mod interface;
mod metrics;
mod parts;
mod pool;
mod recipes;
mod settings;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use controller::Controller;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::args::server::Serve;
use crate::config;
use crate::context::Context;
use crate::runtime;
use crate::{logging, render::Out};
use parts::Parts;
pub use recipes::check_recipe;
use settings::Settings;

/// How long threads may go on after everything was stopped.
const LINGER: Duration = Duration::from_secs(1);

/// `ingot serve`.
pub fn serve(args: &Serve, context: &Context) -> anyhow::Result<()> {
    let config = config::load(&args.config)?;
    match args.check {
        true => logging::of_command(context.verbose, &context.out),
        false => logging::of_server(config.log.format, config.log.level, &context.out),
    }
    let settings = Settings::new(config, context)?;
    let runtime = runtime::build()?;
    let result = match args.check {
        true => runtime.block_on(check(&settings, &context.out)),
        false => runtime.block_on(run(&settings)),
    };
    runtime.shutdown_timeout(LINGER);
    result.with_context(|| match args.check {
        true => format!("{} cannot be served as it is", args.config.display()),
        false => "cannot serve".to_owned(),
    })
}

/// Prepares everything, ports included, and gives it back.
async fn check(settings: &Settings, out: &Out) -> anyhow::Result<()> {
    let parts = Parts::open(settings).await?;
    let scratch = tempfile::tempdir().context("cannot make a temporary folder")?;
    if let Some(prepared) = parts.boot(settings, scratch.path())? {
        boot::probe(prepared).await?;
    }
    let report = parts.report(settings);
    if out.json { out.document(&report) } else { out.lines(report.lines()) }
}

/// How often it is looked for machines that are not heard of any more.
const LOOK: Duration = Duration::from_secs(60);

/// Ends what machines began that are not heard of any more, until the server stops.
async fn look_for_silent_machines(controller: Arc<Controller>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
        if let Err(error) = controller.end_silent_attempts(controller::system_clock()).await {
            let cause = wire::chain(&error);
            tracing::error!(cause, "silent machines could not be looked for; trying again");
        }
    }
}

async fn run(settings: &Settings) -> anyhow::Result<()> {
    // Before anybody hears of it: a signal that nobody listens for kills.
    let told_to_stop = runtime::told_to_stop()?;
    let parts = Parts::open(settings).await?;
    let server = match parts.boot(settings, &settings.state)? {
        Some(prepared) => Some(Arc::new(boot::start(prepared, parts.controller.clone()).await?)),
        None => None,
    };
    let stop = CancellationToken::new();
    let router = http::router(&parts, server.as_ref(), &stop);
    let report = parts.report(settings);
    info!(
        url = report.url,
        store = report.store,
        state = report.state,
        rules = report.rules,
        interface = report.interface,
        "ingot serves"
    );
    let Parts { listener, db, controller, uploads, .. } = parts;
    let served = tokio::spawn(http::serve(listener, router, stop.clone()));
    let looked = tokio::spawn(look_for_silent_machines(controller.clone(), stop.clone()));
    let recorded = tokio::spawn(attached::record(controller.clone(), stop.clone()));
    let signal = told_to_stop.await;
    info!(signal, drain_secs = http::DRAIN.as_secs(), "stopping, running transfers may finish");
    controller.stop_builds();
    stop.cancel();
    let whole =
        served.await.context("the HTTP server ended in the middle; please report this")??;
    looked.await.context("looking for silent machines ended in the middle; please report this")?;
    recorded
        .await
        .context("recording where machines are ended in the middle; please report this")?;
    if let Some(server) = &server {
        server.stop().await;
    }
    attached::record_last(&controller).await;
    if let Some(uploads) = uploads {
        uploads.stop().await;
    }
    db.close().await;
    info!(whole, "stopped");
    Ok(())
}

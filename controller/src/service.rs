//! The controller as a library: what agents report, what they are answered,
//! and what operators ask. No sockets; the time is an argument.

mod admin;
mod attached;
mod boot;
mod check_in;
mod decide;
mod dry_run;
mod events;
mod made;
mod policy;
mod recipe;
mod silence;
mod steer;
mod steps;
mod turn;
mod why;

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;
use wire::admin::{RunState, UnixMs};
use wire::{Digest, Reference};

use crate::build::{BuildOptions, Builder, Builds, Shared};
use crate::db::machine::Machine;
use crate::db::{Connection, Db, DbError, run};
use crate::metrics::Metrics;
use crate::policy::{PolicyFile, ReplaceError};
use crate::state::{Changes, Recorded, Report, Run, reconcile};

pub use boot::{BootAnswer, BootClient};

/// Finds and names images. The store does this; a test has a table.
pub trait Images: Send + Sync {
    /// The image that a reference means now; none where there is none.
    fn resolve<'a>(&'a self, reference: &'a Reference) -> Asking<'a, Option<Digest>>;

    /// Lets a reference mean this image, whatever it meant before; false where
    /// there is no such image.
    fn name<'a>(&'a self, image: &'a Digest, reference: &'a Reference) -> Asking<'a, bool>;
}

/// An answer of [`Images`], to be awaited.
pub type Asking<'a, T> =
    Pin<Box<dyn Future<Output = Result<T, Box<dyn Error + Send + Sync>>> + Send + 'a>>;

/// Where the names of new records come from.
pub trait Random: Send + Sync {
    /// Twelve hex digits, never the same twice.
    fn name(&self) -> String;
}

/// Names from the system's random numbers.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn name(&self) -> String {
        let number = getrandom::u64().unwrap_or_else(|error| {
            // Never seen on Linux after boot. A clock is no worse for a name
            // that only has to differ: records are not overwritten by it.
            tracing::error!(%error, "no random numbers: names come from the clock");
            let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
            u64::try_from(now.as_nanos()).unwrap_or_default()
        });
        format!("{:012x}", number & 0xffff_ffff_ffff)
    }
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// What was sent is not right.
    #[error("{0}")]
    Refused(String),
    /// What was asked for is not there.
    #[error("{0}")]
    Missing(String),
    /// What was told does not fit what is on record.
    #[error("{0}")]
    Conflict(String),
    /// The store could not be asked.
    #[error("the store could not tell which image {reference} is: try again")]
    Images {
        /// What was looked for, or to be named.
        reference: Reference,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Operators changed the machine's record again and again meanwhile.
    #[error("the machine's record kept changing: try again")]
    Busy,
    /// The policy was not replaced.
    #[error(transparent)]
    Policy(#[from] ReplaceError),
    /// A record could not be read or written.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<sqlx::Error> for ControllerError {
    fn from(error: sqlx::Error) -> ControllerError {
        ControllerError::Db(error.into())
    }
}

/// Machines, policy, runs and their log.
pub struct Controller {
    db: Db,
    policy: Arc<PolicyFile>,
    images: Arc<dyn Images>,
    random: Arc<dyn Random>,
    metrics: Metrics,
    builds: Builds,
    attached: attached::Attached,
    /// Held by whoever names and records an image that a machine made.
    naming: tokio::sync::Mutex<()>,
    /// Counts what was recorded, for those who wait for it.
    news: watch::Sender<u64>,
}

impl Controller {
    /// A controller on these records.
    pub fn new(
        db: Db,
        policy: PolicyFile,
        images: Arc<dyn Images>,
        random: Arc<dyn Random>,
        builder: Arc<dyn Builder>,
        options: BuildOptions,
    ) -> Controller {
        let news = watch::Sender::new(0);
        let metrics = Metrics { commits: db.commits().clone(), ..Metrics::default() };
        let shared = Shared {
            db: db.clone(),
            images: images.clone(),
            metrics: metrics.clone(),
            news: news.clone(),
        };
        let builds = Builds::new(builder, options, shared);
        let (policy, attached) = (Arc::new(policy), attached::Attached::default());
        let naming = tokio::sync::Mutex::default();
        Controller { db, policy, images, random, metrics, builds, attached, naming, news }
    }

    /// The server is about to stop: builds do not begin any more, and those
    /// that break off are not recorded as failed.
    pub fn stop_builds(&self) {
        self.builds.close();
    }

    /// What it counts.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Its policy.
    pub fn policy(&self) -> &PolicyFile {
        &self.policy
    }

    /// Tells those who wait that something was recorded.
    fn announce(&self) {
        self.news.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Counts and logs what runs became.
    fn note(&self, before: Option<&Run>, changes: &Changes) {
        for run in changes.closed.iter().chain(&changes.run) {
            if before == Some(run) {
                continue;
            }
            self.metrics.changed(before, run);
            tracing::info!(
                machine = %run.machine, run = %run.id, attempt = run.attempt, state = ?run.state,
                image = %run.target, cause = run.cause.as_deref(), "run changed"
            );
        }
    }
}

/// Lets a report change the current run of a machine, and writes what comes of it:
/// the machine's own record is the caller's to write.
async fn advance(
    c: &mut Connection,
    machine: &mut Machine,
    run: &Run,
    report: Report<'_>,
    now: UnixMs,
) -> Result<Option<Changes>, DbError> {
    let (id, held) = (&machine.id, machine.held.as_deref());
    let changes = reconcile(Recorded { machine: id, held, run: Some(run) }, report, now);
    if let Some(changes) = &changes {
        apply(c, machine, Some(run), changes, now).await?;
    }
    Ok(changes)
}

/// Writes what [`reconcile`] said is to be recorded.
async fn apply(
    c: &mut Connection,
    machine: &mut Machine,
    before: Option<&Run>,
    changes: &Changes,
    now: UnixMs,
) -> Result<(), DbError> {
    for run in changes.closed.iter().chain(&changes.run) {
        match before.filter(|before| before.id == run.id) {
            Some(before) if before == run => {}
            Some(_) => run::put(c, run).await?,
            None => run::add(c, run).await?,
        }
        if run.state == RunState::Failed && before.is_some_and(|b| b.state != RunState::Failed) {
            made::failed(c, run, now).await?;
        }
    }
    machine.run = changes.run.as_ref().map(|run| run.id.clone());
    (machine.state, machine.reason) = changes.machine.clone();
    Ok(())
}

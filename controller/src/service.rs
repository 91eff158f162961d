//! The controller as a library: what agents report, what they are answered,
//! and what operators ask. No sockets; the time is an argument.

mod admin;
mod boot;
mod check_in;
mod dry_run;
mod events;
mod recipe;
mod steer;
mod steps;

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;
use wire::{Digest, Facts, Reference};

use crate::build::{BuildOptions, Builder, Builds, Plan, Shared};
use crate::db::machine::Machine;
use crate::db::{Connection, Db, DbError, run};
use crate::metrics::Metrics;
use crate::policy::{ImageOutcome, Outcome, Policy, PolicyFile, Question, Rule};
use crate::state::{Changes, HOLD_RETRY_SECS, Run, Target, Wanted};

pub use boot::{BootAnswer, BootClient};

/// Finds images by reference. The store does this; a test has a table.
pub trait Images: Send + Sync {
    /// The image that a reference means now; none where there is none.
    fn resolve<'a>(&'a self, reference: &'a Reference) -> Resolving<'a>;
}

/// The answer of [`Images::resolve`], to be awaited.
pub type Resolving<'a> =
    Pin<Box<dyn Future<Output = Result<Option<Digest>, Box<dyn Error + Send + Sync>>> + Send + 'a>>;

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
    /// The store could not be asked.
    #[error("the store could not tell which image {reference} is: try again")]
    Images {
        /// What was looked for.
        reference: Reference,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Operators changed the machine's record again and again meanwhile.
    #[error("the machine's record kept changing: try again")]
    Busy,
    /// A record could not be read or written.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<sqlx::Error> for ControllerError {
    fn from(error: sqlx::Error) -> ControllerError {
        ControllerError::Db(error.into())
    }
}

/// What the policy says of a machine.
enum Decision<'a> {
    /// This.
    Settled {
        /// What it wants.
        wanted: Wanted,
        /// What the log of a run that begins with it says first.
        note: Option<String>,
    },
    /// That this has to be answered first.
    Open(&'a Question),
    /// That it gets an image which was not made yet.
    Unbuilt {
        /// The rule that says so.
        rule: String,
        /// How it is made.
        plan: Box<dyn Plan>,
    },
}

impl From<Wanted> for Decision<'_> {
    fn from(wanted: Wanted) -> Self {
        Decision::Settled { wanted, note: None }
    }
}

/// Machines, policy, runs and their log.
pub struct Controller {
    db: Db,
    policy: PolicyFile,
    images: Arc<dyn Images>,
    random: Arc<dyn Random>,
    metrics: Metrics,
    builds: Builds,
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
        Controller { db, policy, images, random, metrics, builds, news }
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

    /// What is wanted of a machine, as it stands.
    async fn wanted(&self, policy: &Policy, record: &Machine) -> Result<Wanted, ControllerError> {
        let decision = self.decide_for(policy, &record.facts(), record.deploy.as_ref()).await?;
        Ok(match decision {
            Decision::Settled { wanted, .. } => wanted,
            Decision::Open(question) => Wanted::Hold(check_in::waits_for_answer(question)),
            Decision::Unbuilt { rule, plan } => self.unbuilt(&rule, plan.configuration()),
        })
    }

    /// What the policy says of a machine with these facts.
    async fn decide<'a>(
        &self,
        policy: &'a Policy,
        facts: &Facts,
    ) -> Result<Decision<'a>, ControllerError> {
        if let Some(question) = policy.unanswered(facts) {
            return Ok(Decision::Open(question));
        }
        let Some(rule) = policy.decide(facts) else {
            let reason = "no rule of the policy matches this machine: `ingot policy why` tells \
                          which facts it was held against";
            return Ok(Wanted::Hold(reason.to_owned()).into());
        };
        Ok(match &rule.outcome {
            Outcome::Hold(reason) => Wanted::Hold(reason.clone()).into(),
            Outcome::Fail(reason) => Wanted::Fail(reason.clone()).into(),
            Outcome::Image(image) => self.image(rule, image).await?.into(),
            Outcome::Recipe(recipe) => self.recipe(policy, rule, recipe, facts).await?,
        })
    }

    /// What a rule that names an image wants.
    async fn image(&self, rule: &Rule, image: &ImageOutcome) -> Result<Wanted, ControllerError> {
        let reference = &image.reference;
        match self.images.resolve(reference).await {
            Ok(Some(digest)) => Ok(Wanted::Deploy(Box::new(Target {
                rule: rule.name.clone(),
                reference: reference.clone(),
                image: digest,
                disk: image.disk.clone(),
                start: image.start,
            }))),
            Ok(None) => Ok(Wanted::Hold(format!(
                "rule {:?} wants the image {reference}, which the store does not have: \
                 `ingot build RECIPE -t {reference}` or `ingot import FILE -t {reference}`; this \
                 machine looks again every {HOLD_RETRY_SECS} s",
                rule.name
            ))),
            Err(source) => Err(ControllerError::Images { reference: reference.clone(), source }),
        }
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
                image = %run.target.reference, cause = run.cause.as_deref(), "run changed"
            );
        }
    }
}

/// Writes what [`crate::state::reconcile`] said is to be recorded.
async fn apply(
    c: &mut Connection,
    machine: &mut Machine,
    before: Option<&Run>,
    changes: &Changes,
) -> Result<(), DbError> {
    for run in changes.closed.iter().chain(&changes.run) {
        match before.filter(|before| before.id == run.id) {
            Some(before) if before == run => {}
            Some(_) => run::put(c, run).await?,
            None => run::add(c, run).await?,
        }
    }
    machine.run = changes.run.as_ref().map(|run| run.id.clone());
    (machine.state, machine.reason) = changes.machine.clone();
    Ok(())
}

//! Runs builds, a limited number at a time, and records how they end.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use wire::admin::UnixMs;
use wire::{Configuration, Digest, Facts, MachineId};

use super::queue::{Queue, Status};
use super::{BuildOptions, Builder, Built, Ending, Plan, Progress, Record};
use crate::db::{Db, DbError, build, event};
use crate::metrics::Metrics;
use crate::service::{ControllerError, Images};

/// What builds share with the rest of the controller.
pub(crate) struct Shared {
    pub db: Db,
    pub images: Arc<dyn Images>,
    pub metrics: Metrics,
    /// Counts what was recorded, for those who wait for it.
    pub news: watch::Sender<u64>,
}

/// All builds.
pub(crate) struct Builds {
    builder: Arc<dyn Builder>,
    site: Arc<Site>,
}

/// What every build needs to have.
struct Site {
    shared: Shared,
    options: BuildOptions,
    queue: Mutex<Queue>,
    /// One for each build that may run; closed once the server stops.
    slots: Semaphore,
}

impl Builds {
    pub fn new(builder: Arc<dyn Builder>, options: BuildOptions, shared: Shared) -> Builds {
        let slots = Semaphore::new(options.at_once.clamp(1, Semaphore::MAX_PERMITS));
        Builds { builder, site: Arc::new(Site { shared, options, queue: Mutex::default(), slots }) }
    }

    /// What a recipe makes for a machine with these facts.
    pub fn plan(&self, recipe: &Path, facts: &Facts) -> Result<Box<dyn Plan>, String> {
        self.builder.plan(recipe, facts)
    }

    /// How the build of this key ended.
    pub async fn recorded(&self, key: &Digest) -> Result<Option<Record>, DbError> {
        build::get(&mut *self.site.shared.db.read().await?, key).await
    }

    /// The image that came of a build, unless it is gone.
    pub async fn there(&self, record: Option<&Record>) -> Result<Option<Built>, ControllerError> {
        self.site.there(record).await
    }

    /// How the build of a configuration stands, unless it is over.
    pub fn status(&self, key: &Digest) -> Option<Status> {
        self.site.queue().status(key, Instant::now())
    }

    /// Asks for an image. One that is being built, or waits to be, is asked for already.
    pub fn ask(&self, plan: Box<dyn Plan>, now: UnixMs) {
        if self.site.queue().add(plan.configuration().key) {
            tokio::spawn(Work::new(self.site.clone(), plan.configuration(), now).run(plan));
        }
    }

    /// From now on this machine is told what the builds of these keys do, and no others.
    pub async fn watch(
        &self,
        configurations: &[Configuration],
        machine: &MachineId,
        now: UnixMs,
    ) -> Result<(), DbError> {
        let keys: Vec<_> = configurations.iter().map(|configuration| configuration.key).collect();
        let news = self.site.queue().watch(&keys, machine);
        let line = |configuration: &Configuration| {
            let status = self.status(&configuration.key)?;
            let image = configuration.reference();
            Some(format!("waits for {image} ({configuration}): {status}"))
        };
        let new = configurations.iter().filter(|c| news.contains(&c.key));
        let lines: Vec<_> = new.filter_map(line).collect();
        if lines.is_empty() {
            return Ok(());
        }
        self.site.log(std::slice::from_ref(machine), &lines, now).await
    }

    /// Forgets that a build failed, so that it is tried again; whether it had.
    pub async fn forgive(&self, key: &Digest) -> Result<bool, DbError> {
        let mut transaction = self.site.shared.db.write().await?;
        let failed = build::remove_failed(&mut transaction, key).await?;
        transaction.commit().await?;
        Ok(failed)
    }

    /// The server stops: no build begins any more, and none counts as failed.
    pub fn close(&self) {
        self.site.slots.close();
    }
}

impl Site {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing is left half-done in there by a panic: every change is one call.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn there(&self, record: Option<&Record>) -> Result<Option<Built>, ControllerError> {
        let Some(Record { ending: Ending::Built(built), configuration, .. }) = record else {
            return Ok(None);
        };
        // The name keeps the image from being collected, so it is the name that counts.
        let reference = configuration.reference();
        match self.shared.images.resolve(&reference).await {
            Ok(image) if image == Some(built.image) => Ok(Some(built.clone())),
            Ok(_) => Ok(None),
            Err(source) => Err(ControllerError::Images { reference, source }),
        }
    }

    /// Adds lines to the logs of machines.
    async fn log(
        &self,
        machines: &[MachineId],
        lines: &[String],
        now: UnixMs,
    ) -> Result<(), DbError> {
        if machines.is_empty() {
            return Ok(());
        }
        let mut transaction = self.shared.db.write().await?;
        for machine in machines {
            event::note(&mut transaction, machine, None, lines, now).await?;
        }
        transaction.commit().await?;
        self.shared.news.send_modify(|count| *count = count.wrapping_add(1));
        Ok(())
    }
}

/// One build, from being asked for to its end.
struct Work {
    site: Arc<Site>,
    configuration: Configuration,
    /// When it was asked for, by both clocks.
    asked: (UnixMs, Instant),
    /// What counts it, once its end is recorded.
    counter: Option<Counter>,
}

impl Drop for Work {
    fn drop(&mut self) {
        self.site.queue().remove(&self.configuration.key);
        // Last: who sees the count may ask for the next build.
        if let Some(counter) = &self.counter {
            counter.inc();
        }
    }
}

impl Work {
    fn new(site: Arc<Site>, configuration: &Configuration, now: UnixMs) -> Work {
        let (configuration, asked) = (configuration.clone(), (now, Instant::now()));
        Work { site, configuration, asked, counter: None }
    }

    fn now(&self) -> UnixMs {
        let (asked, since) = self.asked;
        asked.saturating_add(u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    async fn run(mut self, plan: Box<dyn Plan>) {
        let site = self.site.clone();
        let Ok(_slot) = site.slots.acquire().await else { return };
        let image = self.configuration.reference();
        if let Err(error) = self.work(plan).await {
            // Nothing is recorded, so that whoever waits asks for it again.
            let cause = wire::chain(&error);
            tracing::error!(%image, cause, "the build of an image could not be recorded");
        }
    }

    async fn work(&mut self, plan: Box<dyn Plan>) -> Result<(), ControllerError> {
        // It may have ended between the look and the asking of a machine.
        let key = &self.configuration.key;
        let record = build::get(&mut *self.site.shared.db.read().await?, key).await?;
        let failed = record.as_ref().is_some_and(Record::failed);
        if failed || self.site.there(record.as_ref()).await?.is_some() {
            return Ok(());
        }
        let (image, began) = (self.configuration.reference(), self.now());
        let key = self.configuration.key;
        tracing::info!(%image, configuration = %self.configuration, "build begins");
        self.site.queue().begin(&key, Instant::now());
        let result = self.build(plan).await;
        let ending = match result {
            Ok(built) => Ending::Built(built),
            Err(cause) => {
                tokio::time::sleep(self.site.options.settle).await;
                if self.site.slots.is_closed() {
                    tracing::info!(%image, cause, "build given up: the server stops");
                    return Ok(());
                }
                Ending::Failed { cause, log: self.site.queue().lines(&key) }
            }
        };
        let configuration = self.configuration.clone();
        self.record(&Record { configuration, ending, began, ended: self.now() }).await?;
        Ok(())
    }

    /// Builds, and tells those who wait of each stage.
    async fn build(&self, plan: Box<dyn Plan>) -> Result<Built, String> {
        let (stages, mut begun) = mpsc::unbounded_channel();
        let (site, key) = (self.site.clone(), self.configuration.key);
        let tell = move |progress: Progress| {
            if let Progress::Stage(stage) = &progress {
                // Nobody listens any more: the build is given up.
                let _ = stages.send(stage.clone());
            }
            site.queue().told(&key, progress);
        };
        // On a task of its own, so that a panic is a failure.
        let mut build = tokio::spawn(plan.build(Arc::new(tell)));
        loop {
            tokio::select! {
                biased;
                Some(stage) = begun.recv() => self.stage(&stage).await,
                ended = &mut build => return ended.unwrap_or_else(|error| {
                    Err(format!("the build ended in the middle, please report this: {error}"))
                }),
            }
        }
    }

    async fn stage(&self, stage: &str) {
        let image = self.configuration.reference();
        tracing::info!(%image, stage, "build goes on");
        let watchers = self.site.queue().watchers(&self.configuration.key);
        let line = format!("{image} is being built: {stage}");
        if let Err(error) = self.site.log(&watchers, &[line], self.now()).await {
            // The build is worth more than its log.
            tracing::error!(%image, cause = wire::chain(&error), "a build's stage is not on record");
        }
    }

    /// Records how it ended, and tells those who wait.
    async fn record(&mut self, record: &Record) -> Result<(), DbError> {
        let (image, elapsed_ms) = (self.configuration.reference(), record.ended - record.began);
        let site = self.site.clone();
        let shared = &site.shared;
        let mut transaction = shared.db.write().await?;
        build::put(&mut transaction, record).await?;
        transaction.commit().await?;
        let lines = match &record.ending {
            Ending::Built(built) => {
                let digest = built.image.short();
                tracing::info!(%image, digest, elapsed_ms, "build ended");
                self.counter = Some(shared.metrics.builds_succeeded.clone());
                vec![format!("{image} was built in {} s ({digest})", elapsed_ms / 1000)]
            }
            Ending::Failed { cause, log } => {
                tracing::error!(%image, cause, elapsed_ms, "build failed");
                self.counter = Some(shared.metrics.builds_failed.clone());
                let mut lines = vec![format!("{image} could not be built: {cause}")];
                lines.extend(log.iter().map(|line| format!("  {line}")));
                lines
            }
        };
        let watchers = self.site.queue().watchers(&self.configuration.key);
        self.site.log(&watchers, &lines, record.ended).await
    }
}

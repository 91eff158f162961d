//! The uploads that are under way, and what becomes of their commits.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use bytes::Bytes;
use store_format::upload::{CommitError, decode_commit};
use store_repo::{ReceiveError, Repo, Upload};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use wire::upload::{State, Stored};
use wire::{Digest, Reference};

use crate::answer::{Problem, failed};

/// Requests of one upload at a time: each may have a frame in memory.
const REQUESTS: usize = 4;
/// Images that are read back at a time: that is the disk's work.
const VERIFYING: usize = 1;
/// How long a commit waits for its end before it answers how far it is.
const COMMIT_WAIT: Duration = Duration::from_secs(2);
/// When to come again, in seconds, to a server with enough to do.
const LATER_SECS: u64 = 10;

/// How much is taken at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Uploads at a time; each may have two packs in memory, 130 MB, and the
    /// bodies of four requests.
    pub uploads: usize,
    /// An upload ends after so long without a request.
    pub silence: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { uploads: 4, silence: Duration::from_secs(10 * 60) }
    }
}

/// The uploads that are under way.
pub struct Uploads {
    repo: Arc<Repo>,
    pub(crate) limits: Limits,
    slots: Arc<Semaphore>,
    verifying: Arc<Semaphore>,
    /// Bodies that may be in memory: those that have stored their image have no
    /// slot, and may be asked all the same.
    bodies: Arc<Semaphore>,
    open: Mutex<HashMap<String, Arc<Open>>>,
}

/// One of them.
pub(crate) struct Open {
    pub(crate) upload: Arc<Upload>,
    requests: Arc<Semaphore>,
    /// When the last request ended.
    seen: Mutex<Instant>,
    commit: Mutex<Option<Commit>>,
    /// Given back once the image is stored.
    slot: Mutex<Option<OwnedSemaphorePermit>>,
}

/// A request at work on an upload, which does not end meanwhile.
pub(crate) struct Using {
    pub(crate) open: Arc<Open>,
    _request: OwnedSemaphorePermit,
    /// Of one that has a body.
    body: Option<OwnedSemaphorePermit>,
}

type Outcome = Option<Result<Stored, Problem>>;

/// A commit, under way or ended.
#[derive(Clone)]
struct Commit {
    /// What was to be stored, under which name.
    what: (Digest, Option<Reference>),
    progress: Arc<Progress>,
    outcome: watch::Receiver<Outcome>,
}

#[derive(Default)]
struct Progress {
    done: AtomicU64,
    total: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Uploads {
    /// None yet.
    pub fn new(repo: Arc<Repo>, limits: Limits) -> Arc<Uploads> {
        let slots = Arc::new(Semaphore::new(limits.uploads));
        let verifying = Arc::new(Semaphore::new(VERIFYING));
        let bodies = Arc::new(Semaphore::new(limits.uploads * REQUESTS));
        Arc::new(Uploads { repo, limits, slots, verifying, bodies, open: Mutex::default() })
    }

    /// Begins one; returns its name.
    pub(crate) async fn begin(self: &Arc<Self>) -> Result<String, Problem> {
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| {
            let error = format!(
                "{} uploads are under way, and no more are taken at once: try again later",
                self.limits.uploads
            );
            Problem::later(StatusCode::SERVICE_UNAVAILABLE, error, LATER_SECS)
        })?;
        let upload = self.repo.receive().await?;
        let id = upload.id().to_owned();
        let open = Arc::new(Open {
            upload,
            requests: Arc::new(Semaphore::new(REQUESTS)),
            seen: Mutex::new(Instant::now()),
            commit: Mutex::default(),
            slot: Mutex::new(Some(slot)),
        });
        tokio::spawn(Arc::clone(self).end_when_silent(id.clone(), Arc::downgrade(&open)));
        lock(&self.open).insert(id.clone(), open);
        Ok(id)
    }

    /// Begins a request.
    pub(crate) fn using(&self, id: &str) -> Result<Using, Problem> {
        let open = lock(&self.open).get(id).cloned().ok_or_else(|| unknown(id))?;
        let permit = Arc::clone(&open.requests).try_acquire_owned().map_err(|_| {
            let error = format!("upload {id} has {REQUESTS} requests at work: wait for their ends");
            Problem::later(StatusCode::TOO_MANY_REQUESTS, error, 1)
        })?;
        Ok(Using { open, _request: permit, body: None })
    }

    /// Begins a request that has a body, once there is room for it.
    pub(crate) async fn using_body(&self, id: &str) -> Result<Using, Problem> {
        let mut using = self.using(id)?;
        let body = Arc::clone(&self.bodies).acquire_owned().await;
        let body = body.map_err(|_| failed(&ReceiveError::Broken))?;
        using.body = Some(body);
        Ok(using)
    }

    /// Ends one; what was sent is packed, and garbage.
    pub(crate) async fn end(&self, id: &str) -> Result<(), Problem> {
        let open = lock(&self.open).remove(id).ok_or_else(|| unknown(id))?;
        lock(&open.slot).take();
        open.upload.end().await.map_err(problem)
    }

    /// Ends all, so that what was sent is packed, and found by those who go on
    /// after a restart.
    pub async fn stop(&self) {
        let ids: Vec<String> = lock(&self.open).keys().cloned().collect();
        let ends = ids.iter().map(|id| self.end(id));
        for problem in futures::future::join_all(ends).await.into_iter().filter_map(Result::err) {
            tracing::warn!("an upload was not packed: {problem}");
        }
    }

    async fn end_when_silent(self: Arc<Self>, id: String, open: Weak<Open>) {
        // Nothing is left of one that was ended.
        while let Some(silence) = open.upgrade().map(|open| open.silence()) {
            let left = self.limits.silence.saturating_sub(silence);
            if left.is_zero() {
                break;
            }
            tokio::time::sleep(left).await;
        }
        // It may have ended before.
        if self.end(&id).await.is_ok() {
            tracing::info!(upload = id, "an upload was silent for long, and ended");
        }
    }

    /// Begins to store the image, or finds that this is under way or done.
    pub(crate) async fn commit(
        self: &Arc<Self>,
        open: &Arc<Open>,
        body: Bytes,
        reference: Option<Reference>,
    ) -> Result<State, Problem> {
        let what = (store_format::digest_of(&body), reference);
        let commit = self.join(open, &what, body)?;
        let mut outcome = commit.outcome.clone();
        let ended = outcome.wait_for(Option::is_some);
        // How far it is, is said below.
        let _ = tokio::time::timeout(COMMIT_WAIT, ended).await;
        commit.state()
    }

    fn join(
        self: &Arc<Self>,
        open: &Arc<Open>,
        what: &(Digest, Option<Reference>),
        body: Bytes,
    ) -> Result<Commit, Problem> {
        let conflict = |error: &str| Err(Problem::new(StatusCode::CONFLICT, error.to_owned()));
        let mut commit = lock(&open.commit);
        match commit.as_ref().map(|commit| (commit, commit.state())) {
            Some((same, Ok(_))) if same.what == *what => return Ok(same.clone()),
            Some((_, Ok(State::Stored(_)))) => {
                return conflict("the upload has stored its image: begin another");
            }
            Some((_, Ok(_))) => {
                return conflict("the upload stores another image just now: begin another");
            }
            Some((_, Err(_))) | None => {}
        }
        let progress = Arc::new(Progress::default());
        let (tell, outcome) = watch::channel(None);
        let new = Commit { what: what.clone(), progress: Arc::clone(&progress), outcome };
        let (this, open) = (Arc::clone(self), Arc::clone(open));
        let reference = what.1.clone();
        // Goes on when nobody waits for it any more.
        tokio::spawn(async move {
            let result = this.store(&open, body, reference, progress).await;
            if result.is_ok() {
                lock(&open.slot).take();
            }
            tell.send_replace(Some(result));
            open.touch();
        });
        *commit = Some(new.clone());
        Ok(new)
    }

    async fn store(
        &self,
        open: &Open,
        body: Bytes,
        reference: Option<Reference>,
        progress: Arc<Progress>,
    ) -> Result<Stored, Problem> {
        let broken = || failed(&ReceiveError::Broken);
        let _turn = self.verifying.acquire().await.map_err(|_| broken())?;
        let decoded = tokio::task::spawn_blocking(move || decode_commit(&body)).await;
        let (envelope, table) = decoded.map_err(|_| broken())?.map_err(|error| match error {
            CommitError::TooLarge { .. } => {
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, error.to_string())
            }
            other => Problem::bad(wire::chain(&other)),
        })?;
        progress.total.store(envelope.disk_bytes, Ordering::Relaxed);
        let told = move |done| progress.done.store(done, Ordering::Relaxed);
        open.upload.commit(envelope, table, reference.as_ref(), told).await.map_err(problem)
    }
}

impl Open {
    /// How far it is.
    pub(crate) fn state(&self) -> Result<State, Problem> {
        lock(&self.commit).as_ref().map_or(Ok(State::Open), Commit::state)
    }

    /// How long nobody has asked for anything.
    fn silence(&self) -> Duration {
        let storing = matches!(self.state(), Ok(State::Verifying { .. }));
        match storing || self.requests.available_permits() < REQUESTS {
            true => Duration::ZERO,
            false => lock(&self.seen).elapsed(),
        }
    }

    fn touch(&self) {
        *lock(&self.seen) = Instant::now();
    }
}

impl Drop for Using {
    fn drop(&mut self) {
        self.open.touch();
    }
}

impl Commit {
    fn state(&self) -> Result<State, Problem> {
        match &*self.outcome.borrow() {
            Some(Ok(stored)) => Ok(State::Stored(*stored)),
            Some(Err(problem)) => Err(problem.clone()),
            None if self.outcome.has_changed().is_err() => Err(failed(&ReceiveError::Broken)),
            None => Ok(State::Verifying {
                done_bytes: self.progress.done.load(Ordering::Relaxed),
                total_bytes: self.progress.total.load(Ordering::Relaxed),
            }),
        }
    }
}

fn unknown(id: &str) -> Problem {
    Problem::not_found(format!(
        "there is no upload {id:?}, or no more: begin another; what it has packed is not sent again"
    ))
}

/// What an upload's failure is to the one who sends.
pub(crate) fn problem(error: ReceiveError) -> Problem {
    let status = match &error {
        ReceiveError::Frame(_) | ReceiveError::Length { .. } | ReceiveError::Region { .. } => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        ReceiveError::Missing { .. } => StatusCode::CONFLICT,
        ReceiveError::Reference { .. } => StatusCode::BAD_REQUEST,
        ReceiveError::Ended | ReceiveError::Lapsed => StatusCode::GONE,
        ReceiveError::Read(_) | ReceiveError::Broken => return failed(&error),
        ReceiveError::Storage(cause @ store_repo::StorageError::Full { .. }) => {
            return failed(cause).with_status(StatusCode::INSUFFICIENT_STORAGE);
        }
        ReceiveError::Storage(cause) => return failed(cause),
    };
    Problem::new(status, error.to_string())
}

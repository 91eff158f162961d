//! Promises that what is stored stays: whoever begins to read or to import
//! takes a lease, and nothing that was there then is deleted before it ends
//! (docs/garbage.md). A holder that dies is believed for ten minutes more.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::database::Database;
use crate::database::garbage::Purpose;
use crate::open::Repo;
use crate::storage::StorageError;

/// How long a lease is believed without a word from its holder.
pub(crate) const LEASE_MS: u64 = 10 * 60 * 1000;
/// How often a holder says that it lives. In the simulation its clock does not
/// run, and the scheduler speaks for it.
const RENEWAL: Duration = Duration::from_secs(if cfg!(test) { 1 << 20 } else { 60 });
/// How long those who were told where an image's chunks are may fetch them, and
/// as long again as a lease may be old when it is told.
const PULL_MS: u64 = 65 * 60 * 1000;
/// How old a pull's lease may get before it is renewed.
const PULL_RENEWAL_MS: u64 = 5 * 60 * 1000;

/// One lease; ended when it is dropped, as far as that can be told anybody.
pub(crate) struct Lease {
    id: String,
    database: Database,
    /// The epoch that it began in: what was condemned up to then may be deleted
    /// in spite of it.
    pub(crate) began: u64,
    renewal: JoinHandle<()>,
    ended: bool,
}

/// The lease of all who pull over the network, by the epoch that it began in.
#[derive(Debug, Default)]
pub(crate) struct Pulls(Mutex<Option<Pull>>);

#[derive(Debug, Clone)]
struct Pull {
    id: String,
    epoch: u64,
    expires_ms: u64,
}

/// Names a lease. No two are the same, whatever process they are of.
fn new_id() -> Result<String, StorageError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|e| StorageError::new("leases", Box::new(e)))?;
    Ok(hex::encode(id))
}

impl Repo {
    /// Takes a lease to import or to read.
    pub(crate) async fn lease(&self, purpose: Purpose) -> Result<Lease, StorageError> {
        let id = new_id()?;
        let (began, _) = self.database.begin_lease(&id, purpose, LEASE_MS).await?;
        Ok(Lease::new(id, self.database.clone(), began))
    }

    /// Takes the lease of the one who may condemn and delete. Nothing, where
    /// somebody else has it.
    pub(crate) async fn lease_to_collect(&self) -> Result<Option<Lease>, StorageError> {
        let id = new_id()?;
        let begun = self.database.begin_collection(&id, LEASE_MS).await?;
        Ok(begun.map(|began| Lease::new(id, self.database.clone(), began)))
    }

    /// A lease for reading, by an index that knows what it does not keep.
    /// Nothing, where this process may not write to the store.
    pub(crate) async fn lease_to_read(&self) -> Result<Option<Lease>, StorageError> {
        let lease = match self.lease(Purpose::Read).await {
            Err(StorageError::Denied { .. }) => {
                self.follow(self.database.epoch().await?).await?;
                return Ok(None);
            }
            other => other?,
        };
        self.follow(lease.began).await?;
        Ok(Some(lease))
    }

    /// Keeps what is stored for an hour, for those who are told now where the
    /// chunks of an image are.
    pub(crate) async fn lease_pulls(&self) -> Result<(), StorageError> {
        let (epoch, now) = (self.database.epoch().await?, self.database.now_ms());
        let known = self.pulls.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let known = known.filter(|pull| pull.epoch == epoch);
        // One that ends later was taken while the clock was wrong, and a
        // collection forgets it.
        let ends = now + PULL_MS - PULL_RENEWAL_MS + 1..=now + PULL_MS;
        let lives = |pull: &Pull| ends.contains(&pull.expires_ms);
        if known.as_ref().is_some_and(lives) {
            // Whoever took it may not have caught up yet.
            return self.follow(epoch).await;
        }
        let id = known.map_or_else(new_id, |pull| Ok(pull.id))?;
        let begun = self.database.begin_lease(&id, Purpose::Read, PULL_MS).await;
        let (epoch, expires_ms) = match begun {
            Err(StorageError::Denied { .. }) => return self.follow(epoch).await,
            other => other?,
        };
        *self.pulls.0.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Pull { id, epoch, expires_ms });
        self.follow(epoch).await
    }
}

async fn renew(database: Database, id: String) {
    loop {
        tokio::time::sleep(RENEWAL).await;
        match database.renew_lease(&id, LEASE_MS).await {
            Ok(true) => {}
            // Whoever needs it finds out when it matters.
            Ok(false) => return,
            Err(error) => tracing::warn!(error = wire::chain(&error), "a lease was not renewed"),
        }
    }
}

impl Lease {
    fn new(id: String, database: Database, began: u64) -> Lease {
        let renewal = tokio::spawn(renew(database.clone(), id.clone()));
        Lease { id, database, began, renewal, ended: false }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Ends it, so that a collection need not wait for it.
    pub(crate) async fn end(mut self) {
        self.ended = true;
        if let Err(error) = self.database.end_lease(&self.id).await {
            tracing::warn!(error = wire::chain(&error), "a lease was not ended; it will expire");
        }
    }

    /// It was ended by the change that it was for.
    pub(crate) fn redeemed(mut self) {
        self.ended = true;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewal.abort();
        if self.ended {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let (database, id) = (self.database.clone(), std::mem::take(&mut self.id));
            runtime.spawn(async move { database.end_lease(&id).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use sqlx::sqlite::SqlitePoolOptions;

    use super::*;
    use crate::storage::Storage;

    /// Records whose clock is turned by hand.
    async fn records(folder: &Path) -> (Database, Arc<AtomicU64>) {
        let time = Arc::new(AtomicU64::new(1_800_000_000_000));
        let clock = Arc::clone(&time);
        let clock = Arc::new(move || clock.load(Ordering::SeqCst));
        let pool = SqlitePoolOptions::new();
        (Database::open_by(folder, true, pool, clock).await.unwrap(), time)
    }

    /// When the only lease ends.
    async fn expiry(database: &Database) -> u64 {
        let leases = sqlx::query_scalar("SELECT expires_ms FROM leases").fetch_all(database.pool());
        let [expires_ms]: [i64; 1] = leases.await.unwrap().try_into().unwrap();
        expires_ms.try_into().unwrap()
    }

    /// What becomes of a change that begins while another one is under way, for
    /// longer than a lease lasts.
    async fn kept_waiting<T>(
        database: &Database,
        time: &AtomicU64,
        change: impl Future<Output = T>,
    ) -> T {
        let busy = database.pool().begin_with("BEGIN IMMEDIATE").await.unwrap();
        let mut change = pin!(change);
        tokio::select! {
            biased;
            _ = &mut change => panic!("it did not wait"),
            () = std::future::ready(()) => {}
        }
        time.fetch_add(LEASE_MS + 1, Ordering::SeqCst);
        busy.commit().await.unwrap();
        change.await
    }

    #[tokio::test]
    async fn a_lease_that_waited_for_others_lasts_as_long_as_any() {
        let folder = tempfile::tempdir().unwrap();
        let (database, time) = records(folder.path()).await;
        let storage = Storage::folder(folder.path()).unwrap();
        let repo = Repo::over(storage, database.clone()).await.unwrap();
        let lasts = async || expiry(&database).await - time.load(Ordering::SeqCst);
        for purpose in [Purpose::Import, Purpose::Read] {
            let lease = kept_waiting(&database, &time, repo.lease(purpose)).await.unwrap();
            assert_eq!(lasts().await, LEASE_MS);
            let renewal = database.renew_lease(lease.id(), LEASE_MS);
            assert!(kept_waiting(&database, &time, renewal).await.unwrap());
            assert_eq!(lasts().await, LEASE_MS);
            lease.end().await;
        }
        let lease = kept_waiting(&database, &time, repo.lease_to_collect()).await.unwrap();
        assert_eq!(lasts().await, LEASE_MS);
        lease.unwrap().end().await;
        kept_waiting(&database, &time, repo.lease_pulls()).await.unwrap();
        assert_eq!(lasts().await, PULL_MS);
    }

    #[tokio::test]
    async fn who_pulls_is_kept_though_the_clock_went_back() {
        let folder = tempfile::tempdir().unwrap();
        let (database, time) = records(folder.path()).await;
        let storage = Storage::folder(folder.path()).unwrap();
        let repo = Repo::over(storage, database.clone()).await.unwrap();
        repo.lease_pulls().await.unwrap();
        let now = time.load(Ordering::SeqCst) - 24 * 60 * 60 * 1000;
        time.store(now, Ordering::SeqCst);
        // What a collection does first.
        database.drop_expired_leases().await.unwrap();
        repo.lease_pulls().await.unwrap();
        let leases: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM leases")
            .fetch_one(database.pool())
            .await
            .unwrap();
        assert_eq!(leases, 1);
    }
}

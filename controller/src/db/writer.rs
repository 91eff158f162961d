//! Many writers, one commit.
//!
//! What reaches the disk is a transaction, and the disk takes its time for
//! each. So a transaction is shared: every change is a savepoint of it, made by
//! one caller at a time; the transaction is committed once everybody who waited
//! when it began has had a turn; and only then is anybody told that a change is
//! done. Turns are taken in the order they were asked for.
//!
//! A change that fails, or whose caller goes away, goes back to its savepoint
//! and takes nobody else's along. Where the transaction itself fails, everybody
//! who has a part in it is told so, and nothing of it is there.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection, Executor};
use tokio::sync::{Mutex, OwnedMappedMutexGuard, OwnedMutexGuard, oneshot};
use tokio::time::timeout;

use super::DbError;

/// Most changes in one transaction: the first waits for the last.
pub(super) const CHANGES_MAX: usize = 64;

/// How long a caller waits for its turn: a thousand machines that start at
/// once are slow, not wrong.
const TURN_TIMEOUT: Duration = Duration::from_secs(60);

/// The way into the database for all changes.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    /// None once it is closed. The lock is fair: who asks first goes first.
    batch: Arc<Mutex<Option<Batch>>>,
    commits: Counter,
}

/// The transaction that is open, if one is.
#[derive(Debug)]
struct Batch {
    connection: SqliteConnection,
    options: SqliteConnectOptions,
    commits: Counter,
    open: bool,
    /// How the latest change ended, until whoever comes next has dealt with it.
    last: Option<Ending>,
    /// Those whose changes are in the transaction.
    waiting: Vec<Tell>,
}

type Tell = oneshot::Sender<Result<(), Arc<sqlx::Error>>>;

#[derive(Debug)]
enum Ending {
    /// It is to be undone: what every change is until it is said to be kept.
    Undo,
    /// It is to be committed, and then this caller told.
    Keep(Tell),
}

/// A turn to write. What is written is undone unless it is committed.
#[derive(Debug)]
pub(crate) struct Change {
    batch: OwnedMappedMutexGuard<Option<Batch>, Batch>,
}

impl Writer {
    pub async fn open(options: SqliteConnectOptions) -> Result<Writer, DbError> {
        let mut connection = options.connect().await?;
        sqlx::migrate!("migrations/sqlite").run(&mut connection).await?;
        let commits = Counter::default();
        let (last, waiting) = (None, Vec::new());
        let batch =
            Batch { connection, options, commits: commits.clone(), open: false, last, waiting };
        Ok(Writer { batch: Arc::new(Mutex::new(Some(batch))), commits })
    }

    /// Counts transactions.
    pub fn commits(&self) -> &Counter {
        &self.commits
    }

    /// Waits for a turn.
    pub async fn turn(&self) -> Result<Change, DbError> {
        // On a task of its own: a caller that goes away in the middle leaves
        // no savepoint half set. Its turn comes, and passes.
        let turn = tokio::spawn(self.clone().begin());
        turn.await.unwrap_or_else(|_| Err(closed()))
    }

    async fn begin(self) -> Result<Change, DbError> {
        let turn = timeout(TURN_TIMEOUT, self.batch.clone().lock_owned());
        let guard = turn.await.map_err(|_| sqlx::Error::PoolTimedOut)?;
        let mut batch = OwnedMutexGuard::try_map(guard, Option::as_mut).map_err(|_| closed())?;
        if batch.begin().await? {
            // In line behind those who wait already, so that they have a part in it.
            tokio::spawn(async move {
                if let Some(batch) = &mut *self.batch.lock().await {
                    batch.commit().await;
                }
            });
        }
        Ok(Change { batch })
    }

    /// Commits what is open; further turns fail.
    pub async fn close(&self) {
        if let Some(mut batch) = self.batch.lock().await.take() {
            batch.commit().await;
            if let Err(error) = batch.connection.close().await {
                tracing::warn!(cause = wire::chain(&error), "the database was not closed cleanly");
            }
        }
    }
}

impl Batch {
    /// Sets a savepoint, in a new transaction where none is open; whether it is new.
    async fn begin(&mut self) -> Result<bool, DbError> {
        self.settle().await;
        if self.waiting.len() >= CHANGES_MAX {
            self.commit().await;
        }
        let new = !self.open;
        if new {
            self.connection.execute("BEGIN IMMEDIATE").await?;
            self.open = true;
        }
        if let Err(error) = self.connection.execute("SAVEPOINT change").await {
            return Err(DbError::Commit(self.fail(error).await));
        }
        self.last = Some(Ending::Undo);
        Ok(new)
    }

    /// Ends the latest change as it was left.
    async fn settle(&mut self) {
        let settled = match self.last.take() {
            None => return,
            Some(Ending::Undo) => {
                self.connection.execute("ROLLBACK TO change; RELEASE change").await
            }
            Some(Ending::Keep(tell)) => {
                self.waiting.push(tell);
                self.connection.execute("RELEASE change").await
            }
        };
        // Some failures, as of a full disk, end the whole transaction.
        if let Err(error) = settled {
            self.fail(error).await;
        }
    }

    /// Makes durable what is open, and tells those who wait for that.
    async fn commit(&mut self) {
        self.settle().await;
        if !self.open {
            return;
        }
        if let Err(error) = self.connection.execute("COMMIT").await {
            self.fail(error).await;
            return;
        }
        self.open = false;
        self.commits.inc();
        for tell in self.waiting.drain(..) {
            // Who went away does not want to know.
            let _ = tell.send(Ok(()));
        }
    }

    /// Gives the transaction up, and tells those who had a part in it why.
    async fn fail(&mut self, error: sqlx::Error) -> Arc<sqlx::Error> {
        let error = Arc::new(error);
        tracing::error!(
            cause = wire::chain(&*error),
            changes = self.waiting.len(),
            "a transaction failed"
        );
        // It may have rolled itself back. Whatever is open yet ends with its connection.
        if self.connection.execute("ROLLBACK").await.is_err()
            && let Ok(fresh) = self.options.connect().await
        {
            self.connection = fresh;
        }
        (self.open, self.last) = (false, None);
        for tell in self.waiting.drain(..) {
            // Who went away does not want to know.
            let _ = tell.send(Err(error.clone()));
        }
        error
    }
}

impl Change {
    /// Keeps the change, and returns once it is on the disk.
    pub async fn commit(mut self) -> Result<(), DbError> {
        let (tell, told) = oneshot::channel();
        self.batch.last = Some(Ending::Keep(tell));
        // The next may go.
        drop(self);
        match told.await {
            Ok(committed) => committed.map_err(DbError::Commit),
            Err(_) => Err(closed()),
        }
    }
}

impl Deref for Change {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.batch.connection
    }
}

impl DerefMut for Change {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.batch.connection
    }
}

fn closed() -> DbError {
    DbError::Sql(sqlx::Error::PoolClosed)
}

#[cfg(test)]
mod tests;

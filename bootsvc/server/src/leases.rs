//! Leases on disk. Each batch of changes is one transaction, however many
//! machines wait for it: a commit costs one flush of the disk.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use bootsvc_proto::Mac;
use bootsvc_proto::dhcp::{Change, Lease};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::{mpsc, oneshot};
use tracing::error;

/// Most changes written in one transaction.
const BATCH_MAX: usize = 1024;

/// Why leases could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} the leases in {}", path.display())]
pub struct LeaseError {
    what: &'static str,
    path: PathBuf,
    #[source]
    source: sqlx::Error,
}

/// The open database, not yet written to by the server.
pub(crate) struct LeaseStore {
    path: PathBuf,
    connection: SqliteConnection,
}

/// Where changes are handed in. Their order is that of the calls.
#[derive(Clone)]
pub(crate) struct LeaseLog(mpsc::UnboundedSender<Batch>);

struct Batch {
    changes: Vec<Change>,
    written: oneshot::Sender<bool>,
}

impl LeaseStore {
    /// Opens or creates the file `path`.
    pub async fn open(path: &Path) -> Result<LeaseStore, LeaseError> {
        let wrong = |source| LeaseError { what: "open", path: path.to_owned(), source };
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .disable_statement_logging();
        let mut connection = options.connect().await.map_err(wrong)?;
        let migrated = sqlx::migrate!("./migrations").run(&mut connection).await;
        migrated.map_err(|source| wrong(source.into()))?;
        Ok(LeaseStore { path: path.to_owned(), connection })
    }

    /// All leases. A row that makes no sense is passed over, and told.
    pub async fn load(&mut self) -> Result<Vec<Lease>, LeaseError> {
        let rows: Result<Vec<(String, String, i64)>, _> =
            sqlx::query_as("SELECT address, mac, ends FROM lease ORDER BY address")
                .fetch_all(&mut self.connection)
                .await;
        let rows = rows.map_err(|source| self.error("read", source))?;
        Ok(rows.iter().filter_map(lease).collect())
    }

    /// Writes `changes`, all or none.
    pub async fn write(&mut self, changes: &[Change]) -> Result<(), LeaseError> {
        apply(&mut self.connection, changes).await.map_err(|source| self.error("write", source))
    }

    /// Writes what is handed to the returned log, until all its copies are gone.
    pub fn into_log(self) -> (LeaseLog, impl Future<Output = ()> + Send) {
        // Bounded by the requests in work, each of which waits for its batch.
        let (sender, receiver) = mpsc::unbounded_channel();
        (LeaseLog(sender), write_all(self, receiver))
    }

    fn error(&self, what: &'static str, source: sqlx::Error) -> LeaseError {
        LeaseError { what, path: self.path.clone(), source }
    }
}

impl LeaseLog {
    /// Hands `changes` in. The receiver says whether they are on disk; gone, they are not.
    pub fn write(&self, changes: Vec<Change>) -> oneshot::Receiver<bool> {
        let (written, receiver) = oneshot::channel();
        // Only fails when the server has stopped; then the receiver tells.
        let _ = self.0.send(Batch { changes, written });
        receiver
    }
}

async fn write_all(mut store: LeaseStore, mut batches: mpsc::UnboundedReceiver<Batch>) {
    let mut waiting = Vec::new();
    while batches.recv_many(&mut waiting, BATCH_MAX).await > 0 {
        let changes: Vec<_> = waiting.iter().flat_map(|batch| &batch.changes).copied().collect();
        let result = store.write(&changes).await;
        if let Err(error) = &result {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            error!(%error, cause, "leases not written: machines get no acknowledgement");
        }
        for batch in waiting.drain(..) {
            // A request that no longer waits needs no answer.
            let _ = batch.written.send(result.is_ok());
        }
    }
}

async fn apply(connection: &mut SqliteConnection, changes: &[Change]) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    for change in changes {
        let (address, mac) = match change {
            Change::Set(lease) => (lease.address, lease.mac.to_string()),
            Change::Drop(address) => (*address, String::new()),
        };
        sqlx::query("DELETE FROM lease WHERE address = $1 OR mac = $2")
            .bind(address.to_string())
            .bind(&mac)
            .execute(&mut *transaction)
            .await?;
        if let Change::Set(lease) = change {
            sqlx::query("INSERT INTO lease (address, mac, ends) VALUES ($1, $2, $3)")
                .bind(address.to_string())
                .bind(&mac)
                .bind(i64::try_from(lease.ends).unwrap_or(i64::MAX))
                .execute(&mut *transaction)
                .await?;
        }
    }
    transaction.commit().await
}

fn lease((address, mac, ends): &(String, String, i64)) -> Option<Lease> {
    let parsed = (address.parse::<Ipv4Addr>(), mac.parse::<Mac>(), u64::try_from(*ends));
    let (Ok(address), Ok(mac), Ok(ends)) = parsed else {
        error!(address, mac, ends, "a stored lease makes no sense and is passed over");
        return None;
    };
    Some(Lease { mac, address, ends })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(last: u8, mac: u8, ends: u64) -> Lease {
        Lease { mac: Mac([2, 0, 0, 0, 0, mac]), address: [192, 0, 2, last].into(), ends }
    }

    #[tokio::test]
    async fn what_was_written_is_there_when_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("boot.sqlite");
        let (log, writer) = LeaseStore::open(&path).await.unwrap().into_log();
        let writer = tokio::spawn(writer);
        let first = log.write(vec![Change::Set(lease(1, 1, 10)), Change::Set(lease(2, 2, 20))]);
        let second = log.write(vec![
            Change::Set(lease(1, 1, 30)),
            Change::Drop([192, 0, 2, 2].into()),
            Change::Set(lease(3, 2, 40)),
        ]);
        assert_eq!((first.await, second.await), (Ok(true), Ok(true)));
        drop(log);
        writer.await.unwrap();
        let leases = LeaseStore::open(&path).await.unwrap().load().await.unwrap();
        assert_eq!(leases, [lease(1, 1, 30), lease(3, 2, 40)]);
    }

    #[tokio::test]
    async fn a_machine_has_one_lease_even_if_the_old_was_not_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = LeaseStore::open(&folder.path().join("boot.sqlite")).await.unwrap();
        store.write(&[Change::Set(lease(1, 1, 10)), Change::Set(lease(2, 1, 20))]).await.unwrap();
        assert_eq!(store.load().await.unwrap(), [lease(2, 1, 20)]);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_is_told_with_its_path() {
        let error = LeaseStore::open(Path::new("/dev/null/boot.sqlite")).await.err().unwrap();
        assert_eq!(error.to_string(), "cannot open the leases in /dev/null/boot.sqlite");
    }
}

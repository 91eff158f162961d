//! Records in a SQL database: machines, what they are recognised by, runs,
//! boots and events.
//!
//! SQLite for now, in the subset that PostgreSQL understands too. Every change
//! is on the disk, all of it, before it is answered; changes that come at the
//! same time go there together ([`writer`]).

pub(crate) mod attachment;
pub(crate) mod build;
pub(crate) mod event;
pub(crate) mod machine;
pub(crate) mod run;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{Sqlite, Transaction};

use writer::{Change, Writer};

/// Connections for reading; changes have one of their own, as SQLite has one writer.
const READERS: u32 = 4;

/// How long a transaction waits for another process's.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a request waits for a connection to read by.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// The controller's database.
#[derive(Debug, Clone)]
pub struct Db {
    readers: SqlitePool,
    writer: Writer,
}

/// Why a record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The database said no.
    #[error("the controller's database failed: look at its file's rights and at free disk space")]
    Sql(#[from] sqlx::Error),
    /// It took a change, and could not bring it to the disk with those beside it.
    #[error(
        "the controller's database could not keep what it took: look at free disk space, and try \
         again"
    )]
    Commit(#[source] Arc<sqlx::Error>),
    /// The file is of another version, or no database.
    #[error("the controller's database cannot be brought to this version's form")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A record is not what this version writes.
    #[error("{what} in the controller's database cannot be read: {value:?}")]
    Record {
        /// Of which table and column.
        what: &'static str,
        /// What stands there, its beginning.
        value: String,
    },
}

impl Db {
    /// Opens the database file, or creates it, and brings it to this version's form.
    pub async fn open(path: &Path) -> Result<Db, DbError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let writer = Writer::open(options.clone()).await?;
        let readers = SqlitePoolOptions::new().max_connections(READERS);
        let readers = readers.acquire_timeout(READ_TIMEOUT).connect_with(options).await?;
        Ok(Db { readers, writer })
    }

    /// Ends all connections; further calls fail.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// A view of the database at one moment.
    pub(crate) async fn read(&self) -> Result<Transaction<'static, Sqlite>, DbError> {
        Ok(self.readers.begin().await?)
    }

    /// The right to write, which nobody else has until it is committed or dropped.
    pub(crate) async fn write(&self) -> Result<Change, DbError> {
        self.writer.turn().await
    }

    /// Counts transactions that were committed.
    pub(crate) fn commits(&self) -> &Counter {
        self.writer.commits()
    }
}

/// A connection, in a transaction.
pub(crate) type Connection = SqliteConnection;

/// The text of a value in a JSON column.
pub(crate) fn to_json(value: &impl Serialize, what: &'static str) -> Result<String, DbError> {
    serde_json::to_string(value).map_err(|error| bad(what, &error.to_string()))
}

pub(crate) fn from_json<T: DeserializeOwned>(text: &str, what: &'static str) -> Result<T, DbError> {
    serde_json::from_str(text).map_err(|_| bad(what, text))
}

/// The word that a unit enum has on the wire and in a TEXT column.
pub(crate) fn to_word(value: &impl Serialize, what: &'static str) -> Result<String, DbError> {
    Ok(to_json(value, what)?.trim_matches('"').to_owned())
}

pub(crate) fn from_word<T: DeserializeOwned>(text: &str, what: &'static str) -> Result<T, DbError> {
    serde_json::from_value(serde_json::Value::from(text)).map_err(|_| bad(what, text))
}

/// Counts by the word that they are of.
pub(crate) fn counts(
    rows: Vec<(String, i64)>,
    what: &'static str,
) -> Result<BTreeMap<String, u64>, DbError> {
    rows.into_iter().map(|(word, count)| Ok((word, from_sql(count, what)?))).collect()
}

/// A number as SQL has it; what comes from outside is checked before.
pub(crate) fn to_sql(number: u64, what: &'static str) -> Result<i64, DbError> {
    i64::try_from(number).map_err(|_| bad(what, &number.to_string()))
}

pub(crate) fn from_sql<T: TryFrom<i64>>(number: i64, what: &'static str) -> Result<T, DbError> {
    T::try_from(number).map_err(|_| bad(what, &number.to_string()))
}

pub(crate) fn parsed<T: std::str::FromStr>(text: &str, what: &'static str) -> Result<T, DbError> {
    text.parse().map_err(|_| bad(what, text))
}

fn bad(what: &'static str, value: &str) -> DbError {
    DbError::Record { what, value: value.chars().take(200).collect() }
}

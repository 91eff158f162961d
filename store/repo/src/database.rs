//! The records of a store: images, references, packs. Never a row per chunk.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::migrate::MigrateError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqliteSynchronous};
use sqlx::sqlite::{SqlitePoolOptions, SqliteRow};
use sqlx::{Row, Sqlite, SqliteExecutor, Transaction};
use store_format::PackName;
use wire::Digest;

use crate::storage::{Storage, StorageError, blob_key, pack_key};

pub(crate) mod garbage;

/// Name of the database's file.
pub(crate) const FILE: &str = "store.db";
/// How long a write waits for that of another process.
const BUSY: Duration = Duration::from_secs(60);
const CONNECTIONS_MAX: u32 = 4;

/// Tells the time, in milliseconds since 1970.
pub(crate) type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

#[derive(Clone)]
pub(crate) struct Database {
    pool: SqlitePool,
    clock: Clock,
}

/// An image's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageRow {
    pub digest: Digest,
    pub table: Digest,
    pub disk_bytes: u64,
    pub data_bytes: u64,
    pub stored_bytes: u64,
    pub new_bytes: u64,
    pub created_ms: u64,
}

/// A reference's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NameRow {
    pub name: String,
    pub tag: String,
    pub image: Digest,
}

fn system_clock() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn failed(source: sqlx::Error) -> StorageError {
    let code = source.as_database_error().and_then(|error| error.code().map(|c| c.into_owned()));
    let primary = code.and_then(|code| code.parse::<u32>().ok()).map(|code| code & 0xff);
    let (key, source) = (FILE.to_owned(), Arc::new(source));
    match primary {
        Some(13) => StorageError::Full { key, source },
        Some(3 | 8 | 14) => StorageError::Denied { key, source },
        Some(5 | 6) => StorageError::Busy { key, source },
        Some(11 | 26) => StorageError::Ruined { key, source },
        _ => StorageError::Database { key, source },
    }
}

/// Numbers are kept as SQL's signed 64 bits; what does not fit was never an
/// image's length.
fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn number(row: &SqliteRow, column: &str) -> Result<u64, sqlx::Error> {
    u64::try_from(row.try_get::<i64, _>(column)?).map_err(|e| sqlx::Error::Decode(Box::new(e)))
}

fn digest(row: &SqliteRow, column: &str) -> Result<Digest, sqlx::Error> {
    let text: &str = row.try_get(column)?;
    Digest::from_hex(text).map_err(|e| sqlx::Error::Decode(Box::new(e)))
}

fn image_row(row: &SqliteRow) -> Result<ImageRow, sqlx::Error> {
    Ok(ImageRow {
        digest: digest(row, "digest")?,
        table: digest(row, "chunk_table")?,
        disk_bytes: number(row, "disk_bytes")?,
        data_bytes: number(row, "data_bytes")?,
        stored_bytes: number(row, "stored_bytes")?,
        new_bytes: number(row, "new_bytes")?,
        created_ms: number(row, "created_ms")?,
    })
}

fn name_row(row: &SqliteRow) -> Result<NameRow, sqlx::Error> {
    Ok(NameRow {
        name: row.try_get("name")?,
        tag: row.try_get("tag")?,
        image: digest(row, "image")?,
    })
}

impl Database {
    /// Opens the database in a folder and brings it up to date.
    pub(crate) async fn open(folder: &Path, create: bool) -> Result<Database, MigrateError> {
        Database::open_by(folder, create, SqlitePoolOptions::new(), Arc::new(system_clock)).await
    }

    /// [`Database::open`] by another pool and another clock.
    pub(crate) async fn open_by(
        folder: &Path,
        create: bool,
        pool: SqlitePoolOptions,
        clock: Clock,
    ) -> Result<Database, MigrateError> {
        let options = SqliteConnectOptions::new()
            .filename(folder.join(FILE))
            .create_if_missing(create)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY);
        let pool = pool
            .max_connections(CONNECTIONS_MAX)
            .connect_with(options)
            .await
            .map_err(MigrateError::Execute)?;
        sqlx::migrate!("./migrations").run(&pool).await?;
        Ok(Database { pool, clock })
    }

    pub(crate) fn now_ms(&self) -> u64 {
        (self.clock)()
    }

    #[cfg(test)]
    pub(crate) fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
        // At once as a writer: a reader that turns writer fails when busy.
        self.pool.begin_with("BEGIN IMMEDIATE").await
    }

    /// Records an image, what it needs, packs and the table that its own is told
    /// by, and, if given, its reference,
    /// and ends the lease under which these and its blobs were stored or found:
    /// all or nothing. Nothing, and false, where the lease is gone, or what it
    /// should have kept.
    pub(crate) async fn commit(
        &self,
        lease: &str,
        storage: &Storage,
        image: &ImageRow,
        base: Option<Digest>,
        packs: &[PackName],
        reference: Option<(&str, &str)>,
    ) -> Result<bool, StorageError> {
        let blobs = [image.digest, image.table].into_iter().chain(base);
        let blobs = blobs.map(|blob| blob_key(&blob).to_string());
        let packs_keys = packs.iter().map(|pack| pack_key(pack).to_string());
        let needed: Vec<String> = blobs.chain(packs_keys).collect();
        // The lease keeps what is there; looking, which may take long, keeps nobody
        // waiting.
        if !storage.has(&needed).await? {
            return Ok(false);
        }
        let mut change = self.begin().await.map_err(failed)?;
        if !garbage::redeem(&mut change, lease, &needed).await.map_err(failed)? {
            return Ok(false);
        }
        let commit = async {
            sqlx::query(
                "INSERT INTO images (digest, chunk_table, disk_bytes, data_bytes, stored_bytes, \
                 new_bytes, created_ms) VALUES ($1, $2, $3, $4, $5, $6, $7) \
                 ON CONFLICT (digest) DO UPDATE SET chunk_table = excluded.chunk_table, \
                 stored_bytes = excluded.stored_bytes",
            )
            .bind(image.digest.hex())
            .bind(image.table.hex())
            .bind(to_sql(image.disk_bytes))
            .bind(to_sql(image.data_bytes))
            .bind(to_sql(image.stored_bytes))
            .bind(to_sql(image.new_bytes))
            .bind(to_sql(image.created_ms))
            .execute(&mut *change)
            .await?;
            for pack in packs {
                add_pack(&mut change, pack, image.created_ms).await?;
            }
            if let Some((name, tag)) = reference {
                point(&mut change, name, tag, &image.digest, self.now_ms()).await?;
            }
            change.commit().await?;
            Ok(true)
        };
        commit.await.map_err(failed)
    }

    pub(crate) async fn image(&self, digest: &Digest) -> Result<Option<ImageRow>, StorageError> {
        let row = sqlx::query("SELECT * FROM images WHERE digest = $1")
            .bind(digest.hex())
            .fetch_optional(&self.pool)
            .await
            .map_err(failed)?;
        row.map(|row| image_row(&row)).transpose().map_err(failed)
    }

    /// All images, oldest first.
    pub(crate) async fn images(&self) -> Result<Vec<ImageRow>, StorageError> {
        images(&self.pool).await.map_err(failed)
    }

    pub(crate) async fn name(
        &self,
        name: &str,
        tag: &str,
    ) -> Result<Option<NameRow>, StorageError> {
        let row = sqlx::query("SELECT * FROM names WHERE name = $1 AND tag = $2")
            .bind(name)
            .bind(tag)
            .fetch_optional(&self.pool)
            .await
            .map_err(failed)?;
        row.map(|row| name_row(&row)).transpose().map_err(failed)
    }

    /// All references, by name and tag.
    pub(crate) async fn names(&self) -> Result<Vec<NameRow>, StorageError> {
        names(&self.pool).await.map_err(failed)
    }

    /// Names of the packs that images need.
    pub(crate) async fn packs(&self) -> Result<Vec<String>, StorageError> {
        sqlx::query_scalar("SELECT name FROM packs ORDER BY name")
            .fetch_all(&self.pool)
            .await
            .map_err(failed)
    }

    /// Lets a reference name an image; false where that is not recorded.
    pub(crate) async fn set_name(
        &self,
        name: &str,
        tag: &str,
        image: &Digest,
    ) -> Result<bool, StorageError> {
        let change = async {
            let mut change = self.begin().await?;
            let known = sqlx::query("SELECT 1 FROM images WHERE digest = $1").bind(image.hex());
            if known.fetch_optional(&mut *change).await?.is_none() {
                return Ok(false);
            }
            point(&mut change, name, tag, image, self.now_ms()).await?;
            change.commit().await?;
            Ok(true)
        };
        change.await.map_err(failed)
    }

    /// Removes the references of a name that have the tag, if one is given, and
    /// name the image, if one is given. Returns how many there were.
    pub(crate) async fn remove_names(
        &self,
        name: &str,
        tag: Option<&str>,
        image: Option<&Digest>,
    ) -> Result<u64, StorageError> {
        let done = sqlx::query(
            "DELETE FROM names WHERE name = $1 AND ($2 IS NULL OR tag = $2) \
             AND ($3 IS NULL OR image = $3)",
        )
        .bind(name)
        .bind(tag)
        .bind(image.map(Digest::hex))
        .execute(&self.pool)
        .await
        .map_err(failed)?;
        Ok(done.rows_affected())
    }
}

async fn images(records: impl SqliteExecutor<'_>) -> sqlx::Result<Vec<ImageRow>> {
    let all = sqlx::query("SELECT * FROM images ORDER BY created_ms, digest").fetch_all(records);
    all.await?.iter().map(image_row).collect()
}

async fn names(records: impl SqliteExecutor<'_>) -> sqlx::Result<Vec<NameRow>> {
    let all = sqlx::query("SELECT * FROM names ORDER BY name, tag").fetch_all(records);
    all.await?.iter().map(name_row).collect()
}

async fn add_pack(
    change: &mut Transaction<'static, Sqlite>,
    pack: &PackName,
    now_ms: u64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO packs (name, created_ms) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING",
    )
    .bind(pack.to_string())
    .bind(to_sql(now_ms))
    .execute(&mut **change)
    .await?;
    Ok(())
}

async fn point(
    change: &mut Transaction<'static, Sqlite>,
    name: &str,
    tag: &str,
    image: &Digest,
    now_ms: u64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO names (name, tag, image, updated_ms) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (name, tag) DO UPDATE SET image = excluded.image, \
         updated_ms = excluded.updated_ms",
    )
    .bind(name)
    .bind(tag)
    .bind(image.hex())
    .bind(to_sql(now_ms))
    .execute(&mut **change)
    .await?;
    Ok(())
}

//! Records of removing garbage: leases, and what is condemned.

use std::collections::HashSet;

use sqlx::{Row, Sqlite, SqliteExecutor, Transaction};
use store_format::PackName;
use wire::Digest;

use super::{Database, ImageRow, NameRow, failed, images, names, number, to_sql};
use crate::packs;
use crate::storage::{Storage, StorageError, pack_key};

/// Objects that are deleted in one transaction, which keeps writers waiting.
const DELETE_BATCH: i64 = 64;

/// No lease is believed for longer than this, in milliseconds.
const EXPIRY_MAX_MS: u64 = 2 * 60 * 60 * 1000;

/// What a lease is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Import,
    Read,
    Collect,
}

impl Purpose {
    fn word(self) -> &'static str {
        match self {
            Purpose::Import => "import",
            Purpose::Read => "read",
            Purpose::Collect => "gc",
        }
    }
}

/// All images and names, as they are when a collection looks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Records {
    pub images: Vec<ImageRow>,
    pub names: Vec<NameRow>,
}

/// All images, the names of the packs that they need, and what is condemned.
#[derive(Debug)]
pub(crate) struct Inventory {
    pub images: Vec<ImageRow>,
    pub packs: Vec<String>,
    /// Keys of objects.
    pub condemned: HashSet<String>,
}

/// What is to be condemned, and what is needed after all.
#[derive(Debug, Default)]
pub(crate) struct Sentence {
    /// Images without a name: their records go at once.
    pub images: Vec<Digest>,
    /// Keys of objects that nothing needs, and their bytes.
    pub objects: Vec<(String, u64)>,
    /// Packs among them.
    pub packs: Vec<PackName>,
    /// All packs that images need, whatever was said before.
    pub needed_packs: Vec<PackName>,
}

/// What a repair takes away, and what is needed instead.
#[derive(Debug, Default)]
pub(crate) struct Removal {
    /// Damaged packs and their bytes.
    pub damaged: Vec<(PackName, u64)>,
    /// Packs that are not there, and that no image needs any more.
    pub missing: Vec<PackName>,
    /// Packs that have what images need.
    pub needed: Vec<PackName>,
}

/// What became of a change that depends on what others did meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Done,
    /// The records are other ones than the change was made for.
    Outdated,
    /// The lease is gone: its holder was taken for dead.
    Lapsed,
}

/// What a transaction of deletions did.
#[derive(Debug, Default)]
pub(crate) struct Deleted {
    pub objects: u64,
    pub bytes: u64,
    /// The collection's lease is gone.
    pub lapsed: bool,
    /// There may be more to delete.
    pub more: bool,
    /// What could not be deleted, and is left for another time.
    pub failed: Option<StorageError>,
}

/// Condemned objects that leases keep.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub objects: u64,
    pub bytes: u64,
}

impl Database {
    /// Records a lease, or lets it live on, for so long. Returns the epoch, and
    /// when it ends.
    pub(crate) async fn begin_lease(
        &self,
        id: &str,
        purpose: Purpose,
        lasts_ms: u64,
    ) -> Result<(u64, u64), StorageError> {
        let begin = async {
            let mut change = self.begin().await?;
            // Not before: others may have kept us waiting.
            let expires_ms = self.now_ms().saturating_add(lasts_ms);
            let epoch = add_lease(&mut change, id, purpose, expires_ms).await?;
            change.commit().await?;
            Ok((epoch, expires_ms))
        };
        begin.await.map_err(failed)
    }

    /// Records the lease of a collection. Nothing where another one is under
    /// way.
    pub(crate) async fn begin_collection(
        &self,
        id: &str,
        lasts_ms: u64,
    ) -> Result<Option<u64>, StorageError> {
        let begin = async {
            let mut change = self.begin().await?;
            let now_ms = self.now_ms();
            drop_expired(&mut change, now_ms).await?;
            let busy = sqlx::query("SELECT 1 FROM leases WHERE purpose = $1")
                .bind(Purpose::Collect.word())
                .fetch_optional(&mut *change)
                .await?;
            if busy.is_some() {
                return Ok(None);
            }
            let expires_ms = now_ms.saturating_add(lasts_ms);
            let epoch = add_lease(&mut change, id, Purpose::Collect, expires_ms).await?;
            change.commit().await?;
            Ok(Some(epoch))
        };
        begin.await.map_err(failed)
    }

    /// Lets a lease live on for so long; false where it is gone.
    pub(crate) async fn renew_lease(&self, id: &str, lasts_ms: u64) -> Result<bool, StorageError> {
        let renew = async {
            let mut change = self.begin().await?;
            let done = sqlx::query("UPDATE leases SET expires_ms = $1 WHERE id = $2")
                .bind(to_sql(self.now_ms().saturating_add(lasts_ms)))
                .bind(id)
                .execute(&mut *change)
                .await?;
            change.commit().await?;
            Ok(done.rows_affected() > 0)
        };
        renew.await.map_err(failed)
    }

    pub(crate) async fn end_lease(&self, id: &str) -> Result<(), StorageError> {
        let done = sqlx::query("DELETE FROM leases WHERE id = $1").bind(id).execute(&self.pool);
        done.await.map(|_| ()).map_err(failed)
    }

    /// Whether a lease is recorded, as one is until it is taken away.
    pub(crate) async fn has_lease(&self, id: &str) -> Result<bool, StorageError> {
        let row = sqlx::query("SELECT 1 FROM leases WHERE id = $1").bind(id);
        let row = row.fetch_optional(&self.pool).await.map_err(failed)?;
        Ok(row.is_some())
    }

    /// The current epoch.
    pub(crate) async fn epoch(&self) -> Result<u64, StorageError> {
        let row = sqlx::query("SELECT number FROM epoch").fetch_one(&self.pool).await;
        row.and_then(|row| number(&row, "number")).map_err(failed)
    }

    /// An object that is about to be written under the name of its content is
    /// no longer condemned.
    pub(crate) async fn revive(&self, key: &str) -> Result<(), StorageError> {
        spare(&self.pool, key).await.map_err(failed)
    }

    /// Keys of all condemned objects.
    pub(crate) async fn condemned(&self) -> Result<HashSet<String>, StorageError> {
        let all = sqlx::query_scalar("SELECT object FROM condemned").fetch_all(&self.pool);
        Ok(all.await.map_err(failed)?.into_iter().collect())
    }

    /// What a check compares with the objects, as it is at one moment: a pack
    /// that is condemned then is needed by no image of then.
    pub(crate) async fn inventory(&self) -> Result<Inventory, StorageError> {
        let read = async {
            let mut read = self.pool.begin().await?;
            let packs = sqlx::query_scalar("SELECT name FROM packs").fetch_all(&mut *read).await?;
            let condemned = sqlx::query_scalar("SELECT object FROM condemned");
            let condemned = condemned.fetch_all(&mut *read).await?.into_iter().collect();
            Ok(Inventory { images: images(&mut *read).await?, packs, condemned })
        };
        read.await.map_err(failed)
    }

    /// All images and names at one moment.
    pub(crate) async fn records(&self) -> Result<Records, StorageError> {
        let read = async {
            let mut read = self.pool.begin().await?;
            records(&mut read).await
        };
        read.await.map_err(failed)
    }

    /// Condemns what nothing needs, if the records are still `seen`.
    pub(crate) async fn condemn(
        &self,
        lease: &str,
        seen: &Records,
        sentence: &Sentence,
        now_ms: u64,
    ) -> Result<Change, StorageError> {
        let condemn = async {
            let mut change = self.begin().await?;
            if !holds(&mut change, lease).await? {
                return Ok(Change::Lapsed);
            }
            if records(&mut change).await? != *seen {
                return Ok(Change::Outdated);
            }
            write_sentence(&mut change, sentence, now_ms).await?;
            change.commit().await?;
            Ok(Change::Done)
        };
        condemn.await.map_err(failed)
    }

    /// Condemns damaged packs, as far as they still are: an import may have
    /// written one anew, and nobody can while this looks. Imports that began
    /// before may have counted on them and can no longer be recorded. Returns
    /// the packs; nothing where the lease is gone.
    pub(crate) async fn condemn_damaged(
        &self,
        lease: &str,
        storage: &Storage,
        removal: &Removal,
        now_ms: u64,
    ) -> Result<Option<Vec<PackName>>, StorageError> {
        let mut change = self.begin().await.map_err(failed)?;
        if !holds(&mut change, lease).await.map_err(failed)? {
            return Ok(None);
        }
        let mut sentence = Sentence { needed_packs: removal.needed.clone(), ..Sentence::default() };
        for (pack, bytes) in &removal.damaged {
            if !packs::is_whole(storage, pack).await? {
                sentence.objects.push((pack_key(pack).to_string(), *bytes));
                sentence.packs.push(*pack);
            }
        }
        let damaged = sentence.packs.clone();
        sentence.packs.extend(&removal.missing);
        let condemn = async {
            if !damaged.is_empty() {
                sqlx::query("DELETE FROM leases WHERE purpose = $1")
                    .bind(Purpose::Import.word())
                    .execute(&mut *change)
                    .await?;
            }
            write_sentence(&mut change, &sentence, now_ms).await?;
            change.commit().await
        };
        condemn.await.map_err(failed)?;
        Ok(Some(damaged))
    }

    /// Forgets the leases whose holders were silent for too long. Durable before
    /// anything is deleted on its strength: a lease that came back after a
    /// deletion was undone would promise what is gone.
    pub(crate) async fn drop_expired_leases(&self) -> Result<(), StorageError> {
        let drop = async {
            let mut change = self.begin().await?;
            drop_expired(&mut change, self.now_ms()).await?;
            change.commit().await
        };
        drop.await.map_err(failed)
    }

    /// Deletes some of the condemned objects that no lease keeps. Whoever wants to
    /// write one of them waits for the end of this transaction, so that a new
    /// object is never deleted for an old one.
    pub(crate) async fn delete_condemned(
        &self,
        lease: &str,
        storage: &Storage,
    ) -> Result<Deleted, StorageError> {
        let mut change = self.begin().await.map_err(failed)?;
        if !holds(&mut change, lease).await.map_err(failed)? {
            return Ok(Deleted { lapsed: true, ..Deleted::default() });
        }
        let rows = sqlx::query(
            "SELECT object, bytes FROM condemned WHERE NOT EXISTS \
             (SELECT 1 FROM leases WHERE id <> $1 AND began < condemned.epoch) \
             ORDER BY object LIMIT $2",
        )
        .bind(lease)
        .bind(DELETE_BATCH)
        .fetch_all(&mut *change)
        .await
        .map_err(failed)?;
        let mut deleted = Deleted::default();
        let mut gone = Vec::new();
        for row in &rows {
            let key: String = row.try_get("object").map_err(failed)?;
            if let Err(error) = storage.delete(&key).await {
                // Whoever does not answer would keep all writers waiting.
                let is_silent = matches!(error, StorageError::Unreachable { .. });
                deleted.failed.get_or_insert(error);
                match is_silent {
                    true => break,
                    false => continue,
                }
            }
            spare(&mut *change, &key).await.map_err(failed)?;
            deleted.objects += 1;
            deleted.bytes += number(row, "bytes").map_err(failed)?;
            gone.push(key);
        }
        storage.sync_deletions(&gone).await?;
        change.commit().await.map_err(failed)?;
        deleted.more = deleted.objects > 0 && rows.len() as i64 == DELETE_BATCH;
        Ok(deleted)
    }

    /// What is condemned and not deleted yet.
    pub(crate) async fn waiting(&self) -> Result<Waiting, StorageError> {
        let read = async {
            let row = sqlx::query(
                "SELECT COUNT(*) AS objects, COALESCE(SUM(bytes), 0) AS bytes FROM condemned",
            )
            .fetch_one(&self.pool)
            .await?;
            Ok(Waiting { objects: number(&row, "objects")?, bytes: number(&row, "bytes")? })
        };
        read.await.map_err(failed)
    }
}

type Tx = Transaction<'static, Sqlite>;

async fn add_lease(
    change: &mut Tx,
    id: &str,
    purpose: Purpose,
    expires_ms: u64,
) -> sqlx::Result<u64> {
    let epoch = epoch(change).await?;
    sqlx::query(
        "INSERT INTO leases (id, purpose, began, expires_ms) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (id) DO UPDATE SET expires_ms = excluded.expires_ms",
    )
    .bind(id)
    .bind(purpose.word())
    .bind(to_sql(epoch))
    .bind(to_sql(expires_ms))
    .execute(&mut **change)
    .await?;
    Ok(epoch)
}

/// Ends a lease with the change that it was for, whose objects are needed from
/// now on. False where the lease is gone: some of them may be, too.
pub(super) async fn redeem(change: &mut Tx, id: &str, needed: &[String]) -> sqlx::Result<bool> {
    if !holds(change, id).await? {
        return Ok(false);
    }
    sqlx::query("DELETE FROM leases WHERE id = $1").bind(id).execute(&mut **change).await?;
    for key in needed {
        spare(&mut **change, key).await?;
    }
    Ok(true)
}

async fn spare(records: impl SqliteExecutor<'_>, key: &str) -> sqlx::Result<()> {
    let done = sqlx::query("DELETE FROM condemned WHERE object = $1").bind(key).execute(records);
    done.await.map(|_| ())
}

async fn holds(change: &mut Tx, id: &str) -> sqlx::Result<bool> {
    let row = sqlx::query("SELECT 1 FROM leases WHERE id = $1").bind(id);
    Ok(row.fetch_optional(&mut **change).await?.is_some())
}

/// A lease that ends later than any does was taken while the clock was wrong.
async fn drop_expired(change: &mut Tx, now_ms: u64) -> sqlx::Result<()> {
    let done = sqlx::query("DELETE FROM leases WHERE expires_ms < $1 OR expires_ms > $2")
        .bind(to_sql(now_ms))
        .bind(to_sql(now_ms.saturating_add(EXPIRY_MAX_MS)));
    done.execute(&mut **change).await.map(|_| ())
}

async fn epoch(change: &mut Tx) -> sqlx::Result<u64> {
    let row = sqlx::query("SELECT number FROM epoch").fetch_one(&mut **change).await?;
    number(&row, "number")
}

async fn records(read: &mut Tx) -> sqlx::Result<Records> {
    Ok(Records { images: images(&mut **read).await?, names: names(&mut **read).await? })
}

async fn write_sentence(change: &mut Tx, sentence: &Sentence, now_ms: u64) -> sqlx::Result<()> {
    sqlx::query("UPDATE epoch SET number = number + 1").execute(&mut **change).await?;
    let epoch = epoch(change).await?;
    for image in &sentence.images {
        let gone = sqlx::query("DELETE FROM images WHERE digest = $1").bind(image.hex());
        gone.execute(&mut **change).await?;
    }
    for (key, bytes) in &sentence.objects {
        sqlx::query(
            "INSERT INTO condemned (object, bytes, epoch) VALUES ($1, $2, $3) \
             ON CONFLICT (object) DO NOTHING",
        )
        .bind(key)
        .bind(to_sql(*bytes))
        .bind(to_sql(epoch))
        .execute(&mut **change)
        .await?;
    }
    for pack in &sentence.packs {
        let gone = sqlx::query("DELETE FROM packs WHERE name = $1").bind(pack.to_string());
        gone.execute(&mut **change).await?;
    }
    for pack in &sentence.needed_packs {
        super::add_pack(change, pack, now_ms).await?;
        spare(&mut **change, pack_key(pack).as_ref()).await?;
    }
    Ok(())
}

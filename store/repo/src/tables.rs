//! Chunk tables as they are kept: whole, or by the table of a related image.

use std::collections::BTreeSet;

use store_format::table::{self, DerivedTable, KeptTable};
use store_format::{ChunkTable, DecodeError};
use tokio::task::spawn_blocking;
use wire::Digest;

use crate::database::ImageRow;
use crate::open::Repo;
use crate::packer;
use crate::read::ReadError;
use crate::storage::{StorageError, blob_key};

/// Newest images whose tables a new one may be told by.
const RELATIVES: usize = 8;
/// Of these, tables that are tried.
const TRIED: usize = 3;
/// Longest table that is told by another one: both are in memory then.
const DERIVED_BYTES_MAX: usize = 32 << 20;
/// A derived table is at most this part of the whole one: reading it takes two
/// blobs.
const DERIVED_PART: usize = 2;

const DERIVED_TWICE: DecodeError = DecodeError::Invalid {
    what: "a derived chunk table",
    why: "the table that it is told by is derived, too",
};

/// A table, and the blobs that it is kept in.
pub(crate) struct FoundTable {
    pub table: ChunkTable,
    /// The table that it is told by.
    pub base: Option<Digest>,
}

/// Where a table was put.
pub(crate) struct PutTable {
    pub name: Digest,
    /// The table that it is told by.
    pub base: Option<Digest>,
}

impl Repo {
    /// The table of an image.
    pub(crate) async fn table_of(&self, row: &ImageRow) -> Result<ChunkTable, ReadError> {
        self.find_table(row).await.map(|found| found.table)
    }

    /// The table of an image, and what it takes to read it.
    pub(crate) async fn find_table(&self, row: &ImageRow) -> Result<FoundTable, ReadError> {
        let derived = match self.kept_table(&row.table).await? {
            KeptTable::Whole(table) => return Ok(FoundTable { table, base: None }),
            KeptTable::Derived(derived) => derived,
        };
        let base = derived.base;
        let whole = match self.kept_table(&base).await? {
            KeptTable::Whole(whole) => whole,
            KeptTable::Derived(_) => return Err(wrong(&row.table, DERIVED_TWICE)),
        };
        let name = row.table;
        let resolve = spawn_blocking(move || derived.resolve(&whole));
        let table = resolve.await.map_err(|_| ReadError::Broken)?;
        Ok(FoundTable { table: table.map_err(|source| wrong(&name, source))?, base: Some(base) })
    }

    async fn kept_table(&self, name: &Digest) -> Result<KeptTable, ReadError> {
        let bytes = self.blob(name, table::BYTES_MAX).await?;
        let decode = spawn_blocking(move || KeptTable::decode(&bytes));
        decode.await.map_err(|_| ReadError::Broken)?.map_err(|source| wrong(name, source))
    }

    /// Writes the table of an image that is about to be recorded, unless it is
    /// there already. `whole` are its bytes.
    pub(crate) async fn put_table(
        &self,
        table: &ChunkTable,
        whole: Vec<u8>,
    ) -> Result<PutTable, StorageError> {
        if let Some(row) = self.database.image(&table.image).await?
            && let Ok(found) = self.find_table(&row).await
            && found.table == *table
        {
            return Ok(PutTable { name: row.table, base: found.base });
        }
        let (bytes, base) = match self.derive(table, whole.len()).await? {
            Some((bytes, base)) => (bytes, Some(base)),
            None => (whole, None),
        };
        let name = store_format::digest_of(&bytes);
        packer::put(&self.storage, &self.database, &blob_key(&name), bytes.into()).await?;
        Ok(PutTable { name, base })
    }

    /// The table told by that of a related image, and the name of that.
    async fn derive(
        &self,
        table: &ChunkTable,
        whole_len: usize,
    ) -> Result<Option<(Vec<u8>, Digest)>, StorageError> {
        if whole_len > DERIVED_BYTES_MAX {
            return Ok(None);
        }
        let mut tables = Vec::new();
        for name in self.relatives().await? {
            // One that cannot be read is no relative.
            if let Ok(KeptTable::Whole(base)) = self.kept_table(&name).await {
                tables.push((name, base));
            }
        }
        let table = table.clone();
        let derive = spawn_blocking(move || {
            let derived = tables
                .iter()
                .map(|(name, base)| (DerivedTable::of(&table, *name, base).encode(), *name));
            derived.min_by_key(|(bytes, _)| bytes.len())
        });
        let least = derive.await.map_err(|e| StorageError::new("blobs", Box::new(e)))?;
        Ok(least.filter(|(bytes, _)| bytes.len() <= whole_len / DERIVED_PART))
    }

    /// Whole tables of the newest images, the newest first.
    async fn relatives(&self) -> Result<Vec<Digest>, StorageError> {
        let mut names = Vec::new();
        let mut seen = BTreeSet::new();
        for row in self.database.images().await?.iter().rev().take(RELATIVES) {
            let name = match self.kept_table(&row.table).await {
                Ok(KeptTable::Whole(_)) => row.table,
                Ok(KeptTable::Derived(derived)) => derived.base,
                Err(_) => continue,
            };
            if seen.insert(name) {
                names.push(name);
            }
            if names.len() == TRIED {
                break;
            }
        }
        Ok(names)
    }
}

fn wrong(name: &Digest, source: DecodeError) -> ReadError {
    ReadError::Table { key: blob_key(name).to_string(), source }
}

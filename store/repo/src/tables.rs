//! Chunk tables as they are kept: whole, or by the table of a related image.

mod open;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::Arc;

use store_format::table::{self, DerivedTable, KeptTable};
use store_format::{ChunkTable, DecodeError};
use tokio::task::spawn_blocking;
use wire::Digest;

use crate::database::ImageRow;
use crate::open::Repo;
use crate::packer;
use crate::read::{ReadError, scratch};
use crate::shelf::Answer;
use crate::sorted::scratch_file;
use crate::storage::{Content, StorageError, blob_key};

pub(crate) use open::OpenTable;
use open::wrong;

/// Newest images whose tables a new one may be told by.
const RELATIVES: usize = 8;
/// Of these, tables that are tried.
const TRIED: usize = 3;
/// Longest table that is told by another one, or tells another one: both are in
/// memory then.
const DERIVED_BYTES_MAX: u64 = 16 << 20;
/// A derived table is at most this part of the whole one: reading it takes two
/// blobs.
const DERIVED_PART: u64 = 2;

/// Longest table that waits in memory for who asks for it next.
const IN_MEMORY_MAX: u64 = 1 << 20;

const DERIVED_TWICE: DecodeError = DecodeError::Invalid {
    what: "a derived chunk table",
    why: "the table that it is told by is derived, too",
};

/// A table, and the blobs that it is kept in.
pub(crate) struct FoundTable {
    pub table: OpenTable,
    /// The table that it is told by.
    pub base: Option<Digest>,
}

/// Where a table was put.
pub(crate) struct PutTable {
    pub name: Digest,
    /// The table that it is told by.
    pub base: Option<Digest>,
}

/// A table as it is kept.
enum Kept {
    Whole(OpenTable),
    Derived(DerivedTable),
}

impl Repo {
    /// The table of an image, all of it in memory.
    pub(crate) async fn table_of(&self, row: &ImageRow) -> Result<ChunkTable, ReadError> {
        match self.kept_table(&row.table).await? {
            Kept::Whole(table) => blocking(move || table.decode()).await,
            Kept::Derived(derived) => self.resolve_table(&row.table, derived).await,
        }
    }

    /// The table of an image, and what it takes to read it.
    pub(crate) async fn open_table(&self, row: &ImageRow) -> Result<FoundTable, ReadError> {
        let derived = match self.kept_table(&row.table).await? {
            Kept::Whole(table) => return Ok(FoundTable { table, base: None }),
            Kept::Derived(derived) => derived,
        };
        let base = Some(derived.base);
        let table = self.resolve_table(&row.table, derived).await?;
        let table = blocking(move || OpenTable::of_bytes(table.encode().into())).await?;
        Ok(FoundTable { table, base })
    }

    /// A table as an answer to keep: in memory while it is short, in a file beyond.
    pub(crate) async fn spooled(&self, table: OpenTable) -> Result<Answer, ReadError> {
        let home = self.storage.home.clone();
        blocking(move || {
            let OpenTable { content, outline, key } = table;
            let (name, len) = (outline.name, outline.len);
            let content = match content {
                Content::Memory(bytes) if len > IN_MEMORY_MAX => {
                    let failed = |source| scratch(&home.display().to_string(), source);
                    let mut file = scratch_file(&home).map_err(failed)?;
                    file.write_all(&bytes).map_err(failed)?;
                    Content::File(file)
                }
                Content::File(_) if len <= IN_MEMORY_MAX => {
                    let failed = |error| StorageError::new(&key, Box::new(error));
                    Content::Memory(content.all().map_err(failed)?)
                }
                other => other,
            };
            Ok(Answer { name, len, key: key.into(), content: Arc::new(content) })
        })
        .await
    }

    async fn resolve_table(
        &self,
        name: &Digest,
        derived: DerivedTable,
    ) -> Result<ChunkTable, ReadError> {
        let key = blob_key(name).to_string();
        let Kept::Whole(base) = self.kept_table(&derived.base).await? else {
            return Err(wrong(&key, DERIVED_TWICE));
        };
        blocking(move || derived.resolve(&base.decode()?).map_err(|source| wrong(&key, source)))
            .await
    }

    /// A table, proven to be what its name says.
    async fn kept_table(&self, name: &Digest) -> Result<Kept, ReadError> {
        let (key, name) = (blob_key(name), *name);
        let content = self.storage.open(&key, table::BYTES_MAX).await?;
        let key = key.to_string();
        blocking(move || {
            let failed = |error: io::Error| StorageError::new(&key, Box::new(error));
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(content.front()).map_err(failed)?;
            if hasher.finalize() != name.0 {
                return Err(ReadError::Blob { key });
            }
            let first = content.len().and_then(|len| content.range(0..len.min(8)));
            if !KeptTable::is_derived(&first.map_err(failed)?) {
                return OpenTable::new(&key, content).map(Kept::Whole);
            }
            let decoded = KeptTable::decode(&content.all().map_err(failed)?);
            match decoded.map_err(|source| wrong(&key, source))? {
                KeptTable::Derived(derived) => Ok(Kept::Derived(derived)),
                KeptTable::Whole(_) => Err(ReadError::Broken),
            }
        })
        .await
    }

    /// Writes the table of an image that is about to be recorded, unless it is
    /// there already.
    pub(crate) async fn put_table(&self, table: OpenTable) -> Result<PutTable, StorageError> {
        if let Some(row) = self.database.image(&table.outline.image).await?
            && let Ok(found) = self.open_table(&row).await
            && found.table.outline.name == table.outline.name
        {
            return Ok(PutTable { name: row.table, base: found.base });
        }
        let whole = table.outline.name;
        let (name, content, base) = match self.derive(&table).await? {
            Some((bytes, base)) => {
                (store_format::digest_of(&bytes), Content::Memory(bytes.into()), Some(base))
            }
            None => (whole, table.content, None),
        };
        packer::put_content(&self.storage, &self.database, &blob_key(&name), &content).await?;
        Ok(PutTable { name, base })
    }

    /// The table told by that of a related image, and the name of that.
    async fn derive(&self, table: &OpenTable) -> Result<Option<(Vec<u8>, Digest)>, StorageError> {
        let len = table.outline.len;
        if len > DERIVED_BYTES_MAX {
            return Ok(None);
        }
        let relatives = self.relatives().await?;
        if relatives.is_empty() {
            return Ok(None);
        }
        let failed = |e| StorageError::new("blobs", e);
        let mut table = table.decode().map_err(|e| failed(Box::new(e)))?;
        let mut least: Option<(Vec<u8>, Digest)> = None;
        for (name, base) in relatives {
            let derive = spawn_blocking(move || {
                // One that cannot be read is no relative.
                let bytes = base.decode().ok().map(|b| DerivedTable::of(&table, name, &b).encode());
                (table, bytes)
            });
            let bytes;
            (table, bytes) = derive.await.map_err(|e| failed(Box::new(e)))?;
            let bytes = bytes.filter(|bytes| bytes.len() as u64 <= len / DERIVED_PART);
            let is_less =
                |bytes: &Vec<u8>| least.as_ref().is_none_or(|(known, _)| bytes.len() < known.len());
            if let Some(bytes) = bytes.filter(is_less) {
                least = Some((bytes, name));
            }
        }
        Ok(least)
    }

    /// Whole tables of the newest images, the newest first.
    async fn relatives(&self) -> Result<Vec<(Digest, OpenTable)>, StorageError> {
        let mut tables = Vec::new();
        let mut seen = BTreeSet::new();
        for row in self.database.images().await?.iter().rev().take(RELATIVES) {
            let (name, table) = match self.kept_table(&row.table).await {
                Ok(Kept::Whole(table)) => (row.table, table),
                Ok(Kept::Derived(derived)) if !seen.contains(&derived.base) => {
                    match self.kept_table(&derived.base).await {
                        Ok(Kept::Whole(table)) => (derived.base, table),
                        _ => continue,
                    }
                }
                _ => continue,
            };
            if seen.insert(name) && table.outline.len <= DERIVED_BYTES_MAX {
                tables.push((name, table));
            }
            if tables.len() == TRIED {
                break;
            }
        }
        Ok(tables)
    }
}

/// Does something on a thread that may wait.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ReadError> {
    spawn_blocking(work).await.map_err(|_| ReadError::Broken)?
}

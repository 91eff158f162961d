//! Where a store keeps its bytes.

mod content;
mod error;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use store_format::PackName;
use wire::Digest;

use crate::blocks::Blocks;
pub(crate) use content::Content;
pub use error::{Cause, StorageError};

/// Two places: the objects, which may be far away and shared, and a local
/// folder for the database and the index.
#[derive(Debug, Clone)]
pub struct Storage {
    /// Packs, blobs and the marker.
    pub objects: Arc<dyn ObjectStore>,
    /// Writes files into `home`.
    pub local: Arc<dyn ObjectStore>,
    /// The folder of the database and the index.
    pub home: PathBuf,
    /// What messages call it.
    pub(crate) name: String,
    /// Where the objects are away from the home: what was read of them last.
    pub(crate) blocks: Option<Arc<Blocks>>,
}

/// Objects that are looked for at once.
const LOOKS: usize = 16;

impl Storage {
    /// A store that is wholly in one folder, which must exist.
    pub fn folder(path: &Path) -> Result<Storage, StorageError> {
        let (local, home) = local(path)?;
        let name = home.display().to_string();
        Ok(Storage { objects: Arc::clone(&local), local, home, name, blocks: None })
    }

    /// A store whose objects are somewhere else than its records, which are in
    /// a folder that must exist. Messages call it `name`.
    pub fn apart(
        objects: Arc<dyn ObjectStore>,
        home: &Path,
        name: &str,
    ) -> Result<Storage, StorageError> {
        let (local, home) = local(home)?;
        Ok(Storage { objects, local, home, name: name.to_owned(), blocks: Some(Blocks::new()) })
    }

    /// Whether the objects are somewhere else than the records.
    pub(crate) fn is_apart(&self) -> bool {
        self.blocks.is_some()
    }

    pub(crate) async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), StorageError> {
        put(&self.objects, key, bytes).await?;
        if let Some(blocks) = &self.blocks {
            // It may have been damaged before.
            blocks.forget(key);
        }
        Ok(())
    }

    pub(crate) async fn put_local(&self, key: &Key, bytes: Bytes) -> Result<(), StorageError> {
        put(&self.local, key, bytes).await
    }

    /// Whether all these objects exist.
    pub(crate) async fn has(&self, keys: &[String]) -> Result<bool, StorageError> {
        let keys: Vec<_> = keys.iter().map(|key| Key::from(key.as_str())).collect();
        let looks = stream::iter(keys).map(|key| async move {
            match self.len(&key).await {
                Ok(_) => Ok(true),
                Err(StorageError::Missing { .. }) => Ok(false),
                Err(error) => Err(error),
            }
        });
        // A folder answers at once; elsewhere each answer takes its time.
        let at_a_time = if self.is_apart() { LOOKS } else { 1 };
        let found: Vec<bool> = looks.buffer_unordered(at_a_time).try_collect().await?;
        Ok(!found.contains(&false))
    }

    /// Deletes an object; one that is gone already is fine.
    pub(crate) async fn delete(&self, key: &str) -> Result<(), StorageError> {
        delete(&self.objects, &Key::from(key)).await
    }

    /// What was deleted stays so, whenever the power fails: an object that came
    /// back after its records were forgotten would count as stored.
    pub(crate) async fn sync_deletions(&self, keys: &[String]) -> Result<(), StorageError> {
        if self.is_apart() {
            return Ok(());
        }
        let folders: BTreeSet<PathBuf> =
            keys.iter().filter_map(|key| Some(self.home.join(key).parent()?.to_owned())).collect();
        let sync = move || {
            folders.iter().try_for_each(|folder| match File::open(folder) {
                // It went with its last file.
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                folder => folder?.sync_all(),
            })
        };
        let synced = tokio::task::spawn_blocking(sync).await;
        let failed = |e| StorageError::new(&self.name, e);
        synced.map_err(|e| failed(Box::new(e)))?.map_err(|e| failed(Box::new(e)))
    }

    /// As [`Storage::delete`], for a file in `home`.
    pub(crate) async fn delete_local(&self, key: &Key) -> Result<(), StorageError> {
        delete(&self.local, key).await
    }

    /// A whole object of at most `limit` bytes.
    pub(crate) async fn get(&self, key: &Key, limit: u64) -> Result<Bytes, StorageError> {
        let found = self.objects.get(key).await.map_err(|e| StorageError::object(key, e))?;
        let len = found.meta.size;
        if len > limit {
            return Err(StorageError::TooLong { key: key.to_string(), len });
        }
        found.bytes().await.map_err(|e| StorageError::object(key, e))
    }

    /// A part of a pack that others are likely to want, too.
    pub(crate) async fn read(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StorageError> {
        match &self.blocks {
            Some(blocks) => blocks.read(&self.objects, key, range).await,
            None => self.get_range(key, range).await,
        }
    }

    /// A part of an object, as it is in this moment.
    pub(crate) async fn get_range(
        &self,
        key: &Key,
        range: Range<u64>,
    ) -> Result<Bytes, StorageError> {
        let len = range.end.saturating_sub(range.start);
        let bytes =
            self.objects.get_range(key, range).await.map_err(|e| StorageError::object(key, e))?;
        match bytes.len() as u64 == len {
            true => Ok(bytes),
            // A backend may answer a range that reaches past the end in part.
            false => {
                let what = "it ends before what should be read from it";
                Err(StorageError::new(key.as_ref(), what.into()))
            }
        }
    }

    pub(crate) async fn len(&self, key: &Key) -> Result<u64, StorageError> {
        let meta = self.objects.head(key).await.map_err(|e| StorageError::object(key, e))?;
        Ok(meta.size)
    }

    /// Whether there is any pack or blob.
    pub(crate) async fn holds_content(&self) -> Result<bool, StorageError> {
        for folder in [PACKS, BLOBS] {
            let prefix = Key::from(folder);
            let first = self.objects.list(Some(&prefix)).try_next().await;
            if first.map_err(|e| StorageError::object(&prefix, e))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// All packs with their lengths; files with other names are not listed.
    pub(crate) async fn packs(&self) -> Result<Vec<(PackName, u64)>, StorageError> {
        self.list(PACKS, |name| name.parse().ok(), pack_key).await
    }

    /// All blobs with their lengths.
    pub(crate) async fn blobs(&self) -> Result<Vec<(Digest, u64)>, StorageError> {
        self.list(BLOBS, |name| Digest::from_hex(name).ok(), blob_key).await
    }

    /// Files with other names, or in other places than their names say, are
    /// somebody else's.
    async fn list<T: Ord>(
        &self,
        folder: &str,
        parse: impl Fn(&str) -> Option<T>,
        key: impl Fn(&T) -> Key,
    ) -> Result<Vec<(T, u64)>, StorageError> {
        let prefix = Key::from(folder);
        let mut list = self.objects.list(Some(&prefix));
        let mut found = Vec::new();
        while let Some(meta) =
            list.try_next().await.map_err(|e| StorageError::object(&prefix, e))?
        {
            let name = meta.location.filename().and_then(&parse);
            let name = name.filter(|name| key(name) == meta.location);
            found.extend(name.map(|name| (name, meta.size)));
        }
        found.sort_unstable();
        Ok(found)
    }
}

async fn put(store: &Arc<dyn ObjectStore>, key: &Key, bytes: Bytes) -> Result<(), StorageError> {
    let payload = PutPayload::from_bytes(bytes);
    store.put(key, payload).await.map_err(|e| StorageError::write(key, e))?;
    Ok(())
}

async fn delete(store: &Arc<dyn ObjectStore>, key: &Key) -> Result<(), StorageError> {
    match store.delete(key).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(StorageError::object(key, error)),
    }
}

/// A folder that is written durably.
fn local(path: &Path) -> Result<(Arc<dyn ObjectStore>, PathBuf), StorageError> {
    let shown = path.display().to_string();
    let failed = |e: Box<dyn std::error::Error + Send + Sync>| StorageError::new(&shown, e);
    let home = fs::canonicalize(path).map_err(|e| failed(Box::new(e)))?;
    let store = LocalFileSystem::new_with_prefix(&home).map_err(|e| failed(Box::new(e)))?;
    Ok((Arc::new(store.with_fsync(true)), home))
}

const PACKS: &str = "packs";
const BLOBS: &str = "blobs";

/// Folder of the index below [`Storage::home`].
pub(crate) const INDEX: &str = "index";

pub(crate) fn pack_key(name: &PackName) -> Key {
    fan_out(PACKS, &name.to_string())
}

pub(crate) fn blob_key(digest: &Digest) -> Key {
    fan_out(BLOBS, &digest.hex())
}

pub(crate) fn index_key(name: &str) -> Key {
    Key::from_iter([INDEX, name])
}

/// Two digits of the name as a folder keep folders small.
fn fan_out(folder: &str, hex: &str) -> Key {
    Key::from_iter([folder, &hex[..2], hex])
}

//! Where a store keeps its bytes.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use store_format::PackName;
use wire::Digest;

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
}

/// Why bytes could not be read from or written to the store.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// No space left.
    #[error(
        "the store has no space left for {key}: free some and try again; nothing in it is lost"
    )]
    Full {
        /// File in the store.
        key: String,
        /// What the backend said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Not allowed.
    #[error("the store refuses access to {key}: it is read-only, or belongs to another user")]
    Denied {
        /// File in the store.
        key: String,
        /// What the backend said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No such file.
    #[error("{key} is missing from the store")]
    Missing {
        /// File in the store.
        key: String,
    },
    /// A file is longer than it can be.
    #[error("{key} has {len} bytes, more than it can have: it is not what its name says")]
    TooLong {
        /// File in the store.
        key: String,
        /// Its length.
        len: u64,
    },
    /// The database gave another error.
    #[error("the store's database {key} failed")]
    Database {
        /// File in the store.
        key: String,
        /// What the database said.
        #[source]
        source: sqlx::Error,
    },
    /// Anything else.
    #[error("the store cannot access {key}")]
    Other {
        /// File in the store.
        key: String,
        /// What the backend said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StorageError {
    pub(crate) fn new(key: &str, source: Box<dyn std::error::Error + Send + Sync>) -> Self {
        let key = key.to_owned();
        match io_kind(source.as_ref()) {
            Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
                StorageError::Full { key, source }
            }
            Some(ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
                StorageError::Denied { key, source }
            }
            _ => StorageError::Other { key, source },
        }
    }

    fn object(key: &Key, source: object_store::Error) -> StorageError {
        match source {
            object_store::Error::NotFound { .. } => StorageError::Missing { key: key.to_string() },
            object_store::Error::PermissionDenied { .. } => {
                StorageError::Denied { key: key.to_string(), source: Box::new(source) }
            }
            _ => StorageError::new(key.as_ref(), Box::new(source)),
        }
    }
}

/// The kind of the first I/O error in a chain of causes.
fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<ErrorKind> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        cause = error.source();
    }
    None
}

impl Storage {
    /// A store that is wholly in one folder, which must exist.
    pub fn folder(path: &Path) -> Result<Storage, StorageError> {
        let shown = path.display().to_string();
        let open = || LocalFileSystem::new_with_prefix(path).map(|store| store.with_fsync(true));
        let objects = open().map_err(|e| StorageError::new(&shown, Box::new(e)))?;
        let objects: Arc<dyn ObjectStore> = Arc::new(objects);
        let home = fs::canonicalize(path).map_err(|e| StorageError::new(&shown, Box::new(e)))?;
        Ok(Storage { local: Arc::clone(&objects), objects, home })
    }

    pub(crate) async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), StorageError> {
        put(&self.objects, key, bytes).await
    }

    pub(crate) async fn put_local(&self, key: &Key, bytes: Bytes) -> Result<(), StorageError> {
        put(&self.local, key, bytes).await
    }

    /// Whether all these objects exist.
    pub(crate) async fn has(&self, keys: &[String]) -> Result<bool, StorageError> {
        for key in keys {
            match self.len(&Key::from(key.as_str())).await {
                Ok(_) => {}
                Err(StorageError::Missing { .. }) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Deletes an object; one that is gone already is fine.
    pub(crate) async fn delete(&self, key: &str) -> Result<(), StorageError> {
        delete(&self.objects, &Key::from(key)).await
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

    pub(crate) async fn get_range(
        &self,
        key: &Key,
        range: std::ops::Range<u64>,
    ) -> Result<Bytes, StorageError> {
        let len = range.end.saturating_sub(range.start);
        let bytes =
            self.objects.get_range(key, range).await.map_err(|e| StorageError::object(key, e))?;
        match bytes.len() as u64 == len {
            true => Ok(bytes),
            // A backend may answer a range that reaches past the end in part.
            false => Err(StorageError::Other {
                key: key.to_string(),
                source: "it ends before what should be read from it".into(),
            }),
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
        self.list(PACKS, |name| name.parse().ok()).await
    }

    /// All blobs with their lengths.
    pub(crate) async fn blobs(&self) -> Result<Vec<(Digest, u64)>, StorageError> {
        self.list(BLOBS, |name| Digest::from_hex(name).ok()).await
    }

    async fn list<T: Ord>(
        &self,
        folder: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Vec<(T, u64)>, StorageError> {
        let prefix = Key::from(folder);
        let mut list = self.objects.list(Some(&prefix));
        let mut found = Vec::new();
        while let Some(meta) =
            list.try_next().await.map_err(|e| StorageError::object(&prefix, e))?
        {
            let name = meta.location.filename().and_then(&parse);
            found.extend(name.map(|name| (name, meta.size)));
        }
        found.sort_unstable();
        Ok(found)
    }
}

async fn put(store: &Arc<dyn ObjectStore>, key: &Key, bytes: Bytes) -> Result<(), StorageError> {
    let payload = PutPayload::from_bytes(bytes);
    store.put(key, payload).await.map_err(|e| StorageError::object(key, e))?;
    Ok(())
}

async fn delete(store: &Arc<dyn ObjectStore>, key: &Key) -> Result<(), StorageError> {
    match store.delete(key).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(StorageError::object(key, error)),
    }
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

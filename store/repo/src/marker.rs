//! The object that says what a store is.
//!
//! Where objects and records are apart, the folder of the records has a copy:
//! it shows that the two belong together.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path as Key;
use serde::{Deserialize, Serialize};

use crate::open::OpenError;
use crate::storage::{Storage, StorageError};

/// Its name.
pub(crate) const MARKER: &str = "ingot-store.json";
/// Longest marker accepted.
const MARKER_BYTES_MAX: u64 = 64 << 10;
/// What it says.
pub(crate) const FORMAT: &str = "ingot.store/1";
const FORMAT_FAMILY: &str = "ingot.store/";
/// The rule of cutting: content cut by another rule shares almost nothing.
const CHUNKER: &str = "fastcdc-2020/16384-65536-262144/2";

#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    format: String,
    chunker: String,
    /// Told apart from every other store, where objects and records are apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
}

/// Makes an empty place a store.
pub(crate) async fn write(storage: &Storage) -> Result<(), OpenError> {
    let at = storage.name.clone();
    let failed = |source| OpenError::Storage { at: at.clone(), source };
    let exists = match storage.is_apart() {
        true => !holds_nothing(storage).await.map_err(failed)?,
        false => storage.home.join(MARKER).exists(),
    };
    if exists {
        return Err(OpenError::NotAStore { at });
    }
    if !home_is_empty(storage).map_err(failed)? {
        return Err(match storage.is_apart() {
            true => no_objects(storage),
            false => OpenError::NotAStore { at },
        });
    }
    let id = storage.is_apart().then(new_id).transpose().map_err(failed)?;
    let marker = Marker { format: FORMAT.to_owned(), chunker: CHUNKER.to_owned(), id };
    let bytes = Bytes::from(serde_json::to_vec(&marker).unwrap_or_default());
    if storage.is_apart() {
        // First: a bucket with a marker always had its records somewhere.
        storage.put_local(&Key::from(MARKER), bytes.clone()).await.map_err(failed)?;
    }
    storage.put(&Key::from(MARKER), bytes).await.map_err(failed)
}

/// Whether this is a store, of this version, and with its own records.
pub(crate) async fn check(storage: &Storage) -> Result<(), OpenError> {
    let failed = |source| OpenError::Storage { at: storage.name.clone(), source };
    let bytes = match storage.get(&Key::from(MARKER), MARKER_BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(StorageError::Missing { .. }) => return Err(missing(storage).await),
        Err(source) => return Err(failed(source)),
    };
    check_version(&bytes, storage)?;
    if storage.is_apart() {
        let copy = fs::read(storage.home.join(MARKER)).unwrap_or_default();
        if copy != bytes {
            let home = storage.home.display().to_string();
            return Err(OpenError::NoRecords { at: storage.name.clone(), home });
        }
    }
    Ok(())
}

fn check_version(bytes: &[u8], storage: &Storage) -> Result<(), OpenError> {
    let at = storage.name.clone();
    #[derive(Deserialize)]
    struct Head {
        format: String,
    }
    let Ok(Head { format }) = serde_json::from_slice(bytes) else {
        return Err(OpenError::Marker { at });
    };
    let version = format.strip_prefix(FORMAT_FAMILY).and_then(|text| text.parse::<u32>().ok());
    match version {
        Some(1) if format == FORMAT => {}
        Some(2..) => return Err(OpenError::Newer { at, found: format }),
        _ => return Err(OpenError::Marker { at }),
    }
    match serde_json::from_slice::<Marker>(bytes) {
        Ok(marker) if marker.chunker == CHUNKER => Ok(()),
        Ok(marker) => Err(OpenError::Newer { at, found: marker.chunker }),
        Err(_) => Err(OpenError::Marker { at }),
    }
}

/// What a place without a marker is.
async fn missing(storage: &Storage) -> OpenError {
    let at = storage.name.clone();
    let objects_gone = match storage.is_apart() {
        true => holds_nothing(storage).await,
        false => home_is_empty(storage),
    };
    match objects_gone {
        Ok(true) if home_is_empty(storage).unwrap_or(true) => OpenError::Absent { at },
        Ok(true) => no_objects(storage),
        Ok(false) => OpenError::NotAStore { at },
        Err(source) => OpenError::Storage { at, source },
    }
}

fn no_objects(storage: &Storage) -> OpenError {
    OpenError::NoObjects { at: storage.name.clone(), home: storage.home.display().to_string() }
}

async fn holds_nothing(storage: &Storage) -> Result<bool, StorageError> {
    let first = storage.objects.list(None).try_next().await;
    first.map(|first| first.is_none()).map_err(|e| StorageError::object(&Key::from(MARKER), e))
}

fn home_is_empty(storage: &Storage) -> Result<bool, StorageError> {
    is_empty(&storage.home)
        .map_err(|e| StorageError::new(&storage.home.display().to_string(), Box::new(e)))
}

/// Whether a folder has nothing, or only what is left of a marker that was not
/// written to its end.
fn is_empty(folder: &Path) -> std::io::Result<bool> {
    for entry in fs::read_dir(folder)? {
        if !entry?.file_name().to_string_lossy().starts_with(MARKER) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn new_id() -> Result<String, StorageError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|e| StorageError::new(MARKER, Box::new(e)))?;
    Ok(hex::encode(id))
}

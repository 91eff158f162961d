//! What is in the store: names, images, and what readers ask for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::ready;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use store_format::{ChunkTable, Envelope, Extent, PackName, Region, envelope};
use wire::{Digest, Reference};

use crate::database::ImageRow;
use crate::index::{Frugal, Marks, Snapshot};
use crate::open::Repo;
use crate::packs::{self, PackBytes, PackRead};
use crate::read::ReadError;
use crate::shelf::Answer;
use crate::storage::{Content, StorageError, blob_key, pack_key};
use crate::tables::OpenTable;

/// Why a reference could not be resolved, set or removed.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// No image has this reference.
    #[error("there is no image {reference} in the store")]
    Unknown {
        /// The reference.
        reference: Reference,
    },
    /// The new reference has a digest.
    #[error("{reference} has a digest, which cannot be given to an image: use name and tag")]
    HasDigest {
        /// The reference.
        reference: Reference,
    },
    /// The records could not be read or written.
    #[error("the records of the store could not be used")]
    Storage(#[from] StorageError),
}

/// A line of the list of images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageSummary {
    /// What names the image; `None` for an image without a name, which the
    /// next removal of garbage takes away.
    pub reference: Option<Reference>,
    /// The image.
    pub digest: Digest,
    /// Bytes of its disk.
    pub disk_bytes: u64,
    /// Of these, bytes that are not in holes.
    pub data_bytes: u64,
    /// Stored bytes of its chunks, each counted once.
    pub stored_bytes: u64,
    /// Of these, bytes that no other image in the store shares.
    pub unique_bytes: u64,
    /// When it was stored first: milliseconds since 1970.
    pub created_ms: u64,
}

/// All about one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageDetails {
    /// The image.
    pub digest: Digest,
    /// All its references.
    pub references: Vec<Reference>,
    /// What it is.
    pub envelope: Envelope,
    /// Per region of the envelope its bytes that are not in holes.
    pub region_data_bytes: Vec<u64>,
    /// Sum of these.
    pub data_bytes: u64,
    /// Chunks, each counted once.
    pub chunks: u64,
    /// Stored bytes of these.
    pub stored_bytes: u64,
    /// Packs that they are in.
    pub packs: u64,
    /// When it was stored first: milliseconds since 1970.
    pub created_ms: u64,
}

impl Repo {
    /// The image that a reference names at the moment. A digest says it all:
    /// name and tag beside it are not looked at.
    pub async fn resolve(&self, reference: &Reference) -> Result<Digest, NameError> {
        let unknown = || NameError::Unknown { reference: reference.clone() };
        if let Some(digest) = reference.digest {
            let image = self.database.image(&digest).await?;
            return image.map(|image| image.digest).ok_or_else(unknown);
        }
        let name = self.database.name(&reference.name, reference.tag_or_latest()).await?;
        name.map(|name| name.image).ok_or_else(unknown)
    }

    /// Gives an image another name; one that named something else before names
    /// this image now. Returns the image.
    pub async fn tag(&self, image: &Reference, new: &Reference) -> Result<Digest, NameError> {
        if new.digest.is_some() {
            return Err(NameError::HasDigest { reference: new.clone() });
        }
        let digest = self.resolve(image).await?;
        match self.database.set_name(&new.name, new.tag_or_latest(), &digest).await? {
            true => Ok(digest),
            // Removed as garbage just now.
            false => Err(NameError::Unknown { reference: image.clone() }),
        }
    }

    /// Removes a reference (`name:tag`), or all of a name for an image
    /// (`name@digest`). The bytes stay until garbage is removed.
    pub async fn remove(&self, reference: &Reference) -> Result<(), NameError> {
        let tag = match &reference.digest {
            Some(_) => reference.tag.as_deref(),
            None => Some(reference.tag_or_latest()),
        };
        let image = reference.digest.as_ref();
        match self.database.remove_names(&reference.name, tag, image).await? {
            0 => Err(NameError::Unknown { reference: reference.clone() }),
            _ => Ok(()),
        }
    }

    /// All references, and images without one, in this order.
    pub async fn images(&self) -> Result<Vec<ImageSummary>, StorageError> {
        let images = self.database.images().await?;
        let names = self.database.names().await?;
        let unique = self.unique_bytes(&images).await;
        let summary = |image: &ImageRow, reference| ImageSummary {
            reference,
            digest: image.digest,
            disk_bytes: image.disk_bytes,
            data_bytes: image.data_bytes,
            stored_bytes: image.stored_bytes,
            unique_bytes: unique.get(&image.digest).copied().unwrap_or_default(),
            created_ms: image.created_ms,
        };
        let rows: BTreeMap<Digest, &ImageRow> =
            images.iter().map(|row| (row.digest, row)).collect();
        let mut list = Vec::new();
        for name in &names {
            let reference = reference(&name.name, &name.tag);
            list.extend(rows.get(&name.image).map(|row| summary(row, reference)));
        }
        let named: HashSet<Digest> = names.iter().map(|name| name.image).collect();
        let unnamed = images.iter().filter(|image| !named.contains(&image.digest));
        list.extend(unnamed.map(|image| summary(image, None)));
        Ok(list)
    }

    /// Per image the stored bytes that no other has.
    async fn unique_bytes(&self, images: &[ImageRow]) -> HashMap<Digest, u64> {
        let mut owners = Owners::new(self.index.snapshot());
        let mut unique = HashMap::new();
        // Only when all were looked at is it known what one has alone.
        for is_last in [false, true] {
            for image in images {
                let found = match self.open_table(image).await {
                    Ok(found) => found,
                    // A list of images that are partly damaged is still wanted.
                    Err(_) if is_last => continue,
                    Err(error) => {
                        let image = image.digest;
                        tracing::warn!(%image, %error, "left out of what is shared");
                        continue;
                    }
                };
                let work = tokio::task::spawn_blocking(move || {
                    let bytes = owners.look(&found.table, is_last);
                    (owners, bytes)
                });
                let Ok((all, bytes)) = work.await else { return unique };
                owners = all;
                let left_out = |error: &ReadError| {
                    tracing::warn!(image = %image.digest, %error, "not counted whole: `ingot check` says what is wrong");
                };
                unique.insert(image.digest, bytes.inspect_err(left_out).unwrap_or_default());
            }
        }
        unique
    }

    /// All about one image.
    pub async fn details(&self, digest: &Digest) -> Result<ImageDetails, ReadError> {
        let row = self.row(digest).await?;
        let envelope = self.envelope(digest).await?;
        let table = Arc::new(self.open_table(&row).await?.table);
        let (_, survey) = self.survey(&table, &(0..table.outline.disk_bytes())).await?;
        let regions = envelope.regions.clone();
        let data = tokio::task::spawn_blocking(move || data_bytes(&table, &regions));
        let names = self.database.names().await?;
        let names = names.iter().filter(|name| name.image == *digest);
        Ok(ImageDetails {
            digest: *digest,
            references: names.filter_map(|name| reference(&name.name, &name.tag)).collect(),
            envelope,
            region_data_bytes: data.await.map_err(|_| ReadError::Broken)??,
            data_bytes: row.data_bytes,
            chunks: survey.chunks,
            stored_bytes: survey.stored_bytes,
            packs: survey.packs.len() as u64,
            created_ms: row.created_ms,
        })
    }

    pub(crate) async fn row(&self, digest: &Digest) -> Result<ImageRow, ReadError> {
        let row = self.database.image(digest).await?;
        row.ok_or(ReadError::Unknown { image: *digest })
    }

    /// A blob, proven to be what its name says.
    pub(crate) async fn blob(&self, digest: &Digest, limit: u64) -> Result<Bytes, ReadError> {
        let key = blob_key(digest);
        let bytes = self.storage.get(&key, limit).await?;
        match store_format::digest_of(&bytes) == *digest {
            true => Ok(bytes),
            false => Err(ReadError::Blob { key: key.to_string() }),
        }
    }

    /// The bytes of an image's envelope.
    pub async fn envelope_bytes(&self, digest: &Digest) -> Result<Bytes, ReadError> {
        let row = self.row(digest).await?;
        self.blob(&row.digest, envelope::BYTES_MAX as u64).await
    }

    /// What an image is.
    pub async fn envelope(&self, digest: &Digest) -> Result<Envelope, ReadError> {
        let row = self.row(digest).await?;
        self.envelope_of(&row).await
    }

    pub(crate) async fn envelope_of(&self, row: &ImageRow) -> Result<Envelope, ReadError> {
        let bytes = self.blob(&row.digest, envelope::BYTES_MAX as u64).await?;
        Envelope::from_bytes(&bytes)
            .map_err(|source| ReadError::Envelope { image: row.digest, source })
    }

    /// The bytes of an image's chunk table, a part of which is in memory at a
    /// time.
    pub async fn table_read(&self, digest: &Digest) -> Result<BlobRead, ReadError> {
        let row = self.row(digest).await?;
        // One that has this name never changes.
        let known = || ready(Ok(self.tables.get(&row.table).map(|(answer, ())| answer)));
        let find = async {
            let table = self.open_table(&row).await?.table;
            let is_own =
                |content: &Content| matches!(content, Content::File(_)) && !self.storage.is_apart();
            let was_own = is_own(&table.content);
            let answer = self.spooled(table).await?;
            // The store's own file is proven each time, and may be mended meanwhile.
            let is_kept = !(was_own && is_own(&answer.content));
            Ok((is_kept.then_some(row.table), answer, ()))
        };
        Ok(self.tables.answer(known, find).await?.into())
    }

    /// Which chunks an image is made of.
    pub async fn table(&self, digest: &Digest) -> Result<ChunkTable, ReadError> {
        let row = self.row(digest).await?;
        self.table_of(&row).await
    }

    /// Which of some chunks are stored, as far as the index knows now.
    pub fn holds(&self, ids: &[Digest]) -> Vec<bool> {
        let index = self.index.snapshot();
        ids.iter().map(|id| index.get(id).is_some()).collect()
    }

    /// The length of a pack.
    pub async fn pack_len(&self, pack: &PackName) -> Result<u64, StorageError> {
        self.storage.len(&pack_key(pack)).await
    }

    /// A pack, or a range that lies in it, as a stream.
    pub async fn pack(
        &self,
        pack: &PackName,
        range: Option<Range<u64>>,
    ) -> Result<PackRead, StorageError> {
        packs::open(&self.storage, pack, range).await
    }
}

/// A chunk table, or a list of locations, as a stream.
pub struct BlobRead {
    /// BLAKE3 of the bytes.
    pub name: Digest,
    /// How many they are.
    pub len: u64,
    /// The bytes.
    pub bytes: PackBytes,
}

impl From<Answer> for BlobRead {
    fn from(Answer { name, len, key, content }: Answer) -> BlobRead {
        BlobRead { name, len, bytes: packs::content_stream(content, len, key) }
    }
}

/// Which chunks are of one image alone: bits for each entry of the index.
struct Owners {
    index: Frugal,
    /// Of an image.
    one: Marks,
    /// Of another one too.
    more: Marks,
}

impl Owners {
    fn new(snapshot: Snapshot) -> Owners {
        let [one, more] = [(); 2].map(|()| snapshot.marks());
        Owners { index: Frugal::new(snapshot), one, more }
    }

    /// Takes the chunks of an image or, once all are known, returns the stored
    /// bytes of those that are its own.
    fn look(&mut self, table: &OpenTable, is_last: bool) -> Result<u64, ReadError> {
        let snapshot = self.index.look_often();
        let mut seen = snapshot.marks();
        let mut bytes = 0;
        for placed in table.extents() {
            let (_, Extent::Chunk { id, .. }) = placed? else { continue };
            let Some((spot, place)) = snapshot.spot(&id) else { continue };
            if !seen.insert(spot) {
                continue;
            }
            if is_last {
                let stored = u64::from(place.entry.stored_len);
                bytes += if self.more.contains(spot) { 0 } else { stored };
            } else if !self.one.insert(spot) {
                self.more.insert(spot);
            }
        }
        self.index.let_go();
        Ok(bytes)
    }
}

/// Per region the bytes that are not in holes.
fn data_bytes(table: &OpenTable, regions: &[Region]) -> Result<Vec<u64>, ReadError> {
    let mut data = vec![0; regions.len()];
    for placed in table.extents() {
        let (at, Extent::Chunk { bytes, .. }) = placed? else { continue };
        let region = regions.partition_point(|region| region.start + region.bytes <= at);
        if let Some(data) = data.get_mut(region) {
            *data += u64::from(bytes);
        }
    }
    Ok(data)
}

/// Rows hold only what was a reference once.
pub(crate) fn reference(name: &str, tag: &str) -> Option<Reference> {
    format!("{name}:{tag}").parse().ok()
}

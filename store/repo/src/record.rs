//! Recording an image whose chunks are stored: the last step of whatever makes
//! one.

use store_format::PackName;
use wire::{Digest, Reference};

use crate::database::ImageRow;
use crate::open::Repo;
use crate::packer;
use crate::storage::{StorageError, blob_key};

impl Repo {
    /// Writes the blobs that a row names, then the row, the packs that the image
    /// needs and its reference, and ends the lease under which these were stored
    /// or found. Nothing of it, and false, where that lease is gone.
    pub(crate) async fn record(
        &self,
        lease: &str,
        row: &ImageRow,
        [envelope, table]: [Vec<u8>; 2],
        packs: &[PackName],
        reference: Option<&Reference>,
    ) -> Result<bool, StorageError> {
        let put = async |blob: &Digest, bytes: Vec<u8>| {
            packer::put(&self.storage, &self.database, &blob_key(blob), bytes.into()).await
        };
        put(&row.digest, envelope).await?;
        put(&row.table, table).await?;
        let name = reference.map(|r| (r.name.as_str(), r.tag_or_latest()));
        if !self.database.commit(lease, &self.storage, row, packs, name).await? {
            return Ok(false);
        }
        // It is stored, whether this process knows where or not.
        if let Err(error) = self.catch_up().await {
            tracing::warn!(
                error = wire::chain(&error),
                "the index does not know the new packs yet"
            );
        }
        Ok(true)
    }
}

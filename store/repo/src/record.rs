//! Recording an image whose chunks are stored: the last step of whatever makes
//! one.

use store_format::PackName;
use wire::{Digest, Reference};

use crate::database::ImageRow;
use crate::open::Repo;
use crate::packer;
use crate::storage::{StorageError, blob_key};

impl Repo {
    /// Writes the envelope, then the row, whose table is written and may be told
    /// by that of another image, the packs that the image
    /// needs and its reference, and ends the lease under which these were stored
    /// or found. Nothing of it, and false, where that lease is gone.
    pub(crate) async fn record(
        &self,
        lease: &str,
        row: &ImageRow,
        envelope: Vec<u8>,
        base: Option<Digest>,
        packs: &[PackName],
        reference: Option<&Reference>,
    ) -> Result<bool, StorageError> {
        let key = blob_key(&row.digest);
        packer::put(&self.storage, &self.database, &key, envelope.into()).await?;
        let name = reference.map(|r| (r.name.as_str(), r.tag_or_latest()));
        if !self.database.commit(lease, &self.storage, row, base, packs, name).await? {
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

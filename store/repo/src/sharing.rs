//! What an image shares with the others in the store, and what is its own.

use std::collections::HashMap;

use serde::Serialize;
use wire::{Digest, Reference};

use crate::database::{ImageRow, NameRow};
use crate::images::reference;
use crate::open::Repo;
use crate::read::ReadError;

/// What keeping an image costs beside the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sharing {
    /// Plain bytes of its chunks, each counted once.
    pub plain_bytes: u64,
    /// Stored bytes of the chunks that no other image has.
    pub unique_bytes: u64,
    /// Plain bytes of these.
    pub unique_plain_bytes: u64,
    /// The others that have some of its chunks, those with most first.
    pub shared: Vec<SharedWith>,
}

/// Another image, and the chunks that both have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SharedWith {
    /// The other image.
    pub image: Digest,
    /// Its references.
    pub references: Vec<Reference>,
    /// Chunks, each counted once.
    pub chunks: u64,
    /// Plain bytes of these.
    pub plain_bytes: u64,
    /// Stored bytes of these.
    pub stored_bytes: u64,
}

/// A chunk of the image.
struct Chunk {
    plain_bytes: u64,
    stored_bytes: u64,
    /// Another image has it too.
    shared: bool,
}

impl Repo {
    /// Compares an image with every other, those without a name included. One
    /// whose chunk table cannot be read is left out.
    pub async fn sharing(&self, image: &Digest) -> Result<Sharing, ReadError> {
        let mut chunks = self.chunks(image).await?;
        let names = self.database.names().await?;
        let mut shared = Vec::new();
        for other in self.database.images().await?.iter().filter(|row| row.digest != *image) {
            let found = self.shared_with(other, &names, &mut chunks).await;
            shared.extend(found.filter(|found| found.chunks > 0));
        }
        shared
            .sort_by(|one, two| (two.stored_bytes, one.image).cmp(&(one.stored_bytes, two.image)));
        let own = || chunks.values().filter(|chunk| !chunk.shared);
        Ok(Sharing {
            plain_bytes: chunks.values().map(|chunk| chunk.plain_bytes).sum(),
            unique_bytes: own().map(|chunk| chunk.stored_bytes).sum(),
            unique_plain_bytes: own().map(|chunk| chunk.plain_bytes).sum(),
            shared,
        })
    }

    async fn chunks(&self, image: &Digest) -> Result<HashMap<Digest, Chunk>, ReadError> {
        let table = self.table(image).await?;
        // That all of them are somewhere, and that the index knows it.
        self.locations(image).await?;
        let index = self.index.snapshot();
        let chunks = table.distinct().map(|(id, bytes)| {
            let (plain_bytes, stored_bytes) = (u64::from(bytes), index.stored_bytes(&id));
            (id, Chunk { plain_bytes, stored_bytes, shared: false })
        });
        Ok(chunks.collect())
    }

    /// Marks the chunks that another image has too.
    async fn shared_with(
        &self,
        other: &ImageRow,
        names: &[NameRow],
        chunks: &mut HashMap<Digest, Chunk>,
    ) -> Option<SharedWith> {
        let image = other.digest;
        let table = self.table_of(other).await;
        let table =
            table.inspect_err(|error| tracing::warn!(%image, %error, "left out of what is shared"));
        let names = names.iter().filter(|name| name.image == image);
        let references = names.filter_map(|name| reference(&name.name, &name.tag)).collect();
        let mut found =
            SharedWith { image, references, chunks: 0, plain_bytes: 0, stored_bytes: 0 };
        for (id, _) in table.ok()?.distinct() {
            let Some(chunk) = chunks.get_mut(&id) else { continue };
            chunk.shared = true;
            found.chunks += 1;
            found.plain_bytes += chunk.plain_bytes;
            found.stored_bytes += chunk.stored_bytes;
        }
        Some(found)
    }
}

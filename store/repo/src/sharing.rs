//! What an image shares with the others in the store, and what is its own.

use std::sync::Arc;

use serde::Serialize;
use store_format::Extent;
use store_format::segment::Place;
use wire::{Digest, Reference};

use crate::database::{ImageRow, NameRow};
use crate::images::reference;
use crate::index::{Frugal, Marks};
use crate::open::Repo;
use crate::read::ReadError;
use crate::tables::OpenTable;

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

/// The chunks of the image: a bit for each entry of the index.
struct Own {
    index: Arc<Frugal>,
    chunks: Marks,
    /// Those that another image has too.
    shared: Marks,
    /// Plain and stored bytes of all, and of those that are shared.
    all: [u64; 2],
    common: [u64; 2],
}

impl Repo {
    /// Compares an image with every other, those without a name included. One
    /// whose chunk table cannot be read is left out.
    pub async fn sharing(&self, image: &Digest) -> Result<Sharing, ReadError> {
        let mut own = self.own(image).await?;
        let names = self.database.names().await?;
        let mut shared = Vec::new();
        for other in self.database.images().await?.iter().filter(|row| row.digest != *image) {
            let found;
            (own, found) = self.shared_with(other, &names, own).await?;
            shared.extend(found.filter(|found| found.chunks > 0));
        }
        shared
            .sort_by(|one, two| (two.stored_bytes, one.image).cmp(&(one.stored_bytes, two.image)));
        let ([plain_bytes, stored_bytes], [common_plain, common_stored]) = (own.all, own.common);
        Ok(Sharing {
            plain_bytes,
            unique_bytes: stored_bytes - common_stored,
            unique_plain_bytes: plain_bytes - common_plain,
            shared,
        })
    }

    async fn own(&self, image: &Digest) -> Result<Own, ReadError> {
        let table = Arc::new(self.open_table(&self.row(image).await?).await?.table);
        // That all of them are somewhere, and that the index knows it.
        let disk = 0..table.outline.disk_bytes();
        let (index, _) = self.survey(&table, &disk).await?;
        let work = tokio::task::spawn_blocking(move || Own::new(index, &table));
        work.await.map_err(|_| ReadError::Broken)?
    }

    /// Marks the chunks that another image has too.
    async fn shared_with(
        &self,
        other: &ImageRow,
        names: &[NameRow],
        mut own: Own,
    ) -> Result<(Own, Option<SharedWith>), ReadError> {
        let image = other.digest;
        let names = names.iter().filter(|name| name.image == image);
        let references = names.filter_map(|name| reference(&name.name, &name.tag)).collect();
        let found = SharedWith { image, references, chunks: 0, plain_bytes: 0, stored_bytes: 0 };
        let left_out =
            |error: &ReadError| tracing::warn!(%image, %error, "left out of what is shared");
        let Ok(other) = self.open_table(other).await.inspect_err(left_out) else {
            return Ok((own, None));
        };
        let work = tokio::task::spawn_blocking(move || {
            let found = own.compare(&other.table, found);
            (own, found)
        });
        let (own, found) = work.await.map_err(|_| ReadError::Broken)?;
        Ok((own, found.inspect_err(left_out).ok()))
    }
}

impl Own {
    fn new(index: Arc<Frugal>, table: &OpenTable) -> Result<Own, ReadError> {
        let [chunks, shared] = [(); 2].map(|()| index.look().marks());
        let mut own = Own { index, chunks, shared, all: [0; 2], common: [0; 2] };
        for placed in table.extents() {
            let (_, Extent::Chunk { id, .. }) = placed? else { continue };
            let found = own.index.look_often().spot(&id);
            let (spot, place) = found.ok_or(ReadError::Chunk { id })?;
            if own.chunks.insert(spot) {
                add(&mut own.all, &place);
            }
        }
        own.index.let_go();
        Ok(own)
    }

    /// What another image has of them.
    fn compare(&mut self, other: &OpenTable, found: SharedWith) -> Result<SharedWith, ReadError> {
        let snapshot = self.index.look_often();
        let mut seen = snapshot.marks();
        let (mut bytes, mut common) = ([0; 2], [0; 2]);
        let mut chunks = 0;
        for placed in other.extents() {
            let (_, Extent::Chunk { id, .. }) = placed? else { continue };
            let Some((spot, place)) = snapshot.spot(&id) else { continue };
            if !self.chunks.contains(spot) || !seen.insert(spot) {
                continue;
            }
            chunks += 1;
            add(&mut bytes, &place);
            if !self.shared.contains(spot) {
                add(&mut common, &place);
            }
        }
        // Only now: of a table that breaks off nothing counts.
        for (sum, more) in self.common.iter_mut().zip(common) {
            *sum += more;
        }
        self.shared.union(&seen);
        self.index.let_go();
        let [plain_bytes, stored_bytes] = bytes;
        Ok(SharedWith { chunks, plain_bytes, stored_bytes, ..found })
    }
}

/// Adds plain and stored bytes of a chunk.
fn add(sum: &mut [u64; 2], place: &Place) {
    sum[0] += u64::from(place.entry.plain_len);
    sum[1] += u64::from(place.entry.stored_len);
}

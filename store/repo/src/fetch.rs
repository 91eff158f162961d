//! Reading chosen chunks of an image by a plan, every chunk proven.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use store_format::frame::{Opened, Opener};
use store_format::{ChunkTable, Location, Locations, PackName, Plan, RangeRequest};
use wire::Digest;

use crate::lease::Lease;
use crate::open::Repo;
use crate::packs;
use crate::read::{ReadError, damaged};
use crate::storage::pack_key;

/// Ranges in flight: one waits for the disk while the other decompresses.
const RANGES: usize = 2;

/// An image of which any part can be read. Nothing of it is deleted before it
/// is closed or dropped.
pub struct OpenImage {
    repo: Arc<Repo>,
    lease: Option<Lease>,
    /// Which chunks it is made of.
    pub table: ChunkTable,
    /// Where they are.
    pub locations: Locations,
}

/// A chunk's plain bytes, proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Index into the locations.
    pub chunk: usize,
    /// The bytes.
    pub bytes: Bytes,
}

/// A chunk of a range.
struct Wanted {
    chunk: usize,
    id: Digest,
    plain_len: u32,
    at: Location,
}

impl Repo {
    /// Opens an image for reading parts of it.
    pub async fn open_image(self: &Arc<Self>, image: &Digest) -> Result<OpenImage, ReadError> {
        let lease = self.lease_to_read().await?;
        let table = self.table(image).await?;
        let locations = self.locations(image).await?;
        Ok(OpenImage { repo: Arc::clone(self), lease, table, locations })
    }
}

impl OpenImage {
    /// The chunks of a plan for this image, in the plan's order.
    pub fn fetch<'a>(&'a self, plan: &'a Plan) -> BoxStream<'a, Result<Fetched, ReadError>> {
        let chunks: Vec<(Digest, u32)> = self.table.distinct().collect();
        stream::iter(&plan.ranges)
            .map(move |range| self.range(range, self.wanted(range, &chunks)))
            .buffered(RANGES)
            .map_ok(|chunks| stream::iter(chunks).map(Ok))
            .try_flatten()
            .boxed()
    }

    /// The image is not needed any more.
    pub async fn close(self) {
        if let Some(lease) = self.lease {
            lease.end().await;
        }
    }

    fn wanted(&self, range: &RangeRequest, chunks: &[(Digest, u32)]) -> Vec<Wanted> {
        let frame = |&chunk: &usize| {
            let (id, plain_len) = *chunks.get(chunk)?;
            Some(Wanted { chunk, id, plain_len, at: *self.locations.chunks.get(chunk)? })
        };
        range.chunks.iter().filter_map(frame).collect()
    }

    async fn range(
        &self,
        range: &RangeRequest,
        wanted: Vec<Wanted>,
    ) -> Result<Vec<Fetched>, ReadError> {
        let (pack, start) = (range.pack, range.start);
        let bytes = self.repo.storage.get_range(&pack_key(&pack), start..range.end).await?;
        let decode = tokio::task::spawn_blocking(move || decode(pack, start, &bytes, &wanted));
        decode.await.map_err(|_| ReadError::Broken)?
    }
}

fn decode(
    pack: PackName,
    start: u64,
    range: &[u8],
    wanted: &[Wanted],
) -> Result<Vec<Fetched>, ReadError> {
    let (mut opener, mut opened) = (Opener::default(), Opened::default());
    let mut fetched = Vec::with_capacity(wanted.len());
    for chunks in wanted.chunk_by(|one, next| one.at.offset == next.at.offset) {
        let at = chunks[0].at;
        let wrong = |source| damaged(&pack, at.offset, source);
        opener.open(packs::part(range, start, &at), &mut opened).map_err(wrong)?;
        for Wanted { chunk, id, plain_len, at } in chunks {
            let plain = opened.chunk(id, at.plain_offset, *plain_len).map_err(wrong)?;
            fetched.push(Fetched { chunk: *chunk, bytes: Bytes::copy_from_slice(plain) });
        }
    }
    Ok(fetched)
}

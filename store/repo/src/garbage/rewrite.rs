//! Writing the needed part of packs anew.

use std::collections::BTreeSet;
use std::sync::Arc;

use store_format::PackName;
use store_format::frame::{FrameError, Header, Opener};
use store_format::pack::{self, BYTES_MAX, Entry};
use tokio::runtime::Handle;

use super::GarbageError;
use super::mark::Marked;
use crate::open::Repo;
use crate::packer::Packer;
use crate::storage::{StorageError, pack_key};

impl Repo {
    /// Writes what is needed of some packs into new ones, one pack in memory at
    /// a time. Every chunk is proven on the way. Returns the new packs.
    pub(super) async fn rewrite(
        self: &Arc<Self>,
        marked: &Arc<Marked>,
    ) -> Result<BTreeSet<PackName>, GarbageError> {
        let (repo, marked, runtime) = (Arc::clone(self), Arc::clone(marked), Handle::current());
        let work = tokio::task::spawn_blocking(move || {
            let mut packer = Packer::new(&repo, &runtime);
            for (name, _) in &marked.rewrites {
                let bytes = runtime.block_on(repo.storage.get(&pack_key(name), BYTES_MAX))?;
                copy_needed(name, &bytes, &marked, &mut packer)?;
            }
            Ok(packer.finish()?)
        });
        work.await.map_err(|_| GarbageError::Broken)?
    }
}

fn copy_needed(
    name: &PackName,
    bytes: &[u8],
    marked: &Marked,
    packer: &mut Packer<'_>,
) -> Result<(), GarbageError> {
    let key = || pack_key(name).to_string();
    let entries = pack::entries(bytes).map_err(|e| StorageError::new(&key(), Box::new(e)))?;
    let mut opener = Opener::default();
    let needed = marked.needed_frames(name);
    let is_needed = |entry: &&Entry| needed.binary_search(&entry.offset).is_ok();
    let wanted: Vec<_> = entries.iter().filter(is_needed).collect();
    if wanted.len() != needed.len() {
        return Err(
            StorageError::new(&key(), "the index tells of chunks that it lacks".into()).into()
        );
    }
    for entry in wanted {
        let (header, frame) = proven(bytes, entry, &mut opener)
            .map_err(|source| GarbageError::Pack { key: key(), offset: entry.offset, source })?;
        packer.push(&header, frame)?;
    }
    Ok(())
}

/// The frame of an entry, if it has the chunk that it should have.
fn proven<'a>(
    pack: &'a [u8],
    entry: &Entry,
    opener: &mut Opener,
) -> Result<(Header, &'a [u8]), FrameError> {
    let start = usize::try_from(entry.offset).unwrap_or(usize::MAX);
    let len = usize::try_from(entry.frame_len).unwrap_or(usize::MAX);
    let frame = pack.get(start..start.saturating_add(len)).unwrap_or_default();
    let header = Header::decode(frame)?;
    if header != entry.header() {
        return Err(FrameError::Digest { id: entry.id });
    }
    opener.open(&header, frame.get(Header::LEN..).unwrap_or_default(), &mut Vec::new())?;
    Ok((header, frame))
}

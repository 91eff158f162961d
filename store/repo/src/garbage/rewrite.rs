//! Writing the needed part of packs anew.

use std::collections::BTreeSet;
use std::sync::Arc;

use store_format::PackName;
use store_format::pack::{self, BYTES_MAX};
use store_format::segment::Place;
use tokio::runtime::Handle;

use super::GarbageError;
use super::mark::Marked;
use crate::open::Repo;
use crate::packer::{ChunkPacker, Packer};
use crate::packs;
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
            let mut packer = ChunkPacker::new(Packer::new(&repo, &runtime));
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
    packer: &mut ChunkPacker<'_>,
) -> Result<(), GarbageError> {
    let key = || pack_key(name).to_string();
    let entries = pack::entries(bytes).map_err(|e| StorageError::new(&key(), Box::new(e)))?;
    let is_needed = |entry: &pack::Entry| marked.is_needed(&Place { pack: *name, entry: *entry });
    let wanted: Vec<_> = entries.into_iter().filter(is_needed).collect();
    if wanted.len() as u64 != marked.needed_chunks(name) {
        return Err(
            StorageError::new(&key(), "the index tells of chunks that it lacks".into()).into()
        );
    }
    packs::each_chunk(name, bytes, &wanted, |entry, plain| Ok(packer.push(entry.id, plain)?))
}

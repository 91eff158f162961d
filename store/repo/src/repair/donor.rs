//! Where a repair finds what a store has lost: other stores, and raw disks.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use store_format::Extent;
use store_format::frame::{Opened, Opener};
use store_format::segment::Place;
use store_scan::{Disk, Layout, cuts};
use tokio::runtime::Handle;
use wire::{Digest, chain};

use super::RepairError;
use crate::lease::Lease;
use crate::open::{OpenError, Repo};
use crate::packer::ChunkPacker;
use crate::read::{ReadError, damaged};
use crate::source::Source;
use crate::storage::pack_key;
use crate::tables::OpenTable;

/// Chunks that are looked for, and their plain lengths.
pub(super) type Wanted = HashMap<Digest, u32>;

/// Another store, or the raw image of a disk, that may have what a store lost.
/// Nothing that it gives is believed: all of it is proven by its digest.
pub struct Donor {
    /// What it was called by.
    pub(super) name: String,
    kind: Kind,
}

enum Kind {
    Store { repo: Arc<Repo>, lease: Option<Lease> },
    Disk(Disk),
}

/// Why nothing can be taken from somewhere.
#[derive(Debug, thiserror::Error)]
pub enum DonorError {
    /// It is no store that can be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// It is no file or device that can be read.
    #[error("cannot read {name}")]
    Disk {
        /// The file or device.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its records cannot be used.
    #[error("cannot use the store {name}")]
    Storage {
        /// The store.
        name: String,
        /// Why.
        #[source]
        source: crate::storage::StorageError,
    },
}

impl Donor {
    /// A folder or an address is a store, anything else the raw image of a disk.
    pub async fn open(address: &str) -> Result<Donor, DonorError> {
        let name = address.to_owned();
        let kind = match address.contains("://") || Path::new(address).is_dir() {
            true => {
                let repo = Arc::new(Repo::open(address).await?);
                let lease = repo.lease_to_read().await;
                let lease =
                    lease.map_err(|source| DonorError::Storage { name: name.clone(), source })?;
                Kind::Store { repo, lease }
            }
            false => {
                let (name, disk) = Source::Path(address.into()).open(Path::new("."));
                Kind::Disk(disk.map_err(|source| DonorError::Disk { name, source })?)
            }
        };
        Ok(Donor { name, kind })
    }

    /// Lets go of it.
    pub(super) async fn close(self) {
        if let Kind::Store { lease: Some(lease), .. } = self.kind {
            lease.end().await;
        }
    }

    /// A blob, proven, if a store has it.
    pub(super) async fn blob(&self, digest: &Digest, limit: u64) -> Option<Bytes> {
        match &self.kind {
            Kind::Store { repo, .. } => repo.blob(digest, limit).await.ok(),
            Kind::Disk(_) => None,
        }
    }

    /// Gives the packer what it has of the wanted chunks, which are then wanted
    /// no more. `tables` are those of the images that want them.
    pub(super) fn give(
        &self,
        wanted: &mut Wanted,
        tables: &[OpenTable],
        runtime: &Handle,
        packer: &mut ChunkPacker<'_>,
    ) -> Result<(), RepairError> {
        match &self.kind {
            Kind::Store { repo, .. } => self.give_stored(repo, wanted, runtime, packer),
            Kind::Disk(disk) => {
                let mut giver = Giver { wanted, packer };
                from_places(disk, tables, &mut giver)?;
                match giver.wanted.is_empty() {
                    true => Ok(()),
                    false => self.search(disk, &mut giver),
                }
            }
        }
    }

    fn give_stored(
        &self,
        repo: &Repo,
        wanted: &mut Wanted,
        runtime: &Handle,
        packer: &mut ChunkPacker<'_>,
    ) -> Result<(), RepairError> {
        let index = repo.index.snapshot();
        let mut places: Vec<_> = wanted.keys().filter_map(|id| index.get(id)).collect();
        // As they lie on the disk.
        let order = |place: &Place| (place.pack, place.entry.offset, place.entry.plain_offset);
        places.sort_unstable_by_key(order);
        let (mut opener, mut opened) = (Opener::default(), Opened::default());
        for chunks in places
            .chunk_by(|one, next| (one.pack, one.entry.offset) == (next.pack, next.entry.offset))
        {
            let Place { pack, entry } = chunks[0];
            let range = entry.offset..entry.offset.saturating_add(u64::from(entry.frame_len));
            let read = runtime.block_on(repo.storage.get_range(&pack_key(&pack), range));
            let wrong = |source| damaged(&pack, entry.offset, source);
            let open = |frame: Bytes| opener.open(&frame, &mut opened).map_err(wrong);
            if let Err(error) = read.map_err(ReadError::from).and_then(open) {
                self.warn(&error);
                continue;
            }
            for Place { entry, .. } in chunks {
                match opened.chunk(&entry.id, entry.plain_offset, entry.plain_len) {
                    Ok(plain) if wanted.remove(&entry.id).is_some() => {
                        packer.push(entry.id, plain)?;
                    }
                    Ok(_) => {}
                    Err(error) => self.warn(&wrong(error)),
                }
            }
        }
        Ok(())
    }

    /// Cuts the disk as an import would: its content may have moved.
    fn search(&self, disk: &Disk, giver: &mut Giver<'_, '_>) -> Result<(), RepairError> {
        let layout = match Layout::read(disk, None) {
            Ok(layout) => layout,
            Err(error) => {
                self.warn(&error);
                return Ok(());
            }
        };
        let mut failed = None;
        let cut = cuts::each(disk, &layout, |plain| {
            failed = giver.offer(plain).err();
            failed.is_none() && !giver.wanted.is_empty()
        });
        if let Err(error) = cut {
            self.warn(&error);
        }
        failed.map_or(Ok(()), Err)
    }

    /// Others may have what this one does not give.
    fn warn(&self, error: &dyn std::error::Error) {
        tracing::warn!(from = self.name, error = chain(error), "a part of it cannot be used");
    }
}

/// Takes from each place of the disk the chunk that an image has there.
fn from_places(
    disk: &Disk,
    tables: &[OpenTable],
    giver: &mut Giver<'_, '_>,
) -> Result<(), RepairError> {
    let mut plain = Vec::new();
    for table in tables {
        for placed in table.extents() {
            let (offset, Extent::Chunk { id, bytes }) = placed? else { continue };
            let end = offset.saturating_add(u64::from(bytes));
            if end > disk.bytes || !giver.wanted.contains_key(&id) {
                continue;
            }
            plain.resize(usize::try_from(bytes).unwrap_or_default(), 0);
            // A disk that is failing may give the rest.
            if disk.read_at(&mut plain, offset).is_ok() {
                giver.offer(&plain)?;
            }
        }
    }
    Ok(())
}

/// Takes plain bytes.
struct Giver<'a, 'p> {
    wanted: &'a mut Wanted,
    packer: &'a mut ChunkPacker<'p>,
}

impl Giver<'_, '_> {
    /// Keeps the bytes if they are a chunk that is wanted.
    fn offer(&mut self, plain: &[u8]) -> Result<(), RepairError> {
        let id = store_format::digest_of(plain);
        if self.wanted.remove(&id).is_none() {
            return Ok(());
        }
        Ok(self.packer.push(id, plain)?)
    }
}

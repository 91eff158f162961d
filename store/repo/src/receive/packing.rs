//! A thread that puts what is sent into packs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use store_format::PackName;
use store_format::frame::{Header, Opened};
use tokio::runtime::Handle;
use wire::Digest;

use super::ReceiveError;
use crate::group::Sealed;
use crate::open::Repo;
use crate::packer::{ChunkPacker, Packer};
use crate::storage::StorageError;

/// Parcels that wait to be packed.
const WAITING: usize = 1;
/// Plain bytes from which on a frame is kept as it was sent: what is shorter
/// compresses better in company.
const KEPT_BYTES: usize = 1 << 20;

/// New chunks.
pub(super) enum Parcel {
    /// A frame of which all are new.
    Frame(Sealed),
    /// A frame, and which of its chunks are.
    Chunks(Opened, Vec<bool>),
}

/// The thread. Where it is dropped, it packs what it has and ends.
pub(super) struct Packing {
    parcels: SyncSender<Parcel>,
    ended: JoinHandle<Result<BTreeSet<PackName>, StorageError>>,
}

impl Parcel {
    /// From a frame that was opened, the names of its chunks, and whether each
    /// is new.
    pub(super) fn new(
        bytes: &[u8],
        opened: Opened,
        ids: Vec<Digest>,
        new: Vec<bool>,
    ) -> Result<Parcel, ReceiveError> {
        if opened.plain_len() < KEPT_BYTES || new.contains(&false) {
            return Ok(Parcel::Chunks(opened, new));
        }
        let header = Header::decode(bytes).map_err(ReceiveError::Frame)?;
        Ok(Parcel::Frame(Sealed { header, ids, bytes: bytes.to_vec() }))
    }
}

impl Packing {
    pub(super) fn start(repo: &Arc<Repo>, runtime: &Handle) -> Result<Packing, ReceiveError> {
        let (parcels, received) = sync_channel(WAITING);
        let (repo, runtime) = (Arc::clone(repo), runtime.clone());
        let thread = thread::Builder::new().name("upload".to_owned());
        let ended = thread.spawn(move || pack(&repo, &runtime, &received));
        let ended = ended.map_err(|e| StorageError::new("packs", Box::new(e)))?;
        Ok(Packing { parcels, ended })
    }

    /// False where the thread has ended, which [`Packing::finish`] explains.
    pub(super) fn send(&self, parcel: Parcel) -> bool {
        self.parcels.send(parcel).is_ok()
    }

    /// Everything is durable and in the index afterwards. Returns the packs.
    pub(super) fn finish(self) -> Result<BTreeSet<PackName>, ReceiveError> {
        drop(self.parcels);
        Ok(self.ended.join().map_err(|_| ReceiveError::Broken)??)
    }
}

fn pack(
    repo: &Repo,
    runtime: &Handle,
    parcels: &Receiver<Parcel>,
) -> Result<BTreeSet<PackName>, StorageError> {
    let mut packer = ChunkPacker::new(Packer::new(repo, runtime));
    for parcel in parcels {
        match parcel {
            Parcel::Frame(frame) => packer.push_frame(&frame)?,
            Parcel::Chunks(opened, new) => {
                for ((id, plain), _) in opened.chunks().zip(new).filter(|(_, new)| *new) {
                    packer.push(id, plain)?;
                }
            }
        }
    }
    packer.finish()
}

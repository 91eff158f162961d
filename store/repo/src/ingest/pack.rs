//! Sealing groups of new chunks, and putting the frames into packs, in the
//! order of the disk.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Mutex, PoisonError};

use store_format::PackName;
use store_format::frame::SealError;

use super::ImportError;
use super::order::{Numbered, in_order};
use crate::group::{self, Group, Sealed};
use crate::packer::Packer;

/// Gives groups numbers, in their order, and hands them on.
pub(super) struct Numbering {
    next: u64,
    out: SyncSender<(u64, Group)>,
}

/// A group that was sealed.
pub(super) struct Frame {
    number: u64,
    sealed: Result<Sealed, SealError>,
}

/// What was written.
pub(super) struct Packed {
    pub packs: BTreeSet<PackName>,
    /// Bytes of the frames.
    pub bytes: u64,
}

impl Numbering {
    pub(super) fn new(out: SyncSender<(u64, Group)>) -> Numbering {
        Numbering { next: 0, out }
    }

    /// Fails if nobody takes it, who then says why.
    pub(super) fn send(&mut self, group: Group) -> Result<(), ImportError> {
        self.next += 1;
        self.out.send((self.next - 1, group)).map_err(|_| ImportError::Broken)
    }
}

impl Numbered for Frame {
    fn number(&self) -> u64 {
        self.number
    }
}

/// Seals groups until there are no more or nobody takes them.
pub(super) fn seal(groups: &Mutex<Receiver<(u64, Group)>>, out: &SyncSender<Frame>) {
    let mut sealer = None;
    loop {
        let next = groups.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((number, group)) = next else { return };
        let sealed = match &mut sealer {
            Some(sealer) => group.seal(sealer),
            none => group::sealer().and_then(|new| group.seal(none.insert(new))),
        };
        if out.send(Frame { number, sealed }).is_err() {
            return;
        }
    }
}

/// Packs all frames. Everything is durable and in the index afterwards.
/// `written` counts the bytes on the way.
pub(super) fn pack(
    mut packer: Packer<'_>,
    frames: Receiver<Frame>,
    written: &AtomicU64,
) -> Result<Packed, ImportError> {
    for frame in in_order(&frames) {
        let sealed = frame.sealed?;
        packer.push(&sealed)?;
        written.fetch_add(u64::from(sealed.header.frame_len()), Ordering::Relaxed);
    }
    Ok(Packed { packs: packer.finish()?, bytes: written.load(Ordering::Relaxed) })
}

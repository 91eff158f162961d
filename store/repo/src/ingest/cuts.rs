//! The chunks of a disk for who only looks at them.

use std::io;
use std::sync::mpsc::sync_channel;
use std::thread;

use super::scan::{self, Batch, Item};
use crate::layout::Layout;
use crate::source::Disk;

/// One that is read, one that is looked at.
const BATCHES: usize = 2;

/// Cuts a disk as an import does and shows every chunk, those of free space too,
/// until that is false.
pub(crate) fn each(
    disk: &Disk,
    layout: &Layout,
    mut show: impl FnMut(&[u8]) -> bool,
) -> io::Result<()> {
    let (free_in, free) = sync_channel::<Batch>(BATCHES);
    let (cut_in, cut) = sync_channel::<Batch>(BATCHES);
    for _ in 0..BATCHES {
        // There is room for all of them.
        let _ = free_in.send(Batch::default());
    }
    thread::scope(|scope| {
        let scanner = scope.spawn(move || scan::scan(disk, layout, true, &free, &cut_in));
        'disk: while let Ok(batch) = cut.recv() {
            let mut rest = &batch.data[..];
            for item in &batch.items {
                let Item::Chunk(len) = item else { continue };
                let Some((chunk, after)) = rest.split_at_checked(*len) else { break 'disk };
                rest = after;
                if !show(chunk) {
                    break 'disk;
                }
            }
            // Nobody needs buffers once the disk is read.
            let _ = free_in.send(batch);
        }
        // The scanner shall not wait for a buffer or for room.
        drop((free_in, cut));
        scanner.join().unwrap_or_else(|_| Err(io::Error::other("the scan ended early")))
    })
}

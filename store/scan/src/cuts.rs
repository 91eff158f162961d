//! A disk in pieces, for who takes them one after the other.

use std::io;
use std::ops::ControlFlow;
use std::sync::mpsc::sync_channel;
use std::thread;

use crate::disk::Disk;
use crate::layout::Layout;
use crate::scan::{self, Batch, Item};

/// One that is read, one that is looked at.
const BATCHES: usize = 2;

/// Cuts a disk as an import does and shows every chunk, those of free space too,
/// until that is false.
pub fn each(disk: &Disk, layout: &Layout, mut show: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    walk(disk, layout, true, |item, plain| match item {
        Item::Chunk(_) if !show(plain) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    })
}

/// Shows every piece of a disk in order, and the bytes of those that are chunks.
/// If `exact`, bytes that a file system calls free are kept too.
pub(crate) fn walk(
    disk: &Disk,
    layout: &Layout,
    exact: bool,
    mut show: impl FnMut(&Item, &[u8]) -> ControlFlow<()>,
) -> io::Result<()> {
    let (free_in, free) = sync_channel::<Batch>(BATCHES);
    let (cut_in, cut) = sync_channel::<Batch>(BATCHES);
    for _ in 0..BATCHES {
        // There is room for all of them.
        let _ = free_in.send(Batch::default());
    }
    thread::scope(|scope| {
        let scanner = scope.spawn(move || scan::scan(disk, layout, exact, &free, &cut_in));
        while let Ok(batch) = cut.recv() {
            if show_all(&batch, &mut show).is_break() {
                break;
            }
            // Nobody needs buffers once the disk is read.
            let _ = free_in.send(batch);
        }
        // The scanner shall not wait for a buffer or for room.
        drop((free_in, cut));
        scanner.join().unwrap_or_else(|_| Err(io::Error::other("the scan ended early")))
    })
}

fn show_all(
    batch: &Batch,
    show: &mut impl FnMut(&Item, &[u8]) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut rest = &batch.data[..];
    for item in &batch.items {
        let bytes = match item {
            Item::Chunk(bytes) => *bytes,
            Item::Hole(_) | Item::End(..) => 0,
        };
        let Some((plain, after)) = rest.split_at_checked(bytes) else {
            return ControlFlow::Break(());
        };
        rest = after;
        show(item, plain)?;
    }
    ControlFlow::Continue(())
}

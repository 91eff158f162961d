//! Reading a disk, finding holes, cutting the rest into chunks.

use std::io;
use std::mem;
use std::sync::mpsc::{Receiver, SyncSender};

use store_format::region;
use wire::Digest;

use super::cut::{CHUNK_MAX, cut};
use crate::layout::{Layout, Span};
use crate::source::{BLOCK, Disk, is_zero};

/// Zeros of at least this length, from one block edge to another, are a hole.
/// Shorter ones stay in chunks, where they compress to nothing: each hole
/// interrupts the cutting.
const HOLE_MIN: u64 = 64 << 10;
/// Bytes read at a time.
const WINDOW: usize = 256 * BLOCK;
/// Bytes of chunks that travel together.
const BATCH: usize = 2 << 20;

/// A part of the disk.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    Hole(u64),
    /// The next so many bytes of [`Batch::data`].
    Chunk(usize),
    /// A region ends; its digest.
    End(Digest),
}

/// A piece of work.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Counts the batches of a disk, from 0.
    pub number: u64,
    /// The chunks' bytes, one after the other.
    pub data: Vec<u8>,
    pub items: Vec<Item>,
}

/// Reads the whole disk. `Ok` also if the other side went away.
pub(super) fn scan(
    disk: &Disk,
    layout: &Layout,
    free: &Receiver<Batch>,
    out: &SyncSender<Batch>,
) -> io::Result<()> {
    let Ok(first) = free.recv() else { return Ok(()) };
    let mut cutter = Cutter { batch: first, cut: 0, free, out };
    let mut window = vec![0; WINDOW];
    for span in &layout.spans {
        if scan_region(disk, span, &mut window, &mut cutter)?.is_none() {
            return Ok(());
        }
    }
    let _ = cutter.send();
    Ok(())
}

/// Somebody took what was sent, or nobody is there any more.
type Sent = Option<()>;

fn scan_region(
    disk: &Disk,
    span: &Span,
    window: &mut [u8],
    cutter: &mut Cutter<'_>,
) -> io::Result<Sent> {
    let mut hasher = region::Hasher::default();
    let mut zeros = 0_u64;
    let mut at = 0_u64;
    while at < span.bytes {
        // Whole blocks from the start of the region on, whatever lies where on
        // the disk: so a region that moves is cut as before.
        let data = disk.next_data(span.start + at..span.start + span.bytes)?;
        let (from, to) = match data {
            Some(data) => (down(data.start - span.start), up(data.end - span.start)),
            None => (span.bytes, span.bytes),
        };
        let (from, to) = (from.max(at), to.min(span.bytes));
        hasher.zeros(from - at);
        zeros += from - at;
        at = from;
        while at < to {
            let len = usize::try_from(to - at).map_or(window.len(), |left| left.min(window.len()));
            let bytes = &mut window[..len];
            disk.read_at(bytes, span.start + at)?;
            hasher.update(bytes);
            if cutter.window(bytes, &mut zeros).is_none() {
                return Ok(None);
            }
            at += len as u64;
        }
    }
    let only_zeros = zeros == span.bytes;
    Ok(cutter.end_region(zeros, only_zeros, hasher.finish()))
}

fn down(offset: u64) -> u64 {
    offset - offset % BLOCK as u64
}

fn up(offset: u64) -> u64 {
    down(offset.saturating_add(BLOCK as u64 - 1))
}

/// Cuts bytes into chunks inside of batches.
struct Cutter<'a> {
    batch: Batch,
    /// Bytes of the batch that are cut.
    cut: usize,
    free: &'a Receiver<Batch>,
    out: &'a SyncSender<Batch>,
}

impl Cutter<'_> {
    /// Goes on with bytes that start at a block edge, `zeros` zero bytes after
    /// those before.
    fn window(&mut self, bytes: &[u8], zeros: &mut u64) -> Sent {
        let mut data_start = 0;
        let mut at = 0;
        for block in bytes.chunks(BLOCK) {
            let end = at + block.len();
            if is_zero(block) {
                if *zeros == 0 {
                    self.data(&bytes[data_start..at])?;
                }
                *zeros += block.len() as u64;
                data_start = end;
            } else if *zeros > 0 {
                self.zeros(mem::take(zeros))?;
                data_start = at;
            }
            at = end;
        }
        self.data(&bytes[data_start..])
    }

    fn zeros(&mut self, zeros: u64) -> Sent {
        if zeros >= HOLE_MIN {
            self.flush()?;
            self.batch.items.push(Item::Hole(zeros));
            return Some(());
        }
        let len = self.batch.data.len() + usize::try_from(zeros).ok()?;
        self.batch.data.resize(len, 0);
        self.cut(CHUNK_MAX)
    }

    fn data(&mut self, bytes: &[u8]) -> Sent {
        self.batch.data.extend_from_slice(bytes);
        self.cut(CHUNK_MAX)
    }

    /// The data before a hole or an end are cut without what follows.
    fn flush(&mut self) -> Sent {
        self.cut(1)
    }

    /// Cuts while there are at least `ahead` bytes: a cut depends on up to
    /// [`CHUNK_MAX`] bytes.
    fn cut(&mut self, ahead: usize) -> Sent {
        while self.batch.data.len() - self.cut >= ahead {
            let len = cut(&self.batch.data[self.cut..]);
            self.batch.items.push(Item::Chunk(len));
            self.cut += len;
            if self.cut >= BATCH {
                self.send()?;
            }
        }
        Some(())
    }

    fn end_region(&mut self, zeros: u64, only_zeros: bool, digest: Digest) -> Sent {
        match only_zeros {
            // However short: there is no chunk that it would interrupt.
            true => self.batch.items.push(Item::Hole(zeros)),
            false if zeros > 0 => self.zeros(zeros)?,
            false => {}
        }
        self.flush()?;
        self.batch.items.push(Item::End(digest));
        Some(())
    }

    /// Hands the batch on and starts another one with what is not cut yet.
    fn send(&mut self) -> Sent {
        let mut next = self.free.recv().ok()?;
        next.number = self.batch.number + 1;
        next.items.clear();
        next.data.clear();
        next.data.extend_from_slice(&self.batch.data[self.cut..]);
        self.batch.data.truncate(self.cut);
        self.cut = 0;
        self.out.send(mem::replace(&mut self.batch, next)).ok()
    }
}

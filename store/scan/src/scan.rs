//! Reading a disk, finding holes, cutting the rest into chunks.

use std::io;
use std::iter::Peekable;
use std::mem;
use std::sync::mpsc::{Receiver, SyncSender};

use store_format::region;
use wire::Digest;

use crate::contents::{Contents, ImportedRegion};
use crate::cut::{CHUNK_MAX, cut};
use crate::disk::{BLOCK, Disk, is_zero};
use crate::layout::Layout;

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
pub enum Item {
    /// Zeros; another hole may follow.
    Hole(u64),
    /// The next so many bytes of [`Batch::data`].
    Chunk(usize),
    /// A region ends: its digest, and what was known of it.
    End(Digest, ImportedRegion),
}

/// A piece of work.
#[derive(Debug, Default)]
pub struct Batch {
    /// Counts the batches of a disk, from 0.
    pub number: u64,
    /// The chunks' bytes, one after the other.
    pub data: Vec<u8>,
    /// What follows what on the disk.
    pub items: Vec<Item>,
}

/// Reads the whole disk. `Ok` also if the other side went away. If `exact`,
/// bytes that a file system calls free are kept too.
pub fn scan(
    disk: &Disk,
    layout: &Layout,
    exact: bool,
    free: &Receiver<Batch>,
    out: &SyncSender<Batch>,
) -> io::Result<()> {
    let Ok(first) = free.recv() else { return Ok(()) };
    let mut cutter = Cutter { batch: first, cut: 0, zeros: 0, free, out };
    let mut window = vec![0; WINDOW];
    for span in &layout.spans {
        let region = Contents::look(disk, span, exact)?;
        if scan_region(&region, &mut window, &mut cutter)?.is_none() {
            return Ok(());
        }
    }
    let _ = cutter.send();
    Ok(())
}

/// Somebody took what was sent, or nobody is there any more.
type Sent = Option<()>;

fn scan_region(
    region: &Contents<'_>,
    window: &mut [u8],
    cutter: &mut Cutter<'_>,
) -> io::Result<Sent> {
    let mut hasher = region::Hasher::default();
    let mut edges = region.edges().iter().copied().peekable();
    let mut at = 0_u64;
    while at < region.bytes() {
        let data = region.next_data(at)?;
        hasher.zeros(data.start - at);
        while at < data.start {
            let stop = next_edge(&mut edges, at).unwrap_or(data.start).min(data.start);
            cutter.zeros += stop - at;
            at = stop;
            if edges.next_if_eq(&at).is_some() && cutter.edge().is_none() {
                return Ok(None);
            }
        }
        while at < data.end {
            let left = data.end - at;
            let len = usize::try_from(left).map_or(window.len(), |left| left.min(window.len()));
            let mut bytes = &mut window[..len];
            region.read_at(bytes, at)?;
            hasher.update(bytes);
            while !bytes.is_empty() {
                let stop = next_edge(&mut edges, at).map_or(u64::MAX, |edge| edge - at);
                let now = usize::try_from(stop).map_or(bytes.len(), |stop| stop.min(bytes.len()));
                let (piece, rest) = bytes.split_at_mut(now);
                bytes = rest;
                at += now as u64;
                let sent = cutter.window(piece);
                let is_edge = edges.next_if_eq(&at).is_some();
                if sent.is_none() || (is_edge && cutter.edge().is_none()) {
                    return Ok(None);
                }
            }
        }
    }
    Ok(cutter.end_region(region.bytes(), hasher.finish(), region.known.clone()))
}

/// The next edge behind an offset.
fn next_edge(edges: &mut Peekable<impl Iterator<Item = u64>>, at: u64) -> Option<u64> {
    while edges.next_if(|edge| *edge <= at).is_some() {}
    edges.peek().copied()
}

/// Cuts bytes into chunks inside of batches.
struct Cutter<'a> {
    batch: Batch,
    /// Bytes of the batch that are cut.
    cut: usize,
    /// Zeros that are neither in the batch nor a hole of it yet.
    zeros: u64,
    free: &'a Receiver<Batch>,
    out: &'a SyncSender<Batch>,
}

impl Cutter<'_> {
    /// Goes on with bytes.
    fn window(&mut self, bytes: &[u8]) -> Sent {
        let mut data_start = 0;
        let mut at = 0;
        for block in bytes.chunks(BLOCK) {
            let end = at + block.len();
            if is_zero(block) {
                if self.zeros == 0 {
                    self.data(&bytes[data_start..at])?;
                }
                self.zeros += block.len() as u64;
                data_start = end;
            } else if self.zeros > 0 {
                self.end_zeros()?;
                data_start = at;
            }
            at = end;
        }
        self.data(&bytes[data_start..])
    }

    /// Data follow zeros.
    fn end_zeros(&mut self) -> Sent {
        let zeros = mem::take(&mut self.zeros);
        if zeros >= HOLE_MIN {
            return self.hole(zeros);
        }
        let len = self.batch.data.len() + usize::try_from(zeros).ok()?;
        self.batch.data.resize(len, 0);
        self.cut(CHUNK_MAX)
    }

    /// What comes next belongs to something else, and is cut as if it stood alone.
    fn edge(&mut self) -> Sent {
        match mem::take(&mut self.zeros) {
            0 => self.flush(),
            zeros => self.hole(zeros),
        }
    }

    fn hole(&mut self, bytes: u64) -> Sent {
        self.flush()?;
        self.batch.items.push(Item::Hole(bytes));
        Some(())
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

    fn end_region(&mut self, bytes: u64, digest: Digest, known: ImportedRegion) -> Sent {
        if self.zeros == bytes {
            // However short: there is no chunk that it would interrupt.
            self.batch.items.push(Item::Hole(mem::take(&mut self.zeros)));
        }
        if self.zeros > 0 {
            self.end_zeros()?;
        }
        self.flush()?;
        self.batch.items.push(Item::End(digest, known));
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

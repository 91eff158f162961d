//! Finding holes in what is read of a disk, cutting the rest into chunks.

use std::io;
use std::mem;
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use wire::Digest;

use crate::contents::ImportedRegion;
use crate::cut::{CHUNK_MAX, cut};
use crate::disk::{BLOCK, Disk, is_zero};
use crate::layout::Layout;
use crate::read::{End, Reader, Sent, Window};

/// Zeros of at least this length, from one block edge to another, are a hole.
/// Shorter ones stay in chunks, where they compress to nothing: each hole
/// interrupts the cutting.
const HOLE_MIN: u64 = 64 << 10;
/// Windows between the reading and the cutting.
const WINDOWS: usize = 3;
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

/// Reads the whole disk and cuts it. `Ok` also if the other side went away. If
/// `exact`, bytes that a file system calls free are kept too.
pub fn scan(
    disk: &Disk,
    layout: &Layout,
    exact: bool,
    free: &Receiver<Batch>,
    out: &SyncSender<Batch>,
) -> io::Result<()> {
    let (full_in, full) = sync_channel(WINDOWS);
    let (used_in, used) = sync_channel(WINDOWS);
    for _ in 0..WINDOWS {
        // There is room for all of them.
        let _ = used_in.send(Window::default());
    }
    thread::scope(|scope| {
        let reading = scope.spawn(move || {
            let reader = Reader { free: &used, out: &full_in };
            reader.disk(disk, layout, exact)
        });
        // What it receives from ends with it, and so does the reader.
        cut_all(full, &used_in, free, out);
        drop(used_in);
        reading.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// Cuts what is read, until there is no more, or nobody who takes it.
fn cut_all(
    full: Receiver<Window>,
    used: &SyncSender<Window>,
    free: &Receiver<Batch>,
    out: &SyncSender<Batch>,
) -> Option<()> {
    let mut cutter = Cutter { batch: free.recv().ok()?, cut: 0, zeros: 0, free, out };
    for mut window in full {
        cutter.window(&window)?;
        match window.end.take() {
            Some(end) => cutter.end_region(end)?,
            // Nobody needs buffers once the disk is read.
            None => drop(used.send(window)),
        }
    }
    cutter.send()
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
    /// Goes on with a window, piece by piece between its edges.
    fn window(&mut self, window: &Window) -> Sent {
        let edges = window.edges.iter().map(|edge| (*edge, true));
        let mut at = 0;
        for (stop, is_edge) in edges.chain([(window.bytes(), false)]) {
            let zeros = stop.min(window.zeros).saturating_sub(at);
            self.zeros += zeros;
            at += zeros;
            if at < stop {
                let [from, to] = [at, stop].map(|offset| (offset - window.zeros) as usize);
                self.bytes(&window.data[from..to])?;
                at = stop;
            }
            if is_edge {
                self.edge()?;
            }
        }
        Some(())
    }

    /// Goes on with bytes.
    fn bytes(&mut self, bytes: &[u8]) -> Sent {
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

    fn end_region(&mut self, End { bytes, digest, known }: End) -> Sent {
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

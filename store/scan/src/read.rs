//! Reading a disk ahead of the cutting, and hashing its regions on the way.

use std::io;
use std::mem;
use std::sync::mpsc::{Receiver, SyncSender};

use store_format::region;
use wire::Digest;

use crate::contents::{Contents, ImportedRegion};
use crate::disk::{BLOCK, Disk};
use crate::layout::Layout;

/// Bytes read at a time.
const WINDOW: usize = 256 * BLOCK;

/// A part of a region.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// It begins with so many zeros.
    pub zeros: u64,
    /// What follows these, at most [`WINDOW`].
    pub data: Vec<u8>,
    /// Where to cut in any case, from its beginning on, rising.
    pub edges: Vec<u64>,
    /// That the region ends with it.
    pub end: Option<End>,
}

/// The end of a region.
#[derive(Debug)]
pub(crate) struct End {
    pub bytes: u64,
    pub digest: Digest,
    pub known: ImportedRegion,
}

impl Window {
    /// All its bytes, zeros too.
    pub fn bytes(&self) -> u64 {
        self.zeros + self.data.len() as u64
    }
}

/// Hands windows on, in buffers that come back.
pub(crate) struct Reader<'a> {
    pub free: &'a Receiver<Window>,
    pub out: &'a SyncSender<Window>,
}

/// Somebody took what was sent, or nobody is there any more.
pub(crate) type Sent = Option<()>;

impl Reader<'_> {
    /// Reads the whole disk. `Ok` also if the other side went away. If `exact`,
    /// bytes that a file system calls free are kept too.
    pub fn disk(&self, disk: &Disk, layout: &Layout, exact: bool) -> io::Result<()> {
        for span in &layout.spans {
            let region = Contents::look(disk, span, exact)?;
            if self.region(&region)?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn region(&self, region: &Contents<'_>) -> io::Result<Sent> {
        let mut hasher = region::Hasher::default();
        let mut at = 0;
        while at < region.bytes() {
            let stretch = region.next_data(at)?;
            let mut zeros = stretch.start - at;
            at = stretch.start;
            hasher.zeros(zeros);
            // Also where nothing follows the zeros.
            while zeros > 0 || at < stretch.end {
                let Ok(mut window) = self.free.recv() else { return Ok(None) };
                let left = stretch.end - at;
                let len = usize::try_from(left).map_or(WINDOW, |left| left.min(WINDOW));
                window.data.resize(len, 0);
                region.read_at(&mut window.data, at)?;
                hasher.update(&window.data);
                window.zeros = mem::take(&mut zeros);
                let start = at - window.zeros;
                at += len as u64;
                window.edges.clear();
                window.edges.extend(region.edges_within(start..at).map(|edge| edge - start));
                if self.out.send(window).is_err() {
                    return Ok(None);
                }
            }
        }
        let (bytes, digest, known) = (region.bytes(), hasher.finish(), region.known.clone());
        let end = Window { end: Some(End { bytes, digest, known }), ..Window::default() };
        Ok(self.out.send(end).ok())
    }
}

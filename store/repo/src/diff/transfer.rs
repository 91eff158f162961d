//! What a reader who has one image fetches for another.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use store_format::Extent;
use store_format::plan::{Stretch, Weigher};

use crate::index::{Frugal, Marks};
use crate::packs::PackNumbers;
use crate::read::{Placed, ReadError, scratch};
use crate::sorted::{Sorter, row, take};
use crate::tables::OpenTable;

/// Bytes of the place of a frame: pack, start, end.
const FRAME: usize = 20;

/// What a reader who has one image fetches for another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Transfer {
    /// Chunks that are missing, each counted once.
    pub chunks: u64,
    /// Plain bytes of these.
    pub plain_bytes: u64,
    /// Bytes of the frames that they are in.
    pub stored_bytes: u64,
    /// Requests for ranges of packs.
    pub requests: u64,
    /// Bytes of these ranges, with what is read along between two frames.
    pub wire_bytes: u64,
}

/// The chunks of the wanted image that the other one lacks.
pub(super) struct Missing<'a> {
    index: &'a Frugal,
    /// Chunks of the other image, and those that were counted.
    known: Marks,
    packs: PackNumbers,
    home: PathBuf,
    /// All that were counted.
    all: Tally,
}

/// Chunks to fetch.
struct Tally {
    frames: Sorter<FRAME>,
    chunks: u64,
    plain_bytes: u64,
}

impl<'a> Missing<'a> {
    /// What an image lacks that has this table.
    pub(super) fn new(
        index: &'a Frugal,
        old: &OpenTable,
        home: PathBuf,
    ) -> Result<Missing<'a>, ReadError> {
        let mut known = index.look().marks();
        for placed in old.extents() {
            let (_, Extent::Chunk { id, .. }) = placed? else { continue };
            // What is nowhere is not in the wanted image, all of which is stored.
            if let Some((spot, _)) = index.look().spot(&id) {
                known.insert(spot);
            }
        }
        let all = Tally::new(&home);
        Ok(Missing { index, known, packs: PackNumbers::default(), home, all })
    }

    /// Those among some extents, which are no longer missing afterwards.
    pub(super) fn take(
        &mut self,
        extents: impl Iterator<Item = Result<Placed, ReadError>>,
    ) -> Result<Transfer, ReadError> {
        let mut taken = Tally::new(&self.home);
        for placed in extents {
            let (_, Extent::Chunk { id, bytes }) = placed? else { continue };
            let (spot, place) = self.index.look().spot(&id).ok_or(ReadError::Chunk { id })?;
            if self.known.insert(spot) {
                let frame = self.packs.frame(&place);
                let push = |tally: &mut Tally| tally.push(frame, bytes);
                push(&mut taken).and_then(|()| push(&mut self.all)).map_err(|e| self.failed(e))?;
            }
        }
        taken.finish().map_err(|error| self.failed(error))
    }

    /// All that was taken.
    pub(super) fn transfer(self) -> Result<Transfer, ReadError> {
        let folder = self.home.display().to_string();
        self.all.finish().map_err(|error| scratch(&folder, error))
    }

    fn failed(&self, error: io::Error) -> ReadError {
        scratch(&self.home.display().to_string(), error)
    }
}

impl Tally {
    fn new(home: &Path) -> Tally {
        Tally { frames: Sorter::new(home.to_owned()), chunks: 0, plain_bytes: 0 }
    }

    fn push(&mut self, frame: Stretch, plain_bytes: u32) -> io::Result<()> {
        self.chunks += 1;
        self.plain_bytes += u64::from(plain_bytes);
        let Stretch { pack, start, end } = frame;
        self.frames.push(row([&pack.to_be_bytes(), &start.to_be_bytes(), &end.to_be_bytes()]))
    }

    /// What fetching them takes, as machines do it.
    fn finish(self) -> io::Result<Transfer> {
        let mut weigher = Weigher::default();
        for frame in self.frames.finish().iter()? {
            let frame = frame?;
            let mut row = &frame[..];
            let pack = u32::from_be_bytes(take(&mut row));
            let [start, end] = [(); 2].map(|()| u64::from_be_bytes(take(&mut row)));
            weigher.push(Stretch { pack, start, end });
        }
        let (_, cost) = weigher.choose();
        Ok(Transfer {
            chunks: self.chunks,
            plain_bytes: self.plain_bytes,
            stored_bytes: cost.wanted_bytes,
            requests: cost.requests,
            wire_bytes: cost.wire_bytes,
        })
    }
}

//! What somebody lacks of an image, place for place, and how it is fetched.

use std::io;

use store_format::plan::{Cost, Stretch, Weigher};
use store_format::{Extent, PackName, PlanLimits};
use wire::Digest;

use super::OpenImage;
use crate::packs::PackNumbers;
use crate::read::{Find, ReadError, scratch};
use crate::sorted::{Sorted, Sorter, row, take};

/// Bytes of a [`Want`].
const WANT: usize = 68;
/// Bytes of the places of zeros.
const ZEROS: usize = 16;

/// What somebody lacks of an image, which becomes known bit by bit.
pub struct Lacking {
    find: Find,
    /// Of messages: where files are made.
    folder: String,
    packs: PackNumbers,
    zeros: Sorter<ZEROS>,
    wants: Sorter<WANT>,
}

/// How what is lacking is fetched: few large ranges of packs, each frame once.
pub struct FetchPlan {
    pub(super) folder: String,
    pub(super) packs: Vec<PackName>,
    pub(super) zeros: Sorted<ZEROS>,
    pub(super) wants: Sorted<WANT>,
    pub(super) limits: PlanLimits,
    /// What it takes.
    pub cost: Cost,
}

/// A chunk that is lacking at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Want {
    /// Its frame.
    pub frame: Stretch,
    /// Where it starts in the plain bytes of that.
    pub plain_offset: u32,
    /// The place on the disk.
    pub at: u64,
    /// Its plain bytes.
    pub plain_len: u32,
    pub id: Digest,
}

impl OpenImage {
    /// Nothing is lacking yet.
    pub fn lacking(&self) -> Lacking {
        let home = &self.repo.storage.home;
        Lacking {
            find: self.reading.find(),
            folder: home.display().to_string(),
            packs: PackNumbers::default(),
            zeros: Sorter::new(home.clone()),
            wants: Sorter::new(home.clone()),
        }
    }
}

impl Lacking {
    /// An extent is lacking at a place: a chunk of the image, or any zeros.
    pub fn push(&mut self, at: u64, extent: Extent) -> Result<(), ReadError> {
        let pushed = match extent {
            Extent::Hole { bytes } => self.zeros.push(zeros(at, bytes)),
            Extent::Chunk { id, bytes } => {
                let want = self.want(at, id, bytes)?;
                self.wants.push(want.encode())
            }
        };
        pushed.map_err(|source| scratch(&self.folder, source))
    }

    fn want(&mut self, at: u64, id: Digest, plain_len: u32) -> Result<Want, ReadError> {
        let place = (self.find)(&id).ok_or(ReadError::Chunk { id })?;
        let frame = self.packs.frame(&place);
        Ok(Want { frame, plain_offset: place.entry.plain_offset, at, plain_len, id })
    }

    /// Nothing more is lacking.
    pub fn plan(self) -> Result<FetchPlan, ReadError> {
        let Lacking { folder, packs: PackNumbers { names: packs, .. }, .. } = self;
        let (zeros, wants) = (self.zeros.finish(), self.wants.finish());
        let weigh = || {
            let mut weigher = Weigher::default();
            for want in wants.iter()? {
                weigher.push(Want::decode(&want?).frame);
            }
            io::Result::Ok(weigher.choose())
        };
        let (limits, cost) = weigh().map_err(|source| scratch(&folder, source))?;
        Ok(FetchPlan { folder, packs, zeros, wants, limits, cost })
    }
}

/// Offset and bytes.
fn zeros(at: u64, bytes: u64) -> [u8; ZEROS] {
    row([&at.to_be_bytes(), &bytes.to_be_bytes()])
}

/// The offset and bytes that a row says.
pub(super) fn decode_zeros(row: &[u8; ZEROS]) -> (u64, u64) {
    let mut row = &row[..];
    (u64::from_be_bytes(take(&mut row)), u64::from_be_bytes(take(&mut row)))
}

impl Want {
    /// As bytes whose order is that of packs, frames, chunks and places.
    fn encode(&self) -> [u8; WANT] {
        row([
            &self.frame.pack.to_be_bytes(),
            &self.frame.start.to_be_bytes(),
            &self.frame.end.to_be_bytes(),
            &self.plain_offset.to_be_bytes(),
            &self.at.to_be_bytes(),
            &self.plain_len.to_be_bytes(),
            &self.id.0,
        ])
    }

    pub(super) fn decode(row: &[u8; WANT]) -> Want {
        let mut row = &row[..];
        let pack = u32::from_be_bytes(take(&mut row));
        let [start, end] = [(); 2].map(|()| u64::from_be_bytes(take(&mut row)));
        Want {
            frame: Stretch { pack, start, end },
            plain_offset: u32::from_be_bytes(take(&mut row)),
            at: u64::from_be_bytes(take(&mut row)),
            plain_len: u32::from_be_bytes(take(&mut row)),
            id: Digest(take(&mut row)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn want() -> impl Strategy<Value = Want> {
        let numbers = (any::<u32>(), any::<u64>(), any::<u64>(), any::<u32>(), any::<u64>());
        (numbers, any::<u32>(), any::<[u8; 32]>()).prop_map(|(numbers, plain_len, id)| {
            let (pack, start, end, plain_offset, at) = numbers;
            let frame = Stretch { pack, start, end };
            Want { frame, plain_offset, at, plain_len, id: Digest(id) }
        })
    }

    proptest! {
        #[test]
        fn a_want_is_the_same_as_a_row_and_rows_are_in_the_order_of_packs(
            one in want(),
            other in want(),
        ) {
            prop_assert_eq!(Want::decode(&one.encode()), one);
            let key = |want: &Want| {
                let Stretch { pack, start, end } = want.frame;
                (pack, start, end, want.plain_offset, want.at)
            };
            let order = one.encode()[..32].cmp(&other.encode()[..32]);
            prop_assert_eq!(order, key(&one).cmp(&key(&other)));
        }
    }
}

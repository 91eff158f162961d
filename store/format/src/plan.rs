//! What a reader asks of packs: few large single ranges that hold the chunks
//! it lacks.
//!
//! A range costs its bytes and a request. [`Plan`] weighs the two: gaps that
//! are cheaper than a request are read along at once, larger ones only while
//! requests are small on average and what is read in vain stays a small share.

mod weigh;

use std::collections::HashSet;

use serde::{Serialize, Serializer};
use wire::Digest;

use crate::locations::Locations;
use crate::pack::PackName;
use crate::table::ChunkTable;

pub use weigh::{Cost, Joiner, Stretch, Weigher};

/// Bytes that a request brings on average in a plan that is good enough.
pub const REQUEST_BYTES: u64 = 8 << 20;
/// Most bytes of a range. Twice the average, because the last range of each
/// pack is shorter. Whoever reads a range frame by frame keeps none of it.
pub const RANGE_BYTES_MAX: u64 = 2 * REQUEST_BYTES;
/// Unwanted bytes between two chunks that are always read along: what a request
/// costs in time at 1 Gbit/s, about a millisecond.
pub const GAP_BYTES: u64 = 128 << 10;
/// Where a plan has more requests than it should, larger gaps are read along
/// while all of them together stay below this part of what is wanted.
pub const UNWANTED_PART: u64 = 8;

/// How far ranges are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanLimits {
    /// Most unwanted bytes between two chunks of one range.
    pub gap_bytes_max: u64,
    /// Most bytes of a range, unless one frame alone is larger.
    pub range_bytes_max: u64,
}

impl Default for PlanLimits {
    fn default() -> PlanLimits {
        PlanLimits { gap_bytes_max: GAP_BYTES, range_bytes_max: RANGE_BYTES_MAX }
    }
}

/// One range of one pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RangeRequest {
    /// The pack.
    #[serde(serialize_with = "as_text")]
    pub pack: PackName,
    /// First byte.
    pub start: u64,
    /// Byte after the last.
    pub end: u64,
    /// The wanted chunks whose frames are in it, as indexes into
    /// [`Locations::chunks`], frame by frame, by rising offset.
    pub chunks: Vec<usize>,
}

impl RangeRequest {
    /// Bytes of the range.
    pub fn bytes(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}

fn as_text<S: Serializer>(pack: &PackName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(pack)
}

/// What a reader asks for, and what that costs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The requests, by rising place in pack after pack.
    pub ranges: Vec<RangeRequest>,
    /// Distinct chunks that are wanted.
    pub wanted_chunks: u64,
    /// Bytes of the frames that they are in.
    pub wanted_bytes: u64,
    /// Bytes of the ranges: the frames and what lies between them.
    pub wire_bytes: u64,
}

impl Plan {
    /// The plan for an image by a reader that has some chunks already, for
    /// example [`ChunkTable::ids`] of an image that it holds.
    pub fn missing(
        table: &ChunkTable,
        have: &HashSet<Digest>,
        locations: &Locations,
    ) -> Result<Plan, PlanError> {
        let chunks = table.distinct().enumerate();
        let wanted = chunks.filter(|(_, (id, _))| !have.contains(id)).map(|(index, _)| index);
        Plan::of(wanted, locations)
    }

    /// The plan for these chunks (indexes into [`Locations::chunks`]).
    pub fn of(
        wanted: impl Iterator<Item = usize>,
        locations: &Locations,
    ) -> Result<Plan, PlanError> {
        let places = places(wanted, locations)?;
        let mut weigher = Weigher::default();
        places.iter().for_each(|place| weigher.push(place.frame));
        let (limits, cost) = weigher.choose();
        Ok(Plan {
            ranges: joined(&places, limits),
            wanted_chunks: places.len() as u64,
            wanted_bytes: cost.wanted_bytes,
            wire_bytes: cost.wire_bytes,
        })
    }

    /// Bytes that are read in vain.
    pub fn unwanted_bytes(&self) -> u64 {
        self.wire_bytes.saturating_sub(self.wanted_bytes)
    }
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A wanted chunk has no location.
    #[error("chunk {index} has no location: the list ends at {len}; fetch table and list anew")]
    NoLocation {
        /// Index of the chunk.
        index: usize,
        /// Locations in the list.
        len: usize,
    },
}

/// The ranges that hold the wanted chunks (indexes into [`Locations::chunks`];
/// a repeated one is fetched once), by rising place in pack after pack, merged
/// as far as the limits allow.
pub fn ranges(
    wanted: impl Iterator<Item = usize>,
    locations: &Locations,
    limits: PlanLimits,
) -> Result<Vec<RangeRequest>, PlanError> {
    Ok(joined(&places(wanted, locations)?, limits))
}

/// Where a wanted chunk is.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// By the index of the pack in the list, which orders packs as they were
    /// written.
    frame: Stretch,
    chunk: usize,
    pack: PackName,
}

/// The places of wanted chunks, each once, in the order of the packs.
fn places(
    wanted: impl Iterator<Item = usize>,
    locations: &Locations,
) -> Result<Vec<Place>, PlanError> {
    let len = locations.chunks.len();
    let mut places = Vec::new();
    for chunk in wanted {
        let missing = PlanError::NoLocation { index: chunk, len };
        let at = locations.chunks.get(chunk).ok_or(missing.clone())?;
        let pack = locations.pack(at).ok_or(missing)?;
        let end = at.offset.saturating_add(u64::from(at.frame_len));
        let frame = Stretch { pack: at.pack, start: at.offset, end };
        places.push(Place { frame, chunk, pack });
    }
    let order = |place: &Place| (place.frame.pack, place.frame.start, place.frame.end, place.chunk);
    places.sort_unstable_by_key(order);
    places.dedup_by_key(|place| place.chunk);
    Ok(places)
}

fn joined(places: &[Place], limits: PlanLimits) -> Vec<RangeRequest> {
    let mut requests: Vec<RangeRequest> = Vec::new();
    let mut joiner = Joiner::new(limits);
    for Place { frame, chunk, pack } in places {
        let begins = joiner.push(*frame).is_some();
        match requests.last_mut() {
            Some(last) if !begins => {
                last.end = last.end.max(frame.end);
                last.chunks.push(*chunk);
            }
            _ => requests.push(RangeRequest {
                pack: *pack,
                start: frame.start,
                end: frame.end,
                chunks: vec![*chunk],
            }),
        }
    }
    requests
}

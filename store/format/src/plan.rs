//! Turning wanted chunks into few large single ranges.

use crate::locations::Locations;
use crate::pack::PackName;

/// How far ranges are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanLimits {
    /// Most unwanted bytes between two chunks of one range: what a request
    /// costs in time, said in bytes.
    pub gap_bytes_max: u64,
    /// Most bytes of a range, unless one chunk alone is larger: what a reader
    /// keeps in memory per request.
    pub range_bytes_max: u64,
}

impl Default for PlanLimits {
    fn default() -> PlanLimits {
        PlanLimits { gap_bytes_max: 1 << 20, range_bytes_max: 8 << 20 }
    }
}

/// One range of one pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeRequest {
    /// The pack.
    pub pack: PackName,
    /// First byte.
    pub start: u64,
    /// Byte after the last.
    pub end: u64,
    /// The wanted chunks whose frames are in it, as indexes into
    /// [`Locations::chunks`], by rising offset.
    pub chunks: Vec<usize>,
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
/// a repeated one is fetched once), by rising place in pack after pack.
pub fn ranges(
    wanted: impl Iterator<Item = usize>,
    locations: &Locations,
    limits: PlanLimits,
) -> Result<Vec<RangeRequest>, PlanError> {
    let len = locations.chunks.len();
    let mut places = Vec::new();
    for index in wanted {
        let missing = PlanError::NoLocation { index, len };
        let at = locations.chunks.get(index).ok_or(missing.clone())?;
        let pack = locations.pack(at).ok_or(missing)?;
        places.push((at.pack, at.offset, index, pack, at.frame_len));
    }
    places.sort_unstable();
    places.dedup();
    let mut requests: Vec<RangeRequest> = Vec::new();
    for (_, start, index, pack, frame_len) in places {
        let end = start.saturating_add(u64::from(frame_len));
        match requests.last_mut() {
            Some(last) if joins(last, pack, start, end, limits) => {
                last.end = last.end.max(end);
                last.chunks.push(index);
            }
            _ => requests.push(RangeRequest { pack, start, end, chunks: vec![index] }),
        }
    }
    Ok(requests)
}

fn joins(last: &RangeRequest, pack: PackName, start: u64, end: u64, limits: PlanLimits) -> bool {
    last.pack == pack
        && start.saturating_sub(last.end) <= limits.gap_bytes_max
        && end.max(last.end) - last.start <= limits.range_bytes_max
}

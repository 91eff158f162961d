//! A chunk table told by another one (`docs/chunk-table.md`): of related images
//! most extents are the same, and ids do not compress.

use std::collections::HashMap;

use wire::Digest;

use super::{ChunkTable, EXTENT_LEN, EXTENTS_MAX, Extent, check_region};
use crate::bytes::{self, DecodeError, Reader};
use crate::envelope::REGIONS_MAX;

const WHAT: &str = "a derived chunk table";
const MAGIC: &[u8; 8] = b"INGOTTBD";
const VERSION: u32 = 1;
/// Bytes of a run without its own extents.
const RUN_LEN: usize = 12;

/// The extents of a table, as far as they are not those of another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DerivedTable {
    /// The image that the table is of.
    pub image: Digest,
    /// The table that it is told by: BLAKE3 of its bytes.
    pub base: Digest,
    /// Extents of each region.
    regions: Vec<u64>,
    runs: Vec<Run>,
}

/// Extents of the base, then extents of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Run {
    /// The first extent of the base, counted over all its regions.
    from: u32,
    /// How many of them.
    count: u32,
    own: Vec<Extent>,
}

/// A table as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeptTable {
    /// All of it.
    Whole(ChunkTable),
    /// By another one.
    Derived(DerivedTable),
}

impl KeptTable {
    /// Whether the bytes of a derived table begin like this.
    pub fn is_derived(first: &[u8]) -> bool {
        first.starts_with(MAGIC)
    }

    /// Reads a table of either kind.
    pub fn decode(bytes: &[u8]) -> Result<KeptTable, DecodeError> {
        match KeptTable::is_derived(bytes) {
            true => DerivedTable::decode(bytes).map(KeptTable::Derived),
            false => ChunkTable::decode(bytes).map(KeptTable::Whole),
        }
    }
}

impl DerivedTable {
    /// Tells a table by another one, of which the name is given.
    pub fn of(table: &ChunkTable, name: Digest, base: &ChunkTable) -> DerivedTable {
        let known: Vec<&Extent> = base.regions.iter().flatten().collect();
        // A hole is no place to begin at: there are many like it.
        let mut places = HashMap::new();
        for (place, extent) in known.iter().enumerate() {
            if let Extent::Chunk { id, .. } = extent {
                places.entry(*id).or_insert(place);
            }
        }
        let mut runs = vec![Run::default()];
        for extent in table.regions.iter().flatten() {
            let run = runs.last().filter(|run| run.own.is_empty() && run.count > 0);
            let follows = run.map(|run| run.from as usize + run.count as usize);
            let place = match extent {
                Extent::Chunk { id, .. } => places.get(id).copied(),
                Extent::Hole { .. } => None,
            };
            let is_there = |place: &usize| known.get(*place) == Some(&extent);
            match (follows.filter(is_there), place.filter(is_there), runs.last_mut()) {
                (Some(_), _, Some(run)) => run.count += 1,
                (None, Some(place), _) => {
                    // Fits: a table has fewer extents.
                    let from = u32::try_from(place).unwrap_or(u32::MAX);
                    runs.push(Run { from, count: 1, own: Vec::new() });
                }
                (_, _, Some(run)) => run.own.push(*extent),
                (_, _, None) => {}
            }
        }
        runs.retain(|run| *run != Run::default());
        let regions = table.regions.iter().map(|region| region.len() as u64).collect();
        DerivedTable { image: table.image, base: name, regions, runs }
    }

    /// The table that is meant.
    pub fn resolve(&self, base: &ChunkTable) -> Result<ChunkTable, DecodeError> {
        let invalid = |why| DecodeError::Invalid { what: WHAT, why };
        let known: Vec<Extent> = base.regions.iter().flatten().copied().collect();
        let mut extents = Vec::new();
        for Run { from, count, own } in &self.runs {
            let range = *from as usize..(*from as usize).saturating_add(*count as usize);
            let copied = known.get(range).ok_or(invalid("its base has fewer extents"))?;
            extents.extend_from_slice(copied);
            extents.extend_from_slice(own);
        }
        let mut rest = &extents[..];
        let mut regions = Vec::with_capacity(self.regions.len());
        for len in &self.regions {
            let len = usize::try_from(*len).unwrap_or(usize::MAX);
            let region = rest.split_off(..len).ok_or(invalid("its regions are longer than it"))?;
            check_region(region).map_err(invalid)?;
            regions.push(region.to_vec());
        }
        match rest.is_empty() {
            true => Ok(ChunkTable { image: self.image, regions }),
            false => Err(invalid("its regions are shorter than it")),
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let own: usize = self.runs.iter().map(|run| run.own.len()).sum();
        let len = 140 + self.regions.len() * 8 + self.runs.len() * RUN_LEN + own * EXTENT_LEN;
        let mut out = bytes::start(MAGIC, VERSION, len);
        out.extend_from_slice(&self.image.0);
        out.extend_from_slice(&self.base.0);
        bytes::put_len(&mut out, self.regions.len());
        self.regions.iter().for_each(|len| out.extend_from_slice(&len.to_le_bytes()));
        bytes::put_len(&mut out, self.runs.len());
        for Run { from, count, own } in &self.runs {
            // Fits: a table has fewer extents.
            let own_count = u32::try_from(own.len()).unwrap_or(u32::MAX);
            for number in [*from, *count, own_count] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            own.iter().for_each(|extent| extent.encode(&mut out));
        }
        bytes::finish(out)
    }

    fn decode(bytes: &[u8]) -> Result<DerivedTable, DecodeError> {
        let mut reader = Reader::checked(WHAT, MAGIC, VERSION, bytes)?;
        let (image, base) = (reader.digest()?, reader.digest()?);
        let count = reader.count(REGIONS_MAX as u64, 8)?;
        let regions = (0..count).map(|_| reader.u64()).collect::<Result<Vec<_>, _>>()?;
        let count = reader.count(EXTENTS_MAX, RUN_LEN)?;
        let mut left = EXTENTS_MAX;
        let mut runs = Vec::with_capacity(count);
        for _ in 0..count {
            let (from, count, own) = (reader.u32()?, reader.u32()?, reader.u32()?);
            let extents = u64::from(count) + u64::from(own);
            left = left
                .checked_sub(extents)
                .ok_or_else(|| reader.invalid("it has more extents than a table may have"))?;
            let own = (0..own).map(|_| Extent::decode(&mut reader));
            runs.push(Run { from, count, own: own.collect::<Result<_, _>>()? });
        }
        reader.end()?;
        Ok(DerivedTable { image, base, regions, runs })
    }
}

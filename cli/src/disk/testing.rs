//! What the tests of this folder share: an image, and a disk whose power goes.

use std::io;
use std::ops::Range;
use std::sync::Mutex;

use store_format::{Envelope, Extent, Region, digest_of, region};

use super::compare::{Lack, Placed, compare};
use super::medium::{How, Medium};
use super::write::{Ends, Writer, Written};

pub const MIB: usize = 1 << 20;
/// Bytes of a chunk: so that none but the first starts where a block does.
const CHUNK: usize = 60_001;

/// An image and its content.
pub struct Sample {
    pub disk: Vec<u8>,
    pub envelope: Envelope,
    /// By rising place.
    extents: Vec<Extent>,
}

impl Sample {
    /// Three regions, two across an edge of what is withheld.
    pub fn new(disk: Vec<u8>) -> Sample {
        let ends = [4096, 2 * MIB, disk.len()].map(|end| end.min(disk.len()));
        let starts = [0, ends[0], ends[1]];
        let spans = starts.into_iter().zip(ends).map(|(start, end)| start..end);
        let spans: Vec<Range<usize>> = spans.filter(|span| !span.is_empty()).collect();
        let region = |(name, span): (&str, &Range<usize>)| Region {
            name: name.to_owned(),
            start: span.start as u64,
            bytes: span.len() as u64,
            partition: None,
            digest: region::digest(&disk[span.clone()]),
        };
        let envelope = Envelope {
            format: store_format::envelope::FORMAT.to_owned(),
            disk_bytes: disk.len() as u64,
            sector_bytes: 512,
            table: None,
            regions: ["a", "b", "c"].into_iter().zip(&spans).map(region).collect(),
            grow: None,
            boot: None,
            configuration: Default::default(),
            provenance: Default::default(),
        };
        let extents = spans.iter().flat_map(|span| extents(&disk[span.clone()])).collect();
        Sample { disk, envelope, extents }
    }

    /// How a disk stands to it, and what is lacking.
    pub fn compare(&self, disk: &Platter) -> (Lack, Vec<Placed>) {
        let mut parts = Vec::new();
        let lacks = |part| {
            parts.push(part);
            Ok(())
        };
        let extents = || self.extents().map(Ok);
        let bytes = disk.bytes();
        let lack = compare(&disk, bytes, &self.envelope, extents, lacks, |_| {}).unwrap();
        (lack, parts)
    }

    fn extents(&self) -> impl Iterator<Item = Placed> {
        self.extents.iter().scan(0, |next, extent| {
            let at = *next;
            *next += extent.bytes();
            Some((at, *extent))
        })
    }

    pub fn begin<'a>(&self, disk: &'a Platter, how: How) -> anyhow::Result<Writer<&'a Platter>> {
        Writer::begin(disk, Ends::of(disk.bytes(), &self.envelope), how)
    }

    /// Writes what is lacking, as the store would deliver it: zeros first, chunks
    /// in another order than on the disk.
    pub fn write(&self, writer: &mut Writer<&Platter>, parts: &[Placed]) -> anyhow::Result<()> {
        for (at, extent) in parts {
            if let Extent::Hole { bytes } = extent {
                writer.zeros(&(*at..at + bytes))?;
            }
        }
        for (at, extent) in parts.iter().rev() {
            if let Extent::Chunk { .. } = extent {
                let start = usize::try_from(*at)?;
                writer.data(*at, &self.disk[start..start + usize::try_from(extent.bytes())?])?;
            }
        }
        Ok(())
    }

    /// All of `ingot write` but the store.
    pub fn install(&self, disk: &Platter) -> anyhow::Result<Written> {
        let (lack, parts) = self.compare(disk);
        if lack.nothing {
            return Writer::already(disk, &self.envelope).seal(&self.envelope, &|_| {});
        }
        let how = if lack.related { How::Changed } else { How::Whole };
        let mut writer = self.begin(disk, how)?;
        self.write(&mut writer, &parts)?;
        writer.seal(&self.envelope, &|_| {})
    }
}

fn extents(region: &[u8]) -> Vec<Extent> {
    let mut extents = Vec::new();
    for bytes in region.chunks(CHUNK) {
        let is_hole = bytes.iter().all(|byte| *byte == 0);
        let more = bytes.len() as u64;
        match extents.last_mut() {
            Some(Extent::Hole { bytes }) if is_hole => *bytes += more,
            _ if is_hole => extents.push(Extent::Hole { bytes: more }),
            _ => extents.push(Extent::Chunk {
                id: digest_of(bytes),
                bytes: u32::try_from(bytes.len()).unwrap(),
            }),
        }
    }
    extents
}

/// Bytes that look like nothing else.
pub fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mix = |at: u32| (at ^ seed.wrapping_mul(77_777)).wrapping_mul(2_654_435_761);
    (0..u32::try_from(len).unwrap()).map(|at| (mix(mix(at) >> 7) >> 24) as u8).collect()
}

/// What a power cut leaves of the writes since the cache was last emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// All of them.
    KeepsAll,
    /// None.
    LosesAll,
    /// Every other one: disks write in any order.
    KeepsSome,
    /// All, and the first half of the sectors of the write that was under way.
    KeepsHalf,
    /// Only the second half of the sectors of the write that was under way.
    OnlyOtherHalf,
}

/// A disk with a cache that a power cut loses.
pub struct Platter(Mutex<State>);

struct State {
    seen: Vec<u8>,
    durable: Vec<u8>,
    cached: Vec<(usize, Vec<u8>)>,
    /// Writes until the power goes.
    left: Option<usize>,
    cut: Cut,
    bad: Option<usize>,
}

impl Platter {
    pub fn new(bytes: Vec<u8>) -> Platter {
        let (durable, cached) = (bytes.clone(), Vec::new());
        let state =
            State { seen: bytes, durable, cached, left: None, cut: Cut::KeepsAll, bad: None };
        Platter(Mutex::new(state))
    }

    pub fn cut_after(&self, writes: usize, cut: Cut) {
        let mut state = self.0.lock().unwrap();
        (state.left, state.cut) = (Some(writes), cut);
    }

    /// Power comes back: what is cached is gone.
    pub fn power_on(&self) {
        let mut state = self.0.lock().unwrap();
        state.seen = state.durable.clone();
        state.cached.clear();
        state.left = None;
    }

    /// Reads of a byte fail until it is written.
    pub fn fail_reads(&self, at: usize) {
        self.0.lock().unwrap().bad = Some(at);
    }

    pub fn bytes(&self) -> u64 {
        self.0.lock().unwrap().seen.len() as u64
    }

    pub fn content(&self) -> Vec<u8> {
        self.0.lock().unwrap().seen.clone()
    }
}

const POWERLESS: usize = usize::MAX;

impl Medium for &Platter {
    fn read(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let state = self.0.lock().unwrap();
        let range = usize::try_from(at).unwrap()..usize::try_from(at).unwrap() + buffer.len();
        if state.bad.is_some_and(|bad| range.contains(&bad)) {
            return Err(io::Error::other("a bad sector"));
        }
        buffer.copy_from_slice(state.seen.get(range).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        let at = usize::try_from(at).unwrap();
        match state.left {
            Some(0) => state.lose_power(at, bytes),
            Some(POWERLESS) | None => {}
            Some(left) => state.left = Some(left - 1),
        }
        if state.left == Some(POWERLESS) {
            return Err(io::Error::other("the power is gone"));
        }
        let range = at..at + bytes.len();
        state.bad = state.bad.filter(|bad| !range.contains(bad));
        state.seen[range].copy_from_slice(bytes);
        state.cached.push((at, bytes.to_vec()));
        Ok(())
    }

    fn settle(&self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        if state.left == Some(POWERLESS) {
            return Err(io::Error::other("the power is gone"));
        }
        state.keep(|_| true);
        Ok(())
    }
}

impl State {
    fn keep(&mut self, is_kept: impl Fn(usize) -> bool) {
        for (number, (at, bytes)) in std::mem::take(&mut self.cached).iter().enumerate() {
            if is_kept(number) {
                self.durable[*at..at + bytes.len()].copy_from_slice(bytes);
            }
        }
    }

    fn lose_power(&mut self, at: usize, bytes: &[u8]) {
        let cut = self.cut;
        self.keep(|number| match cut {
            Cut::KeepsAll | Cut::KeepsHalf => true,
            Cut::LosesAll | Cut::OnlyOtherHalf => false,
            Cut::KeepsSome => number % 2 == 1,
        });
        // A single sector is written whole or not at all.
        let middle = bytes.len() / 2 / 512 * 512;
        let kept = match cut {
            Cut::KeepsHalf => 0..middle,
            Cut::OnlyOtherHalf if middle > 0 => middle..bytes.len(),
            _ => 0..0,
        };
        self.durable[at + kept.start..at + kept.end].copy_from_slice(&bytes[kept]);
        self.left = Some(POWERLESS);
    }
}

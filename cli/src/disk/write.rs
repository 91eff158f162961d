//! Writing an image to a disk and proving that it is there.
//!
//! Nothing starts from a disk without its first MiB or, where firmware falls
//! back to the second partition table, its last. Both are zero from the first
//! write on, and the image's own come last, after everything else was read back
//! and compared: a disk whose writing was interrupted never boots half an OS.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use anyhow::{Context as _, bail};
use rustix::fs::{Advice, fadvise};
use store_format::{Envelope, region};
use store_repo::Piece;

use crate::exit::{Code, Failure};

/// What is cleared and withheld at either end until the rest is proven: boot
/// code and partition tables.
const EDGE: u64 = 1 << 20;
/// Bytes moved at a time.
const BUFFER: usize = 1 << 20;
static ZEROS: [u8; BUFFER] = [0; BUFFER];

/// One image on its way to a disk.
#[derive(Debug)]
pub struct Writer {
    file: File,
    head: Vec<u8>,
    tail: Vec<u8>,
    /// Where in the image the tail begins.
    tail_start: u64,
    done_bytes: u64,
}

/// Bytes behind an image that are cleared: the part of the disk's last MiB that
/// the image does not reach, where an old second partition table may be.
pub fn cleared_bytes(disk_bytes: u64, image_bytes: u64) -> u64 {
    disk_bytes.saturating_sub(image_bytes).min(EDGE)
}

impl Writer {
    /// Makes the disk of `disk_bytes` unbootable; from here on it is the image's.
    pub fn begin(file: File, disk_bytes: u64, envelope: &Envelope) -> anyhow::Result<Writer> {
        let image_bytes = envelope.disk_bytes;
        let head = vec![0; usize::try_from(EDGE.min(image_bytes))?];
        let tail = vec![0; usize::try_from(EDGE.min(image_bytes - head.len() as u64))?];
        let tail_start = image_bytes - tail.len() as u64;
        let writer = Writer { file, head, tail, tail_start, done_bytes: 0 };
        writer.clear(disk_bytes).context("cannot clear the first and the last MiB")?;
        Ok(writer)
    }

    fn clear(&self, disk_bytes: u64) -> io::Result<()> {
        self.file.write_all_at(&self.head, 0)?;
        self.file.write_all_at(&self.tail, self.tail_start)?;
        self.zeros(disk_bytes.saturating_sub(EDGE)..disk_bytes)?;
        self.file.sync_data()
    }

    /// Bytes of the image dealt with so far.
    pub fn done_bytes(&self) -> u64 {
        self.done_bytes
    }

    /// Writes one piece. Holes become zeros: what was on the disk must not
    /// show through.
    pub fn write(&mut self, piece: &Piece) -> anyhow::Result<()> {
        let (offset, bytes) = match piece {
            Piece::Data { offset, bytes } => (*offset, bytes.len() as u64),
            Piece::Hole { offset, bytes } => (*offset, *bytes),
        };
        match piece {
            Piece::Data { bytes, .. } => self.data(offset, bytes),
            Piece::Hole { .. } => {
                let head = self.head.len() as u64;
                self.zeros(offset.max(head)..self.tail_start.min(offset + bytes))
            }
        }
        .with_context(|| format!("cannot write at byte {offset}"))?;
        self.done_bytes = offset + bytes;
        Ok(())
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let until = |edge: u64| usize::try_from(edge.saturating_sub(offset)).unwrap_or(usize::MAX);
        let (rest, tail) = bytes.split_at(bytes.len().min(until(self.tail_start)));
        let (head, rest) = rest.split_at(rest.len().min(until(self.head.len() as u64)));
        withhold(&mut self.head, offset, head)?;
        let tail_offset = (offset + (head.len() + rest.len()) as u64).max(self.tail_start);
        withhold(&mut self.tail, tail_offset - self.tail_start, tail)?;
        self.file.write_all_at(rest, offset + head.len() as u64)
    }

    fn zeros(&self, range: Range<u64>) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let len = usize::try_from(range.end - at).map_or(BUFFER, |left| left.min(BUFFER));
            self.file.write_all_at(&ZEROS[..len], at)?;
            at += len as u64;
        }
        Ok(())
    }

    /// Reads everything back past the cache and compares, then writes the last
    /// MiB and the first, and proves them too. `progress` is told the bytes
    /// compared.
    pub fn seal(self, envelope: &Envelope, progress: &dyn Fn(u64)) -> anyhow::Result<()> {
        self.settle()?;
        self.compare(envelope, progress)?;
        self.edge("the image's last MiB", &self.tail, self.tail_start)?;
        self.edge("the first MiB", &self.head, 0)
    }

    /// Writes what was withheld and proves it.
    fn edge(&self, name: &str, bytes: &[u8], at: u64) -> anyhow::Result<()> {
        self.file.write_all_at(bytes, at).with_context(|| format!("cannot write {name}"))?;
        self.settle()?;
        let mut found = vec![0; bytes.len()];
        self.file
            .read_exact_at(&mut found, at)
            .with_context(|| format!("cannot read {name} back"))?;
        if found != bytes {
            bail!(differs(name));
        }
        Ok(())
    }

    /// Everything is on the medium, and the next read comes from there.
    fn settle(&self) -> anyhow::Result<()> {
        self.file.sync_all().context("cannot bring the data to the disk")?;
        fadvise(&self.file, 0, None, Advice::DontNeed).context("cannot empty the cache")
    }

    fn compare(&self, envelope: &Envelope, progress: &dyn Fn(u64)) -> anyhow::Result<()> {
        let mut buffer = vec![0; BUFFER];
        for region in &envelope.regions {
            let mut hasher = region::Hasher::default();
            let end = region.start + region.bytes;
            let mut at = region.start;
            while at < end {
                let edges = [self.head.len() as u64, self.tail_start];
                let edge = edges.into_iter().find(|edge| at < *edge).unwrap_or(end).min(end);
                let len = usize::try_from(edge - at).map_or(BUFFER, |left| left.min(BUFFER));
                self.read(&mut buffer[..len], at)
                    .with_context(|| format!("cannot read back at byte {at}"))?;
                hasher.update(&buffer[..len]);
                at += len as u64;
                progress(at);
            }
            if hasher.finish() != region.digest {
                bail!(differs(&format!("region {}", region.name)));
            }
        }
        Ok(())
    }

    /// What is on the disk, or still withheld.
    fn read(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let (withheld, from) = match at {
            at if at < self.head.len() as u64 => (&self.head, at),
            at if at < self.tail_start => return self.file.read_exact_at(buffer, at),
            at => (&self.tail, at - self.tail_start),
        };
        let start = usize::try_from(from).map_err(io::Error::other)?;
        buffer.copy_from_slice(
            withheld.get(start..start + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?,
        );
        Ok(())
    }
}

/// Keeps `bytes` back. An image that is longer than it says is an error.
fn withhold(kept: &mut [u8], offset: u64, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let start = usize::try_from(offset).map_err(io::Error::other)?;
    let place = kept.get_mut(start..start + bytes.len());
    place.ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(bytes);
    Ok(())
}

fn differs(what: &str) -> Failure {
    Failure::new(Code::Failed, format!("{what} reads back differently than it was written"))
        .next("the disk does not keep what it is given: try once more, then replace it")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use store_format::Region;
    use wire::Digest;

    use super::*;

    /// Three regions over 4 MiB, two across an edge of what is withheld.
    fn envelope(disk: &[u8]) -> Envelope {
        let mib = 1 << 20;
        let region = |name: &str, range: Range<usize>| Region {
            name: name.to_owned(),
            start: range.start as u64,
            bytes: range.len() as u64,
            partition: None,
            digest: region::digest(&disk[range]),
        };
        let regions =
            vec![region("a", 0..4096), region("b", 4096..2 * mib), region("c", 2 * mib..4 * mib)];
        Envelope {
            format: store_format::envelope::FORMAT.to_owned(),
            disk_bytes: disk.len() as u64,
            sector_bytes: 512,
            table: None,
            regions,
            grow: None,
            boot: None,
            configuration: Default::default(),
            provenance: Default::default(),
        }
    }

    fn content() -> Vec<u8> {
        let mut disk: Vec<u8> =
            (0..4_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        disk[1_500_000..2_500_000].fill(0);
        disk
    }

    fn pieces(disk: &[u8]) -> Vec<Piece> {
        let data = |range: Range<usize>| Piece::Data {
            offset: range.start as u64,
            bytes: Bytes::copy_from_slice(&disk[range]),
        };
        vec![
            data(0..1_000_000),
            data(1_000_000..1_500_000),
            Piece::Hole { offset: 1_500_000, bytes: 1_000_000 },
            data(2_500_000..3_000_000),
            data(3_000_000..3_500_000),
            data(3_500_000..disk.len()),
        ]
    }

    fn target(len: usize) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![0xff; len], 0).unwrap();
        file
    }

    const MIB: usize = 1 << 20;

    fn begun(file: &File, envelope: &Envelope) -> Writer {
        let bytes = file.metadata().unwrap().len();
        Writer::begin(file.try_clone().unwrap(), bytes, envelope).unwrap()
    }

    fn found(file: &File, range: Range<usize>) -> Vec<u8> {
        let mut found = vec![1; range.len()];
        file.read_exact_at(&mut found, range.start as u64).unwrap();
        found
    }

    fn zero(file: &File, range: Range<usize>) -> bool {
        found(file, range).iter().all(|byte| *byte == 0)
    }

    #[test]
    fn what_was_written_is_the_image_and_old_bytes_do_not_show_through() {
        let disk = content();
        let envelope = envelope(&disk);
        for behind in [0, 512, MIB, 3 * MIB] {
            let file = target(disk.len() + behind);
            let mut writer = begun(&file, &envelope);
            pieces(&disk).iter().for_each(|piece| writer.write(piece).unwrap());
            writer.seal(&envelope, &|_| {}).unwrap();
            assert!(found(&file, 0..disk.len()) == disk, "{behind}");
            let cleared = behind.min(MIB);
            assert_eq!(
                cleared_bytes((disk.len() + behind) as u64, disk.len() as u64),
                cleared as u64
            );
            let left = disk.len()..disk.len() + behind - cleared;
            assert!(found(&file, left.clone()).iter().all(|byte| *byte == 0xff), "{behind}");
            assert!(zero(&file, left.end..disk.len() + behind), "{behind}");
        }
    }

    #[test]
    fn images_too_small_for_two_edges_are_written_whole() {
        for len in [4096, MIB, MIB + 4096, 2 * MIB] {
            let disk = content()[..len].to_vec();
            let mut envelope = envelope(&content());
            envelope.disk_bytes = len as u64;
            envelope.regions.truncate(1);
            envelope.regions[0].bytes = len as u64;
            envelope.regions[0].digest = region::digest(&disk);
            let file = target(len + 512);
            let mut writer = begun(&file, &envelope);
            writer.write(&Piece::Data { offset: 0, bytes: disk.clone().into() }).unwrap();
            writer.seal(&envelope, &|_| {}).unwrap();
            assert!(found(&file, 0..len) == disk, "{len}");
        }
    }

    #[test]
    fn until_it_is_sealed_nothing_boots_from_it() {
        let disk = content();
        let file = target(disk.len() + 3 * MIB);
        let mut writer = begun(&file, &envelope(&disk));
        let ends = |when: &str| {
            assert!(zero(&file, 0..MIB), "{when}: boot code and first table");
            assert!(zero(&file, disk.len() - MIB..disk.len()), "{when}: the image's second table");
            assert!(zero(&file, disk.len() + 2 * MIB..disk.len() + 3 * MIB), "{when}: the old one");
        };
        ends("begun");
        pieces(&disk).iter().for_each(|piece| writer.write(piece).unwrap());
        ends("written");
    }

    #[test]
    fn a_disk_that_loses_a_byte_is_found_out_and_stays_unbootable() {
        let disk = content();
        let mut envelope = envelope(&disk);
        envelope.regions[2].digest = Digest([0; 32]);
        let file = target(disk.len());
        let mut writer = begun(&file, &envelope);
        pieces(&disk).iter().for_each(|piece| writer.write(piece).unwrap());
        let error = writer.seal(&envelope, &|_| {}).unwrap_err();
        assert!(error.to_string().contains("region c"), "{error:?}");
        assert!(zero(&file, 0..MIB) && zero(&file, disk.len() - MIB..disk.len()));
    }
}

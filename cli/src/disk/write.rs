//! Writing an image to a disk and proving that it is there.
//!
//! Nothing starts from a disk without its first MiB or, where firmware falls
//! back to the second partition table, its last. Both are zero from the first
//! write on, and the image's own come last, after everything else was read back
//! and compared: a disk whose writing was interrupted never boots half an OS.
//! The very first sector is cleared first and written last, each alone, because
//! a disk writes a sector whole or not at all.

use std::io;
use std::ops::Range;

use anyhow::{Context as _, bail};
use serde::Serialize;
use store_format::{Envelope, region};

use super::medium::{BUFFER, How, Medium, Pen};
use crate::exit::{Code, Failure};

/// What is cleared and withheld at either end until the rest is proven: boot
/// code and partition tables.
const EDGE: u64 = 1 << 20;

/// The ends of a disk that gets an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    /// First sector of the image.
    sector: u64,
    /// Its first MiB, as far as it has one.
    head: Range<u64>,
    /// Its last MiB, without what is in the head.
    tail: Range<u64>,
    /// What of the disk's last MiB the image does not reach, where an old
    /// second partition table may be.
    pub cleared: Range<u64>,
}

impl Ends {
    /// The ends of a disk of `disk_bytes`, which are no fewer than the image's.
    pub fn of(disk_bytes: u64, envelope: &Envelope) -> Ends {
        let image_bytes = envelope.disk_bytes;
        let head = 0..EDGE.min(image_bytes);
        let tail = head.end.max(image_bytes.saturating_sub(EDGE))..image_bytes;
        let cleared = image_bytes.max(disk_bytes.saturating_sub(EDGE))..disk_bytes;
        Ends { sector: head.end.min(envelope.sector_bytes.into()), head, tail, cleared }
    }

    /// Whether something of a range is withheld.
    pub fn touch(&self, range: &Range<u64>) -> bool {
        range.start < self.head.end || range.end > self.tail.start
    }
}

/// One image on its way to a disk.
#[derive(Debug)]
pub struct Writer<M> {
    pen: Pen<M>,
    /// How data is written.
    how: How,
    ends: Ends,
    head: Vec<u8>,
    tail: Vec<u8>,
    /// Bytes written to clear the ends.
    cleared_bytes: u64,
}

/// What writing an image took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Bytes written, what was cleared first included.
    pub written_bytes: u64,
    /// Bytes of the image that were there already, or zero once the ends were
    /// cleared.
    pub skipped_bytes: u64,
}

impl<M: Medium> Writer<M> {
    /// Makes the disk unbootable; from here on it is the image's.
    pub fn begin(medium: M, ends: Ends, how: How) -> anyhow::Result<Writer<M>> {
        let zeros =
            |range: &Range<u64>| usize::try_from(range.end - range.start).map(|n| vec![0; n]);
        let (head, tail) = (zeros(&ends.head)?, zeros(&ends.tail)?);
        let mut writer = Writer { pen: Pen::new(medium), how, ends, head, tail, cleared_bytes: 0 };
        writer.clear().context("cannot clear the first and the last MiB")?;
        writer.cleared_bytes = writer.pen.written_bytes;
        Ok(writer)
    }

    /// A disk that is the image already: nothing is withheld, all is proven.
    pub fn already(medium: M, envelope: &Envelope) -> Writer<M> {
        let end = envelope.disk_bytes;
        let ends = Ends { sector: 0, head: 0..0, tail: end..end, cleared: end..end };
        let (pen, head, tail) = (Pen::new(medium), Vec::new(), Vec::new());
        Writer { pen, how: How::Changed, ends, head, tail, cleared_bytes: 0 }
    }

    fn clear(&mut self) -> io::Result<()> {
        let Ends { sector, head, tail, cleared } = self.ends.clone();
        self.pen.zeros(0..sector, How::Changed)?;
        self.pen.medium.settle()?;
        for range in [sector..head.end, tail, cleared] {
            self.pen.zeros(range, How::Changed)?;
        }
        self.pen.medium.settle()
    }

    /// Writes the bytes of a chunk.
    pub fn data(&mut self, at: u64, bytes: &[u8]) -> anyhow::Result<()> {
        self.spread(at, bytes).with_context(|| format!("cannot write at byte {at}"))
    }

    fn spread(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let Ends { head, tail, .. } = &self.ends;
        let until = |edge: u64| usize::try_from(edge.saturating_sub(at)).unwrap_or(usize::MAX);
        let (rest, last) = bytes.split_at(bytes.len().min(until(tail.start)));
        let (first, rest) = rest.split_at(rest.len().min(until(head.end)));
        withhold(&mut self.head, at, first)?;
        let last_at = (at + (first.len() + rest.len()) as u64).max(tail.start);
        withhold(&mut self.tail, last_at - tail.start, last)?;
        self.pen.put(rest, at + first.len() as u64, self.how)
    }

    /// Writes zeros: what was on the disk must not show through.
    pub fn zeros(&mut self, range: &Range<u64>) -> anyhow::Result<()> {
        let between = range.start.max(self.ends.head.end)..range.end.min(self.ends.tail.start);
        let written = self.pen.zeros(between, How::Whole);
        written.with_context(|| format!("cannot write zeros at byte {}", range.start))
    }

    /// Reads everything back past the cache and compares, then writes the last
    /// MiB and the first, and proves them too. `progress` is told the bytes
    /// compared.
    pub fn seal(mut self, envelope: &Envelope, progress: &dyn Fn(u64)) -> anyhow::Result<Written> {
        self.settle()?;
        self.compare(envelope, progress)?;
        let (head, tail) = (std::mem::take(&mut self.head), std::mem::take(&mut self.tail));
        let (sector, rest) = head.split_at(usize::try_from(self.ends.sector)?);
        self.edge("the image's last MiB", &tail, self.ends.tail.start)?;
        self.edge("the first MiB", rest, self.ends.sector)?;
        self.edge("the first sector", sector, 0)?;
        let written_bytes = self.pen.written_bytes;
        let image_bytes = written_bytes - self.cleared_bytes;
        Ok(Written { written_bytes, skipped_bytes: envelope.disk_bytes - image_bytes })
    }

    /// Writes what was withheld and proves it.
    fn edge(&mut self, name: &str, bytes: &[u8], at: u64) -> anyhow::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.pen.put(bytes, at, How::Changed).with_context(|| format!("cannot write {name}"))?;
        self.settle()?;
        let mut found = vec![0; bytes.len()];
        let read = self.pen.medium.read(&mut found, at);
        read.with_context(|| format!("cannot read {name} back"))?;
        if found != bytes {
            bail!(differs(name));
        }
        Ok(())
    }

    fn settle(&self) -> anyhow::Result<()> {
        self.pen.medium.settle().context("cannot bring the data to the disk")
    }

    fn compare(&self, envelope: &Envelope, progress: &dyn Fn(u64)) -> anyhow::Result<()> {
        let mut buffer = vec![0; BUFFER];
        for region in &envelope.regions {
            let mut hasher = region::Hasher::default();
            let end = region.start + region.bytes;
            let mut at = region.start;
            while at < end {
                let edges = [self.ends.head.end, self.ends.tail.start];
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
        let Ends { head, tail, .. } = &self.ends;
        let (withheld, from) = match at {
            at if at < head.end => (&self.head, at),
            at if at < tail.start => return self.pen.medium.read(buffer, at),
            at => (&self.tail, at - tail.start),
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
    use wire::Digest;

    use super::*;
    use crate::disk::testing::{Cut, MIB, Platter, Sample, noise};

    /// Boot code, tables at both ends, content, and a hole.
    fn content(seed: u32) -> Vec<u8> {
        let mut disk = noise(seed, 4 * MIB);
        disk[20_000..1_100_000].fill(0);
        disk[1_500_000..2_500_000].fill(0);
        disk[4 * MIB - 500_000..4 * MIB - 10_000].fill(0);
        disk
    }

    fn is_zero(bytes: &[u8]) -> bool {
        bytes.iter().all(|byte| *byte == 0)
    }

    #[test]
    fn what_was_written_is_the_image_and_old_bytes_do_not_show_through() {
        let image = Sample::new(content(1));
        let len = image.disk.len();
        for behind in [0, 512, MIB, 3 * MIB] {
            let disk = Platter::new(vec![0xff; len + behind]);
            image.install(&disk).unwrap();
            let found = disk.content();
            assert!(found[..len] == image.disk, "{behind}");
            let cleared = len + behind - behind.min(MIB);
            assert!(found[len..cleared].iter().all(|byte| *byte == 0xff), "{behind}");
            assert!(is_zero(&found[cleared..]), "{behind}");
        }
    }

    #[test]
    fn images_too_small_for_two_edges_are_written_whole() {
        for len in [512, 4096, MIB, MIB + 4096, 2 * MIB] {
            let image = Sample::new(noise(3, len));
            let disk = Platter::new(vec![0xff; len + 512]);
            image.install(&disk).unwrap();
            assert!(disk.content()[..len] == image.disk, "{len}");
        }
    }

    #[test]
    fn until_it_is_sealed_nothing_boots_from_it() {
        let image = Sample::new(content(1));
        let len = image.disk.len();
        let disk = Platter::new(vec![0xff; len + 3 * MIB]);
        let (_, parts) = image.compare(&disk);
        let mut writer = image.begin(&disk, How::Whole).unwrap();
        let ends = |when: &str| {
            let found = disk.content();
            assert!(is_zero(&found[..MIB]), "{when}: boot code and first table");
            assert!(is_zero(&found[len - MIB..len]), "{when}: the image's second table");
            assert!(is_zero(&found[len + 2 * MIB..]), "{when}: the old one");
        };
        ends("begun");
        image.write(&mut writer, &parts).unwrap();
        ends("written");
    }

    #[test]
    fn a_disk_that_loses_a_byte_is_found_out_and_stays_unbootable() {
        let mut image = Sample::new(content(1));
        image.envelope.regions[2].digest = Digest([0; 32]);
        let disk = Platter::new(vec![0xff; image.disk.len()]);
        let error = image.install(&disk).unwrap_err();
        assert!(error.to_string().contains("region c"), "{error:?}");
        let found = disk.content();
        assert!(is_zero(&found[..MIB]) && is_zero(&found[3 * MIB..]));
    }

    #[test]
    fn over_a_related_image_only_blocks_that_differ_are_written() {
        let old = Sample::new(content(1));
        let mut new = content(1);
        for at in (1_200_000..1_500_000).step_by(9000).chain((2_500_000..3_600_000).step_by(7000)) {
            new[at..at + 100].fill(0xaa);
        }
        // What was a hole has data now, and data became a hole.
        new[1_600_000..1_700_000].copy_from_slice(&noise(8, 100_000));
        new[2_700_000..2_900_000].fill(0);
        let new = Sample::new(new);
        let blocks = || old.disk.chunks(4096).zip(new.disk.chunks(4096));
        let differ = blocks().filter(|(old, new)| old != new).count() as u64 * 4096;
        // The same boot code and tables, which are cleared and come back.
        let is_end = |number: &usize| *number < MIB / 4096 || *number >= 3 * MIB / 4096;
        let full = |number: usize| !is_zero(&old.disk[number * 4096..][..4096]);
        let ends = (0..1024).filter(is_end).filter(|number| full(*number)).count() as u64 * 4096;
        let (disk, mut still) = (Platter::new(old.disk.clone()), 0);
        for (old, new) in blocks().take(3 * MIB / 4096).skip(MIB / 4096) {
            still += if old == new { 0 } else { 4096 };
        }
        let written = new.install(&disk).unwrap();
        assert!(disk.content() == new.disk);
        let most = still + 2 * ends;
        // Where a block lies in two chunks, only the part that differs is written.
        assert!((most - 40 * 4096..=most).contains(&written.written_bytes), "{written:?} {most}");
        assert!(differ > 900_000 && written.skipped_bytes > 4 * MIB as u64 - differ - 2 * ends);
    }

    #[test]
    fn restoring_over_a_related_image_writes_at_most_a_twentieth_more_than_differs() {
        let mut old = noise(1, 12 * MIB);
        old[16 * 4096..MIB + 5000].fill(0);
        old[11 * MIB - 5000..12 * MIB - 33 * 512].fill(0);
        let mut new = old.clone();
        (2 * MIB..10 * MIB).step_by(13_000).for_each(|at| new[at..at + 500].fill(7));
        let blocks = old.chunks(4096).zip(new.chunks(4096));
        let differ = blocks.filter(|(old, new)| old != new).count() as u64 * 4096;
        let disk = Platter::new(old);
        let new = Sample::new(new);
        let written = new.install(&disk).unwrap().written_bytes;
        assert!(disk.content() == new.disk);
        assert!(written * 100 <= differ * 105, "{written} for {differ}");
    }

    #[test]
    fn a_disk_that_is_the_image_already_is_read_and_not_written() {
        let image = Sample::new(content(1));
        let disk = Platter::new([&image.disk[..], &vec![0; MIB]].concat());
        disk.cut_after(0, Cut::KeepsAll);
        let written = image.install(&disk).unwrap();
        assert_eq!((written.written_bytes, written.skipped_bytes), (0, 4 << 20));
        // Something behind it that firmware might take for a table is cleared.
        let disk = Platter::new([&image.disk[..], &vec![9; MIB]].concat());
        assert!(image.install(&disk).unwrap().written_bytes > MIB as u64);
        assert!(is_zero(&disk.content()[4 * MIB..]));
    }

    #[test]
    fn what_cannot_be_read_of_the_old_disk_is_written_anew() {
        let image = Sample::new(content(1));
        for at in [100, 1_300_000, 2_000_000, 4 * MIB - 1] {
            let disk = Platter::new(image.disk.clone());
            disk.fail_reads(at);
            assert!(image.install(&disk).unwrap().written_bytes > 0, "{at}");
            assert!(disk.content() == image.disk, "{at}");
        }
    }

    #[test]
    fn a_power_cut_at_any_write_leaves_the_old_os_or_nothing_or_the_image() {
        let new = Sample::new(content(1));
        let mut related = new.disk.clone();
        related[..3000].copy_from_slice(&noise(5, 3000));
        related[1_200_000..1_400_000].copy_from_slice(&noise(6, 200_000));
        related[2_000_000..2_100_000].fill(5);
        let cuts =
            [Cut::KeepsAll, Cut::LosesAll, Cut::KeepsSome, Cut::KeepsHalf, Cut::OnlyOtherHalf];
        for (old, cut) in [content(2), related].iter().flat_map(|old| cuts.map(|cut| (old, cut))) {
            for writes in 0.. {
                let disk = Platter::new(old.clone());
                disk.cut_after(writes, cut);
                if new.install(&disk).is_ok() {
                    assert!(writes > 8, "there were writes to cut");
                    break;
                }
                disk.power_on();
                let found = disk.content();
                let boots = !is_zero(&found[..512]);
                assert!(!boots || found == *old || found == new.disk, "{cut:?} at {writes}");
                if cut == Cut::KeepsSome {
                    new.install(&disk).unwrap();
                    assert!(disk.content() == new.disk, "{cut:?} at {writes}, once more");
                }
            }
        }
    }
}

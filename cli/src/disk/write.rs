//! Writing an image to a disk and proving that it is there.
//!
//! The first MiB, without which nothing starts from the disk, is zero from the
//! first write on and is written last, after everything else was read back and
//! compared: a disk whose writing was interrupted never boots half an OS.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use anyhow::{Context as _, bail};
use rustix::fs::{Advice, fadvise};
use store_format::{Envelope, region};
use store_repo::Piece;

use crate::exit::{Code, Failure};

/// What is withheld until the rest is proven: boot code and partition tables.
const HEAD: u64 = 1 << 20;
/// Bytes moved at a time.
const BUFFER: usize = 1 << 20;
static ZEROS: [u8; BUFFER] = [0; BUFFER];

/// One image on its way to a disk.
#[derive(Debug)]
pub struct Writer {
    file: File,
    head: Vec<u8>,
    done_bytes: u64,
}

impl Writer {
    /// Makes the disk unbootable; from here on it is the image's.
    pub fn begin(file: File, envelope: &Envelope) -> anyhow::Result<Writer> {
        let head = vec![0; usize::try_from(HEAD.min(envelope.disk_bytes))?];
        file.write_all_at(&head, 0).context("cannot clear the first MiB")?;
        file.sync_data().context("cannot clear the first MiB")?;
        Ok(Writer { file, head, done_bytes: 0 })
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
            Piece::Hole { .. } => self.zeros(offset.max(HEAD)..offset + bytes),
        }
        .with_context(|| format!("cannot write at byte {offset}"))?;
        self.done_bytes = offset + bytes;
        Ok(())
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let withheld = usize::try_from(HEAD.saturating_sub(offset)).unwrap_or(usize::MAX);
        let (head, rest) = bytes.split_at(bytes.len().min(withheld));
        if !head.is_empty() {
            let start = usize::try_from(offset).map_err(io::Error::other)?;
            self.head[start..start + head.len()].copy_from_slice(head);
        }
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

    /// Reads everything back past the cache and compares, then writes the
    /// first MiB and proves that too. `progress` is told the bytes compared.
    pub fn seal(self, envelope: &Envelope, progress: &dyn Fn(u64)) -> anyhow::Result<()> {
        self.settle()?;
        self.compare(envelope, progress)?;
        self.file.write_all_at(&self.head, 0).context("cannot write the first MiB")?;
        self.settle()?;
        let mut found = vec![0; self.head.len()];
        self.file.read_exact_at(&mut found, 0).context("cannot read the first MiB back")?;
        if found != self.head {
            bail!(differs("the first MiB"));
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
                let edge = if at < HEAD { end.min(HEAD) } else { end };
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
        if at >= HEAD {
            return self.file.read_exact_at(buffer, at);
        }
        let start = usize::try_from(at).map_err(io::Error::other)?;
        buffer.copy_from_slice(&self.head[start..start + buffer.len()]);
        Ok(())
    }
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

    /// Three regions over 3 MiB, one across the edge of what is withheld.
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
            vec![region("a", 0..4096), region("b", 4096..2 * mib), region("c", 2 * mib..3 * mib)];
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
            (0..3_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
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
            data(2_500_000..disk.len()),
        ]
    }

    fn target(len: usize) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![0xff; len], 0).unwrap();
        file
    }

    #[test]
    fn what_was_written_is_the_image_and_old_bytes_do_not_show_through() {
        let disk = content();
        let envelope = envelope(&disk);
        let file = target(disk.len() + 512);
        let mut writer = Writer::begin(file.try_clone().unwrap(), &envelope).unwrap();
        pieces(&disk).iter().for_each(|piece| writer.write(piece).unwrap());
        writer.seal(&envelope, &|_| {}).unwrap();
        let mut found = vec![0; disk.len()];
        file.read_exact_at(&mut found, 0).unwrap();
        assert!(found == disk);
    }

    #[test]
    fn until_it_is_sealed_nothing_boots_from_it() {
        let disk = content();
        let file = target(disk.len());
        let mut writer = Writer::begin(file.try_clone().unwrap(), &envelope(&disk)).unwrap();
        pieces(&disk).iter().for_each(|piece| writer.write(piece).unwrap());
        let mut head = vec![1; 1 << 20];
        file.read_exact_at(&mut head, 0).unwrap();
        assert!(head.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_disk_that_loses_a_byte_is_found_out_and_stays_unbootable() {
        let disk = content();
        let mut envelope = envelope(&disk);
        envelope.regions[2].digest = Digest([0; 32]);
        let file = target(disk.len());
        let mut writer = Writer::begin(file.try_clone().unwrap(), &envelope).unwrap();
        pieces(&disk).iter().for_each(|piece| writer.write(piece).unwrap());
        let error = writer.seal(&envelope, &|_| {}).unwrap_err();
        assert!(error.to_string().contains("region c"), "{error:?}");
        let mut first = [1; 512];
        file.read_exact_at(&mut first, 0).unwrap();
        assert_eq!(first, [0; 512]);
    }
}

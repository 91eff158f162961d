//! What an image of a disk is made of, for who sends it elsewhere.

use std::collections::HashSet;
use std::io;
use std::ops::ControlFlow;

use store_format::{ChunkTable, Envelope, EnvelopeError, Extent, digest_of};
use wire::Digest;

use crate::contents::{Contents, ImportedRegion};
use crate::cuts::walk;
use crate::disk::Disk;
use crate::layout::{About, Layout};
use crate::scan::Item;

/// An image of a disk, whose bytes are still there.
pub struct Scanned<'a> {
    disk: &'a Disk,
    layout: &'a Layout,
    regions: Vec<Vec<Extent>>,
    digests: Vec<Digest>,
    /// What was found in each region.
    pub known: Vec<ImportedRegion>,
    /// Offset and length of each chunk where it comes first, in the order of the disk.
    chunks: Vec<(u64, u32)>,
}

/// Reads and cuts a whole disk as an import does, without what file systems call
/// free; tells how many of its bytes are dealt with.
pub fn image<'a>(
    disk: &'a Disk,
    layout: &'a Layout,
    mut progress: impl FnMut(u64),
) -> io::Result<Scanned<'a>> {
    let (regions, digests) = (Vec::new(), Vec::new());
    let (known, chunks) = (Vec::new(), Vec::new());
    let mut scanned = Scanned { disk, layout, regions, digests, known, chunks };
    let (mut seen, mut region) = (HashSet::new(), Vec::new());
    let mut at = 0_u64;
    walk(disk, layout, false, |item, plain| {
        match item {
            Item::Hole(bytes) => {
                match region.last_mut() {
                    Some(Extent::Hole { bytes: before }) => *before += bytes,
                    _ => region.push(Extent::Hole { bytes: *bytes }),
                }
                at += bytes;
            }
            Item::Chunk(_) => {
                let id = digest_of(plain);
                // No chunk is longer than the rule of cutting allows.
                let bytes = u32::try_from(plain.len()).unwrap_or(u32::MAX);
                region.push(Extent::Chunk { id, bytes });
                if seen.insert(id) {
                    scanned.chunks.push((at, bytes));
                }
                at += u64::from(bytes);
            }
            Item::End(digest, known) => {
                scanned.regions.push(std::mem::take(&mut region));
                scanned.digests.push(*digest);
                scanned.known.push(known.clone());
            }
        }
        progress(at);
        ControlFlow::Continue(())
    })?;
    match scanned.digests.len() == layout.spans.len() {
        true => Ok(scanned),
        false => Err(io::Error::other("the scan ended early")),
    }
}

impl<'a> Scanned<'a> {
    /// Its envelope, its chunk table, and its chunks, to be read again.
    pub fn describe(
        self,
        about: About,
    ) -> Result<(Envelope, ChunkTable, Chunks<'a>), EnvelopeError> {
        let Scanned { disk, layout, regions, digests, chunks: places, .. } = self;
        let envelope = layout.clone().envelope(&digests, about)?;
        let table = ChunkTable { image: envelope.digest(), regions };
        Ok((envelope, table, Chunks { disk, layout, places, region: None }))
    }
}

/// The chunks of a disk by number: in the order of the disk, each counted where
/// it comes first.
pub struct Chunks<'a> {
    disk: &'a Disk,
    layout: &'a Layout,
    places: Vec<(u64, u32)>,
    /// The region that was read last.
    region: Option<Contents<'a>>,
}

impl Chunks<'_> {
    /// The bytes of a chunk. Cheapest by rising number: regions are looked at anew
    /// where another one is asked for.
    pub fn read(&mut self, number: usize) -> io::Result<Vec<u8>> {
        let missing = || io::Error::new(io::ErrorKind::InvalidInput, "no such chunk");
        let &(offset, bytes) = self.places.get(number).ok_or_else(missing)?;
        let is_in = |region: &Contents<'_>| region.contains(offset);
        let region = match self.region.take().filter(is_in) {
            Some(region) => region,
            None => {
                let mut spans = self.layout.spans.iter();
                let found =
                    spans.find(|span| (span.start..span.start + span.bytes).contains(&offset));
                Contents::look(self.disk, found.ok_or_else(missing)?, false)?
            }
        };
        let region = self.region.insert(region);
        let mut plain = vec![0; usize::try_from(bytes).map_err(|_| missing())?];
        region.read_at(&mut plain, offset - region.start())?;
        Ok(plain)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::process::Command;

    use super::*;

    fn noise(seed: u8, bytes: usize) -> Vec<u8> {
        let mut noise = vec![0; bytes];
        blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut noise);
        noise
    }

    /// An ext4 with files, one of which was removed again, so that its blocks are
    /// free and not zeros.
    fn file_system(folder: &std::path::Path) -> std::path::PathBuf {
        let (tree, disk) = (folder.join("tree"), folder.join("disk"));
        fs::create_dir(&tree).unwrap();
        for (name, seed) in [("one", 1), ("gone", 2), ("two", 3)] {
            fs::write(tree.join(name), noise(seed, 700_000)).unwrap();
        }
        let mut made = Command::new("mke2fs");
        made.args(["-q", "-t", "ext4", "-d"]).arg(&tree).arg(&disk).arg("16M");
        assert!(made.status().unwrap().success());
        let removed = Command::new("debugfs").args(["-w", "-R", "rm gone"]).arg(&disk).output();
        assert!(removed.unwrap().status.success());
        disk
    }

    #[test]
    fn every_chunk_is_read_again_as_it_was_named_and_a_blank_stretch_is_zeros() {
        let folder = tempfile::tempdir().unwrap();
        let path = file_system(folder.path());
        let bytes = fs::read(&path).unwrap();
        let gone = noise(2, 4096);
        assert!(bytes.windows(4096).any(|block| block == gone), "free, and not zeros");
        let disk = Disk::of(File::open(&path).unwrap(), "disk".into()).unwrap();
        let layout = Layout::read(&disk, None).unwrap();
        let mut done = 0;
        let scanned = image(&disk, &layout, |now| done = now).unwrap();
        assert_eq!(done, disk.bytes);
        assert_eq!(scanned.known[0].filesystem.as_deref(), Some("ext4"));
        let (envelope, table, mut chunks) = scanned.describe(About::default()).unwrap();
        table.check(&envelope).unwrap();
        let mut all = Vec::new();
        for (number, (id, len)) in table.distinct().enumerate() {
            let plain = chunks.read(number).unwrap();
            assert_eq!((digest_of(&plain), plain.len()), (id, len as usize), "{number}");
            all.extend(plain);
        }
        assert!(!all.windows(4096).any(|block| block == gone), "free bytes are zeros");
        assert!(all.windows(4096).any(|block| block == noise(3, 4096)));
        assert!(chunks.read(table.distinct().count()).is_err());
        // From the start again, as a push may ask.
        assert_eq!(digest_of(&chunks.read(0).unwrap()), table.distinct().next().unwrap().0);

        let part = Disk::of(File::open(&path).unwrap(), "part".into()).unwrap();
        let part = part.part(1 << 20, 4000..9000);
        assert_eq!(part.bytes, 1 << 20);
        let mut found = vec![1; 20_000];
        part.read_at(&mut found, 100).unwrap();
        let mut expected = bytes[100..20_100].to_vec();
        expected[3900..8900].fill(0);
        assert!(found == expected);
    }
}

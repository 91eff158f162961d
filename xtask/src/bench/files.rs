//! What is in the images, found without any store: their files, and where two disks differ.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use ext4_view::{Ext4, Ext4Read, FileType};
use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;

/// As in `zstd -3`.
const ZSTD_LEVEL: i32 = 3;
/// What a disk is compared in: a page, and a block of most filesystems.
const BLOCK_BYTES: usize = 4096;
/// Read at once.
const BUFFER_BYTES: usize = 1 << 20;

type Contents = HashSet<blake3::Hash>;

/// Files by content, each looked at once.
#[derive(Default)]
pub struct Files {
    compressed: HashMap<blake3::Hash, u64>,
    images: HashMap<PathBuf, Contents>,
}

impl Files {
    /// Bytes of every distinct file of `images` that is not in `without`, each
    /// compressed by itself.
    pub fn compressed(&mut self, images: &[PathBuf], without: Option<&Path>) -> Result<u64> {
        let mut wanted = Contents::new();
        for image in images {
            wanted.extend(self.of(image)?);
        }
        if let Some(without) = without {
            let known = self.of(without)?;
            wanted.retain(|file| !known.contains(file));
        }
        Ok(wanted.iter().filter_map(|file| self.compressed.get(file)).sum())
    }

    fn of(&mut self, image: &Path) -> Result<Contents> {
        if let Some(known) = self.images.get(image) {
            return Ok(known.clone());
        }
        let mut contents = Contents::new();
        let filesystems =
            filesystems(image).with_context(|| format!("cannot read {}", image.display()))?;
        ensure!(!filesystems.is_empty(), "no partition of {} is an ext4", image.display());
        for filesystem in &filesystems {
            self.add(filesystem, ext4_view::PathBuf::new("/"), &mut contents)
                .with_context(|| format!("cannot read the files of {}", image.display()))?;
        }
        self.images.insert(image.to_owned(), contents.clone());
        Ok(contents)
    }

    fn add(&mut self, from: &Ext4, folder: ext4_view::PathBuf, into: &mut Contents) -> Result<()> {
        for entry in from.read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            match entry.file_type()? {
                FileType::Directory if name != "." && name != ".." => {
                    self.add(from, entry.path(), into)?;
                }
                FileType::Regular => {
                    into.insert(self.compress(&from.read(&entry.path())?)?);
                }
                _ => (),
            }
        }
        Ok(())
    }

    fn compress(&mut self, bytes: &[u8]) -> Result<blake3::Hash> {
        let hash = blake3::hash(bytes);
        if let Entry::Vacant(new) = self.compressed.entry(hash) {
            new.insert(u64::try_from(zstd::bulk::compress(bytes, ZSTD_LEVEL)?.len())?);
        }
        Ok(hash)
    }
}

/// The ext4 filesystems in the partitions of a disk.
fn filesystems(image: &Path) -> Result<Vec<Ext4>> {
    let disk = GptConfig::new().open(image)?;
    let mut found = Vec::new();
    for partition in disk.partitions().values() {
        let start = partition.bytes_start(LogicalBlockSize::Lb512)?;
        let file = File::open(image)?;
        // What is no ext4 is left out.
        found.extend(Ext4::load(Box::new(Part { file, start })));
    }
    Ok(found)
}

/// A partition of a disk.
struct Part {
    file: File,
    start: u64,
}

impl Ext4Read for Part {
    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        let at = self.start.checked_add(at).ok_or("behind the end of any disk")?;
        Ok(self.file.read_exact_at(into, at)?)
    }
}

/// Bytes of all blocks in which two disks of one size differ.
pub fn differing_bytes(one: &Path, other: &Path) -> Result<u64> {
    let open = |path: &Path| File::open(path).with_context(|| format!("no {}", path.display()));
    let (one, other) = (open(one)?, open(other)?);
    let len = one.metadata()?.len();
    ensure!(other.metadata()?.len() == len, "two disks to compare are not of one size");
    let (mut a, mut b) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    let (mut at, mut differing) = (0, 0);
    while at < len {
        let want = usize::try_from(len - at).unwrap_or(usize::MAX).min(BUFFER_BYTES);
        let (a, b) = (a.split_at_mut(want).0, b.split_at_mut(want).0);
        one.read_exact_at(a, at)?;
        other.read_exact_at(b, at)?;
        let blocks = a.chunks(BLOCK_BYTES).zip(b.chunks(BLOCK_BYTES));
        differing += blocks.filter(|(a, b)| a != b).map(|(a, _)| a.len()).sum::<usize>();
        at += u64::try_from(want)?;
    }
    Ok(u64::try_from(differing)?)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A disk with one ext4 that has `files`.
    fn disk(folder: &Path, name: &str, files: &[(&str, &[u8])]) -> PathBuf {
        let tree = folder.join("tree");
        std::fs::create_dir_all(tree.join("below")).unwrap();
        for (path, bytes) in files {
            std::fs::write(tree.join(path), bytes).unwrap();
        }
        let image = folder.join(name);
        File::create(&image).unwrap().set_len(16 << 20).unwrap();
        let mut sfdisk = Command::new("sh");
        sfdisk.args(["-c", "printf 'label: gpt\\nstart=2048, size=16384\\n' | sfdisk -q \"$0\""]);
        assert!(sfdisk.arg(&image).status().unwrap().success());
        let mut mke2fs = Command::new("mke2fs");
        mke2fs.args(["-q", "-F", "-t", "ext4", "-E", "offset=1048576", "-d"]).arg(&tree);
        assert!(mke2fs.arg(&image).arg("8M").status().unwrap().success());
        std::fs::remove_dir_all(tree).unwrap();
        image
    }

    #[test]
    fn every_distinct_file_counts_once_and_known_ones_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let (zeros, text) = (vec![0; 100_000], b"words and more words".as_slice());
        let one = disk(folder.path(), "one", &[("a", &zeros), ("below/same", &zeros)]);
        let two = disk(folder.path(), "two", &[("moved", &zeros), ("below/new", text)]);
        let zstd = |bytes: &[u8]| zstd::bulk::compress(bytes, ZSTD_LEVEL).unwrap().len() as u64;
        let mut files = Files::default();
        assert_eq!(files.compressed(std::slice::from_ref(&one), None).unwrap(), zstd(&zeros));
        let both = files.compressed(&[one.clone(), two.clone()], None).unwrap();
        assert_eq!(both, zstd(&zeros) + zstd(text));
        assert_eq!(files.compressed(&[two], Some(&one)).unwrap(), zstd(text));
    }

    #[test]
    fn a_disk_without_files_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty");
        std::fs::write(&path, [0; 1 << 16]).unwrap();
        assert!(Files::default().compressed(&[path], None).is_err());
    }

    #[test]
    fn disks_differ_in_whole_blocks() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let mut bytes = vec![7; (1 << 20) + 5000];
        let one = write("one", &bytes);
        assert_eq!(differing_bytes(&one, &write("same", &bytes)).unwrap(), 0);
        bytes[4095] = 8;
        bytes[(1 << 20) + 4999] = 8;
        assert_eq!(differing_bytes(&one, &write("other", &bytes)).unwrap(), 4096 + 5000 - 4096);
        assert!(differing_bytes(&one, &write("short", &bytes[1..])).is_err());
    }
}

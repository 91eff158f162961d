//! What the tests of the store share: disks and stores to work with.
pub mod faulty;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use store_format::{Locations, digest_of};
use store_repo::{ImportError, ImportOptions, Imported, ReadError, Repo, Source};
use wire::Digest;

pub const MIB: u64 = 1 << 20;

/// A store in a folder of its own.
pub struct Lab {
    pub folder: tempfile::TempDir,
    pub repo: Arc<Repo>,
}

impl Lab {
    pub async fn new() -> Lab {
        let folder = tempfile::tempdir().unwrap();
        let repo = open(&folder.path().join("store")).await;
        Lab { folder, repo }
    }

    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same store, as another process would open it.
    pub async fn reopen(&mut self) {
        self.repo = open(&self.store()).await;
    }

    pub async fn import(&self, disk: &Path, reference: &str) -> Imported {
        import(&self.repo, disk, options(reference)).await.unwrap()
    }

    /// Every file of the store below a folder.
    pub fn files(&self, folder: &str) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.store().join(folder)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.file_type().unwrap().is_dir() {
                    true => folders.push(entry.path()),
                    false => files.push(entry.path()),
                }
            }
        }
        files.sort();
        files
    }
}

pub async fn open(folder: &Path) -> Arc<Repo> {
    Arc::new(Repo::open_or_create(folder.to_str().unwrap()).await.unwrap())
}

pub fn options(reference: &str) -> ImportOptions {
    ImportOptions { reference: Some(reference.parse().unwrap()), ..ImportOptions::default() }
}

pub async fn import(
    repo: &Arc<Repo>,
    disk: &Path,
    options: ImportOptions,
) -> Result<Imported, ImportError> {
    repo.import(Source::Path(disk.to_owned()), options, |_| {}).await
}

/// Where the chunks of an image are, as machines are told.
pub async fn told(repo: &Repo, image: &Digest) -> Result<Bytes, ReadError> {
    let read = repo.locations_read(image).await?;
    let parts: Vec<Bytes> = read.bytes.try_collect().await.unwrap();
    let bytes = match &parts[..] {
        [whole] => whole.clone(),
        parts => parts.concat().into(),
    };
    assert_eq!((read.len, read.name), (bytes.len() as u64, digest_of(&bytes)));
    Ok(bytes)
}

/// The same, decoded.
pub async fn locations(repo: &Repo, image: &Digest) -> Locations {
    Locations::decode(&told(repo, image).await.unwrap()).unwrap()
}

/// Bytes that do not compress and are the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// Bytes that compress well and are the same for the same seed.
pub fn text(seed: u64, len: usize) -> Vec<u8> {
    let lines = (seed..).flat_map(|n| format!("line {n}, and {}\n", n % 7).into_bytes());
    lines.take(len).collect()
}

/// A new sparse file with bytes at some places.
pub fn sparse(path: &Path, len: u64, parts: &[(u64, &[u8])]) -> PathBuf {
    let file = File::create(path).unwrap();
    file.set_len(len).unwrap();
    for (offset, bytes) in parts {
        file.write_all_at(bytes, *offset).unwrap();
    }
    path.to_owned()
}

/// A disk with a GPT and two partitions, at 1 MiB and at 9 MiB, that have
/// content; 32 MiB in all.
pub fn gpt_disk(path: &Path, sector_bytes: u64, seed: u64) -> PathBuf {
    use gpt::disk::LogicalBlockSize;
    sparse(path, 32 * MIB, &[]);
    let size = LogicalBlockSize::try_from(sector_bytes).unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut disk = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(size)
        .create_from_device(file, Some("6c4bd9bf-0f3b-4a39-8a92-a4e70c1fb4a2".parse().unwrap()))
        .unwrap();
    let first = MIB / sector_bytes;
    let kind = gpt::partition_types::LINUX_FS;
    let mut partitions = std::collections::BTreeMap::new();
    for (number, (at, mib)) in [(1, (1, 8)), (2, (9, 16))] {
        let partition = gpt::partition::Partition {
            part_type_guid: kind.clone(),
            part_guid: format!("6c4bd9bf-0f3b-4a39-8a92-a4e70c1fb4b{number}").parse().unwrap(),
            first_lba: at * first,
            last_lba: (at + mib) * first - 1,
            flags: 1 << 59,
            name: format!("part {number}"),
        };
        partitions.insert(number, partition);
    }
    disk.update_partitions(partitions).unwrap();
    let mut file = disk.write().unwrap();
    gpt::mbr::ProtectiveMBR::new().overwrite_lba0(&mut file).unwrap();
    file.write_all_at(&noise(seed, 3 << 20), MIB + 5000).unwrap();
    file.write_all_at(&text(seed, 5 << 20), 9 * MIB).unwrap();
    path.to_owned()
}

/// A disk with a PC partition table: one primary, two logical partitions.
pub fn mbr_disk(path: &Path) -> PathBuf {
    let entry = |boot: u8, kind: u8, first: u32, sectors: u32| {
        let mut entry = vec![boot, 0, 0, 0, kind, 0, 0, 0];
        entry.extend(first.to_le_bytes());
        entry.extend(sectors.to_le_bytes());
        entry
    };
    let sector = |entries: Vec<Vec<u8>>| {
        let mut sector = vec![0; 512];
        sector[440..444].copy_from_slice(&0x1234_5678_u32.to_le_bytes());
        for (index, entry) in entries.into_iter().enumerate() {
            sector[446 + index * 16..462 + index * 16].copy_from_slice(&entry);
        }
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        sector
    };
    let first = sector(vec![entry(0x80, 0x83, 63, 4096), entry(0, 5, 8192, 24576)]);
    let logical = sector(vec![entry(0, 0x83, 63, 2048), entry(0, 5, 8192, 8192)]);
    let second = sector(vec![entry(0, 0x82, 64, 2048)]);
    let parts: &[(u64, &[u8])] = &[
        (0, &first),
        (63 * 512, &noise(1, 1 << 20)),
        (8192 * 512, &logical),
        ((8192 + 63) * 512, &noise(2, 1 << 20)),
        (16384 * 512, &second),
        ((16384 + 64) * 512, &text(3, 1 << 20)),
    ];
    sparse(path, 32768 * 512, parts)
}

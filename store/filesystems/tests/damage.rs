//! Whatever the bytes are, there is a map that holds together, or none.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use proptest::prelude::*;
use store_filesystems::{Map, NoMap, ReadAt};

/// A file system of 2 MiB that a tool made.
fn made(program: &str, args: &[&str]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(2 << 20).unwrap();
    let path: &Path = file.path();
    let done = Command::new(program).args(args).arg(path).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    std::fs::read(path).unwrap()
}

static DISKS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    vec![
        made("mke2fs", &["-q", "-F", "-t", "ext4", "-b", "1024", "-d", "src"]),
        made("mke2fs", &["-q", "-F", "-t", "ext2", "-b", "4096", "-d", "src"]),
        made("mkfs.vfat", &[]),
    ]
});

fn holds_together(map: &Map, bytes: u64) {
    let mut end = None;
    for free in &map.free {
        assert!(free.start < free.end && free.end <= bytes, "{free:?}");
        assert!(end.is_none_or(|end| end < free.start), "{free:?} after {end:?}");
        end = Some(free.end);
    }
    assert!(map.edges.windows(2).all(|pair| pair[0] < pair[1]));
    assert!(map.edges.iter().all(|edge| *edge <= bytes));
}

#[test]
fn whole_ones_have_maps() {
    for disk in DISKS.iter() {
        let map = store_filesystems::map(&disk[..], disk.len() as u64).unwrap();
        holds_together(&map, disk.len() as u64);
        assert!(map.free_bytes() > 1 << 20 && map.edges.len() > 2, "{map:?}");
    }
}

#[test]
fn shorter_partitions_than_their_file_systems_have_none() {
    for disk in DISKS.iter() {
        let half = disk.len() / 2;
        let found = store_filesystems::map(&disk[..half], half as u64);
        assert!(matches!(found, Err(NoMap::Unreliable { .. })), "{found:?}");
    }
}

/// A superblock of ext4 with these bytes in it, on a partition of any length.
struct Head(Vec<u8>);

impl Head {
    fn with(fields: &[(usize, u32)]) -> Head {
        let mut head = DISKS[0].clone();
        for (at, value) in fields {
            head[1024 + at..][..4].copy_from_slice(&value.to_le_bytes());
        }
        Head(head)
    }

    fn is_refused(&self, bytes: u64) {
        let found = store_filesystems::map(self, bytes);
        assert!(matches!(found, Err(NoMap::Unreliable { .. })), "{found:?}");
    }
}

impl ReadAt for Head {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        buffer.fill(0);
        let known = self.0.get(offset as usize..).unwrap_or_default();
        let len = buffer.len().min(known.len());
        buffer[..len].copy_from_slice(&known[..len]);
        Ok(())
    }
}

#[test]
fn clusters_of_any_size_are_survived() {
    // bigalloc, and how large a cluster is.
    let ro_compat = u32::from_le_bytes(DISKS[0][1024 + 0x64..][..4].try_into().unwrap()) | 0x200;
    for shift in 0..=u32::from(u8::MAX) {
        let head = Head::with(&[(0x64, ro_compat), (0x1c, shift)]);
        match shift {
            // A group has 2^13 blocks.
            14.. => head.is_refused(2 << 20),
            _ => drop(store_filesystems::map(&head, 2 << 20)),
        }
    }
}

#[test]
fn more_groups_than_any_file_system_has_are_refused() {
    // Groups of one block each.
    Head::with(&[(0x4, 1 << 24), (0x20, 1)]).is_refused(1 << 34);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_damage_is_survived(
        which in 0..3_usize,
        // Where the structures are.
        places in prop::collection::vec((0..80_000_usize, any::<u8>()), 1..12),
    ) {
        let mut disk = DISKS[which].clone();
        for (at, byte) in places {
            disk[at] = byte;
        }
        if let Ok(map) = store_filesystems::map(&disk[..], disk.len() as u64) {
            holds_together(&map, disk.len() as u64);
        }
    }

    #[test]
    fn any_superblock_is_survived(
        which in 0..3_usize,
        start in 0..1024_usize,
        bytes in prop::collection::vec(any::<u8>(), 1..64),
    ) {
        let mut disk = DISKS[which].clone();
        let start = if which == 2 { start % 448 } else { 1024 + start };
        disk[start..start + bytes.len()].copy_from_slice(&bytes);
        if let Ok(map) = store_filesystems::map(&disk[..], disk.len() as u64) {
            holds_together(&map, disk.len() as u64);
        }
    }
}

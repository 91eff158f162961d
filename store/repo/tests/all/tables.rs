//! Chunk tables that are told by those of related images.

use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use futures::TryStreamExt;
use store_format::digest_of;
use store_format::table::KeptTable;
use store_repo::Donor;
use wire::Digest;

use crate::common::{Lab, MIB, noise, open, sparse};
use crate::damage::flip;
use crate::garbage::{same, whole};

/// A disk of 8 MiB that differs from the others of its kind in 4 KiB.
fn disk(lab: &Lab, number: u64) -> PathBuf {
    let own = noise(number, 4096);
    let path = lab.path(&format!("disk-{number}"));
    sparse(&path, 9 * MIB, &[(0, &noise(1000, 8 << 20)), (number * MIB, &own)])
}

/// The tables among the blobs: each file, and the base of those that have one.
fn tables(lab: &Lab) -> Vec<(PathBuf, Option<Digest>)> {
    let kept = lab.files("blobs").into_iter().filter_map(|file| {
        match KeptTable::decode(&fs::read(&file).unwrap()).ok()? {
            KeptTable::Whole(_) => Some((file, None)),
            KeptTable::Derived(derived) => Some((file, Some(derived.base))),
        }
    });
    kept.collect()
}

fn name(file: &std::path::Path) -> String {
    file.file_name().unwrap().to_str().unwrap().to_owned()
}

#[tokio::test]
async fn tables_of_related_images_are_told_by_one() {
    let lab = Lab::new().await;
    let mut images = Vec::new();
    for number in 0..5 {
        let disk = disk(&lab, number);
        images.push((lab.import(&disk, &format!("image:{number}")).await, disk));
    }
    let tables = tables(&lab);
    let (whole_ones, derived): (Vec<_>, Vec<_>) =
        tables.iter().partition(|(_, base)| base.is_none());
    let [(base, _)] = &whole_ones[..] else { panic!("{tables:?}") };
    let len = |file: &PathBuf| fs::metadata(file).unwrap().len();
    assert_eq!(derived.len(), 4);
    for (file, named) in &derived {
        assert_eq!(named.unwrap().hex(), name(base), "not of one that is derived itself");
        assert!(len(file) < len(base) / 4, "{} of {}", len(file), len(base));
    }
    for (image, disk) in &images {
        same(&lab, &lab.repo, image, disk).await;
        let table = lab.repo.table(&image.digest).await.unwrap();
        let read = lab.repo.table_read(&image.digest).await.unwrap();
        let parts: Vec<Bytes> = read.bytes.try_collect().await.unwrap();
        let bytes = parts.concat();
        assert!(bytes == table.encode());
        assert_eq!((read.len, read.name), (bytes.len() as u64, digest_of(&bytes)));
    }
    whole(&lab.repo).await;
    // The same again adds nothing.
    let before = lab.files("blobs");
    for (image, disk) in &images {
        assert_eq!(lab.import(disk, "again").await.digest, image.digest);
    }
    assert_eq!(lab.files("blobs"), before);
}

#[tokio::test]
async fn one_that_has_little_in_common_is_whole() {
    let lab = Lab::new().await;
    lab.import(&disk(&lab, 0), "one").await;
    let other = sparse(&lab.path("other"), 8 * MIB, &[(0, &noise(7, 8 << 20))]);
    lab.import(&other, "other").await;
    assert!(tables(&lab).iter().all(|(_, base)| base.is_none()));
}

#[tokio::test]
async fn a_table_that_others_are_told_by_stays_while_they_do() {
    let mut lab = Lab::new().await;
    let disks = [disk(&lab, 0), disk(&lab, 1), disk(&lab, 2)];
    lab.import(&disks[0], "first").await;
    let base = tables(&lab).remove(0).0;
    let second = lab.import(&disks[1], "second").await;
    lab.repo.remove(&"first".parse().unwrap()).await.unwrap();
    lab.repo.collect_garbage().await.unwrap();
    assert!(base.exists());
    same(&lab, &lab.repo, &second, &disks[1]).await;
    lab.reopen().await;
    whole(&lab.repo).await;
    // Who comes now is told by it too.
    let third = lab.import(&disks[2], "third").await;
    let derived = tables(&lab).into_iter().filter(|(_, by)| by.is_some()).count();
    assert_eq!(derived, 2);
    lab.repo.remove(&"second".parse().unwrap()).await.unwrap();
    lab.repo.collect_garbage().await.unwrap();
    same(&lab, &lab.repo, &third, &disks[2]).await;
    lab.repo.remove(&"third".parse().unwrap()).await.unwrap();
    lab.repo.collect_garbage().await.unwrap();
    assert_eq!(lab.files("blobs"), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn a_damaged_table_costs_those_that_are_told_by_it_until_it_is_repaired() {
    for is_missing in [false, true] {
        let lab = Lab::new().await;
        let disks = [disk(&lab, 0), disk(&lab, 1), disk(&lab, 2)];
        let mut images = Vec::new();
        for (number, disk) in disks.iter().enumerate() {
            images.push(lab.import(disk, &format!("image:{number}")).await);
        }
        let other = Lab::new().await;
        other.import(&disks[0], "other").await;
        let base = tables(&lab).into_iter().find(|(_, by)| by.is_none()).unwrap().0;
        match is_missing {
            true => fs::remove_file(&base).unwrap(),
            false => flip(&base, 60),
        }
        let problems = lab.repo.check(false).await.unwrap().problems;
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems.iter().all(|problem| problem.file.ends_with(&name(&base))));
        let repo = open(&lab.store()).await;
        let report = repo.repair(Vec::new()).await.unwrap();
        assert_eq!(report.done.plan.lost_blobs.len(), 1, "{report:?}");
        // A collection that does not know what is needed removes nothing.
        assert!(lab.repo.collect_garbage().await.is_err());
        let from = Donor::open(other.store().to_str().unwrap()).await.unwrap();
        let report = repo.repair(vec![from]).await.unwrap();
        assert_eq!((report.done.plan.blobs.len(), &report.left[..]), (1, &[][..]));
        whole(&repo).await;
        for (image, disk) in images.iter().zip(&disks) {
            same(&lab, &repo, image, disk).await;
        }
    }
}

#[tokio::test]
async fn a_long_table_is_proven_each_time_that_it_is_told() {
    let lab = Lab::new().await;
    // The same block again and again, with holes between: some 27,000 extents.
    let block = noise(1, 4096);
    let stride = MIB / 8;
    let parts: Vec<_> = (0..13_500).map(|n| (n * stride, &block[..])).collect();
    let disk = sparse(&lab.path("disk"), 13_500 * stride, &parts);
    let image = lab.import(&disk, "x").await.digest;
    let read = lab.repo.table_read(&image).await.unwrap();
    assert!(read.len > 1 << 20, "{} bytes", read.len);
    let len = |blob: &PathBuf| fs::metadata(blob).unwrap().len();
    let blob = lab.files("blobs").into_iter().max_by_key(len).unwrap();
    flip(&blob, 100);
    assert!(lab.repo.table_read(&image).await.is_err());
    flip(&blob, 100);
    let read = lab.repo.table_read(&image).await.unwrap();
    let parts: Vec<Bytes> = read.bytes.try_collect().await.unwrap();
    assert_eq!(digest_of(&parts.concat()), read.name);
}

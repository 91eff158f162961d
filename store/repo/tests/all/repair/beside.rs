//! A repair while others read and import.

use std::fs;

use futures::TryStreamExt;
use store_format::{Locations, pack};
use store_repo::{ImportError, Piece, RepairError};

use super::stocked;
use crate::common::{import, open, options};
use crate::damage::flip;
use crate::garbage::{expire_leases, paused, sql};

/// Hits the last chunk but one of the first pack, which only the first image
/// needs. Without the last one the pack would come out as it was.
fn damage(store: &super::Stocked) {
    let entries = pack::entries(&fs::read(&store.packs[0]).unwrap()).unwrap();
    let last = pack::frames(&entries).last().unwrap();
    // Its frame is raw.
    let header = 52 + 4 * last.len();
    let offset = last[0].offset + u64::from(last[last.len() - 1].plain_offset) - 1;
    assert!(last.len() > 1);
    flip(&store.packs[0], usize::try_from(offset).unwrap() + header);
}

#[tokio::test]
async fn who_reads_what_is_good_in_a_damaged_pack_reads_on() {
    let store = stocked().await;
    let server = open(&store.lab.store()).await;
    let two = store.images[1].digest;
    let told = Locations::decode(&crate::common::told(&server, &two).await.unwrap()).unwrap();
    let mut pieces = server.read(&two).await.unwrap();
    damage(&store);
    let report = store.repair(&[&store.disks[0]]).await;
    assert_eq!((report.done.kept_packs, report.done.deleted_packs), (1, 0));
    assert_eq!(report.left, []);
    let disk = fs::read(&store.disks[1]).unwrap();
    while let Some(piece) = pieces.try_next().await.unwrap() {
        if let Piece::Data { offset, bytes } = piece {
            let offset = usize::try_from(offset).unwrap();
            assert!(disk[offset..offset + bytes.len()] == bytes[..]);
        }
    }
    for pack in &told.packs {
        assert!(server.pack_len(pack).await.unwrap() > 0, "a machine was told of it");
    }
    // Who asks now is told of the new one.
    let now = Locations::decode(&crate::common::told(&server, &two).await.unwrap()).unwrap();
    assert_ne!(now.packs, told.packs);
    store.all_is_well().await;
    drop(server);
    expire_leases(&store.lab.store()).await;
    assert_eq!(store.lab.repo.collect_garbage().await.unwrap().deleted, 1);
    assert!(!store.packs[0].exists());
    store.all_is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_counted_on_a_damaged_pack_is_not_recorded() {
    for from_disk in [false, true] {
        let store = stocked().await;
        let importing = paused(&open(&store.lab.store()).await, &store.disks[0], "again").await;
        damage(&store);
        let from: &[&std::path::Path] = if from_disk { &[&store.disks[0]] } else { &[] };
        let report = store.repair(from).await;
        assert_eq!((report.done.deleted_packs, report.done.kept_packs), (1, 0));
        assert_eq!(report.left.is_empty(), from_disk);
        let error = importing.resume().await.unwrap_err();
        assert!(matches!(error, ImportError::Lapsed), "{error:?}");
        assert!(store.lab.repo.resolve(&"again".parse().unwrap()).await.is_err());
        let other = open(&store.lab.store()).await;
        let again = import(&other, &store.disks[0], options("again")).await.unwrap();
        assert_eq!(again.new_chunks, u64::from(!from_disk));
        store.all_is_well().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_beside_a_repair_that_takes_nothing_away_is_recorded() {
    let store = stocked().await;
    let importing = paused(&open(&store.lab.store()).await, &store.disks[0], "again").await;
    fs::remove_file(&store.packs[1]).unwrap();
    assert_eq!(store.repair(&[&store.disks[1]]).await.left, []);
    importing.resume().await.unwrap();
    store.all_is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_comes_out_as_it_was_is_in_nobodys_way() {
    let store = stocked().await;
    let whole = fs::read(&store.packs[0]).unwrap();
    let importing = paused(&open(&store.lab.store()).await, &store.disks[0], "again").await;
    flip(&store.packs[0], whole.len() - 1);
    let report = store.repair(&[]).await;
    assert_eq!((report.done.deleted_packs, report.done.kept_packs), (0, 0));
    assert!(fs::read(&store.packs[0]).unwrap() == whole);
    importing.resume().await.unwrap();
    store.all_is_well().await;
}

#[tokio::test]
async fn one_repairs_or_collects_at_a_time() {
    let store = stocked().await;
    damage(&store);
    let until = "CAST(strftime('%s', 'now') AS INTEGER) * 1000 + 300000";
    let lease = format!("INSERT INTO leases VALUES ('x', 'gc', 0, {until})");
    sql(&store.lab.store(), &lease).await;
    let error = store.lab.repo.repair(Vec::new()).await.unwrap_err();
    assert!(matches!(error, RepairError::Busy), "{error:?}");
    expire_leases(&store.lab.store()).await;
    assert_eq!(store.repair(&[&store.disks[0]]).await.left, []);
    store.all_is_well().await;
}

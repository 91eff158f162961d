//! What a store takes: every byte of its folder is accounted for, once.

use std::fs;

use futures::StreamExt;
use store_repo::{Overhead, Usage};

use crate::common::{Lab, MIB, noise, open, sparse, text};

/// Bytes of all files of the store, by looking at them.
fn on_disk(lab: &Lab) -> u64 {
    lab.files("").iter().map(|file| file.metadata().unwrap().len()).sum()
}

/// Checks the sums, and that gc agrees.
async fn usage(lab: &Lab) -> Usage {
    let usage = lab.repo.usage().await.unwrap();
    assert_eq!(usage.total_bytes, on_disk(lab), "{usage:?}");
    let Overhead { pack_bytes, blob_bytes, index_bytes, database_bytes, other_bytes } =
        &usage.overhead;
    let overhead = pack_bytes + blob_bytes + index_bytes + database_bytes + other_bytes;
    let parts = usage.stored_bytes + overhead + usage.spare_bytes + usage.garbage_bytes;
    assert_eq!(parts, usage.total_bytes);
    assert_eq!(usage.garbage_bytes, lab.repo.garbage().await.unwrap().freed_bytes);
    usage
}

#[tokio::test]
async fn the_numbers_add_up_to_what_the_folder_has() {
    let lab = Lab::new().await;
    assert_eq!(usage(&lab).await.images, 0);
    let (shared, own) = (text(1, 3 << 20), noise(2, 2 << 20));
    let one = sparse(&lab.path("one"), 8 * MIB, &[(0, &shared)]);
    // The same twice on one disk is stored once.
    let two = [(0, &shared[..]), (4 * MIB, &own), (8 * MIB, &shared)];
    let two = sparse(&lab.path("two"), 16 * MIB, &two);
    let (one, two) = (lab.import(&one, "one").await, lab.import(&two, "two").await);
    lab.repo.tag(&"two".parse().unwrap(), &"again".parse().unwrap()).await.unwrap();
    let all = usage(&lab).await;
    assert_eq!((all.images, all.unnamed, all.disk_bytes), (2, 0, 24 * MIB));
    assert_eq!(all.data_bytes, 11 * MIB);
    assert_eq!(all.stored_bytes, one.new_bytes + two.new_bytes);
    assert_eq!(all.chunks, one.new_chunks + two.new_chunks);
    assert!(all.plain_bytes >= 5 * MIB && all.plain_bytes < 6 * MIB, "{all:?}");
    assert!(all.stored_bytes < 3 * MIB, "text compresses: {all:?}");
    assert_eq!((all.spare_bytes, all.garbage_bytes), (0, 0));
    assert_eq!(all.overhead.blob_bytes, lab.files("blobs").iter().map(|f| len(f)).sum::<u64>());
    assert_eq!(all.overhead.index_bytes, lab.files("index").iter().map(|f| len(f)).sum::<u64>());
    assert_eq!(all.overhead.other_bytes, len(&lab.store().join("ingot-store.json")));
}

fn len(path: &std::path::Path) -> u64 {
    path.metadata().unwrap().len()
}

#[tokio::test]
async fn what_gc_frees_is_garbage_and_what_it_leaves_is_spare() {
    let lab = Lab::new().await;
    let parts = [noise(1, 4 << 20), noise(2, 1 << 20), noise(3, 2 << 20)];
    let big = [(0, &parts[0][..]), (6 * MIB, &parts[1])];
    lab.import(&sparse(&lab.path("big"), 8 * MIB, &big), "big").await;
    lab.import(&sparse(&lab.path("most"), 8 * MIB, &[(0, &parts[0])]), "most").await;
    lab.import(&sparse(&lab.path("own"), 8 * MIB, &[(0, &parts[2])]), "own").await;
    let before = usage(&lab).await;
    assert_eq!((before.garbage_bytes, before.spare_bytes), (0, 0));

    // Of the first pack most is still needed; the third is all garbage.
    for name in ["big", "own"] {
        lab.repo.remove(&name.parse().unwrap()).await.unwrap();
    }
    let removed = usage(&lab).await;
    assert_eq!((removed.images, removed.unnamed, removed.data_bytes), (1, 2, 4 * MIB));
    assert!(removed.spare_bytes > MIB - (256 << 10) && removed.spare_bytes < 2 * MIB);
    assert!(removed.garbage_bytes > 2 * MIB && removed.garbage_bytes < 3 * MIB);
    assert!(removed.stored_bytes < before.stored_bytes && removed.chunks < before.chunks);

    // What a reader keeps is garbage all the same.
    let image = lab.repo.images().await.unwrap()[0].digest;
    let mut reading = open(&lab.store()).await.read(&image).await.unwrap();
    reading.next().await.unwrap().unwrap();
    assert!(lab.repo.collect_garbage().await.unwrap().kept > 0);
    let waiting = usage(&lab).await;
    assert!(waiting.garbage_bytes >= removed.garbage_bytes, "{waiting:?}");
    drop(reading);
    // Its lease ends beside it.
    while lab.repo.collect_garbage().await.unwrap().kept > 0 {
        tokio::task::yield_now().await;
    }
    let after = usage(&lab).await;
    assert_eq!((after.garbage_bytes, after.spare_bytes), (0, removed.spare_bytes));
    assert_eq!(after.stored_bytes, removed.stored_bytes);
}

#[tokio::test]
async fn what_does_not_belong_is_counted_too() {
    let lab = Lab::new().await;
    lab.import(&sparse(&lab.path("one"), MIB, &[(0, &noise(1, 4096))]), "one").await;
    let before = usage(&lab).await;
    let pack = lab.files("packs").remove(0);
    // As a write that was killed leaves it.
    fs::write(pack.with_extension("#1"), vec![0; 1000]).unwrap();
    fs::write(lab.store().join("notes"), vec![0; 20]).unwrap();
    let after = usage(&lab).await;
    assert_eq!(after.overhead.other_bytes, before.overhead.other_bytes + 1020);
}

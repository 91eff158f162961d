//! Memory does not grow with an image. In a binary of its own, as all that this
//! allocates is counted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod disk;
mod write;

use std::path::Path;
use std::sync::Arc;

use futures::TryStreamExt;
use peak_alloc::PeakAlloc;
use store_repo::{ImportOptions, Repo, Source};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Bytes for each chunk more: an entry of a chunk table alone has 40.
const GROWTH: usize = 16;
/// What is kept below on any machine with few cores.
const MOST: usize = 256 << 20;

/// What each step took at most.
#[derive(Debug)]
struct Peaks {
    import: usize,
    again: usize,
    /// The least and the most of several times: how many frames are in flight is
    /// a matter of time.
    read: (usize, usize),
    show: usize,
    list: usize,
    write: usize,
    check: usize,
    check_data: usize,
    diff: usize,
    handed: usize,
    garbage: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_of_twice_the_chunks_takes_no_more_memory() {
    let [one, two] = [peaks(1).await, peaks(2).await];
    let chunks = disk::PARTITION_CHUNKS as usize;
    // How many packs are in memory while new chunks are stored is a matter of
    // time; that the new ones are forgotten is for `ingest::seen` to show.
    assert!(two.import < MOST, "{two:?}");
    for (what, one, two) in [
        ("importing", one.again, two.again),
        ("reading", one.read.1, two.read.0),
        ("showing", one.show, two.show),
        ("listing", one.list, two.list),
        ("writing", one.write, two.write),
        ("checking", one.check, two.check),
        ("checking all data", one.check_data, two.check_data),
        ("comparing", one.diff, two.diff),
        ("handing out table and locations", one.handed, two.handed),
        ("looking for garbage", one.garbage, two.garbage),
    ] {
        let growth = two.saturating_sub(one) / chunks;
        assert!(growth < GROWTH, "{what} takes {growth} bytes for each chunk: {one}, then {two}");
        assert!(two < MOST, "{what} takes {two}");
    }
}

/// What a disk of so many partitions takes.
async fn peaks(partitions: u64) -> Peaks {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    disk::make(&disk, partitions, 0);
    let store = folder.path().join("store");
    let repo = Arc::new(Repo::open_or_create(store.to_str().unwrap()).await.unwrap());
    let before = MEMORY.current_usage();
    let peak = || {
        let peak = MEMORY.peak_usage().saturating_sub(before);
        MEMORY.reset_peak_usage();
        peak
    };
    peak();
    let image = import(&repo, &disk).await;
    let imported = peak();
    assert_eq!(import(&repo, &disk).await, image);
    let again = peak();
    let mut read = (usize::MAX, 0);
    for _ in 0..4 {
        let mut pieces = repo.read(&image).await.unwrap();
        while pieces.try_next().await.unwrap().is_some() {}
        drop(pieces);
        let peak = peak();
        read = (read.0.min(peak), read.1.max(peak));
    }
    repo.details(&image).await.unwrap();
    repo.sharing(&image).await.unwrap();
    let show = peak();
    repo.images().await.unwrap();
    let list = peak();
    write::write(&repo, &image).await;
    let write = peak();
    assert_eq!(repo.check(false).await.unwrap().problems, []);
    let check = peak();
    assert_eq!(repo.check(true).await.unwrap().problems, []);
    let check_data = peak();
    repo.garbage().await.unwrap();
    let garbage = peak();
    // One that has nothing in common with it.
    let other = folder.path().join("other");
    disk::make(&other, partitions, 1 << 30);
    let other = import(&repo, &other).await;
    peak();
    let chunks = repo.diff(&image, &other).await.unwrap().transfer.chunks;
    assert!(chunks >= partitions * disk::PARTITION_CHUNKS, "{chunks}");
    let diff = peak();
    for mut handed in [
        repo.table_read(&image).await.unwrap().bytes,
        repo.locations_read(&image).await.unwrap().bytes,
    ] {
        while handed.try_next().await.unwrap().is_some() {}
    }
    let handed = peak();
    Peaks {
        import: imported,
        again,
        read,
        show,
        list,
        write,
        check,
        check_data,
        diff,
        handed,
        garbage,
    }
}

async fn import(repo: &Arc<Repo>, disk: &Path) -> wire::Digest {
    let reference = Some("image".parse().unwrap());
    let options = ImportOptions { reference, ..ImportOptions::default() };
    repo.import(Source::Path(disk.to_owned()), options, |_| {}).await.unwrap().digest
}

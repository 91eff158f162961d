//! A part of an image is what the same part of its disk is, and reading it
//! touches nothing else.
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::sync::Arc;

use crate::common::faulty::{Plan, storage};
use crate::common::{Lab, MIB, gpt_disk, noise, sparse, text};
use futures::TryStreamExt;
use proptest::prelude::*;
use store_format::Extent;
use store_repo::{ExportOptions, ExportProgress, Piece, ReadError, Repo};
use wire::Digest;

/// The bytes of a range, whose pieces must cover just that.
async fn range_of(repo: &Arc<Repo>, image: &Digest, range: Range<u64>) -> Vec<u8> {
    let mut pieces = repo.read_range(image, range.clone()).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.try_next().await.unwrap() {
        let at = range.start + bytes.len() as u64;
        match piece {
            Piece::Data { offset, bytes: data } => {
                assert!(offset == at && !data.is_empty());
                bytes.extend_from_slice(&data);
            }
            Piece::Hole { offset, bytes: zeros } => {
                assert!(offset == at && zeros > 0);
                bytes.resize(bytes.len() + zeros as usize, 0);
            }
        }
    }
    bytes
}

/// The same through a reader, in steps of different lengths.
async fn read_of(repo: &Arc<Repo>, image: &Digest, range: Range<u64>) -> Vec<u8> {
    let reader = repo.reader(image, range.clone()).await.unwrap();
    let read = tokio::task::spawn_blocking(move || {
        assert_eq!(reader.bytes(), range.end - range.start);
        let mut bytes = vec![0xee; reader.bytes() as usize];
        let mut at = 0;
        for len in [0, 1, 1000, 4096, 70_000, usize::MAX] {
            let end = bytes.len().min(usize::saturating_add(at, len));
            reader.read_at(&mut bytes[at..end], at as u64).unwrap();
            at = end;
        }
        let past = reader.read_at(&mut [0], reader.bytes()).unwrap_err();
        assert!(matches!(past, ReadError::Range { .. }), "{past:?}");
        bytes
    });
    read.await.unwrap()
}

/// Bytes of the frames that a range lies in.
async fn stored_bytes(repo: &Arc<Repo>, image: &Digest, range: Range<u64>) -> u64 {
    let table = repo.table(image).await.unwrap();
    let locations = crate::common::locations(repo, image).await;
    let numbers: Vec<_> = table.distinct().map(|(id, _)| id).collect();
    let (mut at, mut frames) = (0, BTreeMap::new());
    for extent in table.regions.iter().flatten() {
        let end = at + extent.bytes();
        if let Extent::Chunk { id, .. } = extent {
            let number = numbers.iter().position(|other| other == id).unwrap();
            if range.start.max(at) < range.end.min(end) {
                let at = locations.chunks[number];
                frames.insert((at.pack, at.offset), u64::from(at.frame_len));
            }
        }
        at = end;
    }
    frames.values().sum()
}

#[tokio::test]
async fn only_the_frames_of_a_range_are_read() {
    let lab = Lab::new().await;
    // More than a pack.
    let data = noise(1, 70 << 20);
    let disk = sparse(&lab.path("disk"), 80 * MIB, &[(MIB, &data)]);
    let image = lab.import(&disk, "x").await.digest;
    let plan = Plan::harmless();
    let repo = Repo::open_storage(storage(&lab.store(), &plan)).await.unwrap();
    let repo = Arc::new(repo);
    let ranges = [
        (10 * MIB + 123)..(10 * MIB + 300_123),
        (5 * MIB)..(5 * MIB + 1),
        (64 * MIB)..(66 * MIB),
        0..MIB,
        (75 * MIB)..(80 * MIB),
        (3 * MIB)..(3 * MIB),
    ];
    for range in ranges {
        let expected = stored_bytes(&repo, &image, range.clone()).await;
        plan.pack_reads();
        let bytes = range_of(&repo, &image, range.clone()).await;
        let whole = range.start as usize..range.end as usize;
        assert!(bytes == fs::read(&disk).unwrap()[whole], "{range:?}");
        let read: u64 = plan.pack_reads().iter().map(|(_, range)| range.end - range.start).sum();
        assert_eq!(read, expected, "{range:?}");
    }
}

#[tokio::test]
async fn a_reader_reads_a_frame_once_while_it_is_wanted() {
    let lab = Lab::new().await;
    let disk = sparse(&lab.path("disk"), 7 * MIB, &[(0, &noise(1, 6 << 20))]);
    let image = lab.import(&disk, "x").await.digest;
    let plan = Plan::harmless();
    let repo = Repo::open_storage(storage(&lab.store(), &plan)).await.unwrap();
    let reader = Arc::new(repo).reader(&image, 0..7 * MIB).await.unwrap();
    plan.pack_reads();
    let expected = fs::read(&disk).unwrap();
    let read = tokio::task::spawn_blocking(move || {
        for _ in 0..2 {
            for at in (0..7 << 20).step_by(4096) {
                let mut block = [0; 4096];
                reader.read_at(&mut block, at as u64).unwrap();
                assert!(block == expected[at..at + 4096], "at {at}");
            }
        }
    });
    read.await.unwrap();
    let reads = plan.pack_reads();
    let mut distinct: Vec<_> = reads.iter().map(|(key, range)| (key, range.start)).collect();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 2);
    assert_eq!(reads.len(), distinct.len());
}

#[tokio::test]
async fn damage_elsewhere_does_not_matter_and_within_is_found() {
    let mut lab = Lab::new().await;
    let data = noise(1, 70 << 20);
    let disk = sparse(&lab.path("disk"), 70 * MIB, &[(0, &data)]);
    let image = lab.import(&disk, "x").await.digest;
    let first = crate::common::locations(&lab.repo, &image).await.packs[0].to_string();
    let second = lab.files("packs").into_iter().find(|path| !path.ends_with(&first)).unwrap();
    let whole = fs::read(&second).unwrap();
    let mut damaged = whole.clone();
    damaged[100] ^= 1;
    fs::write(&second, damaged).unwrap();
    let end = 70 * MIB;
    assert!(range_of(&lab.repo, &image, 0..MIB).await == data[..1 << 20]);
    let read = |repo: Arc<Repo>| async move {
        let pieces = repo.read_range(&image, MIB..end).await?;
        pieces.try_for_each(|_| async { Ok(()) }).await
    };
    let error = read(Arc::clone(&lab.repo)).await.unwrap_err();
    assert!(matches!(error, ReadError::Pack { .. }), "{error:?}");
    let reader = lab.repo.reader(&image, 0..end).await.unwrap();
    let fail = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; 70 << 20];
        reader.read_at(&mut bytes, 0).unwrap_err()
    });
    let error = fail.await.unwrap();
    assert!(matches!(error, ReadError::Pack { .. }), "{error:?}");
    // A pack that is gone as a whole.
    fs::remove_file(&second).unwrap();
    fs::remove_dir_all(lab.store().join("index")).unwrap();
    lab.reopen().await;
    assert!(range_of(&lab.repo, &image, 0..MIB).await == data[..1 << 20]);
    let error = read(Arc::clone(&lab.repo)).await.unwrap_err();
    assert!(matches!(error, ReadError::Chunk { .. }), "{error:?}");
}

#[tokio::test]
async fn what_an_image_does_not_have_is_refused() {
    let lab = Lab::new().await;
    let image = lab.import(&gpt_disk(&lab.path("disk"), 512, 1), "x").await.digest;
    #[expect(clippy::reversed_empty_ranges, reason = "it is refused")]
    for range in [0..32 * MIB + 1, 33 * MIB..33 * MIB, 5..4, 0..u64::MAX] {
        let error = lab.repo.read_range(&image, range.clone()).await.map(drop).unwrap_err();
        let ReadError::Range { start, end, disk_bytes } = error else { panic!("{error:?}") };
        assert_eq!((start..end, disk_bytes), (range.clone(), 32 * MIB));
        assert!(lab.repo.reader(&image, range).await.is_err());
    }
}

#[tokio::test]
async fn a_reader_ends_its_lease_on_any_thread() {
    let lab = Lab::new().await;
    let image = lab.import(&gpt_disk(&lab.path("disk"), 512, 1), "x").await.digest;
    let reader = lab.repo.reader(&image, 0..MIB).await.unwrap();
    lab.repo.remove(&"x".parse().unwrap()).await.unwrap();
    assert_eq!(lab.repo.collect_garbage().await.unwrap().deleted, 0);
    // Ended while it drops, on whatever thread, or else in ten minutes.
    std::thread::spawn(move || drop(reader)).join().unwrap();
    let began = std::time::Instant::now();
    while lab.repo.collect_garbage().await.unwrap().deleted == 0 {
        assert!(began.elapsed().as_secs() < 300, "the lease lives on");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_exported_range_is_a_file_of_that_range_with_its_holes() {
    let lab = Lab::new().await;
    let disk = gpt_disk(&lab.path("disk"), 512, 1);
    let image = lab.import(&disk, "x").await.digest;
    let second = lab.repo.envelope(&image).await.unwrap().region_of(2).cloned().unwrap();
    let range = second.start..second.start + second.bytes;
    let to = lab.path("part");
    let (send, receive) = std::sync::mpsc::channel();
    let options = ExportOptions { range: Some(range), ..ExportOptions::default() };
    let note = move |progress| send.send(progress).unwrap();
    let exported = lab.repo.export_as(&image, &to, options, note).await.unwrap();
    assert_eq!((exported.disk_bytes, exported.data_bytes), (16 * MIB, 5 * MIB));
    let bytes = fs::read(&to).unwrap();
    assert!(bytes == fs::read(&disk).unwrap()[9 << 20..25 << 20]);
    assert_eq!(store_format::region::digest(&bytes), second.digest);
    let blocks = std::os::unix::fs::MetadataExt::blocks(&to.metadata().unwrap());
    assert!(blocks * 512 <= 6 * MIB, "{blocks} blocks");
    let seen: Vec<ExportProgress> = receive.iter().collect();
    assert!(seen.is_sorted_by_key(|progress| progress.done_bytes) && seen.len() > 10);
    let whole = ExportProgress { disk_bytes: 16 * MIB, done_bytes: 16 * MIB };
    assert_eq!(seen.last(), Some(&whole));
}

/// A stretch of a made-up disk.
fn part() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (0..3_u64, 1..600_000_usize).prop_map(|(seed, len)| noise(seed, len)),
        (0..3_u64, 1..300_000_usize).prop_map(|(seed, len)| text(seed, len)),
        (1..1_000_000_usize).prop_map(|len| vec![0; len]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_range_of_any_image_is_that_slice(
        parts in prop::collection::vec(part(), 0..6),
        ranges in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let lab = Lab::new().await;
            let disk = parts.concat();
            fs::write(lab.path("disk"), &disk).unwrap();
            let image = lab.import(&lab.path("disk"), "x").await.digest;
            for (one, other) in ranges {
                let (one, other) = (one.index(disk.len() + 1), other.index(disk.len() + 1));
                let (start, end) = (one.min(other), one.max(other));
                let range = start as u64..end as u64;
                assert!(range_of(&lab.repo, &image, range.clone()).await == disk[start..end]);
                assert!(read_of(&lab.repo, &image, range).await == disk[start..end]);
            }
        });
    }
}

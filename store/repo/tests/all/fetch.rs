//! Reading a part of an image by a plan.

use std::collections::HashSet;
use std::sync::Arc;

use futures::TryStreamExt;
use store_format::{Extent, Plan, digest_of};
use store_repo::{FetchPlan, OpenImage, Piece, ReadError};

use crate::common::{Lab, MIB, noise, sparse};

/// Two related images: the second has a stretch of the first replaced.
async fn two(lab: &Lab) -> [wire::Digest; 2] {
    let first = noise(1, 6 * MIB as usize);
    let mut second = first.clone();
    second[2_000_000..2_900_000].copy_from_slice(&noise(2, 900_000));
    let first = lab.import(&sparse(&lab.path("a"), 8 * MIB, &[(0, &first)]), "a").await;
    let second = lab.import(&sparse(&lab.path("b"), 8 * MIB, &[(0, &second)]), "b").await;
    [first.digest, second.digest]
}

/// The plan for some extents of an image.
fn plan(image: &OpenImage, is_lacking: impl Fn(&(u64, Extent)) -> bool) -> FetchPlan {
    let mut lacking = image.lacking();
    for placed in image.extents().map(Result::unwrap).filter(is_lacking) {
        lacking.push(placed.0, placed.1).unwrap();
    }
    lacking.plan().unwrap()
}

/// All pieces of a plan, on a thread that may wait.
async fn pieces(image: &Arc<OpenImage>, plan: FetchPlan) -> Result<Vec<Piece>, ReadError> {
    let image = Arc::clone(image);
    let work = tokio::task::spawn_blocking(move || {
        let mut pieces = Vec::new();
        let take = |piece| {
            pieces.push(piece);
            Ok(())
        };
        image.deliver::<ReadError>(&plan, take).map(|()| pieces)
    });
    work.await.unwrap()
}

fn is_chunk((_, extent): &(u64, Extent)) -> bool {
    matches!(extent, Extent::Chunk { .. })
}

#[tokio::test]
async fn who_holds_an_image_reads_only_what_another_has_besides() {
    let lab = Lab::new().await;
    let [first, second] = two(&lab).await;
    let image = Arc::new(lab.repo.open_image(&second).await.unwrap());
    let have = lab.repo.table(&first).await.unwrap().ids();
    let lacks = |placed: &(u64, Extent)| match placed.1 {
        Extent::Chunk { id, .. } => !have.contains(&id),
        Extent::Hole { .. } => false,
    };
    let expected: Vec<_> = image.extents().map(Result::unwrap).filter(lacks).collect();
    let mut bytes = 0;
    let mut found = Vec::new();
    for piece in pieces(&image, plan(&image, lacks)).await.unwrap() {
        let Piece::Data { offset, bytes: plain } = piece else { panic!("{piece:?}") };
        let len = u32::try_from(plain.len()).unwrap();
        found.push((offset, Extent::Chunk { id: digest_of(&plain), bytes: len }));
        bytes += plain.len();
    }
    found.sort_unstable_by_key(|(offset, _)| *offset);
    assert_eq!(found, expected);
    assert!((900_000..900_000 + 3 * 262_144).contains(&bytes), "{bytes}");
    Arc::into_inner(image).unwrap().close().await;
}

#[tokio::test]
async fn every_place_comes_once_and_damage_is_named() {
    let lab = Lab::new().await;
    let [first, _] = two(&lab).await;
    let image = Arc::new(lab.repo.open_image(&first).await.unwrap());
    let mut disk = vec![0xff; 8 * MIB as usize];
    let mut touched = 0;
    for piece in pieces(&image, plan(&image, |_| true)).await.unwrap() {
        let (offset, bytes) = match piece {
            Piece::Hole { offset, bytes } => (offset, vec![0; bytes as usize]),
            Piece::Data { offset, bytes } => (offset, bytes.to_vec()),
        };
        disk[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        touched += bytes.len();
    }
    assert_eq!(touched, disk.len());
    let whole: Vec<Piece> = lab.repo.read(&first).await.unwrap().try_collect().await.unwrap();
    for piece in whole {
        match piece {
            Piece::Hole { offset, bytes } => {
                let part = &disk[offset as usize..][..bytes as usize];
                assert!(part.iter().all(|byte| *byte == 0));
            }
            Piece::Data { offset, bytes } => {
                assert!(disk[offset as usize..][..bytes.len()] == bytes);
            }
        }
    }
    let all = plan(&image, is_chunk);
    for pack in lab.files("packs") {
        let mut bytes = std::fs::read(&pack).unwrap();
        bytes[70] ^= 1;
        std::fs::write(&pack, bytes).unwrap();
    }
    let error = pieces(&image, all).await.unwrap_err();
    assert!(error.to_string().contains("is damaged at byte 16"), "{error}");
}

#[tokio::test]
async fn a_plan_asks_for_the_ranges_that_machines_ask_for() {
    let lab = Lab::new().await;
    let [_, second] = two(&lab).await;
    let image = lab.repo.open_image(&second).await.unwrap();
    let table = lab.repo.table(&second).await.unwrap();
    let locations = crate::common::locations(&lab.repo, &second).await;
    let ids: Vec<_> = table.distinct().map(|(id, _)| id).collect();
    for every in [1, 2, 3, 7, 1000] {
        let wanted: Vec<usize> = (0..ids.len()).step_by(every).collect();
        let chosen: HashSet<_> = wanted.iter().map(|number| ids[*number]).collect();
        let machines = Plan::of(wanted.into_iter(), &locations).unwrap();
        let ours = plan(&image, |placed| match placed.1 {
            Extent::Chunk { id, .. } => chosen.contains(&id),
            Extent::Hole { .. } => false,
        });
        let cost = (ours.cost.requests, ours.cost.wanted_bytes, ours.cost.wire_bytes);
        let expected = (machines.ranges.len() as u64, machines.wanted_bytes, machines.wire_bytes);
        assert_eq!(cost, expected, "{every}");
    }
}

#[tokio::test]
async fn a_chunk_that_lacks_in_many_places_is_read_once_and_comes_to_each() {
    let lab = Lab::new().await;
    let block = noise(3, 200_000);
    let disk = [&block[..], &block, &block, &noise(4, 100_000), &block].concat();
    let image = lab.import(&sparse(&lab.path("a"), MIB, &[(0, &disk)]), "a").await.digest;
    let image = Arc::new(lab.repo.open_image(&image).await.unwrap());
    let chunks: Vec<_> = image.extents().map(Result::unwrap).filter(is_chunk).collect();
    // The same one at places where the image does not have it.
    let mut lacking = image.lacking();
    for at in 0..500 {
        lacking.push(at * MIB, chunks[0].1).unwrap();
    }
    let plan = lacking.plan().unwrap();
    assert_eq!(plan.cost.requests, 1);
    let found = pieces(&image, plan).await.unwrap();
    let Piece::Data { bytes: first, .. } = &found[0] else { panic!("{:?}", found[0]) };
    for (at, piece) in (0..500).zip(&found) {
        assert_eq!(*piece, Piece::Data { offset: at * MIB, bytes: first.clone() });
    }
    assert_eq!(found.len(), 500);
}

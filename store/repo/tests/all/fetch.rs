//! Reading a part of an image by a plan.

use futures::TryStreamExt;
use store_format::{Extent, Plan, digest_of};
use store_repo::Fetched;

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

#[tokio::test]
async fn who_holds_an_image_reads_only_what_another_has_besides() {
    let lab = Lab::new().await;
    let [first, second] = two(&lab).await;
    let image = lab.repo.open_image(&second).await.unwrap();
    let have = lab.repo.table(&first).await.unwrap().ids();
    let plan = Plan::missing(&image.table, &have, &image.locations).unwrap();
    let fetched: Vec<Fetched> = image.fetch(&plan).try_collect().await.unwrap();
    let chunks: Vec<_> = image.table.distinct().collect();
    let mut bytes = 0;
    for Fetched { chunk, bytes: plain } in &fetched {
        let (id, length) = chunks[*chunk];
        assert!(!have.contains(&id));
        assert_eq!((digest_of(plain), plain.len()), (id, length as usize));
        bytes += plain.len();
    }
    let lacks = chunks.iter().filter(|(id, _)| !have.contains(id)).count();
    assert_eq!((fetched.len(), plan.wanted_chunks), (lacks, lacks as u64));
    assert!((900_000..900_000 + 3 * 262_144).contains(&bytes), "{bytes}");
    image.close().await;
}

#[tokio::test]
async fn every_chunk_of_an_image_comes_once_and_damage_is_named() {
    let lab = Lab::new().await;
    let [first, _] = two(&lab).await;
    let image = lab.repo.open_image(&first).await.unwrap();
    let plan = Plan::missing(&image.table, &Default::default(), &image.locations).unwrap();
    let fetched: Vec<Fetched> = image.fetch(&plan).try_collect().await.unwrap();
    let plain: u64 = fetched.iter().map(|fetched| fetched.bytes.len() as u64).sum();
    let chunk_bytes = |extent: &Extent| match extent {
        Extent::Chunk { bytes, .. } => u64::from(*bytes),
        Extent::Hole { .. } => 0,
    };
    assert_eq!(plain, image.table.regions.iter().flatten().map(chunk_bytes).sum::<u64>());
    for pack in lab.files("packs") {
        let mut bytes = std::fs::read(&pack).unwrap();
        bytes[70] ^= 1;
        std::fs::write(&pack, bytes).unwrap();
    }
    let error = image.fetch(&plan).try_collect::<Vec<_>>().await.unwrap_err();
    assert!(error.to_string().contains("is damaged at byte 16"), "{error}");
}

//! What images share, chunk by chunk.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::PathBuf;

use store_format::pack;
use store_repo::ReadError;
use wire::Digest;

use crate::common::{Lab, MIB, noise, sparse, text};

/// Chunks of an image with their plain and stored bytes, counted by other means.
async fn chunks(lab: &Lab, image: &Digest) -> HashMap<Digest, (u64, u64)> {
    let table = lab.repo.table(image).await.unwrap();
    let packs = lab.files("packs");
    let entries = packs.iter().flat_map(|file| pack::entries(&fs::read(file).unwrap()).unwrap());
    let stored: HashMap<_, _> = entries.map(|entry| (entry.id, entry.stored_len)).collect();
    table.distinct().map(|(id, plain)| (id, (u64::from(plain), u64::from(stored[&id])))).collect()
}

fn sums<'a>(of: impl Iterator<Item = &'a (u64, u64)>) -> (u64, u64) {
    of.fold((0, 0), |(plain, stored), (p, s)| (plain + p, stored + s))
}

fn disk(lab: &Lab, name: &str, parts: &[(u64, &[u8])]) -> PathBuf {
    sparse(&lab.path(name), 16 * MIB, parts)
}

#[tokio::test]
async fn what_is_shared_with_whom_is_counted_per_image() {
    let lab = Lab::new().await;
    let (base, tool, own) = (text(1, 4 << 20), noise(2, 1 << 20), noise(3, 1 << 20));
    let all = disk(&lab, "all", &[(0, &base), (6 * MIB, &tool), (9 * MIB, &own)]);
    let all = lab.import(&all, "all").await.digest;
    let based = disk(&lab, "based", &[(2 * MIB, &base), (10 * MIB, &noise(4, 1 << 20))]);
    let based = lab.import(&based, "based:1").await.digest;
    lab.repo.tag(&"based:1".parse().unwrap(), &"based:2".parse().unwrap()).await.unwrap();
    let tooled = lab.import(&disk(&lab, "tooled", &[(MIB, &tool)]), "tooled").await.digest;
    lab.repo.remove(&"tooled".parse().unwrap()).await.unwrap();
    lab.import(&disk(&lab, "other", &[(0, &noise(5, 1 << 20))]), "other").await;

    let sharing = lab.repo.sharing(&all).await.unwrap();
    let mine = chunks(&lab, &all).await;
    assert_eq!(sharing.plain_bytes, sums(mine.values()).0);
    let mut seen = HashSet::new();
    for (found, image, names) in [
        (&sharing.shared[0], tooled, &[][..]),
        (&sharing.shared[1], based, &["based:1", "based:2"]),
    ] {
        assert_eq!(found.image, image);
        let references: Vec<_> = found.references.iter().map(ToString::to_string).collect();
        assert_eq!(references, names);
        let theirs = chunks(&lab, &image).await;
        let both: Vec<_> = mine.iter().filter(|(id, _)| theirs.contains_key(id)).collect();
        assert_eq!(found.chunks, both.len() as u64);
        assert_eq!((found.plain_bytes, found.stored_bytes), sums(both.iter().map(|(_, at)| *at)));
        assert!(found.plain_bytes >= 3 << 18, "{found:?}");
        seen.extend(both.iter().map(|(id, _)| **id));
    }
    // Text compresses, so the first by stored bytes is not the first by plain ones.
    assert!(sharing.shared[0].plain_bytes < sharing.shared[1].plain_bytes);
    assert_eq!(sharing.shared.len(), 2, "who shares nothing is not listed");
    let own = sums(mine.iter().filter(|(id, _)| !seen.contains(*id)).map(|(_, at)| at));
    assert_eq!((sharing.unique_plain_bytes, sharing.unique_bytes), own);
    let listed = lab.repo.images().await.unwrap();
    let listed = listed.iter().find(|image| image.digest == all).unwrap();
    assert_eq!(sharing.unique_bytes, listed.unique_bytes, "as `ls` says");
}

#[tokio::test]
async fn an_image_alone_is_all_its_own_and_damage_elsewhere_is_no_obstacle() {
    let lab = Lab::new().await;
    let shared = noise(1, 1 << 20);
    let one = lab.import(&disk(&lab, "one", &[(0, &shared)]), "one").await;
    let sharing = lab.repo.sharing(&one.digest).await.unwrap();
    assert_eq!((sharing.unique_bytes, sharing.plain_bytes), (one.stored_bytes, MIB));
    assert_eq!(sharing.shared, []);
    let blobs = lab.files("blobs");
    lab.import(&disk(&lab, "two", &[(0, &shared), (MIB, &shared)]), "two").await;
    for blob in lab.files("blobs").iter().filter(|blob| !blobs.contains(blob)) {
        std::fs::write(blob, "not what it was").unwrap();
    }
    assert_eq!(lab.repo.sharing(&one.digest).await.unwrap().shared, []);
    let unknown = lab.repo.sharing(&Digest([7; 32])).await;
    assert!(matches!(unknown, Err(ReadError::Unknown { .. })), "{unknown:?}");
}

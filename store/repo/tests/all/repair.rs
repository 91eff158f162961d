//! Damaged stores that are repaired: what is good stays, what is missing comes
//! from elsewhere, what is lost is named.

mod beside;
mod faults;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use store_format::pack;
use store_repo::{Donor, DonorError, Imported, RepairError, RepairReport};
use wire::Digest;

use crate::common::faulty::{Fault, Plan, storage};
use crate::common::{Lab, MIB, noise, sparse};
use crate::damage::{flip, key};
use crate::garbage::{same, whole};

/// Two disks that share 3 MiB; each has 3 MiB of its own, somewhere else: more
/// than a frame.
fn disks(lab: &Lab) -> [PathBuf; 2] {
    let shared = noise(1, 3 << 20);
    [
        sparse(&lab.path("one"), 8 * MIB, &[(0, &shared), (4 * MIB, &noise(2, 3 << 20))]),
        sparse(&lab.path("two"), 12 * MIB, &[(0, &shared), (8 * MIB, &noise(3, 3 << 20))]),
    ]
}

/// A store with both, in a pack each, the first of which both need; the copy of
/// it that was made when all was well.
struct Stocked {
    lab: Lab,
    disks: [PathBuf; 2],
    images: [Imported; 2],
    packs: [PathBuf; 2],
}

async fn stocked() -> Stocked {
    let lab = Lab::new().await;
    let disks = disks(&lab);
    let one = lab.import(&disks[0], "one").await;
    let first = lab.files("packs").remove(0);
    let two = lab.import(&disks[1], "two").await;
    let second = lab.files("packs").into_iter().find(|pack| *pack != first).unwrap();
    Stocked { lab, disks, images: [one, two], packs: [first, second] }
}

impl Stocked {
    /// Another store with one of the disks, or both.
    async fn other(&self, which: &[usize]) -> Lab {
        let other = Lab::new().await;
        for disk in which {
            other.import(&self.disks[*disk], "other").await;
        }
        other
    }

    /// As a command does it: a process of its own.
    async fn repair(&self, from: &[&Path]) -> RepairReport {
        let repo = crate::common::open(&self.lab.store()).await;
        repo.repair(donors(from).await).await.unwrap()
    }

    async fn all_is_well(&self) {
        for repo in [&self.lab.repo, &crate::common::open(&self.lab.store()).await] {
            whole(repo).await;
            for (image, disk) in self.images.iter().zip(&self.disks) {
                same(&self.lab, repo, image, disk).await;
            }
        }
    }

    fn digests(&self, which: &[usize]) -> Vec<Digest> {
        let mut digests: Vec<_> = which.iter().map(|image| self.images[*image].digest).collect();
        digests.sort_unstable();
        digests
    }
}

async fn donors(from: &[&Path]) -> Vec<Donor> {
    let mut donors = Vec::new();
    for path in from {
        donors.push(Donor::open(path.to_str().unwrap()).await.unwrap());
    }
    donors
}

/// The images that a repair could not make whole.
fn lost(report: &RepairReport) -> Vec<Digest> {
    let mut images: Vec<_> = report.left.iter().flat_map(|p| p.images.clone()).collect();
    images.sort_unstable();
    images.dedup();
    images
}

fn content(lab: &Lab) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = ["packs", "blobs", "index"].map(|folder| lab.files(folder));
    files.into_iter().flatten().map(|file| (file.clone(), fs::read(file).unwrap())).collect()
}

#[tokio::test]
async fn a_whole_store_is_left_as_it_is() {
    let store = stocked().await;
    let before = content(&store.lab);
    let report = store.repair(&[]).await;
    assert_eq!((&report.found.problems[..], &report.left[..]), (&[][..], &[][..]));
    assert_eq!(report.done, Default::default());
    assert!(report.found.hashed_bytes > 0);
    assert!(content(&store.lab) == before);
}

#[tokio::test]
async fn what_is_wrong_beside_the_chunks_of_a_pack_costs_nothing() {
    let original = stocked().await;
    let pack = fs::read(&original.packs[0]).unwrap();
    let len = pack.len();
    let mut broken = Vec::new();
    // Header, table, trailer.
    for offset in [0, 8, 12, len - 61, len - 300, len - 60, len - 45, len - 30, len - 9, len - 1] {
        let mut bytes = pack.clone();
        bytes[offset] ^= 0x40;
        broken.push(bytes);
    }
    broken.extend([len - 1, len - 60, len - 61].map(|end| pack[..end].to_vec()));
    broken.push([&pack[..], b"more"].concat());
    for (number, bytes) in broken.iter().enumerate() {
        let store = stocked().await;
        fs::write(&store.packs[0], bytes).unwrap();
        let report = store.repair(&[]).await;
        assert_eq!(report.found.problems.len(), 1, "{number}: {report:#?}");
        assert_eq!((&report.left[..], &report.done.taken[..]), (&[][..], &[][..]), "{number}");
        assert_eq!(report.done.plan.packs[0].kept_chunks, store.images[0].chunks, "{number}");
        store.all_is_well().await;
        // Nothing is left to do.
        assert_eq!(store.repair(&[]).await.found.problems, [], "{number}");
        assert_eq!(store.lab.files("packs").len(), 2, "{number}");
    }
}

#[tokio::test]
async fn what_a_damaged_byte_is_not_a_part_of_is_not_lost() {
    // The header of the first frame, which both images need; its payload, which
    // is raw; then the last frame, which only the first image needs.
    for offset in [16, 20, 21, 24, 28, 32, 36, 63, 400, 500_000, usize::MAX] {
        let store = stocked().await;
        let bytes = fs::read(&store.packs[0]).unwrap();
        let entries = pack::entries(&bytes).unwrap();
        let frames: Vec<_> = pack::frames(&entries).collect();
        assert!(frames.len() > 1);
        let (offset, hit, frame) = match offset {
            usize::MAX => {
                let last = frames[frames.len() - 1];
                let end = last[0].offset + u64::from(last[0].frame_len);
                (usize::try_from(end).unwrap() - 1, store.digests(&[0]), last)
            }
            other => (other, store.digests(&[0, 1]), frames[0]),
        };
        let chunks = match offset < 16 + 52 + 4 * frame.len() {
            true => frame.len() as u64,
            false => 1,
        };
        flip(&store.packs[0], offset);
        let report = store.repair(&[]).await;
        let plan = &report.done.plan;
        assert_eq!((plan.packs.len(), plan.missing_chunks), (1, chunks), "{offset}");
        assert_eq!(plan.packs[0].kept_chunks, store.images[0].chunks - chunks, "{offset}");
        assert_eq!(lost(&report), hit, "{offset}: {:#?}", report.left);
        assert!(report.left.iter().all(|p| p.advice.contains("--from")), "{:?}", report.left);
        assert!(!store.packs[0].exists(), "nobody relied on it");
        // What it did not hit can be read, what it hit never gives a wrong byte.
        for (image, disk) in store.images.iter().zip(&store.disks) {
            match hit.contains(&image.digest) {
                false => same(&store.lab, &store.lab.repo, image, disk).await,
                true => {
                    let to = store.lab.path("exported");
                    let _ = fs::remove_file(&to);
                    store.lab.repo.export(&image.digest, &to).await.unwrap_err();
                    assert!(!to.exists());
                }
            }
        }
        // A check says the same, and the next repair has all it needs.
        let checked = store.lab.repo.check(true).await.unwrap();
        assert_eq!(checked.problems, report.left);
        let other = store.other(&[0]).await;
        let report = store.repair(&[&other.store()]).await;
        assert_eq!((report.done.taken[0].chunks, &report.left[..]), (chunks, &[][..]));
        store.all_is_well().await;
    }
}

#[tokio::test]
async fn a_pack_that_ends_early_keeps_what_it_has() {
    for part in [0, 3] {
        let store = stocked().await;
        let bytes = fs::read(&store.packs[0]).unwrap();
        fs::write(&store.packs[0], &bytes[..bytes.len() * part / 4]).unwrap();
        let other = store.other(&[0]).await;
        let report = store.repair(&[&other.store()]).await;
        let kept = report.done.plan.packs[0].kept_chunks;
        assert_eq!(kept > 0, part > 0, "{part}");
        assert_eq!(report.done.taken[0].chunks, store.images[0].chunks - kept);
        assert_eq!(report.left, []);
        store.all_is_well().await;
    }
}

#[tokio::test]
async fn missing_chunks_come_from_stores_and_raw_disks() {
    let store = stocked().await;
    let shifted = store.lab.path("shifted");
    let bytes = fs::read(&store.disks[0]).unwrap();
    // Not where the image has it: found by cutting.
    fs::write(&shifted, [&vec![0; 1 << 20][..], &bytes].concat()).unwrap();
    let other = store.other(&[0]).await;
    let unrelated = Lab::new().await;
    let foreign = sparse(&unrelated.path("x"), 2 * MIB, &[(0, &noise(9, 1 << 20))]);
    unrelated.import(&foreign, "x").await;
    let sources: [&[&Path]; 4] = [
        &[&other.store()],
        &[&store.disks[0]],
        &[&shifted],
        // Those that have nothing do no harm.
        &[&unrelated.store(), &foreign, &store.disks[0]],
    ];
    for (number, from) in sources.into_iter().enumerate() {
        let store = stocked().await;
        let gone = fs::read(&store.packs[0]).unwrap();
        fs::remove_file(&store.packs[0]).unwrap();
        let report = store.repair(from).await;
        let problems = &report.found.problems;
        assert!(problems.iter().any(|p| p.file == key_of(&store, 0)), "{number}: {problems:#?}");
        assert_eq!(report.left, [], "{number}");
        let [taken] = &report.done.taken[..] else { panic!("{number}: {:?}", report.done) };
        assert_eq!(taken.chunks, store.images[0].chunks, "{number}");
        assert_eq!(taken.from.as_deref(), from.last().unwrap().to_str(), "{number}");
        store.all_is_well().await;
        assert_eq!(store.lab.repo.check(true).await.unwrap().unneeded_packs, 0, "{number}");
        assert!(gone.len() > 1 << 20);
    }
}

fn key_of(store: &Stocked, pack: usize) -> String {
    let name = store.packs[pack].file_name().unwrap().to_str().unwrap();
    format!("packs/{}/{name}", &name[..2])
}

#[tokio::test]
async fn several_give_what_none_has_alone() {
    let store = stocked().await;
    store.packs.iter().for_each(|pack| fs::remove_file(pack).unwrap());
    let other = store.other(&[0]).await;
    let report = store.repair(&[&other.store(), &store.disks[1]]).await;
    assert_eq!((report.left.len(), report.done.taken.len()), (0, 2));
    store.all_is_well().await;
}

#[tokio::test]
async fn what_nobody_has_is_named_by_the_images_that_lose_it() {
    let store = stocked().await;
    fs::remove_file(&store.packs[1]).unwrap();
    let report = store.repair(&[]).await;
    assert_eq!(lost(&report), store.digests(&[1]));
    same(&store.lab, &store.lab.repo, &store.images[0], &store.disks[0]).await;
    fs::remove_file(&store.packs[0]).unwrap();
    // One half of the second image comes back, and with it all of the first.
    let other = store.other(&[0]).await;
    let report = store.repair(&[&other.store()]).await;
    assert_eq!(lost(&report), store.digests(&[1]));
    same(&store.lab, &store.lab.repo, &store.images[0], &store.disks[0]).await;
    let names = store.lab.repo.images().await.unwrap();
    assert_eq!(names.len(), 2, "no record is lost");
    // As the advice says.
    store.lab.import(&store.disks[1], "two").await;
    store.all_is_well().await;
}

#[tokio::test]
async fn blobs_come_from_stores_that_have_the_image() {
    for blob in 0..4 {
        for is_missing in [true, false] {
            let store = stocked().await;
            let other = store.other(&[0, 1]).await;
            let path = store.lab.files("blobs").remove(blob);
            match is_missing {
                true => fs::remove_file(&path).unwrap(),
                false => flip(&path, 20),
            }
            let file = key(&store.lab, path.parent().unwrap()) + "/";
            let file = file + path.file_name().unwrap().to_str().unwrap();
            // A raw disk has none.
            let report = store.repair(&[&store.disks[0]]).await;
            assert_eq!(report.done.plan.lost_blobs, std::slice::from_ref(&file));
            let [problem] = &report.left[..] else { panic!("{:?}", report.left) };
            assert_eq!((&problem.file, problem.images.len()), (&file, 1));
            let report = store.repair(&[&other.store()]).await;
            assert_eq!((&report.done.plan.blobs[..], &report.left[..]), (&[file][..], &[][..]));
            store.all_is_well().await;
        }
    }
}

#[tokio::test]
async fn a_table_that_comes_back_brings_its_chunks() {
    let store = stocked().await;
    let other = store.other(&[0, 1]).await;
    store.packs.iter().for_each(|pack| fs::remove_file(pack).unwrap());
    store.lab.files("blobs").iter().for_each(|blob| fs::remove_file(blob).unwrap());
    let report = store.repair(&[&other.store()]).await;
    assert_eq!((report.left.len(), report.done.plan.blobs.len()), (0, 4));
    store.all_is_well().await;
}

#[tokio::test]
async fn the_index_is_built_again_from_the_packs() {
    let len = {
        let store = stocked().await;
        fs::read(&store.lab.files("index")[0]).unwrap().len()
    };
    for at in (0..len).step_by(len / 16) {
        let store = stocked().await;
        let segment = store.lab.files("index").remove(0);
        let mut bytes = fs::read(&segment).unwrap();
        bytes[at] ^= 0x10;
        // Another inode: the old one is mapped.
        fs::remove_file(&segment).unwrap();
        fs::write(&segment, bytes).unwrap();
        assert_eq!(store.repair(&[]).await.left, [], "{at}");
        store.all_is_well().await;
    }
    // Lost as a whole, and another store's beside.
    let (store, other) = (stocked().await, Lab::new().await);
    let disk = sparse(&other.path("x"), 2 * MIB, &[(0, &noise(1, 1 << 20))]);
    other.import(&disk, "x").await;
    store.lab.files("index").iter().for_each(|segment| fs::remove_file(segment).unwrap());
    let foreign = other.files("index").remove(0);
    fs::copy(&foreign, store.lab.store().join("index").join(foreign.file_name().unwrap())).unwrap();
    assert_eq!(store.repair(&[]).await.left, []);
    store.all_is_well().await;
}

#[tokio::test]
async fn an_index_that_lies_with_a_right_checksum_is_built_again() {
    let store = stocked().await;
    let segment = store.lab.files("index").remove(0);
    let mut bytes = fs::read(&segment).unwrap();
    // The place of the first entry.
    let packs = usize::try_from(u64::from_le_bytes(bytes[16..24].try_into().unwrap())).unwrap();
    bytes[32 + packs * 32 + 32] ^= 1;
    let end = bytes.len() - 32;
    let sum = blake3::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(sum.as_bytes());
    fs::remove_file(&segment).unwrap();
    fs::write(&segment, bytes).unwrap();
    let report = store.repair(&[]).await;
    assert_eq!((report.done.plan.segments.len(), &report.left[..]), (1, &[][..]));
    store.all_is_well().await;
}

#[tokio::test]
async fn a_pack_of_a_later_version_is_left_alone() {
    let store = stocked().await;
    let mut bytes = fs::read(&store.packs[0]).unwrap();
    let version = bytes.len() - 12;
    bytes[version] += 1;
    let name = hex::encode(Sha256::digest(&bytes));
    let later = store.lab.store().join(format!("packs/{}/{name}", &name[..2]));
    fs::create_dir_all(later.parent().unwrap()).unwrap();
    fs::write(&later, &bytes).unwrap();
    let report = store.repair(&[]).await;
    let [problem] = &report.left[..] else { panic!("{:?}", report.left) };
    assert!(problem.what.contains("version") && problem.advice.contains("newer"), "{problem:?}");
    assert!(fs::read(&later).unwrap() == bytes);
    // The same bytes under a name that is not theirs are damage.
    fs::remove_file(&later).unwrap();
    fs::write(&store.packs[0], &bytes).unwrap();
    assert_eq!(store.repair(&[]).await.left, []);
    store.all_is_well().await;
}

#[tokio::test]
async fn an_image_whose_chunks_are_safe_elsewhere_is_not_called_lost() {
    let store = stocked().await;
    let other = store.other(&[1]).await;
    let all_of_two = other.files("packs").remove(0);
    let copy = store.lab.store().join(key(&other, &all_of_two));
    fs::create_dir_all(copy.parent().unwrap()).unwrap();
    fs::copy(&all_of_two, &copy).unwrap();
    for (pack, lost) in [(&store.packs[0], &[0][..]), (&copy, &[])] {
        flip(pack, 100);
        let report = crate::common::open(&store.lab.store()).await.check(true).await.unwrap();
        let [problem] = &report.problems[..] else { panic!("{report:?}") };
        let expected = (&key(&store.lab, pack), &store.digests(lost));
        assert_eq!((&problem.file, &problem.images), expected);
        flip(pack, 100);
    }
}

#[tokio::test]
async fn what_the_disk_does_not_give_is_not_taken_for_damage() {
    let store = stocked().await;
    flip(&store.packs[1], 100);
    let before = content(&store.lab);
    for (fault, at) in [(Fault::Unreadable, usize::MAX), (Fault::BadSector, 64)] {
        let storage = storage(&store.lab.store(), &Plan::new(fault, at));
        let repo = std::sync::Arc::new(store_repo::Repo::open_storage(storage).await.unwrap());
        let report = repo.check(true).await.unwrap();
        for pack in &store.packs {
            let file = key(&store.lab, pack);
            let problem = report.problems.iter().find(|problem| problem.file == file).unwrap();
            assert!(problem.advice.contains("ddrescue"), "{fault:?}: {problem:?}");
            assert!(!problem.images.is_empty(), "{fault:?}: {problem:?}");
        }
        let error = repo.repair(donors(&[&store.disks[0]]).await).await.unwrap_err();
        assert!(matches!(error, RepairError::Unread { .. }), "{fault:?}: {error:?}");
        assert!(error.to_string().contains("packs/") && error.to_string().contains("ddrescue"));
        assert!(content(&store.lab) == before);
    }
    assert_eq!(store.repair(&[&store.disks[1]]).await.left, []);
    store.all_is_well().await;
}

#[tokio::test]
async fn a_plan_says_what_is_then_done_and_changes_nothing() {
    let store = stocked().await;
    flip(&store.packs[0], 100);
    fs::remove_file(&store.packs[1]).unwrap();
    let before = content(&store.lab);
    let from = [store.disks[0].as_path(), &store.disks[1]];
    let (found, plan) = store.lab.repo.repair_plan(donors(&from).await).await.unwrap();
    assert!(content(&store.lab) == before);
    let report = store.repair(&from).await;
    assert_eq!((&report.found, &report.done.plan), (&found, &plan));
    let taken: u64 = report.done.taken.iter().map(|taken| taken.chunks).sum();
    assert_eq!((taken, &report.left[..]), (plan.missing_chunks, &[][..]));
    store.all_is_well().await;
}

#[tokio::test]
async fn what_was_to_be_deleted_gives_what_is_missing() {
    let lab = Lab::new().await;
    let [one, two] = disks(&lab);
    // The same content in a pack that nothing needs any more.
    let parts: [(u64, &[u8]); 2] = [(0, &noise(1, 3 << 20)), (3 * MIB, &noise(7, 9 << 10))];
    let old = sparse(&lab.path("old"), 4 * MIB, &parts);
    let gone = lab.import(&old, "old").await;
    let pack = lab.files("packs").remove(0);
    lab.repo.remove(&"old".parse().unwrap()).await.unwrap();
    let mut reading = lab.repo.read(&gone.digest).await.unwrap();
    assert!(lab.repo.collect_garbage().await.unwrap().kept > 0);
    let images = [lab.import(&one, "one").await, lab.import(&two, "two").await];
    let packs = lab.files("packs").into_iter().filter(|other| *other != pack);
    let mut packs: Vec<_> = packs.collect();
    packs.sort_by_key(|pack| std::cmp::Reverse(fs::metadata(pack).unwrap().len()));
    let packs: [PathBuf; 2] = packs.try_into().unwrap();
    let store = Stocked { lab, disks: [one, two], images, packs };
    // Of the content that both have, in a frame that is raw.
    flip(&store.packs[0], 500_000);
    let report = store.repair(&[]).await;
    assert_eq!((&report.done.taken[0].from, &report.left[..]), (&None, &[][..]));
    store.all_is_well().await;
    assert!(futures::StreamExt::next(&mut reading).await.unwrap().is_ok());
}

#[tokio::test]
async fn sources_that_cannot_be_used_are_named() {
    let lab = Lab::new().await;
    let missing = lab.path("missing");
    let error = Donor::open(missing.to_str().unwrap()).await.err().unwrap();
    assert!(matches!(error, DonorError::Disk { .. }) && error.to_string().contains("missing"));
    let error = Donor::open(lab.folder.path().to_str().unwrap()).await.err().unwrap();
    assert!(matches!(error, DonorError::Store(_)), "{error:?}");
}

//! Merging index segments: with writes that fail, processes that end, and
//! others at work.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::common::faulty::{Fault, Plan, storage};
use crate::common::{Lab, MIB, import, noise, open, options, sparse};
use crate::faults::{child_to_merge, child_work};
use store_repo::{ImportError, Imported, Repo};

/// Images after which there is a merge: each brings a segment.
const IMAGES: u64 = 8;

/// Imports an image whose content is its number's.
async fn add(repo: &Arc<Repo>, folder: &Path, number: u64) -> Result<Imported, ImportError> {
    let disk = folder.join(number.to_string());
    sparse(&disk, MIB, &[(0, &noise(number, 100_000))]);
    import(repo, &disk, options(&format!("image-{number}"))).await
}

/// A folder with a store that merges at the next import.
async fn before_the_merge() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let repo = open(&folder.path().join("store")).await;
    for number in 1..IMAGES {
        add(&repo, folder.path(), number).await.unwrap();
    }
    assert_eq!(segments(folder.path()).len() as u64, IMAGES - 1);
    folder
}

/// Imports the image that leads to a merge.
async fn work(folder: &Path, plan: &Arc<Plan>) -> Result<(), String> {
    let repo = Repo::open_storage(storage(&folder.join("store"), plan)).await;
    let repo = Arc::new(repo.map_err(|e| e.to_string())?);
    add(&repo, folder, IMAGES).await.map(drop).map_err(|e| e.to_string())
}

/// Names of the files of the index.
fn segments(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder.join("store/index")).unwrap();
    files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

/// Whether a file is one that a merge did not finish.
fn unfinished(name: &str) -> bool {
    name.starts_with("merged-") && name.contains('#')
}

/// All is there and right, what was begun can be done again, and the index
/// gets small again.
async fn survives(folder: &Path, what: &str) {
    let repo = open(&folder.join("store")).await;
    assert_eq!(repo.check(true).await.unwrap().problems, [], "{what}");
    for number in 1..IMAGES {
        let image = repo.resolve(&format!("image-{number}").parse().unwrap()).await.unwrap();
        let to = folder.join("exported");
        repo.export(&image, &to).await.unwrap();
        let disk = folder.join(number.to_string());
        assert!(fs::read(&to).unwrap() == fs::read(disk).unwrap(), "{what}");
    }
    add(&repo, folder, IMAGES).await.unwrap();
    add(&repo, folder, IMAGES + 1).await.unwrap();
    assert_eq!(repo.check(true).await.unwrap().problems, [], "{what}");
    repo.collect_garbage().await.unwrap();
    let left = segments(folder);
    assert!(left.iter().filter(|name| name.ends_with(".idx")).count() < 8, "{what}: {left:?}");
    assert!(!left.iter().any(|name| unfinished(name)), "{what}: {left:?}");
    let report = open(&folder.join("store")).await.check(true).await.unwrap();
    assert_eq!(report.problems, [], "{what}");
}

#[tokio::test]
async fn every_write_of_a_merge_may_fail() {
    for fault in [Fault::Refused, Fault::Unsaid] {
        let mut harmless = 0;
        for at in 0.. {
            let folder = before_the_merge().await;
            let plan = Plan::new(fault, at);
            let done = work(folder.path(), &plan).await;
            if !plan.is_done() {
                done.unwrap();
                assert!(at >= IMAGES as usize + 4, "{at} writes");
                break;
            }
            harmless += usize::from(done.is_ok());
            survives(folder.path(), &format!("{fault:?} {at}")).await;
        }
        // Nobody who imports needs the merge: its file, or that one goes.
        assert!(harmless >= 2, "{fault:?} {harmless}");
    }
}

/// Does nothing unless it is the child of another test.
#[tokio::test]
async fn the_merge_of_a_child() {
    if let Some((folder, plan)) = child_work() {
        work(&folder, &plan).await.unwrap();
    }
}

#[tokio::test]
async fn the_process_may_end_at_every_write_of_a_merge() {
    for fault in ["before", "within", "after"] {
        let mut left = 0;
        for at in 0.. {
            let folder = before_the_merge().await;
            let output = child_to_merge(folder.path(), &format!("{fault} {at}"));
            if output.status.success() {
                assert!(at >= IMAGES as usize + 4, "{at} writes");
                break;
            }
            left += segments(folder.path()).iter().filter(|name| unfinished(name)).count();
            survives(folder.path(), &format!("killed {fault} {at}")).await;
        }
        assert_eq!(left, usize::from(fault == "within"), "{fault}");
    }
}

#[tokio::test]
async fn who_has_the_old_segments_reads_on() {
    let folder = before_the_merge().await;
    let store = folder.path().join("store");
    let [reader, writer] = [open(&store).await, open(&store).await];
    let old = segments(folder.path());
    add(&writer, folder.path(), IMAGES).await.unwrap();
    assert!(segments(folder.path()).iter().all(|name| !old.contains(name)));
    for number in 1..=IMAGES {
        let image = reader.resolve(&format!("image-{number}").parse().unwrap()).await.unwrap();
        let to = folder.path().join("exported");
        reader.export(&image, &to).await.unwrap();
        let disk = folder.path().join(number.to_string());
        assert!(fs::read(&to).unwrap() == fs::read(disk).unwrap());
    }
    // It merges what is gone into a segment of the same chunks.
    drop(reader);
    survives(folder.path(), "read beside").await;
}

#[tokio::test]
async fn two_processes_may_merge_at_once() {
    let folder = before_the_merge().await;
    let store = folder.path().join("store");
    let [one, other] = [open(&store).await, open(&store).await];
    let mut adds = tokio::task::JoinSet::new();
    for (number, repo) in [(IMAGES + 5, one), (IMAGES + 6, other)] {
        let folder = folder.path().to_owned();
        adds.spawn(async move { add(&repo, &folder, number).await.map(drop) });
    }
    for added in adds.join_all().await {
        added.unwrap();
    }
    survives(folder.path(), "two at once").await;
}

#[tokio::test]
async fn a_collection_removes_what_a_killed_merge_left_and_nothing_else() {
    let lab = Lab::new().await;
    let disk = sparse(&lab.path("disk"), MIB, &[(0, &noise(1, 100_000))]);
    lab.import(&disk, "one").await;
    let index = lab.store().join("index");
    let name = lab.files("index")[0].file_name().unwrap().to_str().unwrap().to_owned();
    let others = [name, "00.idx#1".to_owned(), "merged-00.idx.bak".to_owned()];
    for name in ["merged-00.idx#1", "merged-01.idx#12"]
        .into_iter()
        .chain(others[1..].iter().map(String::as_str))
    {
        fs::write(index.join(name), b"INGOT").unwrap();
    }
    lab.repo.collect_garbage().await.unwrap();
    let mut left: Vec<String> = lab
        .files("index")
        .iter()
        .map(|file| file.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    left.sort_unstable();
    let mut others = others.to_vec();
    others.sort_unstable();
    assert_eq!(left, others);
}

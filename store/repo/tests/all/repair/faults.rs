//! Repairs and names whose writes and reads fail, or whose process ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use store_format::PackName;
use store_format::segment::Segment;
use store_repo::{RepairReport, Repo};
use wire::Digest;

use super::{Stocked, donors, stocked};
use crate::common::faulty::{Fault, Plan, storage};
use crate::common::{import, open, options, sparse};
use crate::damage::flip;
use crate::faults::{child_to_repair, child_to_tag, child_work};
use crate::garbage::{expire_leases, same};

/// A store with a bit flipped in one pack, another pack and an envelope gone,
/// and a damaged index; beside it `other`, a store that has the second image.
async fn damaged() -> Stocked {
    let store = stocked().await;
    let other = open(&store.lab.path("other")).await;
    import(&other, &store.disks[1], options("two")).await.unwrap();
    flip(&store.packs[0], 500_000);
    fs::remove_file(&store.packs[1]).unwrap();
    let name = store.images[1].digest.hex();
    fs::remove_file(store.lab.store().join(format!("blobs/{}/{name}", &name[..2]))).unwrap();
    let segment = segment_of(&store, &store.packs[0]);
    let mut bytes = fs::read(&segment).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::remove_file(&segment).unwrap();
    fs::write(&segment, bytes).unwrap();
    store
}

/// The file of the index that lists a pack. Each import has written one, and which
/// comes first is for their digests: built again is only that of a pack that is
/// there.
fn segment_of(store: &Stocked, pack: &Path) -> PathBuf {
    let name: PackName = pack.file_name().unwrap().to_str().unwrap().parse().unwrap();
    let lists = |file: &PathBuf| {
        let bytes = fs::read(file).unwrap();
        Segment::open(&bytes).unwrap().packs().any(|pack| pack == name)
    };
    store.lab.files("index").into_iter().find(lists).unwrap()
}

async fn repair(folder: &Path, plan: &Arc<Plan>) -> Result<RepairReport, String> {
    let storage = storage(&folder.join("store"), plan);
    let repo = Arc::new(Repo::open_storage(storage).await.map_err(|e| e.to_string())?);
    let from = donors(&[&folder.join("other"), &folder.join("one")]).await;
    repo.repair(from).await.map_err(|error| wire::chain(&error))
}

/// What was good is good, and the next repair ends the work.
async fn survives(store: &Stocked, what: &str) {
    let folder = store.lab.folder.path();
    expire_leases(&store.lab.store()).await;
    let repo = open(&store.lab.store()).await;
    assert_eq!(repo.images().await.unwrap().len(), 2, "{what}");
    // A disk of which only good chunks are known is still known.
    let good = sparse(&store.lab.path("good"), 4 << 20, &[(0, &crate::common::noise(2, 3 << 20))]);
    let image = import(&repo, &good, options("good")).await.unwrap();
    assert_eq!(image.new_chunks, 0, "{what}");
    same(&store.lab, &repo, &image, &good).await;
    drop(repo);
    let report = repair(folder, &Plan::new(Fault::Refused, usize::MAX)).await.unwrap();
    assert_eq!(report.left, [], "{what}");
    store.all_is_well().await;
}

/// Repairs while the N-th write, or read, fails, for every N.
async fn may_fail(fault: Fault) {
    for at in 0.. {
        let store = damaged().await;
        let plan = Plan::new(fault, at);
        let done = repair(store.lab.folder.path(), &plan).await;
        let what = format!("{fault:?} {at}: {done:?}");
        if !plan.is_done() {
            // A pack, two segments and a blob written, a segment and a pack deleted.
            assert!(at >= 6 && done.unwrap().left.is_empty(), "{what}");
            store.all_is_well().await;
            break;
        }
        // A read that fails may be of what was damaged anyway.
        assert!(done.is_err() || fault == Fault::Unread, "{what}");
        survives(&store, &what).await;
    }
}

#[tokio::test]
async fn every_write_and_deletion_of_a_repair_may_fail() {
    may_fail(Fault::Refused).await;
    may_fail(Fault::Unsaid).await;
}

#[tokio::test]
async fn every_read_of_a_repair_may_fail() {
    may_fail(Fault::Unread).await;
}

#[tokio::test]
async fn a_repair_may_end_at_every_write_and_deletion() {
    for fault in ["before", "within", "after"] {
        for at in 0.. {
            let store = damaged().await;
            let output = child_to_repair(store.lab.folder.path(), &format!("{fault} {at}"));
            if output.status.success() {
                assert!(at >= 6, "{at} writes");
                store.all_is_well().await;
                break;
            }
            survives(&store, &format!("killed {fault} {at}")).await;
        }
    }
}

/// Does nothing unless it is the child of another test.
#[tokio::test]
async fn the_repair_of_a_child() {
    let Some((folder, plan)) = child_work() else { return };
    assert_eq!(repair(&folder, &plan).await.unwrap().left, []);
}

const NAMED: &str = "named as it was asked";

/// Does nothing unless it is the child of another test.
#[tokio::test]
async fn the_tag_of_a_child() {
    let Ok(folder) = std::env::var(crate::faults::FOLDER) else { return };
    let store = Path::new(&folder).join("store");
    let repo = Repo::open(store.to_str().unwrap()).await.unwrap();
    repo.tag(&"one".parse().unwrap(), &"new".parse().unwrap()).await.unwrap();
    println!("{NAMED}");
}

/// Names an image while every call of a kind, counted per thread, goes wrong
/// from the N-th on or ends the process, for every N; `two` is `new` before.
async fn tag_survives(calls: &str, how: &str) {
    let store = stocked().await;
    let [one, two]: [Digest; 2] = [store.images[0].digest, store.images[1].digest];
    let [first, second, new] = ["one", "two", "new"].map(|name| name.parse().unwrap());
    store.lab.repo.collect_garbage().await.unwrap();
    for at in 1.. {
        let repo = open(&store.lab.store()).await;
        repo.tag(&second, &new).await.unwrap();
        drop(repo);
        let inject = format!("inject={calls}:{how}:when={at}");
        let trace = format!("trace={calls}");
        let log = store.lab.path("calls");
        let log = log.to_str().unwrap();
        let strace = ["strace", "-f", "-qq", "-o", log, "-e", &trace, "-e", &inject];
        let output = child_to_tag(store.lab.folder.path(), &strace);
        let was_hit =
            fs::read_to_string(log).unwrap().contains("INJECTED") || !output.status.success();
        let repo = open(&store.lab.store()).await;
        let named = repo.resolve(&new).await.unwrap();
        assert!(named == one || (named == two && !said(&output)), "{at}: {output:?}");
        assert_eq!(repo.resolve(&first).await.unwrap(), one, "{at}");
        assert_eq!(repo.check(true).await.unwrap().problems, [], "{at}");
        assert_eq!(repo.tag(&first, &new).await.unwrap(), one, "{at}");
        assert_eq!(repo.resolve(&new).await.unwrap(), one, "{at}");
        if !was_hit {
            assert!(at > 2 && said(&output), "{at}: {output:?}");
            break;
        }
    }
    store.all_is_well().await;
}

fn said(output: &Output) -> bool {
    String::from_utf8_lossy(&output.stdout).contains(NAMED)
}

#[tokio::test]
async fn every_write_of_a_tag_may_fail() {
    tag_survives("pwrite64", "error=EIO").await;
    tag_survives("fsync,fdatasync", "error=EIO").await;
}

#[tokio::test]
async fn every_read_of_a_tag_may_fail() {
    tag_survives("pread64", "error=EIO").await;
}

#[tokio::test]
async fn a_tag_may_end_at_every_write() {
    tag_survives("pwrite64,fsync,fdatasync,ftruncate,unlink", "signal=KILL").await;
}

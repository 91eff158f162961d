//! Removing garbage: beside imports and readers, with writes that fail and
//! processes that end.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use futures::TryStreamExt;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection};
use store_format::Locations;
use store_repo::{
    GarbageError, GarbageReport, ImportError, Imported, Piece, ReadError, Repo, Source,
};
use tokio::task::JoinHandle;

use crate::common::faulty::{Fault, Plan, storage};
use crate::common::{Lab, MIB, import, noise, open, options, sparse};
use crate::faults::{child_to_collect, child_work};

/// Runs a statement on the records, as nothing but a test may.
pub async fn sql(store: &Path, statement: &str) {
    let options = SqliteConnectOptions::new().filename(store.join("store.db"));
    let mut records = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query(AssertSqlSafe(statement)).execute(&mut records).await.unwrap();
    records.close().await.unwrap();
}

/// As if all who took a lease had been silent for long.
pub async fn expire_leases(store: &Path) {
    sql(store, "UPDATE leases SET expires_ms = 0").await;
}

pub async fn whole(repo: &Arc<Repo>) {
    assert_eq!(repo.check(true).await.unwrap().problems, []);
}

pub async fn same(lab: &Lab, repo: &Arc<Repo>, image: &Imported, disk: &Path) {
    let to = lab.path("exported");
    repo.export(&image.digest, &to).await.unwrap();
    assert!(fs::read(&to).unwrap() == fs::read(disk).unwrap(), "{}", disk.display());
}

fn bytes_of(files: &[PathBuf]) -> u64 {
    files.iter().map(|file| file.metadata().unwrap().len()).sum()
}

/// Two disks: `one` has 1 MiB that `two` has too, and 3 MiB of its own; `two`
/// has 1 MiB of its own.
fn two_disks(lab: &Lab) -> [PathBuf; 2] {
    let shared = noise(1, 1 << 20);
    [
        sparse(&lab.path("one"), 8 * MIB, &[(0, &shared), (2 * MIB, &noise(2, 3 << 20))]),
        sparse(&lab.path("two"), 8 * MIB, &[(0, &shared), (6 * MIB, &noise(3, 1 << 20))]),
    ]
}

#[tokio::test]
async fn what_no_name_needs_goes_and_the_rest_is_as_before() {
    let lab = Lab::new().await;
    let [one, two] = two_disks(&lab);
    let first = lab.import(&one, "one").await;
    let second = lab.import(&two, "two").await;
    assert_eq!(lab.repo.collect_garbage().await.unwrap(), GarbageReport::default());

    lab.repo.remove(&"one".parse().unwrap()).await.unwrap();
    let (packs, blobs) = (lab.files("packs"), lab.files("blobs"));
    let before = bytes_of(&packs) + bytes_of(&blobs);
    let plan = lab.repo.garbage().await.unwrap();
    assert_eq!(plan.images, [first.digest]);
    // The first pack has what both need, and three times as much beside.
    assert_eq!((plan.packs.len(), plan.rewrites.len(), plan.blobs), (0, 1, 2));
    assert_eq!((lab.files("packs"), lab.files("blobs")), (packs, blobs), "a plan changes nothing");

    let report = lab.repo.collect_garbage().await.unwrap();
    assert_eq!((&report.images, report.rewritten, report.kept), (&plan.images, 1, 0));
    let after = bytes_of(&lab.files("packs")) + bytes_of(&lab.files("blobs"));
    assert_eq!(report.freed_bytes, before - after);
    assert!(report.freed_bytes.abs_diff(plan.freed_bytes) < 64 << 10, "{report:?} {plan:?}");
    whole(&lab.repo).await;
    same(&lab, &lab.repo, &second, &two).await;
    // Others that had it open find what has moved, and what is gone.
    let other = open(&lab.store()).await;
    same(&lab, &other, &second, &two).await;
    assert!(other.resolve(&format!("one@{}", first.digest).parse().unwrap()).await.is_err());
    assert_eq!(lab.repo.collect_garbage().await.unwrap(), GarbageReport::default());

    lab.repo.remove(&"two".parse().unwrap()).await.unwrap();
    lab.repo.collect_garbage().await.unwrap();
    assert_eq!((lab.files("packs").len(), lab.files("blobs").len()), (0, 0));
    let again = import(&other, &one, options("one")).await.unwrap();
    assert_eq!((again.digest, again.new_chunks), (first.digest, again.chunks));
    same(&lab, &lab.repo, &again, &one).await;
    whole(&lab.repo).await;
}

/// An import that has looked up what is stored, and waits.
pub struct Paused {
    resume: Sender<()>,
    import: JoinHandle<Result<Imported, ImportError>>,
}

pub async fn paused(repo: &Arc<Repo>, disk: &Path, name: &str) -> Paused {
    let (resume, go_on): (_, Receiver<()>) = channel();
    let (reached, mut wait) = tokio::sync::mpsc::unbounded_channel();
    let (repo, disk, options) = (Arc::clone(repo), disk.to_owned(), options(name));
    let import = tokio::spawn(async move {
        repo.import(Source::Path(disk), options, move |_| {
            if reached.send(()).is_ok() {
                // Once only: afterwards nobody holds the other end.
                let _ = go_on.recv();
            }
        })
        .await
    });
    wait.recv().await.unwrap();
    Paused { resume, import }
}

impl Paused {
    pub async fn resume(self) -> Result<Imported, ImportError> {
        drop(self.resume);
        self.import.await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_import_found_stays_until_it_needs_it() {
    let lab = Lab::new().await;
    let [one, _] = two_disks(&lab);
    lab.import(&one, "one").await;
    let importing = paused(&open(&lab.store()).await, &one, "again").await;
    lab.repo.remove(&"one".parse().unwrap()).await.unwrap();
    let report = lab.repo.collect_garbage().await.unwrap();
    // A pack, an envelope and a chunk table.
    assert_eq!((report.images.len(), report.deleted, report.kept), (1, 0, 3));
    // It is in nobody's way who comes later.
    let [_, two] = two_disks(&lab);
    let later = lab.import(&two, "two").await;
    assert_eq!(later.new_chunks, later.chunks, "what is condemned does not count as stored");

    let imported = importing.resume().await.unwrap();
    assert_eq!(imported.new_chunks, 0);
    let report = lab.repo.collect_garbage().await.unwrap();
    assert_eq!((report.images.len(), report.kept), (0, 0));
    whole(&lab.repo).await;
    same(&lab, &lab.repo, &imported, &one).await;
    same(&lab, &lab.repo, &later, &two).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_was_taken_for_dead_is_told_so() {
    let lab = Lab::new().await;
    let [one, _] = two_disks(&lab);
    lab.import(&one, "one").await;
    let importing = paused(&open(&lab.store()).await, &one, "again").await;
    lab.repo.remove(&"one".parse().unwrap()).await.unwrap();
    expire_leases(&lab.store()).await;
    let report = lab.repo.collect_garbage().await.unwrap();
    assert_eq!((report.deleted, report.kept), (3, 0));
    assert!(matches!(importing.resume().await, Err(ImportError::Lapsed)));
    assert!(lab.repo.resolve(&"again".parse().unwrap()).await.is_err());
    let again = lab.import(&one, "again").await;
    same(&lab, &lab.repo, &again, &one).await;
    whole(&lab.repo).await;
}

#[tokio::test]
async fn what_is_being_read_stays_until_it_is_read() {
    let lab = Lab::new().await;
    let content = noise(5, 48 << 20);
    let disk = sparse(&lab.path("disk"), 48 * MIB, &[(0, &content)]);
    let image = lab.import(&disk, "disk").await;
    let mut pieces = lab.repo.read(&image.digest).await.unwrap();
    let mut read = Vec::new();
    let other = open(&lab.store()).await;
    other.remove(&"disk".parse().unwrap()).await.unwrap();
    let report = other.collect_garbage().await.unwrap();
    assert_eq!((report.deleted, report.kept), (0, 3));
    // A plan counts once what waits.
    let plan = other.garbage().await.unwrap();
    assert_eq!((plan.packs.len(), plan.blobs, plan.waiting), (0, 0, 3));
    assert_eq!((plan.freed_bytes, plan.waiting_bytes), (report.kept_bytes, report.kept_bytes));
    while let Some(piece) = pieces.try_next().await.unwrap() {
        let Piece::Data { bytes, .. } = piece else { panic!("a hole") };
        read.extend_from_slice(&bytes);
    }
    assert!(read == content);
    let report = other.collect_garbage().await.unwrap();
    assert_eq!((report.deleted, report.kept, lab.files("packs").len()), (3, 0, 0));
}

#[tokio::test]
async fn what_a_machine_was_told_about_stays_for_an_hour() {
    let lab = Lab::new().await;
    let [one, two] = two_disks(&lab);
    let image = lab.import(&one, "one").await;
    lab.import(&two, "two").await;
    let told = crate::common::told(&lab.repo, &image.digest).await.unwrap();
    let other = open(&lab.store()).await;
    other.remove(&"one".parse().unwrap()).await.unwrap();
    assert!(other.collect_garbage().await.unwrap().kept >= 3);
    for pack in Locations::decode(&told).unwrap().packs {
        assert!(lab.repo.pack_len(&pack).await.unwrap() > 0);
    }
    // Whoever asks now is told where it lasts.
    let two = lab.repo.resolve(&"two".parse().unwrap()).await.unwrap();
    let told = crate::common::told(&lab.repo, &two).await.unwrap();
    sql(&lab.store(), "UPDATE leases SET expires_ms = 0 WHERE began = 0").await;
    let report = other.collect_garbage().await.unwrap();
    assert!(report.deleted >= 3 && report.kept == 0, "{report:?}");
    for pack in Locations::decode(&told).unwrap().packs {
        assert!(lab.repo.pack_len(&pack).await.unwrap() > 0);
    }
    whole(&lab.repo).await;
}

#[tokio::test]
async fn one_collects_at_a_time_and_a_dead_one_not_for_ever() {
    let lab = Lab::new().await;
    let now = "CAST(strftime('%s', 'now') AS INTEGER) * 1000";
    let until = |end: &str| format!("INSERT INTO leases VALUES ('x', 'gc', 0, {end})");
    sql(&lab.store(), &until(&format!("{now} + 300000"))).await;
    let error = lab.repo.collect_garbage().await.unwrap_err();
    assert!(matches!(error, GarbageError::Busy), "{error:?}");
    expire_leases(&lab.store()).await;
    lab.repo.collect_garbage().await.unwrap();
    // One that died while the clock was years ahead.
    sql(&lab.store(), &until("9000000000000")).await;
    lab.repo.collect_garbage().await.unwrap();
}

#[tokio::test]
async fn nothing_goes_while_an_image_cannot_be_read() {
    let lab = Lab::new().await;
    let [one, two] = two_disks(&lab);
    lab.import(&one, "one").await;
    let pack = lab.files("packs").remove(0);
    lab.import(&two, "two").await;
    lab.repo.remove(&"one".parse().unwrap()).await.unwrap();
    let kept = fs::read(&pack).unwrap();
    // What is needed of it cannot be copied.
    let mut bytes = kept.clone();
    bytes[1000] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let error = lab.repo.collect_garbage().await.unwrap_err();
    assert!(matches!(error, GarbageError::Pack(ReadError::Pack { .. })), "{error:?}");
    fs::remove_file(&pack).unwrap();
    let error = lab.repo.collect_garbage().await.unwrap_err();
    assert!(matches!(error, GarbageError::Image { .. }), "{error:?}");
    fs::write(&pack, kept).unwrap();
    assert_eq!(lab.repo.collect_garbage().await.unwrap().images.len(), 1);
    whole(&lab.repo).await;
}

/// What the clock or a long rewrite may do: the lease of a paused import is
/// forgotten, a deletion fails after others succeeded, the import goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_was_forgotten_does_not_come_back_when_a_deletion_fails() {
    for at in 0.. {
        let lab = Lab::new().await;
        let [one, _] = two_disks(&lab);
        lab.import(&one, "one").await;
        lab.repo.remove(&"one".parse().unwrap()).await.unwrap();
        let importing = paused(&open(&lab.store()).await, &one, "again").await;
        expire_leases(&lab.store()).await;
        let plan = Plan::new(Fault::Refused, at);
        let repo = Arc::new(Repo::open_storage(storage(&lab.store(), &plan)).await.unwrap());
        let done = repo.collect_garbage().await;
        let resumed = importing.resume().await;
        whole(&lab.repo).await;
        assert!(matches!(resumed, Err(ImportError::Lapsed)), "{at}: {resumed:?}");
        if done.is_ok() {
            assert!(at >= 3, "{at} deletions");
            break;
        }
    }
}

#[tokio::test]
async fn what_is_needed_is_not_read_from_a_damaged_index() {
    let bytes = {
        let (lab, ..) = stocked().await;
        fs::read(&lab.files("index")[0]).unwrap().len()
    };
    for at in (0..bytes).step_by(bytes / 24) {
        let (lab, disk, image) = stocked().await;
        let index = lab.files("index");
        let mut damaged = fs::read(&index[0]).unwrap();
        damaged[at] ^= 0x10;
        fs::write(&index[0], damaged).unwrap();
        let repo = open(&lab.store()).await;
        repo.collect_garbage().await.unwrap();
        whole(&repo).await;
        same(&lab, &repo, &image, &disk).await;
    }
}

/// A store with `one`, removed, and `two`; what it holds when all is done.
async fn stocked() -> (Lab, PathBuf, Imported) {
    let lab = Lab::new().await;
    let [one, two] = two_disks(&lab);
    lab.import(&one, "one").await;
    let image = lab.import(&two, "two").await;
    lab.repo.remove(&"one".parse().unwrap()).await.unwrap();
    (lab, two, image)
}

/// What a broken collection leaves is a whole store, and the next one ends it.
async fn survives(lab: &Lab, disk: &Path, image: &Imported, what: &str) {
    let repo = open(&lab.store()).await;
    assert_eq!(repo.check(true).await.unwrap().problems, [], "{what}");
    same(lab, &repo, image, disk).await;
    expire_leases(&lab.store()).await;
    repo.collect_garbage().await.unwrap();
    let report = repo.check(true).await.unwrap();
    assert_eq!(report.problems, [], "{what}");
    assert_eq!((report.packs, report.unneeded_packs), (2, 0), "{what}");
    assert_eq!((report.chunks, lab.files("blobs").len()), (image.chunks, 2), "{what}");
    same(lab, &repo, image, disk).await;
}

#[tokio::test]
async fn every_write_and_deletion_of_a_collection_may_fail() {
    for fault in [Fault::Refused, Fault::Unsaid] {
        for at in 0.. {
            let (lab, disk, image) = stocked().await;
            let plan = Plan::new(fault, at);
            let repo = Arc::new(Repo::open_storage(storage(&lab.store(), &plan)).await.unwrap());
            let done = repo.collect_garbage().await;
            assert_eq!(done.is_err(), plan.is_done(), "{done:?}");
            survives(&lab, &disk, &image, &format!("{fault:?} {at}")).await;
            if done.is_ok() {
                // A pack and a segment written, a pack and two blobs deleted.
                assert!(at >= 5, "{at} writes");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_collection_may_end_at_every_write_and_deletion() {
    for fault in ["before", "within", "after"] {
        for at in 0.. {
            let (lab, disk, image) = stocked().await;
            let output = child_to_collect(&lab.store(), &format!("{fault} {at}"));
            survives(&lab, &disk, &image, &format!("killed {fault} {at}")).await;
            if output.status.success() {
                assert!(at >= 5, "{at} writes");
                break;
            }
        }
    }
}

/// Does nothing unless it is the child of another test.
#[tokio::test]
async fn the_collection_of_a_child() {
    let Some((store, plan)) = child_work() else { return };
    let repo = Arc::new(Repo::open_storage(storage(&store, &plan)).await.unwrap());
    repo.collect_garbage().await.unwrap();
}

/// A number from a seed, below a limit.
fn dice(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % below
}

/// Imports, renames and removes, and looks at what it was told is stored.
async fn busy(store: PathBuf, folder: PathBuf, seed: u64) {
    let repo = open(&store).await;
    let mut state = seed;
    for round in 0..12 {
        let parts = [dice(&mut state, 4), dice(&mut state, 4)].map(|part| noise(part, 400_000));
        let disk = folder.join(format!("disk-{seed}"));
        sparse(&disk, 2 * MIB, &[(0, &parts[0]), (MIB, &parts[1])]);
        let name = format!("image-{seed}:{}", dice(&mut state, 3));
        let image = import(&repo, &disk, options(&name)).await.unwrap();
        let to = folder.join(format!("to-{seed}"));
        repo.export(&image.digest, &to).await.unwrap_or_else(|e| panic!("{round}: {e:?}"));
        assert!(fs::read(&to).unwrap() == fs::read(&disk).unwrap());
        if dice(&mut state, 2) == 0 {
            repo.remove(&name.parse().unwrap()).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_readers_and_collections_at_once_lose_nothing() {
    for seed in 0..4 {
        let lab = Lab::new().await;
        let workers: Vec<_> = (0..2)
            .map(|worker| {
                let (store, folder) = (lab.store(), lab.folder.path().to_owned());
                tokio::spawn(busy(store, folder, seed * 10 + worker))
            })
            .collect();
        let collector = open(&lab.store()).await;
        while !workers.iter().all(JoinHandle::is_finished) {
            match collector.collect_garbage().await {
                Ok(_) | Err(GarbageError::Restless) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        for worker in workers {
            worker.await.unwrap();
        }
        whole(&collector).await;
        collector.collect_garbage().await.unwrap();
        let report = collector.check(true).await.unwrap();
        assert_eq!((report.problems.len(), report.unneeded_packs), (0, 0));
    }
}

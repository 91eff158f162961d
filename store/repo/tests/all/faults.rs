//! Writes that fail, processes that end, disks that are full or read-only:
//! what was reported stored stays, and trying again works.
use std::collections::HashSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use crate::common::faulty::{Fault, Plan, storage};
use crate::common::{MIB, import, noise, open, options, sparse};
use store_repo::{ImportError, Imported, OpenError, Repo};
use wire::Digest;

/// Set for the process that does the work: the folder.
pub const FOLDER: &str = "STORE_TEST_FOLDER";
/// And how it ends.
const FAULT: &str = "STORE_TEST_FAULT";

/// Makes a store if there is none, and imports two images that share half.
async fn work(folder: &Path, plan: &Arc<Plan>) -> Result<Vec<Imported>, String> {
    let storage = storage(&folder.join("store"), plan);
    match Repo::create(&storage).await {
        Ok(()) | Err(OpenError::NotAStore { .. }) => {}
        Err(error) => return Err(error.to_string()),
    }
    let repo = Arc::new(Repo::open_storage(storage).await.map_err(|e| e.to_string())?);
    let mut done = Vec::new();
    for name in ["one", "two"] {
        let imported = import(&repo, &folder.join(name), options(name)).await;
        done.push(imported.map_err(|e| e.to_string())?);
        // What the caller was told: the truth to hold the store to.
        fs::write(folder.join(format!("{name}.told")), done.last().unwrap().digest.to_string())
            .unwrap();
    }
    Ok(done)
}

fn disks(folder: &Path) {
    let shared = noise(1, 700_000);
    fs::create_dir(folder.join("store")).unwrap();
    sparse(&folder.join("one"), 4 * MIB, &[(0, &shared), (2 * MIB, &noise(2, 500_000))]);
    sparse(&folder.join("two"), 4 * MIB, &[(0, &shared), (2 * MIB, &noise(3, 500_000))]);
}

/// Opens the store without faults: everything that was told is there and
/// right, and the work can be done again.
async fn survives(folder: &Path, what: &str) {
    let store = folder.join("store");
    if fs::read_dir(&store).unwrap().next().is_some() {
        let repo = open(&store).await;
        let report = repo.check(true).await.unwrap();
        assert_eq!(report.problems, [], "{what}");
        for name in ["one", "two"] {
            let Ok(told) = fs::read_to_string(folder.join(format!("{name}.told"))) else {
                continue;
            };
            assert_eq!(repo.resolve(&name.parse().unwrap()).await.unwrap(), digest(&told));
            let exported = folder.join("exported");
            repo.export(&digest(&told), &exported).await.unwrap();
            assert!(fs::read(&exported).unwrap() == fs::read(folder.join(name)).unwrap(), "{what}");
        }
    }
    let again = work(folder, &Plan::new(Fault::Refused, usize::MAX)).await.unwrap();
    assert_eq!(again.len(), 2, "{what}");
    let report = open(&store).await.check(true).await.unwrap();
    assert_eq!(report.problems, [], "{what}");
    // Nothing is stored twice: what a broken try left is taken up.
    let names = chunks(&open(&store).await, &again).await;
    assert_eq!(report.chunks, names.len() as u64, "{what}");
}

async fn chunks(repo: &Arc<Repo>, images: &[Imported]) -> HashSet<Digest> {
    let mut names = HashSet::new();
    for image in images {
        let table = repo.table(&image.digest).await.unwrap();
        names.extend(table.distinct().map(|(id, _)| id));
    }
    names
}

fn digest(text: &str) -> Digest {
    text.parse().unwrap()
}

#[tokio::test]
async fn every_write_may_fail() {
    for fault in [Fault::Refused, Fault::Unsaid] {
        for at in 0.. {
            let folder = tempfile::tempdir().unwrap();
            disks(folder.path());
            let plan = Plan::new(fault, at);
            let done = work(folder.path(), &plan).await;
            assert_eq!(done.is_err(), plan.is_done(), "{done:?}");
            if done.is_ok() {
                assert!(at >= 9, "{at} writes");
                break;
            }
            survives(folder.path(), &format!("{fault:?} {at}")).await;
        }
    }
}

/// This test again, as a process of its own; what it does is in its environment.
fn child(folder: &Path, fault: &str, wrapper: &[&str]) -> Output {
    child_that("faults::the_work_of_a_child", folder, fault, wrapper)
}

/// A process that collects the garbage of a store.
pub fn child_to_collect(store: &Path, fault: &str) -> Output {
    child_that("garbage::the_collection_of_a_child", store, fault, &[])
}

/// A process that imports what leads to a merge of the index.
pub fn child_to_merge(folder: &Path, fault: &str) -> Output {
    child_that("merging::the_merge_of_a_child", folder, fault, &[])
}

/// A process that repairs a store.
pub fn child_to_repair(folder: &Path, fault: &str) -> Output {
    child_that("repair::faults::the_repair_of_a_child", folder, fault, &[])
}

/// A process that names an image, and whose system calls go wrong as strace is told.
pub fn child_to_tag(folder: &Path, trace: &[&str]) -> Output {
    child_that("repair::faults::the_tag_of_a_child", folder, "none", trace)
}

fn child_that(does: &str, folder: &Path, fault: &str, wrapper: &[&str]) -> Output {
    let test = env::current_exe().unwrap();
    let (program, arguments) = match wrapper {
        [program, rest @ ..] => {
            (PathBuf::from(program), [rest, &[test.to_str().unwrap()]].concat())
        }
        [] => (test, Vec::new()),
    };
    Command::new(program)
        .args(arguments)
        .args(["--exact", does, "--nocapture"])
        .env(FOLDER, folder)
        .env(FAULT, fault)
        .output()
        .unwrap()
}

/// Does nothing unless it is the child of another test.
#[tokio::test]
async fn the_work_of_a_child() {
    match (child_work(), env::var(FOLDER)) {
        (Some((folder, plan)), _) => drop(work(&folder, &plan).await.unwrap()),
        (None, Ok(folder)) => say(Path::new(&folder)).await,
        (None, Err(_)) => {}
    }
}

/// The folder that this process is to work in as a child, and how it ends.
pub fn child_work() -> Option<(PathBuf, Arc<Plan>)> {
    let (folder, fault) = (env::var(FOLDER).ok()?, env::var(FAULT).ok()?);
    let (kind, at) = fault.split_once(' ')?;
    let kind = match kind {
        "before" => Fault::KilledBefore,
        "within" => Fault::KilledWithin,
        "after" => Fault::KilledAfter,
        other => panic!("{other}"),
    };
    Some((PathBuf::from(folder), Plan::new(kind, at.parse().unwrap())))
}

/// Imports into the store and prints how that went.
async fn say(folder: &Path) {
    let url = folder.join("store").display().to_string();
    let repo = match Repo::open_or_create(&url).await {
        Ok(repo) => Arc::new(repo),
        Err(OpenError::Storage { source, .. }) => return println!("said: {source}"),
        Err(other) => return println!("said: {other:?}"),
    };
    match import(&repo, &folder.join("three"), options("three")).await {
        Err(ImportError::Storage(error)) => println!("said: {error}"),
        other => println!("said: {other:?}"),
    }
}

#[tokio::test]
async fn the_process_may_end_at_every_write() {
    for fault in ["before", "within", "after"] {
        for at in 0.. {
            let folder = tempfile::tempdir().unwrap();
            disks(folder.path());
            let output = child(folder.path(), &format!("{fault} {at}"), &[]);
            if output.status.success() {
                assert!(at >= 9, "{at} writes");
                break;
            }
            survives(folder.path(), &format!("killed {fault} {at}")).await;
        }
    }
}

fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.split_once("said: "));
    line.map(|(_, said)| said.to_owned()).unwrap_or_else(|| panic!("{output:?}"))
}

#[tokio::test]
async fn a_full_disk_is_named_and_harms_nothing() {
    let folder = tempfile::tempdir().unwrap();
    disks(folder.path());
    let large = noise(7, 6 << 20);
    sparse(&folder.path().join("three"), 8 * MIB, &[(0, &large)]);
    let store = folder.path().join("store");
    let store = store.to_str().unwrap();
    let size = (4 << 20).to_string();
    let small = ["bwrap", "--dev-bind", "/", "/", "--size", &size, "--tmpfs", store];
    let said = said(&child(folder.path(), "none", &small));
    assert!(said.starts_with("the store has no space left for packs/"), "{said}");
}

#[tokio::test]
async fn a_read_only_store_is_named() {
    let folder = tempfile::tempdir().unwrap();
    disks(folder.path());
    work(folder.path(), &Plan::new(Fault::Refused, usize::MAX)).await.unwrap();
    sparse(&folder.path().join("three"), 4 * MIB, &[(0, &noise(8, 1 << 20))]);
    let store = folder.path().join("store");
    let store = store.to_str().unwrap();
    let said = said(&child(
        folder.path(),
        "none",
        &["bwrap", "--dev-bind", "/", "/", "--ro-bind", store, store],
    ));
    assert!(said.starts_with("the store refuses access to"), "{said}");
    survives(folder.path(), "read-only").await;
}

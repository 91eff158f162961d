//! How much memory an image of many chunks takes:
//! `cargo run -p store-repo --example large FOLDER PARTITIONS`.
//!
//! Makes a disk whose partitions have 100,000 chunks each, 512 bytes every one,
//! and does each step with it in a process of its own. Of memory the peaks are
//! shown: of what is resident, mapped files included, and of the process's own.
#![expect(clippy::unwrap_used, reason = "a panic is how a measurement fails")]

#[path = "../../tests/memory/disk.rs"]
mod disk;
#[path = "../../tests/memory/write.rs"]
mod write;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use store_repo::{ImportOptions, Repo, Source};

const STEPS: [&str; 12] = [
    "make",
    "import",
    "again",
    "export",
    "write",
    "check",
    "check-data",
    "show",
    "list",
    "gc-plan",
    "remove",
    "gc",
];

#[tokio::main]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        [folder, partitions] => {
            let folder = tempfile::tempdir_in(folder).unwrap();
            let program = std::env::current_exe().unwrap();
            for step in STEPS {
                let mut child = Command::new(&program);
                let done = child.arg(folder.path()).args([partitions, step]).status().unwrap();
                assert!(done.success(), "{step} failed: {done}");
            }
        }
        [folder, partitions, step] => {
            let (began, own) = (Instant::now(), watch());
            run(step, Path::new(folder), partitions.parse().unwrap()).await;
            println!(
                "{step:10} {:6.1} s, at most {:4} MiB resident, {:4} MiB of its own",
                began.elapsed().as_secs_f64(),
                status_kib("VmHWM:") >> 10,
                own.load(Ordering::Relaxed) >> 10,
            );
        }
        _ => panic!("give a folder to work in and the number of partitions"),
    }
}

/// Notes the most that this process has of its own, as far as it is seen.
fn watch() -> Arc<AtomicU64> {
    let most = Arc::new(AtomicU64::new(0));
    let noted = Arc::clone(&most);
    std::thread::spawn(move || {
        loop {
            noted.fetch_max(status_kib("RssAnon:"), Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    most
}

/// A line of what the kernel says about this process.
fn status_kib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

async fn run(step: &str, folder: &Path, partitions: u64) {
    let disk = folder.join("disk");
    let open = || async {
        let store = folder.join("store");
        Arc::new(Repo::open_or_create(store.to_str().unwrap()).await.unwrap())
    };
    match step {
        "make" => disk::make(&disk, partitions, 0),
        "import" | "again" => {
            let reference = Some(format!("image:{step}").parse().unwrap());
            let options = ImportOptions { reference, ..ImportOptions::default() };
            let image = open().await.import(Source::Path(disk), options, |_| {}).await.unwrap();
            println!("{} chunks, {} of them new", image.chunks, image.new_chunks);
        }
        "export" => {
            let repo = open().await;
            let image = repo.resolve(&"image:import".parse().unwrap()).await.unwrap();
            repo.export(&image, &folder.join("back")).await.unwrap();
        }
        "write" => {
            let repo = open().await;
            let image = repo.resolve(&"image:import".parse().unwrap()).await.unwrap();
            write::write(&repo, &image).await;
        }
        "check" | "check-data" => {
            let report = open().await.check(step == "check-data").await.unwrap();
            assert_eq!(report.problems, []);
        }
        "show" => {
            let repo = open().await;
            let image = repo.resolve(&"image:import".parse().unwrap()).await.unwrap();
            repo.details(&image).await.unwrap();
            repo.sharing(&image).await.unwrap();
        }
        "list" => drop(open().await.images().await.unwrap()),
        "gc-plan" => drop(open().await.garbage().await.unwrap()),
        "remove" => {
            let repo = open().await;
            for name in ["image:import", "image:again"] {
                repo.remove(&name.parse().unwrap()).await.unwrap();
            }
        }
        "gc" => drop(open().await.collect_garbage().await.unwrap()),
        other => panic!("there is no step {other:?}"),
    }
}

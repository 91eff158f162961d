//! How a store of many chunks behaves: `cargo xtask bench index`.
//!
//! Generates a store whose packs have tables, and holes where their frames
//! would be, then measures each step in a process of its own, so that none
//! profits from the memory of another. Files are in the page cache; of several
//! runs the least is shown, and of memory the peak of what is resident, mapped
//! files included.
#![expect(clippy::unwrap_used, reason = "a panic is how a measurement fails")]

mod generate;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use futures::TryStreamExt;
use generate::{Plan, chunk_id};
use store_format::Locations;
use store_repo::Repo;
use wire::{Digest, Reference};

/// Look-ups of each kind.
const LOOK_UPS: u64 = 1_000_000;
/// How often what changes nothing is measured.
const RUNS: usize = 3;

#[tokio::main]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        [folder, chunks] => all(Path::new(folder), chunks.parse().unwrap()),
        [folder, chunks, step] => {
            let plan = Plan::new(chunks.parse().unwrap());
            let began = Stopwatch::start();
            run(step, Path::new(folder), &plan).await;
            began.figures("seconds", 1.0);
            let segments = std::fs::read_dir(Path::new(folder).join("index")).unwrap();
            figure("segments", segments.count() as f64);
            figure("resident MiB", status_kib("VmHWM:") / 1024.0);
            figure("own MiB at the end", status_kib("RssAnon:") / 1024.0);
        }
        _ => panic!("give a folder to work in and the number of chunks"),
    }
}

/// All steps, one after the other.
fn all(folder: &Path, chunks: u64) {
    let plan = Plan::new(chunks);
    let folder = tempfile::tempdir_in(folder).unwrap();
    println!("{} chunks in {} packs, {} images", plan.chunks(), plan.packs(), plan.images);
    let read = [("open", RUNS), ("look-up", RUNS)];
    // The index as it grew, and as it is when it was built again.
    let steps = [("generate", 1)].into_iter().chain(read).chain([("rebuild", 1)]).chain(read);
    let collect = [("gc-plan", RUNS), ("remove", 1), ("gc", 1), ("gc-plan", 1)];
    // Last: who is told where chunks are has a lease, which a collection would wait for.
    for (step, runs) in steps.chain(collect).chain([("locations", RUNS)]) {
        let mut least: BTreeMap<String, f64> = BTreeMap::new();
        for _ in 0..runs {
            for (name, value) in child(step, folder.path(), chunks) {
                let known = least.entry(name).or_insert(value);
                *known = known.min(value);
            }
        }
        let shown: Vec<_> =
            least.iter().map(|(name, value)| format!("{name} {value:.3}")).collect();
        println!("{step:10} {}", shown.join(", "));
    }
}

/// One step in a process of its own.
fn child(step: &str, folder: &Path, chunks: u64) -> Vec<(String, f64)> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(folder).arg(chunks.to_string()).arg(step).stderr(Stdio::inherit());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{step} failed: {}", output.status);
    let text = String::from_utf8(output.stdout).unwrap();
    let pairs = text.lines().map(|line| line.split_once('\t').unwrap());
    pairs.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

fn figure(name: &str, value: f64) {
    println!("{name}\t{value}");
}

/// A line of what the kernel says about this process.
fn status_kib(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Time that passes, and time that this process works: the second says more
/// where others work beside.
struct Stopwatch {
    began: Instant,
    worked: f64,
}

impl Stopwatch {
    fn start() -> Stopwatch {
        Stopwatch { began: Instant::now(), worked: worked_seconds() }
    }

    fn figures(&self, name: &str, per_second: f64) {
        figure(name, self.began.elapsed().as_secs_f64() * per_second);
        figure(&format!("{name} of work"), (worked_seconds() - self.worked) * per_second);
    }
}

/// Seconds of processors that this process used, in steps of ten milliseconds.
fn worked_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // The name may have spaces, and stands in parentheses.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks =
        fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<f64>().unwrap());
    ticks.sum::<f64>() / 100.0
}

async fn open(folder: &Path) -> Arc<Repo> {
    Arc::new(Repo::open(&folder.display().to_string()).await.unwrap())
}

async fn run(step: &str, folder: &Path, plan: &Plan) {
    match step {
        "generate" => plan.generate(folder).await,
        "rebuild" => {
            std::fs::remove_dir_all(folder.join("index")).unwrap();
            drop(open(folder).await);
        }
        "open" => {
            let began = Stopwatch::start();
            let _repo = open(folder).await;
            began.figures("ms", 1e3);
        }
        "look-up" => look_up(folder, plan).await,
        "locations" => {
            let repo = open(folder).await;
            let image = repo.resolve(&plan.reference(0)).await.unwrap();
            let began = Stopwatch::start();
            let read = repo.locations_read(&image).await.unwrap();
            let parts: Vec<_> = read.bytes.try_collect().await.unwrap();
            let found = Locations::decode(&parts.concat()).unwrap();
            began.figures("us per chunk", 1e6 / found.chunks.len() as f64);
        }
        "gc-plan" => {
            let found = open(folder).await.garbage().await.unwrap();
            assert!(found.rewrites.is_empty(), "{:?}", found.rewrites.first());
            figure("packs", found.packs.len() as f64);
        }
        "remove" => {
            let repo = open(folder).await;
            for image in (0..plan.images).filter(|image| image % 2 == 1) {
                let reference: Reference = plan.reference(image);
                repo.remove(&reference).await.unwrap();
            }
        }
        "gc" => {
            let report = open(folder).await.collect_garbage().await.unwrap();
            assert_eq!((report.rewritten, report.kept), (0, 0));
            figure("objects", report.deleted as f64);
        }
        other => panic!("there is no step {other:?}"),
    }
}

/// Ids that are there, and ids that are not, in no order.
async fn look_up(folder: &Path, plan: &Plan) {
    let repo = open(folder).await;
    let known = |n: u64| chunk_id(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % plan.chunks());
    let unknown = |n: u64| chunk_id(plan.chunks() + n);
    let id_of: [(&str, &dyn Fn(u64) -> Digest); 2] =
        [("known us", &known), ("unknown us", &unknown)];
    for (name, id) in id_of {
        let ids: Vec<Digest> = (0..LOOK_UPS).map(id).collect();
        // The first time maps what was never touched.
        for warm in [false, true] {
            let began = Stopwatch::start();
            let found = repo.holds(&ids);
            assert!(found.iter().all(|found| *found == (name == "known us")));
            if warm {
                began.figures(name, 1e6 / ids.len() as f64);
            }
        }
    }
}

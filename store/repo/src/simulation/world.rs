//! The processes, what they share, and what they do.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt, path};
use sqlx::AssertSqlSafe;
use store_format::{Locations, PackName};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use wire::Digest;

use super::gate::{Event, Gate, Gated, Op};
use crate::database::{Clock, Database};
use crate::{
    GarbageError, ImportError, ImportOptions, Piece, Problem, ReadError, Repo, Source, Storage,
};

/// An object that is there before all others.
pub(super) const ALWAYS: &str = "always";
const STRIDE: usize = 128 << 10;

/// Disks that are imported again and again: each number is content of its own,
/// at a stride.
const PARTS: [&[u64]; 6] = [&[0, 1, 2], &[2, 3], &[0], &[3, 4, 5, 0], &[1, 5], &[]];

/// What there is to be imported, and what it must come back as.
pub(super) struct Disks {
    _folder: tempfile::TempDir,
    pub files: Vec<PathBuf>,
    pub bytes: Vec<Vec<u8>>,
    pub images: Vec<Digest>,
}

/// Files in memory, where there are such: nothing here is to last.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}

impl Disks {
    pub(super) async fn new() -> Disks {
        let folder = folder();
        let store = folder.path().join("store");
        let repo = Arc::new(Repo::open_or_create(store.to_str().unwrap()).await.unwrap());
        let (mut files, mut all, mut images) = (Vec::new(), Vec::new(), Vec::new());
        for (number, parts) in PARTS.iter().enumerate() {
            let path = folder.path().join(number.to_string());
            let mut bytes = vec![0; (parts.len() + 1) * STRIDE];
            let file = File::create(&path).unwrap();
            file.set_len(bytes.len() as u64).unwrap();
            for (at, part) in parts.iter().enumerate() {
                let content = &mut bytes[at * STRIDE..][..20_000 + 3_000 * *part as usize];
                blake3::Hasher::new().update(&part.to_le_bytes()).finalize_xof().fill(content);
                file.write_all_at(content, (at * STRIDE) as u64).unwrap();
            }
            let source = Source::Path(path.clone());
            let image = repo.import(source, ImportOptions::default(), |_| {}).await.unwrap();
            images.push(image.digest);
            files.push(path);
            all.push(bytes);
        }
        Disks { _folder: folder, files, bytes: all, images }
    }

    pub(super) fn bytes_of(&self, image: &Digest) -> Option<&[u8]> {
        let at = self.images.iter().position(|known| known == image)?;
        Some(&self.bytes[at])
    }
}

/// What a process may be told to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Task {
    Import { disk: usize, name: String },
    Remove { name: String },
    Read { image: Digest },
    Check,
    Tell { image: Digest },
    Collect,
}

#[derive(Debug)]
pub(super) enum Outcome {
    Imported(Digest),
    Removed,
    Read(Vec<u8>),
    Checked(Vec<Problem>),
    Told(Vec<PackName>),
    Collected,
    /// It was not to be, and it was said why.
    Refused,
    Failed(String),
}

/// A task that is under way.
pub(super) struct Running {
    pub task: Task,
    pub handle: JoinHandle<()>,
    pub outcome: Arc<Mutex<Option<Outcome>>>,
    /// A reader has been given its stream.
    pub began: Arc<AtomicBool>,
    /// The clock did what ends leases early: it may fail.
    pub excused: bool,
    /// The clock jumped, under it or under somebody who is still at work.
    pub shaken: bool,
    /// The image was without a record at a time.
    pub absent: bool,
}

#[derive(Default)]
pub(super) struct Process {
    pub gate: Option<Arc<Gate>>,
    pub repo: Option<Arc<Repo>>,
    pub running: Option<Running>,
    pub parked: Option<(Op, tokio::sync::oneshot::Sender<()>)>,
    /// It waits in the middle of a transaction that writes.
    pub writes: bool,
}

/// What all processes share.
pub(super) struct World {
    pub home: tempfile::TempDir,
    pub objects: Arc<InMemory>,
    pub time: Arc<AtomicU64>,
    pub events: mpsc::UnboundedReceiver<Event>,
    sender: mpsc::UnboundedSender<Event>,
    pub blind: bool,
    /// Looks at the records, and is never held.
    pub observer: Database,
}

impl World {
    /// `sabotage`: a statement that takes a safeguard away.
    pub(super) async fn new(sabotage: Option<&str>, blind: bool) -> World {
        let (home, objects) = (folder(), Arc::new(InMemory::new()));
        objects.put(&path::Path::from(ALWAYS), "x".into()).await.unwrap();
        let time = Arc::new(AtomicU64::new(1_800_000_000_000));
        let clock = clock(&time);
        let pool = sqlx::sqlite::SqlitePoolOptions::new();
        let observer = Database::open_by(home.path(), true, pool, clock).await.unwrap();
        if let Some(sabotage) = sabotage {
            sqlx::query(AssertSqlSafe(sabotage)).execute(observer.pool()).await.unwrap();
        }
        let (sender, events) = mpsc::unbounded_channel();
        World { home, objects, time, events, sender, blind, observer }
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.time.load(Ordering::SeqCst)
    }

    /// Starts a process.
    pub(super) async fn boot(&self, number: usize) -> Process {
        let gate = Gate::new(number, &self.sender, self.blind);
        let gated = |inner| Arc::new(Gated { inner, gate: Arc::clone(&gate) });
        let local = LocalFileSystem::new_with_prefix(self.home.path()).unwrap();
        let objects: Arc<dyn ObjectStore> = Arc::clone(&self.objects) as _;
        let home = self.home.path().to_owned();
        let (objects, local) = (gated(objects), gated(Arc::new(local)));
        let name = "simulated".to_owned();
        let storage = Storage { objects, local, home, name, blocks: None };
        let clock = clock(&self.time);
        let opened = Database::open_by(self.home.path(), true, gate.pool(), clock).await;
        let repo = Repo::over(storage, opened.unwrap()).await.unwrap();
        Process { gate: Some(gate), repo: Some(Arc::new(repo)), ..Process::default() }
    }
}

fn clock(time: &Arc<AtomicU64>) -> Clock {
    let time = Arc::clone(time);
    Arc::new(move || time.load(Ordering::SeqCst))
}

impl Process {
    /// Begins a task; it goes as far as the gate.
    pub(super) fn start(&mut self, task: Task, disks: &Disks) {
        let (repo, gate) = (Arc::clone(self.repo.as_ref().unwrap()), self.gate.clone().unwrap());
        let outcome = Arc::new(Mutex::new(None));
        let began = Arc::new(AtomicBool::new(false));
        gate.hold();
        let (result, begins, work) = (Arc::clone(&outcome), Arc::clone(&began), task.clone());
        let disk = match &task {
            Task::Import { disk, .. } => disks.files[*disk].clone(),
            _ => PathBuf::new(),
        };
        let handle = tokio::spawn(async move {
            let ended = work.run(&repo, disk, &begins).await;
            *result.lock().unwrap() = Some(ended);
            drop(repo);
            gate.done();
        });
        let (excused, shaken, absent) = (false, false, false);
        self.running = Some(Running { task, handle, outcome, began, excused, shaken, absent });
    }

    /// Ends the process where it waits: nothing of it runs any more.
    pub(super) async fn kill(&mut self) {
        let (Some(gate), Some(repo)) = (self.gate.take(), self.repo.take()) else { return };
        gate.kill();
        let closed = repo.database.pool().close();
        if let Some(running) = self.running.take() {
            running.handle.abort();
            let _ = running.handle.await;
        }
        // What waits in threads is told that it is dead.
        self.parked = None;
        self.writes = false;
        closed.await;
    }
}

impl Task {
    async fn run(self, repo: &Arc<Repo>, disk: PathBuf, began: &AtomicBool) -> Outcome {
        let failed = |error: &dyn std::error::Error| Outcome::Failed(wire::chain(error));
        match self {
            Task::Import { name, .. } => {
                let reference = Some(name.parse().unwrap());
                let options = ImportOptions { reference, ..ImportOptions::default() };
                match repo.import_with(Source::Path(disk), options, 1, |_| {}).await {
                    Ok(imported) => Outcome::Imported(imported.digest),
                    Err(error @ ImportError::Broken) => panic!("{error}"),
                    Err(error) => failed(&error),
                }
            }
            Task::Remove { name } => match repo.remove(&name.parse().unwrap()).await {
                Ok(()) => Outcome::Removed,
                Err(error) => failed(&error),
            },
            Task::Read { image } => match read(repo, &image, began).await {
                Ok(bytes) => Outcome::Read(bytes),
                Err(error) => failed(&error),
            },
            Task::Check => match repo.check(false).await {
                Ok(report) => Outcome::Checked(report.problems),
                Err(error) => failed(&error),
            },
            Task::Tell { image } => match tell(repo, &image).await {
                Ok(packs) => Outcome::Told(packs),
                Err(error) => failed(&error),
            },
            Task::Collect => match repo.collect_garbage().await {
                Ok(_) => Outcome::Collected,
                Err(GarbageError::Busy | GarbageError::Restless) => Outcome::Refused,
                Err(error) => failed(&error),
            },
        }
    }
}

async fn tell(repo: &Arc<Repo>, image: &Digest) -> Result<Vec<PackName>, ReadError> {
    let parts: Vec<_> = repo.locations_read(image).await?.bytes.try_collect().await?;
    Ok(Locations::decode(&parts.concat()).unwrap().packs)
}

async fn read(repo: &Arc<Repo>, image: &Digest, began: &AtomicBool) -> Result<Vec<u8>, ReadError> {
    let mut pieces = repo.read(image).await?;
    began.store(true, Ordering::SeqCst);
    let mut all = Vec::new();
    while let Some(piece) = pieces.try_next().await? {
        match piece {
            Piece::Hole { bytes, .. } => all.resize(all.len() + bytes as usize, 0),
            Piece::Data { bytes, .. } => all.extend_from_slice(&bytes),
        }
    }
    Ok(all)
}

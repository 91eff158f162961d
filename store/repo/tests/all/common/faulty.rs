//! An object store whose N-th write goes wrong, and that notes what is read.

use std::fmt;
use std::path::Path as FilePath;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use store_repo::Storage;

/// How a write goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing was written, and the writer is told so.
    Refused,
    /// Everything was written, but the writer is told that it was not.
    Unsaid,
    /// The process ends before.
    KilledBefore,
    /// The process ends in the middle: a part is in a file beside.
    KilledWithin,
    /// The process ends after.
    KilledAfter,
    /// No write goes wrong, but the disk does not give what is in the packs.
    Unreadable,
    /// No write goes wrong, but the disk does not give byte `at` of any pack.
    BadSector,
    /// No write goes wrong; a read does, once.
    Unread,
}

/// Counts writes, or reads, over all stores that share it, and breaks one.
#[derive(Debug)]
pub struct Plan {
    pub fault: Fault,
    /// Number of the write or read, from 0; or of the byte.
    pub at: usize,
    count: AtomicUsize,
    read: Mutex<Vec<(String, Option<GetRange>)>>,
}

#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn ObjectStore>,
    home: std::path::PathBuf,
    plan: Arc<Plan>,
}

impl Plan {
    pub fn new(fault: Fault, at: usize) -> Arc<Plan> {
        Arc::new(Plan { fault, at, count: AtomicUsize::new(0), read: Mutex::default() })
    }

    /// Breaks nothing.
    pub fn harmless() -> Arc<Plan> {
        Plan::new(Fault::Refused, usize::MAX)
    }

    /// The ranges of packs that were read since this was asked last.
    pub fn pack_reads(&self) -> Vec<(String, std::ops::Range<u64>)> {
        let read = std::mem::take(&mut *self.read.lock().unwrap());
        let packs = read.into_iter().filter(|(key, _)| key.starts_with("packs/"));
        packs
            .map(|(key, range)| match range {
                Some(GetRange::Bounded(range)) => (key, range),
                other => panic!("{key} was read by {other:?}"),
            })
            .collect()
    }

    /// Whether the write or read was reached.
    pub fn is_done(&self) -> bool {
        self.count.load(Ordering::SeqCst) > self.at
    }

    /// Whether this write is the one.
    fn hits_write(&self) -> bool {
        !matches!(self.fault, Fault::Unread | Fault::BadSector)
            && self.count.fetch_add(1, Ordering::SeqCst) == self.at
    }

    /// Whether this read is one that the disk does not answer.
    fn hits_read(&self, location: &Path, options: &GetOptions) -> bool {
        let is_pack = location.as_ref().starts_with("packs/");
        match (self.fault, &options.range) {
            (Fault::Unread, _) => self.count.fetch_add(1, Ordering::SeqCst) == self.at,
            (Fault::Unreadable, _) => is_pack,
            (Fault::BadSector, Some(GetRange::Bounded(range))) => {
                is_pack && range.contains(&(self.at as u64))
            }
            (Fault::BadSector, _) => is_pack && !options.head,
            _ => false,
        }
    }
}

/// A folder whose writes follow a plan.
pub fn storage(folder: &FilePath, plan: &Arc<Plan>) -> Storage {
    let mut storage = Storage::folder(folder).unwrap();
    let home = storage.home.clone();
    let wrap = |inner: &Arc<dyn ObjectStore>| -> Arc<dyn ObjectStore> {
        let (inner, home) = (Arc::clone(inner), home.clone());
        Arc::new(Faulty { inner, home, plan: Arc::clone(plan) })
    };
    (storage.objects, storage.local) = (wrap(&storage.objects), wrap(&storage.local));
    storage
}

/// As if the power went: nothing of the process runs any more.
fn die() -> ! {
    std::process::abort()
}

fn refusal() -> Error {
    let source = Box::new(std::io::Error::other("a write that fails on purpose"));
    Error::Generic { store: "faulty", source }
}

/// A file that is written in parts, whose last act may be the one that goes
/// wrong.
#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    fault: Fault,
    hit: bool,
}

#[async_trait::async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        if self.hit && self.fault == Fault::KilledWithin {
            die();
        }
        let done = self.inner.complete().await;
        match self.fault {
            Fault::Unsaid if self.hit => Err(refusal()),
            Fault::KilledAfter if self.hit => die(),
            _ => done,
        }
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

#[async_trait::async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let hit = self.plan.hits_write();
        match self.plan.fault {
            Fault::Refused if hit => return Err(refusal()),
            Fault::KilledBefore if hit => die(),
            Fault::KilledWithin if hit => {
                let mut file = self.home.join(location.as_ref()).into_os_string();
                file.push("#1");
                let file = std::path::PathBuf::from(file);
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                let bytes = payload.iter().next().unwrap();
                std::fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
                die()
            }
            _ => {}
        }
        let done = self.inner.put_opts(location, payload, options).await;
        match self.plan.fault {
            Fault::Unsaid if hit => Err(refusal()),
            Fault::KilledAfter if hit => die(),
            _ => done,
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let hit = self.plan.hits_write();
        match self.plan.fault {
            Fault::Refused if hit => return Err(refusal()),
            Fault::KilledBefore if hit => die(),
            _ => {}
        }
        let inner = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(FaultyUpload { inner, fault: self.plan.fault, hit }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        // Asking for the length reads nothing.
        if !options.head {
            let note = (location.to_string(), options.range.clone());
            self.plan.read.lock().unwrap().push(note);
        }
        if self.plan.hits_read(location, &options) {
            let source = Box::new(std::io::Error::from_raw_os_error(5));
            return Err(Error::Generic { store: "faulty", source });
        }
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let hit = self.plan.hits_write();
        if !hit {
            return self.inner.delete_stream(locations);
        }
        let error = || Error::Generic {
            store: "faulty",
            source: Box::new(std::io::Error::other("a deletion that fails on purpose")),
        };
        match self.plan.fault {
            Fault::Refused => stream::once(async move { Err(error()) }).boxed(),
            Fault::KilledBefore | Fault::KilledWithin => die(),
            Fault::Unsaid => self.inner.delete_stream(locations).map(move |_| Err(error())).boxed(),
            Fault::KilledAfter => self.inner.delete_stream(locations).map(|_| die()).boxed(),
            Fault::Unreadable | Fault::BadSector | Fault::Unread => {
                self.inner.delete_stream(locations)
            }
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

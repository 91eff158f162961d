//! Where the scheduler holds a process: before every access to an object, and
//! before every statement or transaction.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use sqlx::sqlite::SqlitePoolOptions;
use tokio::sync::{mpsc, oneshot};

/// What a process is about to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Op {
    /// A statement or a transaction.
    Records,
    Get(Path),
    Head(Path),
    Put(Path),
    Delete(Path),
    List(Path),
    /// Half of a list is there.
    ListOn(Path),
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Records => f.write_str("records"),
            Op::Get(path) => write!(f, "get {path}"),
            Op::Head(path) => write!(f, "head {path}"),
            Op::Put(path) => write!(f, "put {path}"),
            Op::Delete(path) => write!(f, "delete {path}"),
            Op::List(path) => write!(f, "list {path}"),
            Op::ListOn(path) => write!(f, "list more {path}"),
        }
    }
}

/// What the scheduler is told.
pub(super) enum Event {
    /// A process waits for its turn.
    Parked { process: usize, op: Op, go: oneshot::Sender<()> },
    /// What a process was to do has ended.
    Done(usize),
}

/// How a process goes through the gate.
const FREE: u8 = 0;
const HELD: u8 = 1;
const DEAD: u8 = 2;

/// The gate of one process.
#[derive(Debug)]
pub(super) struct Gate {
    process: usize,
    state: AtomicU8,
    events: mpsc::UnboundedSender<Event>,
    /// Objects are there for whoever looks, whether they are or not.
    pub blind: bool,
}

impl Gate {
    pub(super) fn new(
        process: usize,
        events: &mpsc::UnboundedSender<Event>,
        blind: bool,
    ) -> Arc<Gate> {
        let (state, events) = (AtomicU8::new(FREE), events.clone());
        Arc::new(Gate { process, state, events, blind })
    }

    /// The process waits before whatever it does.
    pub(super) fn hold(&self) {
        self.state.store(HELD, Ordering::SeqCst);
    }

    /// What the process does from now on concerns nobody.
    pub(super) fn free(&self) {
        self.state.store(FREE, Ordering::SeqCst);
    }

    /// Nothing that the process does from now on has any effect.
    pub(super) fn kill(&self) {
        self.state.store(DEAD, Ordering::SeqCst);
    }

    pub(super) fn done(&self) {
        self.free();
        let _ = self.events.send(Event::Done(self.process));
    }

    /// Waits for the turn; an error for the dead.
    async fn pass(&self, op: Op) -> Result<()> {
        let dead = || Error::Generic { store: "gate", source: "the process was killed".into() };
        match self.state.load(Ordering::SeqCst) {
            FREE => return Ok(()),
            HELD => {}
            _ => return Err(dead()),
        }
        let (go, turn) = oneshot::channel();
        self.events.send(Event::Parked { process: self.process, op, go }).map_err(|_| dead())?;
        turn.await.map_err(|_| dead())
    }

    /// Connections that wait at the gate each time that somebody takes one.
    pub(super) fn pool(self: &Arc<Gate>) -> SqlitePoolOptions {
        let (new, old) = (Arc::clone(self), Arc::clone(self));
        // Whoever waits long waits for the scheduler, or there is a defect.
        SqlitePoolOptions::new()
            .acquire_timeout(Duration::from_secs(600))
            .after_connect(move |_, _| {
                let gate = Arc::clone(&new);
                let passed = async move { gate.pass(Op::Records).await };
                passed.map(|passed| passed.map_err(|_| sqlx::Error::PoolClosed)).boxed()
            })
            .before_acquire(move |_, _| {
                let gate = Arc::clone(&old);
                async move { Ok(gate.pass(Op::Records).await.is_ok()) }.boxed()
            })
    }
}

/// Objects behind the gate of a process.
#[derive(Debug)]
pub(super) struct Gated {
    pub inner: Arc<dyn ObjectStore>,
    pub gate: Arc<Gate>,
}

impl fmt::Display for Gated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gated {}", self.inner)
    }
}

/// An object that is written in parts: it is there with the last act, which
/// waits at the gate.
#[derive(Debug)]
struct GatedUpload {
    inner: Box<dyn MultipartUpload>,
    gate: Arc<Gate>,
    location: Path,
}

#[async_trait::async_trait]
impl MultipartUpload for GatedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.gate.pass(Op::Put(self.location.clone())).await?;
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

#[async_trait::async_trait]
impl ObjectStore for Gated {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.gate.pass(Op::Put(location.clone())).await?;
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let (gate, location) = (Arc::clone(&self.gate), location.clone());
        let inner = self.inner.put_multipart_opts(&location, options).await?;
        Ok(Box::new(GatedUpload { inner, gate, location }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if !options.head {
            self.gate.pass(Op::Get(location.clone())).await?;
            return self.inner.get_opts(location, options).await;
        }
        self.gate.pass(Op::Head(location.clone())).await?;
        let found = self.inner.get_opts(location, options.clone()).await;
        match found {
            Err(Error::NotFound { .. }) if self.gate.blind => {
                self.inner.get_opts(&Path::from(crate::simulation::world::ALWAYS), options).await
            }
            other => other,
        }
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let gate = Arc::clone(&self.gate);
        let passed = locations.and_then(move |location| {
            let gate = Arc::clone(&gate);
            async move { gate.pass(Op::Delete(location.clone())).await.map(|()| location) }
        });
        self.inner.delete_stream(passed.boxed())
    }

    /// In two parts, between which others may do something.
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (inner, gate) = (Arc::clone(&self.inner), Arc::clone(&self.gate));
        let prefix = prefix.cloned().unwrap_or_default();
        let middle = Path::from(format!("{prefix}/80"));
        let halves = async move {
            gate.pass(Op::List(prefix.clone())).await?;
            let mut found: Vec<_> = inner.list(Some(&prefix)).try_collect().await?;
            found.retain(|meta| meta.location < middle);
            gate.pass(Op::ListOn(prefix.clone())).await?;
            let rest: Vec<_> = inner.list(Some(&prefix)).try_collect().await?;
            found.extend(rest.into_iter().filter(|meta| meta.location >= middle));
            Ok::<_, Error>(stream::iter(found).map(Ok))
        };
        stream::once(halves).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

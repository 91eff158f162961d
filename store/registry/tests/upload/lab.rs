//! Images to send, and a store that takes them.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use store_format::frame::Sealer;
use store_format::upload::{decode_ids, encode_commit, encode_ids};
use store_format::{ChunkTable, Envelope, Extent};
use store_registry::{Limits, Metrics, Uploads, upload_routes};
use store_repo::{ImportOptions, Repo, Source};
use tower::ServiceExt;
use wire::Digest;
use wire::api::ErrorBody;
use wire::upload::{Begun, State, Stored};

pub const MIB: usize = 1 << 20;

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[seed]);
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// An image, with the plain bytes of its chunks.
#[derive(Clone)]
pub struct Image {
    pub disk: Vec<u8>,
    pub envelope: Envelope,
    pub table: ChunkTable,
    pub chunks: Vec<(Digest, Vec<u8>)>,
}

impl Image {
    /// As another store has it.
    pub async fn of(disk: Vec<u8>) -> Image {
        let folder = tempfile::tempdir().unwrap();
        let repo = open(folder.path()).await;
        let digest = import(&repo, &disk, None).await;
        let envelope = repo.envelope(&digest).await.unwrap();
        let table = repo.table(&digest).await.unwrap();
        let (mut chunks, mut at) = (Vec::new(), 0);
        let mut wanted = table.distinct().peekable();
        for extent in table.regions.iter().flatten() {
            let end = at + usize::try_from(extent.bytes()).unwrap();
            if let Extent::Chunk { id, .. } = extent
                && wanted.next_if(|(next, _)| next == id).is_some()
            {
                chunks.push((*id, disk[at..end].to_vec()));
            }
            at = end;
        }
        drop(wanted);
        Image { disk, envelope, table, chunks }
    }

    /// 3 MiB of noise, a hole of 1 MiB, and 1 MiB of noise that all share.
    pub async fn sample(seed: u8) -> Image {
        let disk = [noise(seed, 3 * MIB), vec![0; MIB], noise(0, MIB)].concat();
        Image::of(disk).await
    }

    pub fn ids(&self) -> Vec<Digest> {
        self.chunks.iter().map(|(id, _)| *id).collect()
    }

    pub fn digest(&self) -> Digest {
        self.envelope.digest()
    }

    pub fn commit(&self) -> Vec<u8> {
        encode_commit(&self.envelope.to_bytes(), &self.table.encode())
    }
}

/// Chunks in frames of at most 2 MiB.
pub fn frames(chunks: &[(Digest, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut sealer = Sealer::new(1).unwrap();
    let mut frames = Vec::new();
    let (mut lens, mut plain) = (Vec::new(), Vec::new());
    let mut seal = |lens: &mut Vec<u32>, plain: &mut Vec<u8>| {
        let mut frame = Vec::new();
        sealer.seal(lens, plain, &mut frame).unwrap();
        lens.clear();
        plain.clear();
        frame
    };
    for (_, chunk) in chunks {
        if plain.len() + chunk.len() > 2 * MIB {
            frames.push(seal(&mut lens, &mut plain));
        }
        lens.push(u32::try_from(chunk.len()).unwrap());
        plain.extend_from_slice(chunk);
    }
    if !lens.is_empty() {
        frames.push(seal(&mut lens, &mut plain));
    }
    frames
}

pub async fn open(folder: &std::path::Path) -> Arc<Repo> {
    let store = folder.join("store").display().to_string();
    Arc::new(Repo::open_or_create(&store).await.unwrap())
}

pub async fn import(repo: &Arc<Repo>, disk: &[u8], reference: Option<&str>) -> Digest {
    let source = Source::Stream(Box::new(std::io::Cursor::new(disk.to_vec())));
    let reference = reference.map(|text| text.parse().unwrap());
    let options = ImportOptions { reference, ..ImportOptions::default() };
    repo.import(source, options, |_| {}).await.unwrap().digest
}

/// A store that takes images.
pub struct Taker {
    pub folder: Arc<tempfile::TempDir>,
    pub repo: Arc<Repo>,
    pub metrics: Arc<Metrics>,
    pub uploads: Arc<Uploads>,
    pub router: Router,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json<T: DeserializeOwned>(&self) -> T {
        assert!(self.status.is_success(), "{}: {}", self.status, self.error());
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn error(&self) -> String {
        serde_json::from_slice::<ErrorBody>(&self.body).unwrap().error
    }
}

impl Taker {
    pub async fn new() -> Taker {
        Taker::with(Limits::default()).await
    }

    pub async fn with(limits: Limits) -> Taker {
        Taker::over(Arc::new(tempfile::tempdir().unwrap()), limits).await
    }

    async fn over(folder: Arc<tempfile::TempDir>, limits: Limits) -> Taker {
        let repo = open(folder.path()).await;
        let metrics = Arc::new(Metrics::default());
        let uploads = Uploads::new(Arc::clone(&repo), limits);
        let router = upload_routes(Some(Arc::clone(&uploads)), Arc::clone(&metrics));
        Taker { folder, repo, metrics, uploads, router }
    }

    /// The same store in another server: this one was killed, for all that it
    /// knows.
    pub async fn another(&self) -> Taker {
        Taker::over(Arc::clone(&self.folder), Limits::default()).await
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub async fn ask(&self, method: Method, path: &str) -> Answer {
        let request = Request::builder().method(method).uri(path).header("content-length", 0);
        self.send(request.body(Body::empty()).unwrap()).await
    }

    pub async fn post(&self, path: &str, body: &[u8]) -> Answer {
        let request = Request::post(path).header("content-length", body.len());
        self.send(request.body(Body::from(body.to_vec())).unwrap()).await
    }

    /// Path of a new upload.
    pub async fn begin(&self) -> String {
        let answer = self.ask(Method::POST, "/v1/uploads").await;
        assert_eq!(answer.status, StatusCode::CREATED);
        format!("/v1/uploads/{}", answer.json::<Begun>().upload)
    }

    pub async fn missing(&self, upload: &str, ids: &[Digest]) -> Vec<Digest> {
        let answer = self.post(&format!("{upload}/missing"), &encode_ids(ids)).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.error());
        decode_ids(&answer.body).unwrap()
    }

    pub async fn frames(&self, upload: &str, chunks: &[(Digest, Vec<u8>)]) {
        for frame in frames(chunks) {
            let answer = self.post(&format!("{upload}/frames"), &frame).await;
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.error());
        }
    }

    /// Commits, and waits for the end.
    pub async fn commit(&self, upload: &str, query: &str, body: &[u8]) -> Answer {
        let mut answer = self.post(&format!("{upload}/commit{query}"), body).await;
        while answer.status == StatusCode::ACCEPTED {
            assert!(matches!(answer.json(), State::Verifying { .. }));
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            answer = self.ask(Method::GET, upload).await;
        }
        answer
    }

    pub async fn stored(&self, upload: &str, query: &str, image: &Image) -> Stored {
        match self.commit(upload, query, &image.commit()).await.json() {
            State::Stored(stored) => stored,
            other => panic!("{other:?}"),
        }
    }

    /// Sends and commits an image, and sees that it is there.
    pub async fn take(&self, image: &Image) -> Stored {
        let upload = self.begin().await;
        self.frames(&upload, &image.chunks).await;
        let stored = self.stored(&upload, "", image).await;
        self.has(image).await;
        stored
    }

    /// The image comes out as it was, and the store is whole.
    pub async fn has(&self, image: &Image) {
        let to = self.folder.path().join("exported");
        self.repo.export(&image.digest(), &to).await.unwrap();
        assert!(std::fs::read(&to).unwrap() == image.disk);
        assert_eq!(self.repo.check(true).await.unwrap().problems, []);
    }
}

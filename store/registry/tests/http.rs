//! The routes, request by request.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use bytes::Bytes;
use futures::TryStreamExt;
use store_format::{ChunkTable, Envelope, Locations};
use store_registry::{Metrics, router};
use store_repo::{ImportOptions, Imported, Repo, Source};
use tower::ServiceExt;
use wire::api::ErrorBody;

struct Lab {
    folder: tempfile::TempDir,
    repo: Arc<Repo>,
    metrics: Arc<Metrics>,
    image: Imported,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Lab {
    async fn new() -> Lab {
        let folder = tempfile::tempdir().unwrap();
        let url = folder.path().join("store").display().to_string();
        let repo = Arc::new(Repo::open_or_create(&url).await.unwrap());
        let mut disk = vec![0; 2 << 20];
        let mut noise = blake3::Hasher::new().finalize_xof();
        noise.fill(&mut disk[..1 << 20]);
        let source = Source::Stream(Box::new(std::io::Cursor::new(disk)));
        let image = repo.import(source, ImportOptions::default(), |_| {}).await.unwrap();
        Lab { folder, repo, metrics: Arc::default(), image }
    }

    fn router(&self) -> Router {
        router(Arc::clone(&self.repo), Arc::clone(&self.metrics))
    }

    async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = self.router().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (parts, body) = answer.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &[]).await
    }

    async fn range(&self, path: &str, range: &str) -> Answer {
        self.ask(Method::GET, path, &[("range", range)]).await
    }

    fn image_path(&self, rest: &str) -> String {
        format!("/v1/images/{}{rest}", self.image.digest)
    }

    /// Path and bytes of the one pack.
    async fn pack(&self) -> (String, Vec<u8>) {
        let locations = self.repo.locations_read(&self.image.digest).await.unwrap();
        let locations: Vec<_> = locations.bytes.try_collect().await.unwrap();
        let name = Locations::decode(&locations.concat()).unwrap().packs[0].to_string();
        let file = self.folder.path().join("store/packs").join(&name[..2]).join(&name);
        (format!("/v1/packs/{name}"), std::fs::read(file).unwrap())
    }
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// The error, which is JSON and never stored.
    fn error(&self) -> String {
        assert_eq!(self.header("content-type"), "application/json");
        assert_eq!(self.header("cache-control"), "no-store");
        serde_json::from_slice::<ErrorBody>(&self.body).unwrap().error
    }
}

const FOR_EVER: &str = "public, max-age=31536000, immutable";

#[tokio::test]
async fn an_image_is_described() {
    let lab = Lab::new().await;
    let answer = lab.get(&lab.image_path("")).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("etag"), format!("\"{}\"", lab.image.digest.hex()));
    assert_eq!(answer.header("cache-control"), FOR_EVER);
    assert_eq!(answer.header("content-type"), "application/octet-stream");
    assert_eq!(answer.header("content-length"), answer.body.len().to_string());
    let envelope = Envelope::from_bytes(&answer.body).unwrap();
    assert_eq!(envelope.digest(), lab.image.digest);
    let table = ChunkTable::decode(&lab.get(&lab.image_path("/table")).await.body).unwrap();
    table.check(&envelope).unwrap();
    let answer = lab.get(&lab.image_path("/locations")).await;
    assert_eq!(answer.header("cache-control"), "no-store");
    let locations = Locations::decode(&answer.body).unwrap();
    assert_eq!(locations.chunks.len() as u64, lab.image.chunks);
    assert_eq!(lab.metrics.snapshot().image_requests, 3);
}

#[tokio::test]
async fn packs_are_sent_whole_or_in_part() {
    let lab = Lab::new().await;
    let (path, bytes) = lab.pack().await;
    let whole = lab.get(&path).await;
    assert_eq!((whole.status, whole.header("accept-ranges")), (StatusCode::OK, "bytes"));
    assert!(whole.body == bytes);
    assert_eq!(whole.header("content-length"), bytes.len().to_string());
    assert_eq!(whole.header("cache-control"), FOR_EVER);
    assert_eq!(whole.header("etag"), format!("\"{}\"", path.rsplit('/').next().unwrap()));
    let len = bytes.len();
    let mut sent = len;
    for (range, from, to) in [
        ("bytes=0-0".to_owned(), 0, 1),
        ("bytes=16-300015".to_owned(), 16, 300_016),
        ("bytes=1000-".to_owned(), 1000, len),
        ("bytes=-100".to_owned(), len - 100, len),
        (format!("bytes={}-{}", len - 1, u64::MAX), len - 1, len),
    ] {
        let part = lab.range(&path, &range).await;
        assert_eq!(part.status, StatusCode::PARTIAL_CONTENT, "{range}");
        assert!(part.body == bytes[from..to], "{range}");
        assert_eq!(part.header("content-range"), format!("bytes {from}-{}/{len}", to - 1));
        assert_eq!(part.header("content-length"), (to - from).to_string());
        sent += to - from;
    }
    let metrics = lab.metrics.snapshot();
    assert_eq!((metrics.pack_bytes, metrics.pack_requests), (sent as u64, 6));
}

#[tokio::test]
async fn ranges_outside_and_several_ranges() {
    let lab = Lab::new().await;
    let (path, bytes) = lab.pack().await;
    for range in [format!("bytes={}-", bytes.len()), "bytes=-0".to_owned()] {
        let answer = lab.range(&path, &range).await;
        assert_eq!(answer.status, StatusCode::RANGE_NOT_SATISFIABLE);
        assert_eq!(answer.header("content-range"), format!("bytes */{}", bytes.len()));
        assert!(answer.error().contains(&bytes.len().to_string()));
    }
    for range in ["bytes=0-1,4-5", "bytes=5-2", "pages=1-2", "nonsense"] {
        let answer = lab.range(&path, range).await;
        assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, bytes.len()), "{range}");
    }
    assert_eq!(lab.metrics.snapshot().failed_requests, 2);
}

#[tokio::test]
async fn conditions_are_kept() {
    let lab = Lab::new().await;
    let (path, bytes) = lab.pack().await;
    let etag = lab.get(&path).await.header("etag").to_owned();
    for known in [etag.clone(), format!("\"x\", {etag}"), format!("W/{etag}"), "*".to_owned()] {
        let answer = lab.ask(Method::GET, &path, &[("if-none-match", &known)]).await;
        assert_eq!((answer.status, answer.body.len()), (StatusCode::NOT_MODIFIED, 0));
        assert_eq!(answer.header("etag"), etag);
    }
    let image = lab.image_path("");
    let known = format!("\"{}\"", lab.image.digest.hex());
    let answer = lab.ask(Method::GET, &image, &[("if-none-match", &known)]).await;
    assert_eq!(answer.status, StatusCode::NOT_MODIFIED);
    let mine = lab.ask(Method::GET, &path, &[("range", "bytes=0-9"), ("if-range", &etag)]).await;
    assert_eq!(mine.status, StatusCode::PARTIAL_CONTENT);
    let other = lab.ask(Method::GET, &path, &[("range", "bytes=0-9"), ("if-range", "\"x\"")]).await;
    assert_eq!((other.status, other.body.len()), (StatusCode::OK, bytes.len()));
}

#[tokio::test]
async fn heads_have_no_bodies() {
    let lab = Lab::new().await;
    let (path, bytes) = lab.pack().await;
    let head = lab.ask(Method::HEAD, &path, &[("range", "bytes=0-9")]).await;
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
    assert_eq!(head.header("content-length"), bytes.len().to_string());
    assert_eq!(head.header("accept-ranges"), "bytes");
    let head = lab.ask(Method::HEAD, &lab.image_path(""), &[]).await;
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
    assert_ne!(head.header("content-length"), "");
    assert_eq!(lab.metrics.snapshot().pack_bytes, 0);
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let lab = Lab::new().await;
    let zeros = "0".repeat(64);
    for (path, status) in [
        ("/v1/images/blake3:00".to_owned(), StatusCode::BAD_REQUEST),
        ("/v1/images/..%2f..%2fetc/table".to_owned(), StatusCode::BAD_REQUEST),
        (format!("/v1/images/sha256:{zeros}/locations"), StatusCode::BAD_REQUEST),
        (format!("/v1/images/blake3:{zeros}"), StatusCode::NOT_FOUND),
        (format!("/v1/images/blake3:{zeros}/table"), StatusCode::NOT_FOUND),
        (format!("/v1/images/blake3:{zeros}/locations"), StatusCode::NOT_FOUND),
        ("/v1/packs/x".to_owned(), StatusCode::BAD_REQUEST),
        (format!("/v1/packs/{}", "AB".repeat(32)), StatusCode::BAD_REQUEST),
        (format!("/v1/packs/{zeros}"), StatusCode::NOT_FOUND),
        ("/v1/packs/".to_owned(), StatusCode::NOT_FOUND),
        ("/".to_owned(), StatusCode::NOT_FOUND),
    ] {
        let answer = lab.get(&path).await;
        assert_eq!(answer.status, status, "{path}");
        assert_ne!(answer.error(), "", "{path}");
    }
    let (path, _) = lab.pack().await;
    for path in [path, lab.image_path(""), lab.image_path("/table")] {
        let answer = lab.ask(Method::PUT, &path, &[]).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer.header("allow"), "GET, HEAD");
        assert!(answer.error().contains("PUT"));
    }
}

#[tokio::test]
async fn damage_is_an_error_without_places_of_the_servers_disk() {
    let lab = Lab::new().await;
    let hex = lab.image.digest.hex();
    let blob = lab.folder.path().join("store/blobs").join(&hex[..2]).join(&hex);
    std::fs::write(&blob, "{}").unwrap();
    let answer = lab.get(&lab.image_path("")).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    let error = answer.error();
    assert!(error.contains(&hex) && !error.contains(lab.folder.path().to_str().unwrap()));
}

#[tokio::test]
async fn a_larger_router_can_take_the_routes() {
    let lab = Lab::new().await;
    let routes = store_registry::routes(Arc::clone(&lab.repo), Arc::clone(&lab.metrics));
    let app = Router::new().route("/", axum::routing::get(|| async { "hello" })).merge(routes);
    for (path, status) in [("/", 200), (lab.image_path("").as_str(), 200), ("/x", 404)] {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        assert_eq!(app.clone().oneshot(request).await.unwrap().status(), status);
    }
}

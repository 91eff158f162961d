//! What is refused, and what is said about it.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use futures::{FutureExt, stream};
use store_format::upload::{COMMIT_BYTES_MAX, IDS_BYTES_MAX, encode_commit};
use store_format::{ChunkTable, Extent, digest_of, frame};
use store_registry::{Limits, upload_routes};
use tower::ServiceExt;

use crate::lab::{Image, Taker, frames};

/// A request of so many bytes that never come.
fn endless(path: &str, len: u64) -> Request<Body> {
    let never = stream::pending::<Result<bytes::Bytes, std::io::Error>>();
    let request = Request::post(path).header("content-length", len);
    request.body(Body::from_stream(never)).unwrap()
}

/// An image with a table and an envelope of another kind, as a commit.
fn with_table(image: &Image, change: impl FnOnce(&mut ChunkTable)) -> Vec<u8> {
    let mut table = image.table.clone();
    change(&mut table);
    encode_commit(&image.envelope.to_bytes(), &table.encode())
}

#[tokio::test]
async fn without_leave_nothing_is_taken() {
    let router = upload_routes(None, std::sync::Arc::default());
    for path in ["", "/x/missing", "/x/frames", "/x/commit"] {
        let request = Request::post(format!("/v1/uploads{path}")).body(Body::empty()).unwrap();
        let answer = router.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{path}");
        let body = axum::body::to_bytes(answer.into_body(), 4096).await.unwrap();
        assert!(String::from_utf8_lossy(&body).contains("uploads = true"));
    }
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let taker = Taker::new().await;
    let upload = taker.begin().await;
    for (method, path, status, said) in [
        (Method::GET, "/v1/uploads/0123".to_owned(), 404, "no upload \"0123\""),
        (Method::DELETE, "/v1/uploads/0123".to_owned(), 404, "begin another"),
        (Method::POST, "/v1/uploads/0123/frames".to_owned(), 404, "begin another"),
        (Method::PUT, format!("{upload}/frames"), 405, "use POST"),
        (Method::PUT, upload.clone(), 405, "use GET, DELETE"),
        (Method::GET, "/v1/uploads".to_owned(), 405, "use POST"),
        (Method::POST, format!("{upload}/frames"), 422, "cannot be opened"),
        (Method::POST, format!("{upload}/commit"), 400, "a commit"),
        (Method::POST, format!("{upload}/commit?reference=Web"), 400, "is not an image name"),
        (Method::POST, format!("{upload}/commit?reference=w&reference=w"), 400, "reference"),
    ] {
        let answer = taker.ask(method, &path).await;
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.error().contains(said), "{path}: {}", answer.error());
        assert_eq!(answer.headers.contains_key("allow"), status == 405);
    }
    let answer = taker.post(&format!("{upload}/missing"), &[7; 33]).await;
    assert_eq!((answer.status.as_u16(), answer.error().contains("cut short")), (400, true));
    // Other methods are answered before anybody counts.
    assert_eq!(taker.metrics.snapshot().failed_requests, 8);
}

#[tokio::test]
async fn what_is_too_long_is_refused_before_it_is_read() {
    let taker = Taker::new().await;
    let upload = taker.begin().await;
    for (path, limit) in [
        ("missing", IDS_BYTES_MAX as u64),
        ("frames", u64::from(frame::FRAME_MAX)),
        ("commit", COMMIT_BYTES_MAX as u64),
    ] {
        let path = format!("{upload}/{path}");
        let answer = taker.send(endless(&path, limit + 1)).await;
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "{path}");
        assert!(answer.error().contains(&limit.to_string()), "{}", answer.error());
        let unsaid = Request::post(&path).body(endless(&path, 1).into_body()).unwrap();
        assert_eq!(taker.send(unsaid).await.status, StatusCode::LENGTH_REQUIRED, "{path}");
        // Less than was announced.
        let short = Request::post(&path).header("content-length", 9).body(Body::from("four"));
        assert_eq!(taker.send(short.unwrap()).await.status, StatusCode::BAD_REQUEST, "{path}");
    }
}

#[tokio::test]
async fn those_that_have_stored_their_image_take_no_more_memory() {
    let image = Image::sample(1).await;
    let taker = Taker::with(Limits { uploads: 1, ..Limits::default() }).await;
    let mut paths = Vec::new();
    for _ in 0..2 {
        let upload = taker.begin().await;
        taker.frames(&upload, &image.chunks).await;
        taker.stored(&upload, "", &image).await;
        paths.push(format!("{upload}/frames"));
    }
    let mut calls: Vec<_> = (0..4).map(|_| Box::pin(taker.send(endless(&paths[0], 9)))).collect();
    for call in &mut calls {
        assert!(call.now_or_never().is_none());
    }
    // It would be refused at once.
    let mut more = Box::pin(taker.send(endless(&paths[1], u64::from(frame::FRAME_MAX) + 1)));
    assert!((&mut more).now_or_never().is_none());
    calls.pop();
    assert_eq!(more.await.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_damaged_frame_gives_no_chunk() {
    let (taker, image) = (Taker::new().await, Image::sample(1).await);
    let upload = taker.begin().await;
    let path = format!("{upload}/frames");
    let frame = frames(&image.chunks[..8]).remove(0);
    for at in [0, 4, 20, frame.len() / 3] {
        let mut damaged = frame.clone();
        damaged[at] ^= 1;
        let answer = taker.post(&path, &damaged).await;
        // A raw frame is damaged in one chunk only, which then is another one.
        assert_eq!(answer.status.as_u16(), if at > 1000 { 200 } else { 422 }, "{at}");
    }
    let answer = taker.post(&path, &frame[..frame.len() - 1]).await;
    assert_eq!((answer.status.as_u16(), answer.error().contains("cut short")), (422, true));
    assert!(taker.missing(&upload, &image.ids()).await.len() > image.chunks.len() - 8);
    taker.frames(&upload, &image.chunks).await;
    taker.stored(&upload, "", &image).await;
    taker.has(&image).await;
}

#[tokio::test]
async fn an_image_that_is_not_what_it_says_is_not_stored() {
    let (taker, image) = (Taker::new().await, Image::sample(1).await);
    let upload = taker.begin().await;
    taker.frames(&upload, &image.chunks[1..]).await;

    let mut lie = image.clone();
    lie.envelope.regions[0].digest = digest_of(b"a lie");
    lie.table.image = lie.envelope.digest();
    let other = with_table(&image, |table| table.image = digest_of(b"other"));
    let short = with_table(&image, |table| table.regions[0].truncate(1));
    // Two neighbours, each of which says another length than it has.
    let lens = with_table(&image, |table| {
        for (extent, by) in table.regions[0].iter_mut().skip(1).zip([1_i32, -1]) {
            if let Extent::Chunk { bytes, .. } = extent {
                *bytes = bytes.wrapping_add_signed(by);
            }
        }
    });
    let swapped = with_table(&image, |table| table.regions[0].swap(1, 2));
    let digest = format!("?reference=web@{}", image.digest());

    let missing = taker.commit(&upload, "", &image.commit()).await;
    assert_eq!((missing.status.as_u16(), &missing.error()[..9]), (409, "1 chunks "));
    assert!(missing.error().contains(&image.chunks[0].0.to_string()));
    taker.frames(&upload, &image.chunks[..1]).await;
    for (query, commit, status, said) in [
        ("", lie.commit(), 422, "and its envelope says"),
        ("", other, 400, "another image"),
        ("", short, 400, "another length"),
        ("", lens, 422, "and it has"),
        ("", swapped, if image.table.regions[0].len() > 2 { 422 } else { 400 }, "digest"),
        (&digest, image.commit(), 400, "has a digest"),
    ] {
        let answer = taker.commit(&upload, query, &commit).await;
        assert_eq!(answer.status.as_u16(), status, "{said}: {}", answer.error());
        assert!(answer.error().contains(said), "{}", answer.error());
        let asked = taker.ask(Method::GET, &upload).await;
        assert_eq!((asked.status, asked.error()), (answer.status, answer.error()));
    }
    assert_eq!(taker.repo.images().await.unwrap(), []);
    // The upload takes the truth all the same.
    taker.stored(&upload, "", &image).await;
    taker.has(&image).await;
}

#[tokio::test]
async fn uploads_are_few_at_a_time() {
    let limits = Limits { uploads: 1, ..Limits::default() };
    let (taker, image) = (Taker::with(limits).await, Image::sample(1).await);
    let upload = taker.begin().await;
    let answer = taker.ask(Method::POST, "/v1/uploads").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers.contains_key("retry-after") && answer.error().contains("try again"));
    assert_eq!(taker.ask(Method::DELETE, &upload).await.status, StatusCode::NO_CONTENT);
    // One that has stored its image is none.
    taker.take(&image).await;
    taker.begin().await;
}

#[tokio::test]
async fn an_upload_has_few_requests_at_a_time() {
    let taker = Taker::new().await;
    let upload = taker.begin().await;
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn(taker.router.clone().oneshot(endless(&format!("{upload}/frames"), 9)))
        })
        .collect();
    let mut answer = taker.ask(Method::GET, &upload).await;
    while answer.status == StatusCode::OK {
        tokio::task::yield_now().await;
        answer = taker.ask(Method::GET, &upload).await;
    }
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(answer.headers.contains_key("retry-after"));
    for request in waiting {
        request.abort();
        assert!(request.await.is_err());
    }
    assert_eq!(taker.ask(Method::GET, &upload).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_silent_upload_ends_by_itself() {
    let limits = Limits { uploads: 1, silence: Duration::from_millis(1) };
    let (taker, image) = (Taker::with(limits).await, Image::sample(1).await);
    // It may end between any two requests.
    taker.begin().await;
    let begun = loop {
        let answer = taker.ask(Method::POST, "/v1/uploads").await;
        match answer.status {
            StatusCode::CREATED => break answer,
            status => assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    drop(begun);
    let taker = taker.another().await;
    taker.take(&image).await;
}

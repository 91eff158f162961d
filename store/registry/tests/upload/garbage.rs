//! Removing garbage beside an upload.

use std::sync::Arc;

use axum::http::StatusCode;

use crate::lab::{Image, Taker, import, open};

#[tokio::test]
async fn what_counted_as_there_stays_until_the_commit() {
    let (taker, one, two) = (Taker::new().await, Image::sample(1).await, Image::sample(2).await);
    import(&taker.repo, &one.disk, Some("one")).await;
    let upload = taker.begin().await;
    let missing = taker.missing(&upload, &two.ids()).await;
    assert!(missing.len() < two.chunks.len());
    // Here, and in another process.
    taker.repo.remove(&"one".parse().unwrap()).await.unwrap();
    let report = taker.repo.collect_garbage().await.unwrap();
    assert!(report.kept > 0 && report.images == [one.digest()], "{report:?}");
    open(taker.folder.path()).await.collect_garbage().await.unwrap();
    assert_eq!(taker.missing(&upload, &two.ids()).await, missing);
    let chunks = two.chunks.iter().filter(|(id, _)| missing.contains(id)).cloned();
    taker.frames(&upload, &chunks.collect::<Vec<_>>()).await;
    taker.stored(&upload, "?reference=two", &two).await;
    taker.repo.collect_garbage().await.unwrap();
    taker.has(&two).await;
    let again: Arc<_> = open(taker.folder.path()).await;
    assert_eq!(again.check(true).await.unwrap().problems, []);
}

#[tokio::test]
async fn what_was_sent_stays_though_no_image_needs_it_yet() {
    let (taker, image) = (Taker::new().await, Image::sample(1).await);
    let upload = taker.begin().await;
    let (last, first) = image.chunks.split_last().unwrap();
    taker.frames(&upload, first).await;
    // What was sent is in a pack after this.
    assert_eq!(taker.commit(&upload, "", &image.commit()).await.status, StatusCode::CONFLICT);
    let report = taker.repo.collect_garbage().await.unwrap();
    assert_eq!((report.deleted, report.kept), (0, 1), "{report:?}");
    // Nine more segments, so that the index forgets what is condemned.
    for seed in 10..19 {
        import(&taker.repo, &crate::lab::noise(seed, 100_000), Some(&format!("n{seed}"))).await;
    }
    taker.frames(&upload, std::slice::from_ref(last)).await;
    taker.stored(&upload, "?reference=web", &image).await;
    taker.repo.collect_garbage().await.unwrap();
    taker.has(&image).await;
}

#[tokio::test]
async fn what_was_broken_off_is_removed() {
    let (taker, image) = (Taker::new().await, Image::sample(1).await);
    let upload = taker.begin().await;
    taker.frames(&upload, &image.chunks).await;
    taker.ask(axum::http::Method::DELETE, &upload).await;
    let report = taker.repo.collect_garbage().await.unwrap();
    assert_eq!((report.deleted, report.kept), (1, 0), "{report:?}");
    let upload = taker.begin().await;
    assert_eq!(taker.missing(&upload, &image.ids()).await, image.ids());
}

#[tokio::test]
async fn a_lease_that_was_taken_away_is_said_and_the_next_upload_goes_well() {
    let (taker, image) = (Taker::new().await, Image::sample(1).await);
    let upload = taker.begin().await;
    taker.frames(&upload, &image.chunks).await;
    // As a repair does that found damage.
    let id = upload.rsplit('/').next().unwrap();
    end_lease(&taker, id).await;
    let answer = taker.commit(&upload, "", &image.commit()).await;
    assert_eq!(answer.status, StatusCode::GONE);
    assert!(answer.error().contains("begin another"), "{}", answer.error());
    assert_eq!(taker.repo.images().await.unwrap(), []);
    let upload = taker.begin().await;
    assert_eq!(taker.missing(&upload, &image.ids()).await, []);
    taker.stored(&upload, "", &image).await;
    taker.has(&image).await;
}

/// Takes the lease of an upload away, as nothing but a test may.
async fn end_lease(taker: &Taker, id: &str) {
    use sqlx::Connection;
    let records = taker.folder.path().join("store/store.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(records);
    let mut records = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    let done = sqlx::query("DELETE FROM leases WHERE id = $1").bind(id).execute(&mut records).await;
    assert_eq!(done.unwrap().rows_affected(), 1);
}

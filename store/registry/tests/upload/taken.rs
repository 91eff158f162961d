//! What is taken, whatever breaks in between.

use axum::http::{Method, StatusCode};
use store_format::upload::{decode_ids, encode_ids};
use wire::upload::{Received, State};

use crate::lab::{Image, MIB, Taker, frames, noise};

#[tokio::test]
async fn an_image_is_taken_chunk_by_chunk_and_comes_out_the_same() {
    let (taker, image) = (Taker::new().await, Image::sample(1).await);
    let upload = taker.begin().await;
    assert_eq!(taker.ask(Method::GET, &upload).await.json::<State>(), State::Open);
    assert_eq!(taker.missing(&upload, &image.ids()).await, image.ids());
    let (mut sent, mut new) = (0, 0);
    for frame in frames(&image.chunks) {
        let answer = taker.post(&format!("{upload}/frames"), &frame).await;
        new += answer.json::<Received>().new_chunks;
        sent += frame.len() as u64;
    }
    assert_eq!(new, image.chunks.len() as u64);
    assert_eq!(taker.metrics.snapshot().upload_bytes, sent);
    assert_eq!(taker.missing(&upload, &image.ids()).await, []);
    let stored = taker.stored(&upload, "?reference=lab/web:1", &image).await;
    assert_eq!((stored.digest, stored.disk_bytes), (image.digest(), image.disk.len() as u64));
    assert_eq!(stored.data_bytes, 4 * MIB as u64);
    assert_eq!((stored.chunks, stored.new_bytes), (new, stored.stored_bytes));
    taker.has(&image).await;
    let named = taker.repo.resolve(&"lab/web:1".parse().unwrap()).await.unwrap();
    assert_eq!(named, image.digest());
    assert_eq!(taker.ask(Method::GET, &upload).await.json::<State>(), State::Stored(stored));
}

#[tokio::test]
async fn the_same_commit_again_answers_the_same_also_to_another_server() {
    let (taker, image) = (Taker::new().await, Image::sample(1).await);
    let upload = taker.begin().await;
    taker.frames(&upload, &image.chunks).await;
    let stored = taker.stored(&upload, "", &image).await;
    assert_eq!(taker.stored(&upload, "", &image).await, stored);
    // Another one is another matter.
    let other = taker.commit(&upload, "?reference=web", &image.commit()).await;
    assert_eq!(other.status, StatusCode::CONFLICT);
    let another = taker.another().await;
    let upload = another.begin().await;
    assert_eq!(another.missing(&upload, &image.ids()).await, []);
    assert_eq!(another.stored(&upload, "?reference=web", &image).await, stored);
    let named = another.repo.resolve(&"web".parse().unwrap()).await.unwrap();
    assert_eq!(named, image.digest());
}

#[tokio::test]
async fn only_what_the_store_lacks_is_missing() {
    let (taker, one, two) = (Taker::new().await, Image::sample(1).await, Image::sample(2).await);
    let first = taker.take(&one).await;
    let upload = taker.begin().await;
    let missing = taker.missing(&upload, &two.ids()).await;
    let new: Vec<_> = two.ids().into_iter().filter(|id| !one.ids().contains(id)).collect();
    assert!(!new.is_empty() && new.len() < two.chunks.len());
    assert_eq!(missing, new);
    let chunks: Vec<_> = two.chunks.iter().filter(|(id, _)| new.contains(id)).cloned().collect();
    taker.frames(&upload, &chunks).await;
    let second = taker.stored(&upload, "", &two).await;
    assert!(second.new_bytes < second.stored_bytes && first.new_bytes == first.stored_bytes);
    taker.has(&one).await;
    taker.has(&two).await;
}

#[tokio::test]
async fn a_broken_upload_goes_on_where_it_stopped() {
    let (taker, image) = (Taker::new().await, Image::sample(1).await);
    let (sent, left) = image.chunks.split_at(image.chunks.len() / 2);
    let upload = taker.begin().await;
    taker.frames(&upload, sent).await;
    assert_eq!(taker.ask(Method::DELETE, &upload).await.status, StatusCode::NO_CONTENT);
    assert_eq!(taker.ask(Method::GET, &upload).await.status, StatusCode::NOT_FOUND);
    // Another server of the same store knows of it, too.
    for taker in [&taker, &taker.another().await] {
        let upload = taker.begin().await;
        let missing = taker.missing(&upload, &image.ids()).await;
        assert_eq!(missing, left.iter().map(|(id, _)| *id).collect::<Vec<_>>());
        taker.ask(Method::DELETE, &upload).await;
    }
    let upload = taker.begin().await;
    taker.frames(&upload, left).await;
    taker.stored(&upload, "", &image).await;
    taker.has(&image).await;
}

#[tokio::test]
async fn a_server_that_stops_packs_what_was_sent() {
    let (taker, image) = (Taker::new().await, Image::sample(1).await);
    let upload = taker.begin().await;
    taker.frames(&upload, &image.chunks).await;
    taker.uploads.stop().await;
    assert_eq!(taker.ask(Method::GET, &upload).await.status, StatusCode::NOT_FOUND);
    let another = taker.another().await;
    let upload = another.begin().await;
    assert_eq!(another.missing(&upload, &image.ids()).await, []);
    another.stored(&upload, "", &image).await;
    another.has(&image).await;
}

#[tokio::test]
async fn a_server_that_is_killed_loses_what_is_in_no_pack_and_no_more() {
    // More than two packs, so that the first is written when all is sent.
    let (taker, image) = (Taker::new().await, Image::of(noise(1, 144 * MIB)).await);
    let upload = taker.begin().await;
    taker.frames(&upload, &image.chunks).await;
    let another = taker.another().await;
    let upload = another.begin().await;
    let missing = another.missing(&upload, &image.ids()).await;
    assert!(!missing.is_empty() && missing.len() < image.chunks.len() * 2 / 3);
    let answer = another.commit(&upload, "", &image.commit()).await;
    assert_eq!(answer.status, StatusCode::CONFLICT);
    assert!(answer.error().starts_with(&format!("{} chunks", missing.len())), "{}", answer.error());
    let chunks = image.chunks.iter().filter(|(id, _)| missing.contains(id)).cloned();
    another.frames(&upload, &chunks.collect::<Vec<_>>()).await;
    another.stored(&upload, "", &image).await;
    another.has(&image).await;
}

#[tokio::test]
async fn the_same_chunks_from_two_uploads_at_once() {
    let (taker, one, two) = (Taker::new().await, Image::sample(1).await, Image::sample(2).await);
    let uploads = [taker.begin().await, taker.begin().await];
    let send = |upload: usize, image| taker.frames(&uploads[upload], image);
    tokio::join!(send(0, &one.chunks), send(1, &two.chunks), send(1, &one.chunks));
    let (first, second) = tokio::join!(
        taker.stored(&uploads[0], "?reference=one", &one),
        taker.stored(&uploads[1], "?reference=two", &two),
    );
    assert_eq!([first.digest, second.digest], [one.digest(), two.digest()]);
    taker.has(&one).await;
    taker.has(&two).await;
}

#[tokio::test]
async fn the_same_image_from_two_uploads_at_once() {
    let (taker, image) = (Taker::new().await, Image::sample(1).await);
    let uploads = [taker.begin().await, taker.begin().await];
    let both = |upload: usize| {
        let (taker, image, upload) = (&taker, &image, &uploads[upload]);
        async move {
            taker.frames(upload, &image.chunks).await;
            taker.stored(upload, "", image).await.digest
        }
    };
    assert_eq!(tokio::join!(both(0), both(1)), (image.digest(), image.digest()));
    taker.has(&image).await;
}

#[tokio::test]
async fn chunks_are_named_by_their_bytes_and_others_do_no_harm() {
    let (taker, image) = (Taker::new().await, Image::sample(1).await);
    let upload = taker.begin().await;
    let strange = vec![(image.chunks[0].0, noise(9, 70_000)), (image.chunks[1].0, noise(9, 500))];
    taker.frames(&upload, &strange).await;
    assert_eq!(taker.missing(&upload, &image.ids()).await, image.ids());
    taker.frames(&upload, &image.chunks).await;
    taker.stored(&upload, "?reference=web", &image).await;
    let answer = taker.post(&format!("{upload}/frames"), &frames(&strange)[0]).await;
    assert_eq!(answer.status, StatusCode::GONE);
    taker.has(&image).await;
}

#[tokio::test]
async fn a_chunk_that_was_sent_twice_is_kept_once() {
    let (taker, image) = (Taker::new().await, Image::sample(1).await);
    let upload = taker.begin().await;
    let twice = [&image.chunks[..], &image.chunks[..]].concat();
    let shuffled: Vec<_> = twice.iter().rev().cloned().collect();
    taker.frames(&upload, &twice).await;
    taker.frames(&upload, &shuffled).await;
    taker.stored(&upload, "?reference=web", &image).await;
    taker.has(&image).await;
    assert_eq!(taker.repo.usage().await.unwrap().spare_bytes, 0);
}

#[tokio::test]
async fn a_question_has_as_many_ids_as_one_may_have() {
    let taker = Taker::new().await;
    let upload = taker.begin().await;
    let ids = encode_ids(&vec![wire::Digest([7; 32]); store_format::upload::IDS_MAX]);
    let answer = taker.post(&format!("{upload}/missing"), &ids).await;
    assert_eq!(decode_ids(&answer.body).unwrap().len(), store_format::upload::IDS_MAX);
}

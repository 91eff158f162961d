//! A store works, wherever its objects are.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use store_repo::{GarbageReport, OpenError, ReadError, Repo, StorageError};
use wire::Digest;

use super::{Backend, same};
use crate::common::{import, options};

async fn put_in(repo: &Arc<Repo>, disk: &Path, name: &str) -> Digest {
    import(repo, disk, options(name)).await.unwrap().digest
}

async fn keys(objects: &dyn ObjectStore, folder: &str) -> BTreeSet<Key> {
    let prefix = Key::from(folder);
    let keys = objects.list(Some(&prefix)).map_ok(|meta| meta.location);
    keys.try_collect().await.unwrap()
}

async fn is_whole(repo: &Arc<Repo>) {
    assert_eq!(repo.check(true).await.unwrap().problems, []);
}

async fn gives(repo: &Arc<Repo>, image: &Digest, disk: &Path) {
    let to = disk.with_extension("exported");
    repo.export(image, &to).await.unwrap();
    assert!(same(&to, disk), "{}", disk.display());
}

pub async fn an_image_comes_back_as_it_went_in(backend: Backend) {
    let disk = backend.gpt_disk("disk", 1);
    let repo = backend.repo().await;
    let image = put_in(&repo, &disk, "web:1").await;
    is_whole(&repo).await;
    gives(&repo, &image, &disk).await;
    drop(repo);
    let again = backend.repo().await;
    assert_eq!(again.resolve(&"web:1".parse().unwrap()).await.unwrap(), image);
    gives(&again, &image, &disk).await;
    let objects = backend.objects();
    for pack in keys(&*objects, "packs").await {
        let name = pack.filename().unwrap().parse().unwrap();
        let bytes = objects.get(&pack).await.unwrap().bytes().await.unwrap();
        let len = bytes.len() as u64;
        assert_eq!(again.pack_len(&name).await.unwrap(), len);
        for range in [None, Some(0..len), Some(7..len - 7), Some(len - 1..len)] {
            let read = again.pack(&name, range.clone()).await.unwrap();
            let expected = range.unwrap_or(0..len);
            assert_eq!((read.pack_len, &read.range), (len, &expected));
            let parts: Vec<Bytes> = read.bytes.try_collect().await.unwrap();
            assert!(parts.concat() == bytes[expected.start as usize..expected.end as usize]);
        }
    }
}

pub async fn the_index_is_built_again(backend: Backend) {
    let disk = backend.disk("disk", 1, 2);
    let image = put_in(&backend.repo().await, &disk, "web").await;
    std::fs::remove_dir_all(backend.storage().home.join("index")).unwrap();
    let repo = backend.repo().await;
    gives(&repo, &image, &disk).await;
    let imported = import(&repo, &disk, options("again")).await.unwrap();
    assert_eq!((imported.digest, imported.new_bytes), (image, 0));
    is_whole(&repo).await;
}

pub async fn garbage_goes_and_what_is_wanted_again_stays(backend: Backend) {
    let (one, two) = (backend.disk("one", 1, 2), backend.disk("two", 3, 4));
    let repo = backend.repo().await;
    let (first, second) = (put_in(&repo, &one, "one").await, put_in(&repo, &two, "two").await);
    let objects = backend.objects();
    let before = keys(&*objects, "packs").await;
    repo.remove(&"one".parse().unwrap()).await.unwrap();
    // A reader keeps what it reads.
    let mut reader = repo.read(&first).await.unwrap();
    reader.try_next().await.unwrap();
    let report = backend.repo().await.collect_garbage().await.unwrap();
    assert_eq!((report.images, report.deleted), (vec![first], 0));
    assert!(report.kept >= 3);
    assert_eq!(keys(&*objects, "packs").await, before);
    while reader.try_next().await.unwrap().is_some() {}
    drop(reader);
    // Imported again, it is revived; nothing of it is deleted.
    assert_eq!(put_in(&repo, &one, "one").await, first);
    repo.collect_garbage().await.unwrap();
    gives(&repo, &first, &one).await;
    is_whole(&repo).await;
    // Unwanted again, it goes.
    repo.remove(&"one".parse().unwrap()).await.unwrap();
    let report = repo.collect_garbage().await.unwrap();
    assert!(report.deleted >= 3 && report.kept == 0, "{report:?}");
    let left = keys(&*objects, "packs").await;
    assert!(!left.is_empty() && left.len() < before.len(), "{left:?}");
    assert_eq!(keys(&*objects, "blobs").await.len(), 2);
    assert_eq!(repo.collect_garbage().await.unwrap(), GarbageReport::default());
    gives(&repo, &second, &two).await;
    // And comes back.
    assert_eq!(put_in(&repo, &one, "one").await, first);
    gives(&backend.repo().await, &first, &one).await;
    is_whole(&repo).await;
}

pub async fn two_handles_work_at_once(backend: Backend) {
    let (one, two) = (backend.disk("one", 1, 2), backend.disk("two", 1, 3));
    let (left, right) = (backend.repo().await, backend.repo().await);
    let (first, second) = tokio::join!(put_in(&left, &one, "one"), put_in(&right, &two, "two"));
    gives(&left, &second, &two).await;
    gives(&right, &first, &one).await;
    left.remove(&"one".parse().unwrap()).await.unwrap();
    let (collected, _) = tokio::join!(left.collect_garbage(), gives(&right, &second, &two));
    assert_eq!(collected.unwrap().images, [first]);
    gives(&right, &second, &two).await;
    assert_eq!(put_in(&right, &one, "one").await, first);
    gives(&left, &first, &one).await;
    is_whole(&left).await;
    is_whole(&right).await;
}

pub async fn newer_and_damaged_stores_are_refused(backend: Backend) {
    drop(backend.repo().await);
    let (objects, key) = (backend.objects(), Key::from("ingot-store.json"));
    let marker = objects.get(&key).await.unwrap().bytes().await.unwrap();
    let text = String::from_utf8(marker.to_vec()).unwrap();
    for (from, to) in [("ingot.store/1", "ingot.store/2"), ("fastcdc-2020", "other")] {
        objects.put(&key, text.replace(from, to).into_bytes().into()).await.unwrap();
        let opened = Repo::open_storage(backend.storage()).await;
        assert!(matches!(opened, Err(OpenError::Newer { .. })), "{to}");
    }
    for bad in ["", "{}", r#"{"format":7}"#] {
        objects.put(&key, Bytes::from_static(bad.as_bytes()).into()).await.unwrap();
        let opened = Repo::open_storage(backend.storage()).await;
        assert!(matches!(opened, Err(OpenError::Marker { .. })), "{bad}");
    }
    objects.put(&key, text.into_bytes().into()).await.unwrap();
    Repo::open_storage(backend.storage()).await.unwrap();
}

pub async fn an_object_that_vanished_is_named(backend: Backend) {
    let disk = backend.disk("disk", 1, 2);
    let image = put_in(&backend.repo().await, &disk, "web").await;
    let objects = backend.objects();
    let packs = keys(&*objects, "packs").await;
    let [pack] = Vec::from_iter(packs).try_into().unwrap();
    // It vanishes while the store is open and knows where its chunks are.
    let repo = backend.repo().await;
    let mut reader = repo.read(&image).await.unwrap();
    objects.delete(&pack).await.unwrap();
    let error = loop {
        match reader.try_next().await {
            Ok(piece) => assert!(piece.is_some(), "read what is not there"),
            Err(error) => break error,
        }
    };
    let named = matches!(&error, ReadError::Storage(StorageError::Missing { key }) if *key == pack.to_string());
    assert!(named, "{error:?}");
    drop(reader);
    let problems = repo.check(false).await.unwrap().problems;
    assert!(problems.iter().any(|problem| problem.images == [image]), "{problems:?}");
    assert_eq!(put_in(&repo, &disk, "web").await, image);
    gives(&repo, &image, &disk).await;
    is_whole(&repo).await;
    // The same of a blob.
    let blob = Key::from(format!("blobs/{}/{}", &image.hex()[..2], image.hex()));
    objects.delete(&blob).await.unwrap();
    match repo.envelope(&image).await {
        Err(ReadError::Storage(StorageError::Missing { key })) => assert_eq!(key, blob.to_string()),
        other => panic!("{other:?}"),
    }
}

pub async fn files_of_others_are_left_alone(backend: Backend) {
    let disk = backend.disk("disk", 1, 2);
    let repo = backend.repo().await;
    let image = put_in(&repo, &disk, "web").await;
    let objects = backend.objects();
    let pack = keys(&*objects, "packs").await.into_iter().next().unwrap();
    let name = pack.filename().unwrap();
    let other = noise_name();
    let foreign = [
        "packs/README".to_owned(),
        "packs/notes of mine/a.txt".to_owned(),
        // The name of a pack, and not its place.
        format!("packs/{name}"),
        format!("packs/copies/{}/{name}", &name[..2]),
        format!("packs/copies/{other}"),
        format!("blobs/{other}"),
        "blobs/zz/zz".to_owned(),
        "else/where".to_owned(),
    ];
    for key in &foreign {
        objects.put(&Key::from(key.as_str()), Bytes::from_static(b"mine").into()).await.unwrap();
    }
    let repo = backend.repo().await;
    let report = repo.check(true).await.unwrap();
    assert_eq!((report.problems, report.packs), (Vec::new(), 1));
    assert_eq!(repo.collect_garbage().await.unwrap(), GarbageReport::default());
    gives(&repo, &image, &disk).await;
    for key in &foreign {
        let bytes = objects.get(&Key::from(key.as_str())).await.unwrap().bytes().await.unwrap();
        assert_eq!(bytes, "mine", "{key}");
    }
}

/// A name as a pack or a blob has it.
fn noise_name() -> String {
    blake3::hash(b"somebody else's").to_hex().to_string()
}

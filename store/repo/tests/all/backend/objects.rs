//! What a store asks of the place for its objects.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path as Key;
use object_store::{Error, ObjectStore, ObjectStoreExt};

use super::Backend;
use crate::common::noise;

/// More than any server lists in one answer.
const MANY: usize = 1100;

async fn names(objects: &dyn ObjectStore, prefix: Option<&str>) -> Vec<String> {
    let prefix = prefix.map(Key::from);
    let found: Vec<_> = objects.list(prefix.as_ref()).try_collect().await.unwrap();
    let mut names: Vec<_> = found.iter().map(|meta| meta.location.to_string()).collect();
    names.sort();
    names
}

pub async fn what_is_put_is_there(backend: Backend) {
    let objects = backend.objects();
    for (name, len) in [("packs/ab/abcd", 9 << 20), ("blobs/00/0011", 1), ("empty", 0)] {
        let (key, bytes) = (Key::from(name), Bytes::from(noise(1, len)));
        objects.put(&key, bytes.clone().into()).await.unwrap();
        assert_eq!(objects.head(&key).await.unwrap().size, len as u64);
        let found = objects.get(&key).await.unwrap();
        assert_eq!(found.meta.size, len as u64);
        assert!(found.bytes().await.unwrap() == bytes, "{name}");
        // Written again, it is what was written last.
        objects.put(&key, Bytes::from(noise(2, 10)).into()).await.unwrap();
        assert!(objects.get(&key).await.unwrap().bytes().await.unwrap() == noise(2, 10));
        // Another handle sees the same.
        assert_eq!(backend.objects().head(&key).await.unwrap().size, 10);
    }
    assert_eq!(names(&*objects, None).await, ["blobs/00/0011", "empty", "packs/ab/abcd"]);
}

pub async fn ranges_are_the_bytes_that_there_are(backend: Backend) {
    let (objects, key) = (backend.objects(), Key::from("packs/ab/abcd"));
    let bytes = noise(1, 100_000);
    objects.put(&key, bytes.clone().into()).await.unwrap();
    for range in [0..1, 0..100_000, 1..99_999, 99_999..100_000, 5000..70_000] {
        let found = objects.get_range(&key, range.clone()).await.unwrap();
        assert!(found == bytes[range.start as usize..range.end as usize], "{range:?}");
    }
    // Past the end: what there is, or an error, and never other bytes.
    if let Ok(found) = objects.get_range(&key, 99_000..200_000).await {
        assert!(found == bytes[99_000..]);
    }
    for start in [100_000, 200_000] {
        let found = objects.get_range(&key, start..start + 10).await;
        assert!(found.is_err(), "{start}: {found:?}");
    }
}

pub async fn what_is_missing_is_said_to_be_missing(backend: Backend) {
    let (objects, key) = (backend.objects(), Key::from("packs/ab/abcd"));
    let is_missing = |error| matches!(error, Error::NotFound { .. });
    assert!(is_missing(objects.get(&key).await.unwrap_err()));
    assert!(is_missing(objects.head(&key).await.unwrap_err()));
    assert!(is_missing(objects.get_range(&key, 0..1).await.unwrap_err()));
    assert_eq!(names(&*objects, Some("packs")).await, [""; 0]);
    if let Err(error) = objects.delete(&key).await {
        assert!(is_missing(error), "deleting what is not there");
    }
    objects.put(&key, Bytes::from_static(b"x").into()).await.unwrap();
    objects.delete(&key).await.unwrap();
    assert!(is_missing(objects.get(&key).await.unwrap_err()));
    assert_eq!(names(&*objects, Some("packs")).await, [""; 0]);
}

pub async fn a_list_is_whole_and_of_one_folder(backend: Backend) {
    let objects = backend.objects();
    let mut expected: Vec<_> = (0..MANY).map(|n| format!("packs/{:02x}/{n:04x}", n % 7)).collect();
    expected.sort();
    let others = ["packs-old/00/0000", "pack", "blobs/00/0000", "packs.txt"].map(str::to_owned);
    stream::iter(expected.iter().chain(&others))
        .for_each_concurrent(16, async |name| {
            let bytes = Bytes::from_static(b"x");
            objects.put(&Key::from(name.as_str()), bytes.into()).await.unwrap();
        })
        .await;
    assert_eq!(names(&*objects, Some("packs")).await, expected);
    assert_eq!(names(&*objects, Some("blobs")).await, ["blobs/00/0000"]);
    assert_eq!(names(&*objects, None).await.len(), MANY + others.len());
}

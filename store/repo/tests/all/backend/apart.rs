//! A store whose objects are somewhere else than its records.

use std::fs;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use store_repo::{OpenError, Repo, Storage};

use super::{Backend, same};
use crate::common::{import, options};
use crate::garbage::sql;

async fn everything(objects: &dyn ObjectStore) -> Vec<(Key, u64)> {
    let all = objects.list(None).map_ok(|meta| (meta.location, meta.size));
    let mut all: Vec<_> = all.try_collect().await.unwrap();
    all.sort();
    all
}

pub async fn a_store_is_opened_with_its_own_records_only(backend: Backend) {
    // As long as it is empty, nothing but its marker tells whose it is.
    drop(backend.repo().await);
    let disk = backend.disk("disk", 1, 2);
    for imported in [false, true] {
        if imported {
            import(&backend.repo().await, &disk, options("web")).await.unwrap();
        }
        let before = everything(&*backend.objects()).await;
        let other = backend.storage_with("elsewhere");
        assert!(matches!(Repo::create(&other).await, Err(OpenError::NotAStore { .. })));
        let Err(error) = Repo::open_storage(other).await else { panic!("opened") };
        assert!(matches!(error, OpenError::NoRecords { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("elsewhere") && text.contains("restore"), "{text}");
        assert_eq!(everything(&*backend.objects()).await, before);
        assert_eq!(fs::read_dir(backend.path("elsewhere")).unwrap().count(), 0);
    }
    // The records of another store are other records.
    let mine = backend.path("records");
    fs::rename(&mine, backend.path("kept")).unwrap();
    let marker = fs::read_to_string(backend.path("kept").join("ingot-store.json")).unwrap();
    fs::create_dir(&mine).unwrap();
    fs::write(mine.join("ingot-store.json"), marker.replace("\"id\":\"", "\"id\":\"0")).unwrap();
    let opened = Repo::open_storage(backend.storage()).await;
    assert!(matches!(opened, Err(OpenError::NoRecords { .. })));
    // Without the names, the rest of the folder is not enough.
    fs::write(mine.join("ingot-store.json"), marker).unwrap();
    let opened = Repo::open_storage(backend.storage()).await;
    assert!(matches!(opened, Err(OpenError::NoDatabase { .. })));
    // A folder that was restored is.
    fs::remove_dir_all(&mine).unwrap();
    fs::rename(backend.path("kept"), &mine).unwrap();
    let repo = backend.repo().await;
    let image = repo.resolve(&"web".parse().unwrap()).await.unwrap();
    repo.export(&image, &backend.path("exported")).await.unwrap();
    assert!(same(&backend.path("exported"), &disk));
}

pub async fn records_without_objects_are_not_made_a_new_store(backend: Backend) {
    let opened = Repo::open_storage(backend.storage()).await;
    assert!(matches!(opened, Err(OpenError::Absent { .. })));
    let disk = backend.disk("disk", 1, 2);
    import(&backend.repo().await, &disk, options("web")).await.unwrap();
    let objects = backend.objects();
    for (key, _) in everything(&*objects).await {
        objects.delete(&key).await.unwrap();
    }
    let made = Repo::create(&backend.storage()).await;
    let opened = Repo::open_storage(backend.storage()).await.map(drop);
    for result in [made, opened] {
        let error = result.unwrap_err();
        assert!(matches!(error, OpenError::NoObjects { .. }), "{error:?}");
        assert!(error.to_string().contains("records"), "{error}");
    }
    assert_eq!(everything(&*objects).await, []);
}

pub async fn a_bucket_with_something_else_stays_as_it_is(backend: Backend) {
    let objects = backend.objects();
    objects.put(&Key::from("photos/1"), Bytes::from_static(b"x").into()).await.unwrap();
    assert!(matches!(Repo::create(&backend.storage()).await, Err(OpenError::NotAStore { .. })));
    let opened = Repo::open_storage(backend.storage()).await;
    assert!(matches!(opened, Err(OpenError::NotAStore { .. })));
    assert_eq!(everything(&*objects).await.len(), 1);
    assert_eq!(fs::read_dir(backend.path("records")).unwrap().count(), 0);
}

pub async fn a_damaged_object_that_is_written_again_is_read_again(backend: Backend) {
    let disk = backend.disk("disk", 1, 2);
    let repo = backend.repo().await;
    let image = import(&repo, &disk, options("web")).await.unwrap().digest;
    let objects = backend.objects();
    let packs = Key::from("packs");
    let pack = objects.list(Some(&packs)).try_next().await.unwrap().unwrap().location;
    let mut bytes = objects.get(&pack).await.unwrap().bytes().await.unwrap().to_vec();
    bytes[100_000] ^= 1;
    objects.put(&pack, bytes.into()).await.unwrap();
    repo.export(&image, &backend.path("exported")).await.unwrap_err();
    // As `check` advises.
    objects.delete(&pack).await.unwrap();
    assert_eq!(import(&repo, &disk, options("web")).await.unwrap().digest, image);
    repo.export(&image, &backend.path("exported")).await.unwrap();
    assert!(same(&backend.path("exported"), &disk));
}

pub async fn a_store_moves_there_from_a_folder(backend: Backend) {
    let (folder, records) = (backend.path("folder"), backend.path("records"));
    let disk = backend.disk("disk", 1, 2);
    let image = {
        let repo = Arc::new(Repo::open_or_create(folder.to_str().unwrap()).await.unwrap());
        import(&repo, &disk, options("web")).await.unwrap().digest
    };
    let (from, to) = (Storage::folder(&folder).unwrap().objects, backend.objects());
    // The copy of a database that may be in use.
    let copy = records.join("store.db").display().to_string();
    sql(&folder, &format!("VACUUM INTO '{copy}'")).await;
    fs::copy(folder.join("ingot-store.json"), records.join("ingot-store.json")).unwrap();
    let all = everything(&*from).await.into_iter().map(|(key, _)| key);
    for key in all.filter(|key| !key.as_ref().starts_with("store.db")) {
        let bytes = from.get(&key).await.unwrap().bytes().await.unwrap();
        to.put(&key, bytes.into()).await.unwrap();
    }
    fs::remove_dir_all(&folder).unwrap();
    let repo = backend.repo().await;
    assert_eq!(repo.resolve(&"web".parse().unwrap()).await.unwrap(), image);
    assert_eq!(repo.check(true).await.unwrap().problems, []);
}

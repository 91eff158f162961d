//! References: what names what, and what is listed.
use crate::common::{Lab, MIB, noise, options, sparse};
use store_repo::{ImportError, ImportOptions, NameError, ReadError};
use wire::Reference;

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

#[tokio::test]
async fn references_name_images_and_move() {
    let lab = Lab::new().await;
    let one = sparse(&lab.path("one"), 4 * MIB, &[(0, &noise(1, 1 << 20))]);
    let two = sparse(&lab.path("two"), 4 * MIB, &[(0, &noise(2, 1 << 20))]);
    let (one, two) =
        (lab.import(&one, "web").await.digest, lab.import(&two, "web:next").await.digest);
    let resolve = async |text: &str| lab.repo.resolve(&reference(text)).await.ok();
    assert_eq!(resolve("web").await, Some(one));
    assert_eq!(resolve("web:latest").await, Some(one));
    assert_eq!(resolve("web:next").await, Some(two));
    assert_eq!(resolve("web:other").await, None);
    assert_eq!(resolve("other").await, None);
    assert_eq!(resolve(&format!("any@{two}")).await, Some(two));
    assert_eq!(lab.repo.tag(&reference("web:next"), &reference("web")).await.unwrap(), two);
    assert_eq!(resolve("web").await, Some(two));
    assert_eq!(resolve(&format!("web@{one}")).await, Some(one));
    let pinned = reference(&format!("web@{one}"));
    let refused = lab.repo.tag(&reference("web"), &pinned).await;
    assert!(matches!(refused, Err(NameError::HasDigest { .. })));
    let absent = lab.repo.tag(&reference("nothing"), &reference("x")).await;
    assert!(matches!(absent, Err(NameError::Unknown { .. })));
}

#[tokio::test]
async fn removing_takes_names_and_no_bytes() {
    let lab = Lab::new().await;
    let disk = sparse(&lab.path("disk"), 4 * MIB, &[(0, &noise(1, 1 << 20))]);
    let digest = lab.import(&disk, "web:a").await.digest;
    for tag in ["web:b", "web:c", "other"] {
        lab.repo.tag(&reference("web:a"), &reference(tag)).await.unwrap();
    }
    lab.repo.remove(&reference("web:a")).await.unwrap();
    let twice = lab.repo.remove(&reference("web:a")).await;
    assert!(matches!(twice, Err(NameError::Unknown { .. })));
    let listed = async || -> Vec<_> {
        let images = lab.repo.images().await.unwrap();
        images.into_iter().map(|image| image.reference.map(|r| r.to_string())).collect()
    };
    let names = |names: &[&str]| names.iter().map(|n| Some((*n).to_owned())).collect::<Vec<_>>();
    assert_eq!(listed().await, names(&["other:latest", "web:b", "web:c"]));
    lab.repo.remove(&reference(&format!("web@{digest}"))).await.unwrap();
    assert_eq!(listed().await, names(&["other:latest"]));
    lab.repo.remove(&reference("other")).await.unwrap();
    assert_eq!(listed().await, [None]);
    lab.repo.export(&digest, &lab.path("exported")).await.unwrap();
}

#[tokio::test]
async fn the_list_says_what_is_shared() {
    let lab = Lab::new().await;
    let (shared, own) = (noise(1, 1 << 20), noise(2, 2 << 20));
    let one = sparse(&lab.path("one"), 8 * MIB, &[(0, &shared)]);
    let two = sparse(&lab.path("two"), 8 * MIB, &[(0, &shared), (4 * MIB, &own)]);
    let (one, two) = (lab.import(&one, "one").await, lab.import(&two, "two").await);
    let images = lab.repo.images().await.unwrap();
    let [first, second] = &images[..] else { panic!("{images:?}") };
    assert_eq!((first.digest, second.digest), (one.digest, two.digest));
    assert_eq!((first.stored_bytes, first.unique_bytes), (one.stored_bytes, 0));
    assert_eq!(second.unique_bytes, two.stored_bytes - one.stored_bytes);
    assert_eq!((first.disk_bytes, first.data_bytes), (8 * MIB, MIB));
}

#[tokio::test]
async fn what_is_not_there_is_said() {
    let lab = Lab::new().await;
    let digest = wire::Digest([7; 32]);
    let missing = |result: Result<(), ReadError>| {
        assert!(matches!(result, Err(ReadError::Unknown { .. })), "{result:?}");
    };
    missing(lab.repo.envelope(&digest).await.map(drop));
    missing(lab.repo.table(&digest).await.map(drop));
    missing(lab.repo.locations_read(&digest).await.map(drop));
    missing(lab.repo.table_read(&digest).await.map(drop));
    missing(lab.repo.details(&digest).await.map(drop));
    let disk = sparse(&lab.path("disk"), 4096, &[]);
    let pinned =
        ImportOptions { reference: Some(reference(&format!("x@{digest}"))), ..options("x") };
    let error = crate::common::import(&lab.repo, &disk, pinned).await.unwrap_err();
    assert!(matches!(error, ImportError::Reference { .. }));
}

#[tokio::test]
async fn another_process_sees_what_is_new() {
    let lab = Lab::new().await;
    let reader = crate::common::open(&lab.store()).await;
    for number in 0..20_u64 {
        let disk = sparse(&lab.path("disk"), 4 * MIB, &[(0, &noise(number, 100_000))]);
        let name = format!("image:{number}");
        let imported = lab.import(&disk, &name).await;
        assert_eq!(reader.resolve(&reference(&name)).await.unwrap(), imported.digest);
        reader.export(&imported.digest, &lab.path("exported")).await.unwrap();
        let same = std::fs::read(lab.path("exported")).unwrap() == std::fs::read(&disk).unwrap();
        assert!(same, "{number}");
    }
    // Small segments do not pile up.
    assert!(lab.files("index").len() < 10, "{:?}", lab.files("index"));
    assert_eq!(reader.check(true).await.unwrap().problems, []);
}

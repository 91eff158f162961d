//! Whatever happens to a file of the store: it is named, and no wrong byte
//! comes out.
use std::fs;
use std::path::Path;

use crate::common::faulty::{Fault, Plan, storage};
use crate::common::{Lab, MIB, gpt_disk, noise, options, sparse};
use store_repo::{ExportError, OpenError, Repo};

/// Changes one byte.
pub fn flip(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[offset] ^= 0x40;
    fs::write(path, bytes).unwrap();
}

/// The file's key in the store.
pub fn key(lab: &Lab, path: &Path) -> String {
    let store = fs::canonicalize(lab.store()).unwrap();
    fs::canonicalize(path).unwrap().strip_prefix(store).unwrap().display().to_string()
}

/// Exports the image, which must fail and must leave no file.
async fn export_fails(lab: &Lab, digest: &wire::Digest) -> String {
    let target = lab.path("exported");
    let error = lab.repo.export(digest, &target).await.unwrap_err();
    assert!(!target.exists());
    let ExportError::Read(error) = error else { panic!("{error:?}") };
    wire::chain(&error)
}

#[tokio::test]
async fn damaged_chunks_are_found_when_they_are_read_or_checked() {
    let lab = Lab::new().await;
    let digest = lab.import(&gpt_disk(&lab.path("disk"), 512, 1), "x").await.digest;
    let pack = lab.files("packs").remove(0);
    let whole = fs::read(&pack).unwrap();
    // Header of the first frame: magic, coding, lengths, id; then its payload.
    for offset in [16, 20, 21, 24, 28, 32, 63, 64, 100, whole.len() / 2] {
        fs::write(&pack, &whole).unwrap();
        flip(&pack, offset);
        let report = lab.repo.check(true).await.unwrap();
        let [problem] = &report.problems[..] else { panic!("{offset}: {report:?}") };
        assert_eq!((&problem.file, &problem.images[..]), (&key(&lab, &pack), &[digest][..]));
        assert!(problem.what.starts_with("at byte "), "{}", problem.what);
        let error = export_fails(&lab, &digest).await;
        assert!(error.contains(&key(&lab, &pack)), "{offset}: {error}");
        assert_eq!(lab.repo.check(false).await.unwrap().problems, []);
    }
}

#[tokio::test]
async fn damaged_tables_of_packs_are_found_without_reading_the_data() {
    let lab = Lab::new().await;
    let digest = lab.import(&gpt_disk(&lab.path("disk"), 512, 1), "x").await.digest;
    let pack = lab.files("packs").remove(0);
    let whole = fs::read(&pack).unwrap();
    let len = whole.len();
    let mut broken: Vec<Vec<u8>> = Vec::new();
    for offset in [0, 8, 12, len - 1, len - 9, len - 30, len - 45, len - 55, len - 61, len - 100] {
        let mut bytes = whole.clone();
        bytes[offset] ^= 0x40;
        broken.push(bytes);
    }
    broken.extend([0, 1, 59, 60, 80, len - 1].map(|len| whole[..len].to_vec()));
    broken.push([&whole[..], b"x"].concat());
    for (number, bytes) in broken.iter().enumerate() {
        fs::write(&pack, bytes).unwrap();
        let report = lab.repo.check(false).await.unwrap();
        let [problem] = &report.problems[..] else { panic!("{number}: {report:?}") };
        assert_eq!((&problem.file, &problem.images[..]), (&key(&lab, &pack), &[digest][..]));
    }
}

#[tokio::test]
async fn missing_packs_are_found_and_an_import_brings_them_back() {
    let mut lab = Lab::new().await;
    let disk = gpt_disk(&lab.path("disk"), 512, 1);
    let digest = lab.import(&disk, "x").await.digest;
    let pack = lab.files("packs").remove(0);
    let pack_key = key(&lab, &pack);
    fs::remove_file(&pack).unwrap();
    let report = lab.repo.check(false).await.unwrap();
    let problem = report.problems.iter().find(|problem| problem.file == pack_key).unwrap();
    assert_eq!(problem.images, [digest]);
    assert!(export_fails(&lab, &digest).await.contains("missing"));
    lab.reopen().await;
    assert!(export_fails(&lab, &digest).await.contains("missing"));
    let again = lab.import(&disk, "x").await;
    assert!(again.new_bytes > 0 && again.digest == digest);
    lab.repo.export(&digest, &lab.path("exported")).await.unwrap();
    lab.reopen().await;
    assert_eq!(lab.repo.check(true).await.unwrap().problems, []);
    lab.repo.export(&digest, &lab.path("exported")).await.unwrap();
}

#[tokio::test]
async fn damaged_blobs_are_found() {
    let lab = Lab::new().await;
    let disk = gpt_disk(&lab.path("disk"), 512, 1);
    let digest = lab.import(&disk, "x").await.digest;
    for blob in lab.files("blobs") {
        let whole = fs::read(&blob).unwrap();
        for offset in [0, 9, whole.len() / 2, whole.len() - 1] {
            flip(&blob, offset);
            let report = lab.repo.check(false).await.unwrap();
            let [problem] = &report.problems[..] else { panic!("{report:?}") };
            assert_eq!((&problem.file, &problem.images[..]), (&key(&lab, &blob), &[digest][..]));
            let error = export_fails(&lab, &digest).await;
            assert!(error.contains(&key(&lab, &blob)), "{error}");
            flip(&blob, offset);
        }
        let blob_key = key(&lab, &blob);
        fs::remove_file(&blob).unwrap();
        assert!(export_fails(&lab, &digest).await.contains(&blob_key));
        let report = lab.repo.check(false).await.unwrap();
        assert_eq!(report.problems.len(), 1);
        assert_eq!(report.problems[0].file, blob_key);
        // The same image again puts back what is gone.
        assert_eq!(lab.import(&disk, "x").await.new_bytes, 0);
        assert_eq!(lab.repo.check(false).await.unwrap().problems, []);
    }
}

#[tokio::test]
async fn a_damaged_store_can_be_listed() {
    let lab = Lab::new().await;
    lab.import(&gpt_disk(&lab.path("disk"), 512, 1), "x").await;
    for blob in lab.files("blobs") {
        fs::remove_file(blob).unwrap();
    }
    let images = lab.repo.images().await.unwrap();
    assert_eq!((images.len(), images[0].unique_bytes), (1, 0));
}

#[tokio::test]
async fn an_export_replaces_files_and_nothing_else() {
    let lab = Lab::new().await;
    let disk = gpt_disk(&lab.path("disk"), 512, 1);
    let digest = lab.import(&disk, "x").await.digest;
    fs::write(lab.path("old"), "old").unwrap();
    lab.repo.export(&digest, &lab.path("old")).await.unwrap();
    assert!(fs::read(lab.path("old")).unwrap() == fs::read(&disk).unwrap());
    for other in [Path::new("/dev/null"), lab.folder.path(), &lab.path("no/folder")] {
        let error = lab.repo.export(&digest, other).await.unwrap_err();
        assert!(matches!(error, ExportError::Write { .. }), "{error:?}");
    }
    let meta = Path::new("/dev/null").metadata().unwrap();
    assert!(std::os::unix::fs::FileTypeExt::is_char_device(&meta.file_type()));
}

#[tokio::test]
async fn an_index_that_is_gone_or_damaged_is_built_again() {
    let mut lab = Lab::new().await;
    let disk = gpt_disk(&lab.path("disk"), 512, 1);
    let first = lab.import(&disk, "x").await;
    let segment = lab.files("index").remove(0);
    let whole = fs::read(&segment).unwrap();
    fs::remove_file(&segment).unwrap();
    lab.reopen().await;
    assert!(fs::read(&segment).unwrap() == whole, "the rebuilt index is another one");
    for bytes in [&b""[..], b"x", &whole[..100], &whole[..whole.len() - 1]] {
        fs::write(&segment, bytes).unwrap();
        lab.reopen().await;
        lab.repo.export(&first.digest, &lab.path("exported")).await.unwrap();
        assert_eq!(lab.import(&disk, "x").await.new_bytes, 0);
    }
}

#[tokio::test]
async fn an_index_of_another_version_is_built_again() {
    let mut lab = Lab::new().await;
    lab.import(&gpt_disk(&lab.path("disk"), 512, 1), "x").await;
    let segment = lab.files("index").remove(0);
    let whole = fs::read(&segment).unwrap();
    for version in [3, 5] {
        let mut other = whole.clone();
        other[8] = version;
        fs::remove_file(&segment).unwrap();
        // Where no new segment is written.
        fs::write(segment.with_file_name("other.idx"), other).unwrap();
        lab.reopen().await;
        assert_eq!(lab.files("index"), [segment.as_path()]);
        assert!(fs::read(&segment).unwrap() == whole, "{version}");
    }
}

#[tokio::test]
async fn an_index_that_lies_is_found() {
    let mut lab = Lab::new().await;
    let first = lab.import(&gpt_disk(&lab.path("disk"), 512, 1), "x").await;
    let segment = lab.files("index").remove(0);
    let whole = fs::read(&segment).unwrap();
    // Offset and lengths of an entry, its pack, the checksum.
    let entry = 32 + 32;
    for offset in [entry + 33, entry + 40, entry + 44, entry + 48, entry + 52, whole.len() - 1] {
        // Another inode: the old one is mapped.
        fs::remove_file(&segment).unwrap();
        let mut bytes = whole.clone();
        bytes[offset] ^= 1;
        fs::write(&segment, &bytes).unwrap();
        lab.reopen().await;
        let report = lab.repo.check(false).await.unwrap();
        let found = report.problems.iter().any(|problem| problem.file == key(&lab, &segment));
        assert!(found, "{offset}: {report:?}");
        // Either it is read from the right place or not at all.
        match lab.repo.export(&first.digest, &lab.path("exported")).await {
            Ok(_) => {
                let same =
                    fs::read(lab.path("exported")).unwrap() == fs::read(lab.path("disk")).unwrap();
                assert!(same, "{offset}");
                fs::remove_file(lab.path("exported")).unwrap();
            }
            Err(error) => assert!(matches!(error, ExportError::Read(_)), "{error:?}"),
        }
    }
    fs::remove_file(&segment).unwrap();
    lab.reopen().await;
    assert_eq!(lab.repo.check(true).await.unwrap().problems, []);
}

#[tokio::test]
async fn the_index_of_another_store_does_no_harm() {
    let (mut lab, other) = (Lab::new().await, Lab::new().await);
    let disk = sparse(&lab.path("disk"), 4 * MIB, &[(0, &noise(1, 1 << 20))]);
    other.import(&disk, "x").await;
    let segment = other.files("index").remove(0);
    fs::create_dir(lab.store().join("index")).unwrap();
    fs::copy(&segment, lab.store().join("index").join(segment.file_name().unwrap())).unwrap();
    lab.reopen().await;
    // It says that all chunks are there, in a pack that is not.
    let imported = lab.import(&disk, "x").await;
    assert!(imported.new_bytes > 0);
    lab.repo.export(&imported.digest, &lab.path("exported")).await.unwrap();
    lab.reopen().await;
    assert_eq!(lab.repo.check(true).await.unwrap().problems, []);
}

#[tokio::test]
async fn newer_stores_and_other_folders_are_refused() {
    let lab = Lab::new().await;
    let url = lab.store().display().to_string();
    let marker = lab.store().join("ingot-store.json");
    let text = fs::read_to_string(&marker).unwrap();
    fs::write(&marker, text.replace("ingot.store/1", "ingot.store/2")).unwrap();
    assert!(matches!(Repo::open(&url).await, Err(OpenError::Newer { .. })));
    fs::write(&marker, text.replace("fastcdc-2020", "other")).unwrap();
    assert!(matches!(Repo::open(&url).await, Err(OpenError::Newer { .. })));
    for bad in ["", "{}", r#"{"format":"ingot.image/1"}"#, r#"{"format":7}"#] {
        fs::write(&marker, bad).unwrap();
        assert!(matches!(Repo::open(&url).await, Err(OpenError::Marker { .. })), "{bad}");
    }
    fs::remove_file(&marker).unwrap();
    for open in [Repo::open(&url).await, Repo::open_or_create(&url).await] {
        assert!(matches!(open, Err(OpenError::NotAStore { .. })));
    }
    let missing = lab.path("missing").display().to_string();
    assert!(matches!(Repo::open(&missing).await, Err(OpenError::Absent { .. })));
    fs::create_dir(lab.path("empty")).unwrap();
    let empty = format!("file://{}", lab.path("empty").display());
    assert!(matches!(Repo::open(&empty).await, Err(OpenError::Absent { .. })));
    assert!(Repo::open_or_create(&empty).await.is_ok());
    assert!(matches!(Repo::open("s4://bucket/x").await, Err(OpenError::Url { .. })));
    assert!(matches!(Repo::open("s3://bucket/x").await, Err(OpenError::NoHome { .. })));
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    let lab = Lab::new().await;
    let url = lab.store().display().to_string();
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(lab.store().join("store.db"));
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'later', TRUE, X'00', 0)",
    )
    .execute(&pool)
    .await
    .unwrap();
    pool.close().await;
    assert!(matches!(Repo::open(&url).await, Err(OpenError::Newer { .. })));
}

#[tokio::test]
async fn a_store_that_lost_its_database_is_not_an_empty_one() {
    let lab = Lab::new().await;
    let url = lab.store().display().to_string();
    lab.import(&gpt_disk(&lab.path("disk"), 512, 1), "x").await;
    let database = lab.store().join("store.db");
    let folder = lab.store();
    drop(lab.repo);
    for gone in ["packs", "blobs"] {
        let (from, to) = (folder.join(gone), lab.folder.path().join(gone));
        fs::rename(&from, &to).unwrap();
        for lost in [None, Some(b"")] {
            for side in ["store.db", "store.db-wal", "store.db-shm"] {
                let _ = fs::remove_file(folder.join(side));
            }
            if let Some(bytes) = lost {
                fs::write(&database, bytes).unwrap();
            }
            for open in [Repo::open(&url).await, Repo::open_or_create(&url).await] {
                let Err(error) = open else { panic!("opened") };
                assert!(matches!(error, OpenError::NoDatabase { .. }), "{error:?}");
                let text = error.to_string();
                assert!(text.contains("store.db") && text.contains("restore"), "{text}");
            }
            let len = fs::metadata(&database).map(|meta| meta.len()).ok();
            assert_eq!(len, lost.map(|_| 0), "something was made");
        }
        fs::rename(&to, &from).unwrap();
    }
    // A store into which nothing was imported has nothing to lose.
    let new = tempfile::tempdir().unwrap();
    let url = new.path().display().to_string();
    drop(Repo::open_or_create(&url).await.unwrap());
    fs::remove_file(new.path().join("store.db")).unwrap();
    assert!(Repo::open(&url).await.is_ok());
}

#[tokio::test]
async fn packs_that_the_disk_does_not_give_do_not_shut_the_store() {
    let lab = Lab::new().await;
    let disk = gpt_disk(&lab.path("disk"), 512, 1);
    let digest = lab.import(&disk, "x").await.digest;
    for segment in lab.files("index") {
        fs::remove_file(segment).unwrap();
    }
    let plan = Plan::new(Fault::Unreadable, usize::MAX);
    let repo = Repo::open_storage(storage(&lab.store(), &plan)).await.unwrap();
    let report = repo.check(false).await.unwrap();
    let pack = key(&lab, &lab.files("packs").remove(0));
    let problem = report.problems.iter().find(|problem| problem.file == pack);
    assert!(problem.is_some(), "{report:?}");
    assert!(report.problems.iter().any(|problem| problem.images == [digest]), "{report:?}");
}

#[tokio::test]
async fn a_damaged_pack_may_be_removed_while_the_store_is_open() {
    for table_too in [false, true] {
        let lab = Lab::new().await;
        let disk = gpt_disk(&lab.path("disk"), 512, 1);
        let digest = lab.import(&disk, "x").await.digest;
        // Needs only chunks of the same pack that stay good.
        let half = lab.path("half");
        let bytes = fs::read(&disk).unwrap();
        fs::write(&half, &bytes[9 << 20..25 << 20]).unwrap();
        let other = lab.import(&half, "half").await.digest;
        let server = crate::common::open(&lab.store()).await;
        server.export(&digest, &lab.path("exported")).await.unwrap();
        crate::common::told(&server, &digest).await.unwrap();
        let pack = lab.files("packs").remove(0);
        flip(&pack, 64);
        if table_too {
            flip(&pack, fs::metadata(&pack).unwrap().len() as usize - 100);
        }
        let report = lab.repo.check(true).await.unwrap();
        let problem = report.problems.iter().find(|p| p.file == key(&lab, &pack)).unwrap();
        assert!(problem.advice.starts_with("`ingot check --repair`"), "{problem:?}");
        let mut both = [digest, other];
        both.sort_unstable();
        assert_eq!(problem.images, both, "{problem:?}");
        fs::remove_file(lab.store().join(&problem.file)).unwrap();
        // As the command does it: a process of its own.
        let command = crate::common::open(&lab.store()).await;
        let again = crate::common::import(&command, &disk, options("x")).await.unwrap();
        assert!(again.new_chunks > 0 && again.digest == digest);
        crate::common::import(&command, &half, options("half")).await.unwrap();
        for repo in [&server, &lab.repo, &command] {
            for (image, from) in [(digest, &disk), (other, &half)] {
                let exported = lab.path("exported");
                repo.export(&image, &exported).await.unwrap();
                assert!(fs::read(exported).unwrap() == fs::read(from).unwrap());
                crate::common::locations(repo, &image).await;
            }
            assert_eq!(repo.check(true).await.unwrap().problems, []);
        }
    }
}

#[tokio::test]
async fn answers_that_are_kept_never_name_a_pack_that_was_removed() {
    let lab = Lab::new().await;
    let disk = gpt_disk(&lab.path("disk"), 512, 1);
    let digest = lab.import(&disk, "x").await.digest;
    let first = crate::common::told(&lab.repo, &digest).await.unwrap();
    assert_eq!(crate::common::told(&lab.repo, &digest).await.unwrap().as_ptr(), first.as_ptr());
    fs::remove_file(lab.files("packs").remove(0)).unwrap();
    assert!(crate::common::told(&lab.repo, &digest).await.is_err());
    // With something before it, its chunks come into a pack of another name.
    let more = lab.path("more");
    let disk_bytes = fs::read(&disk).unwrap();
    fs::write(&more, [&noise(5, 1 << 20)[..], &disk_bytes[9 << 20..25 << 20]].concat()).unwrap();
    let command = crate::common::open(&lab.store()).await;
    crate::common::import(&command, &more, options("more")).await.unwrap();
    crate::common::import(&command, &disk, options("x")).await.unwrap();
    assert!(crate::common::told(&lab.repo, &digest).await.is_ok());
    lab.repo.export(&digest, &lab.path("exported")).await.unwrap();
    assert!(fs::read(lab.path("exported")).unwrap() == disk_bytes);
    // What the images need is there, so the removed pack is no loss.
    assert_eq!(lab.repo.check(true).await.unwrap().problems, []);
}

/// A number from a seed, below a limit.
fn dice(state: &mut u64, below: usize) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize % below
}

/// One of the store's files is damaged; returns what was done.
fn harm(files: &[std::path::PathBuf], state: &mut u64) -> String {
    let file = &files[dice(state, files.len())];
    let mut bytes = fs::read(file).unwrap();
    let at = dice(state, bytes.len().max(1));
    match dice(state, 8) {
        0 => fs::remove_file(file).unwrap(),
        1 => fs::write(file, &bytes[..at]).unwrap(),
        bit => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << bit;
            }
            fs::write(file, bytes).unwrap();
        }
    }
    format!("{} at byte {at}", file.display())
}

#[tokio::test]
async fn any_file_may_be_damaged_and_no_wrong_byte_comes_out() {
    let lab = Lab::new().await;
    let content = [noise(1, 90_000), crate::common::text(1, 300_000)].concat();
    let parts: &[(u64, &[u8])] = &[(0, &content), (2 * MIB, &noise(2, 40_000))];
    let disk = sparse(&lab.path("disk"), 3 * MIB, parts);
    let image = lab.import(&disk, "x").await;
    let (right, files) = (fs::read(&disk).unwrap(), lab.files(""));
    let (mut refused, mut read) = (0, 0);
    for seed in 0..120 {
        let copy = tempfile::tempdir().unwrap();
        let copies: Vec<_> = files
            .iter()
            .map(|file| {
                let to = copy.path().join(file.strip_prefix(lab.store()).unwrap());
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                fs::copy(file, &to).unwrap();
                to
            })
            .collect();
        let what = harm(&copies, &mut { seed });
        let Ok(repo) = Repo::open(copy.path().to_str().unwrap()).await else {
            refused += 1;
            continue;
        };
        let repo = std::sync::Arc::new(repo);
        let _ = repo.check(true).await;
        let _ = repo.images().await;
        if let Ok(found) = repo.resolve(&"x".parse().unwrap()).await {
            assert_eq!(found, image.digest, "{what}");
        }
        let to = copy.path().join("exported");
        match repo.export(&image.digest, &to).await {
            Ok(_) => {
                assert!(fs::read(&to).unwrap() == right, "{what}");
                read += 1;
            }
            Err(error) => {
                assert!(!to.exists() && !wire::chain(&error).is_empty(), "{what}");
                refused += 1;
            }
        }
    }
    assert!(refused > 20 && read > 20, "{refused} refused, {read} read");
}

//! Results of earlier builds, in a folder that may be deleted at any time.
//!
//! ```text
//! bases/KEY/    a root tree as mmdebstrap made it: tree.tar.zst, entry.json
//! trees/KEY/    a root tree after a step, likewise
//! images/KEY/   a disk: disk.raw, entry.json, passed-CHECK for each check it passed
//! debs/DISTRO/  downloaded packages, lists/DISTRO/ package lists
//! locks/        one file for each thing that only one build may touch
//! work/         folders of running builds
//! ```
//!
//! An entry appears by one rename when it is complete, so that a build killed at
//! any moment leaves none half. Two builds of the same key: the second waits for
//! the first and finds its result.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde::de::DeserializeOwned;
use wire::Digest;

/// An entry that no build has used for this long is deleted.
const UNUSED_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Name of the description in an entry's folder.
const ENTRY: &str = "entry.json";

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {} in the build cache", path.display())]
pub struct CacheError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// The cache folder.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    root: PathBuf,
}

/// The sorts of entries.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// Root trees that recipes start from.
    Base,
    /// Root trees after a step.
    Tree,
    /// Disk images.
    Image,
}

impl Kind {
    fn folder(self) -> &'static str {
        match self {
            Kind::Base => "bases",
            Kind::Tree => "trees",
            Kind::Image => "images",
        }
    }
}

/// Keeps others from what it was taken for, until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "holding the file is the lock")] File);

/// A folder of one running build, deleted when the build ends, or by the next
/// build where this one was killed.
#[derive(Debug)]
pub(crate) struct Work {
    /// The folder.
    pub path: PathBuf,
    lock: (PathBuf, Lock),
}

impl Cache {
    /// Opens the cache, made where it is missing.
    pub fn open(root: &Path) -> Result<Cache, CacheError> {
        fs::create_dir_all(root).map_err(at("create", root))?;
        let root = root.canonicalize().map_err(at("open", root))?;
        let cache = Cache { root };
        for name in ["bases", "trees", "images", "debs", "lists", "locks", "work"] {
            cache.folder(name)?;
        }
        Ok(cache)
    }

    /// A folder below the cache, made where it is missing.
    pub fn folder(&self, name: &str) -> Result<PathBuf, CacheError> {
        let path = self.root.join(name);
        fs::create_dir_all(&path).map_err(at("create", &path))?;
        Ok(path)
    }

    /// Where the entry of a key is, or will be.
    pub fn entry_path(&self, kind: Kind, key: &Digest) -> PathBuf {
        self.root.join(kind.folder()).join(key.hex())
    }

    /// The description of an entry, if there is one that this version can read
    /// and that is not older than `age_max`. Marks it as used.
    pub fn find<T: DeserializeOwned>(
        &self,
        kind: Kind,
        key: &Digest,
        age_max: Option<Duration>,
    ) -> Option<T> {
        let path = self.entry_path(kind, key).join(ENTRY);
        let stored: Stored<T> = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        let created = UNIX_EPOCH + Duration::from_secs(stored.created_secs);
        let age = SystemTime::now().duration_since(created).unwrap_or_default();
        if age_max.is_some_and(|max| age > max) {
            return None;
        }
        // Only keeps the entry from being deleted as unused.
        let _ = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(stored.entry)
    }

    /// Makes `folder`, with what the entry consists of, the entry of `key`. The
    /// caller holds the lock of the key.
    pub fn store<T: Serialize>(
        &self,
        kind: Kind,
        key: &Digest,
        folder: &Path,
        entry: &T,
    ) -> Result<PathBuf, CacheError> {
        let created_secs =
            SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let description = serde_json::to_vec_pretty(&Stored { created_secs, entry })
            .map_err(|error| at("write", folder)(error.into()))?;
        let path = folder.join(ENTRY);
        fs::write(&path, description).map_err(at("write", &path))?;
        for file in fs::read_dir(folder).map_err(at("read", folder))? {
            let path = file.map_err(at("read", folder))?.path();
            File::open(&path).and_then(|file| file.sync_all()).map_err(at("write", &path))?;
        }
        let path = self.entry_path(kind, key);
        let _unread = self.lock(&lease_name(kind, &key.hex()), &mut |_| ())?;
        remove(&path)?;
        fs::rename(folder, &path).map_err(at("create", &path))?;
        Ok(path)
    }

    /// Waits until nobody else holds `name`, telling so where it takes time.
    pub fn lock(&self, name: &str, log: &mut dyn FnMut(&str)) -> Result<Lock, CacheError> {
        let path = self.root.join("locks").join(name);
        let file = lock_file(&path)?;
        if file.try_lock().is_err() {
            log("waiting for another build that makes the same thing");
            file.lock().map_err(at("lock", &path))?;
        }
        Ok(Lock(file))
    }

    /// Keeps an entry from being replaced or deleted while it is read.
    pub fn lease(&self, kind: Kind, key: &Digest) -> Result<Lock, CacheError> {
        let path = self.root.join("locks").join(lease_name(kind, &key.hex()));
        let file = lock_file(&path)?;
        file.lock_shared().map_err(at("lock", &path))?;
        Ok(Lock(file))
    }

    /// The lock of an entry, to make it. Those who read the entry do not hold
    /// it: who waited for the maker finds the entry, however long that is used.
    pub fn lock_entry(
        &self,
        kind: Kind,
        key: &Digest,
        log: &mut dyn FnMut(&str),
    ) -> Result<Lock, CacheError> {
        self.lock(&format!("make-{}-{}", kind.folder(), key.hex()), log)
    }

    /// A folder for one build; removes those of builds that were killed.
    pub fn work(&self) -> Result<Work, CacheError> {
        let _making = self.lock("work", &mut |_| ())?;
        let folder = self.root.join("work");
        for entry in fs::read_dir(&folder).map_err(at("read", &folder))? {
            let path = entry.map_err(at("read", &folder))?.path();
            if path.extension().is_some_and(|name| name == "lock")
                && lock_file(&path)?.try_lock().is_ok()
            {
                remove(&path.with_extension(""))?;
                fs::remove_file(&path).map_err(at("remove", &path))?;
            }
        }
        // apt's own user must be able to enter, so the folder is not private.
        let path = (0u64..)
            .map(|i| folder.join(format!("{}-{i}", std::process::id())))
            .find(|path| !path.exists() && !path.with_extension("lock").exists())
            .unwrap_or(folder);
        let lock_path = path.with_extension("lock");
        let file = lock_file(&lock_path)?;
        file.lock().map_err(at("lock", &lock_path))?;
        fs::create_dir(&path).map_err(at("create", &path))?;
        Ok(Work { path, lock: (lock_path, Lock(file)) })
    }

    /// Deletes what no build has used for a month; failures only cost space.
    pub fn prune(&self, now: SystemTime) {
        for kind in [Kind::Base, Kind::Tree, Kind::Image] {
            let Ok(entries) = fs::read_dir(self.root.join(kind.folder())) else { continue };
            for path in entries.flatten().map(|entry| entry.path()) {
                let used = fs::metadata(path.join(ENTRY)).and_then(|entry| entry.modified());
                let unused = used.map(|used| now.duration_since(used).unwrap_or_default());
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let lock = lock_file(&self.root.join("locks").join(lease_name(kind, &name)));
                if unused.is_ok_and(|unused| unused > UNUSED_MAX)
                    && lock.is_ok_and(|lock| lock.try_lock().is_ok())
                {
                    let _ = remove(&path);
                }
            }
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // What stays is removed by the next build.
        let _ = fs::remove_dir_all(&self.path).and_then(|()| fs::remove_file(&self.lock.0));
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Stored<T> {
    created_secs: u64,
    entry: T,
}

/// The lock that readers of an entry share.
fn lease_name(kind: Kind, key: &str) -> String {
    format!("{}-{key}", kind.folder())
}

fn lock_file(path: &Path) -> Result<File, CacheError> {
    File::options().create(true).truncate(false).write(true).open(path).map_err(at("create", path))
}

/// Removes a folder with everything in it, if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), CacheError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(at("remove", path)(error))
        }
        _ => Ok(()),
    }
}

pub(crate) fn at(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(std::io::Error) -> CacheError + use<> {
    let path = path.to_owned();
    move |source| CacheError { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(&dir.path().join("cache")).unwrap();
        (dir, cache)
    }

    #[test]
    fn an_entry_is_found_until_it_is_too_old_and_can_be_replaced() {
        let (_dir, cache) = cache();
        let key = Digest([1; 32]);
        assert_eq!(cache.find::<String>(Kind::Tree, &key, None), None);
        for text in ["one", "two"] {
            let work = cache.work().unwrap();
            let folder = work.path.join("entry");
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("data"), text).unwrap();
            cache.store(Kind::Tree, &key, &folder, &text).unwrap();
            assert_eq!(cache.find::<String>(Kind::Tree, &key, None).as_deref(), Some(text));
            let data = cache.entry_path(Kind::Tree, &key).join("data");
            assert_eq!(fs::read_to_string(data).unwrap(), text);
        }
        let path = cache.entry_path(Kind::Tree, &key).join(ENTRY);
        fs::write(&path, r#"{"created_secs":1000,"entry":"two"}"#).unwrap();
        let hour = Some(Duration::from_secs(3600));
        assert_eq!(cache.find::<String>(Kind::Tree, &key, hour), None);
        assert_eq!(cache.find::<String>(Kind::Tree, &key, None).as_deref(), Some("two"));
        fs::write(&path, "{").unwrap();
        assert_eq!(cache.find::<String>(Kind::Tree, &key, None), None);
    }

    #[test]
    fn the_folder_of_a_killed_build_is_removed_by_the_next_one() {
        let (_dir, cache) = cache();
        let killed = cache.root.join("work/1-0");
        fs::create_dir(&killed).unwrap();
        fs::write(killed.with_extension("lock"), "").unwrap();
        let first = cache.work().unwrap();
        assert!(!killed.exists());
        let second = cache.work().unwrap();
        assert!(first.path.exists() && first.path != second.path);
        let path = first.path.clone();
        drop(first);
        assert!(!path.exists() && !path.with_extension("lock").exists());
    }

    #[test]
    fn who_waited_for_the_maker_does_not_wait_for_the_readers() {
        let (_dir, cache) = cache();
        let key = Digest([1; 32]);
        let _reader = cache.lease(Kind::Image, &key).unwrap();
        cache.lock_entry(Kind::Image, &key, &mut |line| panic!("{line}")).unwrap();
    }

    #[test]
    fn only_entries_that_nobody_used_for_long_are_pruned() {
        let (_dir, cache) = cache();
        for byte in [1, 2] {
            let folder = cache.work().unwrap().path.with_extension("entry");
            fs::create_dir(&folder).unwrap();
            cache.store(Kind::Image, &Digest([byte; 32]), &folder, &byte).unwrap();
        }
        let held = cache.lease(Kind::Image, &Digest([2; 32])).unwrap();
        let now = SystemTime::now();
        cache.prune(now);
        assert_eq!(cache.find::<u8>(Kind::Image, &Digest([1; 32]), None), Some(1));
        cache.prune(now + UNUSED_MAX * 2);
        assert_eq!(cache.find::<u8>(Kind::Image, &Digest([1; 32]), None), None);
        assert_eq!(cache.find::<u8>(Kind::Image, &Digest([2; 32]), None), Some(2));
        drop(held);
    }
}

//! Files that are expensive to make, made once.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The folder that cargo builds into: `CARGO_TARGET_DIR`, else `target/` of the workspace, which
/// is two folders above this crate.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
            workspace.unwrap_or(Path::new(".")).join("target")
        }
    }
}

/// The file or folder named `key`, made by `build` if no process has made it yet.
///
/// `build` gets a path that does not exist and creates a file or a folder there; it is
/// renamed into place at the end, so a failed build leaves nothing. Processes that
/// ask for the same key at once wait for one of them to build it. The key names
/// everything that the content depends on; it holds letters, digits, `.`, `_` and `-`.
pub fn cached(key: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    cached_in(&target_dir().join("rig/cache"), key, build)
}

fn cached_in(dir: &Path, key: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    ensure!(
        !key.is_empty() && key.len() <= 200 && !key.starts_with('.') && key.bytes().all(plain),
        "{key:?} is not a cache key: use at most 200 letters, digits, '.', '_' and '-'"
    );
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let place = dir.join(key);
    let lock_path = dir.join(format!(".{key}.lock"));
    let lock = File::create(&lock_path).with_context(|| lock_path.display().to_string())?;
    lock.lock().with_context(|| format!("lock {}", lock_path.display()))?;
    if place.exists() {
        return Ok(place);
    }
    let unfinished = dir.join(format!(".{key}.unfinished"));
    remove(&unfinished)?;
    if let Err(error) = build(&unfinished) {
        remove(&unfinished)?;
        return Err(error.context(format!("build {key}")));
    }
    fs::rename(&unfinished, &place)
        .with_context(|| format!("{key}: the build left nothing at {}", unfinished.display()))?;
    Ok(place)
}

fn remove(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    }
    .with_context(|| format!("remove {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn builds_once_and_forgets_failures() {
        let dir = tempfile::tempdir().unwrap();
        let failed = cached_in(dir.path(), "a", |path| {
            fs::write(path, "half")?;
            anyhow::bail!("no space")
        });
        assert!(format!("{:#}", failed.unwrap_err()).contains("no space"));
        let made = cached_in(dir.path(), "a", |path| Ok(fs::write(path, "whole")?)).unwrap();
        assert_eq!(fs::read_to_string(&made).unwrap(), "whole");
        cached_in(dir.path(), "a", |_| panic!("built twice")).unwrap();
        assert!(cached_in(dir.path(), "../a", |_| Ok(())).is_err());
    }

    /// The other process of `two_processes_build_once`: appends one line per build.
    #[test]
    fn child_that_builds() {
        let Some(dir) = std::env::var_os("RIG_TEST_CACHE_DIR").map(PathBuf::from) else { return };
        let place = cached_in(&dir, "shared", |path| {
            let count = fs::read_dir(&dir)?.filter(|e| {
                e.as_ref().is_ok_and(|e| e.file_name().to_string_lossy().starts_with("built-"))
            });
            fs::write(dir.join(format!("built-{}", count.count())), "")?;
            fs::create_dir(path)?;
            Ok(fs::write(path.join("file"), "content")?)
        });
        assert!(place.unwrap().join("file").exists());
    }

    #[test]
    fn two_processes_build_once() {
        let dir = tempfile::tempdir().unwrap();
        let child = || {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "cache::tests::child_that_builds"])
                .env("RIG_TEST_CACHE_DIR", dir.path())
                .spawn()
                .unwrap()
        };
        let children = [child(), child(), child()];
        for mut child in children {
            assert!(child.wait().unwrap().success());
        }
        assert!(dir.path().join("shared/file").exists());
        assert!(dir.path().join("built-0").exists());
        assert!(!dir.path().join("built-1").exists());
    }
}
